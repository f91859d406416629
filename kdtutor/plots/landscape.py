"""Pictures of a search: what every point is worth, and how the best of a sequence of trials grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from kdtutor.plots.style import (
    INK,
    NBSP,
    Picture,
    as_array,
    canvas,
    describe,
    draw_curve,
    in_percent,
    looks_of,
    percent,
    styled,
)


@styled
def landscape(
    scores,
    rows: Sequence[float],
    columns: Sequence[float],
    names: tuple[str, str] = ("α", "T"),
    references: Mapping[str, float] | None = None,
) -> Picture:
    """Draw what each point of a grid scored, (rows, columns), as fractions; NaN is a point that nobody has tried.

    The colours reach from the lowest to the highest score, so they show differences and not sizes; the numbers are in
    per cent. The highest is framed. references: scores to name below the picture, such as the control's.
    """
    grid = as_array(scores)
    low, high = np.nanmin(grid), np.nanmax(grid)
    picture, axes = canvas(2.2 + 0.95 * len(columns), 1.3 + 0.55 * len(rows))
    drawn = axes.imshow(grid, cmap="Blues", vmin=low - 0.15 * (high - low + 1e-9), vmax=high, aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=names[1], ylabel=names[0])
    for (row, column), value in np.ndenumerate(grid):
        ink = "white" if value > low + 0.6 * (high - low) else INK
        text = "?" if np.isnan(value) else f"{100 * value:.1f}"
        axes.annotate(text, (column, row), ha="center", va="center", fontsize=11, color=ink)
    row, column = np.unravel_index(np.nanargmax(grid), grid.shape)
    axes.add_patch(
        Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=INK, linewidth=2.6)
    )
    picture.colorbar(drawn, ax=axes, shrink=0.9, format=PercentFormatter(1, decimals=1, symbol=f"{NBSP}%"))
    lines = ", ".join(f"{name} {percent(score, 1)}" for name, score in (references or {}).items())
    best = f"highest {percent(high, 1)} at {names[0]} = {rows[row]:g}, {names[1]} = {columns[column]:g}"
    return describe(
        picture,
        f"Scores by {names[0]} (rows) and {names[1]} (columns): {best}; lowest {percent(low, 1)}"
        + (f". Beside them: {lines}." if lines else "."),
    )


@styled
def best_so_far(
    trials: Mapping[str, Sequence[float]],
    running: bool = True,
    ylabel: str = "best validation accuracy so far",
) -> Picture:
    """Draw the running maximum of each sequence of scores, (trials,) each, over the number of trials.

    running=False: the scores themselves, where they are those of the best of so many already.
    """
    picture, axes = canvas(8.0, 4.2)
    looks, said = looks_of(trials), []
    for name, scores in trials.items():
        best = np.maximum.accumulate(as_array(scores)) if running else as_array(scores)
        draw_curve(axes, np.arange(1, len(best) + 1), best, looks[name], name)
        said.append(f"{name} {percent(best[0], 1)} after one and {percent(best[-1], 1)} after {len(best)}")
    axes.set(xlabel="trials", ylabel=ylabel)
    in_percent(axes.yaxis, 1)
    axes.grid()
    axes.legend(loc="lower right")
    return describe(picture, f"The {ylabel} by number of trials: {'; '.join(said)}.")
