"""Formulas: what the student minimises, as functions of tensors. terms.py makes the sum on the page of them.

z_S and z_T are the student's and the teacher's logits, T the temperature, p_S = softmax(z_S / T),
p_T likewise. The teacher is a constant: no gradient flows into it.

Every formula takes `mask` and `reduction`. An item is a row: logits (N, C) hold N of them, (B, L, C) hold
B·L, of which those count where `mask` (B, L) is True or 1; what stands in the others, even NaN, changes
neither value nor gradient. reduction="none" gives one loss per item that counts (1-D), "sum" their sum,
"mean" their mean (0 if there are none). Computed in float32, or in float64 where that comes in; what counts
must be finite. Whatever does not fit raises ObjectiveError, a ValueError that names the culprit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.data.tokens import IGNORED
from kdtutor.objectives.rows import (
    ObjectiveError,
    check_mask,
    check_number,
    check_shapes,
    reduce_losses,
    unit,
    valid_rows,
)


def hard_labels(
    student_logits: Tensor, labels: Tensor, class_weights: Tensor | None = None,
    *, mask: Tensor | None = None, ignore_index: int = IGNORED, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute the cross-entropy with the labels, −log softmax(z_S)_y; for regression the squared error, (z_S − y)².

    student_logits: (…, C). labels: (…), integers below C, or floats if C is 1 (regression); items labelled
    `ignore_index` don't count. Floats (…, C) are several labels, each 0 or 1: the mean over them of the binary
    cross-entropy, −y log σ(z_S) − (1 − y) log σ(−z_S). No temperature: it belongs to the soft targets alone (Hinton et
    al. 2015, §2).

    class_weights: a factor w_y for the loss of each class's items, (C,). "mean" stays the mean over items; torch's
    CrossEntropyLoss(weight=…) divides by Σ w_y instead, so there one item weighs more beside other neighbours.
    """
    several = is_several(labels, student_logits)
    if class_weights is not None:
        _check_class_weights(class_weights, student_logits, several)
    labelled = _labelled_within(mask, labels, student_logits, ignore_index, several)
    (z_s, y), mask = valid_rows(labelled, reduction, student_logits, labels)
    if several:
        losses = F.binary_cross_entropy_with_logits(z_s, y.to(z_s.dtype), reduction="none")
        return reduce_losses(losses.mean(-1), mask, reduction)
    if labels.is_floating_point():
        return reduce_losses((z_s[:, 0] - y).square(), mask, reduction)
    weights = None if class_weights is None else class_weights.to(z_s)
    try:
        losses = F.cross_entropy(z_s, y.long(), weights, reduction="none")
    except IndexError as error:  # on a GPU nobody looks
        raise ObjectiveError(f"a label is none of the classes 0 to {z_s.shape[-1] - 1} ({error})") from error
    return reduce_losses(losses, mask, reduction)


def soft_targets(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² · KL(p_T ‖ p_S) = T² Σ_c p_T (log p_T − log p_S): Hinton et al. 2015, arXiv:1503.02531.

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
    """Compute −T² Σ_c p_T log p_S: soft targets plus T² × the teacher's entropy: another value, the same gradient.

    Both logits: (…, C), C ≥ 2. Even a perfect student does not reach 0 (Hinton et al. 2015, §2).
    """
    check_number("temperature", temperature)
    _check_soft(student_logits, teacher_logits)
    (z_s, z_t), mask = valid_rows(mask, reduction, student_logits, teacher_logits.detach())
    p_t, log_p_s = (z_t / temperature).softmax(-1), (z_s / temperature).log_softmax(-1)
    return -(temperature**2) * reduce_losses((p_t * log_p_s).sum(-1), mask, reduction)


def binary_soft_targets(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute the mean over labels of T² · KL(σ(z_T / T) ‖ σ(z_S / T)), each label yes or no by itself.

    For several labels per text: one-versus-all, as in Yang et al. 2023, arXiv:2308.06453 (there the sum, at T = 1).
    Both logits: (…, C). The gradient for each label is T (σ(z_S / T) − σ(z_T / T)) / C.
    """
    check_shapes(student_logits, teacher_logits, "logits")
    (z_s, z_t), mask = valid_rows(mask, reduction, student_logits, teacher_logits.detach())
    # σ(z) is the softmax of z and 0.
    z_s, z_t = (torch.stack([z, torch.zeros_like(z)], -1) for z in (z_s, z_t))  # (n, C, 2)
    kl = kl_divergence(z_t, z_s, temperature, reduction="none").view(z_s.shape[:2])
    return temperature**2 * reduce_losses(kl.mean(-1), mask, reduction)


def uniform_targets(student_logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute −(1/C) Σ_c log p_S, the uniform distribution as target: Szegedy et al. 2016, arXiv:1512.00567.

    student_logits: (…, C), C ≥ 2. With weight ε beside hard labels of weight 1 − ε it is label smoothing.
    """
    uniform = torch.zeros_like(student_logits)
    return soft_cross_entropy(student_logits, uniform, mask=mask, reduction=reduction)


def decoupled_kd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor,
    alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0,
    *, mask: Tensor | None = None, ignore_index: int = IGNORED, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² (α · TCKD + β · NCKD): soft targets taken apart, Zhao et al. 2022, arXiv:2203.08679.

    TCKD: the KL of the label's probability against that of all others together; NCKD: the KL among the others, as if
    there were no label. Soft targets are TCKD + (1 − p_T(y)) · NCKD: the surer the teacher, the less they say of the
    others. Logits: (…, C), C ≥ 2; with two classes NCKD is 0. labels: (…), integers; unlabelled items don't count.
    """
    check_number("temperature", temperature)
    _check_soft(student_logits, teacher_logits)
    labelled = _labelled_within(mask, labels, student_logits, ignore_index)
    (z_s, z_t, y), mask = valid_rows(labelled, reduction, student_logits, teacher_logits.detach(), labels)
    y, column = y.long()[:, None], torch.arange(z_s.shape[-1] - 1, device=y.device)
    others = column + (column >= y).long()  # all columns but the label's: (n, C − 1)

    # Each model's label against the rest, two logits; and the rest, C − 1 logits, one softmax each.
    o_s, o_t = z_s.gather(1, others) / temperature, z_t.gather(1, others) / temperature
    b_s, b_t = (
        torch.cat([z.gather(1, y) / temperature, o.logsumexp(-1, keepdim=True)], -1)
        for z, o in ((z_s, o_s), (z_t, o_t))
    )
    target, others = (kl_divergence(t, s, reduction="none") for t, s in ((b_t, b_s), (o_t, o_s)))
    return temperature**2 * reduce_losses(alpha * target + beta * others, mask, reduction)


def pearson_kd(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0,
    *, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Compute T² (β · inter + γ · intra), one value per batch: DIST, Huang et al. 2022, arXiv:2205.10536.

    inter: the mean over items of 1 − ρ, Pearson's correlation of p_S and p_T over the classes; intra: the mean over
    classes of 1 − ρ over the batch's items, 0 if it has one. Both logits: (…, C), C ≥ 2. What does not vary has no
    correlation: ρ = 0, without gradient.
    """
    check_number("temperature", temperature)
    _check_soft(student_logits, teacher_logits)
    (z_s, z_t), mask = valid_rows(mask, "mean", student_logits, teacher_logits.detach())
    p_s, p_t = (z_s / temperature).softmax(-1), (z_t / temperature).softmax(-1)
    counts = p_s.new_ones(len(p_s)) if mask is None else mask.to(p_s.dtype)
    inter = ((1 - _correlation(p_s, p_t, torch.ones_like(p_s[0]))) * counts).sum() / counts.sum().clamp(min=1)
    intra = (1 - _correlation(p_s.T, p_t.T, counts)).mean().where(counts.sum() > 1, 0)
    return temperature**2 * (beta * inter + gamma * intra)


def _correlation(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Compute Pearson's ρ of each row of a and b, (n, k), over the columns that count, 1 or 0 (k,): (n,)."""
    units = []
    for x in (a, b):
        centred = (x - (x * counts).sum(-1, keepdim=True) / counts.sum().clamp(min=1)) * counts
        # A row of equal numbers differs from their mean by rounding.
        units.append(unit(centred, 32 * torch.finfo(x.dtype).eps * x.detach().norm(dim=-1, keepdim=True)))
    return (units[0] * units[1]).sum(-1)


def logits_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute the mean over classes of (z_S − z_T)²: Ba & Caruana 2014, arXiv:1312.6184 (there ½ of the sum).

    Both logits: (…, C). Unlike soft targets it also penalises a shift of all logits, which moves no
    probability.
    """
    check_shapes(student_logits, teacher_logits, "logits")
    (z_s, z_t), mask = valid_rows(mask, reduction, student_logits, teacher_logits.detach())
    return reduce_losses((z_s - z_t).square().mean(-1), mask, reduction)


def cosine_hidden(
    student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute 1 − cos(h_S, h_T) for each token: only directions have to agree (Sanh et al. 2019, arXiv:1910.01108).

    Both hidden states: (B, L, D), mask: the attention mask (B, L); or (N, D), tokens already selected.
    """
    check_shapes(student_hidden, teacher_hidden, "hidden states")
    (h_s, h_t), mask = valid_rows(mask, reduction, student_hidden, teacher_hidden.detach())
    cosine = (F.normalize(h_s, dim=-1) * F.normalize(h_t, dim=-1)).sum(-1)
    return reduce_losses(1 - cosine, mask, reduction)


def hidden_states_mse(
    student_hidden: Tensor, teacher_hidden: Tensor, project: Callable[[Tensor], Tensor] | None = None,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute the mean over the width of (W h_S − h_T)², for each token: hints (Romero et al. 2015, arXiv:1412.6550).

    student_hidden: (B, L, D_S), teacher_hidden: (B, L, D_T), mask: the attention mask (B, L); or (N, D_S) and
    (N, D_T). project: the learned W, D_S → D_T; None where the widths are equal.
    """
    h_s, h_t, mask = _of_one_width("hidden states", student_hidden, teacher_hidden, project, mask, reduction)
    return reduce_losses((h_s - h_t).square().mean(-1), mask, reduction)


def cls_patience(
    student_cls: Tensor, teacher_cls: Tensor, project: Callable[[Tensor], Tensor] | None = None,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute ‖W h_S / ‖W h_S‖ − h_T / ‖h_T‖‖², summed over the width: PKD, Sun et al. 2019, arXiv:1908.09355.

    student_cls: (N, D_S), teacher_cls: (N, D_T), the [CLS] states of one layer. project: as in hidden_states_mse.
    From 0 to 4; a mean over the width, as some code has it, is D_T times less. A zero vector stays zero and gets no
    gradient.
    """
    h_s, h_t, mask = _of_one_width("[CLS] states", student_cls, teacher_cls, project, mask, reduction)
    return reduce_losses((unit(h_s) - unit(h_t)).square().sum(-1), mask, reduction)


def _of_one_width(
    what: str, student: Tensor, teacher: Tensor, project: Callable[[Tensor], Tensor] | None,
    mask: Tensor | None, reduction: str,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Return the rows that count of both, the student's projected if there is a W, and the mask; what: their name."""
    check_shapes(
        student, teacher, what, student.dim() if project is None else -1
    )  # with a W the last may differ
    (h_s, h_t), mask = valid_rows(mask, reduction, student, teacher.detach())
    # Only now: a NaN in the padding would reach the gradient of W as 0 · NaN.
    if project is not None:
        h_s = project(h_s).to(h_t.dtype)
        check_shapes(h_s, h_t, f"{what}, once projected,")
    return h_s, h_t, mask


def masked_lm(
    student_logits: Tensor, labels: Tensor,
    *, mask: Tensor | None = None, ignore_index: int = IGNORED, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute −log softmax(z_S)_y at each masked token, which was y: Devlin et al. 2019, arXiv:1810.04805.

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
    """Compute KL(p ‖ q) = Σ_c p (log p − log q) in nats, p and q being softmax(logits / T). No T²; gradients to both.

    Both logits: (…, C). Log-probabilities serve as logits too: at T = 1 softmax gives the probabilities back.
    """
    check_number("temperature", temperature)
    check_shapes(p_logits, q_logits, "logits")
    (p_logits, q_logits), mask = valid_rows(mask, reduction, p_logits, q_logits)
    log_p, log_q = (p_logits / temperature).log_softmax(-1), (q_logits / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    # Σ (q − p) is 0 on paper; in floating point it is the rounding of both log_softmax, which at a high
    # temperature outweighs a KL of order 1/T². Adding it takes that away.
    return reduce_losses(torch.addcmul(q - p, p, log_p - log_q).sum(-1), mask, reduction)


def entropy(
    logits: Tensor, temperature: float = 1.0, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute −Σ_c p log p in nats, p = softmax(logits / T), logits (…, C): from 0, all certain, to log C."""
    check_number("temperature", temperature)
    (logits,), mask = valid_rows(mask, reduction, logits)
    log_p = (logits / temperature).log_softmax(-1)
    return reduce_losses(-(log_p.exp() * log_p).sum(-1), mask, reduction)


def _check_soft(student_logits: Tensor, teacher_logits: Tensor) -> None:
    check_shapes(student_logits, teacher_logits, "logits")
    check_classes(*student_logits.shape[-1:])


def check_classes(classes: int | None) -> None:
    if classes == 1:
        raise ObjectiveError(
            "soft targets over one output are always 1, so they teach nothing: use LogitsMSE"
        )


def is_several(labels: Tensor, logits: Tensor | None = None) -> bool:
    """Tell whether each item has several labels, each 0 or 1: floats (…, C), as many as there are logits."""
    return (
        labels.is_floating_point() and labels.dim() > 1 and (logits is None or labels.shape == logits.shape)
    )


def is_labelled(labels: Tensor, ignore_index: int = IGNORED, several: bool = False) -> Tensor:
    """Tell which items have a label: bool (…)."""
    labelled = labels != ignore_index
    return labelled.all(-1) if several else labelled


def _check_class_weights(weights: Tensor, logits: Tensor, several: bool) -> None:
    classes = logits.shape[-1]
    if several or classes == 1:
        raise ObjectiveError(
            "class weights are for texts of one class each, not for numbers or several labels"
        )
    if weights.shape != (classes,):
        raise ObjectiveError(f"{weights.numel()} class weights, but there are {classes} classes")


def _labelled_within(
    mask: Tensor | None, labels: Tensor, logits: Tensor, ignore_index: int, several: bool = False
) -> Tensor:
    """Tell which items within the mask have a label: bool (…). Refuse labels that don't fit the logits."""
    if not several:
        _check_labels(logits, labels)
    labelled = is_labelled(labels, ignore_index, several)
    if mask is None:
        return labelled
    check_mask(mask, labelled.shape)
    return labelled & mask.bool()


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.shape != logits.shape[:-1]:
        shapes = f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}"
        raise ObjectiveError(f"every row of logits needs one label: {shapes}")
    outputs = logits.shape[-1]
    wanted = "floats (regression)" if outputs == 1 else "integers (class numbers)"
    if labels.dtype == torch.bool or labels.is_floating_point() != (outputs == 1):
        raise ObjectiveError(f"labels for {outputs} outputs must be {wanted}, not {labels.dtype}")
