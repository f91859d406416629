"""Figures about broken texts and doubt: what is kept of a score as something grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdtutor.plots.style import (
    Picture,
    as_vector,
    canvas,
    describe,
    draw_curve,
    in_percent,
    looks_of,
    percent,
    set_title,
    styled,
)


@styled
def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str = "share of the words that are broken",
    ylabel: str = "test accuracy",
    title: str = "",
) -> Picture:
    """Draw fractions against a fraction, a line for each name: x and y, (n,) each, such as strengths and accuracies."""
    picture, axes = canvas(7.2, 4.2)
    looks, said = looks_of(series), []
    for name, (x, y) in series.items():
        x, y, look = as_vector(x), as_vector(y), looks[name]
        draw_curve(axes, x, y, look, name, markers=10)
        said.append(f"{name} from {percent(y[0], 1)} to {percent(y[-1], 1)}")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in (axes.xaxis, axes.yaxis):
        in_percent(axis, None)
    axes.grid()
    axes.legend()
    if title:
        set_title(axes, title)
    ends = [as_vector(x)[[0, -1]] for x, _ in series.values()]
    low, high = np.min(ends), np.max(ends)
    return describe(
        picture, f"{ylabel} as {xlabel} goes from {percent(low)} to {percent(high)}: {'; '.join(said)}."
    )
