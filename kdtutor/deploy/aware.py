"""Quantisation-aware distillation: a student feels in training what int8 will do to it, and its teacher is itself.

student = quantization_aware(copy.deepcopy(float_student), bits=4)
for step in kd.Distillation(student, float_student, task, kd.SoftTargets(temperature=2)):
    ...
settled(student)                                     # plain weights again, which lie on the grid
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from kdtutor.deploy.int8 import grid_of
from kdtutor.errors import KDTutorError
from kdtutor.models.families import refuse_whole_numbers


def fake_quantize(x: Tensor, bits: int = 8, axis: int | None = None, symmetric: bool = True) -> Tensor:
    """Round x to its grid and back, with the gradient of no rounding at all.

    The straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): a staircase has gradient 0 almost everywhere,
    so the backward pass takes it for the line that it follows.
    """
    with torch.no_grad():
        # As quantize() rounds, in place: this is done to all weights in every step.
        scale, zero, lowest, highest = grid_of(x, bits, axis, symmetric)
        rounded = (x / scale).round_().add_(zero).clamp_(lowest, highest).sub_(zero).mul_(scale)
        error = rounded.sub_(x)
    return x + error


class FakeQuantized(nn.Module):
    """What a matrix is seen as while it is trained: rounded, a scale for each output (or for each token's row)."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.bits, axis=0)


def quantization_aware(model: PreTrainedModel, bits: int = 8) -> PreTrainedModel:
    """Let every matrix and table of `model`, and what goes into a matrix, be rounded in each forward pass. In place.

    The optimiser moves the weights behind the rounding. bits: of weights; activations have 8. Returns the model.
    """
    refuse_whole_numbers(model, "the model", "have no gradient: begin with the float32 model")
    for module in [*model.modules()]:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if parametrize.is_parametrized(module):
                raise KDTutorError("the model is quantisation-aware already: settled(model) ends that")
            parametrize.register_parametrization(module, "weight", FakeQuantized(bits))
        if isinstance(module, nn.Linear):
            module.rounds_inputs = module.register_forward_pre_hook(_rounded)
    return model


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """End quantisation-aware training: what was rounded in passing is now the weight. In place. Returns the model."""
    for module in [*model.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        if (hook := vars(module).pop("rounds_inputs", None)) is not None:
            hook.remove()
    return model


def _rounded(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (fake_quantize(inputs[0], symmetric=False), *inputs[1:])
