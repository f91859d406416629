"""Figures of what rounding does: a grid of whole numbers under the weights, and score against bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdtutor.plots.style import (
    INK,
    OTHERS,
    STUDENT,
    TEACHER,
    Picture,
    as_array,
    canvas,
    describe,
    in_percent,
    looks_of,
    percent,
    styled,
)


@styled
def rounding_grid(weights, row: int, bits: int = 4) -> Picture:
    """Draw one row of a matrix (N, M) over the grid that it is rounded to, and the error of every row.

    Once with one scale for the whole matrix, once with a scale for each row; symmetric, as weights are rounded.
    """
    weights = as_array(weights)
    most = 2 ** (bits - 1) - 1
    largest = {
        "one scale": np.full(len(weights), np.abs(weights).max()),
        "a scale for each row": np.abs(weights).max(1),
    }
    looks = dict(zip(largest, (STUDENT, TEACHER), strict=True))
    picture, (left, right) = canvas(10.4, 4.4, 2)
    chosen, errors = weights[row], {}
    for place, (name, size) in enumerate(largest.items()):
        scale = (size / most)[:, None]
        errors[name] = _relative_errors(weights, (weights / scale).round() * scale)
        y, grid = 1 - place, scale[row, 0] * np.arange(-most, most + 1)
        seen = grid[np.abs(grid) <= 1.3 * np.abs(chosen).max()]
        left.vlines(seen, y - 0.3, y + 0.3, color=looks[name].colour, linewidth=1.6)
        shaken = y + np.linspace(-0.2, 0.2, len(chosen))
        left.scatter(chosen, shaken, 12, color=INK, marker=".", alpha=0.6, linewidths=0)
        right.plot(
            np.sort(errors[name])[::-1],
            linestyle=looks[name].line,
            color=looks[name].colour,
            label=name,
        )
    left.set(
        yticks=[1, 0],
        yticklabels=[*largest],
        ylim=(-0.6, 1.6),
        xlabel=f"weights of row {row}, and their grid",
    )
    right.set(xlabel="rows, the worst first", ylabel="error / size of the weights", ylim=(0, None))
    in_percent(right.yaxis)
    right.legend()
    middle = {name: percent(float(np.median(error)), 0) for name, error in errors.items()}
    return describe(
        picture,
        f"{len(weights)} rows of weights rounded to {bits} bits. With one scale for all, row {row} meets few points of "
        f"the grid, and the error of the median row is {middle['one scale']} of its weights' size; with a scale for "
        f"each row it is {middle['a scale for each row']}.",
    )


def _relative_errors(weights: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """Divide the size of each row's error by the row's own: (N,)."""
    return np.sqrt(((rounded - weights) ** 2).mean(1)) / np.sqrt((weights**2).mean(1))


@styled
def score_by_bytes(models: Mapping[str, tuple[float, float, int]], score: str = "accuracy") -> Picture:
    """Draw models by name, each (bytes, score, texts it was measured on), on a logarithmic axis of bytes.

    The line is the 95 % interval that so many texts leave.
    """
    picture, axes = canvas(8.6, 4.6)
    looks, said = looks_of(models), []
    half = {name: 1.96 * (score * (1 - score) / n) ** 0.5 for name, (_, score, n) in models.items()}
    by_size = sorted(models, key=lambda name: models[name][0])
    for i, (name, (size, value, _)) in enumerate(models.items()):
        look = looks[name] if len(models) <= len(OTHERS) + 2 else OTHERS[i % len(OTHERS)]
        axes.errorbar(
            size / 1e6, value, half[name], ecolor=INK, elinewidth=1.2, capsize=4, linestyle="none", zorder=1
        )
        axes.scatter(size / 1e6, value, 110, color=look.colour, marker=look.marker, edgecolor=INK, zorder=2)

        # Names stand in turn above and below the intervals, clear of those that are near.
        side = 1 if by_size.index(name) % 2 == 0 else -1
        near = [other for other in models if 0.6 < models[other][0] / size < 1 / 0.6]
        end = max(side * models[other][1] + half[other] for other in near)
        axes.annotate(
            name,
            (size / 1e6, side * end),
            xytext=(0, 6 * side),
            textcoords="offset points",
            ha="center",
            va="bottom" if side > 0 else "top",
        )
        said.append(f"{name} {size / 1e6:.1f} MB and {percent(value, 1)}")
    _logarithmic(axes, [size / 1e6 for size, *_ in models.values()])
    lowest = min(score - half[name] for name, (_, score, _) in models.items())
    highest = max(score + half[name] for name, (_, score, _) in models.items())
    # Room for the names.
    axes.set_ylim(lowest - 0.2 * (highest - lowest), highest + 0.2 * (highest - lowest))
    axes.set(xlabel="megabytes", ylabel=score)
    # Whole per cent, as they are written.
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    in_percent(axes.yaxis)
    axes.grid(axis="y")
    return describe(picture, f"{score.capitalize()} and size: {'; '.join(said)}.")


def _logarithmic(axes: Axes, megabytes: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 40, 80, 160, 320])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlim(min(megabytes) / 2, 1.9 * max(megabytes))
