"""What differs between two observations, and how to say it in words."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 2e-6  # float32, by other formulas than ours; no mistake is as small as that
RESULT, GRADIENT_FLOWS = "the result", "whether a gradient flows back from the result"


@dataclass(frozen=True)
class Difference:
    """Between something observed of the learner's function and the same of the reference."""

    kind: str
    text: str
    what: str = RESULT
    values: tuple[Tensor, Tensor] | None = None  # the learner's and the right ones, where the numbers differ


def same(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    return next(compare(mine, other), None) is None


def compare(mine: dict[str, Any], right: dict[str, Any]) -> Iterator[Difference]:
    """What differs between two observations, in their order."""
    for what, value in right.items():
        if what == GRADIENT_FLOWS and mine.get(what) != value:
            yield Difference("detached", what)
        else:
            yield from _differences(what, mine.get(what), value)


def _differences(what: str, mine: Any, right: Any) -> Iterator[Difference]:
    def wrong(kind: str, text: str, values: tuple | None = None) -> Difference:
        return Difference(
            kind, f"{what}{'' if text[0] == ':' else ' '}{text}", what.partition("[")[0], values
        )

    if isinstance(right, Mapping):
        if not isinstance(mine, Mapping):
            yield wrong("wrong type", f"is {describe(mine)}, and a dictionary is due.")
        elif set(mine) != set(right):
            yield wrong("wrong type", f"has the keys {list(mine)}, and these are due: {list(right)}.")
        else:
            for key, value in right.items():
                yield from _differences(f"{what}[{key!r}]", mine[key], value)
    elif isinstance(right, (list, tuple)):
        mine = mine.tolist() if isinstance(mine, (Tensor, np.ndarray)) and not list(tensors(right)) else mine
        if not isinstance(mine, (list, tuple)):
            yield wrong("wrong type", f"is {describe(mine)}, and {describe(right)} is due.")
        elif len(mine) != len(right):
            yield wrong("wrong shape", f"has {len(mine)} parts, and {len(right)} are due.")
        else:
            for place, pair in enumerate(zip(mine, right, strict=True)):
                yield from _differences(f"{what}[{place}]", *pair)
    elif isinstance(right, Tensor):
        yield from _tensor_differences(wrong, mine, right)
    elif isinstance(right, Number):
        yield from _number_differences(wrong, mine, right)
    elif type(mine) is not type(right):
        yield wrong("wrong type", f"is {describe(mine)}, and {describe(right)} is due.")
    elif mine != right:
        yield wrong("another mistake", f"is {mine!r}, and should be {right!r}.")


def _tensor_differences(wrong: Callable, mine: Any, right: Tensor) -> Iterator[Difference]:
    if right.dim() == 0 and isinstance(mine, Number) and not isinstance(mine, bool):
        mine = torch.tensor(mine, dtype=right.dtype)
    if not isinstance(mine, Tensor):
        yield wrong("wrong type", f"is {describe(mine)}, and a torch tensor is due.")
        return
    mine, right = mine.detach(), right.detach()
    if mine.shape != right.shape:
        yield wrong(
            "wrong shape", f"has the shape {tuple(mine.shape)}, {_shape_hint(mine.shape, right.shape)}."
        )
        return
    equal = _close(mine.double(), right.double(), exact=not right.is_floating_point())
    if _family(mine.dtype) != _family(right.dtype):
        kinds = f"holds {_family(mine.dtype)} numbers, where {_family(right.dtype)} is due"
        yield wrong("wrong dtype", f"{kinds}{'; the numbers are right' if equal.all() else ''}.")
    elif not equal.all():
        yield _number_difference(wrong, mine.double(), right.double(), equal)


def _number_difference(wrong: Callable, mine: Tensor, right: Tensor, equal: Tensor) -> Difference:
    invalid = ~mine.isfinite() & right.isfinite()
    if invalid.any():
        count = f"{invalid.sum()} of its {invalid.numel()} entries are" if mine.dim() else "it is"
        example = _show(mine[invalid][0])
        text = f"is not finite: {count} {example}. That comes from 0/0, inf − inf or overflow."
        return wrong("NaN", text, (mine, right))
    place = tuple((~equal).nonzero()[0].tolist())
    text = f"is {_show(mine[place])}, and should be {_show(right[place])}."
    if mine.dim():
        text = f"differs in {(~equal).sum()} of its {equal.numel()} entries: the one at {list(place)} {text}"
    return wrong("another mistake", text, (mine, right))


def _number_differences(wrong: Callable, mine: Any, right: Number) -> Iterator[Difference]:
    if isinstance(mine, (Tensor, np.ndarray, np.generic)) and _numel(mine) == 1:
        mine = mine.item()
    if not isinstance(mine, Number) or (isinstance(right, bool) and mine not in (0, 1)):
        yield wrong("wrong type", f"is {describe(mine)}, and {describe(right)} is due.")
    elif isinstance(right, bool):
        if bool(mine) != right:
            said, due = ("yes" if value else "no" for value in (mine, right))
            yield wrong("another mistake", f": {said}, and it should be {due}.")
    else:
        a, b = torch.tensor(float(mine), dtype=torch.float64), torch.tensor(float(right), dtype=torch.float64)
        equal = _close(a, b, exact=isinstance(right, int))
        if not equal:
            yield _number_difference(wrong, a, b, equal)


def _close(mine: Tensor, right: Tensor, exact: bool) -> Tensor:
    """Where two tensors are equal up to rounding: of the entry, or, for small ones, of the largest entry."""
    if exact:
        return mine == right
    finite = right[right.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return torch.isclose(mine, right, rtol=RTOL, atol=ATOL + RTOL * largest, equal_nan=True)


def common_factor(pairs: list[tuple[Tensor, Tensor]]) -> str:
    """A sentence on the constant by which the learner's numbers differ from the right ones, if there is one."""
    mine, right = (torch.cat([values.flatten() for values in side]) for side in zip(*pairs, strict=True))
    if mine.numel() < 2 or not (mine.isfinite() & right.isfinite()).all() or not right.any():
        return ""
    factor = (mine @ right / (right @ right)).item()
    if not _close(mine, factor * right, exact=False).all() or abs(factor) < 1e-6:
        return ""
    if abs(factor + 1) < RTOL:
        return "Your numbers are the right ones with the sign changed. "
    sign = "and with the sign changed, " if factor < 0 else ""
    size, times = (abs(factor), "large") if abs(factor) > 1 else (1 / abs(factor), "small")
    return (
        f"Your numbers are always {size:.4g} times too {times}: {sign}what here is {size:.4g}? For example, "
    )


def _shape_hint(mine: torch.Size, right: torch.Size) -> str:
    due = f"and {tuple(right)} is due" if len(right) else "and a single number is due"
    if not len(right):
        return f"{due}: a mean or a sum over the rest is missing"
    if not len(mine):
        return f"{due}: something was summed or averaged that should not be"
    if sorted(mine) == sorted(right):
        return f"{due}: two axes are exchanged"
    return due


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples and dictionaries, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(part)


# ----------------------------------------------------------------------------------------------- words


def describe(value: Any) -> str:
    """What something is, in words: "a tensor of shape (8, 25)", "a NumPy array", "a number (float)"."""
    if value is None or value is ...:
        return "None" if value is None else "..."
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, Number):
        return f"a plain number ({type(value).__name__})"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    names = {str: "a text", dict: "a dictionary"}
    if inspect.ismodule(value):
        return "a module"
    return names.get(type(value), f"something of the type {type(value).__name__}")


def in_words(error: BaseException) -> str:
    """Type and message on one line, without addresses."""
    message = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    message = textwrap.shorten(message, 300, placeholder=" …")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _family(dtype: torch.dtype) -> str:
    """float32, float64, …, bool; all integers are one."""
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return str(dtype).removeprefix("torch.")
    return "integer"


def _numel(value: Tensor | np.ndarray | np.generic) -> int:
    return value.numel() if isinstance(value, Tensor) else value.size


def _show(value: Tensor) -> str:
    return f"{value.item():.4g}"
