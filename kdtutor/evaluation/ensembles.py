"""What each teacher of an ensemble is worth, and the weights that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import is_right, predict

STEPS = 5000  # of EM at most
STILL = 1e-9  # a change of the weights that is none


def fit_weights(
    teachers: Sequence[PreTrainedModel], task: Task | str, split: str = "validation"
) -> list[float]:
    """Find the weights whose mean of probabilities fits the split's labels best: mixture_weights.

    Take texts that the teachers have not learned from, and not the test part, which is to judge the outcome.
    """
    task = as_task(task)
    return mixture_weights(
        torch.stack([predict(each, task, split) for each in teachers]), task.targets(split)
    )


def mixture_weights(logits: Tensor, labels: Tensor) -> list[float]:
    """Maximise Σ_n log Σ_m w_m p_m(y_n | x_n) over weights that add up to 1: EM, Dempster et al. 1977.

    logits: (M, N, C), labels: (N,). Concave, so there is one best value: w_m becomes the mean over texts of teacher m's
    share in the label's probability, again and again. Raises KDTutorError for labels that are no classes.
    """
    for each in logits:
        is_right(each, labels)
    p = logits.double().softmax(-1)[:, torch.arange(len(labels)), labels.long()].clamp(min=1e-300)  # (M, N)
    weights = torch.full((len(p),), 1 / len(p), dtype=torch.float64)
    for _ in range(STEPS):
        shares = weights[:, None] * p
        now = (shares / shares.sum(0)).mean(1)
        still = (now - weights).abs().max() < STILL
        weights = now
        if still:
            break
    return weights.tolist()


def disagreement(logits: Tensor) -> float:
    """Compute how often two different teachers give different first guesses, on average: logits (M, N, C), M ≥ 2."""
    if len(logits) < 2:
        raise KDTutorError("one teacher has nobody to disagree with")
    guesses = logits.argmax(-1)
    pairs = [
        float((guesses[i] != guesses[j]).double().mean())
        for i in range(len(guesses))
        for j in range(i + 1, len(guesses))
    ]
    return sum(pairs) / len(pairs)
