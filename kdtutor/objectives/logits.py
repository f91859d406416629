"""Terms on logits: hard labels, soft targets and their kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.objectives.formulas import (
    binary_soft_targets,
    check_classes,
    decoupled_kd,
    hard_labels,
    is_labelled,
    is_several,
    logits_mse,
    masked_lm,
    pearson_kd,
    soft_cross_entropy,
    soft_targets,
    uniform_targets,
)
from kdtutor.objectives.rows import ObjectiveError, check_factor, check_number
from kdtutor.objectives.terms import Batch, Objective, Term, one_value, teacher_logits, token_mask


class HardLabels(Term):
    """Cross-entropy with the labels, skipping those of −100: hard_labels().

    For a regression it is the squared error, for several labels per text the binary cross-entropy of each.

    class_weights: a factor for the loss of each class, in the task's order, or "balanced": N / (C · n_c) where n_c of
    the N training labels are of class c, so that each class says as much as any other (King & Zeng 2001). On average
    over the training labels that factor is 1, and the term keeps its say beside others.
    """

    needs_teacher = False

    def __init__(self, class_weights: str | Sequence[float] | None = None) -> None:
        super().__init__()
        self.class_weights = checked_class_weights(class_weights)
        given = None if self.class_weights in (None, "balanced") else torch.tensor(self.class_weights)
        # What can be counted again is not written down.
        self.register_buffer("_factors", given, persistent=False)

    def see_labels(self, labels: Tensor | None, classes: int) -> None:
        if self.class_weights is None:
            return
        if labels is None or labels.is_floating_point():
            raise ObjectiveError(f"{self!r} weighs classes, and no text of this task has a class")
        if self.class_weights == "balanced":
            self._factors = balanced_weights(labels, classes)
        elif len(self.class_weights) != classes:
            raise ObjectiveError(
                f"{self!r} has {len(self.class_weights)} class weights for {classes} classes"
            )

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        if self.class_weights == "balanced" and self._factors is None:
            raise ObjectiveError(
                f"{self!r} has seen no labels to count: Distillation shows them; or name the numbers"
            )
        return hard_labels(student.logits, batch["labels"], self._factors, reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return is_labelled(batch["labels"], several=is_several(batch["labels"])).sum()

    def extra_repr(self) -> str:
        return "" if self.class_weights is None else f"class_weights={self.class_weights!r}"


def checked_class_weights(given: Any) -> str | list[float] | None:
    """Return class weights as they are kept: None, "balanced", or a list of numbers of which not all are 0."""
    if given is None or (isinstance(given, str) and given == "balanced"):
        return given
    fits = isinstance(given, (list, tuple, Tensor)) and len(given) > 1
    weights = (
        [check_number("weight", float(w) if isinstance(w, Tensor) else w) for w in given] if fits else []
    )
    if not any(weights):
        raise ObjectiveError(
            f'class_weights must be "balanced" or a number for each class, not {str(given)[:80]!r}'
        )
    return weights


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Compute N / (C · n_c) for each class, (classes,), from labels (N,): C counts the classes that occur."""
    counts = torch.bincount(labels[is_labelled(labels)], minlength=classes)
    return counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))


class MaskedLM(HardLabels):
    """Cross-entropy at the masked tokens (Devlin et al. 2019): masked_lm()."""

    positions = "masked"
    label = "masked LM"

    def __init__(self) -> None:
        super().__init__()

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
        _check_exclusive(self, student)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return uniform_targets(student.logits, mask=token_mask(batch), reduction=reduction)


class LogitsMSE(Term):
    """Squared difference of the logits, regression included (Ba & Caruana 2014): logits_mse().

    Of several teachers it takes the mean logits: the mean of the squared distances has the same gradient.
    """

    label = "logit MSE"

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, teacher_logits(teacher)
        return logits_mse(*logits, mask=token_mask(batch), reduction=reduction)


class AnnealedLogits(LogitsMSE):
    """Squared difference to φ times the teacher's logits (Jafari et al. 2021, arXiv:2104.07163): logits_mse().

    phi: 0 to 1, like every setting it may change between steps. In the paper φ = 1 − (T − 1)/τ, and T falls from τ to
    1: the student matches a smooth function first, and the teacher's own at last. Hard labels come in a second phase.
    """

    label = "annealed logits"

    def __init__(self, phi: float = 1.0) -> None:
        super().__init__()
        self.phi = phi

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        target = self.phi * teacher_logits(teacher)
        return logits_mse(student.logits, target, mask=token_mask(batch), reduction=reduction)

    def extra_repr(self) -> str:
        return f"{self.phi:g}"


class SoftTargets(Term):
    """T² · KL(teacher ‖ student) at temperature T > 0 (Hinton et al. 2015): soft_targets()."""

    label = "soft targets (T²·KL)"
    formula: Callable[..., Tensor] = staticmethod(soft_targets)
    exclusive = True  # whether it reads logits as those of a softmax, over classes of which one is right

    # of its settings, those that the formula takes beside both logits
    takes: tuple[str, ...] = ("temperature",)

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        if self.exclusive:
            _check_exclusive(self, student)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, teacher_logits(teacher, self.temperature)
        settings = (getattr(self, name) for name in self.takes)
        return self.formula(*logits, *settings, mask=token_mask(batch), reduction=reduction)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name):g}" for name in self.takes)


class SoftCrossEntropy(SoftTargets):
    """−T² Σ p_T log p_S: the gradient of SoftTargets, another value: soft_cross_entropy()."""

    label = "soft cross-entropy (× T²)"
    formula = staticmethod(soft_cross_entropy)


class BinarySoftTargets(SoftTargets):
    """T² · KL(teacher ‖ student) of each label by itself, where a text may have several: binary_soft_targets()."""

    label = "binary soft targets (T²·KL)"
    formula = staticmethod(binary_soft_targets)
    exclusive = False


class DecoupledKD(SoftTargets):
    """Soft targets taken apart: the label against the rest, and among the rest (DKD, Zhao et al. 2022): decoupled_kd().

    alpha, beta: the factors of the two, ≥ 0. What is unlabelled does not count: the label says which part is which.
    """

    label = "decoupled KD"

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__(temperature)
        self.factors = check_factor("alpha", alpha), check_factor("beta", beta)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, teacher_logits(teacher, self.temperature)
        return decoupled_kd(*logits, batch["labels"], *self.factors, self.temperature, reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return is_labelled(batch["labels"]).sum()

    def extra_repr(self) -> str:
        alpha, beta = self.factors
        return f"alpha={alpha:g}, beta={beta:g}, {super().extra_repr()}"


class PearsonKD(SoftTargets):
    """Correlation of both models' probabilities, by text and by class (DIST, Huang et al. 2022): pearson_kd().

    beta, gamma: the factors of the two, ≥ 0. One value per micro-batch: see relations.py for what that means.
    """

    label = "Pearson KD"

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.factors = check_factor("beta", beta), check_factor("gamma", gamma)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, teacher_logits(teacher, self.temperature)
        loss = pearson_kd(*logits, *self.factors, self.temperature, mask=token_mask(batch))
        return one_value(loss, len(student.logits) > 0, reduction)

    def count(self, batch: Batch) -> Tensor:
        labels = batch["labels"]
        return torch.full((), int(len(labels) > 0), device=labels.device)

    def extra_repr(self) -> str:
        beta, gamma = self.factors
        return f"beta={beta:g}, gamma={gamma:g}, {super().extra_repr()}"


def _check_exclusive(term: Term, student: nn.Module) -> None:
    """Refuse a softmax over one output, and over labels of which a text may have several."""
    config = getattr(student, "config", None)
    check_classes(getattr(config, "num_labels", None))
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise ObjectiveError(
            f"{type(term).__name__} takes one class per text for right, but here it may have several labels: "
            "BinarySoftTargets(T) asks about each by itself, as in 0.1 * HardLabels() + 0.9 * BinarySoftTargets(2)"
        )


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
