"""Pictures of training and of what came out: curves, intervals, sizes, ablations."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter

from kdtutor.errors import KDTutorError
from kdtutor.plots.naming import Point, name_points
from kdtutor.plots.style import (
    INK,
    NBSP,
    OTHERS,
    STUDENT,
    TEACHER,
    Picture,
    canvas,
    describe,
    draw_curve,
    in_percent,
    looks_of,
    percent,
    set_title,
    signed,
    styled,
)

if TYPE_CHECKING:
    from kdtutor.evaluation.statistics import PairedTest


@styled
def learning_curves(
    series: Mapping[str, Sequence], value: str = "loss", xlabel: str = "step", ylabel: str | None = None
) -> Picture:
    """Draw curves over training. Each is (x, y) pairs, or a `Distillation.history`, whose `value` is drawn.

    A history has a point for every step: drawn pale, with the mean over a window of steps on top, at the middle of its
    window. The sentence has the first step's value and the mean of the last window.
    """
    picture, axes = canvas(7.2, 3.8)
    said, looks = [], looks_of(series)
    for name, rows in series.items():
        look = looks[name]
        is_history = isinstance(rows[0], Mapping)
        x, y = np.array([(r["step"], r[value]) if is_history else r for r in rows], float).T
        if is_history and len(y) >= 40:
            axes.plot(x, y, color=look.colour, linewidth=0.8, alpha=0.25)
            first, window = y[0], max(len(y) // 20, 5)
            y = np.convolve(y, np.ones(window) / window, "valid")
            x = x[window // 2 :][: len(y)]
            said.append(f"{name} goes from {first:.3g} to {y[-1]:.3g}, the mean of the last {window}")
        else:
            said.append(f"{name} goes from {y[0]:.3g} to {y[-1]:.3g}")
        draw_curve(axes, x, y, look, name)
    axes.set(xlabel=xlabel, ylabel=ylabel or value)
    axes.grid()
    axes.legend()
    what = ylabel or value  # of which capitalize() would write T² · KL small
    return describe(picture, f"{what[0].upper()}{what[1:]} by {xlabel}: {'; '.join(said)}.")


@styled
def scores_with_intervals(
    results: Mapping[str, Sequence[float]],
    xlabel: str = "test accuracy", reference: tuple[str, float] | None = None,
) -> Picture:  # fmt: skip
    """Draw each method's scores, one per seed: small circles, and their mean with its 95 % interval (Student's t).

    reference: a name and a score drawn as a line, such as the teacher's.
    """
    from kdtutor.evaluation.statistics import mean_and_interval

    intervals = {name: mean_and_interval(scores) for name, scores in results.items()}
    looks, (picture, axes) = looks_of(results), canvas(7.6, 1.3 + 0.44 * len(results))
    for row, (name, scores) in enumerate(results.items()):
        found, look = intervals[name], looks[name]
        axes.plot(scores, [row + 0.22] * len(scores), "o", markersize=4.5, markerfacecolor="white")
        width = found.half_width if found.n > 1 else None
        axes.errorbar(
            found.mean, row, xerr=width, marker=look.marker, color=look.colour, ecolor=INK, capsize=4
        )
        axes.annotate(
            percent(found.mean, 1), (found.mean, row), (0, 9), textcoords="offset points", ha="center"
        )
    axes.set(yticks=range(len(results)), yticklabels=results, ylim=(len(results) - 0.4, -0.85), xlabel=xlabel)
    in_percent(axes.xaxis, None)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.grid(axis="x")
    if reference:
        axes.axvline(reference[1], color=TEACHER.colour, linestyle="--")
        # Its name stands on the side that has more room.
        side = "left" if reference[1] < sum(axes.get_xlim()) / 2 else "right"
        name = f" {reference[0]} {percent(reference[1], 1)} "
        axes.annotate(name, (reference[1], -0.6), ha=side, va="center")
    said = [
        f"{name} {percent(i.mean, 1)}" + (f" ± {100 * i.half_width:.1f}" if i.n > 1 else " (one seed)")
        for name, i in intervals.items()
    ]
    line = f"; {reference[0]}: {percent(reference[1], 1)}" if reference else ""
    seeds = sorted({i.n for i in intervals.values()})
    over = f"{' to '.join(map(str, {seeds[0]: 0, seeds[-1]: 0}))} seeds" if seeds[-1] > 1 else "one seed"
    return describe(picture, f"Mean {xlabel} over {over}, with 95{NBSP}% intervals: {'; '.join(said)}{line}.")


@styled
def patience(
    curves: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
    references: Mapping[str, float] | None = None,
    ylabel: str = "test accuracy",
) -> Picture:
    """Draw how each method does by how long it was trained: (passes, one score per seed) for every length.

    Means over the seeds with their 95 % interval (Student's t), passes on a logarithmic axis; methods stand a little
    beside each other. references: scores drawn as lines, such as the teacher's. Scores are fractions.
    """
    from kdtutor.evaluation.statistics import mean_and_interval

    picture, axes = canvas(8.4, 4.6)
    looks, said = looks_of(curves), []
    for place, (name, points) in enumerate(curves.items()):
        found = [mean_and_interval(scores) for _, scores in points]
        x = np.array([passes for passes, _ in points], float) * 1.02 ** (place - (len(curves) - 1) / 2)
        means = np.array([interval.mean for interval in found])
        widths = [interval.half_width if interval.n > 1 else 0 for interval in found]
        draw_curve(axes, x, means, looks[name], name)
        axes.errorbar(x, means, yerr=widths, ecolor=looks[name].colour, linestyle="none", capsize=3)
        steps = [f"{percent(mean, 1)} at {passes:g}" for (passes, _), mean in zip(points, means, strict=True)]
        said.append(f"{name} {', '.join(steps)}")
    for name, score in (references or {}).items():
        axes.axhline(score, color=looks_of([name])[name].colour, linestyle=":")
        axes.annotate(f"{name} {percent(score, 1)}", (0, score), (4, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points")  # fmt: skip
        said.append(f"the line {name} is at {percent(score, 1)}")
    lengths = sorted({passes for points in curves.values() for passes, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{passes:g}" for passes in lengths])
    axes.minorticks_off()
    axes.set(xlabel="passes over the training texts, each a run of its own", ylabel=ylabel)
    in_percent(axes.yaxis, None)
    axes.grid()
    axes.legend(loc="lower right")
    return describe(picture, f"Mean {ylabel} by passes: {'; '.join(said)}.")


@styled
def comparison(evaluations: Mapping[str, object]) -> Picture:
    """Draw size, time for one text, and accuracy of models, from `evaluate`: what distillation buys, in a picture.

    The sentence compares every other model with the first.
    """
    panels = (
        ("parameters", "millions", "M", lambda e: e.parameters / 1e6),
        ("time for one text", "milliseconds", "ms", lambda e: e.latency_ms),
        ("accuracy", "per cent", "%", lambda e: 100 * e.score),
    )
    looks = looks_of(evaluations)
    picture, all_axes = canvas(9.6, 1.4 + 0.5 * len(evaluations), columns=3, sharey=True)
    for axes, (title, unit, short, value) in zip(all_axes, panels, strict=True):
        values = [value(e) for e in evaluations.values()]
        for row, (name, v) in enumerate(zip(evaluations, values, strict=True)):
            look = looks[name]
            axes.barh(row, v, 0.62, color=look.colour, hatch=look.hatch, edgecolor=INK)
            axes.annotate(f"{v:.1f} {short}", (v, row), (4, 0), textcoords="offset points", va="center")
        axes.set(title=title, xlabel=unit, xlim=(0, 1.38 * max(values)))
        axes.tick_params(axis="y", length=0)
    axes.set(yticks=range(len(evaluations)), yticklabels=evaluations, ylim=(len(evaluations) - 0.5, -0.5))
    (first, base), *rest = evaluations.items()
    said = [
        f"{name} has {base.parameters / e.parameters:.1f} times fewer parameters, needs "
        f"{percent(e.latency_ms / base.latency_ms)} of the time and reaches {percent(e.score, 1)}"
        for name, e in rest
    ]
    return describe(picture, f"Beside {first} ({percent(base.score, 1)} accuracy), {'; '.join(said)}.")


@styled
def ablation(panels: Mapping[str, Mapping[str, Sequence[float]]], base: str = "the full recipe") -> Picture:
    """Draw what each part is worth: how far every variant is from the full recipe, paired over the seeds.

    panels: for each measure (a fraction, higher is better) the scores of the configurations, one per seed, same seeds;
    the first configuration is the one to which the others are compared, and `base` says what it is. Small circles are
    seeds; the mean difference has its 95 % interval (Student's t). Raises KDTutorError if the seeds of two are not as
    many.
    """
    from kdtutor.evaluation.statistics import mean_and_interval, paired_seeds_test

    rows = max(len(scores) for scores in panels.values()) - 1
    size = 2.6 + 3.6 * len(panels), 1.7 + 0.46 * rows
    picture, all_axes = canvas(*size, columns=len(panels), squeeze=False, sharey=True)
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
            axes.annotate(signed(interval.mean), (interval.mean, row), **where)
            found.append(f"{name} {signed(interval.mean)} ± {interval.half_width:.2f}")
        axes.axvline(0, color=INK, linestyle="--", linewidth=1.2)
        axes.set(yticks=range(len(others)), yticklabels=[name for name, _ in others])
        axes.set(ylim=(len(others) - 0.4, -0.75), xlabel=f"points from “{full}”")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=5)  # more would touch one another
        axes.grid(axis="x")
        set_title(axes, measure)
        mean = percent(mean_and_interval(reference).mean, 1)
        said.append(f"{measure} ({full} {mean}): {', '.join(found)}")
    seeds = len(reference)
    return describe(
        picture,
        f"Difference from {base} in points, mean over {seeds} seeds with 95{NBSP}% intervals. "
        f"{'; '.join(said)}.",
    )


@styled
def differences(panels: Mapping[str, Mapping[str, Mapping[str, PairedTest]]]) -> Picture:
    """Draw how far each method is from each of several references, with 95 % intervals: what is sure, and what is not.

    panels: for each its rows, and for each row {reference: what was found, in fractions}, such as `Stored.compare`
    gives. Panels share their rows; where one lacks a row, that stays empty. Each has a scale of its own. A mark is
    filled where the interval leaves out 0; the sentence has these. Raises KDTutorError if a difference has no interval.
    """
    rows = list(dict.fromkeys(row for found in panels.values() for row in found))
    looks = looks_of(name for found in panels.values() for tests in found.values() for name in tests)
    size = 3 + 3.4 * len(panels), 1.9 + 0.44 * len(rows)
    picture, all_axes = canvas(*size, columns=len(panels), squeeze=False, sharey=True)
    said = []
    for axes, (panel, found) in zip(all_axes[0], panels.items(), strict=True):
        for place, (reference, look) in enumerate(looks.items()):
            tests, sure = {row: tests[reference] for row, tests in found.items() if reference in tests}, []
            for row, test in tests.items():
                value, width = 100 * test.difference, 100 * test.half_width
                if not np.isfinite(width):
                    raise KDTutorError(f"{panel}, {row}: its difference from {reference} has no interval")
                if is_sure := abs(value) > width:
                    sure.append(f"{row} {signed(value)} ± {width:.2f}")
                y = rows.index(row) + 0.34 * (place - (len(looks) - 1) / 2)
                how = {"color": look.colour, "mfc": look.colour if is_sure else "white", "mec": look.colour}
                axes.errorbar(value, y, xerr=width, marker=look.marker, capsize=3, **how)
            told = f"{len(sure)} of {len(tests)}: {'; '.join(sure)}" if sure else f"none of {len(tests)}"
            said += [f"{panel}, minus {reference}: {told}"] * bool(tests)
        axes.axvline(0, color=INK, linestyle="--", linewidth=1.2, zorder=0)
        axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.4, -0.6), xlabel="points")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        set_title(axes, panel)
    keys = [axes.errorbar([], [], 1, marker=look.marker, color=look.colour) for look in looks.values()]
    names = [f"minus {reference}" for reference in looks]
    picture.legend(keys, names, loc="outside lower center", ncols=len(names))
    sentence = (
        f"Differences in points, and which of their 95{NBSP}% intervals leave out 0. {'. '.join(said)}."
    )
    return describe(picture, sentence)


@styled
def beside_paper(claims: Mapping[str, tuple[Sequence[float], float]], formats: Sequence[str] = ()) -> Picture:
    """Draw our own figures beside a paper's: for each claim ours, one per seed (or one figure), and the paper's.

    formats: for each claim how its figures are written, "{:.2f}" by default.
    """
    from kdtutor.evaluation.statistics import mean_and_interval

    picture, all_axes = canvas(1.2 + 2.7 * len(claims), 3.6, columns=len(claims), squeeze=False)
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
    return describe(picture, f"Our figures, with 95{NBSP}% intervals, beside the paper's. {'; '.join(said)}.")


@styled
def size_accuracy_latency(models: Mapping[str, tuple[Sequence[float], float, float]]) -> Picture:
    """Draw each model by the time it needs and by its score; the area of its mark is its number of parameters, as far
    as it can be seen. Times are drawn on a logarithmic axis where one is more than twenty times another.

    models: for each its scores, one per seed, the milliseconds for one text, and its parameters. The line is the 95 %
    interval of the mean score. The sentence compares every other model with the first.
    """
    from kdtutor.evaluation.statistics import mean_and_interval

    picture, axes = canvas(8.4, 4.6)
    largest = max(parameters for *_, parameters in models.values())
    found, looks, points = {}, looks_of(models), []
    for name, (scores, latency, parameters) in models.items():
        look, found[name] = looks[name], mean_and_interval(scores)
        mean, width = found[name].mean, found[name].half_width if found[name].n > 1 else None
        axes.errorbar(latency, mean, yerr=width, ecolor=INK, capsize=4, linestyle="none", zorder=1)
        area = max(60, 420 * parameters / largest)
        axes.scatter(latency, mean, area, color=look.colour, marker=look.marker, edgecolor=INK, zorder=2)
        text, around = f"{name}\n{parameters / 1e6:.1f} M parameters", width or 0
        points.append(Point(latency, mean, text, area, mean - around, mean + around))
    axes.set(xlabel="milliseconds for one text", ylabel="score")
    times = [latency for _, latency, _ in models.values()]
    if max(times) > 20 * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(min(times) / 2, 8 * max(times))
    else:
        axes.set_xlim(0, 1.45 * max(times))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.margins(y=0.2)
    axes.grid()
    name_points(axes, points)
    (first, (_, base_latency, base_size)), *others = models.items()
    said = [
        f"{name} reaches {percent(found[name].mean, 1)} with {percent(size / base_size)} of the parameters in "
        f"{percent(latency / base_latency)} of the time"
        for name, (_, latency, size) in others
    ]
    return describe(
        picture,
        f"Score, time for one text and size. Beside {first} ({percent(found[first].mean, 1)}, {base_latency:.1f} ms, "
        f"{base_size / 1e6:.1f} M parameters), {'; '.join(said)}.",
    )


@styled
def memory(runs: Mapping[str, Mapping[str, float]]) -> Picture:
    """Draw what takes the memory of a process: a bar for each run, cut into parts (bytes), such as `plan(…).memory`.

    Parts are in the order in which the runs name them. The sentence has each run's total and its largest part.
    """
    parts = list(dict.fromkeys(part for sizes in runs.values() for part in sizes))
    picture, axes = canvas(9.2, 1.9 + 0.62 * len(runs))
    end, looks = np.zeros(len(runs)), looks_of(parts)
    for part, look in looks.items():
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
    return describe(picture, f"Memory of one process, by what takes it: {'; '.join(said)}.")
