"""Soft targets whose temperature is learned, against the student: a curriculum that makes itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.objectives.formulas import kl_divergence
from kdtutor.objectives.logits import SoftTargets
from kdtutor.objectives.rows import ObjectiveError, check_number
from kdtutor.objectives.terms import Batch, Term, output_of, token_mask


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient comes back multiplied by −strength (Ganin & Lempitsky 2015, arXiv:1409.7495)."""

    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple:
        return -context.strength * gradients[0], None


class LearnedTemperature(Term):
    """T² · KL(teacher ‖ student) at a T that is learned to make it *large* (CTKD, Li et al. 2023, arXiv:2211.16231).

    T = lowest + (highest − lowest) · sigmoid(θ), with one number θ for all texts: the paper's global temperature. The
    optimiser that makes the loss small for the student moves θ the other way, since θ's gradient is reversed, times
    `strength`. begin: T before the first step. `learned` is T as it stands. The paper raises the strength from 0 to 1:
    like every setting it may change between two steps, and a checkpoint has it, as it has θ.
    """

    label = "soft targets, T learned"

    def __init__(
        self, begin: float = 4.0, strength: float = 1.0, lowest: float = 1.0, highest: float = 20.0
    ) -> None:
        super().__init__()
        self.lowest, self.highest = (check_number("temperature", t) for t in (lowest, highest))
        if not self.lowest < check_number("temperature", begin) < self.highest:
            raise ObjectiveError(
                f"LearnedTemperature begins between lowest and highest ({lowest:g} and {highest:g}), not at {begin:g}"
            )
        self.begin, self.strength = float(begin), strength
        share = (self.begin - self.lowest) / (self.highest - self.lowest)
        self.theta = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    @property
    def learned(self) -> float:
        return float(self._temperature(self.theta.detach()))

    def _temperature(self, theta: Tensor) -> Tensor:
        return self.lowest + (self.highest - self.lowest) * theta.sigmoid()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        SoftTargets(self.begin).prepare(student, teacher)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        z_s, z_t = student.logits, output_of(teacher, "logits", "teacher").detach()
        temperature = self._temperature(_Reversed.apply(self.theta, self.strength))
        # The quotients, so that the gradient reaches T on both sides.
        kl = kl_divergence(z_t / temperature, z_s / temperature, mask=token_mask(batch), reduction=reduction)
        return temperature**2 * kl

    def extra_repr(self) -> str:
        return f"begin={self.begin:g}, strength={self.strength:g}, lowest={self.lowest:g}, highest={self.highest:g}"
