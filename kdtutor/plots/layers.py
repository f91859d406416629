"""Pictures of what two models' layers have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.patches import Rectangle

from kdtutor.errors import KDTutorError
from kdtutor.plots.style import INK, Picture, as_array, canvas, describe, draw_heatmap, set_title, styled


@styled
def similarity_maps(
    maps: Mapping[str, object], pairs: Mapping[str, Mapping[int, int]] | None = None
) -> Picture:
    """Draw for each name a map of similarities from 0 to 1: a row for each layer of the student, a column for each of
    the teacher's, embeddings first.

    pairs: for some of the names {student's layer: teacher's}, framed: those that a training brought together. Raises
    KDTutorError if a map is no grid, or if a pair lies outside it.
    """
    grids = {name: as_array(grid) for name, grid in maps.items()}
    framed = {name: dict((pairs or {}).get(name, {})) for name in grids}
    for name, grid in grids.items():
        if grid.ndim != 2:
            raise KDTutorError(f"{name} has the shape {grid.shape}, not (student's layers, teacher's layers)")
        for s, t in framed[name].items():
            if not (0 <= s < grid.shape[0] and 0 <= t < grid.shape[1]):
                raise KDTutorError(
                    f"{name} has no layers {s} (student) and {t} (teacher): it is {grid.shape}"
                )

    widths = [grid.shape[1] for grid in grids.values()]
    size = sum(1.1 + 0.52 * width for width in widths) + 0.6, 1.5 + 0.5 * max(map(len, grids.values()))
    picture, all_axes = canvas(*size, columns=len(grids), squeeze=False, width_ratios=widths)
    for axes, (name, grid) in zip(all_axes[0], grids.items(), strict=True):
        drawn = draw_heatmap(axes, grid, 1, range(len(grid)), range(grid.shape[1]), numbers=True)
        axes.tick_params(axis="x", rotation=0)
        axes.set(xlabel="teacher's layer")
        for s, t in framed[name].items():
            axes.add_patch(
                Rectangle((t - 0.47, s - 0.44), 0.94, 0.88, fill=False, edgecolor=INK, linewidth=2.4)
            )
        set_title(axes, name)
    all_axes[0, 0].set_ylabel("student's layer")
    picture.colorbar(drawn, ax=all_axes, shrink=0.9, label="linear CKA").ax.set_yticks([0, 0.5, 1])
    said = "; ".join(f"{name}: {_habit(grid, framed[name])}" for name, grid in grids.items())
    return describe(picture, f"Linear CKA of the student's layers with the teacher's, in hundredths. {said}.")


def _habit(grid: np.ndarray, pairs: Mapping[int, int]) -> str:
    """Say which of the teacher's layers each of the student's resembles most, and how much the framed pairs do."""
    most = ", ".join(
        f"{s} resembles {row.argmax()} most ({row.max():.2f})" if row.max() > 0 else f"{s} resembles none"
        for s, row in enumerate(grid)
    )
    framed = ", ".join(f"{s} and {t} {grid[s, t]:.2f}" for s, t in pairs.items())
    return most + (f", and of the framed pairs {framed}" if framed else "")
