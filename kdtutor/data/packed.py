"""What a file's first bytes say it is: how it is packed, and what is no table though its name says so."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa

from kdtutor.errors import KDTutorError


def _zstd(data: bytes) -> bytes:
    return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


#: how the names of packed files end, their first bytes, and what unpacks them
PACKED = {
    ".gz": (b"\x1f\x8b", gzip.decompress),
    ".bz2": (b"BZh", bz2.decompress),
    ".xz": (b"\xfd7zXZ", lzma.decompress),
    ".zst": (b"\x28\xb5\x2f\xfd", _zstd),
}
#: first bytes of what is no text, or no table → what it is, and what would be right
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save it as CSV (UTF-8), or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV (UTF-8)",
    b"PAR1": "Parquet: name it .parquet",
    b"ARROW1": "Arrow: name it .arrow",
    b"SQLite format 3": "a database: export the table as CSV",
    b"%PDF": "a PDF, not a table",
    b"version https://git-lfs": "a pointer of git LFS, not the file itself: git lfs pull",
    b"<!doctype": "a web page: was a log-in or an error downloaded?",
    b"<html": "a web page: was a log-in or an error downloaded?",
}
#: endings of names that no reader has → what would be right
OTHERS = {
    (".xlsx", ".xls", ".ods"): "a table of Excel is saved as CSV (UTF-8), or read by pandas.read_excel(…)",
    (".zip", ".7z", ".tar", ".tgz", ".rar"): f"unpack it; only {', '.join(PACKED)} are read as they are",
    (
        ".txt",
        ".psv",
        ".tab",
        ".dat",
        ".asc",
        "",
    ): "columns in text are named .csv, whatever stands between them",
    (".pkl", ".pickle", ".npy", ".pt"): "it may run code: load it yourself, and hand over the rows",
}


def unpacked(path: Path) -> bytes:
    """Read a file, unpacked if it is packed. Raises KDTutorError if it is no text of a table."""
    data = path.read_bytes()
    for mark, unpack in PACKED.values():
        if data.startswith(mark):
            data = unpack(data)
            break
    start = data[:99].lstrip().lower()
    for mark, what in FOREIGN.items():
        if start.startswith(mark.lower()):
            raise KDTutorError(f"{path} is {what}")
    return data


def advice(suffix: str) -> str:
    """Say what to do with a file of another format, after a semicolon; nothing where that is not known."""
    return next((f"; {what}" for suffixes, what in OTHERS.items() if suffix.lower() in suffixes), "")
