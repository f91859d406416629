"""The exercise of notebook 09 on equal numbers of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import between

# ---------------------------------------------------------------------------------------------- 9.3 equal steps


def equal_steps(
    epochs: int, rivals: Sequence[tuple[int, int, int, int]], wrong: frozenset[str] = RIGHT
) -> tuple[int, list[float]]:
    """Count the optimiser steps that the first rival takes in `epochs`, and the epochs that each needs for as many.

    rivals: (texts, batch size of a process, accumulated micro-batches, processes) of each. The texts left over at the
    end of an epoch make a step of their own.
    """

    def steps_an_epoch(texts: int, batch: int, accumulate: int, processes: int) -> float:
        at_once = batch
        at_once *= 1 if "accumulation forgotten" in wrong else accumulate
        at_once *= 1 if "processes forgotten" in wrong else processes
        if "the last step forgotten" in wrong:
            return texts // at_once
        if "left-over micro-batches dropped" in wrong:
            return math.ceil(texts / (batch * processes)) // accumulate
        if "left-over batches dropped" in wrong:
            return math.ceil(texts / batch) // (accumulate * processes)
        return texts / at_once if "steps in fractions" in wrong else math.ceil(texts / at_once)

    longest = "the longest rival for the first" in wrong
    steps = epochs * (max(steps_an_epoch(*r) for r in rivals) if longest else steps_an_epoch(*rivals[0]))
    needed = [steps / steps_an_epoch(*rival) for rival in rivals]
    if "rounded once for all epochs" in wrong:
        texts, *at_once = rivals[0]
        steps = math.ceil(epochs * texts / math.prod(at_once))
        needed = [steps / steps_an_epoch(*rival) for rival in rivals]
    if "the rivals' steps in fractions" in wrong:
        needed = [steps * math.prod(at_once) / texts for texts, *at_once in rivals]
    if "equal epochs" in wrong:
        needed = [float(epochs) for _ in rivals]
    if "equal texts" in wrong:
        needed = [epochs * rivals[0][0] / texts for texts, *_ in rivals]
    if "steps of one epoch" in wrong:
        steps = steps_an_epoch(*rivals[0])
    if "steps of one epoch, and epochs for as many" in wrong:
        steps = steps_an_epoch(*rivals[0])
        needed = [steps / steps_an_epoch(*rival) for rival in rivals]
    if "steps in place of epochs" in wrong:
        needed = [float(epochs * steps_an_epoch(*rival)) for rival in rivals]
    if "the fraction upside down" in wrong:
        needed = [steps_an_epoch(*rival) / steps for rival in rivals]
    if "the ratio turned" in wrong:
        needed = [epochs * steps_an_epoch(*rival) / steps_an_epoch(*rivals[0]) for rival in rivals]
    if "the first rival left out" in wrong:
        needed = needed[1:]
    if "whole epochs, rounded up" in wrong:
        needed = [float(math.ceil(each)) for each in needed]
    if "whole epochs only" in wrong:
        needed = [float(round(each)) for each in needed]
    return steps, needed


def _rivals(generator: torch.Generator) -> list[tuple]:
    one = partial(between, generator)

    def rival() -> tuple[int, int, int, int]:
        batch, accumulate, processes = 2 ** one(2, 5), one(2, 5), one(2, 5)
        whole = batch * accumulate * processes
        return whole * one(3, 20) + one(1, whole), batch, accumulate, processes

    # The first rival takes the fewest steps of an epoch, then the most, then neither: it is the first that counts.
    probes = []
    for place in (0, 2, 1):
        rivals = sorted((rival() for _ in range(3)), key=_steps_of_an_epoch)
        probes.append((one(2, 6), [rivals.pop(place), *rivals]))
    return probes


def _steps_of_an_epoch(rival: tuple[int, int, int, int]) -> int:
    return equal_steps(1, [rival])[0]


EQUAL_STEPS = Exercise(
    name="equal_steps",
    number="9.3",
    title="Equal steps between rivals",
    reference=equal_steps,
    mistakes=(
        Mistake(
            "equal epochs",
            "All your rivals get the same number of epochs. One with more data, or with smaller batches, takes more "
            "steps in it.",
        ),
        Mistake(
            "equal texts",
            "Your rivals see the same number of texts. With batches of different sizes these are not the same number "
            "of steps.",
        ),
        Mistake(
            "the last step forgotten",
            "Your epochs have one step too few where texts are left over: they make a last, smaller one.",
        ),
        Mistake(
            "left-over micro-batches dropped",
            "Your last micro-batches of an epoch, too few for a whole step, are dropped. They make a step of their "
            "own.",
            also=("left-over batches dropped",),
        ),
        Mistake(
            "rounded once for all epochs",
            "You count the texts of all epochs and round up once. Each epoch ends with a smaller step of its own.",
        ),
        Mistake(
            "the rivals' steps in fractions",
            "The number of steps is right. In your list an epoch of a rival has fractions of a step; it, too, ends "
            "with a smaller one.",
        ),
        Mistake(
            "steps in fractions",
            "Your epochs have fractions of a step. The optimiser moves or does not move; what becomes of the texts "
            "that are left over?",
        ),
        Mistake(
            "accumulation forgotten",
            "You count every micro-batch as a step. When does the optimiser move?",
        ),
        Mistake(
            "processes forgotten",
            "You count the texts of one process. All of them feed the same step.",
        ),
        Mistake(
            "whole epochs only",
            "Your epochs are rounded, and with them the steps. Training may end in the middle of an epoch.",
            also=("whole epochs, rounded up",),
        ),
        Mistake(
            "steps of one epoch",
            "Your number of steps is that of one epoch.",
            also=("steps of one epoch, and epochs for as many",),
        ),
        Mistake(
            "the ratio turned",
            "Your rivals with longer epochs get more of them. Who takes more steps in an epoch needs fewer "
            "epochs.",
            also=("the fraction upside down",),
        ),
        Mistake(
            "steps in place of epochs",
            "Your list holds the steps that each rival takes in `epochs` epochs. How many epochs it needs was asked.",
        ),
        Mistake(
            "the longest rival for the first",
            "You give all of them the steps of the rival that takes the most. The first one's are asked for.",
        ),
        Mistake(
            "the first rival left out",
            "Your list leaves out the first rival, which needs its own epochs, too.",
        ),
    ),
    probes=_rivals,
)


EXERCISES = [EQUAL_STEPS]
