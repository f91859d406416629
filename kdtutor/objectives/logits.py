"""Terms on logits: hard labels, soft targets and their kin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdtutor.objectives.formulas import (
    IGNORED,
    check_classes,
    check_number,
    hard_labels,
    logits_mse,
    masked_lm,
    soft_cross_entropy,
    soft_targets,
    uniform_targets,
)
from kdtutor.objectives.terms import Batch, Objective, Term, output_of, token_mask


class HardLabels(Term):
    """Cross-entropy with the labels (regression: squared error), skipping those of −100: hard_labels()."""

    needs_teacher = False

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return hard_labels(student.logits, batch["labels"], reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return (batch["labels"] != IGNORED).sum()


class MaskedLM(HardLabels):
    """Cross-entropy at the masked tokens (Devlin et al. 2019): masked_lm()."""

    positions = "masked"
    label = "masked LM"

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return masked_lm(student.logits, batch["labels"], reduction=reduction)


class UniformTargets(Term):
    """Cross-entropy with the uniform distribution, as if a teacher knew nothing: uniform_targets().

    `0.9 * HardLabels() + 0.1 * UniformTargets()` is label smoothing (Szegedy et al. 2016): the control that
    says whether a teacher gave more than any soft targets would have.
    """

    needs_teacher = False

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        check_classes(getattr(getattr(student, "config", None), "num_labels", None))

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return uniform_targets(student.logits, mask=token_mask(batch), reduction=reduction)


class LogitsMSE(Term):
    """Squared difference of the logits, regression included (Ba & Caruana 2014): logits_mse()."""

    label = "logit MSE"

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, output_of(teacher, "logits", "teacher")
        return logits_mse(*logits, mask=token_mask(batch), reduction=reduction)


class SoftTargets(Term):
    """T² · KL(teacher ‖ student) at temperature T > 0 (Hinton et al. 2015): soft_targets()."""

    label = "soft targets (T²·KL)"
    formula = staticmethod(soft_targets)

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        check_classes(getattr(getattr(student, "config", None), "num_labels", None))

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, output_of(teacher, "logits", "teacher")
        return self.formula(*logits, self.temperature, mask=token_mask(batch), reduction=reduction)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


class SoftCrossEntropy(SoftTargets):
    """−T² Σ p_T log p_S: the gradient of SoftTargets, another value: soft_cross_entropy()."""

    label = "soft cross-entropy (× T²)"
    formula = staticmethod(soft_cross_entropy)


class Blend(Objective):
    """alpha · HardLabels() + (1 − alpha) · SoftTargets(temperature): see blend().

    Both may be set between two steps. A sum with, or a multiple of, a Blend is a plain Objective, without
    alpha.
    """

    def __init__(self, alpha: float = 0.5, temperature: float = 2.0) -> None:
        super().__init__([HardLabels(), SoftTargets(temperature)])
        self.alpha = alpha

    @property
    def alpha(self) -> float:
        return self.terms[0].weight

    @alpha.setter
    def alpha(self, value: float) -> None:
        alpha = check_number("alpha", value)
        self.terms[0].weight, self.terms[1].weight = alpha, 1 - alpha

    @property
    def temperature(self) -> float:
        return self.terms[1].temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.terms[1].temperature = value


def blend(alpha: float = 0.5, temperature: float = 2.0) -> Blend:
    """Compute alpha · HardLabels() + (1 − alpha) · SoftTargets(temperature): alpha in [0, 1], on *hard* labels."""
    return Blend(alpha, temperature)
