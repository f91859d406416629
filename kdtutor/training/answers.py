"""The teacher's answers, asked once where no training step changes them, and kept in memory or on disk.

On disk they are one NumPy file, mapped into memory: a step reads the rows that it needs, so they may be larger than the
memory. Several processes share the asking; the main one writes. A killed build goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Set
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import length_bucketed_batches
from kdtutor.errors import KDTutorError
from kdtutor.hardware import memory
from kdtutor.models.forward import logits_by_batch, refuse_non_finite, texts_at_once
from kdtutor.training.checkpoints import writable
from kdtutor.training.processes import bar, on_main, sum_values

FLUSH_EVERY = 30  # seconds that a killed build may lose


def ask_once(
    teacher: PreTrainedModel | None,
    task: Task,
    split: str,
    needs: Set[str],
    cache: bool | str | os.PathLike,
    bf16: bool,
    fast: bool,
    accelerator: Accelerator,
    progress: bool | None = False,
) -> tuple[Tensor | None, str]:
    """The teacher's logits for every example of the split, (N, C) on the host, or None; and one phrase that says why.

    needs: what the objective's terms read of the teacher, nothing if there are none. cache: True (memory), a
    folder, or False. progress: whether to show a bar, which names the size (see `bar`). Raises KDTutorError if a
    folder is named though the answers can't be kept, if there is no room for them, if a logit is not finite, or if the
    file is damaged.
    """
    if not needs:
        return None, "not used (no term needs a teacher)"
    if task.kind == "masked-lm":
        reason = "masks are drawn anew at each step, so the teacher's answers change too"
    elif needs != {"logits"}:
        reason = f"{', '.join(sorted(needs - {'logits'}))} of every token would fill the memory"
    elif cache is False:
        reason = "cache=False"
    else:
        asking = _Asking(teacher, task, split, bf16, fast, accelerator, progress)
        size = _size(asking.bytes)
        if cache is True:
            return asking.in_memory(), f"asked once, answers cached in memory, {size}"
        return asking.on_disk(writable(cache)), f"asked once, answers cached in {cache}, {size}"
    if not isinstance(cache, bool):
        raise KDTutorError(f"the teacher's answers can't be cached in {cache}: {reason}")
    return None, f"asked at every step ({reason})"


class _Asking:
    """Asking one teacher about one split: all processes take their share of every batch, and all get every answer."""

    def __init__(self, teacher, task: Task, split: str, bf16: bool, fast: bool, accelerator, progress):
        self.teacher, self.bf16, self.fast = teacher, bf16, fast
        self.accelerator, self.progress = accelerator, progress
        self.task, self.split, self.data = task, split, task.encode(split)
        self.shape = len(self.data), teacher.config.num_labels
        self.bytes = 4 * self.shape[0] * self.shape[1]  # float32
        at_once = texts_at_once(accelerator.device) * accelerator.num_processes
        self.order = length_bucketed_batches(self.data.lengths, at_once)

    def in_memory(self) -> Tensor:
        free = memory()[1]
        if self.bytes > free // 2:
            raise KDTutorError(
                f"the teacher's answers take {_size(self.bytes)} of memory, and {_size(free)} are free: "
                "cache='a folder' keeps them on disk, cache=False asks anew at every step"
            )
        logits = torch.empty(self.shape)
        for index, answers in self._answers():
            logits[index] = answers
        return logits

    def on_disk(self, folder: Path) -> Tensor:
        """A file belongs to one teacher, task, split and precision. Two runs that need it: the second waits for it."""
        precision = "bf16" if self.bf16 else "fp32"
        key = f"{fingerprint(self.teacher)}-{self.task.fingerprint}-{self.split}-{precision}"
        file, main = folder / f"teacher-{key}.npy", self.accelerator.is_main_process
        with FileLock(folder / f".{file.name}.lock") if main else nullcontext():
            missing = torch.tensor(float(main and not file.is_file()), device=self.accelerator.device)
            if sum_values(self.accelerator, missing):
                self._build(file)
        try:
            mapped = np.load(file, mmap_mode="c", allow_pickle=False)
            if mapped.shape != self.shape:
                raise ValueError(f"it holds {mapped.shape}, not {self.shape}")
            return torch.from_numpy(mapped)
        except (OSError, ValueError, EOFError) as error:
            raise KDTutorError(
                f"{file} is damaged ({error}); delete it, and the teacher is asked again"
            ) from error

    def _build(self, file: Path) -> None:
        """Fill the file, in a partial one that says how far it is."""
        partial, progress = file.with_suffix(".partial"), file.with_suffix(".partial.json")
        plan = {"shape": [*self.shape], "batches": len(self.order)}
        rows: np.memmap | None = None
        first, kept = 0, time.monotonic()

        def prepare() -> None:
            nonlocal rows, first
            # Nothing begun, or not readably: begin anew.
            with suppress(OSError, ValueError, KeyError, TypeError):
                stored = json.loads(progress.read_text(encoding="utf-8"))
                first = stored.pop("done") if partial.is_file() else 0
                first = first if stored == plan else 0
            free = shutil.disk_usage(file.parent).free
            if not first and self.bytes > free:
                room = f"{_size(self.bytes)} in {file.parent}, and {_size(free)} are free"
                raise KDTutorError(f"the teacher's answers take {room}")
            how = {"mode": "r+"} if first else {"mode": "w+", "dtype": np.float32, "shape": self.shape}
            rows = np.lib.format.open_memmap(partial, **how)
            # Take the room now: a mapped file that finds none later kills the process.
            if hasattr(os, "posix_fallocate"):
                with open(partial, "r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, partial.stat().st_size)

        def keep(done: int) -> None:
            rows.flush()
            fresh = progress.with_suffix(".new")
            fresh.write_text(json.dumps(plan | {"done": done}), encoding="utf-8")
            os.replace(fresh, progress)

        def finish() -> None:
            rows.flush()
            os.replace(partial, file)
            progress.unlink(missing_ok=True)

        on_main(self.accelerator, prepare)
        first = int(sum_values(self.accelerator, torch.tensor(float(first), device=self.accelerator.device)))
        for done, (index, answers) in enumerate(self._answers(first), start=first + 1):
            if rows is not None:
                rows[index.numpy()] = answers.numpy()
                if time.monotonic() - kept > FLUSH_EVERY:
                    keep(done)
                    kept = time.monotonic()
        on_main(self.accelerator, finish)

    def _answers(self, first: int = 0):
        """(index, logits (n, C) on the host) batch by batch, from batch number `first` on."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.order[first:]
        autocast = torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)
        share = (index[rank::world] for index in batches if len(index) > rank)
        mine = logits_by_batch(self.teacher, self.data, share, autocast, self.fast)
        title = f"asking the teacher, {_size(self.bytes)}"
        for index in bar(self.accelerator, self.progress, batches, desc=title):
            answers = torch.zeros(len(index), self.shape[1], device=self.accelerator.device)
            if len(index) > rank:
                answers[rank::world] = next(mine)
            answers = sum_values(self.accelerator, answers).cpu()  # zeros wherever another process answered
            try:
                yield index, refuse_non_finite(answers, index)
            except KDTutorError as error:
                who = f"{self.split} split of {self.task.name}, asked of the teacher"
                raise KDTutorError(f"{who}: {error}") from error


def configuration(model: PreTrainedModel) -> dict[str, object]:
    """A model's configuration, less what changes when the model is saved."""
    config = model.config.to_diff_dict()
    return {
        name: config[name]
        for name in config
        if name not in ("transformers_version", "architectures", "dtype")
    }


def fingerprint(model: PreTrainedModel) -> str:
    """Take the SHA-256 of a model's configuration and weights, shortened to 16 digits."""
    digest = hashlib.sha256(repr(sorted(configuration(model).items())).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _size(count: int) -> str:
    """12,345,678 → "12.3 MB"."""
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= u or u == 1e3)
    return f"{count / unit:,.1f} {name}"
