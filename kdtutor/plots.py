"""Every matplotlib figure of the course, each with one sentence that says what it shows.

    distributions(teacher_probs, student_probs, task.labels)  # a cell's last line: picture and sentence
    picture = learning_curves({"student": run.history})
    picture.alt                                               # the sentence, computed from what was drawn
    picture.savefig("curves.png")                             # a matplotlib Figure like any other

Teacher and student keep their colour, hatching and marker throughout. The colours are Okabe and Ito's, which
colour-blind readers tell apart, and nothing is told by colour alone. Probabilities and scores are fractions from 0
to 1.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import wraps
from io import BytesIO
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

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
STYLE = {
    "font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#dddddd",
    "hatch.linewidth": 1.0, "lines.linewidth": 2.2, "lines.markersize": 7, "lines.markeredgecolor": INK,
    "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 100,
    "text.parse_math": False,  # a dollar sign in somebody's text is a dollar sign
}  # fmt: skip


class Picture(Figure):
    """A Figure with `alt`, a sentence that says what it shows: the image's alt text, and printed below it."""

    alt: str = ""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        png, (width, height) = BytesIO(), self.get_size_inches() * 100
        self.savefig(png, format="png", dpi=160, metadata={"Software": None})
        size = {"width": round(width), "height": round(height)}
        data = {
            "image/png": png.getvalue(),
            "text/plain": "<a picture; the sentence below says what it shows>",
        }
        display(data, raw=True, metadata={"image/png": {"alt": self.alt, **size}})
        print(textwrap.fill(self.alt, 100))


def _styled(draw):
    """Draw in the course's style, whatever the reader's own settings are, and leave those alone."""

    @wraps(draw)
    def styled(*args, **kwargs) -> Picture:
        defaults = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
        with mpl.rc_context(defaults | STYLE):
            return draw(*args, **kwargs)

    return styled


# ---------------------------------------------------------------------------------------------- probabilities


@_styled
def distributions(
    teacher_probs, student_probs, class_names: Sequence[str],
    top: int = 8, title: str = "", label: str | None = None,
) -> Picture:  # fmt: skip
    """Teacher's and student's probabilities over the classes: both (C,); the student's may be None.

    The `top` classes that either of them finds likeliest are drawn. title: the text that was classified, say.
    label: the true class, marked with a star. Raises KDTutorError if what is given are not probabilities.
    """
    rows = {"teacher": (_vector(teacher_probs), TEACHER)}
    if student_probs is not None:
        rows["student"] = (_vector(student_probs), STUDENT)
    for name, (p, _) in rows.items():
        if len(p) != len(class_names) or p.min() < 0 or abs(p.sum() - 1) > 0.01:
            what = f"{len(p)} numbers from {p.min():.3g} with the sum {p.sum():.3g}"
            raise KDTutorError(f"the {name}'s are not probabilities of {len(class_names)} classes: {what}")
    likeliest = np.max([p for p, _ in rows.values()], axis=0)
    shown = np.argsort(-likeliest, kind="stable")[:top]
    picture, axes = _canvas(7.2, 1.3 + 0.24 * len(shown) * len(rows))
    names = [f"★ {class_names[i]}" if class_names[i] == label else class_names[i] for i in shown]
    drawn = {name: (p[shown], look) for name, (p, look) in rows.items()}
    _grouped_bars(axes, drawn, names, lambda v: _percent(v, 1))
    axes.set(xlim=(0, min(1.12, 1.15 * likeliest.max())), xlabel="probability")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _title(axes, title)
    said = [f"the {name}'s are {_ranking(p, class_names)}" for name, (p, _) in rows.items()]
    truth = f"; the true class is {label}" if label else ""
    return _say(picture, f"Probabilities of the likeliest classes: {'; '.join(said)}{truth}.")


@_styled
def temperature_curves(
    logits, class_names: Sequence[str], temperatures: Sequence[float] | None = None, top: int = 5
) -> Picture:
    """How softmax(logits / T) of the `top` classes, and its entropy, change with T: logits (C,)."""
    z = _vector(logits)
    t = np.geomspace(0.25, 20, 80) if temperatures is None else np.asarray(temperatures, float)
    scaled = z / t[:, None]
    p = np.exp(scaled - scaled.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)  # (len(t), C)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    picture, (left, right) = _canvas(8.4, 3.8, columns=2)
    for i, c in enumerate(np.argsort(-z, kind="stable")[:top]):
        _curve(left, t, p[:, c], (TEACHER, *OTHERS)[i % 6], class_names[c])
    _curve(right, t, entropy, TEACHER, None)
    right.axhline(np.log(len(z)), color=INK, linestyle=":")
    right.annotate(f"uniform: log {len(z)}", (t[0], np.log(len(z))), (0, -15), textcoords="offset points")
    left.set(ylabel="probability", ylim=(0, 1.02))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    right.set(ylabel="entropy in nats", ylim=(0, 1.08 * np.log(len(z))))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="temperature T")
        ticks = [tick for tick in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if t[0] <= tick <= t[-1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid()
    left.legend()
    favourite = int(z.argmax())
    return _say(
        picture,
        f"As T rises from {t[0]:g} to {t[-1]:g}, the probability of {class_names[favourite]} goes from "
        f"{_percent(p[0, favourite])} to {_percent(p[-1, favourite])}, and the entropy from {entropy[0]:.2f} "
        f"to {entropy[-1]:.2f} nats, of at most {np.log(len(z)):.2f}.",
    )


@_styled
def gradients(
    vectors: Mapping[str, Sequence[float]], class_names: Sequence[str], top: int = 6, title: str = ""
) -> Picture:
    """How several objectives pull on the student's logits: for each one its gradient (C,), of one example.

    The `top` classes with the largest gradients are drawn. Gradient descent raises a logit whose gradient is
    negative.
    """
    rows = {name: (_vector(v), _look(name, i)) for i, (name, v) in enumerate(vectors.items())}
    strongest = np.max([np.abs(v) / (np.abs(v).max() or 1) for v, _ in rows.values()], axis=0)
    shown = np.argsort(-strongest, kind="stable")[:top]
    picture, axes = _canvas(7.6, 1.5 + 0.24 * len(shown) * len(rows))
    drawn = {name: (v[shown], look) for name, (v, look) in rows.items()}
    _grouped_bars(axes, drawn, [class_names[i] for i in shown], _signed)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(
        "gradient with respect to the student's logit\n← the step raises it      the step lowers it →"
    )
    _title(axes, title)
    axes.margins(x=0.14)
    said = [
        f"{name} raises {class_names[v.argmin()]} most ({_signed(v.min())}) and lowers "
        f"{class_names[v.argmax()]} most ({_signed(v.max())})"
        for name, (v, _) in rows.items()
    ]
    return _say(picture, f"Gradients over the classes: {'; '.join(said)}.")


# ---------------------------------------------------------------------------------------------- training


@_styled
def learning_curves(
    series: Mapping[str, Sequence], value: str = "loss", xlabel: str = "step", ylabel: str | None = None
) -> Picture:
    """Curves over training. Each is (x, y) pairs, or a `Distillation.history`, whose `value` is drawn.

    A history has a point for every step: drawn pale, with the mean over a twentieth of the steps on top.
    """
    picture, axes = _canvas(7.2, 3.8)
    ends = {}
    for i, (name, rows) in enumerate(series.items()):
        look = _look(name, i)
        is_history = isinstance(rows[0], Mapping)
        x, y = np.array([(r["step"], r[value]) if is_history else r for r in rows], float).T
        if is_history and len(y) >= 40:
            axes.plot(x, y, color=look.colour, linewidth=0.8, alpha=0.25)
            window = len(y) // 20
            y = np.convolve(y, np.ones(window) / window, "valid")
            x = x[window - 1 :]
        _curve(axes, x, y, look, name)
        ends[name] = y[0], y[-1]
    axes.set(xlabel=xlabel, ylabel=ylabel or value)
    axes.grid()
    axes.legend()
    said = [f"{name} goes from {first:.3g} to {last:.3g}" for name, (first, last) in ends.items()]
    return _say(picture, f"{(ylabel or value).capitalize()} by {xlabel}: {'; '.join(said)}.")


# ---------------------------------------------------------------------------------------------- results


@_styled
def scores_with_intervals(
    results: Mapping[str, Sequence[float]],
    xlabel: str = "test accuracy", reference: tuple[str, float] | None = None,
) -> Picture:  # fmt: skip
    """Each method's scores, one a seed: small circles, and their mean with its 95 % interval (Student's t).

    reference: a name and a score drawn as a line, such as the teacher's.
    """
    from kdtutor.evaluation import mean_and_interval

    intervals = {name: mean_and_interval(scores) for name, scores in results.items()}
    picture, axes = _canvas(7.6, 1.3 + 0.44 * len(results))
    for row, (name, scores) in enumerate(results.items()):
        found, look = intervals[name], _look(name, row)
        axes.plot(scores, [row + 0.22] * len(scores), "o", markersize=4.5, markerfacecolor="white")
        width = found.half_width if found.n > 1 else None
        axes.errorbar(
            found.mean, row, xerr=width, marker=look.marker, color=look.colour, ecolor=INK, capsize=4
        )
        axes.annotate(
            _percent(found.mean, 1), (found.mean, row), (0, 9), textcoords="offset points", ha="center"
        )
    if reference:
        axes.axvline(reference[1], color=TEACHER.colour, linestyle="--")
        axes.annotate(
            f"{reference[0]} {_percent(reference[1], 1)} ", (reference[1], -0.6), ha="right", va="center"
        )
    axes.set(yticks=range(len(results)), yticklabels=results, ylim=(len(results) - 0.4, -0.85), xlabel=xlabel)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.grid(axis="x")
    said = [
        f"{name} {_percent(i.mean, 1)}" + (f" ± {100 * i.half_width:.1f}" if i.n > 1 else " (one seed)")
        for name, i in intervals.items()
    ]
    line = f"; {reference[0]}: {_percent(reference[1], 1)}" if reference else ""
    seeds = sorted({i.n for i in intervals.values()})
    over = f"{' to '.join(map(str, {seeds[0]: 0, seeds[-1]: 0}))} seeds" if seeds[-1] > 1 else "one seed"
    return _say(picture, f"Mean {xlabel} over {over}, with 95{NBSP}% intervals: {'; '.join(said)}{line}.")


@_styled
def comparison(evaluations: Mapping[str, object]) -> Picture:
    """Size, time for one text, and accuracy of models, from `evaluate`: what distillation buys, in a picture.

    The sentence compares every other model with the first.
    """
    panels = (
        ("parameters", "millions", "M", lambda e: e.parameters / 1e6),
        ("time for one text", "milliseconds", "ms", lambda e: e.latency_ms),
        ("accuracy", "per cent", "%", lambda e: 100 * e.score),
    )
    picture, all_axes = _canvas(9.6, 1.4 + 0.5 * len(evaluations), columns=3, sharey=True)
    for axes, (title, unit, short, value) in zip(all_axes, panels, strict=True):
        values = [value(e) for e in evaluations.values()]
        for row, (name, v) in enumerate(zip(evaluations, values, strict=True)):
            look = _look(name, row)
            axes.barh(row, v, 0.62, color=look.colour, hatch=look.hatch, edgecolor=INK)
            axes.annotate(f"{v:.1f} {short}", (v, row), (4, 0), textcoords="offset points", va="center")
        axes.set(title=title, xlabel=unit, xlim=(0, 1.38 * max(values)))
        axes.tick_params(axis="y", length=0)
    axes.set(yticks=range(len(evaluations)), yticklabels=evaluations, ylim=(len(evaluations) - 0.5, -0.5))
    (first, base), *rest = evaluations.items()
    said = [
        f"{name} has {base.parameters / e.parameters:.1f} times fewer parameters, needs "
        f"{_percent(e.latency_ms / base.latency_ms)} of the time and reaches {_percent(e.score, 1)}"
        for name, e in rest
    ]
    return _say(picture, f"Beside {first} ({_percent(base.score, 1)} accuracy), {'; '.join(said)}.")


@_styled
def size_accuracy(evaluations: Mapping[str, object]) -> Picture:
    """Each model by its parameters (log scale) and its score, from `evaluate`; latency too if measured."""
    picture, axes = _canvas(7.2, 4.0)
    for i, (name, e) in enumerate(evaluations.items()):
        look = _look(name, i)
        axes.plot(e.parameters, e.score, look.marker, color=look.colour, markersize=11)
        speed = f"\n{e.latency_ms:.1f} ms a text" if e.latency_ms else ""
        axes.annotate(name + speed, (e.parameters, e.score), (10, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="parameters", ylabel="score")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1e6:g} M"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v / 1e6:g}" if f"{v:e}"[0] in "25" else ""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.margins(x=0.35, y=0.15)
    axes.grid()
    said = [f"{name} {e.parameters / 1e6:.1f} M, {_percent(e.score, 1)}" for name, e in evaluations.items()]
    return _say(picture, f"Parameters and score of {len(said)} models: {'; '.join(said)}.")


# ---------------------------------------------------------------------------------------------- small helpers

NBSP = "\u00a0"  # keeps a number and its unit on one line


def _canvas(width: float, height: float, columns: int = 1, **options):
    picture = Picture(figsize=(width, height), layout="constrained")
    return picture, picture.subplots(1, columns, **options)


def _say(picture: Picture, sentence: str) -> Picture:
    picture.alt = sentence
    return picture


def _look(name: str, position: int) -> Look:
    """Teacher and student by the first word of their name; anything else by its place in the figure."""
    known = {"teacher": TEACHER, "student": STUDENT}
    return known.get(name.lower().partition(" ")[0].rstrip(",:"), OTHERS[position % len(OTHERS)])


def _vector(values) -> np.ndarray:
    """A tensor (on any device, with or without a gradient), array or list, as float64 (C,)."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, float).reshape(-1)


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f}{NBSP}%"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _ranking(p: np.ndarray, class_names: Sequence[str], n: int = 3) -> str:
    """'animal 62 %, food 20 % and plant 9 %'."""
    *most, last = [f"{class_names[i]} {_percent(p[i])}" for i in np.argsort(-p, kind="stable")[:n]]
    return f"{', '.join(most)} and {last}" if most else last


def _curve(axes, x, y, look: Look, label: str | None) -> None:
    """A line that is told apart by its dashes and its eight or so markers, not by its colour alone."""
    every = max(1, len(x) // 8)
    axes.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, markevery=every, label=label)


def _title(axes, text: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(textwrap.shorten(text, 200, placeholder=" …"), 68)), loc="left")


def _grouped_bars(axes, rows: Mapping[str, tuple[np.ndarray, Look]], names: Sequence[str], text) -> None:
    """Horizontal bars: a group for each name, in it a bar for each row, with its value at its end."""
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
