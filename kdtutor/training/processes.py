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
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError, nearest
from kdtutor.hardware import gains_by_bf16

PRECISIONS = ("auto", "bf16", "fp32")


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
    """How a run will be launched: how many processes, on which kind of device ("cpu", "cuda"), and whether in bf16."""

    processes: int
    device: str
    bf16: bool


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
    except Exception as error:  # a different type for each fault
        raise KDTutorError(f"{file} is no configuration of accelerate: {error}") from error
    if processes < 1 or asked == "fp16" or (config.num_machines > 1 and not config.main_process_ip):
        raise KDTutorError(
            f"{file}: num_processes must be 1 or more, mixed_precision bf16 or no, and several machines need a "
            "main_process_ip"
        )
    return Launch(processes, device, precision == "bf16" or (precision == "auto" and asked == "bf16"))


def start_alike(accelerator: Accelerator, modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights: each may have drawn its own."""
    if accelerator.num_processes > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)


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
    """Sum the gradients in place, all in one message. A process without examples in this step gives zeros."""
    if accelerator.num_processes > 1:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = sum_values(accelerator, torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, part in zip(parameters, summed.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)


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
