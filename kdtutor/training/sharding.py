"""Weights that are divided among processes: fully sharded data parallelism (FSDP, Zhao et al. 2023, arXiv:2304.11277).

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 -m kdtutor distill …

Each of n processes keeps an n-th of every weight of the student, of its gradient and of its moments, as a DTensor. What
is in no layer (embeddings, head) is gathered for a step, a layer only while it computes, forwards and again backwards;
then its gradient is summed over the processes, each of which keeps its part. The teacher has neither gradients nor
moments, and stays whole in every process.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Set
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError
from kdtutor.hardware import within_memory
from kdtutor.models.forward import Outputs, forward
from kdtutor.models.load import freeze
from kdtutor.objectives.terms import Batch
from kdtutor.training import processes
from kdtutor.training.settings import Settings


def check_launch(settings: Settings, count: int) -> None:
    """Refuse, where weights are to be divided among `count` processes, what can't be; KDTutorError names it."""
    if not processes.is_sharded():
        return
    processes.check_sharded(lambda name: os.environ.get(name.upper()), count)
    if settings.on_policy:
        raise KDTutorError("on_policy lets the student write, which it can't while FSDP divides its weights")
    if settings.compile:
        raise KDTutorError("compile and weights that FSDP divides do not go together: leave one of them out")


def layers_of(model: nn.Module) -> list[nn.Module]:
    """List the layers that are gathered one by one: those in the model's outermost lists."""
    if isinstance(model, nn.ModuleList):
        return [layer for layer in model if any(True for _ in layer.parameters())]
    return [layer for child in model.children() for layer in layers_of(child)]


def root_and_layers(model: nn.Module) -> tuple[int, list[int]]:
    """Count the bytes of what lies in no layer, and of each layer; shared weights once."""
    layers = [{id(p): p.numel() * p.element_size() for p in layer.parameters()} for layer in layers_of(model)]
    inside = frozenset().union(*layers)
    root = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in inside)
    return root, [sum(layer.values()) for layer in layers]


class _Asked(nn.Module):
    """A model whose call is `forward`: what is in no layer is gathered from there until its gradient is known."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, needs: Set[str], rows: Tensor | None) -> dict:
        # A dict, since FSDP looks for tensors in there and not in a dataclass.
        return vars(forward(self.model, batch, needs, rows, fast=False))


class Sharded:
    """A model whose weights are divided among processes, in place; called, it is the `forward` of that model.

    All processes must call it as often: each call gathers. It runs as transformers has it, whatever `fast` says.
    """

    def __init__(self, model: PreTrainedModel, accelerator: Accelerator) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        # Accelerate's settings; on CPUs it would replicate all weights and say nothing, so they are divided here.
        plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
        self.model, self.count = model, accelerator.num_processes
        self._empty = _copy(model, lambda p: torch.empty_like(p, device="meta"))
        mesh = init_device_mesh(accelerator.device.type, (self.count,))
        for layer in layers_of(model):
            fully_shard(layer, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
        self._asked = _Asked(model)
        fully_shard(self._asked, mesh=mesh)
        for module in self._asked.modules():
            if isinstance(module, FSDPModule):
                # A sum, not a mean: a term's mean is taken over all processes already.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        # Nobody changes in place what a model gives.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)

    def __call__(
        self, _: nn.Module, batch: Batch, needs: Set[str], rows: Tensor | None = None, fast: bool = False
    ) -> Outputs:
        return Outputs(**self._asked(batch, needs, rows))

    def __str__(self) -> str:
        return f"weights, gradients and moments are divided among {self.count} processes (FSDP)"

    def whole(self, device: torch.device | str, wanted: bool = True) -> PreTrainedModel:
        """Gather an ordinary model on `device`; all processes must call this, and one not `wanted` is empty."""
        parts = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        found = {name: whole(part, device, wanted) for name, part in parts.items()}
        empty = {**dict(self._empty.named_parameters()), **dict(self._empty.named_buffers())}
        names = {id(tensor): name for name, tensor in empty.items()}
        return _copy(self._empty, lambda tensor: found[names[id(tensor)]])


def place(run: Any) -> Sharded | None:
    """Bring what a run (a Distillation) computes with to its device, alike in every process; the teacher is frozen.

    Where the processes were launched so, the student's weights are divided among them: how, is returned.
    """
    check_launch(run.settings, run.accelerator.num_processes)
    # A student that is to be divided goes there layer by layer.
    divided = processes.is_sharded()
    cure = "Take a smaller student, or a smaller teacher"
    with within_memory(f"the weights on {run.device}", cure, run.device):
        for model in filter(None, (None if divided else run.student, run.teacher)):
            model.to(run.device)
    run.objective.to(run.device)

    alike = [run.student, run.objective]
    if run.teacher is not None:
        freeze(run.teacher)
        # With FSDP, it may have been loaded by the first process alone.
        alike += [run.teacher] * divided
    processes.start_alike(run.accelerator, alike)
    return Sharded(run.student, run.accelerator) if divided else None


def whole(tensor: Tensor, device: torch.device | str, wanted: bool = True) -> Tensor:
    """Gather a tensor of which each process has a part; all must call this, and an empty one is not `wanted`."""
    tensor = tensor.detach()
    full = tensor.full_tensor() if processes.is_part(tensor) else tensor.clone()
    return full.to(device if wanted else "meta")


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, divided and placed as another one; what is placed so, as it is."""
    if not processes.is_part(like):
        return tensor.to(like.device)
    if processes.is_part(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # A copy, since a part is else a view that keeps the whole.
    there = tensor.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None).clone()


def _copy(model: nn.Module, tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a model with other weights and buffers; what is shared stays shared."""
    memo: dict[int, object] = {id(p): nn.Parameter(tensor(p), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): tensor(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
