"""What else is looked at than the probes, and what is said of a function that is right there and not far out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdtutor.exercises import sandbox
from kdtutor.exercises.comparing import GRADIENT, Difference, compare, tensors
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.running import Run, operations, run
from kdtutor.exercises.words import sentence

ROWS = 8, 64  # for which torch operations are counted: a loop over the rows needs eight times as many
UNSTABLE = 0.01  # of the largest entry: with extreme arguments, less than that is rounding


def runs(exercise: Exercise, answer: Callable, probes: Sequence[tuple]) -> list[Run]:
    return [run(exercise, answer, probe) for probe in probes]


class Further:
    """Looks further at an answer: on fresh probes if it is wrong; far out, and how it grows, if it is right.

    seen: what the child that ran the answer has found at once, if it came to that: a list of fresh runs, or what is far
    out, a tuple.
    """

    def __init__(self, exercise: Exercise, answer: Callable, generator: torch.Generator) -> None:
        self.exercise, self.answer, self.generator, self.seen = exercise, answer, generator, None
        self.probes = list(exercise.probes(generator))
        self.extreme = list(exercise.stress(generator)) if exercise.stress else []

    def look(self, mine: list[Run], right: list[Run]) -> Any:
        if all(one.is_as(other) for one, other in zip(mine, right, strict=True)):
            return self._far_out()
        return runs(self.exercise, self.answer, self.probes)

    def _far_out(self) -> tuple[list[tuple[Run, Run]], list[int] | None]:
        exercise, answer = self.exercise, self.answer
        there = [
            (run(exercise, answer, args), run(exercise, answer, in_float64(args))) for args in self.extreme
        ]
        return there, [
            operations(answer, exercise.growth(rows)) for rows in ROWS
        ] if exercise.growth else None

    def far_out(self) -> tuple[list[tuple[Run, Run]], list[int] | None] | None:
        """Run it at extreme arguments, each with a twin in float64, and count the operations for ROWS; None if it ends.

        Once more if the child did not get through: on a busy machine its few seconds may pass before it has begun.
        """
        return self.seen if isinstance(self.seen, tuple) else sandbox.run(self._far_out).value

    def fresh(self) -> list[tuple[tuple, Run]]:
        """Make further probes, other ones each time, and see what the learner's function does on them."""
        seen, self.seen = self.seen, None
        if not isinstance(seen, list):
            self.probes = list(self.exercise.probes(self.generator))
            seen = sandbox.run(partial(runs, self.exercise, self.answer, self.probes)).value or ()
        return list(zip(self.probes, seen, strict=False))


def wrong_far_out(exercise: Exercise, args: tuple, mine: Run, twin: Run, right: Run) -> str:
    """Say what is wrong with a function that computes something else at these arguments, in any number of digits."""
    exact = run(exercise, exercise.reference, in_float64(args))
    found = [] if mine.failure else _beyond_rounding(mine, right)
    overflow = any(difference.kind == "NaN" for difference in found)
    if not found or overflow or twin.failure or not _differ(_single(twin.seen), exact.seen):
        return ""
    text = f"With numbers of ordinary size it is right; with numbers as large as {_largest(args)} it is not."
    return f"{text} There, {found[0].text}"


def _beyond_rounding(mine: Run, right: Run) -> list[Difference]:
    """Say what differs at extreme arguments by more than rounding does.

    A gradient is measured by the largest of all: where a softmax has made up its mind, one is nothing but rounding.
    """
    gradients = {what: value for what, value in right.seen.items() if what.startswith(GRADIENT)}
    largest = max((value.nan_to_num().abs().max().item() for value in gradients.values()), default=0.0)
    return [
        difference
        for difference in compare(mine.seen, right.seen, UNSTABLE)
        if difference.kind != "another mistake"
        or difference.what not in gradients
        or (difference.values[0] - difference.values[1]).abs().max() > UNSTABLE * largest
    ]


def unstable(args: tuple, mine: Run, twin: Run, right: Run) -> str:
    """Say what is wrong with a function that fails at these arguments, where more digits (its twin's) would help.

    Only overflow is its fault in any number of digits.
    """
    found = [] if mine.failure else _beyond_rounding(mine, right)
    if not mine.failure and not found:
        return ""
    overflow = any(difference.kind == "NaN" for difference in found)
    if not (overflow or mine.failure or twin.failure or _differ(mine.seen, twin.seen)):
        return ""
    what = sentence(found[0].text) if found else f"There, it stops with {mine.failure.words}."
    hint = "Look for exp of a large number, log of 0, or a difference of two large numbers."
    return f"With numbers as large as {_largest(args)} in its arguments it fails. {what} {hint}"


def _largest(args: tuple) -> str:
    floats = (value for value in tensors(args) if value.is_floating_point())
    return f"{max((value.abs().max().item() for value in floats), default=0):.4g}"


def _differ(mine: dict[str, Any], twin: dict[str, Any]) -> bool:
    return any(True for _ in compare(mine, _single(twin), UNSTABLE))


def _single(value: Any) -> Any:
    """Turn it into float32."""
    if isinstance(value, Mapping):
        return {key: _single(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_single, value))
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float64 else value


def in_float64(args: tuple) -> tuple:
    return tuple(
        value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for value in args
    )
