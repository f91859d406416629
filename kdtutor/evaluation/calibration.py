"""Does a model know what it doesn't know? Temperature scaling, risk against coverage, and telling foreign texts.

    T = fit_temperature(validation_logits, validation_labels)       # on validation: the test part judges it
    ece(test_logits / T, test_labels)
    coverage, risk = risk_coverage(test_logits, test_labels)
    auroc(energy(foreign), energy(own))                             # 0.5: can't tell them, 1: tells all

The expected calibration error is in scores.py, its diagram is `kdtutor.plots.reliability`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.errors import POSITIVE, KDTutorError
from kdtutor.evaluation.scores import is_right

LOG_T = -7.0, 7.0  # between which it is looked for
HALVINGS = 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the one T > 0 that makes softmax(z / T) fit the labels best: Guo et al. 2017, arXiv:1706.04599.

    logits: (N, C), labels: (N,), of texts that nothing else is measured on. It minimises the mean of −log p(label); no
    answer changes, only how sure it is. If a model is right everywhere T falls to its limit, e^−7.
    """
    is_right(logits, labels)  # refuses what would be wrong in silence
    z, y = logits.double(), labels.long()

    def is_too_sure(log_t: float) -> bool:
        # ∂/∂(1/T) of the loss is the mean of E_p[z] − z_y, and rises with 1/T.
        p = (z / math.exp(log_t)).softmax(-1)
        return float(((p * z).sum(-1) - z.gather(1, y[:, None])[:, 0]).mean()) > 0

    low, high = LOG_T
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_sure(middle) else (low, middle)
    return math.exp((low + high) / 2)


def risk_coverage(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Let a model answer only where it is surest: coverage and risk, float64 (N,) each (Geifman & El-Yaniv 2017).

    The i-th: the share i / N of texts that are answered, and the share of errors among them. Texts of equal confidence
    have their order by chance; that of the data decides.
    """
    right = is_right(logits, labels)
    order = logits.double().softmax(-1).amax(-1).argsort(descending=True, stable=True)
    answered = torch.arange(1, len(right) + 1, dtype=torch.float64)
    return answered / len(right), (~right[order]).double().cumsum(0) / answered


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute −T log Σ_c exp(z_c / T), (N, C) → (N,): low for texts like those learned (Liu et al. 2020, 2010.03759).

    Unlike a probability it changes when all logits rise together.
    """
    temperature = POSITIVE("temperature", temperature)
    return -temperature * (logits.double() / temperature).logsumexp(-1)


def auroc(higher: Tensor, lower: Tensor) -> float:
    """Compute how often one of `higher` (N,) exceeds one of `lower` (M,), ties being half: the area under the ROC."""
    if not len(higher) or not len(lower):
        raise KDTutorError("an area under the ROC needs one value of each group at least")
    ordered = lower.double().sort().values
    below = torch.searchsorted(ordered, higher.double(), right=False)
    not_above = torch.searchsorted(ordered, higher.double(), right=True)
    return float((below + not_above).double().mean() / 2 / len(lower))
