"""Formulas that compare relations instead of vectors: among the tokens of a text, and among the texts of a batch.

A relation has no width: what is as near to what can be compared between models of any sizes, without a projection.
Among tokens an item is a token that asks (a query), as everywhere in formulas.py. Among texts all of a batch belong to
one value: `mask` and `reduction` have nothing to do there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.objectives.formulas import kl_divergence
from kdtutor.objectives.rows import (
    ObjectiveError,
    check_mask,
    check_number,
    check_shapes,
    reduce_losses,
    rounding,
    unit,
    valid_rows,
    wide,
)

# The score of a token that is padding: its probability is 0, and 0 times it is 0, unlike −∞.
HIDDEN = -1e30

# ------------------------------------------------------------------------------------------------ among tokens


def relation_scores(a: Tensor, b: Tensor, heads: int, *, mask: Tensor | None = None) -> Tensor:
    """Compute A_r B_rᵀ / √d_r for each relation head r: (B, L, D) twice → (B, heads, L, L).

    a, b: a layer's queries and keys, heads side by side, and the softmax of the result is its attention (Vaswani et al.
    2017); or both its values (MiniLM, Wang et al. 2020, arXiv:2002.10957), queries or keys (MiniLMv2, Wang et al. 2021,
    arXiv:2012.15828). heads: into how many of D / heads = d_r the width is cut, which need not be the layer's own.
    mask: the attention mask (B, L); what padding holds, even NaN, counts as 0.
    """
    check_heads(heads, a.shape[-1])
    check_shapes(a, b, "two sides of a relation")
    if mask is not None:
        check_mask(mask, a.shape[:-1])
        a, b = (x.masked_fill(~mask.bool()[..., None], 0) for x in (a, b))
    a, b = (wide(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (a, b))  # (B, heads, L, d_r)
    return a @ b.transpose(2, 3) / math.sqrt(a.shape[-1])


def check_heads(heads: int, width: int, who: str = "") -> None:
    """Refuse relation heads into which a width can't be cut."""
    if width % heads:
        whose = f"the {who}'s width" if who else "a width"
        raise ObjectiveError(f"{whose} of {width} can't be cut into {heads} relation heads of one size")


def attention_kl(
    student_scores: Tensor, teacher_scores: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute KL(A_T ‖ A_S), A = softmax(scores), of each token that asks, mean over heads: MiniLM.

    Both scores: (B, H, L, L), rows ask, columns are asked. mask: the attention mask (B, L): padding is not asked, and
    what it asks does not count.
    """
    check_shapes(student_scores, teacher_scores, "attention scores")
    scores = []
    for each in (student_scores, teacher_scores.detach()):
        each = wide(each)
        if mask is not None:
            check_mask(mask, each.shape[::2])
            each = each.masked_fill(~mask.bool()[:, None, None], HIDDEN)
        scores.append(each.transpose(1, 2))  # (B, L, H, L)
    heads, length = scores[0].shape[2:]
    # Rows of padding are left out before the softmax: (n, H · L).
    (s, t), mask = valid_rows(mask, reduction, *(each.flatten(2) for each in scores))
    kl = kl_divergence(t.view(-1, heads, length), s.view(-1, heads, length), reduction="none")
    return reduce_losses(kl.view(-1, heads).mean(1), mask, reduction)


def attention_mse(
    student_scores: Tensor, teacher_scores: Tensor, *, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute the mean over heads and asked tokens of (A_S − A_T)², A before the softmax.

    TinyBERT, Jiao et al. 2020, arXiv:1909.10351. Both scores: (B, H, L, L). mask: as in attention_kl. The mean
    is over a text's own tokens, so that padding changes nothing; what they score is compared however low it is.
    """
    check_shapes(student_scores, teacher_scores, "attention scores")
    s, t = wide(student_scores), wide(teacher_scores.detach())
    asked = torch.full_like(s[:, 0, :, 0], s.shape[-1])  # how many tokens a token asks: (B, L)
    if mask is not None:
        check_mask(mask, s.shape[::2])
        real = mask.bool()
        outside = ~(real[:, None, :, None] & real[:, None, None])
        s, t = s.masked_fill(outside, 0), t.masked_fill(outside, 0)
        asked = real.sum(1, keepdim=True).clamp(min=1).expand(-1, s.shape[-1])
    losses = (s - t).square().sum(-1).mean(1) / asked
    (losses,), mask = valid_rows(mask, reduction, losses[..., None])
    return reduce_losses(losses[:, 0], mask, reduction)


# ------------------------------------------------------------------------------------------------ among texts


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare the distances between texts, each divided by their mean: RKD-D, Park et al. 2019, arXiv:1904.05068.

    student: (N, D_S), teacher: (N, D_T). The mean over all pairs of texts of Huber's loss of what their ‖x_i − x_j‖ / μ
    differ, where μ is the mean of the distances above 0. Two equal vectors are at distance 0, without gradient; of one
    text, or of equal ones alone, the loss is 0.
    """
    _check_texts(student, teacher)
    ours, theirs = (_distances(wide(x)) for x in (student, teacher.detach()))
    return huber(ours, theirs).sum() / max(len(ours), 1)


def _distances(x: Tensor) -> Tensor:
    """Compute the distance of each pair of vectors over the mean of those above 0: (N, D) → (N (N − 1) / 2)."""
    distances = torch.pdist(x)
    distances = distances.where(distances > rounding(x), 0)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.where(mean > 0, 1)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare the cosines of the angles that texts form by threes: RKD-A, Park et al. 2019.

    student: (N, D_S), teacher: (N, D_T). The mean over all triples i, j, k of different texts of Huber's loss of what
    cos ∠ x_i x_j x_k differ. Where two of them are equal, there is no angle: its cosine is 0, without gradient. Of
    fewer than three texts the loss is 0. Memory: N³.
    """
    _check_texts(student, teacher)
    n = len(student)
    cosines = []
    for x in (wide(student), wide(teacher.detach())):
        arms = unit(x[None] - x[:, None], rounding(x))  # from corner j to i: (N, N, D)
        cosines.append(arms @ arms.transpose(1, 2))  # (j, i, k)
    same = torch.eye(n, dtype=torch.bool, device=student.device)
    outside = same[:, :, None] | same[:, None, :] | same[None]
    losses = huber(*cosines).masked_fill(outside, 0)
    return losses.sum() / max(n * (n - 1) * (n - 2), 1)


def huber(a: Tensor, b: Tensor) -> Tensor:
    """Compute ½ (a − b)² where that is at most 1 in size, and |a − b| − ½ beyond."""
    return F.smooth_l1_loss(a, b, reduction="none")


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute ‖G_S − G_T‖²_F / N², G = X Xᵀ with rows of length 1: Tung & Mori 2019, arXiv:1907.09682.

    student: (N, D_S), teacher: (N, D_T). A row of zeros stays zero, without gradient.
    """
    _check_texts(student, teacher)
    g_s, g_t = (unit(x @ x.T) for x in (wide(student), wide(teacher.detach())))
    return (g_s - g_t).square().sum() / max(len(student), 1) ** 2


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """Compute −log softmax(cos(s_i, t_j) / T)_i, mean over the texts i: which t_j is the teacher's view of my text?

    student, teacher: (N, D), already projected. InfoNCE with the other texts of the batch as negatives (van den Oord et
    al. 2018, arXiv:1807.03748): the objective of CRD (Tian et al. 2020, arXiv:1910.10699) without its memory bank.
    Gradients to both, since the teacher's projection learns. Of one text the loss is 0.
    """
    check_shapes(student, teacher, "projected vectors")
    check_number("temperature", temperature)
    similarities = unit(wide(student)) @ unit(wide(teacher)).T / temperature
    return -similarities.log_softmax(-1).diagonal().sum() / max(len(student), 1)


def _check_texts(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        raise ObjectiveError(
            f"relations among texts want one vector per text, (N, D) of each model, not {shapes}"
        )
