"""A teacher, how it is run, and what may stand in for it: the base of teachers.py, top_logits.py and several.py.

What was asked once is kept in memory, or by `on_disk` in a file that is mapped into it, and that other runs find again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.files import sign, signed_array
from kdtutor.hardware import format_bytes
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.forward import Outputs, forward
from kdtutor.objectives.terms import Batch
from kdtutor.training.processes import on_main, sum_values

FLUSH_EVERY = 30  # seconds that a killed build may lose


@dataclass(frozen=True)
class Inference:
    """A teacher, and how it is run. progress: whether to show a bar (see `bar`).

    vocabulary: how many tokens the student knows, where tokens have logits. What a teacher has beyond only rounds up
    its table, and no text has it: those logits are cut off.
    """

    model: PreTrainedModel
    accelerator: Accelerator
    bf16: bool
    fast: bool
    progress: bool | None = False
    vocabulary: int | None = None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def outputs(self, inputs: Batch, needs: Set[str]) -> Outputs:
        with self.autocast():
            found = forward(self.model.eval(), inputs, needs, inputs.get("rows"), self.fast)
        return found if self.vocabulary is None else found.narrowed(self.vocabulary)

    def named(self, task: Task, split: str) -> str:
        """Name this teacher's answers: they belong to its weights, a task, a split and a precision."""
        how = ("bf16" if self.bf16 else "fp32") + ("" if self.fast else "-plain")
        return f"teacher-{fingerprint(self.model)}-{task.fingerprint}-{split}-{how}"


class Answers:
    """The outputs of no teacher. mode: a phrase that says how the teacher is asked, and why; remark: what else is to be
    said of one that is asked alone; bytes: what is kept."""

    mode = "not used (no term needs a teacher)"
    remark = ""
    bytes = 0

    def ask(self) -> None:
        """Ask once what no step changes. KDTutorError if the answers find no room, or are not finite."""

    def ask_anew(self) -> None:
        """Ask again, also where the answers are known already: what it takes is timed."""
        self.ask()

    def is_shipped(self) -> bool:
        """Tell whether the answers come with the course, and nobody is asked."""
        return False

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs | None:
        """Give the teacher's outputs for a micro-batch, which lies on the host (`batch`) and the device (`inputs`)."""
        return None


# ------------------------------------------------------------------------------------------------ on disk


def on_disk(
    file: Path,
    shape: tuple[int, int],
    accelerator: Accelerator,
    batches: int,
    asked: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
) -> Tensor:
    """Map the answers in `file`, float32 of this shape; where there is none, fill it. The main process writes.

    asked: yields (index, answers) batch by batch, of so many, from the one it is given on. Two runs that need the file:
    the second waits for it. A killed one is gone on with. Raises KDTutorError if it can't be written, or is damaged.
    """
    main = accelerator.is_main_process
    with FileLock(file.parent / f".{file.name}.lock") if main else nullcontext():
        missing = torch.tensor(float(main and not file.is_file()), device=accelerator.device)
        if sum_values(accelerator, missing):
            try:
                _fill(_GrowingFile(file, shape, batches), accelerator, asked)
            except OSError as error:
                raise KDTutorError(f"the teacher's answers can't be written to {file}: {error}") from error
    try:
        return torch.from_numpy(signed_array(file, shape))
    except (OSError, ValueError, EOFError) as error:
        raise KDTutorError(
            f"{file} is damaged ({error}); delete it, and the teacher is asked again"
        ) from error


def _fill(growing: _GrowingFile, accelerator: Accelerator, asked: Callable) -> None:
    """Fill a file, in a partial one that says how far it is."""
    kept = time.monotonic()
    on_main(accelerator, growing.open)
    done = torch.tensor(float(growing.done), device=accelerator.device)
    first = int(sum_values(accelerator, done))  # the others have opened nothing: 0
    for number, (index, answers) in enumerate(asked(first), start=first + 1):
        if growing.answers is not None:
            growing.answers[index.numpy()] = answers.numpy()
            if time.monotonic() - kept > FLUSH_EVERY:
                growing.keep(number)
                kept = time.monotonic()
    on_main(accelerator, growing.finish)


class _GrowingFile:
    """A file of answers, float32 of a shape, that has its name once it is whole. A killed process's is gone on with."""

    def __init__(self, file: Path, shape: tuple[int, int], batches: int):
        self.file, self.shape, self.plan = file, shape, {"shape": [*shape], "batches": batches}
        self.partial, self.progress = file.with_suffix(".partial"), file.with_suffix(".partial.json")
        self.answers: np.memmap | None = None
        self.done = 0  # batches

    def open(self) -> None:
        """Open what was begun, or begin. KDTutorError if the disk has no room for it."""
        # Nothing begun, or not readably: begin anew.
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self.progress.read_text(encoding="utf-8"))
            done = stored.pop("done") if self.partial.is_file() else 0
            self.done = done if stored == self.plan else 0
        size, free = 4 * self.shape[0] * self.shape[1], shutil.disk_usage(self.file.parent).free
        if not self.done and size > free:
            room = f"{format_bytes(size)} in {self.file.parent}, and {format_bytes(free)} are free"
            raise KDTutorError(f"the teacher's answers take {room}")
        how = {"mode": "r+"} if self.done else {"mode": "w+", "dtype": np.float32, "shape": self.shape}
        self.answers = np.lib.format.open_memmap(self.partial, **how)
        # Take the room now: a mapped file that finds none later kills the process.
        if hasattr(os, "posix_fallocate"):
            with open(self.partial, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, self.partial.stat().st_size)

    def keep(self, done: int) -> None:
        """Write what there is, and then that it is `done` batches."""
        self.answers.flush()
        fresh = self.progress.with_suffix(".new")
        fresh.write_text(json.dumps(self.plan | {"done": done}), encoding="utf-8")
        os.replace(fresh, self.progress)

    def finish(self) -> None:
        """Sign the file, and give it its name."""
        self.answers.flush()
        sign(self.partial, self.answers.offset + self.answers.nbytes)
        os.replace(self.partial, self.file)
        self.progress.unlink(missing_ok=True)
