"""Checkpoints of a training run: folders that are there whole, or not at all.

checkpoint-0001234/
    config.json, model.safetensors   the student, which from_pretrained loads as it is
    optimizer.safetensors            AdamW's moments, and what the objective learns (a projection)
    state.json                       the step, the history, the settings, and the SHA-256 of both tensor files
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from kdtutor.errors import KDTutorError

KEPT = 2  # the newest ones; older ones are deleted
TENSORS = ("model.safetensors", "optimizer.safetensors")


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first. Other programs' (`checkpoint-500`) are left out."""
    return sorted(path for path in folder.glob("checkpoint-" + 7 * "[0-9]") if path.is_dir())


def refuse_later(folder: Path, step: int) -> None:
    """Refuse to write at `step` among another run's checkpoints: those further on would count as the newer ones."""
    if (existing := found(folder)) and int(existing[-1].name.removeprefix("checkpoint-")) > step:
        raise KDTutorError(
            f"{folder} holds another run's {existing[-1].name}: resume() (or --resume) goes on from it; "
            "for a new run, delete it or choose another folder"
        )


def write(folder: Path, step: int, student: PreTrainedModel, tensors: dict[str, Tensor], state: dict) -> Path:
    """Write a checkpoint beside the others, move it into place, and delete all but the newest `KEPT`."""
    target, partial = folder / f"checkpoint-{step:07d}", folder / f".partial-{os.getpid()}"
    try:
        _save_quietly(student, partial)
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial / TENSORS[1])
        state = state | {"sha256": {name: _sha256(partial / name) for name in TENSORS}}
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in found(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def read(checkpoint: Path, device: str) -> tuple[dict, dict[str, Tensor]]:
    """The state, and the tensors that are not the student's, on `device`. KDTutorError if any file is damaged."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        for name in TENSORS:
            if _sha256(checkpoint / name) != state["sha256"][name]:
                raise ValueError(f"{name} is not what was written")
        return state, load_file(checkpoint / TENSORS[1], device=device)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        message = f"{checkpoint} is damaged ({error}); delete it to resume from the one before"
        raise KDTutorError(message) from error


def writable(folder: str | os.PathLike) -> Path:
    """The folder, made if need be; refused now, not after an hour, if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise KDTutorError(f"can't write to {folder}: {error.strerror}") from error


def _save_quietly(model: PreTrainedModel, folder: Path) -> None:
    """save_pretrained without its progress bar, which it shows for each small file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
