"""The plain picture of `BeTheTeacher`, for places where no widget can run."""

from __future__ import annotations

import textwrap

import numpy as np

from kdtutor.plots.style import (
    OTHERS,
    STUDENT,
    TEACHER,
    Look,
    Picture,
    describe,
    draw_grouped_bars,
    in_percent,
    percent,
    styled,
)


@styled
def lesson(panels, target, rows, classes, names, sentence: str) -> Picture:
    """Draw a panel for each text: the shown classes, and a bar for each student; your target in the first panel."""
    rest = [c for c in range(len(names)) if c not in classes]
    shown = [names[c] for c in classes] + ([f"{len(rest)} others"] if rest else [])

    def values(p: np.ndarray) -> np.ndarray:
        return np.append(p[classes], p[rest].sum()) if rest else p[classes]

    looks = {
        "before the lesson": Look("white", "", "-", ""),
        "your target": TEACHER,
        "student, your target": STUDENT,
        "student, label": OTHERS[1],
    }
    columns = 2
    lines = -(-len(panels) // columns)
    picture = Picture(figsize=(11, 0.5 + lines * (1.2 + 0.56 * len(shown))), layout="constrained")
    for axes, place in zip(
        picture.subplots(lines, columns, squeeze=False).flat, range(lines * columns), strict=True
    ):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        text, label = panels[place]
        series = {"before the lesson": rows["start"][place]} | ({"your target": target} if place == 0 else {})
        series |= {"student, your target": rows["yours"][place], "student, label": rows["label"][place]}
        drawn = {name: (values(p), looks[name]) for name, p in series.items()}
        draw_grouped_bars(
            axes, drawn, [f"★ {n}" if n == names[label] else n for n in shown], lambda v: percent(v)
        )
        axes.set(xlim=(0, 1.14), xticks=np.linspace(0, 1, 6))
        in_percent(axes.xaxis)
        axes.tick_params(axis="x", labelsize=10)
        title = textwrap.shorten(("the lesson: " if place == 0 else "") + text, 110, placeholder=" …")
        axes.set_title("\n".join(textwrap.wrap(title, 48)), loc="left", fontsize=12)
        if place == 0:
            handles = axes.get_legend_handles_labels()
        axes.get_legend().remove()
    picture.legend(*handles, loc="outside lower center", ncols=4)
    return describe(picture, sentence)
