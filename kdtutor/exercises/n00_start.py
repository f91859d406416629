"""The exercise of notebook 00."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake


def softmax_with_temperature(
    logits: Tensor, temperature: float, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """exp(z_i / T) / Σ_j exp(z_j / T) for each row of `logits` (N, C), whatever the size of its numbers."""
    if "the logits as they came" in wrong:
        return logits
    scaled = logits * temperature if "times T" in wrong else logits / temperature
    scaled = logits if "T has no effect" in wrong else scaled
    if "divided by T²" in wrong:
        scaled = logits / temperature**2
    axis = 0 if "softmax over the batch" in wrong else -1
    if "T after the softmax" in wrong:
        return logits.softmax(axis) / temperature
    if "divided by the sum of everything" in wrong:
        return scaled.exp() / scaled.exp().sum()
    if "the logits divided by their sum" in wrong:
        return scaled / scaled.sum(-1, keepdim=True)
    if "the power of a probability, not rescaled" in wrong:
        return logits.softmax(-1) ** (1 / temperature)
    if "not divided by the sum" in wrong:
        return scaled.exp()
    return scaled.log_softmax(axis) if "logarithms" in wrong else scaled.softmax(axis)


def _probes(generator: torch.Generator) -> list[tuple]:
    return [
        (torch.randn(n, c, generator=generator), t) for n, c, t in ((3, 4, 2.0), (5, 2, 0.5), (2, 7, 3.0))
    ]


EXERCISES = [
    Exercise(
        name="softmax_with_temperature",
        number="0.1",
        title="Softmax with a temperature",
        reference=softmax_with_temperature,
        mistakes=(
            Mistake("the logits as they came", "What comes back are the logits themselves, untouched."),
            Mistake(
                "T has no effect",
                "Your rows are the distribution for T = 1, whatever temperature is asked for. Where does it enter?",
            ),
            Mistake(
                "times T",
                "Your distribution becomes sharper where a higher temperature should make it flatter: the temperature "
                "is on the wrong side of the fraction bar.",
            ),
            Mistake(
                "softmax over the batch",
                "Your columns sum to 1, and the rows do not. Each row is one text: along which axis are its classes?",
            ),
            Mistake(
                "not divided by the sum",
                "Your numbers are positive and in the right proportions, but the rows do not sum to 1.",
            ),
            Mistake(
                "logarithms",
                "Your numbers are negative: they are the logarithms of the right ones. Here the probabilities are due.",
            ),
            Mistake(
                "T after the softmax",
                "The softmax is taken first and its probabilities are divided by T, so that the rows no longer sum "
                "to 1. The temperature acts on the logits.",
            ),
            Mistake(
                "divided by T²",
                "Your distribution is the one for the square of the temperature.",
            ),
            Mistake(
                "divided by the sum of everything",
                "All your numbers together sum to 1. Each *row* is one text, and should sum to 1 by itself.",
            ),
            Mistake(
                "the logits divided by their sum",
                "There is no exponential in your result: the logits themselves are divided by their sum, and some "
                "of your numbers are negative or above 1.",
            ),
            Mistake(
                "the power of a probability, not rescaled",
                "You take a power of the probabilities at T = 1. That is right up to a factor: the rows do not sum "
                "to 1 any more.",
            ),
        ),
        probes=_probes,
        gradients=(0,),
        stress=lambda generator: [(1000 * torch.randn(3, 4, generator=generator), 2.0)],
        growth=lambda n: (torch.linspace(-1, 1, 4 * n).view(n, 4), 2.0),
    ),
]
