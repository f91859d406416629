"""The exercises of notebook 04 on distributions: entropy, KL divergence and its gradient."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import (
    GRADIENT,
    RIGHT,
    soft_gradient,
)
from kdtutor.exercises.definitions import Exercise, Mistake

SIZES = ((4, 7), (6, 3), (5, 12))  # texts × classes: never equal, or a mistake over the wrong axis could hide


def logits(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=generator)


def pairs(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Draw two models' logits (N, C) each, of several sizes."""
    return [(logits(generator, *size), logits(generator, *size)) for size in SIZES]


def far_apart(classes: int = 5) -> tuple[Tensor, Tensor]:
    """Draw logits so far apart that some probabilities round to 0, and that exp() alone overflows."""
    first = torch.tensor([[300.0] + [0.0] * (classes - 1), [0.0] * (classes - 1) + [-300.0]])
    first = first + torch.linspace(0, 1, classes)  # no two alike: which of them is the largest is no question
    return first, first.flip(-1)


# ------------------------------------------------------------------------------------------------ 4.1 entropy


def tempered_entropy(logits: Tensor, temperature: float, wrong: frozenset = RIGHT) -> Tensor:
    """Compute entropy −Σ_c p log p in nats of p = softmax(z / T), mean over the texts: logits (N, C) → 0-d."""
    axis = 0 if {"softmax over the batch", "one entropy for each class"} & wrong else -1
    if "no temperature" in wrong:
        temperature = 1.0
    divisor = 1 / temperature if "multiplied by T" in wrong else temperature
    log_p = (logits / divisor).log_softmax(axis)
    if "T after the softmax" in wrong:
        log_p = (logits.softmax(axis) / temperature).log()
    if "T after the logarithm" in wrong:
        log_p = logits.log_softmax(axis) / temperature
    p = log_p.exp()
    if "the logarithm at T = 1" in wrong:
        log_p = logits.log_softmax(axis)
    if "the weights at T = 1" in wrong:
        p = logits.softmax(axis)
    if "of the mean distribution" in wrong:
        p = p.mean(0, keepdim=True)
        log_p = p.log()
    summands = -p * log_p
    if "logits where logarithms should be" in wrong:
        summands = -log_p.exp() * (logits / divisor)
    if "no weights" in wrong:
        summands = -log_p
    across = 0 if "one entropy for each class" in wrong else -1
    entropies = summands.mean(across) if "divided by the classes" in wrong else summands.sum(across)
    if "a perplexity" in wrong:
        entropies = entropies.exp()
    result = entropies.sum() if "summed over the texts" in wrong else entropies.mean()
    if "in bits" in wrong:
        result = result / math.log(2)
    if "what is missing to the largest entropy" in wrong:
        result = math.log(logits.shape[-1]) - result
    if "as a share of the largest entropy" in wrong:
        result = result / math.log(logits.shape[-1])
    if "the entropy divided by T" in wrong:
        result = result / temperature
    return -result if "no minus" in wrong else result


TEMPERED_ENTROPY = Exercise(
    name="tempered_entropy",
    number="4.1",
    title="How undecided, at which temperature?",
    reference=tempered_entropy,
    mistakes=(
        Mistake(
            "in bits",
            "Your entropies are 1.443 times too large: that is 1 / log 2. Which logarithm do nats ask for?",
        ),
        Mistake(
            "no minus",
            "Your entropy is negative. The logarithm of a probability is at most 0: what turns that round?",
        ),
        Mistake(
            "summed over the texts",
            "Your result grows with the number of texts. An average over them is asked for.",
        ),
        Mistake(
            "divided by the classes",
            "Your result is too small by the number of classes. Over the classes, the definition is a sum: "
            "only over the texts is it a mean.",
        ),
        Mistake(
            "T after the softmax",
            "Your temperature divides the probabilities, so they no longer sum to 1. What does T divide, and when?",
        ),
        Mistake(
            "T after the logarithm",
            "Your temperature divides the logarithms of the probabilities, which are then no longer those of a "
            "distribution: their exponentials do not sum to 1.",
        ),
        Mistake(
            "multiplied by T",
            "Your entropy falls where T rises: a higher temperature makes the distribution sharper. "
            "Is T a factor or a divisor?",
        ),
        Mistake(
            "the logarithm at T = 1",
            "T is in the probabilities or in their logarithms, and not in both: −Σ p log p has one p in it, at one "
            "temperature.",
            also=("the weights at T = 1",),
        ),
        Mistake(
            "of the mean distribution",
            "You average the distributions first and take one entropy. That of an average is another thing than the "
            "average of entropies.",
        ),
        Mistake(
            "one entropy for each class",
            "Softmax and sum both run over the texts: you get an entropy for each class. Each text has one.",
        ),
        Mistake(
            "as a share of the largest entropy",
            "Your result is relative to the entropy of the uniform distribution. Nats were asked for.",
            also=("what is missing to the largest entropy",),
        ),
        Mistake("a perplexity", "Your result is the exponential of an entropy, a perplexity."),
        Mistake("the entropy divided by T", "You divide an entropy by T. What T divides are the logits."),
        Mistake(
            "no temperature", "Your entropy is the same at every temperature: T = 1's. Where should T enter?"
        ),
        Mistake(
            "softmax over the batch",
            "Your softmax sums to 1 over the texts. Each text, a row, should be a distribution over the classes.",
        ),
        Mistake(
            "logits where logarithms should be",
            "The logits stand where the logarithms of the probabilities should be.",
        ),
        Mistake(
            "no weights",
            "You add up the logarithms, and nothing weighs them. An entropy is an expectation: under which "
            "distribution?",
        ),
    ),
    probes=lambda generator: [
        (logits(generator, *size), t) for size, t in zip(SIZES, (2.0, 0.5, 4.0), strict=True)
    ],
    stress=lambda generator: [(far_apart()[0], 0.5)],
    survives=True,
    growth=lambda n: (torch.randn(n, 5), 2.0),
)


# ------------------------------------------------------------------------------------------ 4.2 KL divergence


def kl_divergence(p_logits: Tensor, q_logits: Tensor, wrong: frozenset = RIGHT) -> Tensor:
    """Compute KL(p ‖ q) = Σ_c p (log p − log q), mean over all rows: logits (N, C) or (B, L, C) → 0-d."""
    if "swapped" in wrong:
        p_logits, q_logits = q_logits, p_logits
    axis = 0 if "softmax over the batch" in wrong else -1
    log_p, log_q = p_logits.log_softmax(axis), q_logits.log_softmax(axis)
    p = log_p.exp()
    if "no logarithm of q" in wrong:
        log_q = log_q.exp()
    if "neither minus nor mean" in wrong:
        return (p * log_q).sum()
    if "logits where logarithms should be" in wrong:
        log_q = q_logits
    summands = -p * log_q if "cross-entropy" in wrong else p * (log_p - log_q)
    if {"both directions added", "both directions averaged"} & wrong:
        summands = (p - log_q.exp()) * (log_p - log_q) / (1 if "both directions added" in wrong else 2)
    if "Jensen–Shannon" in wrong:
        log_m = ((p + log_q.exp()) / 2).log()
        summands = (p * (log_p - log_m) + log_q.exp() * (log_q - log_m)) / 2
    if "log_target forgotten" in wrong:
        summands = F.kl_div(log_q, log_p, reduction="none")
    if "no weights" in wrong:
        summands = log_p - log_q
    if "no minus" in wrong:
        summands = -summands
    if "divided by the classes" in wrong:
        return summands.mean()
    if "divided by the first axis only" in wrong:
        return summands.sum() / len(summands)
    rows = summands.sum(-1)
    return rows.sum() if "summed over the rows" in wrong else rows.mean()


KL_DIVERGENCE = Exercise(
    name="kl_divergence",
    number="4.2",
    title="KL divergence, of texts and of tokens",
    reference=kl_divergence,
    mistakes=(
        Mistake(
            "swapped",
            "Your result equals KL(q ‖ p), the arguments swapped. Whose probabilities weigh the difference of the "
            "logarithms? (F.kl_div takes them in the other order than the formula.)",
        ),
        Mistake(
            "cross-entropy",
            "Your result is the cross-entropy of p and q: it is not 0 where they are equal. Something that "
            "belongs to p alone has still to be taken off.",
        ),
        Mistake(
            "no minus",
            "Your result is below 0, and a KL divergence never is. Look at the order in which you subtract.",
        ),
        Mistake(
            "divided by the classes",
            "Your result is too small by the number of classes. A mean over everything is F.kl_div's default, "
            "too: what does it divide by that the definition does not?",
        ),
        Mistake(
            "summed over the rows",
            "Your result grows with the number of rows. Each row has a KL of its own, and their mean is asked for.",
        ),
        Mistake(
            "divided by the first axis only",
            "You are right for (N, C), but for (B, L, C) your result is L times too large: reduction='batchmean' "
            "divides by the first axis alone. How many distributions are there?",
        ),
        Mistake(
            "no logarithm of q",
            "Your formula has q where log q should be: F.kl_div wants log-probabilities as its first argument.",
        ),
        Mistake(
            "neither minus nor mean",
            "Your result is Σ p log q over everything, with neither minus nor mean: who minimises that drives q "
            "away from p.",
        ),
        Mistake(
            "softmax over the batch",
            "Your softmax runs over the first axis. Each row along the last axis is a distribution.",
        ),
        Mistake(
            "logits where logarithms should be",
            "The logits of q stand where the logarithms of its probabilities should be. F.kl_div does not notice.",
        ),
        Mistake(
            "log_target forgotten",
            "Your p comes with logarithms, and the loss takes them for probabilities: it takes the logarithm of "
            "negative numbers, which gives nan. F.kl_div has an argument that says which of the two it gets.",
        ),
        Mistake(
            "no weights",
            "You add up the differences of the logarithms, and nothing weighs them. Whose probabilities should?",
        ),
        Mistake(
            "both directions averaged",
            "Your result is the same with p and q exchanged: both directions are in it. KL has one.",
            also=("both directions added", "Jensen–Shannon"),
        ),
    ),
    planted=(
        "swapped",
        "divided by the first axis only",
    ),
    symptom=(
        "It hardly minds a q that rules out what p finds possible; and the same rows, as tokens of fewer texts, "
        "give more."
    ),
    probes=lambda generator: [*pairs(generator), (logits(generator, 3, 4, 6), logits(generator, 3, 4, 6))],
    gradients=(1,),
    stress=lambda generator: [far_apart()],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5)),
)


# ------------------------------------------------------------------------------------------------ 4.3 gradient


SOFT_TARGETS_GRADIENT = Exercise(
    name="soft_targets_gradient",
    number="4.3",
    title="What the student feels",
    reference=soft_gradient,
    mistakes=(*GRADIENT,),
    probes=lambda generator: [(*two, t) for two, t in zip(pairs(generator), (3.0, 0.5, 2.0), strict=True)],
    stress=lambda generator: [(*far_apart(), 1.0)],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5), 2.0),
)


EXERCISES = [
    TEMPERED_ENTROPY,
    KL_DIVERGENCE,
    SOFT_TARGETS_GRADIENT,
]
