"""Pictures of attention, masks and positions."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from kdtutor.plots.style import (
    OTHERS,
    TEACHER,
    Picture,
    as_array,
    as_grid,
    canvas,
    describe,
    draw_curve,
    draw_heatmap,
    in_percent,
    percent,
    set_title,
    styled,
)


@styled
def attention_maps(
    weights: Mapping[str, object], queries: Sequence[str], keys: Sequence[str] | None = None, title: str = ""
) -> Picture:
    """Show who looks where: for each name a map (Lq, Lk), a row for each query and a column for each key.

    keys: by default the queries themselves. Small maps show their weights in per cent. Raises KDTutorError if a map's
    shape is not that of the tokens.
    """
    keys = queries if keys is None else keys
    maps = {name: as_grid(w, len(queries), len(keys), name) for name, w in weights.items()}
    highest = max(w.max() for w in maps.values())
    size = len(maps) * (1.3 + 0.34 * len(keys)) + 0.9, 1.6 + 0.34 * len(queries)
    picture, all_axes = canvas(*size, columns=len(maps), squeeze=False, sharey=True)
    for axes, (name, w) in zip(all_axes[0], maps.items(), strict=True):
        drawn = draw_heatmap(axes, w, highest, queries, keys, numbers=w.size <= 50)
        axes.set(xlabel="is looked at (key)")
        set_title(axes, name)
    all_axes[0, 0].set_ylabel("looks (query)")
    scale = picture.colorbar(drawn, ax=all_axes, shrink=0.8, format=PercentFormatter(1, 0, " %"))
    scale.set_label("weight")
    if title:
        picture.suptitle(textwrap.shorten(title, 90, placeholder=" …"))
    said = [
        f"{name}: {_habit(w, keys)}, and the largest single weight is {percent(w.max())}, from "
        f"{queries[w.argmax() // len(keys)]} to {keys[w.argmax() % len(keys)]}"
        for name, w in maps.items()
    ]
    return describe(
        picture, f"Attention weights of {len(queries)} queries over {len(keys)} keys. {'; '.join(said)}."
    )


def _habit(w: np.ndarray, keys: Sequence[str]) -> str:
    """Say where most of the attention (Lq, Lk) goes: one step back or forward, or else to which key."""
    steps = {"the token before": -1, "itself": 0, "the token after": 1}
    shares = {name: np.trace(w, step) / len(w) for name, step in steps.items()}
    favourite = max(shares, key=shares.get)
    if shares[favourite] > 0.5:
        return f"from each token, {percent(shares[favourite])} of it goes to {favourite}"
    return f"most of it goes to {keys[w.mean(0).argmax()]} ({percent(w.mean(0).max())} on average)"


@styled
def masks(
    allowed: Mapping[str, object], queries: Sequence[str], keys: Sequence[str] | None = None
) -> Picture:
    """Draw for each name a boolean mask (Lq, Lk): which query may look at which key."""
    keys = queries if keys is None else keys
    grids = {name: as_grid(m, len(queries), len(keys), name) for name, m in allowed.items()}
    size = len(grids) * (0.9 + 0.36 * len(keys)) + 0.6, 1.7 + 0.36 * len(queries)
    picture, all_axes = canvas(*size, columns=len(grids), squeeze=False, sharey=True)
    for axes, (name, grid) in zip(all_axes[0], grids.items(), strict=True):
        draw_heatmap(axes, 0.5 * grid, 1, queries, keys)
        for row, column in np.argwhere(grid):
            axes.annotate("✓", (column, row), ha="center", va="center")
        axes.set(xlabel="key")
        set_title(axes, name)
    all_axes[0, 0].set_ylabel("query")
    said = [f"{name} {int(grid.sum())}" for name, grid in grids.items()]
    return describe(
        picture,
        f"Masks; ✓ where a query (row) may look at a key (column). Of {len(queries) * len(keys)} pairs are allowed: "
        f"{', '.join(said)}.",
    )


@styled
def attention_overview(attentions: Sequence[object], tokens: Sequence[str]) -> Picture:
    """Draw every head of a model as a small map: a row for each layer, whose weights are (H, L, L) or (1, H, L, L)."""
    layers = [as_array(a).reshape(-1, len(tokens), len(tokens)) for a in attentions]
    heads = len(layers[0])
    picture = Picture(figsize=(1.05 * heads + 0.7, 1.05 * len(layers) + 0.6), layout="constrained")
    favourites = {}
    for row, (layer, line) in enumerate(
        zip(layers, picture.subplots(len(layers), heads, squeeze=False), strict=True)
    ):
        for column, (w, axes) in enumerate(zip(layer, line, strict=True)):
            draw_heatmap(axes, w, 1, (), ())
            axes.set_title(f"head {column}" if row == 0 else "", fontsize=11)
            axes.set_ylabel(f"layer {row}" if column == 0 else "", fontsize=11)
            favourite = tokens[w.mean(0).argmax()]
            favourites[favourite] = favourites.get(favourite, 0) + 1
    said = [f"{name} in {count}" for name, count in sorted(favourites.items(), key=lambda item: -item[1])]
    return describe(
        picture,
        f"Attention maps of {len(layers)} layers × {heads} heads over {len(tokens)} tokens. The token that is looked "
        f"at most is {', '.join(said[:3])} of the {len(layers) * heads} maps.",
    )


@styled
def head_shares(shares: Mapping[str, object]) -> Picture:
    """Show what each head does, as numbers: for each name a share (layers, heads), from 0 to 1."""
    grids = {name: as_array(share) for name, share in shares.items()}
    layers, heads = next(iter(grids.values())).shape
    rows = -(-len(grids) // 2)
    size = 1.1 + 2 * (0.2 + 0.42 * heads), rows * (0.8 + 0.36 * layers) + 0.3
    picture = Picture(figsize=size, layout="constrained")
    all_axes = picture.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    for axes, name in itertools.zip_longest(all_axes.flat, grids):
        if name is None:
            axes.set_visible(False)
            continue
        draw_heatmap(axes, grids[name], 1, range(layers), range(heads), numbers=True)
        axes.tick_params(axis="x", rotation=0)
        set_title(axes, name)
    for axes in all_axes[-1]:
        axes.set_xlabel("head")
    for axes in all_axes[:, 0]:
        axes.set_ylabel("layer")
    said = [
        f"{name}: {percent(grid.mean())} over all heads, most in layer {grid.argmax() // heads}, head "
        f"{grid.argmax() % heads} ({percent(grid.max())})"
        for name, grid in grids.items()
    ]
    return describe(picture, f"Share of the attention, by layer and head. {'; '.join(said)}.")


@styled
def saturation(
    widths: Sequence[int], largest: Mapping[str, Sequence[float]], gradient: Mapping[str, Sequence[float]]
) -> Picture:
    """Show how a softmax over dot products fares as the width grows: largest weight, and size of its gradient."""
    picture, (left, right) = canvas(8.8, 3.8, columns=2)
    for i, name in enumerate(largest):
        draw_curve(left, widths, largest[name], OTHERS[i], name)
        draw_curve(right, widths, gradient[name], OTHERS[i], name)
    left.set(ylabel="largest weight", ylim=(0, 1.02))
    in_percent(left.yaxis)
    right.set(ylabel="gradient of a weight", yscale="log")
    right.set_yticks(ticks := [0.1, 0.03, 0.01, 0.003], [f"{tick:g}" for tick in ticks])
    for axes in (left, right):
        axes.set(xscale="log", xlabel="width d of query and key")
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.minorticks_off()
        axes.grid()
    left.legend()
    said = [
        f"{name}, the largest weight goes from {percent(largest[name][0])} to {percent(largest[name][-1])} and the "
        f"gradient from {gradient[name][0]:.1g} to {gradient[name][-1]:.1g}"
        for name in largest
    ]
    return describe(picture, f"As the width grows from {widths[0]:g} to {widths[-1]:g}: {'; '.join(said)}.")


@styled
def positions(encoding, reach: int = 30) -> Picture:
    """Draw a position encoding (L, D): its numbers, and the dot products of every two of its rows by their distance.

    Sines and cosines, the even columns and the odd ones, stand apart. reach: the largest distance drawn. The thin band
    holds the dot products of all pairs at a distance.
    """
    table = as_array(encoding)
    products = table @ table.T
    reach = min(reach, len(table) - 1)
    by_distance = [np.diagonal(products, offset) for offset in range(reach + 1)]
    mean = np.array([values.mean() for values in by_distance])
    picture, (left, right) = canvas(10.0, 4.2, columns=2)
    sorted_columns = np.concatenate([table[:, 0::2], table[:, 1::2]], 1)
    image = left.imshow(
        sorted_columns, cmap="cividis", vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
    )
    left.axvline(table.shape[1] / 2 - 0.5, color="white", linewidth=3)
    left.set(xlabel="even columns (sines), then odd ones (cosines)", ylabel="position", xticks=())
    picture.colorbar(image, ax=left, label="value", location="top", shrink=0.6)
    lowest, highest = ([f(values) for values in by_distance] for f in (np.min, np.max))
    right.fill_between(range(reach + 1), lowest, highest, color=OTHERS[4].colour, alpha=0.4)
    draw_curve(right, np.arange(reach + 1), mean, TEACHER, None)
    right.set(
        xlabel="distance of two positions", ylabel="dot product", ylim=(min(0, 1.1 * min(lowest)), None)
    )
    right.grid()
    spread = max(high - low for low, high in zip(lowest, highest, strict=True))
    depends = "the distance alone" if spread < 1e-3 * mean[0] else "more than the distance"
    return describe(
        picture,
        f"Encoding of {len(table)} positions in {table.shape[1]} columns. The dot product of two positions depends on "
        f"{depends}: {mean[0]:.1f} at distance 0, {mean[1]:.1f} at 1, {mean[reach]:.1f} at {reach}.",
    )
