"""What the student minimises: distillation objectives as terms that add up the way the formula does.

    objective = 0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)      # = blend(alpha=0.1, temperature=4)
    objective = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()   # DistilBERT

First the formulas, as functions on tensors; then the terms, which read these tensors from the models'
outputs. z_S and z_T are the student's and the teacher's logits, T the temperature, p_S = softmax(z_S / T),
p_T likewise. The teacher is a constant: no gradient flows into it.

Every formula takes `mask` and `reduction`. An item is a row: logits (N, C) hold N of them, (B, L, C) hold
B·L, of which those count where `mask` (B, L) is True or 1; what stands in the others, even NaN, changes
neither value nor gradient. reduction="none" gives one loss per item that counts (1-D), "sum" their sum,
"mean" their mean (0 if there are none). Computed in float32, or in float64 where that comes in; what counts
must be finite. Whatever does not fit raises ObjectiveError, a ValueError that names the culprit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.errors import KDTutorError

IGNORED = -100
Batch = dict[str, Tensor]


class ObjectiveError(KDTutorError, ValueError):
    """An objective was given something that it cannot work with."""


# ------------------------------------------------------------------------------------------- the formulas


def hard_labels(
    student_logits: Tensor, labels: Tensor,
    *, mask: Tensor | None = None, ignore_index: int = IGNORED, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Cross-entropy with the labels, −log softmax(z_S)_y; for regression the squared error, (z_S − y)².

    student_logits: (…, C). labels: (…), integers below C, or floats if C is 1 (regression); items labelled
    `ignore_index` don't count. No temperature: it belongs to the soft targets alone (Hinton et al. 2015, §2).
    """
    _check_labels(student_logits, labels)
    labelled = labels != ignore_index
    if mask is not None:
        _check_mask(mask, labels.shape)
        labelled = labelled & mask.bool()
    (z_s, y), mask = _rows(labelled, reduction, student_logits, labels)
    if labels.is_floating_point():
        return _reduce((z_s[:, 0] - y).square(), mask, reduction)
    return _reduce(F.cross_entropy(z_s, y.long(), reduction="none"), mask, reduction)


def soft_targets(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """T² · KL(p_T ‖ p_S) = T² Σ_c p_T (log p_T − log p_S): Hinton et al. 2015, arXiv:1503.02531.

    Both logits: (…, C), C ≥ 2. The gradient is T (p_S − p_T), and p_S − p_T shrinks as 1/T: with T² the soft
    targets keep their say whatever T is. As T → ∞ the value tends to ½ mean over classes of (Δz − mean Δz)²,
    where Δz = z_S − z_T: half the logit MSE, if both logits are centred.
    """
    _check_soft(student_logits, teacher_logits)
    kl = kl_divergence(teacher_logits.detach(), student_logits, temperature, mask=mask, reduction=reduction)
    return temperature**2 * kl


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−T² Σ_c p_T log p_S: soft targets plus T² × the teacher's entropy: another value, the same gradient.

    Both logits: (…, C), C ≥ 2. Even a perfect student does not reach 0 (Hinton et al. 2015, §2).
    """
    _check("temperature", temperature)
    _check_soft(student_logits, teacher_logits)
    (z_s, z_t), mask = _rows(mask, reduction, student_logits, teacher_logits.detach())
    p_t, log_p_s = (z_t / temperature).softmax(-1), (z_s / temperature).log_softmax(-1)
    return -(temperature**2) * _reduce((p_t * log_p_s).sum(-1), mask, reduction)


def uniform_targets(student_logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """−(1/C) Σ_c log p_S, the uniform distribution as target: Szegedy et al. 2016, arXiv:1512.00567.

    student_logits: (…, C), C ≥ 2. With weight ε beside hard labels of weight 1 − ε it is label smoothing.
    """
    uniform = torch.zeros_like(student_logits)
    return soft_cross_entropy(student_logits, uniform, mask=mask, reduction=reduction)


def logits_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Mean over classes of (z_S − z_T)²: Ba & Caruana 2014, arXiv:1312.6184 (there ½ of the sum).

    Both logits: (…, C). Unlike soft targets it also penalises a shift of all logits, which moves no
    probability.
    """
    _check_shapes(student_logits, teacher_logits, "logits")
    (z_s, z_t), mask = _rows(mask, reduction, student_logits, teacher_logits.detach())
    return _reduce((z_s - z_t).square().mean(-1), mask, reduction)


def cosine_hidden(
    student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """1 − cos(h_S, h_T) for each token: only directions have to agree (Sanh et al. 2019, arXiv:1910.01108).

    Both hidden states: (B, L, D), mask: the attention mask (B, L); or (N, D), tokens already selected.
    """
    _check_shapes(student_hidden, teacher_hidden, "hidden states")
    (h_s, h_t), mask = _rows(mask, reduction, student_hidden, teacher_hidden.detach())
    cosine = (F.normalize(h_s, dim=-1) * F.normalize(h_t, dim=-1)).sum(-1)
    return _reduce(1 - cosine, mask, reduction)


def hidden_states_mse(
    student_hidden: Tensor, teacher_hidden: Tensor, projection: Callable[[Tensor], Tensor] | None = None,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Mean over the width of (W h_S − h_T)², for each token: hints (Romero et al. 2015, arXiv:1412.6550).

    student_hidden: (B, L, D_S), teacher_hidden: (B, L, D_T), mask: the attention mask (B, L); or (N, D_S) and
    (N, D_T). projection: the learned W, D_S → D_T; None where the widths are equal.
    """
    width = student_hidden.dim() if projection is None else -1  # with a W the last axes may differ
    _check_shapes(student_hidden, teacher_hidden, "hidden states", width)
    (h_s, h_t), mask = _rows(mask, reduction, student_hidden, teacher_hidden.detach())
    if projection is not None:  # only now: a NaN in the padding would reach the gradient of W as 0 · NaN
        h_s = projection(h_s).to(h_t.dtype)
        _check_shapes(h_s, h_t, "hidden states, once projected,")
    return _reduce((h_s - h_t).square().mean(-1), mask, reduction)


def masked_lm(
    student_logits: Tensor, labels: Tensor,
    *, mask: Tensor | None = None, ignore_index: int = IGNORED, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−log softmax(z_S)_y at each masked token, which was y: Devlin et al. 2019, arXiv:1810.04805.

    student_logits: (B, L, V) or (n, V). labels: (B, L) or (n,), token ids, `ignore_index` where none is
    masked.
    """
    if labels.is_floating_point():
        raise ObjectiveError(f"masked-LM labels are token ids, so integers, not {labels.dtype}")
    return hard_labels(student_logits, labels, mask=mask, ignore_index=ignore_index, reduction=reduction)


def kl_divergence(
    p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """KL(p ‖ q) = Σ_c p (log p − log q) in nats, p and q being softmax(logits / T). No T²; gradients to both.

    Both logits: (…, C). Log-probabilities serve as logits too: at T = 1 softmax gives the probabilities back.
    """
    _check("temperature", temperature)
    _check_shapes(p_logits, q_logits, "logits")
    (p_logits, q_logits), mask = _rows(mask, reduction, p_logits, q_logits)
    log_p, log_q = (p_logits / temperature).log_softmax(-1), (q_logits / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    # Σ (q − p) is 0 on paper; in floating point it is the rounding of both log_softmax, which at a high
    # temperature outweighs a KL of order 1/T². Adding it takes that away.
    return _reduce((p * (log_p - log_q) + (q - p)).sum(-1), mask, reduction)


def entropy(
    logits: Tensor, temperature: float = 1.0, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """−Σ_c p log p in nats, p = softmax(logits / T), logits (…, C): from 0, all certain, to log C."""
    _check("temperature", temperature)
    (logits,), mask = _rows(mask, reduction, logits)
    log_p = (logits / temperature).log_softmax(-1)
    return _reduce(-(log_p.exp() * log_p).sum(-1), mask, reduction)


# ---------------------------------------------------------------------------------------------- the terms


class Formula(nn.Module):
    """What Term and Objective share: arithmetic on `.terms`, which copies its operands."""

    terms: Iterable[Term]
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
        product = [copy.deepcopy(term) for term in self.terms]
        for term in product:
            term.weight = factor * term.weight
        return product[0] if isinstance(self, Term) else Objective(product)

    __mul__ = __rmul__


class Term(Formula):
    """One term of an objective: says what it needs, and gives its loss per valid item.

    needs: what the forward passes compute for it: "logits", "hidden_states", "attentions". needs_teacher:
    whether the teacher must run at all. rows: which tokens of a masked-LM batch it reads logits of, "valid"
    or "masked". weight: its factor in the sum, ≥ 0; like every setting it may change between two steps.
    """

    needs: frozenset[str] = frozenset({"logits"})
    needs_teacher: bool = True
    rows: str = "valid"

    def __init__(self) -> None:
        super().__init__()
        self.weight = 1.0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _check(name, value) if name in LIMITS else value)

    @property
    def terms(self) -> list[Term]:
        return [self]

    def settings(self) -> dict[str, float]:
        """The numbers that may change between steps, by name, as a checkpoint records them."""
        return {name: getattr(self, name) for name in LIMITS if hasattr(self, name)}

    def restore(self, settings: Mapping[str, float]) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Called once before training: refuses what doesn't fit, and makes what has to be learned along."""
        if self.needs_teacher and teacher is None:
            raise ObjectiveError(f"{type(self).__name__} learns from a teacher, and there is none")

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        """The loss from both models' outputs: 1-D, one value per valid item, or their "sum" or "mean".

        On a GPU only "sum" and "mean" never wait: how many values "none" has to return, only the GPU knows.
        """
        raise NotImplementedError

    def count(self, batch: Batch) -> Tensor:
        """How many values `forward` will return, 0-d, from the batch alone. Here: one per row of logits."""
        mask = _token_mask(batch)
        if mask is not None:
            return mask.bool().sum()
        return torch.full((), len(batch["labels"]), device=batch["labels"].device)

    def __repr__(self) -> str:
        factor = "" if self.weight == 1 else f"{self.weight:g} * "
        return f"{factor}{type(self).__name__}({self.extra_repr()})"


class HardLabels(Term):
    """Cross-entropy with the labels (regression: squared error), skipping those of −100: hard_labels()."""

    needs_teacher = False

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return hard_labels(student.logits, batch["labels"], reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return (batch["labels"] != IGNORED).sum()


class MaskedLM(HardLabels):
    """Cross-entropy at the masked tokens (Devlin et al. 2019): masked_lm()."""

    rows = "masked"

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
        _check_classes(getattr(getattr(student, "config", None), "num_labels", None))

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        return uniform_targets(student.logits, mask=_token_mask(batch), reduction=reduction)


class LogitsMSE(Term):
    """Squared difference of the logits, regression included (Ba & Caruana 2014): logits_mse()."""

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, _part(teacher, "logits", "teacher")
        return logits_mse(*logits, mask=_token_mask(batch), reduction=reduction)


class SoftTargets(Term):
    """T² · KL(teacher ‖ student) at temperature T > 0 (Hinton et al. 2015): soft_targets()."""

    formula = staticmethod(soft_targets)

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        _check_classes(getattr(getattr(student, "config", None), "num_labels", None))

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        logits = student.logits, _part(teacher, "logits", "teacher")
        return self.formula(*logits, self.temperature, mask=_token_mask(batch), reduction=reduction)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


class SoftCrossEntropy(SoftTargets):
    """−T² Σ p_T log p_S: the gradient of SoftTargets, another value: soft_cross_entropy()."""

    formula = staticmethod(soft_cross_entropy)


class CosineHidden(Term):
    """1 − cosine of the last hidden layers, token by token (Sanh et al. 2019): cosine_hidden()."""

    needs = frozenset({"hidden_states"})

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        width, teacher_width = _width(student, "student"), _width(teacher, "teacher")
        if width != teacher_width:
            raise ObjectiveError(
                f"CosineHidden compares hidden states of one width, but the student's is {width} and the "
                f"teacher's {teacher_width}: use HiddenStates(), which learns a projection"
            )

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        h_s, h_t = _part(student, "hidden_states", "student"), _part(teacher, "hidden_states", "teacher")
        return cosine_hidden(h_s[-1], h_t[-1], mask=batch["attention_mask"], reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return batch["attention_mask"].bool().sum()


class HiddenStates(CosineHidden):
    """Squared difference of hidden states, by a learned projection if widths differ: hidden_states_mse().

    layers: {student's: teacher's} indices into `hidden_states`: 0 the embeddings, 1 the first layer, −1 the
    last; None means {-1: -1}. A token's loss is the mean over these pairs. `projections`, made anew by
    `prepare` if widths differ, holds a linear map (D_S → D_T, no bias) for each pair: parameters, for the
    optimiser too. (One hint: Romero et al. 2015, arXiv:1412.6550; layer by layer: Jiao et al. 2020,
    arXiv:1909.10351.)
    """

    def __init__(self, layers: Mapping[int, int] | None = None) -> None:
        super().__init__()
        if layers is not None and not (isinstance(layers, Mapping) and layers):
            raise ObjectiveError(f"layers maps the student's to the teacher's, like {{1: 2}}, not {layers!r}")
        self.layers = {-1: -1} if layers is None else dict(layers)
        self.projections = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        Term.prepare(self, student, teacher)
        width, teacher_width = _width(student, "student"), _width(teacher, "teacher")
        both = ("student", student, self.layers.keys()), ("teacher", teacher, self.layers.values())
        for who, model, chosen in both:
            depth = getattr(model.config, "num_hidden_layers", math.inf)
            missing = [layer for layer in chosen if not -depth - 1 <= layer <= depth]
            if missing:
                raise ObjectiveError(
                    f"the {who} has no hidden states {missing}, only 0 (embeddings) to {depth}"
                )
        self.projections = nn.ModuleList(
            nn.Linear(width, teacher_width, bias=False, device=getattr(student, "device", None))
            for _ in (self.layers if width != teacher_width else ())
        )

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        h_s, h_t = _part(student, "hidden_states", "student"), _part(teacher, "hidden_states", "teacher")
        how = {"mask": batch["attention_mask"], "reduction": reduction}
        pairs = zip(self.layers.items(), self.projections or [None] * len(self.layers), strict=True)
        losses = [hidden_states_mse(h_s[i], h_t[j], projection, **how) for (i, j), projection in pairs]
        return sum(losses) / len(losses)

    def extra_repr(self) -> str:
        return f"layers={self.layers}"


# --------------------------------------------------------------------------------------------- their sum


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
    def rows(self) -> str:
        """Which tokens' logits a masked-LM batch has to give: "masked" if no term wants more, or "valid"."""
        return "masked" if {t.rows for t in self.terms if "logits" in t.needs} == {"masked"} else "valid"

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        for term in self.terms:
            term.prepare(student, teacher)

    def settings(self) -> list[dict[str, float]]:
        """Every term's settings, in order, as a checkpoint records them; `restore` takes them back."""
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
        alpha = _check("alpha", value)
        self.terms[0].weight, self.terms[1].weight = alpha, 1 - alpha

    @property
    def temperature(self) -> float:
        return self.terms[1].temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.terms[1].temperature = value


def blend(alpha: float = 0.5, temperature: float = 2.0) -> Blend:
    """alpha · HardLabels() + (1 − alpha) · SoftTargets(temperature): alpha in [0, 1], on *hard* labels."""
    return Blend(alpha, temperature)


# ------------------------------------------------------------------------------------- rows and reductions


def _rows(mask: Tensor | None, reduction: str, *tensors: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """The rows that count of each (…, C) or (…) tensor, as (n, C) or (n,), and the mask left to _reduce.

    A CPU leaves the other rows out, which saves work. How many are left, only a GPU itself knows, and asking
    it would halt every step until it answers: there the other rows become 0, and _reduce leaves their losses
    out.
    """
    items = tensors[0].shape[:-1]
    if not items:
        raise ObjectiveError(f"expected (N, C) or (B, L, C), not a single row, {tuple(tensors[0].shape)}")
    rows = [tensor.flatten(0, len(items) - 1) for tensor in tensors]
    if mask is not None:
        _check_mask(mask, items)
        mask = mask.flatten().bool()
        if mask.is_cpu or reduction == "none":
            kept = mask.nonzero()[:, 0]
            if len(kept) < len(mask):  # else all count, and nothing need be copied
                rows = [row.index_select(0, kept) for row in rows]
            mask = None
        else:
            rows = [row.masked_fill(~mask.view(-1, *[1] * (row.dim() - 1)), 0) for row in rows]
    return [row.float() if row.dtype in (torch.float16, torch.bfloat16) else row for row in rows], mask


def _reduce(losses: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Losses (n,) as they are, or their sum or mean where the mask is True."""
    if reduction not in ("none", "sum", "mean"):
        raise ObjectiveError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    if reduction == "none":
        return losses
    total = (losses if mask is None else losses.masked_fill(~mask, 0)).sum()
    count = max(len(losses), 1) if mask is None else mask.sum().clamp(min=1)
    return total / count if reduction == "mean" else total


def _token_mask(batch: Batch) -> Tensor | None:
    """The attention mask where labels, and so logits, are per token; None where every row is an item."""
    return batch["attention_mask"] if batch["labels"].dim() == 2 else None


def _part(outputs: Any, name: str, who: str) -> Any:
    """A model's `logits` or `hidden_states`."""
    if getattr(outputs, name, None) is None:
        raise ObjectiveError(f"the {who}'s {name} are needed, and were not computed")
    return getattr(outputs, name)


def _width(model: Any, who: str) -> int:
    config = getattr(model, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "dim", None)
    if width is None:
        raise ObjectiveError(f"the {who}'s config names no hidden_size: its hidden states can't be compared")
    return width


# ------------------------------------------------------------------------------------------------ refusals

LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "weight": (lambda value: value >= 0, "a finite number, 0 or more"),
    "temperature": (lambda value: value > 0, "a finite number above 0"),
    "alpha": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
}


def _check(name: str, value: Any) -> float:
    fits, wanted = LIMITS[name]
    if not (isinstance(value, Real) and math.isfinite(value) and fits(value)):
        raise ObjectiveError(f"{name} must be {wanted}, not {value!r}")
    return float(value)


def _check_shapes(student: Tensor, teacher: Tensor, what: str, axes: int | None = None) -> None:
    """Refuse shapes that differ, in their first `axes` where that is given: broadcasting would hide it."""
    if student.shape[:axes] != teacher.shape[:axes]:
        shapes = f"{tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        raise ObjectiveError(f"{what} do not fit together: {shapes}")


def _check_mask(mask: Tensor, items: torch.Size) -> None:
    if mask.shape != items:
        raise ObjectiveError(f"the mask has shape {tuple(mask.shape)}, but the items {tuple(items)}")


def _check_soft(student_logits: Tensor, teacher_logits: Tensor) -> None:
    _check_shapes(student_logits, teacher_logits, "logits")
    _check_classes(*student_logits.shape[-1:])


def _check_classes(classes: int | None) -> None:
    if classes == 1:
        raise ObjectiveError(
            "soft targets over one output are always 1, so they teach nothing: use LogitsMSE"
        )


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.shape != logits.shape[:-1]:
        shapes = f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}"
        raise ObjectiveError(f"every row of logits needs one label: {shapes}")
    outputs = logits.shape[-1]
    wanted = "floats (regression)" if outputs == 1 else "integers (class numbers)"
    if labels.dtype == torch.bool or labels.is_floating_point() != (outputs == 1):
        raise ObjectiveError(f"labels for {outputs} outputs must be {wanted}, not {labels.dtype}")
