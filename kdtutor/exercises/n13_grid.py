"""The exercises of notebook 13 on the grid of whole numbers: a scale for each row, its range, and who is rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------- 13.1 a scale for each row


def quantize_rows(weights: Tensor, bits: int, wrong: frozenset[str] = RIGHT) -> tuple[Tensor, Tensor]:
    """Round a matrix (N, M) to whole numbers from -(2^(bits-1) - 1) up, 0 for 0. Returns them, and a scale (N, 1)."""
    most = 2 ** (bits - 1) - 1
    if "one number too many" in wrong:
        most = 2 ** (bits - 1)
    if "the sign takes no bit" in wrong:
        most = 2**bits - 1
    if "eight bits, whatever was asked for" in wrong:
        most = 127
    if {"half of the bits", "half of the bits, one more"} & wrong:
        most = 2 ** (bits // 2) - ("half of the bits" in wrong)
    size = weights if "the most negative forgotten" in wrong else weights.abs()
    largest = size.amax(1, keepdim=True)
    if "one scale for all" in wrong:
        largest = size.amax().expand(len(weights), 1)
    if "a scale for each column" in wrong:
        largest = size.amax(0, keepdim=True)
    scale = largest / most
    least = weights.amin(1, keepdim=True)
    if {"a grid for activations", "a grid for activations, not shifted"} & wrong:
        scale = (weights.amax(1, keepdim=True) - least) / (2**bits - 1)
    values = weights / scale
    values = values.trunc() if "cut off, not rounded" in wrong else values.round()
    if "a grid for activations" in wrong:
        values = values + (-least / scale).round()
    if "a grid from the least weight up" in wrong:
        scale = (weights.amax(1, keepdim=True) - least) / (2**bits - 1)
        values = ((weights - least) / scale).round()
    if "one number too many, above cut off" in wrong:
        scale = largest / (most + 1)
        values = (weights / scale).round().clamp(-most - 1, most)
    if "the scale upside down" in wrong:
        scale = 1 / scale
    return values, scale


def _observe_rows(function: Callable, weights: Tensor, bits: int) -> dict:
    values, scale = function(weights, bits)
    return {"the matrix of whole numbers": values.double(), "the scale": scale}


QUANTIZE_ROWS = Exercise(
    name="quantize_rows",
    number="13.1",
    title="A scale for each row",
    reference=quantize_rows,
    mistakes=(
        Mistake(
            "one scale for all",
            "All rows share the scale of the largest weight. An outlier in one row then coarsens all others.",
        ),
        Mistake(
            "a scale for each column",
            "Your scales belong to the columns. A matrix product adds up along a row: whose scale can be taken out of "
            "that sum?",
        ),
        Mistake(
            "one number too many",
            "Your largest weight becomes one more than the largest number that so many bits hold, with a sign.",
            also=("one number too many, above cut off",),
        ),
        Mistake(
            "eight bits, whatever was asked for",
            "Your numbers reach to ±127, however many bits are given. Whence does 127 come?",
        ),
        Mistake(
            "half of the bits",
            "Your numbers reach to 2 to the power of *half* the bits. The sign takes one bit, not half of them.",
            also=("half of the bits, one more",),
        ),
        Mistake(
            "a grid for activations",
            "Your scale comes from the distance between a row's least and largest weight. Such a grid is shifted; "
            "around 0 it has to be the same on both sides.",
            also=("a grid for activations, not shifted", "a grid from the least weight up"),
        ),
        Mistake(
            "the sign takes no bit",
            "Your numbers need a bit more than was given: what tells plus from minus?",
        ),
        Mistake(
            "the most negative forgotten",
            "Where the weight of largest size is negative, it falls off your grid: what is the largest *number* there?",
        ),
        Mistake(
            "cut off, not rounded",
            "All your numbers lie on the side of 0. Cutting off doubles the error, and shrinks every weight.",
        ),
        Mistake(
            "the scale upside down",
            "The numbers are right, and your scale leads away from the weights: is it a factor?",
        ),
    ),
    probes=lambda generator: [
        (torch.randn(3, 5, generator=generator) * torch.tensor([[1.0], [0.1], [-4.0]]) - 0.3, bits)
        for bits in (8, 4, 5)
    ],
    observe=_observe_rows,
)

# --------------------------------------------------------------------------------------------- 13.2 calibrated on what


def activation_grid(
    seen: Mapping[str, Tensor], bits: int, wrong: frozenset[str] = RIGHT
) -> tuple[float, int]:
    """Calibrate a static grid of 0 … 2^bits - 1: its scale, and the whole number that stands for 0.

    seen: the activations (n,) of a layer on texts of each split.
    """
    x = seen["train"]
    if "calibrated on test" in wrong:
        x = seen["test"]
    if "calibrated on everything" in wrong:
        x = torch.cat([*seen.values()])
    if "calibrated on test and validation" in wrong:
        x = torch.cat([seen["validation"], seen["test"]])
    if "calibrated on validation" in wrong:
        x = seen["validation"]
    if "calibrated on validation as well" in wrong:
        x = torch.cat([seen["train"], seen["validation"]])
    if "the outermost left out" in wrong:
        x = x.clamp(x.quantile(0.01), x.quantile(0.99))
    if "the outermost of a thousand left out" in wrong:
        x = x.clamp(x.quantile(0.001), x.quantile(0.999))
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if "the mean of the splits' ranges" in wrong:
        low = sum(min(float(x.min()), 0.0) for x in seen.values()) / len(seen)
        high = sum(max(float(x.max()), 0.0) for x in seen.values()) / len(seen)
    if "0 is off the grid" in wrong:
        low = float(x.min())
    if "0 is off the grid, above" in wrong:
        high = float(x.max())
    if "0 is off the grid, at either end" in wrong:
        low, high = float(x.min()), float(x.max())
    if "the same on both sides" in wrong:
        high = max(high, -low)
        low = -high
    if "eight bits, whatever was asked for" in wrong:
        bits = 8
    if "the negative ones forgotten" in wrong:
        low = 0.0
    if "three standard deviations" in wrong or "three standard deviations, and 0" in wrong:
        low, high = (float(x.mean() + side * x.std()) for side in (-3, 3))
        low, high = (low, high) if "three standard deviations" in wrong else (min(low, 0.0), max(high, 0.0))
    scale = (high - low) / (2**bits if "steps are not numbers" in wrong else 2**bits - 1)
    zero = -low / scale if scale else 0.0
    if "counted from above" in wrong:
        zero = high / scale
    if "the scale upside down" in wrong:
        scale = 1 / scale
    if "the zero point has the other sign" in wrong:
        zero = -zero
    if "the zero point in the middle" in wrong:
        zero = 2 ** (bits - 1)
    if "the zero point as an activation" in wrong:
        zero = -low
    if "the least activation for the zero point" in wrong:
        return scale, low
    if "the same on both sides, and 0 in the middle" in wrong:
        return 2 * float(x.abs().max()) / (2**bits - 1), 2 ** (bits - 1)
    if "the same on both sides, and no zero point" in wrong:
        return float(x.abs().max()) / (2 ** (bits - 1) - 1), 0
    if "the zero point not rounded to the nearest" in wrong:
        return scale, int(zero)
    if "the zero point rounded up" in wrong:
        return scale, math.ceil(zero)
    return scale, zero if "a zero point between two numbers" in wrong else round(zero)


def _observe_grid(function: Callable, seen: Mapping[str, Tensor], bits: int) -> dict:
    scale, zero = function(seen, bits)
    return {"the scale": float(scale), "the zero point": float(zero)}


def _grid_probes(generator: torch.Generator) -> list[tuple]:
    def seen(shift: float) -> dict[str, Tensor]:
        # Neither the widest range nor the largest number is the same split's everywhere.
        spread = {"train": (1.6, 0.25), "validation": (1.3, 0.4), "test": (1.2, 0.55)}
        return {
            name: width * (torch.rand(40, generator=generator) - below) + shift
            for name, (width, below) in spread.items()
        }

    # The last but one has no activation below 0, where a GELU's would, and the last none above.
    probes = [(seen(0.0), 8), (seen(-0.1), 6), (seen(2.0), 8), (seen(-2.5), 8)]
    for (splits, bits), fraction in zip(probes[:2], (0.7, 0.3), strict=True):  # to be rounded up, and down
        x, steps = splits["train"], 2**bits - 1
        zero = int(steps * -x.min() / (x.max() - x.min())) + fraction
        low = -zero * x.max() / (steps - zero)
        splits["train"] = torch.cat([low[None], x.clamp(min=float(low))[1:], x.max()[None]])
    return probes


ACTIVATION_GRID = Exercise(
    name="activation_grid",
    number="13.2",
    title="Calibrated on what?",
    reference=activation_grid,
    mistakes=(
        Mistake(
            "calibrated on test",
            "The range is that of the texts by which you will judge. Whatever is fitted to them, be it two numbers a "
            "layer, makes the score a little better than it will be for anybody else.",
        ),
        Mistake(
            "calibrated on everything",
            "The range is that of several splits, and so of the texts by which you will judge, too.",
            also=("the mean of the splits' ranges", "calibrated on test and validation"),
        ),
        Mistake(
            "calibrated on validation",
            "Validation is there to choose between what has been calibrated: it can't be what you calibrate on.",
            also=("calibrated on validation as well",),
        ),
        Mistake(
            "0 is off the grid",
            "Where all activations lie on one side of 0, your grid has no number for 0. Padding and everything that a "
            "ReLU has cut off is exactly 0.",
            also=("0 is off the grid, above", "0 is off the grid, at either end"),
        ),
        Mistake(
            "the same on both sides",
            "Your grid reaches as far below 0 as above. Activations don't: half of the numbers are never used.",
            also=("the same on both sides, and no zero point", "the same on both sides, and 0 in the middle"),
        ),
        Mistake(
            "eight bits, whatever was asked for",
            "Your grid has 256 numbers, however many bits are given. Whence does 255 come?",
        ),
        Mistake(
            "the outermost left out",
            "Your grid ends before the activations do. That can be a good idea; this grid was to hold all of them.",
            also=("the outermost of a thousand left out",),
        ),
        Mistake(
            "steps are not numbers",
            "Your scale is too small by a hair: between so many numbers there is one step fewer.",
        ),
        Mistake(
            "the negative ones forgotten",
            "Your grid begins at 0. What lies below, such as the values of a GELU, is cut off.",
        ),
        Mistake(
            "three standard deviations",
            "Your grid is as wide as the activations usually are. This one was to hold all that were seen.",
            also=("three standard deviations, and 0",),
        ),
        Mistake(
            "counted from above",
            "Your zero point is the number of steps from 0 up to the largest activation. The grid begins at its lower "
            "end.",
        ),
        Mistake(
            "the scale upside down",
            "Your scale is the number of steps per unit. What is one step worth?",
        ),
        Mistake(
            "the zero point has the other sign",
            "Your zero point lies on the wrong side: it stands for 0 itself.",
        ),
        Mistake(
            "the zero point in the middle",
            "Your zero point is the grid's middle, wherever 0 lies among the activations.",
        ),
        Mistake(
            "the zero point as an activation",
            "Your zero point is as far from the least activation as 0 is, counted in activations. Count it in steps.",
            also=("the least activation for the zero point",),
        ),
        Mistake(
            "the zero point not rounded to the nearest",
            "Your zero point is a whole number, but not the nearest one: you cut off, or always round up.",
            also=("the zero point rounded up",),
        ),
        Mistake(
            "a zero point between two numbers",
            "Your zero point is no whole number, so nothing on the grid stands for 0.",
        ),
    ),
    planted=("calibrated on test",),
    symptom="It scores best on the very texts by which it is judged, and nobody else's texts are like those.",
    probes=_grid_probes,
    observe=_observe_grid,
)

EXERCISES = [QUANTIZE_ROWS, ACTIVATION_GRID]
