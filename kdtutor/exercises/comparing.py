"""What differs between two observations, and how to say it in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtutor.exercises.relating import shape_in_words
from kdtutor.exercises.words import describe, number, short

RTOL, ATOL = 1e-4, 2e-6  # float32, by other formulas than ours; no mistake is as small as that
RESULT, GRADIENT_FLOWS = "the result", "whether a gradient flows back from the result"
GRADIENT = "its gradient with respect to"  # and then the argument's name


@dataclass(frozen=True)
class Difference:
    """Between something observed of the learner's function and the same of the reference."""

    kind: str
    text: str
    what: str = RESULT
    values: tuple[Tensor, Tensor] | None = None  # the learner's and the right ones, where the numbers differ


def same(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    return next(compare(mine, other), None) is None


def compare(mine: dict[str, Any], right: dict[str, Any], rtol: float = RTOL) -> Iterator[Difference]:
    """List what differs between two observations, in their order; by more than `rtol` where they are numbers."""
    for what, value in right.items():
        if what == GRADIENT_FLOWS and mine.get(what) != value:
            yield Difference("detached", what)
        else:
            yield from _differences(what, mine.get(what), value, rtol)


def _differences(what: str, mine: Any, right: Any, rtol: float = RTOL) -> Iterator[Difference]:
    def wrong(kind: str, text: str, values: tuple | None = None) -> Difference:
        return Difference(kind, f"{what}{'' if text[0] == ':' else ' '}{text}", what, values)

    if isinstance(right, Mapping):
        if not isinstance(mine, Mapping):
            yield wrong("wrong type", f"is {describe(mine)}, and a dictionary is expected.")
        elif set(mine) != set(right):
            yield wrong("wrong type", f"has the keys {list(mine)}, and these are expected: {list(right)}.")
        else:
            for key, value in right.items():
                yield from _differences(f"{what}[{key!r}]", mine[key], value, rtol)
    elif isinstance(right, (list, tuple)):
        mine = mine.tolist() if isinstance(mine, (Tensor, np.ndarray)) and not list(tensors(right)) else mine
        if not isinstance(mine, (list, tuple)):
            yield wrong("wrong type", f"is {describe(mine)}, and {describe(right)} is expected.")
        elif len(mine) != len(right):
            yield wrong("wrong shape", f"has {len(mine)} parts, and {len(right)} are expected.")
        else:
            for place, pair in enumerate(zip(mine, right, strict=True)):
                yield from _differences(f"{what}[{place}]", *pair, rtol)
    elif isinstance(right, Tensor):
        yield from _tensor_differences(wrong, mine, right, rtol)
    elif isinstance(right, Number):
        yield from _number_differences(wrong, mine, right, rtol)
    elif type(mine) is not type(right):
        yield wrong("wrong type", f"is {describe(mine)}, and {describe(right)} is expected.")
    elif mine != right:
        yield wrong("another mistake", f"is {short(mine)}, and should be {short(right)}.")


def _tensor_differences(wrong: Callable, mine: Any, right: Tensor, rtol: float) -> Iterator[Difference]:
    if right.dim() == 0 and isinstance(mine, Number) and not isinstance(mine, bool):
        mine = torch.tensor(as_float(mine), dtype=right.dtype)
    if not isinstance(mine, Tensor):
        yield wrong(
            "wrong type", f"is {describe(mine)}, and a torch tensor is expected.{_within(mine, right)}"
        )
        return
    mine, right = mine.detach(), right.detach()
    if mine.shape != right.shape:
        yield wrong("wrong shape", f"has the shape {tuple(mine.shape)}, {_shape_hint(mine, right)}.")
        return
    equal = _close(mine.double(), right.double(), 0 if not right.is_floating_point() else rtol)
    if _family(mine.dtype) != _family(right.dtype):
        kinds = f"holds {_family(mine.dtype)} numbers, where {_family(right.dtype)} is expected"
        yield wrong("wrong dtype", f"{kinds}{'; the numbers are right' if equal.all() else _places(mine)}.")
    elif not equal.all():
        yield _number_difference(wrong, mine.double(), right.double(), equal)


def _number_difference(wrong: Callable, mine: Tensor, right: Tensor, equal: Tensor) -> Difference:
    invalid = ~mine.isfinite() & right.isfinite()
    if invalid.any():
        count = f"{invalid.sum()} of its {invalid.numel()} entries are" if mine.dim() else "it is"
        example = _show(mine[invalid][0])
        text = f"is not finite: {count} {example}. That comes from 0/0, 0 · inf, inf − inf or overflow."
        return wrong("NaN", text, (mine, right))
    place = tuple((~equal).nonzero()[0].tolist())
    text = f"is {_show(mine[place])}, and should be {_show(right[place])}."
    if mine.dim():
        text = f"differs in {(~equal).sum()} of its {equal.numel()} entries: the one at {list(place)} {text}"
    return wrong("another mistake", text, (mine, right))


def _number_differences(wrong: Callable, mine: Any, right: Number, rtol: float) -> Iterator[Difference]:
    if isinstance(mine, (Tensor, np.ndarray, np.generic)) and _numel(mine) == 1:
        mine = mine.item()
    if not isinstance(mine, Number) or (isinstance(right, bool) and mine not in (0, 1)):
        yield wrong(
            "wrong type", f"is {describe(mine)}, and {describe(right)} is expected.{_within(mine, right)}"
        )
    elif isinstance(right, bool):
        if bool(mine) != right:
            said, expected = ("yes" if value else "no" for value in (mine, right))
            yield wrong("another mistake", f": {said}, and it should be {expected}.")
    else:
        a, b = (torch.tensor(as_float(value), dtype=torch.float64) for value in (mine, right))
        equal = _close(a, b, 0 if isinstance(right, int) else rtol)
        if not equal:
            yield _number_difference(wrong, a, b, equal)


def as_float(value: Number) -> float:
    """Turn a number into float64; a whole number too large for that becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _close(mine: Tensor, right: Tensor, rtol: float) -> Tensor:
    """Tell where two tensors are equal up to rounding: of the entry, or, for small ones, of the largest entry."""
    if not rtol:
        return mine == right
    finite = right[right.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return torch.isclose(mine, right, rtol=rtol, atol=ATOL + rtol * largest, equal_nan=True)


def _within(mine: Any, right: Any) -> str:
    """Say where in a list or a tuple the right value stands, if it does."""
    parts = mine if isinstance(mine, (list, tuple)) else ()
    place = next((k for k, part in enumerate(parts) if same({RESULT: part}, {RESULT: right})), None)
    return "" if place is None else f" The expected value is one part of it, number {place}."


def _places(mine: Tensor) -> str:
    """Say what whole numbers in the place of others may be."""
    if _family(mine.dtype) != "integer":
        return ""
    return ": are these places (argmax, argsort, indices), where the values that stand there are asked for"


def _shape_hint(values: Tensor, right_values: Tensor) -> str:
    mine, right = values.shape, right_values.shape
    if seen := shape_in_words(values, right_values):
        return f"and {tuple(right)} is expected: {seen}"
    expected = f"and {tuple(right)} is expected" if len(right) else "and a single number is expected"
    if not len(right):
        return f"{expected}: a mean or a sum over the rest is missing"
    if not len(mine):
        return f"{expected}: something was summed or averaged that should not be"
    if sorted(mine) == sorted(right):
        return f"{expected}: two axes are exchanged"
    return expected


def tensors(value: Any) -> Iterator[Tensor]:
    """Collect the tensors in lists, tuples and dictionaries, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(part)


def _family(dtype: torch.dtype) -> str:
    """Name the family of a type: float32, float64, …, bool; all integers are one."""
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return str(dtype).removeprefix("torch.")
    return "integer"


def _numel(value: Tensor | np.ndarray | np.generic) -> int:
    return value.numel() if isinstance(value, Tensor) else value.size


def _show(value: Tensor) -> str:
    return number(value.item())
