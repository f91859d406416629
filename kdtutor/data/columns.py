"""From tables to columns that are fit for a task: texts, and labels as they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdtutor.data.rows import BY, TEACHER, Read, ReadOptions
from kdtutor.errors import KDTutorError


@dataclass
class Columns:
    """Rows that belong together. texts: one column, or two of pairs. labels: as written, null where there is none.

    several: why each label is a list of labels, as JSON; empty where it is one. names: those that whole numbers stand
    for, of datasets' ClassLabel or columns of 0 and 1. where: (file or part, its first row here). by_teacher: bool
    (N,), whether a label is a teacher's; None where none is.
    """

    texts: tuple[list[str], ...]
    labels: pa.Array | None
    names: tuple[str, ...] | None = None
    where: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    several: str = ""
    by_teacher: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts[0])

    def place(self, row: int) -> str:
        """Name a row as people find it in their file: row 1 stands below the header."""
        name, first = max((at for at in self.where if at[1] <= row), key=lambda at: at[1])
        return f"{name}, row {row - first + 1}"


def columns_of(read: Read, options: ReadOptions, where: str, blank: bool = False) -> Columns:
    """Check every row: each has its texts (which may be `blank` in data of others), and a label or none."""
    table = read.table
    if not len(table):
        raise KDTutorError(f"{where} has no rows")
    texts = tuple(
        _texts(table[name], name, where, blank) for name in (options.text, options.pair) if name is not None
    )
    labels, names, several = _labels(table, options.label, where)
    _check_no_header_row(texts[0], labels, options, where)
    notes = [
        *read.notes,
        *(note for name in (options.text, options.pair) if name for note in _misread(table[name])),
    ]
    by = None
    if BY in table.column_names and BY not in options.columns:
        said = np.array([cell == TEACHER for cell in table[BY].to_pylist()])
        by = said if said.any() else None
    return Columns(texts, labels, names, [(where, 0)], notes, several, by)


def _labels(
    table: pa.Table, label: str | tuple[str, ...] | None, where: str
) -> tuple[pa.Array | None, tuple[str, ...] | None, str]:
    """Return labels as written, the names that numbers in them stand for, and why each is a list."""
    if label is None:
        return None, None, ""
    if isinstance(label, tuple):
        return _marked(table, label, where), label, "there is a column for each label"
    several = "labels are lists" if _is_list(table[label].type) else ""
    return _written(table[label], label, where), class_names(table.schema, label), several


YES, NO = ("1", "1.0", "true"), ("0", "0.0", "false")


def _marked(table: pa.Table, names: tuple[str, ...], where: str) -> pa.Array:
    """Return the labels of columns of 0 and 1, one for each: lists of their numbers, null where all are empty."""
    marks = []
    for name in names:
        cells = pc.utf8_lower(_written(table[name], name, where))
        wrong = pc.and_(pc.is_valid(cells), pc.invert(pc.is_in(cells, value_set=pa.array([*YES, *NO]))))
        if (row := pc.index(wrong, True).as_py()) >= 0:
            said = f"says 0 or 1 of its label, and no {cells[row].as_py()[:40]!r}"
            raise KDTutorError(
                f'{where}: column "{name}", row {row + 1}: each of several label columns {said}'
            )
        marks.append(cells.to_pylist())

    lists: list[str | None] = []
    for row, marked in enumerate(zip(*marks, strict=True), 1):
        empty = [name for name, mark in zip(names, marked, strict=True) if mark is None]
        if empty and len(empty) < len(names):
            raise KDTutorError(
                f'{where}: column "{empty[0]}", row {row} is empty, and others of its row are not'
            )
        lists.append(None if empty else json.dumps([i for i, mark in enumerate(marked) if mark in YES]))
    return pa.array(lists, pa.string())


def _check_no_header_row(texts: list[str], labels: pa.Array | None, options: ReadOptions, where: str) -> None:
    """Refuse a row that repeats the names of the columns: its label would be a class."""
    if labels is not None and options.text in texts:
        row = texts.index(options.text)
        if labels[row].as_py() == options.label:
            raise KDTutorError(
                f"{where}, row {row + 1} repeats the header: was a file put behind another one? Leave that row out"
            )


def joined(parts: list[Columns]) -> Columns:
    """Put the rows of several files one after the other."""
    if len(parts) == 1:
        return parts[0]
    # A number may stand for another name in each.
    if len({part.names for part in parts}) > 1:
        parts = [spelt_out(part) for part in parts]
    if len({bool(part.several) for part in parts}) > 1:
        one, other = (next(p for p in parts if bool(p.several) is several) for several in (False, True))
        raise KDTutorError(f"{other.where[0][0]} has lists of labels, and {one.where[0][0]} has none")
    where, first = [], 0
    for part in parts:
        where += [(name, first + start) for name, start in part.where]
        first += len(part)
    texts = tuple([*chain(*columns)] for columns in zip(*(part.texts for part in parts), strict=True))
    labels = None if parts[0].labels is None else pa.concat_arrays([part.labels for part in parts])
    notes = [f"{part.where[0][0]}: {note}" for part in parts for note in part.notes]
    by = None
    if any(part.by_teacher is not None for part in parts):
        by = np.concatenate([np.zeros(len(p), bool) if p.by_teacher is None else p.by_teacher for p in parts])
    return Columns(texts, labels, parts[0].names, where, notes, parts[0].several, by)


def spelt_out(part: Columns) -> Columns:
    """Write each label as the name that it stands for."""
    if part.names is None:
        return part
    names = {str(number): name for number, name in enumerate(part.names)} | {"-1": None}

    def name_of(cell: str, row: int) -> str | None:
        try:
            return (
                json.dumps([names[str(number)] for number in json.loads(cell)])
                if part.several
                else names[cell]
            )
        except KeyError:
            said = f"is none of the {len(part.names)} that the file names"
            raise KDTutorError(f"{part.place(row)}: the label {said} ({cell[:40]!r})") from None

    cells = [cell and name_of(cell, row) for row, cell in enumerate(part.labels.to_pylist())]
    return replace(part, names=None, labels=pa.array(cells, pa.string()))


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the names that a ClassLabel of datasets carries in Parquet and Arrow files."""
    about = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(about)["info"]["features"][column] if about else {}
        found = feature.get("names") or feature.get("feature", {}).get("names")  # of several labels per text
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return tuple(map(str, found)) if found else None


def _texts(column: pa.ChunkedArray, name: str, where: str, blank: bool) -> list[str]:
    column = _decoded(column, name, where)
    if not _is_string(column.type):
        raise KDTutorError(f'{where}: column "{name}", row 1: it holds {column.type}, not text')
    if (row := _first(column, pc.is_null if blank else _is_empty)) >= 0:
        said = "" if column[row].as_py() is None else column[row].as_py()
        raise KDTutorError(f'{where}: column "{name}", row {row + 1}: the text is empty ({said[:40]!r})')
    numbers = pc.match_substring_regex(column, r"^[\s\d.,+-]+$")
    if pc.all(numbers).as_py():
        raise KDTutorError(
            f'{where}: column "{name}", row 1: it holds numbers or dates only: is it the text?'
        )
    return column.to_pylist()


def _misread(column: pa.ChunkedArray) -> list[str]:
    """Say that texts hold what letters become where UTF-8 is read in another encoding, or nothing could read them."""
    if pa.types.is_dictionary(column.type) or not _is_string(column.type):
        return []
    # é, ü, ß … in the two letters that they become, a curved quotation mark in its three; what stands for the unread.
    found = pc.match_substring_regex(column, "Ã[\u0080-\u00bf]|â€|\ufffd")
    if not (count := pc.sum(found).as_py()):
        return []
    excerpt = column[pc.index(found, True).as_py()].as_py()
    return [
        f"WARNING: {count:,} of {len(column):,} texts hold letters such as “{excerpt[:40]}”: were they read in another "
        "encoding before?"
    ]


def _is_empty(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)


def _first(column: pa.ChunkedArray, is_wrong: Callable[[pa.Array], pa.Array]) -> int:
    """Find the first row that is wrong, -1 if none is; chunk by chunk, since what is computed takes as much room."""
    before = 0
    for chunk in column.chunks:
        if (row := pc.index(is_wrong(chunk), True).as_py()) >= 0:
            return before + row
        before += len(chunk)
    return -1


def _written(column: pa.ChunkedArray, name: str, where: str) -> pa.Array:
    """Return the labels as text, as they are written, lists of them as JSON; null where there is none."""
    if _is_list(column.type):
        cells = (None if cell is None else [*map(str, cell)] for cell in column.to_pylist())
        return pa.array([None if cell is None else json.dumps(cell) for cell in cells], pa.string())
    column = _decoded(column, name, where)
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
        if (row := pc.index(pc.is_inf(column), True).as_py()) >= 0:
            raise KDTutorError(f'{where}: column "{name}", row {row + 1}: the label is infinite')
        whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
        # pandas writes integers as 1.0, 2.0 when a row was missing once.
        if whole and (pc.max(pc.abs(column)).as_py() or 0) < 2**53:
            column = column.cast(pa.int64())
    elif not (
        _is_string(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        raise KDTutorError(
            f'{where}: column "{name}", row 1: the label is a {kind}, not a text, a number or a list'
        )
    text = column.cast(pa.string())
    # A label of blanks is none.
    text = pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), None, text)
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text


def _decoded(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """Resolve categories, turn bytes that are UTF-8 into text, and refuse text that isn't."""
    try:
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.large_string())
        column.validate(full=True)
    except pa.ArrowException as error:
        row = _first_undecodable(column)
        at = "" if row is None else f", row {row + 1}"
        raise KDTutorError(f'{where}: column "{name}"{at}: it is no text in UTF-8') from error
    return column


def _first_undecodable(column: pa.ChunkedArray) -> int | None:
    for row, cell in enumerate(column):
        try:
            value = cell.as_py()
            if isinstance(value, bytes):
                value.decode()
        except UnicodeDecodeError:
            return row
    return None


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
