"""Files: written whole or not at all, and told apart by their SHA-256."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from kdtutor.errors import KDTutorError

#: Seconds after which what is half written has no process any more that writes it.
FORSAKEN = 3600


def remove_forsaken(path: Path) -> None:
    """Remove what killed processes left of `path`, half written: files and folders .NAME-….partial beside it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}-*.partial"):
        with suppress(OSError):  # another process was faster
            if time.time() - partial.stat().st_mtime > FORSAKEN:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all: a reader, or whoever pulls the plug, never finds half of it.

    Raises KDTutorError if it can't be written, on a full disk say; the file is then as it was.
    """
    remove_forsaken(path)
    partial = path.with_name(f".{path.name}-{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as error:
        raise KDTutorError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign(file: Path, size: int) -> None:
    """Cut a file to `size` bytes, write their SHA-256 behind them, and wait until all lies on the disk."""
    with open(file, "r+b") as stream:
        stream.truncate(size)
        digest = hashlib.file_digest(stream, "sha256").digest()
        stream.write(digest)
        stream.flush()
        os.fsync(stream.fileno())


def signed_array(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map a signed .npy file of float32 into memory. ValueError if it is not what was written, or not of this shape."""
    mapped = np.load(file, mmap_mode="c", allow_pickle=False)
    if mapped.shape != shape or mapped.dtype != np.float32 or not mapped.flags.c_contiguous:
        raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not float32 {shape}")
    size, digest = mapped.offset + mapped.nbytes, hashlib.sha256()
    with open(file, "rb") as stream:
        while size and (block := stream.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
        if stream.read() != digest.digest():
            raise ValueError("it is not what was written")
    return mapped
