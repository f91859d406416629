"""The exercise of notebook 06 on a hint, with the projection that is learned along."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import keeps_graph, weights_of

# ------------------------------------------------------------------------------------------------ 6.3 a hint


def train_with_hints(
    student: nn.Module, projection: nn.Module, inputs: Tensor, teacher_hidden: Tensor, steps: int,
    learning_rate: float, wrong: Wrong = RIGHT,
) -> float:  # fmt: skip
    """Minimise the mean squared difference of projection(student(inputs)) and teacher_hidden by SGD; the last loss."""
    held = [*student.parameters(), *projection.parameters()]
    if "projection left out of the optimiser" in wrong:
        held = [*student.parameters()]
    if "only the projection learns" in wrong:
        held = [*projection.parameters()]
    if "only the projection's matrix learns" in wrong:
        held = [*student.parameters(), projection.weight]
    optimizer, losses = _optimizer(held, learning_rate, wrong), []
    turns = ("the student first", "the projection first")
    first = next((place for place, turn in enumerate(turns) if f"in turns, {turn}" in wrong), None)
    after = "the projection after the student" in wrong
    for step in range(2 * steps if after else steps):
        hidden = student(inputs)
        hidden = hidden.detach() if "the student detached" in wrong else hidden
        if "the teacher projected" in wrong:
            difference = hidden - projection(teacher_hidden)
        else:
            difference = projection(hidden) - teacher_hidden
        if "the teacher through the projection's matrix" in wrong:
            difference = hidden - teacher_hidden @ projection.weight
        target = hidden if "the teacher projected" in wrong else teacher_hidden
        if "another loss" in wrong:
            loss = 1 - F.cosine_similarity(difference + target, target, dim=-1).mean()
        elif "lengths left out" in wrong:
            loss = F.mse_loss(F.normalize(difference + target, dim=-1), F.normalize(target, dim=-1))
        elif "absolute differences" in wrong:
            loss = difference.abs().mean()
        elif "half of the squares" in wrong:
            loss = F.smooth_l1_loss(difference, torch.zeros_like(difference))
        elif "summed over everything" in wrong:
            loss = difference.square().sum()
        elif "summed over the width" in wrong:
            loss = difference.square().sum(-1).mean()
        elif "distances not squared" in wrong:
            loss = difference.norm(dim=-1).mean()
        else:
            loss = difference.square().mean()
        if "never cleared" not in wrong:
            student.zero_grad()
            projection.zero_grad()
        loss.backward()
        if after:
            (projection if step < steps else student).zero_grad()
        if "cleared too early" in wrong:
            continue
        if first is not None:
            # by None, and not by 0, an optimiser passes over
            (projection if step % 2 == first else student).zero_grad()
        optimizer.step()
        losses.append(loss)
    if "the first loss" in wrong:
        return losses[0].item()
    if "the mean of the losses" in wrong:
        return torch.stack(losses).mean().item()
    if "the loss after the last step" in wrong:
        return (projection(student(inputs)) - teacher_hidden).square().mean().item()
    return losses[-1] if "the returned loss keeps its graph" in wrong else losses[-1].item()


def _optimizer(held: list[Tensor], rate: float, wrong: Wrong) -> torch.optim.Optimizer:
    if "Adam" in wrong:
        return torch.optim.Adam(held, lr=rate)
    if "AdamW" in wrong:
        return torch.optim.AdamW(held, lr=rate)
    return torch.optim.SGD(held, lr=rate, momentum=0.9 if "another optimiser" in wrong else 0)


def _observe_hints(function: Callable, student: nn.Module, projection: nn.Module, *rest) -> dict:
    before = weights_of(student), weights_of(projection)
    loss = function(student, projection, *rest)
    after = weights_of(student), weights_of(projection)
    return {
        "whether the student learns": not torch.equal(before[0], after[0]),
        "whether the projection learns": not torch.equal(before[1], after[1]),
        "whether the returned loss keeps its graph": keeps_graph(loss),
        "the change of the student's weights": after[0] - before[0],
        "the change of the projection's weights": after[1] - before[1],
        "the loss that is returned": loss,
    }


def _hint_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, steps in ((7, 3), (5, 2)):
        # with a bias in the second: who hands over the matrix alone forgets it
        student, projection = nn.Linear(4, 3), nn.Linear(3, 6, bias=texts == 5)
        for weights in (*student.parameters(), *projection.parameters()):
            nn.init.normal_(weights, generator=generator)
        inputs = torch.randn(texts, 4, generator=generator)
        probes.append((student, projection, inputs, torch.randn(texts, 6, generator=generator), steps, 0.05))
    return probes


TRAIN_WITH_HINTS = Exercise(
    name="train_with_hints",
    number="6.3",
    title="A hint that is never quite understood",
    reference=train_with_hints,
    mistakes=(
        Mistake(
            "projection left out of the optimiser",
            "Your projection has at the end the random numbers that it began with. Nobody raised an error: it gets "
            "gradients, and no optimiser holds it.",
        ),
        Mistake(
            "only the projection learns",
            "Your projection learns and the student does not: no optimiser holds it, or its states were cut off from "
            "their graph. A good translator of a layer that stays as it was.",
            also=("the student detached",),
        ),
        Mistake(
            "only the projection's matrix learns",
            "A projection may have a bias as well, and yours never learns. A module's parameters() are all it has.",
        ),
        Mistake(
            "another optimiser",
            "Your steps are those of another optimiser. Plain SGD was there, and nothing was wrong with it.",
            also=("Adam", "AdamW"),
        ),
        Mistake(
            "the teacher projected",
            "You send the teacher's states through the projection. It maps the student's to the teacher's width.",
            also=("the teacher through the projection's matrix",),
        ),
        Mistake(
            "the mean of the losses", "You return a mean over the steps. The last step's loss was asked for."
        ),
        Mistake(
            "the loss after the last step",
            "The training is right. Your loss is measured once more at the end; the one asked for is that of the last "
            "step, before its weights moved.",
        ),
        Mistake(
            "never cleared",
            "Your first step is right. The later ones still have the gradients of those before.",
        ),
        Mistake(
            "summed over the width",
            "Your loss is a sum over the width. Taken as a mean it would not grow with the teacher.",
        ),
        Mistake("summed over everything", "Your loss is a sum over all numbers. Their mean was there."),
        Mistake(
            "another loss",
            "Your steps follow another loss. The mean squared difference was there, and nothing was wrong with it.",
            also=("absolute differences", "half of the squares", "lengths left out"),
        ),
        Mistake(
            "in turns, the student first",
            "Your student and your projection move in turns. At each step both are to take one.",
            also=("in turns, the projection first",),
        ),
        Mistake(
            "the projection after the student",
            "Your student learns first, and the projection only when it is done. At each step both are to take one.",
        ),
        Mistake(
            "cleared too early",
            "Nothing learns: the gradients are cleared after the backward pass, before the step could use them.",
        ),
        Mistake("distances not squared", "Your loss has a root in it: squared differences are asked for."),
        Mistake("the first loss", "You return the loss of the first step. The last one was asked for."),
        Mistake(
            "the returned loss keeps its graph",
            "What you return still holds its graph. A plain number was asked for.",
        ),
    ),
    probes=_hint_probes,
    observe=_observe_hints,
    planted=("projection left out of the optimiser",),
    symptom="The loss falls, and still ends higher than it could: two modules are trained here, and one of them stands "
    "still.",
)


EXERCISES = [TRAIN_WITH_HINTS]
