"""The exercises of notebook 01 on attention: one head under a mask, and several heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake

# ---------------------------------------------------------------------------------- 1.2 scaled dot-product attention


# what masked scores get, added to them or in their place, and what large scores are below
NOT_LOW = {
    "a mask that is not low enough": -100.0,
    "-50 on the masked": -50.0,
    "filled with -100": -100.0,
    "filled with -50": -50.0,
}


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """Compute softmax(Q Kᵀ / √d + mask) V: (B, Lq, d), (B, Lk, d), (B, Lk, dv), boolean (B, Lq, Lk) → (B, Lq, dv)."""
    width = key.shape[-2] if "√ of the number of keys" in wrong else query.shape[-1]
    width = value.shape[-1] if "√ of the values' width" in wrong else width
    if "keys and values swapped" in wrong:
        key, value = value, key
    scale = {"not scaled": 1.0, "divided by d": float(width), "multiplied by √d": 1 / math.sqrt(width)}
    scores = query @ key.mT / next((scale[name] for name in scale if name in wrong), math.sqrt(width))
    axis = -2 if "softmax over the queries" in wrong else 0 if "softmax over the batch" in wrong else -1
    if "divided after the softmax" in wrong:
        weights = (query @ key.mT).masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return weights / math.sqrt(width) @ value
    if "no softmax" in wrong:
        return scores.masked_fill(~mask, 0) @ value
    if "mask turned" in wrong:
        mask = mask.mT
    if "mask inverted" in wrong:
        mask = ~mask
    if "mask ignored" in wrong:
        return scores.softmax(axis) @ value
    if "masked after the softmax" in wrong:
        return scores.softmax(axis).masked_fill(~mask, 0) @ value
    if "mask added as a number" in wrong:
        return (scores + mask.float()).softmax(axis) @ value
    lowest = 0.0 if "masked with 0" in wrong else torch.finfo(scores.dtype).min
    if low := next((name for name in NOT_LOW if name in wrong), None):
        filled = scores.masked_fill(~mask, 0.0) if "filled" in low else scores
        return (filled + NOT_LOW[low] * ~mask).softmax(axis) @ value
    return scores.masked_fill(~mask, lowest).softmax(axis) @ value


def _large_scores(generator: torch.Generator) -> list[tuple]:
    """Draw queries and keys of which some see masked keys that are not masked by a number low enough."""
    while True:
        args = _queries_keys_values(generator, 2, 3, 4, 16, size=40.0)
        right = scaled_dot_product_attention(*args)
        seen = [scaled_dot_product_attention(*args, wrong=frozenset((name,))) for name in NOT_LOW]
        if all((wrong - right).abs().max() > 0.1 * right.abs().max() for wrong in seen):
            return [args]


def _attention_probes(generator: torch.Generator) -> list[tuple]:
    # The number of keys is never the width, so that their roots are told apart.
    shapes = ((2, 4, 5, 3), (1, 6, 6, 4), (3, 5, 3, 6), (2, 4, 4, 5))  # B, Lq, Lk, d
    *probes, last = [_queries_keys_values(generator, *shape) for shape in shapes]
    query, key, value, mask = last
    return [*probes, (query, key, value[..., :-1], mask)]  # here, keys and values have one shape


def _queries_keys_values(
    generator: torch.Generator, batch: int, queries: int, keys: int, width: int, size: float = 1.5
) -> tuple:
    query = size * torch.randn(batch, queries, width, generator=generator)
    key = size * torch.randn(batch, keys, width, generator=generator)
    value = torch.randn(batch, keys, width + 1, generator=generator)
    mask = torch.rand(batch, queries, keys, generator=generator) > 0.4
    # Nobody sees nothing, nor, with the mask inverted, everybody.
    mask[..., 0], mask[..., 1] = True, False
    return query, key, value, mask


# --------------------------------------------------------------------------------------------- 1.5 several heads


def multi_head_attention(
    x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor, w_output: Tensor, heads: int,
    wrong: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    """Compute self-attention with several heads, without biases: x (B, L, D), four matrices (D, D) → (B, L, D)."""
    batch, length, width = x.shape
    if {"matrices transposed", "all matrices but the last transposed"} & wrong:
        w_query, w_key, w_value = w_query.T, w_key.T, w_value.T
    if "matrices transposed" in wrong:
        w_output = w_output.T

    def split(y: Tensor) -> Tensor:  # (B, L, D) → (B, H, L, D/H)
        if "tokens mixed" in wrong:
            return y.reshape(batch, heads, length, width // heads)
        if "heads interleaved" in wrong:
            return y.unflatten(-1, (width // heads, heads)).permute(0, 3, 1, 2)
        return y.unflatten(-1, (heads, width // heads)).transpose(1, 2)

    query, key, value = (split(x @ matrix) for matrix in (w_query, w_key, w_value))
    if "queries compared with themselves" in wrong:
        key = query
    if "values without their matrix" in wrong:
        value = split(x)
    if "keys and values swapped" in wrong:
        key, value = value, key
    if "queries and keys swapped" in wrong:
        query, key = key, query
    if "heads attend to each other" in wrong:  # at each token, over the heads
        query, key, value = (y.transpose(1, 2) for y in (query, key, value))  # (B, L, H, D/H)
        mixed = (query @ key.mT / math.sqrt(width // heads)).softmax(-1) @ value
        return mixed.flatten(2) @ w_output
    if "one head" in wrong:
        return ((x @ w_query) @ (x @ w_key).mT / math.sqrt(width)).softmax(-1) @ (x @ w_value) @ w_output
    scale = {
        "not scaled": 1.0,
        "scaled by the whole width": math.sqrt(width),
        "divided by D/H": width / heads,
    }
    scores = (
        query @ key.mT / next((scale[name] for name in scale if name in wrong), math.sqrt(width // heads))
    )
    if "a causal mask" in wrong:
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    weights = scores.softmax(-2 if "softmax over the queries" in wrong else -1)  # (B, H, L, L)
    if "the heads' weights averaged" in wrong:
        weights = weights.mean(1, keepdim=True)
    mixed = weights @ value  # (B, H, L, D/H)
    if "merged without moving the heads back" not in wrong:
        mixed = mixed.transpose(1, 2)  # (B, L, H, D/H)
    mixed = mixed.reshape(batch, length, width)
    if "x added" in wrong:
        return x + mixed @ w_output
    return mixed if "no output matrix" in wrong else mixed @ w_output


def _head_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for batch, length, width, heads in ((2, 5, 6, 2), (1, 4, 6, 3), (2, 3, 8, 2)):
        x = torch.randn(batch, length, width, generator=generator)
        probes.append((x, *0.6 * torch.randn(4, width, width, generator=generator), heads))
    return probes


EXERCISES = [
    Exercise(
        name="scaled_dot_product_attention",
        number="1.2",
        title="Attention under a mask",
        reference=scaled_dot_product_attention,
        mistakes=(
            Mistake(
                "not scaled", "Your scores go into the softmax as they are. What is missing between the two?"
            ),
            Mistake(
                "divided by d",
                "Your scores are divided by the width itself, so all keys get too similar weights. Section 4 says by "
                "what the standard deviation of a score grows.",
            ),
            Mistake(
                "√ of the number of keys",
                "Your scores are divided by the root of the *number of keys*. What makes scores large is how many "
                "products each of them adds up: which axis is that?",
            ),
            Mistake(
                "√ of the values' width",
                "Your scores are divided by the root of the *values'* width. What makes scores large is the number of "
                "products that each of them adds up: whose width is that?",
            ),
            Mistake(
                "softmax over the queries",
                "Your weights sum to 1 over the queries: each key shares itself out. It is each query that shares out "
                "its attention; along which axis are its keys?",
            ),
            Mistake(
                "mask ignored",
                "Your queries look at everything, whatever the mask says.",
            ),
            Mistake(
                "mask inverted",
                "Your queries look only at what they must not see. True means: may look.",
            ),
            Mistake(
                "masked after the softmax",
                "Masked keys get no weight, but what is left no longer sums to 1: they have taken part in the "
                "softmax. "
                "The mask has to act before.",
            ),
            Mistake(
                "masked with 0",
                "You set masked scores to 0, and exp(0) is 1: they get weight, and more than any negative score. "
                "Which score has no weight after the softmax?",
            ),
            Mistake(
                "mask added as a number",
                "You add the mask as 0 and 1 to the scores: allowed keys get a small bonus, and forbidden ones are "
                "still seen. A mask to add would hold 0 and −∞.",
            ),
            Mistake(
                "multiplied by √d",
                "Your scores are multiplied by √d, which makes them larger still. They are to become smaller.",
            ),
            Mistake(
                "keys and values swapped",
                "You compare the queries with the values and mix the keys. What is asked, and what is handed on?",
            ),
            Mistake(
                "softmax over the batch",
                "Your weights sum to 1 over the texts of the batch, which have nothing to do with each other.",
            ),
            Mistake(
                "divided after the softmax",
                "Your weights are divided by √d after the softmax, so they sum to less than 1. The scores are to be"
                " divided, before it.",
            ),
            Mistake(
                "no softmax",
                "Your scores are weights as they stand: some are negative, and they do not sum to 1. A function is "
                "missing between the two.",
            ),
            Mistake(
                "mask turned",
                "Your mask is turned: rows and columns have changed places. Its rows are queries.",
            ),
            Mistake(
                "a mask that is not low enough",
                "What you put on masked scores is too small a number: where scores are large, some keys get through. "
                "Which number is below any other?",
                also=tuple(NOT_LOW)[1:],
            ),
        ),
        probes=_attention_probes,
        gradients=(0, 1, 2),
        stress=_large_scores,
        growth=lambda n: _queries_keys_values(torch.Generator().manual_seed(0), n, n, 3, 4),
    ),
    Exercise(
        name="multi_head_attention",
        number="1.5",
        title="Several heads",
        reference=multi_head_attention,
        mistakes=(
            Mistake(
                "tokens mixed",
                "You reshape (B, L, D) to (B, H, L, D/H) in one go. The shape is right, but the numbers are read in "
                "their old order, so one head gets the first tokens whole and the next head the later ones. Cut D "
                "first, then move the axis.",
            ),
            Mistake(
                "heads interleaved",
                "Your head h takes every H-th number of a token. Here, a head gets D/H numbers in a row.",
            ),
            Mistake(
                "merged without moving the heads back",
                "The heads are right, but they are put together while their axis still stands before the tokens'. Put "
                "it back next to the D/H numbers first, then merge these two.",
            ),
            Mistake(
                "scaled by the whole width",
                "You scale by √D. A head's query has only D/H numbers.",
            ),
            Mistake(
                "not scaled", "Each head is scaled dot-product attention: its scores are to be divided first."
            ),
            Mistake(
                "softmax over the queries",
                "Your weights sum to 1 over the queries, which is the last axis but one. A query's keys lie along the "
                "last.",
            ),
            Mistake(
                "no output matrix",
                "The heads stand side by side, and the last step is missing: what mixes them?",
            ),
            Mistake(
                "matrices transposed",
                "Your matrices are transposed: you compute x @ W.T, as F.linear does. In this exercise it is x @ W.",
                also=("all matrices but the last transposed",),
            ),
            Mistake(
                "heads attend to each other",
                "Your scores are (B, L, H, H): at each token, the heads look at each other, and no token at "
                "another. Which two axes should stand last?",
            ),
            Mistake(
                "keys and values swapped",
                "You compare the queries with the values and mix the keys.",
            ),
            Mistake(
                "queries and keys swapped",
                "Your scores are turned: the keys ask, and the queries answer.",
            ),
            Mistake(
                "one head",
                "Your result does not depend on the number of heads: this is one head of the whole width.",
            ),
            Mistake(
                "divided by D/H",
                "Your scores are divided by the width of a head: it should be its root.",
            ),
            Mistake(
                "x added",
                "There is a residual connection in your result. It stands around the attention, not in it.",
            ),
            Mistake(
                "the heads' weights averaged",
                "Your heads have one set of weights in common, their mean. Then they could as well be one: each looks "
                "by itself.",
            ),
            Mistake(
                "queries compared with themselves",
                "Your queries are compared with each other, and no key plays a part.",
            ),
            Mistake(
                "values without their matrix",
                "What your heads mix is x itself. The values have a matrix of their own.",
            ),
            Mistake("a causal mask", "Your tokens do not see those that come later. No mask was asked for."),
        ),
        probes=_head_probes,
        gradients=(0, 1, 4),
        stress=lambda generator: [
            (40 * torch.randn(2, 3, 8, generator=generator), *torch.eye(8).expand(4, 8, 8), 2)
        ],
        growth=lambda n: (torch.linspace(-1, 1, n * 3 * 4).view(n, 3, 4), *torch.eye(4).expand(4, 4, 4), 2),
    ),
]
