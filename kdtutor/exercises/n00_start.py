"""The exercises of notebook 00: a softmax, and a student that does not learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.stepping import GRAPH_KEPT, STEPPING, take_step
from kdtutor.exercises.toys import keeps_graph, steps_watched, weights_of

# ------------------------------------------------------------------------------------------------ 0.1


def softmax_with_temperature(
    logits: Tensor, temperature: float, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """Compute exp(z_i / T) / Σ_j exp(z_j / T) for each row of `logits` (N, C), whatever the size of its numbers."""
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
    if "the sum at T = 1" in wrong:
        return scaled.exp() / logits.exp().sum(-1, keepdim=True)
    if "the logits divided by their sum" in wrong:
        return scaled / scaled.sum(-1, keepdim=True)
    if "the power of a probability, not rescaled" in wrong:
        return logits.softmax(-1) ** (1 / temperature)
    if "a sigmoid for each class" in wrong:
        return scaled.sigmoid()
    if "divided by T once more" in wrong:
        return scaled.softmax(axis) / temperature
    if "not divided by the sum" in wrong:
        return scaled.exp()
    return scaled.log_softmax(axis) if "logarithms" in wrong else scaled.softmax(axis)


def _probes(generator: torch.Generator) -> list[tuple]:
    return [
        (torch.randn(n, c, generator=generator), t) for n, c, t in ((3, 4, 2.0), (5, 2, 0.5), (2, 7, 3.0))
    ]


# ------------------------------------------------------------------------------------------------ 0.3


def train_student(
    student: nn.Module, teacher: nn.Module, texts: Tensor, steps: int, wrong: frozenset[str] = frozenset()
) -> list[float]:
    """Take steps of SGD at a rate of 0.5 on the cross-entropy with the teacher's answers; return the losses."""
    both = nn.ModuleList((student, teacher))
    trained = both if "both are trained" in wrong else student
    trained = teacher if "the optimiser holds the teacher" in wrong else trained
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    losses = []
    for _ in range(steps):
        with torch.set_grad_enabled(bool({"both are trained", "teacher inside the graph"} & wrong)):
            answers = teacher(texts)
            answers = answers if "logits for probabilities" in wrong else answers.softmax(-1)
        if "the teacher's first guess only" in wrong:
            answers = answers.argmax(-1)
        logits = student(texts)
        if "student and teacher swapped" in wrong:
            loss = F.cross_entropy(answers.log(), logits.softmax(-1))
        else:
            loss = F.cross_entropy(logits.softmax(-1) if "softmax twice" in wrong else logits, answers)
        if "the sign" in wrong:
            loss = -loss
        take_step(both, optimizer, loss, wrong)
        losses.append(loss if GRAPH_KEPT.name in wrong else loss.item())
    if "the loss after the steps" in wrong:
        losses = [*losses[1:], F.cross_entropy(student(texts), answers).item()]
    return losses[-1:] if "the last loss alone" in wrong else losses


def _pairs(generator: torch.Generator) -> list[tuple]:
    probes = []
    for width, classes, steps in ((4, 3, 5), (5, 2, 4)):
        models = [nn.Linear(width, classes) for _ in range(2)]
        for weights in (weights for model in models for weights in model.parameters()):
            nn.init.normal_(weights, generator=generator)
        probes.append((*models, torch.randn(6, width, generator=generator), steps))
    return probes


def _observe_training(
    function: Callable, student: nn.Module, teacher: nn.Module, texts: Tensor, steps: int
) -> dict:
    before, watched = (weights_of(student), weights_of(teacher)), []
    with steps_watched(watched):
        losses = function(student, teacher, texts, steps)
    mine = {id(weight) for weight in student.parameters()}
    return {
        "whether the optimiser holds the student's weights": all(mine <= held for held, _ in watched),
        "how often the optimiser steps": len(watched),
        "whether the student's weights move": not torch.equal(before[0], weights_of(student)),
        "whether the teacher stays as it was": torch.equal(before[1], weights_of(teacher)),
        "whether gradients reach the teacher": any(w.grad is not None for w in teacher.parameters()),
        "whether the returned losses keep their graphs": keeps_graph(*losses),
        "the list of losses": losses,
        "the student's weights at the end": weights_of(student),
    }


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
                "Your numbers are negative: they are the logarithms of the right ones. Here the probabilities are "
                "expected.",
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
                "the sum at T = 1",
                "The temperature acts above the fraction bar alone. The sum below it is over the same exponentials.",
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
            Mistake(
                "a sigmoid for each class",
                "Your numbers are sigmoids, each class by itself. Classes that exclude each other share one sum.",
            ),
            Mistake(
                "divided by T once more",
                "Your probabilities are right, and then divided by T, so that they no longer sum to 1.",
            ),
        ),
        probes=_probes,
        gradients=(0,),
        # Many rows, so that in some of them two logits lie beyond any bound that a learner may set.
        stress=lambda generator: [(1000 * torch.randn(12, 4, generator=generator), 2.0)],
        growth=lambda n: (torch.linspace(-1, 1, 4 * n).view(n, 4), 2.0),
    ),
    Exercise(
        name="train_student",
        number="0.3",
        title="The student that does not learn",
        reference=train_student,
        mistakes=(
            Mistake(
                "the optimiser holds the teacher",
                "The student's weights are the same after the steps as before. Whose weights does the optimiser move?",
            ),
            *STEPPING,
            GRAPH_KEPT,
            Mistake(
                "the teacher's first guess only",
                "The student learns the teacher's first guess, as if it were a label. What else did the teacher say?",
            ),
            Mistake(
                "softmax twice",
                "The student's probabilities go into a function that expects logits, and takes a softmax of its own.",
            ),
            Mistake(
                "student and teacher swapped",
                "The teacher is judged by the student's answers. Whose probabilities weigh whose logarithms?",
            ),
            Mistake(
                "the sign",
                "The loss has its sign changed: each step drives the student away from the teacher.",
            ),
            Mistake(
                "the loss after the steps",
                "Your first loss is that after the first step. Each belongs to the answer that gave the gradient.",
            ),
            Mistake(
                "the last loss alone", "You return the last loss. All of them were asked for, in a list."
            ),
            Mistake(
                "both are trained",
                "The optimiser moves the teacher, too: it comes to meet the student, and what it knew is lost.",
            ),
            Mistake(
                "teacher inside the graph",
                "The backward pass runs through the teacher too. It costs time and memory, and nobody wants these "
                "gradients.",
            ),
            Mistake(
                "logits for probabilities",
                "The teacher's logits stand where its probabilities should be. They are no distribution.",
            ),
        ),
        probes=_pairs,
        observe=_observe_training,
        planted=("the optimiser holds the teacher",),
        symptom="All its losses are equal, to the last digit. Which weights has the first step moved?",
    ),
]
