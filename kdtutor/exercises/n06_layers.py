"""The exercises of notebook 06 on layers: how alike two are, and which teaches which."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 6.1 linear CKA


def linear_cka(x: Tensor, y: Tensor, mask: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """Compute ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, of two layers (B, L, D) over the tokens that are not padding."""
    if "each text by itself" in wrong:
        texts = zip(x.split(1), y.split(1), mask.split(1), strict=True)
        return torch.stack([linear_cka(*text) for text in texts]).mean()
    early = bool({"padding in the means", "zeros in the means", "each text centred by itself"} & wrong)
    if "zeros in the means" in wrong:
        x, y = (z * mask[..., None] - (z * mask[..., None]).mean((0, 1)) for z in (x, y))
    if "[CLS] alone" in wrong:
        x, y, mask = x[:, :1], y[:, :1], mask[:, :1]
    if "padding in the means" in wrong:
        x, y = x - x.mean((0, 1)), y - y.mean((0, 1))
    elif "each text centred by itself" in wrong:
        x, y = (z - z.mean(1, keepdim=True) for z in (x, y))
    real = torch.ones_like(mask) if "padding counted" in wrong else mask
    real = 1 - mask if "the padding for the tokens" in wrong else real
    if "one vector for each text" in wrong:
        x, y = ((z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for z in (x, y))
    elif "padding as zeros" in wrong:
        x, y = ((z * mask[..., None]).flatten(0, 1) for z in (x, y))
    else:
        x, y = x[real.bool()], y[real.bool()]
    tokens = x, y
    if "each token centred by itself" in wrong:
        x, y = (z - z.mean(-1, keepdim=True) for z in (x, y))
    elif "one mean for all numbers" in wrong:
        x, y = x - x.mean(), y - y.mean()
    elif not early:
        x = x if {"not centred", "the second layer centred alone"} & wrong else x - x.mean(0)
        y = y if {"not centred", "the first layer centred alone"} & wrong else y - y.mean(0)
    if "divided by spread" in wrong:
        x, y = x / x.std(0), y / y.std(0)
    if "another norm" in wrong:
        return _cka_by("nuc", x, y)
    if "the largest singular value for a norm" in wrong:
        return _cka_by(2, x, y)
    if "sums for norms" in wrong:
        return (y.T @ x).sum() ** 2 / ((x.T @ x).sum() * (y.T @ y).sum())
    top = (y.T @ x).norm()
    if "only above the bar centred" in wrong:
        x, y = tokens
    top = top if {"the square left out", "the root taken"} & wrong else top.square()
    if "not divided" in wrong:
        return top
    if "divided by the layers' own norms" in wrong:
        return top / (x.norm() * y.norm()).square()
    if "divided by one layer alone" in wrong:
        return top / (x.T @ x).norm().square()
    if "divided by the other layer alone" in wrong:
        return top / (y.T @ y).norm().square()
    bottom = (x.T @ x).norm() * (y.T @ y).norm()
    bottom = bottom.sqrt() if "the root taken" in wrong else bottom
    return top / (bottom.square() if "both norms squared" in wrong else bottom)


def _cka_by(norm: str | int, x: Tensor, y: Tensor) -> Tensor:
    top, left, right = (torch.linalg.norm(m, norm) for m in (y.T @ x, x.T @ x, y.T @ y))
    return top.square() / (left * right)


def _two_layers(generator: torch.Generator) -> tuple:
    """Draw padded states of two models that have something in common, far from 0, and as large at the padding."""
    texts, longest = 9, 7
    x = torch.randn(texts, longest, 6, generator=generator)
    y = torch.randn(texts, longest, 5, generator=generator)
    y[..., :3] += x[..., :3]
    lengths = torch.randint(2, longest, (texts, 1), generator=generator)
    mask = torch.arange(longest) < lengths
    x[~mask], y[~mask] = 3 * x[~mask], 3 * y[~mask] + 1
    return x + 0.5, y - 0.7, mask.long()


LINEAR_CKA = Exercise(
    name="linear_cka",
    number="6.1",
    title="Linear CKA",
    reference=linear_cka,
    mistakes=(
        Mistake(
            "each text by itself",
            "You compare within each text, and average over the texts. With so few tokens at a time a CKA is near 1 "
            "whatever the layers are: all tokens belong into one matrix.",
        ),
        Mistake(
            "not centred",
            "Your columns are not centred. Then whatever two layers have as their mean vector counts as something in "
            "common, and almost any two look alike.",
        ),
        Mistake(
            "padding counted",
            "What stands at the padding is in your sums. How far the longest text of a batch sticks out must not "
            "decide how alike two layers are.",
        ),
        Mistake(
            "padding in the means",
            "Your sums leave the padding out, but your means were taken before that.",
            also=("zeros in the means",),
        ),
        Mistake("[CLS] alone", "You compare the first token of each text alone. All tokens are to be rows."),
        Mistake(
            "sums for norms",
            "You add up the entries of the products, where positive and negative ones cancel. A norm squares them.",
        ),
        Mistake(
            "only above the bar centred",
            "Below the bar stand the layers as they came. What is centred is to be centred everywhere.",
        ),
        Mistake(
            "each token centred by itself",
            "You take off each token's own mean. Centring is done down the columns: each coordinate gets the mean 0 "
            "over all tokens.",
        ),
        Mistake(
            "each text centred by itself",
            "You take off each text's own mean, and what sets one text apart from another is gone. The mean of a "
            "column goes over the tokens of all texts.",
        ),
        Mistake(
            "one mean for all numbers",
            "You take off one number, the mean of everything. Each column has a mean of its own.",
        ),
        Mistake(
            "the first layer centred alone",
            "One of your layers is centred and the other is not. Both are to be.",
            also=("the second layer centred alone",),
        ),
        Mistake("the padding for the tokens", "You keep the padding and drop the tokens: 1 marks a token."),
        Mistake(
            "padding as zeros",
            "Your padding is zeros now, and still rows of the matrix: it pulls the means towards 0, and after the "
            "centring it is not even 0 any more. Select the tokens first.",
        ),
        Mistake(
            "one vector for each text",
            "You average each text's tokens first, and compare texts. The rows are to be the tokens.",
        ),
        Mistake(
            "divided by one layer alone",
            "Below the bar one layer stands twice. Each of the two has its own norm there, or a stretched copy would "
            "not be 1.",
            also=("divided by the other layer alone",),
        ),
        Mistake(
            "another norm",
            "That is another norm of a matrix. Frobenius' is the root of the sum of all squares.",
            also=("the largest singular value for a norm",),
        ),
        Mistake("the square left out", "The norm above the fraction bar is to be squared."),
        Mistake("the root taken", "That is the root of it: all norms but the upper one come as they are."),
        Mistake(
            "not divided", "Your number grows with the layers' size: there is a fraction bar in the formula."
        ),
        Mistake(
            "divided by the layers' own norms",
            "Below the bar stand norms of products, of a layer with itself. You took the norms of the layers.",
        ),
        Mistake("both norms squared", "The norms below the fraction bar are not squared."),
        Mistake(
            "divided by spread",
            "You bring each column to one scale. CKA leaves scales as they are: what varies more counts more.",
        ),
    ),
    probes=lambda generator: [_two_layers(generator) for _ in range(3)],
)


# ------------------------------------------------------------------------------------------------ 6.2 layer map


def even_map(student_depth: int, teacher_depth: int, wrong: Wrong = RIGHT) -> dict[int, int]:
    """Map {student's layer: teacher's}, both counted from 1 (0 is the embeddings): i from i · n / m, rounded up."""
    m, n = student_depth, teacher_depth
    if "every second whatever the depths" in wrong:
        return {i: min(2 * i, n) for i in range(1, m + 1)}
    if "the first layers" in wrong:
        return {i: i for i in range(1, m + 1)}
    if "the first from the first" in wrong:
        return {i + 1: 1 + (round(i * (n - 1) / (m - 1)) if m > 1 else 0) for i in range(m)}
    if "the first from the first, rounded down" in wrong:
        return {i + 1: 1 + (i * (n - 1) // (m - 1) if m > 1 else 0) for i in range(m)}
    if "a single layer from the last" in wrong:
        return {i + 1: 1 + round(i * (n - 1) / (m - 1)) if m > 1 else n for i in range(m)}
    if "the first from the first, rounded at the end" in wrong:
        return {i + 1: round(1 + i * (n - 1) / max(1, m - 1)) for i in range(m)}
    if "every second, beyond the last as well" in wrong:
        return {i: 2 * i for i in range(1, m + 1)}
    if "rounded to the nearest, halves up" in wrong:
        return {i: math.floor(i * n / m + 0.5) for i in range(1, m + 1)}
    if "not rounded" in wrong:
        return {i: i * n / m for i in range(1, m + 1)}
    if "the quotient rounded before the product" in wrong:
        return {i: math.ceil(i / m) * n for i in range(1, m + 1)}
    if "turned round" in wrong:
        return {i: math.ceil((m - i + 1) * n / m) for i in range(1, m + 1)}
    if "the last layers" in wrong:
        return {i: n - m + i for i in range(1, m + 1)}
    if "the depths exchanged" in wrong:
        m, n = n, m
    rounded = math.floor if "rounded down" in wrong else math.ceil
    rounded = round if "rounded to the nearest" in wrong else rounded
    pairs = {i: rounded(i * n / m) for i in range(1, student_depth + 1)}
    if "always one more than rounded down" in wrong:
        pairs = {i: i * n // m + 1 for i in pairs}
    if "one step for all" in wrong:
        pairs = {i: i * (n // m) for i in range(1, m + 1)}
    if "one step for all, rounded up" in wrong:
        pairs = {i: i * math.ceil(n / m) for i in range(1, m + 1)}
    if "embeddings taken for the first layer" in wrong:
        pairs = {i - 1: j - 1 for i, j in pairs.items()}
    if "the student's layers counted from 0" in wrong:
        pairs = {i - 1: j for i, j in pairs.items()}
    if "the teacher's layers counted from 0" in wrong:
        pairs = {i: j - 1 for i, j in pairs.items()}
    if "the embeddings as well" in wrong:
        pairs = {0: 0} | pairs
    return {j: i for i, j in pairs.items()} if "the teacher learns from the student" in wrong else pairs


EVEN_MAP = Exercise(
    name="even_map",
    number="6.2",
    title="An even map",
    reference=even_map,
    mistakes=(
        Mistake(
            "embeddings taken for the first layer",
            "Your layers are counted from 0, and 0 is the embeddings: each pair is one layer too low, and the last "
            "layers are left out.",
        ),
        Mistake(
            "every second whatever the depths",
            "You take every second layer of any teacher. That fits if it is twice as deep as the student.",
            also=("every second, beyond the last as well",),
        ),
        Mistake(
            "rounded down",
            "You round down. Where the depths do not divide, layers of the student would learn from too low ones: "
            "the map rounds up.",
        ),
        Mistake(
            "the first from the first",
            "You spread from the first layer to the last. Here the student's first layer already does the work of "
            "several of the teacher's, so it learns from the last of these.",
            also=(
                "the first from the first, rounded down",
                "the first from the first, rounded at the end",
                "a single layer from the last",
            ),
        ),
        Mistake("the last layers", "Your student learns from the last layers, and never hears of the first."),
        Mistake(
            "the depths exchanged",
            "Your quotient stands upside down: the teacher has more layers than the student, so the numbers grow.",
        ),
        Mistake(
            "always one more than rounded down",
            "You round down and add 1. Where the depths divide there is nothing to round up, and you are one too far.",
        ),
        Mistake(
            "the student's layers counted from 0",
            "Your keys begin with 0, which is the embeddings: the student's layers are counted from 1.",
        ),
        Mistake(
            "the teacher's layers counted from 0",
            "The teacher's layers are counted from 1 here: each of your values is one too low.",
        ),
        Mistake(
            "rounded to the nearest",
            "You round to the nearest layer. The map rounds up.",
            also=("rounded to the nearest, halves up",),
        ),
        Mistake("not rounded", "Your numbers lie between layers. The map rounds them up."),
        Mistake(
            "the quotient rounded before the product",
            "You round i / m before it is multiplied, and it is 1 for every layer. Round the product.",
        ),
        Mistake(
            "turned round", "Your student's first layer learns from the teacher's last, and so on downwards."
        ),
        Mistake(
            "one step for all",
            "You round the quotient of the depths, and then count in such steps: where they do not divide, you end "
            "below the teacher's last layer, or above it. Round each product by itself.",
            also=("one step for all, rounded up",),
        ),
        Mistake(
            "the first layers",
            "Your student learns from the first layers, and never hears of the last.",
        ),
        Mistake(
            "the embeddings as well", "You pair the embeddings, too. Here the layers alone are asked for."
        ),
        Mistake(
            "the teacher learns from the student",
            "Keys and values are exchanged: the key is the student's layer, the value the teacher's.",
        ),
    ),
    probes=lambda generator: [(3, 6), (2, 6), (4, 6), (6, 12), (5, 12), (1, 4), (3, 3)],
)


EXERCISES = [LINEAR_CKA, EVEN_MAP]
