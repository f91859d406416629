"""The exercises of notebook 01 on padding and the future: a decoder's mask, a text's last vector."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------- 1.3 a decoder's mask


def decoder_mask(ids: Tensor, pad: int, wrong: frozenset[str] = frozenset()) -> Tensor:
    """Turn ids (B, L) into boolean (B, L, L), True where query i may look at key j: j ≤ i, and key j is no padding."""
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
    if "padding taken to stand behind" in wrong:
        real = torch.arange(length, device=ids.device) < real.sum(1, keepdim=True)
    if "the first text's padding for all" in wrong:
        real = real[:1].expand(len(ids), -1)
    if "padding hides query and key" in wrong:
        return causal & real[:, :, None] & real[:, None, :]
    real = real[:, :, None] if "padding masks queries" in wrong else real[:, None, :]
    if "no causal mask" in wrong:
        causal = everything
    if "no padding mask" in wrong:
        real = torch.ones_like(real)
    mask = causal | real if "or instead of and" in wrong else causal & real
    if "either, but not both" in wrong:
        mask = causal ^ ~real
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
    """Pick each text's last vector, (B, D), from (B, L, D) and (B, L), 1 for tokens and 0 for padding behind them."""
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


EXERCISES = [
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
            Mistake(
                "padding taken to stand behind",
                "You count the tokens and take padding to be what is behind so many. It may stand in front, too.",
            ),
            Mistake(
                "the first text's padding for all",
                "All texts of the batch get the padding of the first one.",
            ),
            Mistake(
                "either, but not both",
                "Your two conditions are joined by an exclusive or. Which of them must hold?",
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
]
