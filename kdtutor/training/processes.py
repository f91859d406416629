"""Several processes that train one student: how they are launched, what they sum up, and how Ctrl-C waits.

`accelerate launch` starts one process per GPU. On a machine without any it starts a single one, whatever
`--num_processes` says; `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m kdtutor …` starts two.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError, nearest
from kdtutor.hardware import gains_by_bf16

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # it takes long to import

PRECISIONS = ("auto", "bf16", "fp32")

# What accelerate may be told of FSDP, and a run would not do; and what it does.
NOT_DONE = {
    "fsdp_offload_params": "each part of the weights stays on its device",
    "fsdp_activation_checkpointing": "activations are kept, and a larger accumulate makes them fewer",
    "fsdp_ignored_modules": "every weight is divided",
}


def join_launch() -> Accelerator:
    """Take this process's place among those that were launched. KDTutorError if each would train by itself."""
    accelerator = Accelerator()
    started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if started > accelerator.num_processes:
        raise KDTutorError(
            f"{started} processes were started, but each would be a run of its own: on CPUs, "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 … joins them"
        )
    return accelerator


def is_bf16(accelerator: Accelerator, precision: str, learner: PreTrainedModel | None = None) -> bool:
    """Decide whether forward passes run in bf16. "auto": if launched so, or if the hardware is faster in it.

    learner: a student with one answer per text, which may be too narrow to gain. Who is only asked gains at any width,
    and so does who has logits for every token.
    """
    if precision not in PRECISIONS:
        raise KDTutorError(nearest("precision", precision, PRECISIONS))
    if accelerator.mixed_precision == "fp16":
        raise KDTutorError("fp16 would need loss scaling: launch with --mixed_precision bf16 (or no)")
    asked = precision == "bf16" or (precision == "auto" and accelerator.mixed_precision == "bf16")
    width = math.inf if learner is None else getattr(learner.config, "hidden_size", math.inf)
    return asked or (precision == "auto" and gains_by_bf16(accelerator.device, width))


@dataclass(frozen=True)
class Launch:
    """How a run will be launched: how many processes, on which kind of device ("cpu", "cuda"), whether in bf16, and
    whether FSDP divides the student's weights among them."""

    processes: int
    device: str
    bf16: bool
    sharded: bool = False


def read_launch(file: str | os.PathLike, precision: str = "auto") -> Launch:
    """Read what `accelerate launch --config_file FILE` would do. Raises KDTutorError if that is no such file."""
    from accelerate.commands.config.config_args import load_config_from_file

    if not Path(file).is_file():
        raise KDTutorError(f"there is no launch configuration {file}")
    try:
        config = load_config_from_file(str(file))
        device = "cpu" if config.use_cpu else "cuda"
        asked = str(config.mixed_precision)
        processes = int(config.num_processes)
        sharded = config.distributed_type == "FSDP"
        fsdp = {f"fsdp_{name.removeprefix('fsdp_')}": value for name, value in config.fsdp_config.items()}
    except Exception as error:  # a different type for each fault
        raise KDTutorError(f"{file} is no configuration of accelerate: {error}") from error
    if processes < 1 or asked == "fp16" or (config.num_machines > 1 and not config.main_process_ip):
        raise KDTutorError(
            f"{file}: num_processes must be 1 or more, mixed_precision bf16 or no, and several machines need a "
            "main_process_ip"
        )
    if sharded:
        try:
            check_sharded(fsdp.get, processes)
        except KDTutorError as error:
            raise KDTutorError(f"{file}: {error}") from error
    bf16 = precision == "bf16" or (precision == "auto" and asked == "bf16")
    return Launch(processes, device, bf16, sharded)


def is_sharded() -> bool:
    """Tell whether this process was launched to divide the student's weights, as accelerate does."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_sharded(setting: Callable[[str], object], count: int) -> None:
    """Refuse what a run that divides its weights among `count` processes won't do. setting: accelerate's, by name."""
    if str(setting("fsdp_version") or 1) != "2":
        raise KDTutorError(
            "weights are divided by version 2 of FSDP alone: --fsdp_version 2 (FSDP_VERSION=2, fsdp_version: 2)"
        )
    if count < 2:
        raise KDTutorError(
            "FSDP divides weights among processes, and there is only one: launch two or more, or without FSDP"
        )
    for name, instead in NOT_DONE.items():
        if str(setting(name) or "false").lower() not in ("false", "none"):
            raise KDTutorError(f"{name} ({name.upper()}) must be false: {instead}")


def start_alike(accelerator: Accelerator, modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights: each may have drawn its own."""
    if accelerator.num_processes > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                sent = tensor.to(accelerator.device)  # weights that are to be divided lie elsewhere yet
                torch.distributed.broadcast(sent, src=0)
                tensor.copy_(sent)


def sum_values(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Sum every process's `values`. Raises LostProcess if one of them is gone."""
    if accelerator.num_processes == 1:
        return values
    try:
        return accelerator.reduce(values, "sum")
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise LostProcess(
            f"process {accelerator.process_index} waited for the others, and one is gone ({first}). Its own message, "
            "if it had time for one, stands above; start all again with --resume (or resume())"
        ) from error


class LostProcess(KDTutorError):
    """Another process of this run has ended, so this one can't go on."""


def on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Run `action` on the main process while the others wait. Where it raises, all of them raise: nobody waits on."""
    problem: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            problem = error
    failed = torch.tensor(float(problem is not None), device=accelerator.device)
    if sum_values(accelerator, failed) and problem is None:
        problem = LostProcess("the main process could not go on; its message says why")
    if problem is not None:
        raise problem


def from_main(accelerator: Accelerator, found: list) -> Any:
    """Give every process the one thing that the main process `found`."""
    if accelerator.num_processes > 1:
        found = found or [None]
        torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def sum_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients in place, all in one message. A process without examples in this step gives zeros.

    Those of weights that are divided among the processes have been summed on the way back.
    """
    parameters = [p for p in parameters if not is_part(p)]
    if accelerator.num_processes > 1 and parameters:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = sum_values(accelerator, torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, part in zip(parameters, summed.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)


@torch.no_grad()
def clip_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Shorten the gradients, all together, to `max_norm` at most, in place, and return the norm that they had."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if is_part(gradient)]
    if not parts:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    # Of a weight that is divided, each process knows its own part of the sum of squares.
    others = [gradient for gradient in gradients if not is_part(gradient)]
    squares = sum_values(accelerator, nn.utils.get_total_norm(parts) ** 2)
    norm = (squares + nn.utils.get_total_norm(others).to(squares.device) ** 2).sqrt()
    for gradient in parts + others:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Tell whether this process has only its part of a tensor (a DTensor, see sharding.py)."""
    return hasattr(tensor, "full_tensor")


def bar(accelerator: Accelerator, wanted: bool | None, iterable: Iterable | None = None, **options) -> tqdm:
    """Show a progress bar with the time left, on the main process; `wanted` None: in notebooks and terminals."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_notebook = hasattr(shell, "kernel")  # it would keep what is written to stderr
    file = sys.stdout if in_notebook else sys.stderr
    shown = (in_notebook or file.isatty()) if wanted is None else wanted
    disable = not (shown and accelerator.is_main_process)
    return tqdm(iterable, file=file, leave=False, disable=disable, **options)


class _Waiting:
    """A handler of SIGINT that counts the presses, and lets the second one through to the handler before it."""

    def __init__(self, before: Any) -> None:
        self.before, self.presses = before, 0

    def __call__(self, *signal_and_frame: object) -> None:
        self.presses += 1
        if self.presses == 2:
            signal.signal(signal.SIGINT, self.before)
            signal.raise_signal(signal.SIGINT)


@contextmanager
def finish_first() -> Iterator[_Waiting]:
    """Let Ctrl-C, or a notebook's stop button, wait until this block is done; pressed again, it gets through.

    Yields an object whose `presses` says how often it was pressed so far. Of blocks within blocks the outermost counts.
    """
    before = signal.getsignal(signal.SIGINT)
    if isinstance(before, _Waiting):
        yield before
        return
    waiting = _Waiting(before)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield waiting  # signals come to the main thread alone
        return

    signal.signal(signal.SIGINT, waiting)
    try:
        yield waiting
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting.presses == 1:
            signal.raise_signal(signal.SIGINT)
