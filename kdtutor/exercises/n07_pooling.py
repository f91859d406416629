"""The exercise of notebook 07 on the largest value of each feature, wherever in a text it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 7.3 the largest


# what may stand in the padding's place, and is left there where a text has no token
NEVER_THE_LARGEST = {"a low number for an empty text": -1e9} | {
    f"{number:g} for an empty text": number
    for number in (-1e4, -1e5, -1e6, -1e10, -1e12, -1e30, torch.finfo(torch.float32).min)
}


def max_pool(states: Tensor, attention_mask: Tensor, wrong: frozenset[str] = RIGHT) -> Tensor:
    """Pick each feature's largest value over a text's real tokens, 0 for a text without any: (B, L, D) → (B, D)."""
    real = attention_mask.bool()[..., None]
    if "padding as zeros" in wrong:
        return (states * real).amax(1)
    if "padding not masked" in wrong:
        return states.amax(1)
    if "over the features" in wrong:
        return states.masked_fill(~real, -torch.inf).amax(2)
    if "the mean" in wrong:
        return (states * real).sum(1) / real.sum(1).clamp(min=1)
    for number in (-1, -10, -100):
        if f"{number} left for an empty text" in wrong:
            return states.masked_fill(~real, number).amax(1)
    if "the mask added" in wrong:
        return (states + real).amax(1)
    if "a large number taken off the padding" in wrong:
        return (states - 1e9 * ~real).amax(1)
    if "the last token" in wrong:
        rows, ends = torch.arange(len(states)), real.sum(1)[:, 0] - 1
        return states[rows, ends.clamp(min=0)]
    if "the largest token" in wrong:
        return states[torch.arange(len(states)), (states.norm(dim=-1) * real[..., 0]).argmax(1)]
    if "the sizes" in wrong:
        return (states.abs() * real).amax(1)
    if "empty texts dropped" in wrong:
        kept = real.any(1)[:, 0]
        return states[kept].masked_fill(~real[kept], -torch.inf).amax(1)
    if "0 times infinity" in wrong:
        return (states + (1 - real.float()) * -torch.inf).amax(1)
    if "-10 taken for an empty text" in wrong:
        best = states.masked_fill(~real, -10).amax(1)
        return best.masked_fill(best == -10, 0)
    if "the furthest from 0" in wrong:
        places = (states * real).abs().argmax(1, keepdim=True)
        return states.gather(1, places)[:, 0] * real.any(1)
    if "one number for all features" in wrong:
        states = states.amax(-1, keepdim=True).expand_as(states)
    if "the smallest" in wrong:
        best = states.masked_fill(~real, torch.inf).amin(1)
    elif "the mask turned round" in wrong:
        best = states.masked_fill(real, -torch.inf).amax(1)
    else:
        low = {"a small number below 0": -1.0, "-10": -10.0, "-100": -100.0}
        filled = next((low[name] for name in low if f"padding as {name}" in wrong), -torch.inf)
        best = states.masked_fill(~real, filled).amax(1)
        if filled != -torch.inf:
            return best * real.any(1)
    for name, number in NEVER_THE_LARGEST.items():
        if name in wrong:
            return best.clamp(min=number)
    if "nothing below 0" in wrong:
        return best.clamp(min=0)
    if "minus infinity for an empty text" in wrong:
        return best
    return best.masked_fill(best.isinf(), 0)


def _pool_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for lengths, down in (((3, 5, 2), 5), ((1, 4, 0), 40), ((6, 2, 0, 3), 150)):
        longest = max(lengths) + (down < 100)  # in the last batch one text is without padding
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        states = torch.randn(len(lengths), longest, 4, generator=generator)
        states[..., 0] -= down  # a feature that is negative in every text
        probes.append((states, mask))
    return probes


MAX_POOL = Exercise(
    name="max_pool",
    number="7.3",
    title="The largest, wherever it stands",
    reference=max_pool,
    mistakes=(
        Mistake(
            "padding as zeros",
            "Your padding counts as 0, and where all real values are negative, 0 is the largest. What is smaller than "
            "anything?",
        ),
        Mistake(
            "nothing below 0",
            "Your features are never below 0. Where all values of a feature are negative, the largest of them is too.",
        ),
        Mistake(
            "padding not masked",
            "Padding takes part in your maximum: the same text gets other features in a longer batch.",
        ),
        Mistake(
            "minus infinity for an empty text",
            "A text without any token has no largest value, and yours is minus infinity; the next matrix product makes "
            "NaN of it.",
        ),
        Mistake(
            "the mean", "That is the mean over the real tokens. Of each feature the largest was asked for."
        ),
        Mistake(
            "a low number for an empty text",
            "A text without any token keeps the low number that you put in the padding's place. It is to have 0.",
            also=(*tuple(NEVER_THE_LARGEST)[1:], "a large number taken off the padding"),
        ),
        Mistake(
            "padding as a small number below 0",
            "What you put in the padding's place is larger than some features are. What is smaller than anything?",
            also=(
                "padding as -10",
                "padding as -100",
                "-10 taken for an empty text",
                "-1 left for an empty text",
                "-10 left for an empty text",
                "-100 left for an empty text",
            ),
        ),
        Mistake(
            "the furthest from 0",
            "You look for the largest size, with either sign. Of −6 and 1 the larger one is 1.",
            also=("the sizes",),
        ),
        Mistake(
            "empty texts dropped",
            "You leave out texts without a token. There is to be a row for each text, and theirs is 0.",
        ),
        Mistake(
            "0 times infinity",
            "At the real tokens you add 0 · ∞, which is NaN. Put minus infinity in where the padding is, by a mask: "
            "nothing is to be multiplied by it.",
        ),
        Mistake(
            "one number for all features",
            "Each of your texts has one number in all its features. Each feature has a largest value of its own.",
        ),
        Mistake(
            "the mask added",
            "You add the mask, so that every real value grows by 1. It only says what counts.",
        ),
        Mistake(
            "the last token", "You take the last token's values. Of each feature the largest was asked for."
        ),
        Mistake(
            "the largest token",
            "You look for one token, the largest, and take its values. Each feature may have its largest elsewhere.",
        ),
        Mistake("the smallest", "You take the smallest value of each feature."),
        Mistake("the mask turned round", "You mask the real tokens, and keep the padding."),
        Mistake(
            "over the features",
            "You take the largest feature of each token; the largest *token* of each feature was asked for.",
        ),
    ),
    probes=_pool_probes,
    gradients=(0,),
)


EXERCISES = [MAX_POOL]
