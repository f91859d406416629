"""Judges an experiment: what was predicted, what was measured, and the reason that was given.

A prediction may be wrong, and the experiment is solved all the same: it is there to find out. But if the numbers are
those that a known misconception leads to, the verdict says which. What was measured has to be what others measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdtutor.exercises.definitions import Experiment, Misconception, Verdict
from kdtutor.exercises.words import describe, number, sentence, wrapped

A_GUESS = 0.3  # by how much a prediction may be off the numbers of the misconception that it shows
# Of the largest number: what is smaller than that counts as that large, and what is 0 as that large.
SMALL, NOTHING = 0.02, 0.25
EXACTLY = 0.05  # by how much it may be off them and still be called the same
# What somebody may have measured in place of a number that is asked for.
IN_PLACE = {
    "one divided by each": lambda value: 1 / value,
    "their squares": lambda value: value**2,
    "their roots": lambda value: value**0.5,
    "their natural logarithms": math.log,
    "parts of the whole, where one part is to be compared with the other": lambda value: value / (1 + value),
    "by how much more, not how many times as much": lambda value: value - 1,
    "what is left of one": lambda value: 1 - value,
}


def judge(experiment: Experiment, prediction: Any = ..., measured: Any = ..., because: Any = ...) -> Verdict:
    """Judge an experiment, one thing after another. Never raises."""
    verdict = _judged(experiment, prediction, measured, because)
    return Verdict(verdict.solved, verdict.kind, wrapped(verdict.text), verdict.mistakes)


def _judged(experiment: Experiment, prediction: Any, measured: Any, because: Any) -> Verdict:
    if prediction is ...:
        return Verdict(False, "not attempted", "Not attempted yet. First write down what you expect.")
    try:
        guess = _as_numbers(experiment, "prediction", prediction)
        if measured is ...:
            text = f"You expect {_listed(experiment, guess)}. Noted: now measure, and leave the prediction as it is."
            return Verdict(False, "not attempted", text)
        found = _as_numbers(experiment, "measured", measured)
    except ValueError as error:
        return Verdict(False, "wrong type", f"Not yet. {error}")
    if problem := _mismeasured(experiment, found):
        return problem
    shown, introduced = _belief(experiment, guess)
    comparison = _comparison(experiment, guess, found, shown, introduced)
    return _reasoned(experiment, because, comparison, shown)


def _as_numbers(experiment: Experiment, what: str, given: Any) -> list[float]:
    """Read the numbers in a list, a tuple, an array or a tensor; ValueError says what is expected."""
    if isinstance(given, (torch.Tensor, np.ndarray)):
        given = given.tolist()
    count, expected = len(experiment.settings), ", ".join(experiment.settings)
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(values) != count:
        raise ValueError(f"`{what}` is {describe(given)}, and {count} numbers are expected: for {expected}.")
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`{what}` should hold {count} plain numbers: for {expected}.") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"`{what}` holds {_listed(experiment, numbers)}: a number is not finite.")
    return numbers


def _mismeasured(experiment: Experiment, found: Sequence[float]) -> Verdict | None:
    """Judge a measurement that is not what others measure."""
    if _farthest(found, experiment.numbers) <= experiment.near:
        return None
    words, off = _in_place(found, experiment.numbers)
    # what somebody expected may also be what is written down as measured; of two that are near, the nearer one
    known = [*experiment.slips, *experiment.beliefs]
    slip = min(known, key=lambda one: _farthest(found, one.numbers))
    if _farthest(found, slip.numbers) <= min(experiment.near, off):
        text = f"Not yet. In what you measured: {slip.name}.\n{slip.hint}"
        return Verdict(False, "a known mistake", text, (slip.name,))
    if words:
        return Verdict(False, "another mistake", f"Not yet. What you measured is {words}")
    some = [one for one in experiment.slips if _in_some(experiment, found, one)]
    some = some or [one for one in experiment.beliefs if _in_some(experiment, found, one)]
    if len(some) == 1:
        text = f"Not yet. In some of what you measured: {some[0].name}.\n{some[0].hint}"
        return Verdict(False, "a known mistake", text, (some[0].name,))
    gaps = dict(zip(experiment.settings, _gaps(found, experiment.numbers), strict=True))
    wrong = [what for what, gap in gaps.items() if gap > experiment.near]
    measured = dict(zip(experiment.settings, found, strict=True))
    listed = ", ".join(f"for {what} you measured {number(measured[what])}" for what in wrong)
    text = f"{sentence(listed)}, and that cannot be."
    question = "Was that setting the only thing that changed?"
    if right := [what for what in gaps if what not in wrong]:
        question = f"The number for {' and for '.join(right)} is right. {question}"
    return Verdict(False, "another mistake", f"Not yet. {text} {question}")


def _in_some(experiment: Experiment, found: Sequence[float], slip: Misconception) -> bool:
    """Say whether each number is right or that of a slip, at least one of them the slip's and far from right."""
    right, wrong = _gaps(found, experiment.numbers), _gaps(found, slip.numbers)
    pairs = list(zip(right, wrong, strict=True))
    near = experiment.near
    return all(min(pair) <= near for pair in pairs) and any(b <= near and a > 3 * near for a, b in pairs)


def _in_place(found: Sequence[float], right: Sequence[float]) -> tuple[str, float]:
    """Tell what the measured numbers are of the right ones, all of them, and how far off; empty if nothing is known."""
    for words, form in IN_PLACE.items():
        try:
            expected = [form(value) for value in right]
        except (ValueError, ZeroDivisionError):
            continue
        if (off := _farthest(found, expected)) <= 0.02:
            return f"{words}.", off
    factors = [mine / other for mine, other in zip(found, right, strict=True) if other]
    if len(factors) > 1 and (off := max(factors) - min(factors)) <= 0.02 * abs(factors[0]):
        return f"always {number(factors[0])} times what is asked for: what is that number here?", off
    return "", math.inf


def _belief(experiment: Experiment, guess: Sequence[float]) -> tuple[Misconception | None, str]:
    """Find the misconception that a prediction shows, and how near it is: no other one, nor the truth, is as near."""
    nearest = min(experiment.beliefs, key=lambda belief: _farthest(guess, belief.numbers))
    off = _farthest(guess, nearest.numbers)
    if off > A_GUESS or off >= _farthest(guess, experiment.numbers):
        return None, ""
    return nearest, f"Your prediction is {'' if off <= EXACTLY else 'near to '}what follows from this"


def _comparison(
    experiment: Experiment,
    guess: Sequence[float],
    found: Sequence[float],
    shown: Misconception | None,
    introduced: str,
) -> str:
    if not shown and _farthest(guess, experiment.numbers) <= A_GUESS:
        return "You predicted it."
    numbers = f"You expected {_listed(experiment, guess)}, and it is {_listed(experiment, found)}."
    return f"{numbers}\n{introduced}: {shown.name}. {shown.hint}" if shown else numbers


def _reasoned(experiment: Experiment, because: Any, comparison: str, shown: Misconception | None) -> Verdict:
    """Judge a right measurement by the reason given for it."""
    mistakes, letters = (shown.name,) if shown else (), ", ".join(experiment.reasons)
    if because is ...:
        text = f"Well measured. {comparison}\nNow say why: `because` is one of {letters}."
        return Verdict(False, "no reason yet", text, mistakes)
    reason = because.strip().lower() if isinstance(because, str) else None
    if reason not in experiment.reasons:
        return Verdict(False, "wrong type", f"Not yet. `because` should be one of {letters}.", mistakes)
    if wrong := experiment.reasons[reason]:
        text = f"Well measured, but that is not why: {wrong.name}.\n{wrong.hint}"
        return Verdict(False, "a known mistake", text, (*mistakes, wrong.name))
    return Verdict(True, "right", f"Right. {comparison}\nExperiment {experiment.number} is solved.", mistakes)


def _gaps(mine: Sequence[float], other: Sequence[float]) -> list[float]:
    largest = max(map(abs, other)) or 1.0
    sizes = [max(abs(value), SMALL * largest) if value else NOTHING * largest for value in other]
    return [abs(a - b) / size for a, b, size in zip(mine, other, sizes, strict=True)]


def _farthest(mine: Sequence[float], other: Sequence[float]) -> float:
    """Tell how far two rows of numbers are apart where they are farthest, as a fraction of the second."""
    return max(_gaps(mine, other))


def _listed(experiment: Experiment, numbers: Sequence[float]) -> str:
    return ", ".join(
        f"{number(value)} for {what}" for what, value in zip(experiment.settings, numbers, strict=True)
    )
