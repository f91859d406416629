"""The exercises of notebook 05 on the loss and the step of distillation.

Most of the mistakes were seen in published teaching code. A step is tried on models with a handful of words and looked
at from outside: who changes, who stays, in which mode who answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import (
    GRADIENT,
    HARD,
    RIGHT,
    SOFT,
    WEIGHTS,
    soft_gradient,
    soft_loss,
    weigh,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.n04_losses import blend
from kdtutor.exercises.stepping import GRAPH_KEPT, LOSS_AFTER, STEPPING, take_step
from kdtutor.exercises.toys import (
    CLASSES,
    Inputs,
    TinyClassifier,
    keeps_graph,
    labels_with_gaps,
    padded_texts,
    steps_watched,
    weights_of,
)

# ----------------------------------------------------------------------------------------- 5.1 soft targets


def _two_logits(generator: torch.Generator, texts: int, classes: int) -> tuple[Tensor, Tensor]:
    first, second = 2 * torch.randn(2, texts, classes, generator=generator)
    return first, second


SOFT_TARGETS = Exercise(
    name="soft_targets",
    number="5.1",
    title="Soft targets from memory",
    reference=soft_loss,
    mistakes=(*SOFT,),
    probes=lambda generator: [
        (*_two_logits(generator, n, c), t) for n, c, t in ((6, 5, 3.0), (4, 3, 1.5), (2, 7, 4.0))
    ],
    gradients=(0,),
    stress=lambda generator: [(*(500 * z for z in _two_logits(generator, 4, 5)), 2.0)],
    growth=lambda n: (torch.linspace(-1, 1, 3 * n).view(n, 3), torch.linspace(1, 2, 3 * n).view(n, 3), 2.0),
)


# ------------------------------------------------------------------------------- 5.2 the gradient of a blend


def blend_gradient(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, temperature: float,
    wrong: frozenset[str] = RIGHT,
) -> Tensor:  # fmt: skip
    """Compute the gradient of α · L_hard + (1 − α) · T² KL, each a mean over N texts, with respect to z_S: (N, C)."""
    if "the teacher's guess for the label" in wrong:
        labels = teacher_logits.argmax(-1)
    z_hard = student_logits / temperature if "temperature in the hard loss" in wrong else student_logits
    hard = z_hard.softmax(-1)
    if "one-hot without the number of classes" in wrong:
        hard = hard - F.one_hot(labels)
    elif "the label is missing" not in wrong:
        hard = hard - F.one_hot(labels, student_logits.shape[-1])
    if "label minus student" in wrong:
        hard = -hard
    hard = hard / (1 if {"the gradient of a sum", "the labels' gradient of a sum"} & wrong else len(labels))
    soft = soft_gradient(student_logits, teacher_logits, temperature, wrong)
    soft = soft * (len(labels) if "the gradient of a sum" in wrong else 1)
    return weigh(hard, soft, alpha, wrong)


_IN_THE_LABELS_GRADIENT = (
    "temperature in the hard loss",
    "one-hot without the number of classes",
    "the teacher's guess for the label",
)
BLEND_GRADIENT = Exercise(
    name="blend_gradient",
    number="5.2",
    title="The gradient of a blend",
    reference=blend_gradient,
    mistakes=(
        *WEIGHTS,
        *GRADIENT,
        Mistake(
            "the label is missing",
            "Nothing in the hard part depends on the label in yours: all entries of it are positive, and every "
            "class is pushed down.",
        ),
        Mistake(
            "label minus student",
            "The labels' part points the wrong way. Gradient descent subtracts it: the label's own class needs "
            "a negative entry.",
        ),
        Mistake(
            "the gradient of a sum",
            "Your numbers are too large by the number of texts: the loss is a mean, so what does one text "
            "contribute?",
        ),
        Mistake(
            "the labels' gradient of a sum",
            "The labels' part is too large by the number of texts: that loss, too, is a mean.",
        ),
        *(m for m in HARD if m.name in _IN_THE_LABELS_GRADIENT),
    ),
    probes=lambda generator: [
        (*_two_logits(generator, n, 4), labels_with_gaps(generator, n, 4, last), alpha, t)
        for n, alpha, t, last in ((3, 0.3, 2.0, True), (5, 0.8, 4.0, False), (6, 0.4, 3.0, True))
    ],
    stress=lambda generator: [
        (*(500 * z for z in _two_logits(generator, 2, 4)), torch.tensor([0, 3]), 0.3, 2.0)
    ],
    growth=lambda n: (
        torch.linspace(-1, 1, 3 * n).view(n, 3),
        torch.ones(n, 3),
        torch.arange(n) % 3,
        0.5,
        2.0,
    ),
)


# ----------------------------------------------------------------------------------- 5.3 the step to repair


def distillation_step(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, labels: Tensor, alpha: float, temperature: float,
    wrong: frozenset[str] = RIGHT,
) -> Tensor:  # fmt: skip
    """Take one step of SGD with learning rate 0.1 on α · L_hard + (1 − α) · T² KL; return the loss, detached."""
    trained = teacher if "the optimiser holds the teacher" in wrong else student
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    student.train("student in eval mode" not in wrong)
    teacher.train("teacher in train mode" in wrong)
    if "dropout taken out of the teacher" in wrong:
        teacher.dropout.p = 0.0
    with torch.set_grad_enabled("teacher inside the graph" in wrong):
        given = {"labels": labels} if "labels given to the teacher" in wrong else {}
        z_t = teacher(**inputs, **given)[0]
    z_s = student(**inputs).logits
    loss = blend(z_s, z_t, labels, alpha, temperature, wrong)
    take_step(student, optimizer, loss, wrong)
    if "the loss after the step" in wrong:
        loss = blend(student(**inputs).logits, z_t, labels, alpha, temperature, wrong)
    return loss if "the returned loss keeps its graph" in wrong else loss.detach()


def _observe_step(
    step: Callable, student: TinyClassifier, teacher: TinyClassifier, batches: Sequence[tuple[Inputs, Tensor]],
    alpha: float, temperature: float,
) -> dict:  # fmt: skip
    """Watch two steps, by a student that comes from an evaluation and a teacher that comes from its own training."""
    student.eval(), teacher.train()
    before, teacher_before = weights_of(student), weights_of(teacher)
    parts, steps = repr(teacher), []
    with steps_watched(steps):
        losses = [step(student, teacher, inputs, labels, alpha, temperature) for inputs, labels in batches]
    return {
        "whether the student learns": not torch.equal(before, weights_of(student)),
        "whether the teacher stays as it was": torch.equal(teacher_before, weights_of(teacher)),
        "whether the teacher is made of the same parts as before": repr(teacher) == parts,
        "whether the optimiser steps": bool(steps),
        "whether the optimiser holds the student's weights": all(
            {id(w) for w in student.parameters()} <= held for held, _ in steps
        ),
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether the student learns in train mode": all(student.in_train_mode),
        "whether gradients reach the teacher": any(w.grad is not None for w in teacher.parameters()),
        "whether the returned loss keeps its graph": keeps_graph(*losses),
        "the loss of the first step": losses[0],
        "the loss of the second step": losses[1],
        "the student's weights after two steps": weights_of(student),
    }


def _step_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for alpha, temperature in ((0.3, 2.0), (0.8, 3.0)):  # at 2 and 4, T² = 2^T
        student = TinyClassifier(width=3, generator=generator)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        batches = [
            (padded_texts(generator, n), labels_with_gaps(generator, n, CLASSES, last))
            for n, last in ((4, True), (3, False))
        ]
        probes.append((student, teacher, batches, alpha, temperature))
    return probes


DISTILLATION_STEP = Exercise(
    name="distillation_step",
    number="5.3",
    title="Repair the step",
    reference=distillation_step,
    mistakes=(
        Mistake(
            "the optimiser holds the teacher",
            "The student's weights are the same after the step as before, and all ran without an error. Whose weights "
            "does the optimiser move?",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on: asked twice, it says two things, and its targets are noise.",
        ),
        Mistake(
            "teacher inside the graph",
            "The backward pass runs through the teacher too. That takes twice the memory, and the next optimiser that "
            "sees the teacher will change it.",
        ),
        Mistake(
            "labels given to the teacher",
            "A model of the Hugging Face kind that is given labels puts its loss in front of its logits. Your "
            "teacher's answer is a single number, which was silently spread over all classes.",
        ),
        *STEPPING,
        GRAPH_KEPT,
        LOSS_AFTER,
        Mistake(
            "student in eval mode",
            "The student arrives in eval mode, from an evaluation, and is trained like that: its dropout stays off.",
        ),
        *WEIGHTS,
        *HARD,
        *SOFT,
        Mistake(
            "dropout taken out of the teacher",
            "The teacher has lost its dropout for good, instead of being in eval mode while it answers.",
        ),
    ),
    probes=_step_probes,
    observe=_observe_step,
)


EXERCISES = [
    SOFT_TARGETS,
    BLEND_GRADIENT,
    DISTILLATION_STEP,
]
