"""Divergences for models that write: forward, reverse, between, and skewed.

A classifier picks one of few classes; a language model picks one of thousands of tokens, again and again, and what it
gives a little probability is written now and then. Which way round the divergence stands then matters: KL(p_T ‖ p_S)
asks the student to cover all that its teacher might write, KL(p_S ‖ p_T) to write nothing that its teacher would not.

As in formulas.py an item is a row of logits, here a token: (n, V), or (B, L, V) with a `mask` (B, L); the teacher is a
constant. Row t of a causal model's logits is about token t + 1; a divergence compares row with row, so only the mask
has to be shifted: row t counts where there is a *next* token.

T² stands before every divergence, as before the soft targets. The papers train at T = 1; trl divides both models'
logits by T and leaves T² out: ours is T² times theirs. The temperature at which a model *writes* is another one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.objectives.formulas import check_classes, kl_divergence
from kdtutor.objectives.logits import SoftTargets
from kdtutor.objectives.rows import check_number, check_shapes, reduce_losses, valid_rows


def reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² · KL(p_S ‖ p_T) = T² Σ_c p_S (log p_S − log p_T): MiniLLM, Gu et al. 2024, arXiv:2306.08543.

    Both logits: (…, C), C ≥ 2. It is large where the student believes what its teacher does not, and nearly silent
    where the student has left something out: one too small for all of its teacher settles on a part (*mode seeking*).
    """
    return generalised_jsd(student_logits, teacher_logits, 1.0, temperature, mask=mask, reduction=reduction)


def generalised_jsd(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² (β KL(p_T ‖ M) + (1 − β) KL(p_S ‖ M)), M = β p_T + (1 − β) p_S: GKD, Agarwal 2024, arXiv:2306.13649.

    Both logits: (…, C), C ≥ 2; β in [0, 1]. At β = ½ it is the Jensen–Shannon divergence, at most log 2 (times T²). At
    both ends the formula is 0, whatever the models say; what it tends to, divided by β or by 1 − β, is KL(p_T ‖ p_S) as
    β → 0 and KL(p_S ‖ p_T) as β → 1. So exactly there it *is* these, as in the paper and in trl: forward KL at 0,
    reverse KL at 1, and a jump beside each. A β near an end wants a larger weight.
    """
    check_number("beta", beta)
    (log_s, log_t), mask = _log_probabilities(student_logits, teacher_logits, temperature, mask, reduction)
    if beta == 0:
        losses = kl_divergence(log_t, log_s, reduction="none")
    elif beta == 1:
        losses = kl_divergence(log_s, log_t, reduction="none")
    else:
        log_m = _log_mixture(log_t, log_s, beta)
        to_teacher, to_student = (kl_divergence(log_p, log_m, reduction="none") for log_p in (log_t, log_s))
        losses = beta * to_teacher + (1 - beta) * to_student
    return temperature**2 * reduce_losses(losses, mask, reduction)


def skewed_kl(
    student_logits: Tensor, teacher_logits: Tensor, skew: float = 0.1, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² · KL(p_T ‖ a p_T + (1 − a) p_S), a the skew: DistiLLM, Ko et al. 2024, arXiv:2402.03898 (there α).

    Both logits: (…, C), C ≥ 2; skew in [0, 1). The teacher's own share in the second distribution keeps the ratio of
    the two at or below 1/a: no text costs more than log 1/a per token, and gradients stay bounded.
    """
    check_number("skew", skew)
    (log_s, log_t), mask = _log_probabilities(student_logits, teacher_logits, temperature, mask, reduction)
    losses = kl_divergence(log_t, _log_mixture(log_t, log_s, skew), reduction="none")
    return temperature**2 * reduce_losses(losses, mask, reduction)


def skewed_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, skew: float = 0.1, temperature: float = 1.0,
    *, mask: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Compute T² · KL(p_S ‖ a p_S + (1 − a) p_T), a the skew: DistiLLM, Ko et al. 2024, arXiv:2402.03898 (there α).

    Both logits: (…, C), C ≥ 2; skew in [0, 1). At 0 it is the reverse KL.
    """
    check_number("skew", skew)
    (log_s, log_t), mask = _log_probabilities(student_logits, teacher_logits, temperature, mask, reduction)
    losses = kl_divergence(log_s, _log_mixture(log_s, log_t, skew), reduction="none")
    return temperature**2 * reduce_losses(losses, mask, reduction)


def _log_probabilities(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None, reduction: str
) -> tuple[list[Tensor], Tensor | None]:
    """Return log p_S and log p_T, (n, C) each, of the rows that count, and the mask left to reduce_losses."""
    check_number("temperature", temperature)
    check_shapes(student_logits, teacher_logits, "logits")
    check_classes(*student_logits.shape[-1:])
    rows, mask = valid_rows(mask, reduction, student_logits, teacher_logits.detach())
    return [(z / temperature).log_softmax(-1) for z in rows], mask


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Compute log(a p + (1 − a) q) from log-probabilities, a the share of p: no probability is ever taken for 0."""
    if share == 0:
        return log_q
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


# ------------------------------------------------------------------------------------------------ terms


class ReverseKL(SoftTargets):
    """T² · KL(student ‖ teacher) at temperature T > 0 (Gu et al. 2024): reverse_kl()."""

    label = "reverse KL (× T²)"
    formula = staticmethod(reverse_kl)

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(temperature)


class GeneralisedJSD(SoftTargets):
    """T² · JSD_β, from forward KL at β = 0 to reverse KL at β = 1 (Agarwal et al. 2024): generalised_jsd()."""

    label = "generalised JSD (× T²)"
    formula = staticmethod(generalised_jsd)
    takes = "beta", "temperature"

    def __init__(self, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.beta = beta


class SkewedKL(SoftTargets):
    """T² · KL(teacher ‖ their mixture), which has the share `skew` of the teacher (Ko et al. 2024): skewed_kl()."""

    label = "skewed KL (× T²)"
    formula = staticmethod(skewed_kl)
    takes = "skew", "temperature"

    def __init__(self, skew: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.skew = skew


class SkewedReverseKL(SkewedKL):
    """T² · KL(student ‖ their mixture), which has the share `skew` of the student: skewed_reverse_kl()."""

    label = "skewed reverse KL (× T²)"
    formula = staticmethod(skewed_reverse_kl)
