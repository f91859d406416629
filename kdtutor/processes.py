"""What several processes, started by `accelerate launch`, have to do together; a single one does nothing here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kdtutor.errors import KDTutorError, nearest
from kdtutor.hardware import has_bf16

PRECISIONS = ("auto", "bf16", "fp32")


def wants_bf16(accelerator: Accelerator, precision: str) -> bool:
    """Whether forward passes run in bf16. "auto": if launched so, or if the hardware has it."""
    if precision not in PRECISIONS:
        raise KDTutorError(nearest("precision", precision, PRECISIONS))
    if accelerator.mixed_precision == "fp16":
        raise KDTutorError("fp16 would need loss scaling: launch with --mixed_precision bf16 (or no)")
    asked = precision == "bf16" or (precision == "auto" and accelerator.mixed_precision == "bf16")
    return asked or (precision == "auto" and has_bf16(accelerator.device))


def start_alike(accelerator: Accelerator, modules: Iterable[nn.Module]) -> None:
    """Every process takes the first one's weights: each may have drawn its own."""
    if accelerator.num_processes > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)


def sum_values(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum of every process's `values`."""
    return accelerator.reduce(values, "sum") if accelerator.num_processes > 1 else values


def sum_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients in place, all in one message. A process without examples in this step gives zeros."""
    if accelerator.num_processes > 1:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = sum_values(accelerator, torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, part in zip(parameters, summed.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)
