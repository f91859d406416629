"""The teacher's answers, asked once where no training step changes them, and kept in memory or on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Set
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.checkpoints import writable
from kdtutor.data import Task
from kdtutor.errors import KDTutorError
from kdtutor.models import logits_of

Cache = bool | str | os.PathLike


def ask_once(
    teacher: PreTrainedModel | None, task: Task, split: str, needs: Set[str], cache: Cache, bf16: bool
) -> tuple[Tensor | None, str]:
    """The teacher's logits for every example of the split, (N, C) on the host, or None; and one phrase that says why.

    needs: what the objective's terms read of the teacher, nothing if there are none. cache: True (memory), a
    folder, or False. Raises KDTutorError if a folder is named though the answers can't be kept, if a logit is
    not finite, or if the file is damaged.
    """
    if not needs:
        return None, "not used (no term needs a teacher)"
    if task.kind == "masked-lm":
        reason = "masks are drawn anew at each step, so the teacher's answers change too"
    elif needs != {"logits"}:
        reason = f"{', '.join(sorted(needs - {'logits'}))} of every token would fill the memory"
    elif cache is False:
        reason = "cache=False"
    elif cache is True:
        return _ask(teacher, task, split, bf16), "asked once, answers cached in memory"
    else:
        return _from_disk(
            writable(cache), teacher, task, split, bf16
        ), f"asked once, answers cached in {cache}"
    if not isinstance(cache, bool):
        raise KDTutorError(f"the teacher's answers can't be cached in {cache}: {reason}")
    return None, f"asked at every step ({reason})"


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of a model's configuration and weights, shortened to 16 digits."""
    config = model.config.to_diff_dict()
    for name in ("transformers_version", "architectures", "dtype"):  # these change when a model is saved
        config.pop(name, None)
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _ask(teacher: PreTrainedModel, task: Task, split: str, bf16: bool) -> Tensor:
    autocast = torch.autocast(teacher.device.type, torch.bfloat16, enabled=bf16)
    try:
        return logits_of(teacher, task.encode(split), autocast=autocast)
    except KDTutorError as error:
        raise KDTutorError(f"{split} split of {task.name}, asked of the teacher: {error}") from error


def _from_disk(folder: Path, teacher: PreTrainedModel, task: Task, split: str, bf16: bool) -> Tensor:
    """A file belongs to one teacher, task, split and precision; it is made if it is not there."""
    file = (
        folder
        / f"teacher-{fingerprint(teacher)}-{task.fingerprint}-{split}-{'bf16' if bf16 else 'fp32'}.safetensors"
    )
    if not file.is_file():
        partial = f"{file}.partial-{os.getpid()}"
        save_file({"logits": _ask(teacher, task, split, bf16)}, partial)
        os.replace(partial, file)
    try:
        return load_file(file)["logits"]
    except (OSError, KeyError, SafetensorError) as error:
        raise KDTutorError(
            f"{file} is damaged ({error}); delete it, and the teacher is asked again"
        ) from error
