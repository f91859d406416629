"""Losses over a vocabulary, a few hundred tokens at a time: a full table of logits never exists.

A masked-LM batch of n tokens has n · V logits, student's and teacher's, and as many gradients: with BERT's vocabulary
of 30,522 and 32,768 tokens, 4 GB each in float32. But a token's loss depends on its own row alone. So rows are taken
chunk by chunk: both models' logits from what goes into their last matrix (n, D), every term's loss, its gradient with
respect to the logits, and from that the gradients of features, matrix and bias. What a chunk needs fits the
processor's cache, which makes it faster too, and no softmax is computed again on the way back.

It is exact: the losses are those of kdtutor.objectives, and their gradients the textbook's, such as T (p_S − p_T).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdtutor.models.forward import Outputs, projection
from kdtutor.objectives.formulas import IGNORED
from kdtutor.objectives.logits import (
    HardLabels,
    LogitsMSE,
    MaskedLM,
    SoftCrossEntropy,
    SoftTargets,
    UniformTargets,
)
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training.topk import logits_of_top

CHUNK_BYTES = {"cpu": 4 << 20}  # of one model's float32 logits: a share of the last cache …
ELSEWHERE = 256 << 20  # … and on a GPU enough rows to keep it busy
FEWEST = 64  # rows: with fewer, reading the matrix takes longer than multiplying by it


def reads_rows(objective: Objective, student: nn.Module, teacher: nn.Module | None) -> bool:
    """Whether `losses` can stand in for the objective's terms that read logits: known terms, and known heads."""
    terms = [term for term in objective.terms if "logits" in term.needs]
    asked = [student, teacher] if any(term.needs_teacher for term in terms) else [student]
    known = all(type(term) in FORMULAS for term in terms)  # not a subclass: it may compute something else
    return bool(terms) and known and all(projection(model) is not None for model in asked)


def losses(
    terms: Sequence[Term], factors: Tensor, student: Outputs, teacher: Outputs | None, labels: Tensor,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Σ factor · loss over the terms that read logits, and each term's loss.

    factors: (n_terms,). student, teacher: `features` (n, D) and the `projection` they go into, or the teacher's `top`
    logits. labels: (n,), −100
    where there is none. rows: of a chunk. Returns the sum (0-d; `backward()` gives the gradients of the student's
    features, matrix and bias) and the losses, each summed over its valid items (n_terms,), without gradients. Terms
    of weight 0, and those that read no logits, give 0.
    """
    features, matrix, bias = student.features, student.projection.weight, student.projection.bias
    active = [(i, t) for i, t in enumerate(terms) if t.weight and "logits" in t.needs]
    ask = teacher is not None and any(t.needs_teacher for _, t in active)
    with torch.no_grad():
        kind = _product_dtype(features)
        h_s, w_s = features.to(kind), matrix.to(kind)
        top = teacher.top if ask else None
        h_t, w_t = (None, None)
        if ask and not top:
            h_t, w_t = teacher.features.to(kind), teacher.projection.weight.to(kind)
        wide = torch.promote_types(
            kind, torch.float32
        )  # half precision multiplies; sums are float32 or better
        factors = factors.to(wide)
        values = torch.zeros(len(terms), dtype=wide, device=features.device)
        d_features = torch.empty_like(h_s) if features.requires_grad else None
        d_matrix = torch.zeros_like(matrix, dtype=wide) if matrix.requires_grad else None
        d_bias = torch.zeros_like(bias, dtype=wide) if bias.requires_grad else None
        with torch.autocast(features.device.type, enabled=False):
            for chunk in _chunks(len(features), rows or chunk_rows(len(matrix), features.device.type)):
                z_s = _logits(h_s[chunk], w_s, bias, wide)
                z_t = None
                if top:
                    z_t = logits_of_top(*(part[chunk] for part in top), len(matrix), wide)
                elif ask:
                    z_t = _logits(h_t[chunk], w_t, teacher.projection.bias, wide)
                gradient = torch.zeros_like(z_s)
                for i, term in active:
                    values[i] += FORMULAS[type(term)](term, z_s, z_t, labels[chunk], factors[i], gradient)
                if d_bias is not None:
                    d_bias += gradient.sum(0)
                gradient = gradient.to(kind)
                if d_features is not None:
                    torch.mm(gradient, w_s, out=d_features[chunk])
                if d_matrix is not None:
                    _add_product(d_matrix, gradient.T, h_s[chunk])
        total = (factors * values).sum()
    gradients = [d if d is None else d.to(x.dtype) for d, x in
                 ((d_features, features), (d_matrix, matrix), (d_bias, bias))]  # fmt: skip
    return _WithKnownGradients.apply(total, gradients, features, matrix, bias), values.float()


class _WithKnownGradients(torch.autograd.Function):
    """A value of some tensors whose gradients have been computed with it."""

    @staticmethod
    def forward(ctx, value: Tensor, gradients: list[Tensor | None], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        return None, None, *(d if d is None else d * upstream.to(d.dtype) for d in ctx.gradients)


# ------------------------------------------------------------------------------------------------ the formulas

# Each takes a chunk's logits z_s, z_t (n, V) and labels (n,), adds `factor` × its gradient to `gradient` (n, V), and
# returns its loss, summed.


def _soft_targets(term: SoftTargets, z_s, z_t, labels, factor: Tensor, gradient: Tensor) -> Tensor:
    """T² · KL(p_T ‖ p_S), and T (p_S − p_T)."""
    T = term.temperature
    log_p_t, log_p_s = (z_t / T).log_softmax(-1), (z_s / T).log_softmax(-1)
    p_t, p_s = log_p_t.exp(), log_p_s.exp()
    difference = p_s.sub_(p_t)
    gradient.addcmul_(difference, factor * T)
    # Σ (p_S − p_T), 0 on paper, takes away the rounding of both log_softmax: see kl_divergence.
    return T**2 * (log_p_t.sub_(log_p_s).mul_(p_t).sum() + difference.sum())


def _soft_cross_entropy(term: SoftCrossEntropy, z_s, z_t, labels, factor: Tensor, gradient: Tensor) -> Tensor:
    """−T² Σ p_T log p_S, and T (p_S − p_T)."""
    T = term.temperature
    p_t, log_p_s = (z_t / T).softmax(-1), (z_s / T).log_softmax(-1)
    gradient.addcmul_(log_p_s.exp().sub_(p_t), factor * T)
    return -(T**2) * p_t.mul_(log_p_s).sum()


def _uniform_targets(term: UniformTargets, z_s, z_t, labels, factor: Tensor, gradient: Tensor) -> Tensor:
    """−(1/V) Σ log p_S, and p_S − 1/V."""
    log_p_s = z_s.log_softmax(-1)
    gradient.addcmul_(log_p_s.exp().sub_(1 / z_s.shape[-1]), factor)
    return -log_p_s.mean(-1).sum()


def _logits_mse(term: LogitsMSE, z_s, z_t, labels, factor: Tensor, gradient: Tensor) -> Tensor:
    """Mean over the vocabulary of (z_S − z_T)², and 2 (z_S − z_T) / V."""
    difference = z_s - z_t
    gradient.addcmul_(difference, factor * (2 / z_s.shape[-1]))
    return difference.square_().mean(-1).sum()


def _hard_labels(term: HardLabels, z_s, z_t, labels, factor: Tensor, gradient: Tensor) -> Tensor:
    """−log p_y where there is a label y, and p − 1 at y."""
    labelled = labels != IGNORED
    if labels.is_cpu:  # most rows have none, and only a CPU can leave them out without waiting
        where = labelled.nonzero()[:, 0]
        z_s, labels, labelled = z_s[where], labels[where], labelled[where]
    y, count = labels.clamp(min=0)[:, None], labelled.to(z_s.dtype)[:, None]
    log_p = z_s.log_softmax(-1)
    loss = -(log_p.gather(-1, y) * count).sum()
    p_minus_1 = log_p.exp().scatter_add_(-1, y, -torch.ones_like(count)).mul_(count * factor)
    gradient.index_add_(0, where, p_minus_1) if labels.is_cpu else gradient.add_(p_minus_1)
    return loss


FORMULAS: dict[type[Term], Callable] = {
    HardLabels: _hard_labels,
    LogitsMSE: _logits_mse,
    MaskedLM: _hard_labels,
    SoftCrossEntropy: _soft_cross_entropy,
    SoftTargets: _soft_targets,
    UniformTargets: _uniform_targets,
}


# ------------------------------------------------------------------------------------------------ products


def _product_dtype(features: Tensor) -> torch.dtype:
    """What matrices are multiplied in: autocast's choice where it is on."""
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return features.dtype


def chunk_rows(vocabulary: int, device: str) -> int:
    """How many tokens make a chunk."""
    return max(FEWEST, CHUNK_BYTES.get(device, ELSEWHERE) // (4 * vocabulary))


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, rows, size)]


def _logits(features: Tensor, matrix: Tensor, bias: Tensor, wide: torch.dtype) -> Tensor:
    """(n, D) → (n, V), ready to be summed over."""
    return torch.addmm(bias.to(matrix.dtype), features, matrix.T).to(wide)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in one pass where the precisions agree."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
