"""The exercises of notebook 01: attention under a mask, a decoder's mask, a text's last vector, heads.

Each reference takes `wrong`, a set of names of mistakes, and each name changes one line of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake

# ---------------------------------------------------------------------------------- 1.2 scaled dot-product attention


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V: (B, Lq, d), (B, Lk, d), (B, Lk, dv), boolean (B, Lq, Lk) → (B, Lq, dv)."""
    width = key.shape[-2] if "√ of the number of keys" in wrong else query.shape[-1]
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
    return scores.masked_fill(~mask, lowest).softmax(axis) @ value


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


# ------------------------------------------------------------------------------------------- 1.3 a decoder's mask


def decoder_mask(ids: Tensor, pad: int, wrong: frozenset[str] = frozenset()) -> Tensor:
    """ids (B, L) → boolean (B, L, L), True where query i may look at key j: j ≤ i, and key j is no padding."""
    length = ids.shape[1]
    last = {"a token may not look at itself": -1, "sees the next token": 1}
    diagonal = next((last[name] for name in last if name in wrong), 0)
    everything = torch.ones(length, length, dtype=torch.bool, device=ids.device)
    causal = (
        everything.triu(-diagonal) if "looks ahead instead of back" in wrong else everything.tril(diagonal)
    )
    real = ids == pad if "only padding may be looked at" in wrong else ids != pad
    if "padding id hard-coded" in wrong:
        real = ids != 0
    if "padding hides query and key" in wrong:
        return causal & real[:, :, None] & real[:, None, :]
    real = real[:, :, None] if "padding masks queries" in wrong else real[:, None, :]
    if "no causal mask" in wrong:
        causal = everything
    if "no padding mask" in wrong:
        real = torch.ones_like(real)
    mask = causal | real if "or instead of and" in wrong else causal & real
    if "the diagonal opened" in wrong:
        mask = mask | torch.eye(length, dtype=torch.bool, device=ids.device)
    if "queries and keys exchanged" in wrong:
        mask = mask.mT
    return ~mask if "inverted" in wrong else mask


def _mask_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for batch, length, pad in ((3, 5, 0), (2, 6, 1)):
        ids = torch.randint(2, 50, (batch, length), generator=generator)
        ids[0, :2] = pad  # on the left,
        ids[1, -2:] = pad  # and on the right
        probes.append((ids, pad))
    return probes


# ------------------------------------------------------------------------------------------ 1.4 a text's last vector


def last_vectors(
    hidden_states: Tensor, attention_mask: Tensor, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """(B, L, D) and (B, L), 1 for tokens and 0 for the padding behind them → each text's last vector, (B, D)."""
    texts = torch.arange(len(hidden_states))
    last = attention_mask.sum(-1) - 1
    if "the last column" in wrong:
        return hidden_states[:, -1]
    if "the first token" in wrong:
        return hidden_states[:, 0]
    if "one too early" in wrong:
        last = last - 1
    if "the padding behind it" in wrong:
        last = last + 1
    if "the longest text's place for all" in wrong:
        last = last.amax().expand(len(texts))
    if "the shortest text's place for all" in wrong:
        last = last.amin().expand(len(texts))
    if "the mean of the tokens" in wrong:
        return (hidden_states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
    if "every text for every text" in wrong:
        return hidden_states[:, last]
    if "padding set to 0, and read" in wrong:
        return (hidden_states * attention_mask[..., None])[:, -1]
    return hidden_states[texts, last]


def _last_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, longest, width in ((3, 6, 4), (4, 7, 3), (2, 5, 5)):
        lengths = 2 + torch.randperm(longest - 3, generator=generator)[:texts]
        mask = (torch.arange(longest) < lengths[:, None]).long()
        probes.append((torch.randn(len(lengths), longest, width, generator=generator), mask))
    return probes


# --------------------------------------------------------------------------------------------- 1.5 several heads


def multi_head_attention(
    x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor, w_output: Tensor, heads: int,
    wrong: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    """Self-attention with several heads, without biases: x (B, L, D), four matrices (D, D) → (B, L, D)."""
    batch, length, width = x.shape
    if "matrices transposed" in wrong:
        w_query, w_key, w_value, w_output = w_query.T, w_key.T, w_value.T, w_output.T

    def split(y: Tensor) -> Tensor:  # (B, L, D) → (B, H, L, D/H)
        if "tokens mixed" in wrong:
            return y.reshape(batch, heads, length, width // heads)
        if "heads interleaved" in wrong:
            return y.unflatten(-1, (width // heads, heads)).permute(0, 3, 1, 2)
        return y.unflatten(-1, (heads, width // heads)).transpose(1, 2)

    query, key, value = (split(x @ matrix) for matrix in (w_query, w_key, w_value))
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
    mixed = scores.softmax(-2 if "softmax over the queries" in wrong else -1) @ value  # (B, H, L, D/H)
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
        ),
        probes=_attention_probes,
        gradients=(0, 1, 2),
        stress=lambda generator: [_queries_keys_values(generator, 2, 3, 4, 16, size=40.0)],
        growth=lambda n: _queries_keys_values(torch.Generator().manual_seed(0), n, n, 3, 4),
    ),
    Exercise(
        name="decoder_mask",
        number="1.3",
        title="Who may look where",
        reference=decoder_mask,
        mistakes=(
            Mistake(
                "inverted",
                "Your mask is exactly the opposite: True where a query must not look. (torch.nn.Transformer has it "
                "like that; here, as in F.scaled_dot_product_attention, True means: may look.)",
            ),
            Mistake(
                "a token may not look at itself",
                "Off by one: your queries see what comes before them, but not their own place. The first token would "
                "see nothing at all.",
            ),
            Mistake(
                "sees the next token",
                "Off by one: your queries also see the token that comes next, which is the very one to be predicted.",
            ),
            Mistake(
                "looks ahead instead of back",
                "Your queries see what comes later, and not what came before. Rows are queries, columns are keys: "
                "which triangle is it?",
            ),
            Mistake(
                "padding masks queries",
                "Your padding mask empties whole rows: padding may not look, but everybody may look at padding. It is "
                "the keys, along the last axis, that have to be hidden.",
            ),
            Mistake("no causal mask", "Padding is hidden, but every token sees the whole future."),
            Mistake("no padding mask", "The future is hidden, but padding is looked at like any word."),
            Mistake(
                "or instead of and",
                "Your queries see a key if it is in the past *or* real. Which of the two conditions must hold?",
            ),
            Mistake(
                "only padding may be looked at",
                "With your mask, padding is all that can be seen. Is it == or !=?",
            ),
            Mistake(
                "padding id hard-coded",
                "Your padding is always token 0. Here its number is an argument.",
            ),
            Mistake(
                "padding hides query and key",
                "Your mask is right for the keys, but the rows of padding are empty as well: a query that is "
                "padding may look, since nobody reads what it finds.",
            ),
            Mistake(
                "the diagonal opened",
                "Every token may look at itself with you, padding too. A key that is padding is hidden from "
                "everybody.",
            ),
            Mistake(
                "queries and keys exchanged",
                "Your mask is turned: rows are queries, columns are keys.",
            ),
        ),
        probes=_mask_probes,
        growth=lambda n: (torch.arange(n * n).view(n, n) % 7, 0),
    ),
    Exercise(
        name="last_vectors",
        number="1.4",
        title="A vector that depends on its neighbours",
        reference=last_vectors,
        mistakes=(
            Mistake(
                "the last column",
                "The last column of a padded batch is padding, for all texts but the longest. Who says where a text "
                "ends?",
            ),
            Mistake(
                "the first token",
                "Your vectors are those of the first token. Another summary, and a sound one; here the last is asked "
                "for.",
            ),
            Mistake(
                "one too early", "Your vectors are those of the last token but one: counting begins at 0."
            ),
            Mistake(
                "the padding behind it",
                "Your vectors are those of the first padding behind each text: n tokens stand at the places 0 to n − "
                "1.",
            ),
            Mistake(
                "the longest text's place for all",
                "You look at the same place in all texts: where the longest one ends.",
            ),
            Mistake(
                "the shortest text's place for all",
                "You look at the same place in all texts: where the shortest one ends.",
            ),
            Mistake(
                "the mean of the tokens",
                "You return the mean over the tokens, padding left out. A good summary; here the last is asked for.",
            ),
            Mistake(
                "every text for every text",
                "Your result has an axis too many: for each text you take the last places of *all* texts. Of text i, "
                "the "
                "place i is wanted: pair them.",
            ),
            Mistake(
                "padding set to 0, and read",
                "Padding no longer says anything, but its place is still the one that is read.",
            ),
        ),
        probes=_last_probes,
        gradients=(0,),
        growth=lambda n: (torch.ones(n, 4, 3), torch.ones(n, 4, dtype=torch.long)),
        planted=("the last column",),
        symptom="A text's vector still is another one when its neighbour in the batch is longer.",
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
                "Your scores are divided by the width of a head; its root was due.",
            ),
            Mistake(
                "x added",
                "There is a residual connection in your result. It stands around the attention, not in it.",
            ),
        ),
        probes=_head_probes,
        gradients=(0, 1, 4),
        stress=lambda generator: [
            (40 * torch.randn(2, 3, 8, generator=generator), *torch.eye(8).expand(4, 8, 8), 2)
        ],
        growth=lambda n: (torch.linspace(-1, 1, n * 3 * 4).view(n, 3, 4), *torch.eye(4).expand(4, 4, 4), 2),
    ),
]
