"""Files: written whole or not at all, and told apart by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kdtutor.errors import KDTutorError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all: a reader, or whoever pulls the plug, never finds half of it.

    Raises KDTutorError if it can't be written, on a full disk say; the file is then as it was.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}")
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
