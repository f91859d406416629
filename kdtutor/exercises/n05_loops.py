"""The exercises of notebook 05 on loops over many batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import (
    RIGHT,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import (
    CLASSES,
    Inputs,
    TinyClassifier,
    keeps_graph,
    padded_texts,
    weights_of,
)

# ---------------------------------------------------------------------------------- 5.4 ask the teacher once


def teacher_answers(
    teacher: nn.Module, batches: Sequence[tuple[Tensor, Inputs]], wrong: frozenset[str] = RIGHT
) -> Tensor:
    """Ask the teacher for the logits of all texts, (N, C): row i is text i, in whatever order the batches come."""
    teacher.train("teacher in train mode" in wrong)
    with torch.set_grad_enabled("a graph for every batch" in wrong):
        answers = [teacher(**inputs).logits for _, inputs in batches]
    if "only the last batch survives" in wrong:
        answers, batches = answers[-1:], [(torch.arange(len(answers[-1])), {})]
    z, order = torch.cat(answers), torch.cat([index for index, _ in batches])
    if "only the last batch is filled in" in wrong:
        z = torch.cat([torch.zeros_like(part) for part in answers[:-1]] + answers[-1:])
    if "sorted within each batch" in wrong:
        sizes = [len(index) for index, _ in batches]
        return torch.cat([part[i.argsort()] for part, i in zip(answers, order.split(sizes), strict=True)])
    result = z if "in the order of the batches" in wrong else torch.empty_like(z).index_copy(0, order, z)
    if "picked instead of put" in wrong:
        result = z[order]
    if "only the first batch" in wrong:
        result = z[: len(batches[0][0])]
    if "only the best class" in wrong:
        return result.argmax(-1)
    if "log-probabilities in place of logits" in wrong:
        return result.log_softmax(-1)
    return result.softmax(-1) if "probabilities in place of logits" in wrong else result


def _observe_answers(function: Callable, teacher: TinyClassifier, batches: Sequence) -> dict:
    teacher.train()
    answers = function(teacher, batches)
    return {
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether the answers keep the teacher's graph": bool(getattr(answers, "requires_grad", False)),
        "the result": answers,
    }


def _answers_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for sizes in ((3, 4, 2), (2, 3), (4, 5, 3)):
        order = torch.randperm(sum(sizes), generator=generator).split(sizes)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        probes.append((teacher, [(index, padded_texts(generator, len(index))) for index in order]))
    return probes


TEACHER_ANSWERS = Exercise(
    name="teacher_answers",
    number="5.4",
    title="Ask the teacher once",
    reference=teacher_answers,
    mistakes=(
        Mistake(
            "only the last batch survives",
            "What you return are the answers to the last batch. Those to the others were overwritten, one by the next.",
            also=("only the last batch is filled in",),
        ),
        Mistake(
            "in the order of the batches",
            "All answers are there, one after the other as the batches came. But a batch says which texts it holds: "
            "text 0 need not be in the first.",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on: its answers are noise, and would be kept for the whole training.",
        ),
        Mistake(
            "a graph for every batch",
            "Your answers hold on to the graph of the teacher's forward passes, all batches of it, for as long as they "
            "are kept.",
        ),
        Mistake(
            "probabilities in place of logits",
            "Your rows are probabilities, or their logarithms. Once the softmax is taken, no other temperature can be "
            "tried without care: keep what the teacher computed before it.",
            also=("log-probabilities in place of logits",),
        ),
        Mistake(
            "only the best class",
            "You keep the teacher's first guess. Its second guesses are what the student was to learn from.",
        ),
        Mistake(
            "picked instead of put",
            "You pick the rows by the numbers of the texts; they are to be *put* there. Row k of your answers "
            "belongs to the text whose number is the k-th.",
        ),
        Mistake(
            "only the first batch",
            "What you return are the answers to the first batch.",
        ),
        Mistake(
            "sorted within each batch",
            "Your answers are in order within each batch, and the batches stand one after the other. Row i is to be "
            "text i of *all*.",
        ),
    ),
    probes=_answers_probes,
    observe=_observe_answers,
)


# ----------------------------------------------------------------------------- 5.5 an epoch with accumulation


def train_epoch(
    student: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], accumulate: int, learning_rate: float,
    wrong: frozenset[str] = RIGHT,
) -> float:  # fmt: skip
    """Train an epoch by SGD on logit MSE, a step every `accumulate` batches, learning rate falling linearly to 0.

    batches: (inputs, teacher's logits), of unequal size. Each text counts the same within its step. Returns the mean
    loss per text, as met on the way.
    """
    groups, steps = _steps(batches, accumulate, wrong)
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
    losses, sizes = [], []
    without_step = {"no step for what is left", "no step, and no rate for it"} & wrong
    left_over = len(groups[-1]) < accumulate and without_step
    if left_over and "no step, and no rate for it" in wrong:
        steps -= 1
    for done, group in enumerate(groups):
        texts = sum(len(inputs) for inputs, _ in group)
        for inputs, teacher_logits in group:
            if "cleared at every batch" in wrong:
                optimizer.zero_grad()
            loss = F.mse_loss(student(inputs), teacher_logits)
            share = 1 / len(group) if "every batch counts the same" in wrong else len(inputs) / texts
            share = 1 / accumulate if "divided by accumulate" in wrong else share
            (loss * (1 if "divided after backward" in wrong else share)).backward()
            losses.append(loss.detach())
            sizes.append(len(inputs))
        if left_over and group is groups[-1]:
            break
        falling = 1.0 if "the learning rate never falls" in wrong else 1 - done / steps
        falling = 1 - (done + 1) / steps if "schedule one step ahead" in wrong else falling
        optimizer.param_groups[0]["lr"] = 0.0 if "-1 training steps" in wrong else learning_rate * falling
        optimizer.step()
        if "never cleared" not in wrong:
            optimizer.zero_grad()
    return _mean_loss(losses, sizes, accumulate, wrong)


def _steps(batches: Sequence, accumulate: int, wrong: frozenset[str]) -> tuple[list, int]:
    """Group the batches by the step that they go into, and count the steps that the schedule is planned for."""
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    if "a step at the very first batch" in wrong:
        later = batches[1:]
        groups = [batches[:1], *(later[i : i + accumulate] for i in range(0, len(later), accumulate))]
    steps = len(batches) if "steps counted in batches" in wrong else len(groups)
    if "always one step more" in wrong:
        steps = len(batches) // accumulate + 1
    if {"the last step is left out", "left out, and the schedule shortened"} & wrong and len(
        groups[-1]
    ) < accumulate:
        groups = groups[:-1]
    if "left out, and the schedule shortened" in wrong:
        steps = len(groups)
    if "a step for every batch" in wrong:
        groups = [[batch] for batch in batches]
        steps = len(groups)
    if "all texts of a step in one batch" in wrong:
        groups = [[tuple(map(torch.cat, zip(*group, strict=True)))] for group in groups]
    return groups, steps


def _mean_loss(losses: list[Tensor], sizes: list[int], accumulate: int, wrong: frozenset[str]) -> float:
    """Average the batches' losses over texts."""
    if "the last batch's loss" in wrong:
        return losses[-1].item()
    if "the divided losses returned" in wrong:
        return (sum(losses) / len(losses) / accumulate).item()
    if "the mean of the batches' means" in wrong:
        return (sum(losses) / len(losses)).item()
    total = sum(map(math.prod, zip(losses, sizes, strict=True)))
    if "the returned loss keeps its graph" in wrong:
        return (total / sum(sizes)).requires_grad_()
    return (total if "the sum is returned" in wrong else total / sum(sizes)).item()


def _observe_epoch(function: Callable, student: nn.Module, *rest) -> dict:
    before, sizes = weights_of(student), []
    student.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    loss = function(student, *rest)
    return {
        "the list of batch sizes": sizes,
        "whether the returned loss keeps its graph": keeps_graph(loss),
        "whether the student learns": not torch.equal(before, weights_of(student)),
        "the change of the student's weights": weights_of(student) - before,
        "the loss that is returned": loss,
    }


def _epoch_probes(generator: torch.Generator) -> list[tuple]:
    """Draw epochs in which one batch is left over for the last step, and one in which none is."""
    probes = []
    for sizes, accumulate in (((4, 2, 4, 1, 3), 2), ((2, 4, 3, 3, 1, 4, 2), 3), ((3, 1, 4, 2), 2)):
        student = nn.Linear(3, CLASSES)
        for weights in student.parameters():
            nn.init.normal_(weights, generator=generator)
        batches = [
            (torch.randn(n, 3, generator=generator), torch.randn(n, CLASSES, generator=generator))
            for n in sizes
        ]
        probes.append((student, batches, accumulate, 0.5))
    return probes


TRAIN_EPOCH = Exercise(
    name="train_epoch",
    number="5.5",
    title="An epoch in which every text counts",
    reference=train_epoch,
    mistakes=(
        Mistake(
            "divided after backward",
            "Your steps are too long: gradients add up over the batches of a step as if each were a step of its own. "
            "What is done to a loss after backward() no longer reaches the gradient.",
        ),
        Mistake(
            "-1 training steps",
            "Your student does not move at all: its learning rate is 0 from the start. That is what a linear schedule "
            "makes of a number of steps that nobody filled in.",
        ),
        Mistake(
            "steps counted in batches",
            "Your learning rate falls too slowly: the schedule expects as many steps as there are batches. How often "
            "does the optimiser move?",
        ),
        Mistake(
            "the learning rate never falls",
            "All your steps have the same learning rate; it was to fall linearly.",
        ),
        Mistake(
            "cleared at every batch",
            "Each of your steps knows its last batch alone: what the earlier ones left in the gradients was cleared.",
        ),
        Mistake(
            "never cleared",
            "Your first step is right. In the later ones there are still the gradients of those before.",
        ),
        Mistake(
            "the mean of the batches' means",
            "The student is trained rightly. But the loss you return averages over batches, so that a text in a small "
            "one counts for more.",
        ),
        Mistake(
            "every batch counts the same",
            "In your steps, a text in a small batch weighs more than one in a large batch. What is a batch's "
            "share of the texts of its step?",
            also=("divided by accumulate",),
        ),
        Mistake(
            "the last step is left out",
            "The batches that are left over at the end do not reach the student. How many make the last step?",
            also=(
                "left out, and the schedule shortened",
                "no step for what is left",
                "no step, and no rate for it",
            ),
        ),
        Mistake(
            "all texts of a step in one batch",
            "You put the batches of a step together into one. The memory holds small batches only: that is why "
            "gradients are accumulated.",
        ),
        Mistake(
            "schedule one step ahead",
            "Your learning rate is one step ahead: the first step should have all of it, and the last one more "
            "than 0.",
        ),
        Mistake(
            "always one step more",
            "Where no batch is left over, your schedule counts a last, shorter step all the same.",
        ),
        Mistake(
            "the last batch's loss",
            "The student is trained rightly, but you return the loss of the last batch alone.",
        ),
        Mistake(
            "the sum is returned",
            "The student is trained rightly, but you return a sum over the texts. Their mean was asked for.",
        ),
        Mistake(
            "the returned loss keeps its graph",
            "What you return still holds its graph. A plain number was asked for.",
        ),
        Mistake(
            "a step at the very first batch",
            "Your first step comes after a single batch: 0 can be divided by any number. When have `accumulate` of "
            "them been seen?",
        ),
        Mistake(
            "the divided losses returned",
            "The losses that you return were divided for the accumulation, and then averaged: the number is too small.",
        ),
        Mistake(
            "a step for every batch",
            "Your optimiser steps at every batch. It should wait for `accumulate` of them.",
        ),
    ),
    probes=_epoch_probes,
    observe=_observe_epoch,
)


EXERCISES = [
    TEACHER_ANSWERS,
    TRAIN_EPOCH,
]
