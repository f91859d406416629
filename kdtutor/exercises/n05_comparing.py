"""The exercises of notebook 05 on an honest comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import (
    RIGHT,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import (
    TinyClassifier,
    weights_of,
)

# ---------------------------------------------------------------------------------- 5.7 and 5.8 comparing


def fair_pair(
    new_student: Callable[[], nn.Module], teacher: nn.Module, wrong: frozenset[str] = RIGHT
) -> tuple[nn.Module, nn.Module]:
    """Two students for a comparison with and without a teacher: equal at the start, independent afterwards."""
    student = copy.deepcopy(teacher) if "as large as the teacher" in wrong else new_student()
    if "the teacher as the control" in wrong:
        return student, teacher
    if "one model under two names" in wrong:
        return student, student
    if "two different starts" in wrong:
        return student, new_student()
    return student, (copy.copy if "shared weights" in wrong else copy.deepcopy)(student)


def _observe_pair(function: Callable, width: int) -> dict:
    teacher = TinyClassifier(width=12)
    before = repr(teacher), weights_of(teacher)
    first, second = function(lambda: TinyClassifier(width), teacher)
    as_it_was = before[0] == repr(teacher) and torch.equal(before[1], weights_of(teacher))
    at_start = torch.equal(weights_of(first), weights_of(second)) if len(weights_of(first)) else False
    shared = {w.data_ptr() for w in first.parameters()} & {w.data_ptr() for w in second.parameters()}
    return {
        "whether both start from equal weights": at_start,
        "whether they are two models": first is not second,
        "whether training one leaves the other alone": not shared,
        "whether they are smaller than the teacher": len(weights_of(first)) < len(before[1]),
        "whether they are of one size": len(weights_of(first)) == len(weights_of(second)),
        "whether the teacher stays as it was": as_it_was,
    }


FAIR_PAIR = Exercise(
    name="fair_pair",
    number="5.7",
    title="Two students for a fair comparison",
    reference=fair_pair,
    mistakes=(
        Mistake(
            "one model under two names",
            "Both names mean the same model. What you train first, with the teacher, is also what you compare it with.",
        ),
        Mistake(
            "shared weights",
            "Two models, but they share their weights: a shallow copy. Training one of them trains the other.",
        ),
        Mistake(
            "two different starts",
            "The two begin with different random weights. Which part of the difference in the end came from that?",
        ),
        Mistake(
            "as large as the teacher",
            "Your students have the teacher's size and weights. They will do well, and nothing is compressed.",
        ),
        Mistake(
            "the teacher as the control",
            "Your control is the teacher itself. The control is a student like the other, which learns without "
            "a teacher.",
        ),
    ),
    probes=lambda generator: [(3,), (5,)],
    observe=_observe_pair,
)


def honest_choice(
    validation: Tensor, test: Tensor, control: Tensor, wrong: frozenset[str] = RIGHT
) -> tuple[int, Tensor]:
    """Which configuration to report, and its mean gain over the control on the test set, paired by seed.

    validation, test: accuracies (configurations, seeds). control: the control's test accuracies (seeds,).
    """
    chosen_by = test if "chosen on the test set" in wrong else validation
    if "one seed" in wrong:
        chosen_by, test, control = chosen_by[:, :1], test[:, :1], control[:1]
    score = chosen_by.amax(-1) if "chosen by its luckiest seed" in wrong else chosen_by.mean(-1)
    best = int(score.argmin() if "the worst chosen" in wrong else score.argmax())
    reported = validation[best, : test.shape[-1]] if "the validation score reported" in wrong else test[best]
    gains = reported if "no control" in wrong else reported - control
    if "control minus method" in wrong:
        gains = -gains
    if "the best control subtracted" in wrong:
        gains = reported - control.max()
    if "a ratio" in wrong:
        gains = reported / control
    return best, gains.amax() if "the luckiest seed reported" in wrong else gains.mean()


def _choice_probes(generator: torch.Generator) -> list[tuple]:
    """Four configurations, of which each way to choose prefers another one."""
    probes = []
    for _ in range(3):
        order = torch.randperm(4, generator=generator)
        validation = 0.6 + 0.02 * torch.rand(4, 5, generator=generator)
        test = 0.6 + 0.02 * torch.rand(4, 5, generator=generator)
        validation[order[0]] += 0.05  # best on average on validation
        test[order[1]] += 0.05  # best on the test set
        validation[order[2], 1:2] += 0.15  # one lucky seed
        validation[order[3], 0] += 0.09  # the best first seed, though not the best of all
        validation[order[3], 1:] -= 0.05
        probes.append((validation, test, 0.6 + 0.02 * torch.rand(5, generator=generator)))
    return probes


HONEST_CHOICE = Exercise(
    name="honest_choice",
    number="5.8",
    title="An honest sentence",
    reference=honest_choice,
    mistakes=(
        Mistake(
            "chosen on the test set",
            "Your choice is the best on the test set. The best of several is best by luck, too, and that luck is then "
            "in the number you report. Which split is there for choosing?",
        ),
        Mistake(
            "chosen by its luckiest seed",
            "Your choice has the single best run, and is not the best on average: one lucky seed has decided.",
        ),
        Mistake(
            "one seed",
            "Everything in your answer hangs on the first seed. The others are there to tell skill from luck.",
        ),
        Mistake(
            "the validation score reported",
            "The choice is right. But the gain that you report is measured on the split that chose it.",
        ),
        Mistake(
            "the luckiest seed reported",
            "The choice is right. But the gain that you report is the one of the luckiest seed.",
        ),
        Mistake(
            "no control",
            "The choice is right. But you report an accuracy; the question is what it gains over the same student "
            "without a teacher.",
        ),
        Mistake(
            "control minus method",
            "Your gain has its sign changed: is the method to be better, or the control?",
        ),
        Mistake(
            "the best control subtracted",
            "You subtract the control's best run. Method and control share their seeds: subtract seed by seed.",
        ),
        Mistake(
            "a ratio",
            "You divide by the control. A gain is a difference.",
        ),
        Mistake(
            "the worst chosen",
            "Your choice is the configuration with the lowest score.",
        ),
    ),
    probes=_choice_probes,
)


EXERCISES = [
    FAIR_PAIR,
    HONEST_CHOICE,
]
