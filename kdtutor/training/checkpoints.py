"""Checkpoints of a training run: folders that are there whole, or not at all.

checkpoint-0001234/
    config.json, model.safetensors   the student, which from_pretrained loads as it is
    optimizer.safetensors            AdamW's moments, and what the objective learns (a projection)
    history.jsonl                    one line per step; it grows by appending, see `_write_history`
    state.json                       the step, the settings, and the SHA-256 of the other files and of itself

A checkpoint is written beside its place, flushed to the disk, and moved there: whoever pulls the plug finds the new one
or the one before. No random state is stored, since a run's randomness follows from its seed and its step.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError
from kdtutor.files import sha256
from kdtutor.models.load import quiet
from kdtutor.training.history import Written
from kdtutor.training.state import State

KEPT = 2  # the newest ones; older ones are deleted
TENSORS = ("model.safetensors", "optimizer.safetensors")
STATE, HISTORY = "state.json", "history.jsonl"


# ------------------------------------------------------------------------------------------------ writing


def write(folder: Path, student: PreTrainedModel, state: State) -> Written:
    """Write a checkpoint beside the others, move it into place, and delete all but the newest `KEPT`.

    Returns where the history now lies. Raises KDTutorError if the checkpoint can't be written, on a full disk say; the
    checkpoints before it are then as they were.
    """
    step = state.about["done"]
    target, partial = folder / f"checkpoint-{step:07d}", folder / ".partial"
    with held(folder):
        try:
            # Everything is written beside its place, with the hashes of what was written …
            with quiet():
                # Under the names that the student itself has: some types have others in their published files.
                student.save_pretrained(partial, save_original_format=False)
            save_file(
                {name: value.contiguous() for name, value in state.learned.items()}, partial / TENSORS[1]
            )
            history = _write_history(state, partial / HISTORY)
            hashes = {name: sha256(partial / name) for name in TENSORS}
            hashes[HISTORY] = history.hash.hexdigest()
            about = state.about | {
                "history": {"rows": history.rows, "bytes": history.bytes},
                "sha256": hashes,
            }
            (partial / STATE).write_text(_with_checksum(about), encoding="utf-8")

            # … and lies on the disk before it is moved there.
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
    return Written(target / HISTORY, history.rows, history.bytes, history.hash)


def _write_history(state: State, file: Path) -> Written:
    """Write a history so that a long run's checkpoints take no longer than a short one's.

    The rows that an earlier checkpoint holds come by a second link to its file (or a copy, where there are no links),
    and only the new ones are appended. Nothing is ever overwritten, and each checkpoint knows how many bytes are its
    own, so checkpoints that share a file don't disturb each other.
    """
    # What an earlier checkpoint holds, unless its file has grown or gone since.
    before = state.written
    try:
        unchanged = before is not None and before.file.stat().st_size == before.bytes
    except OSError:  # deleted since
        unchanged = False
    if unchanged:
        try:
            os.link(before.file, file)
        except OSError:
            shutil.copyfile(before.file, file)
    else:
        before = Written(file)

    # What is new.
    count, digest = before.bytes, before.hash.copy()
    with open(file, "ab") as stream:
        for row in state.history[before.rows :]:
            line = json.dumps(row).encode() + b"\n"
            stream.write(line)
            digest.update(line)
            count += len(line)
    return Written(file, len(state.history), count, digest)


def _with_checksum(about: dict) -> str:
    """Write down what state.json holds, with the SHA-256 of that."""
    checksum = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return json.dumps(about | {"checksum": checksum}, indent=1) + "\n"


# ------------------------------------------------------------------------------------------------ reading


class DamagedCheckpoint(KDTutorError):
    """A checkpoint's file is missing, cut short or altered."""


def read(checkpoint: Path, device: str, check: Callable[[State], None] = lambda state: None) -> State:
    """Read a checkpoint, its tensors on `device`; `check` raises ValueError for what can't be a run's state.

    Raises DamagedCheckpoint if a file is missing, cut short or altered, KDTutorError if it may not be read.
    """
    try:
        for name in (STATE, *TENSORS):
            if (checkpoint / name).exists() and not (checkpoint / name).is_file():
                raise ValueError(f"{name} is no file")
        about = _checked((checkpoint / STATE).read_text(encoding="utf-8"))
        hashes = about.pop("sha256")
        for name in TENSORS:
            if sha256(checkpoint / name) != hashes[name]:
                raise ValueError(f"{name} is not what was written")
        history, written = about.pop("history"), None
        if isinstance(history, dict):
            history, written = _read_history(checkpoint / HISTORY, hashes[HISTORY], **history)
        student, learned = (load_file(checkpoint / name, device=device) for name in TENSORS)
        state = State(about, history, student, learned, written)
        check(state)
        return state
    except (FileNotFoundError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{checkpoint} is damaged ({error})") from error
    except OSError as error:
        raise KDTutorError(f"{checkpoint} can't be read ({error}), and was left as it is") from error


def _checked(text: str) -> dict:
    """Read state.json, which must be to the letter what `_with_checksum` wrote. ValueError if it is not.

    Before there was a checksum the history stood in it: such files are still read, as far as they can be checked.
    """
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError(f"{STATE} is not what was written")
    checksum = about.pop("checksum", None)
    if checksum is None and isinstance(about.get("history"), list):
        rows = about["history"]
        if len(rows) != about["done"] or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{STATE} has {len(rows)} rows of history after step {about['done']}")
    elif text != _with_checksum(about):
        raise ValueError(f"{STATE} is not what was written")
    return about


def _read_history(file: Path, expected: str, rows: int, bytes: int) -> tuple[list[dict], Written]:
    """Read the part of a history's file that belongs to a checkpoint."""
    digest, count, history = hashlib.sha256(), 0, []
    with open(file, "rb") as stream:
        while count < bytes and (line := stream.readline(bytes - count)):
            digest.update(line)
            count += len(line)
            history.append(json.loads(line))
    if digest.hexdigest() != expected:
        raise ValueError(f"{file.name} is not what was written")
    return history, Written(file, rows, bytes, digest)


def newest_whole(
    folder: Path, device: str, check: Callable[[Path, State], None]
) -> tuple[Path, State, list[DamagedCheckpoint]]:
    """Find the newest checkpoint that is whole, what `read` gives for it, and the damage of those after it.

    check: raises ValueError for a state that can't be this run's. Raises KDTutorError if no checkpoint is whole.
    """
    damaged: list[DamagedCheckpoint] = []
    for checkpoint in reversed(found(folder)):
        try:
            return checkpoint, read(checkpoint, device, functools.partial(check, checkpoint)), damaged
        except DamagedCheckpoint as error:
            damaged.append(error)
    if damaged:
        raise KDTutorError(
            f"{'; '.join(map(str, damaged))}; delete it to begin anew: none before it is whole"
        )
    raise KDTutorError(f"no checkpoint in {folder}")


# ------------------------------------------------------------------------------------------------ folders


def found(folder: Path) -> list[Path]:
    """List the checkpoints in `folder`, oldest first. Other programs' (`checkpoint-500`) are left out."""
    return sorted(path for path in folder.glob("checkpoint-" + 7 * "[0-9]") if path.is_dir())


def check_none_later(folder: Path, step: int) -> None:
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


def set_aside(folder: Path, after: Path) -> None:
    """Rename what is newer than `after`, so that it is not taken for this run's progress; nothing is deleted."""
    with held(folder):
        for checkpoint in found(folder):
            if checkpoint.name > after.name:
                aside = folder / f"damaged-{checkpoint.name}"
                shutil.rmtree(aside, ignore_errors=True)
                checkpoint.rename(aside)


def writable(folder: str | os.PathLike) -> Path:
    """Make a folder, if there is none, and refuse it now, not after an hour, if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=os.fspath(folder)):
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
