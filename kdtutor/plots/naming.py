"""Names beside points: each where it covers no mark, no interval and no other name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

#: Where a name may stand, as (right, up): beside its mark first, then above or below it, and on its left at last.
SIDES = ((1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1))
GAPS = (6, 16, 30, 50)  # typographic points between a mark and its name: nearer is tried first


class Point(NamedTuple):
    """A mark of `area` (points², as scatter has it) at (x, y) in data, and its interval from low to high."""

    x: float
    y: float
    text: str
    area: float
    low: float
    high: float


def name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each point's text at the first place where it touches nothing and stays within the axes.

    Where there is none, at the place where it covers least. Limits and scales of the axes are to be set before.
    """
    picture = axes.figure
    picture.draw_without_rendering()  # the layout, which places are counted in
    inside = axes.get_window_extent()
    taken = [_box(axes, point) for point in points]

    for point in points:
        name = axes.annotate(point.text, (point.x, point.y), (0, 0), textcoords="offset points")
        tried = []
        for gap, side in itertools.product(GAPS, SIDES):
            _put(name, side, math.sqrt(point.area) / 2 + gap)
            box = name.get_window_extent()
            covered = sum(_shared(box, other) for other in taken)
            outside = box.width * box.height - _shared(box, inside)
            tried.append((covered + outside, len(tried), gap, side))
            if covered + outside < 1:  # pixels²
                break
        *_, gap, side = min(tried)
        _put(name, side, math.sqrt(point.area) / 2 + gap)
        taken.append(name.get_window_extent())


def _put(name, side: tuple[int, int], distance: float) -> None:
    """Move a name to a side of its point; at a corner it is as near as beside it."""
    right, up = side
    reach = distance / math.hypot(right, up)
    name.set_position((right * reach, up * reach))
    name.set_horizontalalignment({1: "left", 0: "center", -1: "right"}[right])
    name.set_verticalalignment({1: "bottom", 0: "center", -1: "top"}[up])


def _box(axes: Axes, point: Point) -> Bbox:
    """Return what a mark and its interval take, in pixels."""
    x, y = axes.transData.transform((point.x, point.y))
    low, high = axes.transData.transform([(point.x, point.low), (point.x, point.high)])[:, 1]
    radius = math.sqrt(point.area) / 2 * axes.figure.dpi / 72
    return Bbox.from_extents(x - radius, min(low, y - radius), x + radius, max(high, y + radius))


def _shared(a: Bbox, b: Bbox) -> float:
    """Return the area that two boxes share, in pixels²."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else both.width * both.height
