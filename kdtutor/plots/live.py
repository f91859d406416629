"""The plain picture of a live distillation, for places where no widget can run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from kdtutor.plots.style import (
    OTHERS,
    STUDENT,
    TEACHER,
    TERMS,
    TWIN,
    Look,
    Picture,
    describe,
    draw_curve,
    draw_grouped_bars,
    in_percent,
    percent,
    set_title,
    styled,
)

LOOKS = {"teacher": TEACHER, "student": STUDENT, "twin": TWIN}


@styled
def live_distillation(
    plan: dict, curves: dict, snapshot: dict, names: Sequence[str], sentence: str
) -> Picture:
    """Draw three panels: score, losses, probe.

    plan, curves, snapshot: what the instrument holds. names: who learns, in the order of the scores. sentence: what is
    seen.
    """
    below = 0.9 + 0.19 * len(snapshot["names"]) * len(plan["probe"]["who"])  # inches
    picture = Picture(figsize=(9.6, 3.4 + below), layout="constrained")
    grid = picture.add_gridspec(2, 2, height_ratios=[3.4, below])
    _draw_scores(picture.add_subplot(grid[0, 0]), plan, curves["scores"], names)
    _draw_losses(picture.add_subplot(grid[0, 1]), plan, curves["losses"])
    _draw_probe(picture.add_subplot(grid[1, :]), plan, snapshot)
    return describe(picture, sentence)


def _draw_scores(axes: Axes, plan: dict, scores: list, names: Sequence[str]) -> None:
    for i, name in enumerate(names, start=1):
        if points := _points(scores, i):
            draw_curve(axes, *zip(*points, strict=True), LOOKS[name], name)
    if plan["goal"] is not None:
        axes.axhline(plan["goal"], color=TEACHER.colour, linestyle=":", label="teacher")
    _finish(axes, plan, plan["score"])
    if plan["fraction"]:
        axes.set_ylim(0, 1)
        in_percent(axes.yaxis)


def _draw_losses(axes: Axes, plan: dict, losses: list) -> None:
    window = max(1, math.ceil(plan["total"] / plan["width"]) // 20)  # points that are smoothed, as in live.js
    looks = _looks_of_terms(plan["losses"])
    for i, column in enumerate(plan["losses"], start=1):
        if points := _points(losses, i):
            x, y = np.array(points).T
            y = [y[max(0, k + 1 - window) : k + 1].mean() for k in range(len(y))]
            draw_curve(axes, x, y, looks[column["name"]], column["name"])
    over = window * plan["width"]
    _finish(axes, plan, "loss terms" + (f", each the mean over {over} steps" if over > 1 else ""))


def _points(rows: list, column: int) -> list[tuple]:
    return [(row[0], row[column]) for row in rows if row[column] is not None]


def _finish(axes: Axes, plan: dict, title: str) -> None:
    """Give a panel of curves its axis of steps, its title and its legend."""
    axes.set(xlabel="step", xlim=(0, plan["total"]))
    set_title(axes, title)
    axes.grid()
    if axes.lines:
        axes.legend()


def _draw_probe(axes: Axes, plan: dict, snapshot: dict) -> None:
    """Draw what each one answers to one text, side by side."""
    answers = zip(plan["probe"]["who"], snapshot["values"], strict=True)
    bars = {name: (np.array(values), LOOKS[name]) for name, values in answers}
    if plan["probe"]["kind"] == "value":
        draw_grouped_bars(axes, bars, snapshot["names"], lambda v: f"{v:.2f}")
    else:
        labels = [f"★ {n}" if i == snapshot["star"] else n for i, n in enumerate(snapshot["names"])]
        draw_grouped_bars(axes, bars, labels, lambda v: percent(v, 1))
        axes.set(xlim=(0, min(1.12, 1.15 * max(map(max, snapshot["values"])))), xlabel="probability")
        in_percent(axes.xaxis)
    truth = plan["probe"]["truth"]
    set_title(axes, plan["probe"]["text"] + (f" (★ {truth})" if truth else ""))


def _looks_of_terms(columns: Sequence[dict]) -> dict[str, Look]:
    """Give each curve of a loss its look by name, as live.js does: the twin's hard labels are the twin's."""
    looks: dict[str, Look] = {}
    others = itertools.cycle((OTHERS[2], OTHERS[4], OTHERS[3]))
    for column in columns:
        term = re.match(r"hard|soft|", column["name"].partition(", ")[2]).group()
        look = TWIN if column["who"] == "twin" and term == "hard" else TERMS.get(term)
        looks[column["name"]] = next(others) if look is None or look in looks.values() else look
    return looks
