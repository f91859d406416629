"""What a term is, and the weighted sum of terms, which reads as the formula does."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.data.kinds import Batch
from kdtutor.objectives.rows import LIMITS, ObjectiveError, check_number


class Formula(nn.Module):
    """What Term and Objective share: arithmetic on `.terms`, which copies its operands."""

    terms: Any  # Term's list of itself, Objective's nn.ModuleList
    __array_ufunc__ = None  # so that numpy's numbers, too, leave `alpha * HardLabels()` to __rmul__

    def __add__(self, other: Formula) -> Objective:
        if not isinstance(other, Formula):
            return NotImplemented
        return Objective(copy.deepcopy(term) for term in [*self.terms, *other.terms])

    def __radd__(self, zero: int) -> Objective:  # sum([a, b]) is 0 + a + b
        return Objective(copy.deepcopy(term) for term in self.terms) if zero == 0 else NotImplemented

    def __rmul__(self, factor: float) -> Formula:
        if not isinstance(factor, Real):
            return NotImplemented
        factor = check_number("weight", factor)
        product = [copy.deepcopy(term) for term in self.terms]
        for term in product:
            term.weight = factor * term.weight
        return product[0] if isinstance(self, Term) else Objective(product)

    __mul__ = __rmul__


class Term(Formula):
    """One term of an objective: says what it needs, and gives its loss per valid item.

    needs: what the forward passes compute for it: "logits", "hidden_states", "attentions". needs_teacher: whether the
    teacher must run at all. positions: which tokens of a masked-LM batch it reads logits of, "valid" or "masked".
    fewest: how many texts a micro-batch must have for it to say anything.
    label: what a legend calls it, by default its name in words. weight: its factor in the sum, ≥ 0; like every setting
    it may change between two steps.
    """

    needs: frozenset[str] = frozenset({"logits"})
    needs_teacher: bool = True
    positions: str = "valid"
    fewest: int = 1
    label: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "label" not in vars(cls):
            # "HardLabels" → "hard labels"
            cls.label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()

    def __init__(self) -> None:
        super().__init__()
        self.weight = 1.0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, check_number(name, value) if name in LIMITS else value)

    @property
    def terms(self) -> list[Term]:  # type: ignore[override]
        return [self]

    def settings(self) -> dict[str, float]:
        """Return the numbers that may change between steps, by name, as a checkpoint records them."""
        return {name: getattr(self, name) for name in LIMITS if hasattr(self, name)}

    def restore(self, settings: Mapping[str, float]) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Prepare the term, once before training: refuse what doesn't fit, and make what is learned along."""
        if self.needs_teacher and teacher is None:
            raise ObjectiveError(f"{type(self).__name__} learns from a teacher, and there is none")

    def see_labels(self, labels: Tensor | None, classes: int) -> None:
        """Take in the training labels (N, …), of that many classes, once before training, where a term counts them."""

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        """Return the loss from both models' outputs: 1-D, one value per valid item, or their "sum" or "mean".

        On a GPU only "sum" and "mean" never wait: how many values "none" has to return, only the GPU knows.
        """
        raise NotImplementedError

    def count(self, batch: Batch) -> Tensor:
        """Tell how many values `forward` will return, 0-d, from the batch alone. Here: one per row of logits."""
        mask = token_mask(batch)
        if mask is not None:
            return mask.bool().sum()
        return torch.full((), len(batch["labels"]), device=batch["labels"].device)

    def __repr__(self) -> str:
        factor = "" if self.weight == 1 else f"{self.weight:g} * "
        return f"{factor}{type(self).__name__}({self.extra_repr()})"


class Objective(Formula):
    """Σ weight · term, as arithmetic on terms makes it; its repr is the formula.

    Called on both models' outputs and a batch it gives the weighted sum of the terms' means over that batch
    (0-d). Terms of weight 0 are not computed, though what they need still is: their weight may rise at any
    step.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        if not self.terms:
            raise ObjectiveError("an objective needs at least one term")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(term.needs for term in self.terms))

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms)

    @property
    def positions(self) -> str:
        """Tell which tokens' logits a masked-LM batch has to give: "masked" if no term reads more, or "valid"."""
        return "masked" if {t.positions for t in self.terms if "logits" in t.needs} == {"masked"} else "valid"

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        for term in self.terms:
            term.prepare(student, teacher)

    def see_labels(self, labels: Tensor | None, classes: int) -> None:
        for term in self.terms:
            term.see_labels(labels, classes)

    def settings(self) -> list[dict[str, float]]:
        """Return every term's settings, in order, as a checkpoint records them; `restore` takes them back."""
        return [term.settings() for term in self.terms]

    def restore(self, settings: Iterable[Mapping[str, float]]) -> None:
        for term, values in zip(self.terms, settings, strict=True):
            term.restore(values)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        active = [term for term in self.terms if term.weight > 0]
        if not active:
            raise ObjectiveError(f"every weight of {self} is 0: there is nothing to learn")
        return sum(term.weight * term(student, teacher, batch, reduction="mean") for term in active)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


def token_mask(batch: Batch) -> Tensor | None:
    """Return the attention mask where labels, and so logits, are per token; None where every row is an item.

    Labels (B, C) that are floats belong to a row's outputs, not to its tokens.
    """
    labels = batch["labels"]
    return batch["attention_mask"] if labels.dim() == 2 and not labels.is_floating_point() else None


def output_of(outputs: Any, name: str, who: str) -> Any:
    """Return a model's `logits` or `hidden_states`."""
    if getattr(outputs, name, None) is None:
        raise ObjectiveError(f"the {who}'s {name} are needed, and were not computed")
    return getattr(outputs, name)


def hidden_of_both(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Return both models' hidden states, embeddings first."""
    return output_of(student, "hidden_states", "student"), output_of(teacher, "hidden_states", "teacher")


def teacher_logits(outputs: Any, temperature: float | None = None) -> Tensor:
    """Return the teacher's logits, (B, C); of several teachers, those of all at a term's temperature.

    temperature: None where a term has none: then it is the mean of their logits.
    """
    pool = getattr(outputs, "pool", None)
    if pool is None:
        return output_of(outputs, "logits", "teacher")
    return pool.mean() if temperature is None else pool.at(temperature)


def width_of(model: Any, who: str) -> int:
    config = getattr(model, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "dim", None)
    if width is None:
        raise ObjectiveError(f"the {who}'s config names no hidden_size: its hidden states can't be compared")
    return width


def depth_of(model: Any) -> float:
    """Tell how many layers a model has; infinite where its configuration does not say so."""
    return getattr(getattr(model, "config", None), "num_hidden_layers", None) or math.inf


def one_value(loss: Tensor, counts: bool, reduction: str) -> Tensor:
    """Return a micro-batch's one loss (0-d): its "sum" and "mean", and with "none" (1,), or (0,) if it counts not."""
    return loss[None][: int(counts)] if reduction == "none" else loss


def texts_in(batch: Batch) -> Tensor:
    """Count the texts of a batch, 0-d."""
    mask = batch["attention_mask"]
    return torch.full((), len(mask), device=mask.device)
