"""Files as people have them, as tables: cells stay as they are written.

CSV and TSV in any delimiter and encoding, JSON lines and arrays, also packed; Parquet, Arrow; folders that `datasets`
saved. A fault names the file, and the row where there is one.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdtutor.data.packed import PACKED, unpacked
from kdtutor.data.rows import Read, ReadOptions, check_columns, flattened, table_of_rows
from kdtutor.errors import KDTutorError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
#: What "\t" is called on a command line.
NAMED_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|"}
LARGEST_BLOCK = 2**31 - 1  # bytes that pyarrow parses at once


def format_of(path: Path) -> str | None:
    """Return the format that a file's name tells, such as ".csv" for mine.csv.gz; None if there is no reader."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def read_file(path: Path, options: ReadOptions) -> Read:
    """Read the wanted columns of one file. Raises KDTutorError if it can't be read or lacks a column."""
    if not path.is_file():
        pattern = "; name one file or a folder, not a pattern" if {*"*?["} & {*path.name} else ""
        raise KDTutorError(f"there is no file {path} (looked in {path.absolute().parent}){pattern}")
    kind = format_of(path)
    assert kind is not None
    try:
        return READERS[kind](path, options)
    except MemoryError:
        raise  # said of the file as a whole
    # pyarrow, what unpacks and the file system raise several types; all mean the same to the reader.
    except (pa.ArrowException, OSError, EOFError, ValueError, RecursionError, LZMAError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KDTutorError(f"{path} can't be read as {kind[1:]}: {reason[:200]}") from error


# ------------------------------------------------------------------------------------------- bytes to text


def decode(data: bytes, encoding: str | None, where: object) -> tuple[str, list[str]]:
    """Decode a file: as `encoding` says, or as UTF-8, UTF-16, and where neither fits Windows-1252, which is said."""
    if encoding is not None:
        try:
            return data.decode(encoding).lstrip("\ufeff"), []
        except LookupError:
            raise KDTutorError(
                f'there is no encoding "{encoding}"; usual ones are utf-8, cp1252, utf-16'
            ) from None
        except UnicodeError as error:
            raise KDTutorError(f"{where} isn't written in {encoding}: {error}") from error
    if wide := _wide(data):
        return data.decode(wide).lstrip("\ufeff"), []
    try:
        return data.decode("utf-8").lstrip("\ufeff"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        way_out = 'name its encoding: encoding="…" (--encoding …)'
        # One damaged letter among many that are sound: in another encoding all of them would be others.
        read = data.decode("utf-8", errors="replace")
        if len(read) - len(read.encode("ascii", "ignore")) > 2 * read.count("\ufffd"):
            at = f"byte {data[error.start]:#x} of line {line}"
            raise KDTutorError(f"{where} is UTF-8 but for {at}: fix it there, or {way_out}") from error
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise KDTutorError(
                f"{where}, line {line} is neither UTF-8 nor Windows-1252; {way_out}"
            ) from error
        excerpt = text.splitlines()[line - 1][:60]
        return text, [
            f"read as Windows-1252, since line {line} isn't UTF-8: “{excerpt}”; if that is wrong, {way_out}"
        ]


def _wide(data: bytes) -> str | None:
    """Name the encoding of two or four bytes per letter: by a mark, or by where the first two have zeros."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = "".join("0" if byte == 0 else "x" for byte in data[:8])
    without_mark = {
        "x000x000": "utf-32-le",
        "000x000x": "utf-32-be",
        "x0x0": "utf-16-le",
        "0x0x": "utf-16-be",
    }
    return next((name for start, name in without_mark.items() if zeros.startswith(start)), None)


# ------------------------------------------------------------------------------------------- CSV, TSV


def _read_csv(path: Path, options: ReadOptions) -> Read:
    text, notes = decode(unpacked(path), options.encoding, path)
    if not text or text.isspace():
        raise ValueError("the file is empty")
    # Excel's way to say what stands between columns.
    if mark := re.match(r"sep=(.)\r?\n", text):
        text, options = text[mark.end() :], replace(options, delimiter=options.delimiter or mark[1])
    delimiter, names = _header(text, options)
    columns = check_columns(names, path, options, f"; {notes[0]}" if notes else _about_header(names))
    if delimiter != ",":
        notes.append(f"its columns are divided by {DELIMITERS.get(delimiter, delimiter)}")
    # Of a large file only one copy is kept: its text is decoded again where a fault has to be found in it.
    data = text.encode()
    del text
    _check_quotes(data, delimiter, _quote(options), path)
    try:
        table = _parse_csv(data, delimiter, _quote(options), columns)
        pa.default_memory_pool().release_unused()
        return Read(table, notes)
    except pa.ArrowInvalid as error:
        raise KDTutorError(
            _csv_fault(path, data.decode(), delimiter, _quote(options), len(names), error)
        ) from error


def _quote(options: ReadOptions) -> str | None:
    """Return the character around cells, None if there is none. KDTutorError if it is not one character."""
    quote = '"' if options.quote is None else options.quote
    if quote == "none":
        return None
    if len(quote) != 1 or quote in "\r\n" or ord(quote) > 127:
        raise KDTutorError(f"quote must be one character, or none, not {quote!r}")
    return quote


def _cells(text: str, delimiter: str, quote: str | None) -> Iterator[list[str]]:
    """Read the rows of a CSV file one by one."""
    if quote is None:
        return csv.reader(_lines(text), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(_lines(text), delimiter=delimiter, quotechar=quote)


def _header(text: str, options: ReadOptions) -> tuple[str, list[str]]:
    """Find the delimiter under which the header has the wanted columns, or else the most; and the columns' names."""
    given = options.delimiter
    if given is not None:
        given = NAMED_DELIMITERS.get(given.lower(), given)
        if len(given) != 1 or given in '"\r\n' or ord(given) > 127:
            raise KDTutorError(f"delimiter must be one character, or tab, not {given!r}")

    def names(delimiter: str) -> list[str]:
        with _any_length():
            return next(_cells(text, delimiter, _quote(options)), [])

    def fit(delimiter: str) -> tuple[int, int]:
        found = names(delimiter)
        return sum(column in found for column in options.columns), len(found)

    best = given or max(DELIMITERS, key=fit)
    return best, names(best)


def _about_header(names: list[str]) -> str:
    """Say what may be wrong with a header that lacks a column."""
    if names and names[0].lstrip().startswith("{"):
        return "; it looks like JSON lines: name it .jsonl"
    if len(names) == 1:
        return "; the first line is the header, and has one column: delimiter=… (--delimiter …) says what divides them"
    return "; the first line is the header"


def _parse_csv(data: bytes, delimiter: str, quote: str | None, columns: list[str]) -> pa.Table:
    from pyarrow import csv as arrow_csv

    # No guessing at types or missing values: 007, 1e5 and NA are what is written.
    convert = arrow_csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=False,
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, quote_char=quote or False, newlines_in_values=True)

    def read(block: int) -> pa.Table:
        how = arrow_csv.ReadOptions(block_size=min(block, LARGEST_BLOCK))
        return arrow_csv.read_csv(pa.BufferReader(data), how, parse, convert)

    try:
        # Small blocks: what arrow takes beside one is as large.
        return read(1 << 21)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        return read(len(data) + 1)  # one text longer than a block


def _check_quotes(data: bytes, delimiter: str, quote: str | None, path: Path) -> None:
    """Refuse a cell that goes on behind its closing quotation mark: one is missing, and rows would run together."""
    if quote is None or quote.encode() not in data:
        return
    q, d = re.escape(quote.encode()), re.escape(delimiter.encode())
    # Cells in quotation marks, one after the other: two marks within a cell stand for one.
    cells = re.compile(rb"(?<![^\r\n%b])%b[^%b]*+(?:%b%b[^%b]*+)*+%b" % (d, q, q, q, q, q, q))
    ends = re.compile(rb" *(?:%b|[\r\n]|\Z)" % d)
    for cell in cells.finditer(data):
        if not ends.match(data, cell.end()):
            line = data.count(b"\n", 0, cell.start()) + 1
            excerpt = data[cell.start() : cell.end() + 20].decode(errors="ignore")[:40]
            raise KDTutorError(
                f"{path}, line {line}: the cell {excerpt!r} … goes on behind its closing quotation mark: "
                'is one missing, or one within not doubled? quote="none" (--quote none) takes them as they are'
            )


def _csv_fault(path: Path, text: str, delimiter: str, quote: str | None, width: int, error: Exception) -> str:
    """Say which row of a CSV file can't be read."""
    with _any_length():
        rows = _cells(text, delimiter, quote)
        for number, row in enumerate(rows):
            if row and len(row) != width:
                excerpt = delimiter.join(row).replace("\n", " ")[:60]
                return (
                    f"{path}, row {number}: {len(row)} cells, but the header has {width} ({excerpt!r}); a cell that "
                    f"holds {delimiter!r} or a line break stands in quotation marks"
                )
    return f"{path} can't be read as csv: {str(error).splitlines()[0][:200]}"


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text one by one, ends included, without those before the first that holds something."""
    found = (match[0] for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text))
    return itertools.dropwhile(lambda line: not line.strip("\r\n"), found)


@contextmanager
def _any_length() -> Iterator[None]:
    """Let the csv module read cells of any length."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# ------------------------------------------------------------------------------------------- JSON


def _read_json(path: Path, options: ReadOptions) -> Read:
    text, notes = decode(unpacked(path), options.encoding, path)
    return Read(table_of_rows(_json_rows(text, path), path, options), notes)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(max(names, key=names.count))
    return row


class _Twice(ValueError):
    """A name stands twice in one object."""


# Numbers are kept as they are written; NaN and Infinity are no JSON: a missing value.
_JSON = json.JSONDecoder(
    parse_int=str, parse_float=str, parse_constant=lambda _: None, object_pairs_hook=_once
)


def _json_rows(text: str, path: Path) -> list[Any]:
    """Read an array of objects, an object of columns, or one object a line."""
    start = text.lstrip()
    lines = text.split("\n")
    # One array of all rows, unless the first of several lines is an array by itself.
    first, _, others = start.partition("\n")
    if start.startswith("[") and not (others.strip() and first.rstrip().endswith("]")):
        return _decoded(text.strip(), path, "the array")
    try:
        rows = [_JSON.decode(line) for line in lines if line.strip()]
        return _rows_of_object(rows[0], path) if len(rows) == 1 and isinstance(rows[0], dict) else rows
    except (ValueError, RecursionError) as error:
        row = None
        # One object over many lines, or a line that is no object?
        with suppress(ValueError, RecursionError):
            row = _JSON.decode(text.strip())
        if isinstance(row, Mapping):
            return _rows_of_object(row, path)
        for number, line in enumerate(lines, 1):
            if line.strip():
                _decoded(line, path, f"line {number}")
        raise error


def _decoded(text: str, path: Path, what: str) -> Any:
    try:
        return _JSON.decode(text)
    except RecursionError:
        raise KDTutorError(f"{path}, {what} is nested too deeply") from None
    except _Twice as error:
        raise KDTutorError(f"{path}, {what} gives {error} twice") from None
    except ValueError as error:
        raise KDTutorError(f"{path}, {what} is no JSON: {error} ({text.strip()[:40]!r})") from error


def _rows_of_object(value: Mapping, path: Path) -> list[Any]:
    """Turn {"text": [...], "label": [...]}, or {"data": [{...}, ...]}, into rows."""
    lists = {name: cells for name, cells in value.items() if isinstance(cells, list)}
    first = next(iter(lists.values()), [])
    if len(lists) == 1 and all(isinstance(cell, Mapping) for cell in first):
        return first
    if lists and len({len(cells) for cells in lists.values()}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    raise KDTutorError(
        f"{path} holds one object; expected are one object a line, or an array of objects (of a DataFrame: "
        'to_json(path, orient="records"))'
    )


# ------------------------------------------------------------------------------------------- Parquet, Arrow, datasets


def _read_parquet(path: Path, options: ReadOptions) -> Read:
    from pyarrow import parquet

    # Not memory-mapped: who reads may write the file anew.
    with parquet.ParquetFile(path) as file:
        return _selected(lambda columns: file.read(columns=columns), file.schema_arrow.names, path, options)


def _read_arrow(path: Path, options: ReadOptions) -> Read:
    from pyarrow import feather

    table = feather.read_table(path, memory_map=False)
    return _selected(table.select, table.column_names, path, options)


def _selected(
    read: Callable[[list[str]], pa.Table], names: list[str], path: Path, options: ReadOptions
) -> Read:
    """Read what is wanted alone; "review.text" is the column text within the column review."""
    outer = [name if name in names else name.partition(".")[0] for name in options.columns]
    if outer != options.columns and {*outer} <= {*names}:
        table = flattened(read([*dict.fromkeys(outer)]))
        return Read(table.select(check_columns(table.column_names, path, options)))
    return Read(read(check_columns(names, path, options)))


READERS: dict[str, Callable[[Path, ReadOptions], Read]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether a folder is what `save_to_disk` of datasets writes."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_dataset(folder: Path) -> Any:
    """Load what `save_to_disk` wrote: a Dataset or a DatasetDict."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise KDTutorError(f"the folder {folder} needs the datasets package: pip install datasets") from error
    try:
        return load_from_disk(str(folder))
    except Exception as error:
        raise KDTutorError(
            f"the folder {folder} can't be read: {str(error).splitlines()[0][:200]}"
        ) from error
