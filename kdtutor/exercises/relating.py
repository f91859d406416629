"""What the learner's numbers have to do with the right ones: the same in another order, or shape, or one step away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# What the right numbers may be, seen from the learner's X. No constant factor: that is told by `factor_in_words`.
FORMS = {
    "1 minus yours": lambda x: 1 - x,
    "the exponentials of yours": torch.exp,
    "the logarithms of yours": torch.log,
    "the squares of yours": torch.square,
    "the roots of yours": torch.sqrt,
    "the reciprocals of yours": torch.reciprocal,
    "yours without their sign": torch.abs,
    "yours as softmax makes them": lambda x: x.softmax(-1) if x.dim() else x,
    "yours over their sum": lambda x: x / x.sum(-1, keepdim=True) if x.dim() else x,
}
# What a learner's number may be of one argument.
OF_ALL = {
    "": lambda x: x,
    "the largest of ": torch.amax,
    "the smallest of ": torch.amin,
    "the mean of ": torch.mean,
    "the median of ": torch.median,
    "the sum of ": torch.sum,
    "the standard deviation of ": torch.std,
    "the first of ": lambda x: x[0],
    "the last of ": lambda x: x[-1],
    "the length of ": lambda x: torch.tensor(len(x)).double(),
}
SUMMARIES = {
    "their mean": lambda x, axis: x.mean(axis),
    "their sum": lambda x, axis: x.sum(axis),
    "the first of them": lambda x, axis: x.select(axis, 0),
    "the last of them": lambda x, axis: x.select(axis, -1),
    "the largest of them": lambda x, axis: x.amax(axis),
}


def relation_in_words(pairs: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Say what the learner's numbers are to the right ones in all probes; empty where nothing is known."""
    pairs = [(mine.double(), right.double()) for mine, right in pairs]
    if sum(right.numel() for _, right in pairs) < 3 or not all(right.isfinite().all() for _, right in pairs):
        return ""
    # Whole numbers, that differ by less than is seen here.
    if all(_near(mine, right) for mine, right in pairs):
        return ""
    if all(right.dim() == 2 and len(right) > 1 and _near(mine.mT, right) for mine, right in pairs):
        return "Your numbers are the right ones with their axes exchanged: "
    if all(right.dim() > 1 and _near(_rows_sorted(mine), _rows_sorted(right)) for mine, right in pairs):
        return "Your rows are the right ones in another order: "
    if all(_near(mine.flatten().sort().values, right.flatten().sort().values) for mine, right in pairs):
        return "Your numbers are the right ones in another order: "
    for words, form in FORMS.items():
        if all(_near(form(mine), right) for mine, right in pairs):
            return f"The right numbers are {words}: "
    gaps = torch.cat([(mine - right).flatten() for mine, right in pairs])
    if _near(gaps, gaps[:1].expand_as(gaps)) and gaps[0].abs() > 1e-3:
        return f"Your numbers are always off by {gaps[0].item():+.4g}: "
    return ""


def argument_in_words(mine: Sequence[Tensor], names: Sequence[str], probes: Sequence[Sequence[Any]]) -> str:
    """Say what the learner's numbers are of one argument, in all probes; empty where nothing is known."""
    given = [_rows_of_numbers(names, probe) for probe in probes]
    for name in given[0] if len(mine) > 1 else ():
        for words, form in OF_ALL.items():
            if all(
                name in each and _near(x.double(), form(each[name]))
                for x, each in zip(mine, given, strict=True)
            ):
                return f"What you have there is {words}`{name}`: "
    return ""


def _rows_of_numbers(names: Sequence[str], args: Sequence[Any]) -> dict[str, Tensor]:
    """Return the tensors, lists of numbers, and parts of dictionaries among the arguments, by what they are called."""
    found = dict(zip(names, args, strict=False))
    for name, value in list(found.items()):
        if isinstance(value, Mapping):
            found |= {f"{name}[{key!r}]": part for key, part in value.items()}
        elif isinstance(value, (list, tuple)) and all(isinstance(part, (int, float)) for part in value):
            found[name] = torch.tensor(value)
    return {
        name: x.detach().double()
        for name, x in found.items()
        if isinstance(x, Tensor) and x.numel() > 1 and x.dim()
    }


def shape_in_words(mine: Tensor, right: Tensor) -> str:
    """Say what would make the learner's shape the right one, if its numbers tell; empty otherwise."""
    mine, right = mine.double(), right.double()
    if mine.numel() == right.numel() and right.numel() and _near(mine.reshape(right.shape), right):
        how = "in another shape"
        if mine.squeeze().shape == right.squeeze().shape:
            how = "with an axis of size 1 too many or too few"
        return f"the numbers are the right ones, {how}"
    if mine.dim() == right.dim() == 1 and len(mine) and len(right) == len(right.unique()):
        more, less = (_not_among(*both) for both in ((mine, right), (right, mine)))
        if not (more and less) and (more or less):
            return f"{'too much is' if more else 'missing is'} {', '.join((more or less)[:5])}"
    for axis in range(mine.dim()) if mine.dim() == right.dim() + 1 else ():
        for words, summary in SUMMARIES.items():
            if mine.shape[axis] > 1 and _near(summary(mine, axis), right):
                return f"{words} along axis {axis} would be right"
    return ""


def _not_among(some: Tensor, others: Tensor) -> list[str]:
    return [
        f"{value:.4g}"
        for value in some.tolist()
        if not torch.isclose(others, torch.tensor(value).double()).any()
    ]


def _rows_sorted(values: Tensor) -> Tensor:
    """Sort rows by their first number."""
    rows = values.reshape(len(values), -1)
    return rows[rows[:, 0].argsort()] if rows.numel() else rows


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-4, atol=2e-6).all())
