"""The plain picture of a live distillation, for places where no widget can run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

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
    percent,
    set_title,
    styled,
)


@styled
def live_distillation(
    plan: dict, curves: dict, snapshot: dict, names: Sequence[str], sentence: str
) -> Picture:
    """Draw three panels: score, losses, probe.

    plan, curves, snapshot: what the instrument holds. names: who learns, in the order of the scores. sentence: what is
    seen.
    """
    who = plan["probe"]["who"]
    below = 0.9 + 0.19 * len(snapshot["names"]) * len(who)  # inches
    picture = Picture(figsize=(9.6, 3.4 + below), layout="constrained")
    grid = picture.add_gridspec(2, 2, height_ratios=[3.4, below])
    looks = {"teacher": TEACHER, "student": STUDENT, "twin": TWIN}
    left, right = picture.add_subplot(grid[0, 0]), picture.add_subplot(grid[0, 1])
    scores, losses = curves["scores"], curves["losses"]
    window = max(1, math.ceil(plan["total"] / plan["width"]) // 20)  # points that are smoothed, as in live.js
    for i, name in enumerate(names, start=1):
        points = [(row[0], row[i]) for row in scores if row[i] is not None]
        if points:
            draw_curve(left, *zip(*points, strict=True), looks[name], name)
    terms = _looks_of_terms(plan["losses"])
    for i, column in enumerate(plan["losses"], start=1):
        points = [(row[0], row[i]) for row in losses if row[i] is not None]
        look = terms[column["name"]]
        if points:
            x, y = np.array(points).T
            y = [y[max(0, k + 1 - window) : k + 1].mean() for k in range(len(y))]
            draw_curve(right, x, y, look, column["name"])
    total, over = plan["total"], window * plan["width"]
    smoothed = "loss terms" + (f", each the mean over {over} steps" if over > 1 else "")
    if plan["goal"] is not None:
        left.axhline(plan["goal"], color=TEACHER.colour, linestyle=":", label="teacher")
    for axes, title in ((left, plan["score"]), (right, smoothed)):
        axes.set(xlabel="step", xlim=(0, total))
        set_title(axes, title)
        axes.grid()
        if axes.lines:
            axes.legend()
    if plan["fraction"]:
        left.set_ylim(0, 1)
        left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes = picture.add_subplot(grid[1, :])
    bars = {
        name: (np.array(values), looks[name]) for name, values in zip(who, snapshot["values"], strict=True)
    }
    if plan["probe"]["kind"] == "value":
        draw_grouped_bars(axes, bars, snapshot["names"], lambda v: f"{v:.2f}")
    else:
        labels = [f"★ {n}" if i == snapshot["star"] else n for i, n in enumerate(snapshot["names"])]
        draw_grouped_bars(axes, bars, labels, lambda v: percent(v, 1))
        axes.set(xlim=(0, min(1.12, 1.15 * max(map(max, snapshot["values"])))), xlabel="probability")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    truth = plan["probe"]["truth"]
    set_title(axes, plan["probe"]["text"] + (f" (★ {truth})" if truth else ""))
    return describe(picture, sentence)


def _looks_of_terms(columns: Sequence[dict]) -> dict[str, Look]:
    """Give each curve of a loss its look by name, as live.js does: the twin's hard labels are the twin's."""
    looks: dict[str, Look] = {}
    others = itertools.cycle((OTHERS[2], OTHERS[4], OTHERS[3]))
    for column in columns:
        term = re.match(r"hard|soft|", column["name"].partition(", ")[2]).group()
        look = TWIN if column["who"] == "twin" and term == "hard" else TERMS.get(term)
        looks[column["name"]] = next(others) if look is None or look in looks.values() else look
    return looks
