"""Checkpoints of a training run: folders that are there whole, or not at all.

checkpoint-0001234/
    config.json, model.safetensors   the student, which from_pretrained loads as it is
    optimizer.safetensors            AdamW's moments, and what the objective learns (a projection)
    state.json                       the step, the history, the settings, and the SHA-256 of both tensor files

A checkpoint is written beside its place, flushed to the disk, and moved there: whoever pulls the plug finds the new one
or the one before. No random state is stored, since a run's randomness follows from its seed and its step.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError
from kdtutor.files import sha256
from kdtutor.models.load import quiet

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


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep `folder` to this process. KDTutorError if another one writes there; a dead one's hold ends with it."""
    owner = folder / ".held-by"
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)  # the same process may enter twice
    try:
        with suppress(NotImplementedError):  # some network file systems have no locks
            lock.acquire()
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
        raise KDTutorError(f"{folder} is in use by {who}: choose another folder, or end that run") from error
    try:
        with suppress(OSError):  # a full disk: said when a checkpoint does not fit
            owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        _tidy(folder)
        yield
    finally:
        lock.release()


def write(folder: Path, step: int, student: PreTrainedModel, tensors: dict[str, Tensor], state: dict) -> Path:
    """Write a checkpoint beside the others, move it into place, and delete all but the newest `KEPT`.

    Raises KDTutorError if it can't be written, on a full disk say; the checkpoints before it are then as they were.
    """
    target, partial = folder / f"checkpoint-{step:07d}", folder / ".partial"
    with held(folder):
        try:
            with quiet():
                student.save_pretrained(partial)
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial / TENSORS[1])
            state = state | {"sha256": {name: sha256(partial / name) for name in TENSORS}}
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
            for path in (*partial.iterdir(), partial):
                _flush(path)
            if target.exists():  # it is saved again, after something was changed
                target.rename(folder / f".replaced-{step:07d}")
            partial.rename(target)
            _flush(folder)
        except (OSError, SafetensorError) as error:
            kept = found(folder)
            still = f"{kept[-1].name} is whole" if kept else "there is no checkpoint yet"
            raise KDTutorError(f"{target} could not be written ({error}); {still}") from error
        finally:
            _tidy(folder)
        for old in found(folder)[:-KEPT]:
            shutil.rmtree(old)
    return target


class DamagedCheckpoint(KDTutorError):
    """A checkpoint's file is missing, cut short or altered."""


def read(checkpoint: Path, device: str) -> tuple[dict, dict[str, Tensor]]:
    """The state, and the tensors that are not the student's, on `device`. DamagedCheckpoint if any file is damaged."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        for name in TENSORS:
            if sha256(checkpoint / name) != state["sha256"][name]:
                raise ValueError(f"{name} is not what was written")
        return state, load_file(checkpoint / TENSORS[1], device=device)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{checkpoint} is damaged ({error})") from error


def newest_whole(folder: Path, device: str) -> tuple[Path, dict, dict[str, Tensor], list[DamagedCheckpoint]]:
    """The newest checkpoint that is whole, what `read` gives for it, and the damage of those after it.

    Raises KDTutorError if there is none.
    """
    damaged: list[DamagedCheckpoint] = []
    for checkpoint in reversed(found(folder)):
        try:
            return checkpoint, *read(checkpoint, device), damaged
        except DamagedCheckpoint as error:
            damaged.append(error)
    if damaged:
        raise KDTutorError(
            f"{'; '.join(map(str, damaged))}; delete it to begin anew: none before it is whole"
        )
    raise KDTutorError(f"no checkpoint in {folder}")


def set_aside(folder: Path, after: Path) -> None:
    """Rename what is newer than `after`, so that it is not taken for this run's progress; nothing is deleted."""
    with held(folder):
        for checkpoint in found(folder):
            if checkpoint.name > after.name:
                aside = folder / f"damaged-{checkpoint.name}"
                shutil.rmtree(aside, ignore_errors=True)
                checkpoint.rename(aside)


def writable(folder: str | os.PathLike) -> Path:
    """The folder, made if need be; refused now, not after an hour, if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise KDTutorError(f"can't write to {folder}: {error.strerror}") from error


def _tidy(folder: Path) -> None:
    """Clear away what a killed process left half done."""
    shutil.rmtree(folder / ".partial", ignore_errors=True)
    for replaced in folder.glob(".replaced-*"):
        target = folder / replaced.name.replace(".replaced", "checkpoint")
        shutil.rmtree(replaced) if target.exists() else replaced.rename(target)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, lies on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows can't, and needs not
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
