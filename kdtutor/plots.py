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

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from functools import wraps
from io import BytesIO
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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
    p = _softmax(z / t[:, None])  # (len(t), C)
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
def temperature_and_alpha(
    probabilities: Mapping[str, Sequence[float]], pulls: Mapping[str, Sequence[float]], class_names: Sequence[str],
    shown: Sequence[int], title: str = "", setting: str = "", label: int | None = None,
) -> Picture:  # fmt: skip
    """The temperature explorer at one setting: distributions and, beside them, what each term of the loss pulls with.

    probabilities: "teacher" and "student", (C,) each. pulls: gradients of the weighted terms "hard" and "soft" with
    respect to the student's logits, (C,) each. shown: the classes to draw, in order; the others are added up. label: a
    class, or None. The caller says in `alt` what is seen.
    """
    looks = {"teacher": TEACHER, "student": STUDENT, "hard": OTHERS[1], "soft": OTHERS[0]}
    names = [f"★ {class_names[c]}" if c == label else class_names[c] for c in shown]
    others = sorted(set(range(len(class_names))) - set(shown))
    names += [f"{len(others)} others"] if others else []
    picture, (left, right) = _canvas(11.6, 1.6 + 0.46 * len(names), columns=2, sharey=True)
    for axes, rows, text in ((left, probabilities, lambda v: _percent(v, 1)), (right, pulls, _signed)):
        values = {name: _vector(v) for name, v in rows.items()}
        drawn = {n: np.append(v[shown], [v[others].sum()] if others else []) for n, v in values.items()}
        _grouped_bars(axes, {n: (v, looks[n]) for n, v in drawn.items()}, names, text)
        axes.margins(x=0.16)
    left.invert_yaxis()  # shared, so both calls have turned it: once is enough
    left.set(xlabel="probability", xlim=(0, None))
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    right.axvline(0, color=INK, linewidth=1)
    right.set_xlabel(
        "gradient with respect to the student's logit\n← the step raises it      the step lowers it →"
    )
    right.tick_params(labelleft=False)
    _title(left, title)
    right.set_title(setting, loc="left")
    return picture


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


@_styled
def ablation(panels: Mapping[str, Mapping[str, Sequence[float]]], base: str = "the full recipe") -> Picture:
    """What each part is worth: how far every variant is from the full recipe, paired over the seeds.

    panels: for each measure (a fraction, higher is better) the scores of the configurations, one a seed, same seeds;
    the first configuration is the one to which the others are compared, and `base` says what it is. Small circles are
    seeds; the mean difference has its 95 % interval (Student's t). Raises KDTutorError if the seeds of two are not as
    many.
    """
    from kdtutor.evaluation import mean_and_interval, paired_seeds_test

    rows = max(len(scores) for scores in panels.values()) - 1
    size = 2.6 + 3.6 * len(panels), 1.7 + 0.46 * rows
    picture, all_axes = _canvas(*size, columns=len(panels), squeeze=False, sharey=True)
    said = []
    for axes, (measure, scores) in zip(all_axes[0], panels.items(), strict=True):
        (full, reference), *others = scores.items()
        found = []
        for row, (name, values) in enumerate(others):
            paired_seeds_test(values, reference)  # refuses what cannot be paired
            differences = [100 * (a - b) for a, b in zip(values, reference, strict=True)]
            interval, look = mean_and_interval(differences), OTHERS[row % len(OTHERS)]
            axes.plot(
                differences, [row + 0.24] * len(differences), "o", markersize=4, markerfacecolor="white"
            )
            how = {"marker": look.marker, "color": look.colour, "ecolor": INK, "capsize": 4}
            axes.errorbar(interval.mean, row, xerr=interval.half_width, **how)
            where = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            where["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the zero line runs behind
            axes.annotate(_signed(interval.mean), (interval.mean, row), **where)
            found.append(f"{name} {_signed(interval.mean)} ± {interval.half_width:.2f}")
        axes.axvline(0, color=INK, linestyle="--", linewidth=1.2)
        axes.set(yticks=range(len(others)), yticklabels=[name for name, _ in others])
        axes.set(ylim=(len(others) - 0.4, -0.75), xlabel=f"points from “{full}”")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=5)  # more would touch one another
        axes.grid(axis="x")
        _title(axes, measure)
        mean = _percent(mean_and_interval(reference).mean, 1)
        said.append(f"{measure} ({full} {mean}): {', '.join(found)}")
    seeds = len(reference)
    return _say(
        picture,
        f"Difference from {base} in points, mean over {seeds} seeds with 95{NBSP}% intervals. "
        f"{'; '.join(said)}.",
    )


@_styled
def beside_paper(claims: Mapping[str, tuple[Sequence[float], float]], formats: Sequence[str] = ()) -> Picture:
    """Figures of our own beside a paper's: for each claim ours, one a seed (or one figure), and the paper's.

    formats: for each claim how its figures are written, "{:.2f}" by default.
    """
    from kdtutor.evaluation import mean_and_interval

    picture, all_axes = _canvas(1.2 + 2.7 * len(claims), 3.6, columns=len(claims), squeeze=False)
    said = []
    for axes, (claim, (ours, paper)), written in itertools.zip_longest(
        all_axes[0], claims.items(), formats, fillvalue="{:.2f}"
    ):
        found = mean_and_interval(ours)
        width = found.half_width if found.n > 1 else None
        for place, (value, look) in enumerate(((found.mean, STUDENT), (paper, OTHERS[1]))):
            axes.bar(place, value, 0.6, color=look.colour, hatch=look.hatch, edgecolor=INK, linewidth=0.8)
            above = 4 + (9 if place == 0 and width else 0)
            top = value + (width or 0) * (place == 0)
            how = {"xytext": (0, above - 4), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes.annotate(written.format(value), (place, top), **how)
        if width:
            axes.errorbar(0, found.mean, yerr=width, ecolor=INK, capsize=5, linestyle="none")
        highest = max(found.mean + (width or 0), paper)
        axes.set(xticks=(0, 1), xticklabels=("ours", "paper"), ylim=(0, 1.18 * highest), xlim=(-0.6, 1.6))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y")
        axes.set_title("\n".join(textwrap.wrap(claim, 22)), loc="left")
        interval = f" ± {written.format(width)}" if width else ""
        said.append(f"{claim}: {written.format(found.mean)}{interval}, paper {written.format(paper)}")
    return _say(picture, f"Our figures, with 95{NBSP}% intervals, beside the paper's. {'; '.join(said)}.")


@_styled
def size_accuracy_latency(models: Mapping[str, tuple[Sequence[float], float, float]]) -> Picture:
    """Each model by the time it needs and by its score; the area of its mark is its number of parameters.

    models: for each its scores, one a seed, the milliseconds for one text, and its parameters. The line is the 95 %
    interval of the mean score. The sentence compares every other model with the first.
    """
    from kdtutor.evaluation import mean_and_interval

    picture, axes = _canvas(8.4, 4.6)
    largest = max(parameters for *_, parameters in models.values())
    found = {}
    for i, (name, (scores, latency, parameters)) in enumerate(models.items()):
        look, found[name] = _look(name, i), mean_and_interval(scores)
        mean, width = found[name].mean, found[name].half_width if found[name].n > 1 else None
        axes.errorbar(latency, mean, yerr=width, ecolor=INK, capsize=4, linestyle="none", zorder=1)
        area = 420 * parameters / largest
        axes.scatter(latency, mean, area, color=look.colour, marker=look.marker, edgecolor=INK, zorder=2)
        text = f"{name}\n{parameters / 1e6:.1f} M parameters"
        crowded = sum(latency == other for _, other, _ in models.values()) > 1
        left = crowded and i % 2  # models of one speed stand above each other: their names on both sides
        where = {"xytext": (-16 if left else 16, 0), "ha": "right" if left else "left"}
        axes.annotate(text, (latency, mean), textcoords="offset points", va="center", **where)
    axes.set(xlabel="milliseconds for one text", ylabel="score")
    axes.set_xlim(0, 1.45 * max(latency for _, latency, _ in models.values()))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.margins(y=0.2)
    axes.grid()
    (first, (_, base_latency, base_size)), *others = models.items()
    said = [
        f"{name} reaches {_percent(found[name].mean, 1)} with {_percent(size / base_size)} of the parameters in "
        f"{_percent(latency / base_latency)} of the time"
        for name, (_, latency, size) in others
    ]
    return _say(
        picture,
        f"Score, time for one text and size. Beside {first} ({_percent(found[first].mean, 1)}, {base_latency:.1f} ms, "
        f"{base_size / 1e6:.1f} M parameters), {'; '.join(said)}.",
    )


@_styled
def memory(runs: Mapping[str, Mapping[str, float]]) -> Picture:
    """What takes the memory of a process: a bar for each run, cut into parts (bytes), such as `plan(…).memory`.

    Parts are in the order in which the runs name them. The sentence has each run's total and its largest part.
    """
    parts = list(dict.fromkeys(part for sizes in runs.values() for part in sizes))
    picture, axes = _canvas(9.2, 1.9 + 0.62 * len(runs))
    end = np.zeros(len(runs))
    for position, part in enumerate(parts):
        look = _look(part.partition("'")[0], position)
        values = np.array([sizes.get(part, 0) / 1e9 for sizes in runs.values()])
        how = {"color": look.colour, "hatch": look.hatch, "edgecolor": INK, "linewidth": 0.8}
        axes.barh(range(len(runs)), values, 0.6, left=end, label=part, **how)
        end += values
    for row, total in enumerate(end):
        where = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{total:.1f} GB", (total, row), **where)
    axes.set(yticks=range(len(runs)), yticklabels=runs, ylim=(len(runs) - 0.4, -0.6), xlabel="GB")
    axes.set_xlim(0, 1.14 * end.max())
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    picture.legend(loc="outside lower center", ncols=3)
    said = []
    for (name, sizes), total in zip(runs.items(), end, strict=True):
        largest = max(sizes, key=sizes.get)
        said.append(f"{name} {total:.1f} GB, of which {largest} {sizes[largest] / 1e9:.1f}")
    return _say(picture, f"Memory of one process, by what takes it: {'; '.join(said)}.")


# ---------------------------------------------------------------------------------------------- errors by class


@_styled
def class_scores(predicted: Sequence[int], labels: Sequence[int], class_names: Sequence[str]) -> Picture:
    """Each class's F1 = 2·TP / (2·TP + FP + FN), the largest class first, and what its texts are mistaken for.

    predicted, labels: class indices (N,). Beside a bar: F1, and how many of the class's texts got the commonest wrong
    answer. Classes that are neither predicted nor true are left out; the line is the mean over the others, macro-F1.
    """
    counts = np.zeros((len(class_names),) * 2, int)  # true class × predicted class
    np.add.at(counts, (_vector(labels).astype(int), _vector(predicted).astype(int)), 1)
    right, texts = counts.diagonal(), counts.sum(1)
    occurrences = texts + counts.sum(0)  # 2·TP + FP + FN
    shown = [i for i in np.argsort(-texts, kind="stable") if occurrences[i]]
    f1 = 2 * right / np.maximum(occurrences, 1)
    wrong = counts - np.diag(right)
    picture, axes = _canvas(8.4, 1.1 + 0.27 * len(shown))
    axes.barh(range(len(shown)), f1[shown], 0.72, color=TEACHER.colour, edgecolor=INK, linewidth=0.8)
    mean = f1[shown].mean()
    axes.axvline(mean, color=INK, linestyle=":", zorder=0)
    for row, i in enumerate(shown):
        axes.annotate(
            _percent(f1[i]), (f1[i], row), (4, 0), textcoords="offset points", va="center", fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        if wrong[i].any():
            other = wrong[i].argmax()
            share = _percent(wrong[i, other] / texts[i])
            axes.annotate(f"{class_names[other]} {share}", (1.12, row), va="center", fontsize=10)
    heads = {mean: (f"macro-F1 {_percent(mean)}", "center"), 1.12: ("taken for", "left")}
    for x, (text, side) in heads.items():
        axes.annotate(text, (x, -1.1), ha=side, va="center", annotation_clip=False)
    axes.set(
        yticks=range(len(shown)), yticklabels=[f"{class_names[i]} ({texts[i]:,})" for i in shown],
        ylim=(len(shown) - 0.4, -0.7), xlim=(0, 1.5), xlabel="F1", xticks=np.linspace(0, 1, 6),
    )  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.tick_params(axis="y", length=0)
    best, worst = shown[int(f1[shown].argmax())], shown[int(f1[shown].argmin())]
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    said = f"; most often, {class_names[i]} is taken for {class_names[j]} ({wrong[i, j]} of {texts[i]})"
    return _say(
        picture,
        f"F1 of {len(shown)} classes, from {class_names[best]} {_percent(f1[best])} to {class_names[worst]} "
        f"{_percent(f1[worst])}, mean {_percent(mean)}{said if wrong.any() else ''}.",
    )


# ---------------------------------------------------------------------------------------------- dark knowledge


@_styled
def gradient_sizes(
    student_logits, teacher_logits, labels, temperatures: Sequence[float] | None = None
) -> Picture:
    """How hard each loss pulls at the student's logits as T changes: mean length of a text's gradient (C,).

    Both logits: (N, C), labels: (N,). Soft targets with T² have the gradient T (p_S − p_T), KL alone has
    (p_S − p_T) / T, hard labels have p_S − onehot, in which there is no T.
    """
    z_s, z_t, y = _array(student_logits), _array(teacher_logits), _array(labels).astype(int)
    t = np.geomspace(1, 100, 60) if temperatures is None else np.asarray(temperatures, float)
    gap = np.array([np.linalg.norm(_softmax(z_s / T) - _softmax(z_t / T), axis=1).mean() for T in t])
    hard = np.linalg.norm(_softmax(z_s) - np.eye(z_s.shape[1])[y], axis=1).mean()
    curves = {
        "soft targets, with T²": (t * gap, OTHERS[0]),
        "without T²": (gap / t, OTHERS[2]),
        "hard labels": (np.full_like(t, hard), OTHERS[1]),
    }
    picture, axes = _canvas(7.2, 4.2)
    for name, (values, look) in curves.items():
        _curve(axes, t, values, look, name)
    axes.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="mean length of the gradient")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid()
    axes.legend()
    said = [f"{name} from {v[0]:.2g} to {v[-1]:.2g}" for name, (v, _) in list(curves.items())[:2]]
    return _say(
        picture,
        f"Mean length of the gradient as T rises from {t[0]:g} to {t[-1]:g}: {'; '.join(said)}; "
        f"hard labels {hard:.2g} at any T.",
    )


@_styled
def second_guesses(shares, class_names: Sequence[str]) -> Picture:
    """Where a model's probability goes beside its first guess: shares (C, C), a row for each class.

    shares[i, j] is the part that class j gets of what texts of class i leave for the other classes: rows sum
    to 1, the diagonal is 0. Classes are reordered so that those which share much stand together.
    """
    shares = _array(shares)
    order = _seriation(shares)
    names = [class_names[i] for i in order]
    shown = shares[np.ix_(order, order)]
    picture, axes = _canvas(9.6, 8.2)
    hidden = np.ma.masked_where(np.eye(len(shown), dtype=bool), shown)
    image = axes.imshow(hidden, cmap="Blues", vmin=0)
    axes.set_facecolor("#e8e8e8")  # the diagonal
    for (row, column), share in np.ndenumerate(shown):
        if share >= 0.1:
            colour = "white" if share > 0.6 * np.nanmax(shown) else INK
            axes.annotate(
                f"{100 * share:.0f}", (column, row), ha="center", va="center", color=colour, fontsize=9
            )
    axes.set(xlabel="gets this part of the rest", ylabel="definitions of this class, classified right")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    percent = PercentFormatter(1, decimals=0, symbol=" %")
    picture.colorbar(image, ax=axes, shrink=0.6, format=percent, label="share of the rest")
    largest = np.argsort(-np.nan_to_num(shares), axis=None, kind="stable")[:4]
    said = [
        f"from {class_names[i]} to {class_names[j]} {_percent(shares[i, j])}"
        for i, j in zip(*np.unravel_index(largest, shares.shape), strict=True)
    ]
    return _say(
        picture,
        "Which other classes get what the first guess leaves over; the largest shares are "
        + "; ".join(said)
        + ".",
    )


def _seriation(shares: np.ndarray) -> np.ndarray:
    """An order of the classes in which neighbours share much: along the Fiedler vector of the graph of shares."""
    weights = np.nan_to_num(shares)
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    scale = 1 / np.sqrt(np.maximum(weights.sum(1), 1e-12))
    _, vectors = np.linalg.eigh(np.eye(len(weights)) - scale[:, None] * weights * scale)
    place = vectors[:, 1] * scale
    return np.argsort(place * (1 if place[0] <= 0 else -1), kind="stable")  # an eigenvector has no sign


# ---------------------------------------------------------------------------------------------- attention


@_styled
def attention_maps(
    weights: Mapping[str, object], queries: Sequence[str], keys: Sequence[str] | None = None, title: str = ""
) -> Picture:
    """Who looks where: for each name a map (Lq, Lk), a row for each query and a column for each key.

    keys: by default the queries themselves. Small maps show their weights in per cent. Raises KDTutorError if a map's
    shape is not that of the tokens.
    """
    keys = queries if keys is None else keys
    maps = {name: _grid(w, len(queries), len(keys), name) for name, w in weights.items()}
    highest = max(w.max() for w in maps.values())
    size = len(maps) * (1.3 + 0.34 * len(keys)) + 0.9, 1.6 + 0.34 * len(queries)
    picture, all_axes = _canvas(*size, columns=len(maps), squeeze=False, sharey=True)
    for axes, (name, w) in zip(all_axes[0], maps.items(), strict=True):
        drawn = _heatmap(axes, w, highest, queries, keys, numbers=w.size <= 50)
        axes.set(xlabel="is looked at (key)")
        _title(axes, name)
    all_axes[0, 0].set_ylabel("looks (query)")
    scale = picture.colorbar(drawn, ax=all_axes, shrink=0.8, format=PercentFormatter(1, 0, " %"))
    scale.set_label("weight")
    if title:
        picture.suptitle(textwrap.shorten(title, 90, placeholder=" …"))
    said = [
        f"{name}: {_habit(w, keys)}, and the largest single weight is {_percent(w.max())}, from "
        f"{queries[w.argmax() // len(keys)]} to {keys[w.argmax() % len(keys)]}"
        for name, w in maps.items()
    ]
    return _say(
        picture, f"Attention weights of {len(queries)} queries over {len(keys)} keys. {'; '.join(said)}."
    )


def _habit(w: np.ndarray, keys: Sequence[str]) -> str:
    """Where most of the attention (Lq, Lk) goes: one step back or forward, or else to which key."""
    steps = {"the token before": -1, "itself": 0, "the token after": 1}
    shares = {name: np.trace(w, step) / len(w) for name, step in steps.items()}
    favourite = max(shares, key=shares.get)
    if shares[favourite] > 0.5:
        return f"from each token, {_percent(shares[favourite])} of it goes to {favourite}"
    return f"most of it goes to {keys[w.mean(0).argmax()]} ({_percent(w.mean(0).max())} on average)"


@_styled
def masks(
    allowed: Mapping[str, object], queries: Sequence[str], keys: Sequence[str] | None = None
) -> Picture:
    """For each name a boolean mask (Lq, Lk): which query may look at which key."""
    keys = queries if keys is None else keys
    grids = {name: _grid(m, len(queries), len(keys), name) for name, m in allowed.items()}
    size = len(grids) * (0.9 + 0.36 * len(keys)) + 0.6, 1.7 + 0.36 * len(queries)
    picture, all_axes = _canvas(*size, columns=len(grids), squeeze=False, sharey=True)
    for axes, (name, grid) in zip(all_axes[0], grids.items(), strict=True):
        _heatmap(axes, 0.5 * grid, 1, queries, keys)
        for row, column in np.argwhere(grid):
            axes.annotate("✓", (column, row), ha="center", va="center")
        axes.set(xlabel="key")
        _title(axes, name)
    all_axes[0, 0].set_ylabel("query")
    said = [f"{name} {int(grid.sum())}" for name, grid in grids.items()]
    return _say(
        picture,
        f"Masks; ✓ where a query (row) may look at a key (column). Of {len(queries) * len(keys)} pairs are allowed: "
        f"{', '.join(said)}.",
    )


@_styled
def attention_overview(attentions: Sequence[object], tokens: Sequence[str]) -> Picture:
    """Every head of a model as a small map: a row for each layer, whose weights are (H, L, L) or (1, H, L, L)."""
    layers = [_array(a).reshape(-1, len(tokens), len(tokens)) for a in attentions]
    heads = len(layers[0])
    picture = Picture(figsize=(1.05 * heads + 0.7, 1.05 * len(layers) + 0.6), layout="constrained")
    favourites = {}
    for row, (layer, line) in enumerate(
        zip(layers, picture.subplots(len(layers), heads, squeeze=False), strict=True)
    ):
        for column, (w, axes) in enumerate(zip(layer, line, strict=True)):
            _heatmap(axes, w, 1, (), ())
            axes.set_title(f"head {column}" if row == 0 else "", fontsize=11)
            axes.set_ylabel(f"layer {row}" if column == 0 else "", fontsize=11)
            favourite = tokens[w.mean(0).argmax()]
            favourites[favourite] = favourites.get(favourite, 0) + 1
    said = [f"{name} in {count}" for name, count in sorted(favourites.items(), key=lambda item: -item[1])]
    return _say(
        picture,
        f"Attention maps of {len(layers)} layers × {heads} heads over {len(tokens)} tokens. The token that is looked "
        f"at most is {', '.join(said[:3])} of the {len(layers) * heads} maps.",
    )


@_styled
def head_shares(shares: Mapping[str, object]) -> Picture:
    """What each head does, as numbers: for each name a share (layers, heads), from 0 to 1."""
    grids = {name: _array(share) for name, share in shares.items()}
    layers, heads = next(iter(grids.values())).shape
    rows = -(-len(grids) // 2)
    size = 1.1 + 2 * (0.2 + 0.42 * heads), rows * (0.8 + 0.36 * layers) + 0.3
    picture = Picture(figsize=size, layout="constrained")
    all_axes = picture.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    for axes, name in itertools.zip_longest(all_axes.flat, grids):
        if name is None:
            axes.set_visible(False)
            continue
        _heatmap(axes, grids[name], 1, range(layers), range(heads), numbers=True)
        axes.tick_params(axis="x", rotation=0)
        _title(axes, name)
    for axes in all_axes[-1]:
        axes.set_xlabel("head")
    for axes in all_axes[:, 0]:
        axes.set_ylabel("layer")
    said = [
        f"{name}: {_percent(grid.mean())} over all heads, most in layer {grid.argmax() // heads}, head "
        f"{grid.argmax() % heads} ({_percent(grid.max())})"
        for name, grid in grids.items()
    ]
    return _say(picture, f"Share of the attention, by layer and head. {'; '.join(said)}.")


@_styled
def saturation(
    widths: Sequence[int], largest: Mapping[str, Sequence[float]], gradient: Mapping[str, Sequence[float]]
) -> Picture:
    """How a softmax over dot products fares as the width grows: its largest weight, and the size of its gradient."""
    picture, (left, right) = _canvas(8.8, 3.8, columns=2)
    for i, name in enumerate(largest):
        _curve(left, widths, largest[name], OTHERS[i], name)
        _curve(right, widths, gradient[name], OTHERS[i], name)
    left.set(ylabel="largest weight", ylim=(0, 1.02))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    right.set(ylabel="gradient of a weight", yscale="log")
    right.set_yticks(ticks := [0.1, 0.03, 0.01, 0.003], [f"{tick:g}" for tick in ticks])
    for axes in (left, right):
        axes.set(xscale="log", xlabel="width d of query and key")
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.minorticks_off()
        axes.grid()
    left.legend()
    said = [
        f"{name}, the largest weight goes from {_percent(largest[name][0])} to {_percent(largest[name][-1])} and the "
        f"gradient from {gradient[name][0]:.1g} to {gradient[name][-1]:.1g}"
        for name in largest
    ]
    return _say(picture, f"As the width grows from {widths[0]:g} to {widths[-1]:g}: {'; '.join(said)}.")


# ---------------------------------------------------------------------------------------------- the Transformer


@_styled
def encoder_decoder(
    source: str = "source", target: str = "target so far", answer: str = "next token"
) -> Picture:
    """The Transformer of Vaswani et al. 2017 as boxes, to be read from the bottom up; with an example's texts."""
    picture, axes = _canvas(8.4, 8.0)
    attention, other = TEACHER.colour + "33", OTHERS[3].colour + "33"  # pale
    look, cross, think = (
        ("self-attention", attention),
        ("cross-attention", attention),
        ("feed-forward", other),
    )
    masked = ("masked self-attention", attention)
    stacks = {"encoder": (2.2, (look, think)), "decoder": (6.4, (masked, cross, think))}

    def box(x: float, y: float, text: str, colour: str = "white", height: float = 0.5) -> None:
        axes.add_patch(Rectangle((x - 1.25, y), 2.5, height, facecolor=colour, edgecolor=INK))
        axes.annotate(text, (x, y + height / 2), ha="center", va="center")

    def arrow(*points: tuple[float, float]) -> None:
        if len(points) > 2:
            axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=1.2)
        head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", points[-1], points[-2], arrowprops=head)

    for (name, (x, sublayers)), text in zip(stacks.items(), (source, target), strict=True):
        axes.annotate(text, (x, -0.1), ha="center", va="top")
        arrow((x, 0), (x, 0.4))
        box(x, 0.4, "embeddings + positions")
        bottom = y = 1.4
        arrow((x, 0.9), (x, y + 0.35))
        for sublayer, colour in sublayers:
            box(x, y + 0.35, sublayer, colour)
            arrow((x, y + 0.85), (x, y + 1.1))
            box(x, y + 1.1, "add & norm", height=0.36)
            side = x - 1.45  # the residual connection: past the sublayer, into the sum
            arrow((x, y + 0.15), (side, y + 0.15), (side, y + 1.28), (x - 1.25, y + 1.28))
            if sublayer == "cross-attention":
                join = y + 0.6
            y += 1.46
            arrow((x, y), (x, y + 0.35))
        frame = Rectangle(
            (x - 1.65, bottom), 3.1, y + 0.18 - bottom, facecolor="none", edgecolor=INK, linestyle=":"
        )
        axes.add_patch(frame)
        middle = (bottom + y + 0.18) / 2
        axes.annotate(f"{name} layer, N times", (x + 1.53, middle), rotation=90, va="center", fontsize=11)
        if name == "encoder":
            top = y + 0.55
            axes.annotate("memory", (x, top), (-6, 4), textcoords="offset points", ha="right")
        else:
            box(x, y + 0.35, "output layer, softmax")
            arrow((x, y + 0.85), (x, y + 1.2))
            axes.annotate(answer, (x, y + 1.28), ha="center", va="bottom")
    between = 4.35  # where the encoder's output goes over to the decoder, into every cross-attention
    arrow((2.2, top - 0.2), (2.2, top), (between, top), (between, join), (6.4 - 1.25, join))
    axes.set(xlim=(0.4, 8.3), ylim=(-0.7, y + 1.8))
    axes.axis("off")
    return _say(
        picture,
        f"The Transformer. The encoder reads “{source}”: embeddings with positions, then N layers of "
        f"self-attention and feed-forward. The decoder reads “{target}” in the same way, but masked, and with a "
        f"cross-attention to the memory, which is the encoder's output, before each feed-forward. Past each sublayer "
        f"runs a residual connection, and the sum is normalised. The output layer foretells “{answer}”.",
    )


@_styled
def positions(encoding, reach: int = 30) -> Picture:
    """A position encoding (L, D): its numbers, and the dot products of every two of its rows by their distance.

    reach: the largest distance drawn. The thin band holds the dot products of all pairs at a distance.
    """
    table = _array(encoding)
    products = table @ table.T
    reach = min(reach, len(table) - 1)
    by_distance = [np.diagonal(products, offset) for offset in range(reach + 1)]
    mean = np.array([values.mean() for values in by_distance])
    picture, (left, right) = _canvas(10.0, 4.2, columns=2)
    image = left.imshow(table, cmap="cividis", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    left.set(xlabel="column", ylabel="position")
    picture.colorbar(image, ax=left, label="value")
    lowest, highest = ([f(values) for values in by_distance] for f in (np.min, np.max))
    right.fill_between(range(reach + 1), lowest, highest, color=OTHERS[4].colour, alpha=0.4)
    _curve(right, np.arange(reach + 1), mean, TEACHER, None)
    right.set(
        xlabel="distance of two positions", ylabel="dot product", ylim=(min(0, 1.1 * min(lowest)), None)
    )
    right.grid()
    spread = max(high - low for low, high in zip(lowest, highest, strict=True))
    depends = "the distance alone" if spread < 1e-3 * mean[0] else "more than the distance"
    return _say(
        picture,
        f"Encoding of {len(table)} positions in {table.shape[1]} columns. The dot product of two positions depends on "
        f"{depends}: {mean[0]:.1f} at distance 0, {mean[1]:.1f} at 1, {mean[reach]:.1f} at {reach}.",
    )


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
    """A tensor, array or list as float64 (C,)."""
    return _array(values).reshape(-1)


def _array(values) -> np.ndarray:
    """A tensor (on any device, with or without a gradient), array or list, as float64."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, float)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _grid(values, rows: int, columns: int, name: str) -> np.ndarray:
    grid = _array(values)
    if grid.shape != (rows, columns):
        raise KDTutorError(
            f"{name} has the shape {grid.shape}, but there are {rows} queries and {columns} keys"
        )
    return grid


def _heatmap(axes, grid: np.ndarray, highest: float, rows, columns, numbers: bool = False):
    """White is 0 and dark blue `highest`; numbers: each cell's per cent as well."""
    drawn = axes.imshow(grid, cmap="Blues", vmin=0, vmax=highest or 1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(grid) if numbers else ():
        ink = "white" if value > 0.6 * highest else INK
        axes.annotate(f"{100 * value:.0f}", (column, row), ha="center", va="center", fontsize=10, color=ink)
    return drawn


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f}{NBSP}%"


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if float(text[1:]) == 0 else text


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
