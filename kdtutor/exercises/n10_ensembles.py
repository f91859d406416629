"""The exercises of notebook 10 on several teachers: their mean at a temperature, and answers that know when to stop."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import observe_number

# ---------------------------------------------------------------------------------- 10.1 the mean of several teachers


def ensemble_targets(
    logits: Tensor, weights: Tensor, temperature: float, wrong: frozenset[str] = RIGHT
) -> Tensor:
    """Average several teachers' probabilities at T: logits (M, N, C), weights (M,), sum 1 → (N, C)."""
    w = weights[:, None, None]
    if "all alike" in wrong:
        w = torch.full_like(w, 1 / len(weights))
    if "a sum for a mean" in wrong:
        w = torch.ones_like(w)
    z = logits if "no temperature" in wrong else logits / temperature
    if "the mean of the logits" in wrong:
        return (w * z).sum(0).softmax(-1)
    if "softmax over the teachers" in wrong:
        return (w * z.softmax(0)).sum(0)
    if "softmax over the texts" in wrong:
        return (w * z.softmax(1)).sum(0)
    if "votes" in wrong:
        votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        return (w * votes).sum(0)
    if "weights inside the softmax" in wrong:
        return (w * z).softmax(-1).sum(0)
    if "the mean of logarithms" in wrong:
        return (w * z.log_softmax(-1)).sum(0).exp()
    if "the heaviest teacher alone" in wrong:
        return z[weights.argmax()].softmax(-1)
    if "the surest teacher for each class" in wrong:
        return z.softmax(-1).amax(0)
    if "the mean of the logits, then the temperature" in wrong:
        return (w * logits).sum(0).softmax(-1) / temperature
    if "the median" in wrong:
        return z.softmax(-1).median(0).values
    if "probabilities divided" in wrong:
        return (w * logits.softmax(-1)).sum(0) / temperature
    if "softened afterwards" in wrong:
        mixed = (w * logits.softmax(-1)).sum(0)
        return (mixed / temperature).softmax(-1)
    if "the logarithm softened afterwards" in wrong:
        mixed = (w * logits.softmax(-1)).sum(0)
        return (mixed.log() / temperature).softmax(-1)
    return (w * z.softmax(-1)).sum(0)


def _targets_probes(generator: torch.Generator) -> list[tuple]:
    def draw(*shape: int) -> Tensor:
        return 3 * torch.randn(shape, generator=generator)

    shares = (torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.1, 0.1, 0.1]))
    return [
        (draw(3, 5, 4), shares[0], 2.0),
        (draw(4, 2, 3), shares[1], 4.0),
        (draw(3, 4, 6), shares[0], 0.5),
    ]


ENSEMBLE_TARGETS = Exercise(
    name="ensemble_targets",
    number="10.1",
    title="What several teachers say together",
    reference=ensemble_targets,
    mistakes=(
        Mistake(
            "the mean of the logits",
            "You take the mean of the logits and then softmax: the geometric mean of the probabilities, in which one "
            "teacher has a veto. Asked was the mean of what the teachers believe.",
            also=("the mean of the logits, then the temperature",),
        ),
        Mistake(
            "the median", "You take the median of the teachers, which hears no weights. A mean is asked for."
        ),
        Mistake(
            "softened afterwards",
            "You mix the probabilities at temperature 1, and treat the mixture as if it were logits. Which of the two "
            "comes first, the temperature or the mean?",
        ),
        Mistake(
            "the logarithm softened afterwards",
            "You mix at temperature 1 and soften the mixture. Softening is not linear: each teacher is to be softened "
            "before they are mixed.",
        ),
        Mistake(
            "probabilities divided",
            "You divide probabilities by the temperature, so that they do not add up to 1. It divides logits.",
        ),
        Mistake(
            "weights inside the softmax",
            "You weigh the logits, and softmax makes something else of that. Probabilities are to be weighed.",
        ),
        Mistake(
            "the mean of logarithms",
            "You average logarithms: that is a geometric mean, in which one teacher has a veto, and its rows do not "
            "add up to 1.",
        ),
        Mistake(
            "the heaviest teacher alone",
            "You ask one teacher alone. All of them have a say, each by its weight.",
        ),
        Mistake(
            "the surest teacher for each class",
            "You take, class by class, the largest probability among the teachers, which do not add up to 1. All of "
            "them have a say, each by its weight.",
        ),
        Mistake("no temperature", "The temperature changes nothing in your answer."),
        Mistake("all alike", "Every teacher weighs the same in your answer. What are the weights for?"),
        Mistake("a sum for a mean", "Your rows don't add up to 1: there are as many beliefs as teachers."),
        Mistake("votes", "You count first guesses: how sure a teacher is, and of what else, is lost."),
        Mistake(
            "softmax over the teachers",
            "Your softmax runs over the teachers. Along which axis do the classes stand?",
        ),
        Mistake(
            "softmax over the texts",
            "Your softmax runs over the texts. Along which axis do the classes stand?",
        ),
    ),
    probes=_targets_probes,
)


# ------------------------------------------------------------------------------------- 10.5 risk against coverage


def risk_at(logits: Tensor, labels: Tensor, coverage: float, wrong: frozenset[str] = RIGHT) -> float:
    """Compute the share of errors among the surest `coverage` of the texts, rounded up: logits (N, C), labels (N,)."""
    p = logits.softmax(-1)
    sure = p.amax(-1)
    if "by the distance to the second" in wrong:
        first, second = p.topk(2).values.T
        sure = first - second
    if "by the logits' distance to the second" in wrong:
        first, second = logits.topk(2).values.T
        sure = first - second
    if "by the entropy" in wrong:
        sure = (p * p.log()).sum(-1)
    if "by the class's number" in wrong:
        sure = logits.argmax(-1)
    if "by the raw logit" in wrong:
        sure = logits.amax(-1)
    if "by the label's probability" in wrong:
        sure = p.gather(1, labels[:, None])[:, 0]
    order = sure.argsort(descending="the least sure first" not in wrong)
    exact = coverage * len(labels)
    count = (
        int(exact)
        if "rounded down" in wrong
        else round(exact)
        if "rounded to the nearest" in wrong
        else math.ceil(exact)
    )
    if "one more than the share" in wrong:
        count = int(exact) + 1
    answered = order[:count]
    if "the surest left out" in wrong:
        answered = order[1:count]
    if "a threshold for a share" in wrong:
        answered = sure >= coverage
    if "others' labels" in wrong:
        errors = (logits[answered].argmax(-1) != labels[:count]).float()
    elif "others' answers" in wrong:
        errors = (logits[:count].argmax(-1) != labels[answered]).float()
    else:
        errors = (logits.argmax(-1) != labels)[answered].float()
    if "the first texts" in wrong:
        errors = (logits.argmax(-1) != labels)[:count].float()
    if "what the confidence promises" in wrong:
        return 1 - sure[answered].mean().item()
    if "a count" in wrong:
        return errors.sum().item()
    if "the right ones counted" in wrong:
        return 1 - errors.mean().item()
    if "of all texts" in wrong:
        return errors.sum().item() / len(labels)
    return errors.mean().item()


def _risk_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for coverage in (0.25, 0.5, 0.75, 0.6):
        # The first guess is right in two of three texts, more often where it is sure; a shift that softmax ignores.
        # Of 45, the share is a whole number of texts in the last probe alone.
        logits = 2 * torch.randn(45, 4, generator=generator)
        labels = logits.argmax(-1)
        doubtful = logits.softmax(-1).amax(-1).argsort()[:28]
        moved = doubtful[torch.randperm(28, generator=generator)[:16]]
        labels[moved] = (labels[moved] + 1) % 4
        logits = logits + 6 * torch.randn(45, 1, generator=generator)
        probes.append((logits, labels, coverage))
    return probes


RISK_AT = Exercise(
    name="risk_at",
    number="10.5",
    title="Answer only where you are sure",
    reference=risk_at,
    mistakes=(
        Mistake(
            "the least sure first",
            "Your model answers where it is least sure, and is silent where it knows. In which direction does argsort "
            "sort?",
        ),
        Mistake(
            "by the raw logit",
            "You rank by the largest logit. Adding 10 to all logits of a text changes no belief, and it changes your "
            "rank.",
        ),
        Mistake(
            "by the label's probability",
            "You rank by the probability of the true class. Who decides whether to answer does not know it.",
        ),
        Mistake(
            "by the distance to the second",
            "You rank by how far the first class is ahead of the second. That is a measure of doubt too; here the "
            "confidence, the largest probability, is the one.",
            also=("by the logits' distance to the second",),
        ),
        Mistake(
            "by the entropy",
            "You rank by the entropy, which is a measure of doubt too. Here the confidence, the largest probability, "
            "is the one.",
        ),
        Mistake(
            "by the class's number",
            "You rank by which class is the likeliest. How likely it is, is the confidence.",
        ),
        Mistake(
            "others' labels",
            "You compare the answers to the surest texts with the labels of others: both are to be taken by the same "
            "places.",
            also=("others' answers",),
        ),
        Mistake(
            "one more than the share",
            "You answer one text more. Where the share is a whole number of texts there is nothing to round up.",
        ),
        Mistake("the surest left out", "Your answers begin with the second surest text."),
        Mistake(
            "the first texts",
            "You answer the first texts of the list, in which nobody has sorted them. Which are the surest?",
        ),
        Mistake(
            "what the confidence promises",
            "You return what the confidence promises, and no label is looked at. How many answers *are* wrong?",
        ),
        Mistake("a count", "You return how many answers are wrong: which share of the answers is that?"),
        Mistake("of all texts", "You divide the errors by all texts, also by those without an answer."),
        Mistake(
            "rounded down",
            "You leave out the text that the share reaches into: it was to be rounded up.",
        ),
        Mistake(
            "rounded to the nearest",
            "You round to the nearest whole number of texts. Every share was to be rounded up.",
        ),
        Mistake(
            "a threshold for a share",
            "`coverage` is a share of the texts, and you use it as a confidence that has to be reached.",
        ),
        Mistake("the right ones counted", "What you count are the right answers: risk counts the errors."),
    ),
    planted=("the least sure first",),
    symptom="The fewer texts are answered, the more of the answers are wrong.",
    probes=_risk_probes,
    observe=partial(observe_number, "the risk"),
)

EXERCISES = [ENSEMBLE_TARGETS, RISK_AT]
