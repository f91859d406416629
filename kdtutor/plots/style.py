"""The course's look: colours, markers, hatching, and the pieces that every picture is made of."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from html import escape
from io import BytesIO
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kdtutor.errors import KDTutorError

INK = "#1a1a1a"  # text, axes and outlines: 17:1 on white


class Look(NamedTuple):
    colour: str
    marker: str
    line: str
    hatch: str


TEACHER = Look("#0072B2", "s", "-", "")
STUDENT = Look("#D55E00", "o", "--", "///")
OTHERS = (
    Look("#009E73", "^", "-.", "..."),
    Look("#666666", "D", ":", "xxx"),  # for their black, on which no outline or hatching would show
    Look("#CC79A7", "v", (0, (5, 1)), "\\\\\\"),
    Look("#E69F00", "P", (0, (3, 1, 1, 1, 1, 1)), "|||"),
    Look("#56B4E9", "X", (0, (1, 1)), "---"),
)
TWIN = OTHERS[3]  # the same student without a teacher
MODELS = {"teacher": TEACHER, "student": STUDENT, "twin": TWIN}
TERMS = {"soft": OTHERS[0], "hard": OTHERS[1], "label": OTHERS[2]}  # as in "label smoothing"
# What learned by a term, and is told apart from a second of its kind: "distilled student", "smoothed student".
LEARNED = TERMS | {"distilled": STUDENT, "smoothed": OTHERS[2]}
STYLE = {
    "font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#dddddd",
    "hatch.linewidth": 1.0, "lines.linewidth": 2.2, "lines.markersize": 7, "lines.markeredgecolor": INK,
    "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 100,
    "text.parse_math": False,  # a dollar sign in somebody's text is a dollar sign
}  # fmt: skip


#: Figures are drawn on white. In the dark themes of JupyterLab, Colab and VS Code light and dark change places, hues
#: stay; each figure brings that with it. Ours are known by their width, since JupyterLab leaves out their alt text.
IN_THE_DARK = (
    '@media screen { :is(body[data-jp-theme-light="false"] .jp-RenderedImage, [theme="dark"], .vscode-dark) img[width] '
    "{ filter: invert(.9) hue-rotate(180deg); } }"
)


class Picture(Figure):
    """A Figure with `alt`, a sentence that says what it shows: the image's alt text, and written below it."""

    alt: str = ""

    def png(self) -> tuple[bytes, dict]:
        """Draw the image: its bytes, and the alt text and size that Jupyter stores beside it."""
        file, (width, height) = BytesIO(), self.get_size_inches() * 100
        self.savefig(file, format="png", dpi=160, metadata={"Software": None})
        return file.getvalue(), {"alt": self.alt, "width": round(width), "height": round(height)}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        png, metadata = self.png()
        data = {"image/png": png, "text/plain": "<a picture; the sentence below says what it shows>"}
        display(data, raw=True, metadata={"image/png": metadata})
        caption = f'<p class="kd-caption" style="max-width:56em">{escape(self.alt)}</p>'
        below = {
            "text/html": f"<style>{IN_THE_DARK}</style>{caption}",
            "text/plain": textwrap.fill(self.alt, 100),
        }
        display(below, raw=True)


def styled(draw):
    """Draw in the course's style, whatever the reader's own settings are, and leave those alone."""

    @wraps(draw)
    def styled(*args, **kwargs) -> Picture:
        defaults = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
        with mpl.rc_context(defaults | STYLE):
            return draw(*args, **kwargs)

    return styled


NBSP = "\u00a0"  # keeps a number and its unit on one line


def canvas(width: float, height: float, columns: int = 1, **options):
    picture = Picture(figsize=(width, height), layout="constrained")
    return picture, picture.subplots(1, columns, **options)


def describe(picture: Picture, sentence: str) -> Picture:
    picture.alt = sentence
    return picture


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Give each name of a figure its look: a known one in every figure by its first word, any other what is left.

    A second "soft targets" is told apart from the first; teachers and students look like what they are.
    """
    first_words = {name: re.match(r"\w*", name.lower()).group() for name in names}
    looks = {name: MODELS[word] for name, word in first_words.items() if word in MODELS}
    for name, word in first_words.items():
        if word in LEARNED and LEARNED[word] not in looks.values():
            looks[name] = LEARNED[word]
    left = itertools.cycle([look for look in OTHERS if look not in looks.values()] or OTHERS)
    return {name: looks.get(name) or next(left) for name in first_words}


def as_vector(values) -> np.ndarray:
    """Convert a tensor, array or list to float64 (C,)."""
    return as_array(values).reshape(-1)


def as_array(values) -> np.ndarray:
    """Convert a tensor (on any device, with or without a gradient), array or list to float64."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, float)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def as_grid(values, rows: int, columns: int, name: str) -> np.ndarray:
    grid = as_array(values)
    if grid.shape != (rows, columns):
        raise KDTutorError(
            f"{name} has the shape {grid.shape}, but there are {rows} queries and {columns} keys"
        )
    return grid


def draw_heatmap(axes, grid: np.ndarray, highest: float, rows, columns, numbers: bool = False):
    """Draw a grid of colours: white is 0 and dark blue `highest`. numbers: each cell's per cent as well."""
    drawn = axes.imshow(grid, cmap="Blues", vmin=0, vmax=highest or 1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(grid) if numbers else ():
        ink = "white" if value > 0.6 * highest else INK
        axes.annotate(f"{100 * value:.0f}", (column, row), ha="center", va="center", fontsize=10, color=ink)
    return drawn


def percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f}{NBSP}%"


def signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if float(text[1:]) == 0 else text


def ranking(p: np.ndarray, class_names: Sequence[str], n: int = 3) -> str:
    """List the likeliest classes: 'animal 62 %, food 20 % and plant 9 %'."""
    *most, last = [f"{class_names[i]} {percent(p[i])}" for i in np.argsort(-p, kind="stable")[:n]]
    return f"{', '.join(most)} and {last}" if most else last


def draw_curve(axes, x, y, look: Look, label: str | None, markers: int = 8) -> None:
    """Draw a line that is told apart by its dashes and its eight or so markers, not by its colour alone."""
    every = max(1, len(x) // markers)
    axes.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, markevery=every, label=label)


def in_percent(axis, digits: int | None = 0) -> None:
    """Write an axis's fractions in per cent; digits: None for as many as its ticks need."""
    axis.set_major_formatter(PercentFormatter(1, digits, f"{NBSP}%"))


def set_title(axes, text: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(textwrap.shorten(text, 200, placeholder=" …"), 68)), loc="left")


def draw_grouped_bars(axes, rows: Mapping[str, tuple[np.ndarray, Look]], names: Sequence[str], text) -> None:
    """Draw horizontal bars: a group for each name, in it a bar for each row, with its value at its end."""
    height = 0.8 / len(rows)
    for i, (label, (values, look)) in enumerate(rows.items()):
        y = np.arange(len(names)) + (i - (len(rows) - 1) / 2) * height
        axes.barh(
            y, values, height, color=look.colour, hatch=look.hatch, edgecolor=INK, linewidth=0.8, label=label
        )
        for value, place in zip(values, y, strict=True):
            side = -1 if value < 0 else 1
            axes.annotate(
                text(value), (value, place), (4 * side, 0), textcoords="offset points", va="center",
                ha="left" if side > 0 else "right", fontsize=10,
            )  # fmt: skip
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="best")
