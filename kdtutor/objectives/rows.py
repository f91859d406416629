"""What all formulas share: which rows count, how their losses become one number, and what is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdtutor.errors import Check, KDTutorError, number


class ObjectiveError(KDTutorError, ValueError):
    """An objective was given something that it cannot work with."""


def valid_rows(mask: Tensor | None, reduction: str, *tensors: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Return the rows that count of each (…, C) or (…) tensor, as (n, C) or (n,), and the mask left to reduce_losses.

    A CPU leaves the other rows out, which saves work. How many are left, only a GPU itself knows, and asking
    it would halt every step until it answers: there the other rows become 0, and reduce_losses leaves their
    losses out.
    """
    items = tensors[0].shape[:-1]
    if not items:
        raise ObjectiveError(f"expected (N, C) or (B, L, C), not a single row, {tuple(tensors[0].shape)}")
    rows = [tensor.flatten(0, len(items) - 1) for tensor in tensors]
    if mask is not None:
        check_mask(mask, items)
        mask = mask.flatten().bool()
        if mask.is_cpu or reduction == "none":
            kept = mask.nonzero()[:, 0]
            if len(kept) < len(mask):  # else all count, and nothing need be copied
                rows = [row.index_select(0, kept) for row in rows]
            mask = None
        else:
            rows = [row.masked_fill(~mask.view(-1, *[1] * (row.dim() - 1)), 0) for row in rows]
    return [wide(row) for row in rows], mask


def reduce_losses(losses: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Return the losses (n,) as they are, or their sum or mean where the mask is True."""
    if reduction not in ("none", "sum", "mean"):
        raise ObjectiveError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    if reduction == "none":
        return losses
    total = (losses if mask is None else losses.masked_fill(~mask, 0)).sum()
    count = max(len(losses), 1) if mask is None else mask.sum().clamp(min=1)
    return total / count if reduction == "mean" else total


def wide(x: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, in which losses are computed; wider types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor, shortest: Tensor | float = 0.0) -> Tensor:
    """Divide each vector (…, D) by its length. A zero vector has no direction: it stays zero and gets no gradient.

    shortest: vectors that are no longer than this count as zero.
    """
    square = x.square().sum(-1, keepdim=True)
    has_length = (square > torch.finfo(square.dtype).tiny) & (square > shortest**2)
    return (x * square.where(has_length, 1).rsqrt()).where(has_length, 0)


def rounding(x: Tensor) -> Tensor:
    """Tell how far two vectors (N, D) may lie apart that would be equal if numbers had no end: 0-d, 32 ε · mean length.

    Equal texts in a batch come out of a model that far apart: a difference so small says nothing, however it is scaled.
    """
    return 32 * torch.finfo(x.dtype).eps * x.detach().norm(dim=-1).mean()


# The bounds of weight and temperature are far beyond use, and far within what float32 can compute T² · KL with.
LIMITS: dict[str, Check] = {
    "weight": number(
        "a finite number, 0 or more (at most 1e6)", lambda value: 0 <= value <= 1e6, ObjectiveError
    ),
    "temperature": number(
        "a finite number above 0 (1e-6 to 1e6)", lambda value: 1e-6 <= value <= 1e6, ObjectiveError
    ),
    "alpha": number("a number from 0 to 1", lambda value: 0 <= value <= 1, ObjectiveError),
    "phi": number("a number from 0 to 1", lambda value: 0 <= value <= 1, ObjectiveError),
    "beta": number("a number from 0 to 1", lambda value: 0 <= value <= 1, ObjectiveError),
    "skew": number("a number from 0 to below 1", lambda value: 0 <= value < 1, ObjectiveError),
    "strength": number(
        "a finite number, 0 or more (at most 1e6)", lambda value: 0 <= value <= 1e6, ObjectiveError
    ),
}


def check_number(name: str, value: Any) -> float:
    return LIMITS[name](name, value)


def check_factor(name: str, value: Any) -> float:
    """Return one of several factors within a term, or refuse it by its name as a weight would be refused."""
    return LIMITS["weight"](name, value)


def check_shapes(student: Tensor, teacher: Tensor, what: str, axes: int | None = None) -> None:
    """Refuse shapes that differ, in their first `axes` where that is given: broadcasting would hide it."""
    if student.shape[:axes] != teacher.shape[:axes]:
        shapes = f"{tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        raise ObjectiveError(f"{what} do not fit together: {shapes}")


def check_mask(mask: Tensor, items: torch.Size) -> None:
    if mask.shape != items:
        raise ObjectiveError(f"the mask has shape {tuple(mask.shape)}, but the items {tuple(items)}")
