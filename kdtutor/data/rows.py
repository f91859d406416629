"""Rows and columns: which are options, and tables of Python objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kdtutor.errors import KDTutorError, nearest

#: The column in which `kdtutor label` says whose each label is, and what it says of a teacher's.
BY, TEACHER = "label_by", "teacher"


@dataclass(frozen=True)
class ReadOptions:
    """What is to be read: names of columns (None: not there), and how a text file is written (None: to be found).

    label: one column, or a tuple of columns that say 0 or 1 of one label each.
    """

    text: str | None
    pair: str | None = None
    label: str | tuple[str, ...] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    separator: str | None = None  # between the labels of one text
    quote: str | None = None  # around cells of a CSV file: a character, '"' if None, or "none"

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.text, self.pair, *self.labels) if name is not None]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label if isinstance(self.label, tuple) else () if self.label is None else (self.label,)


@dataclass
class Read:
    """A table of the columns that are options, all columns' names, and what had to be found out."""

    table: pa.Table
    notes: list[str] = field(default_factory=list)


def check_columns(names: Sequence[str], where: object, options: ReadOptions, about: str = "") -> list[str]:
    """Refuse a column that isn't there, is there twice, or is named for two purposes; about: of the first, why.

    Returns the columns to read: those that are options, and the one that says whose labels they are.
    """
    if options.text is None:
        listing = ", ".join(f'"{name}"' for name in names[:50]) + (", …" if len(names) > 50 else "")
        raise KDTutorError(
            f'{where}: which column holds the text? Say text="…" (--text …); its columns are {listing}'
        )
    for column in options.columns:
        if column not in names:
            alike = [name for name in names if _letters(name) == _letters(column)]
            hint = f"; it is written {alike[0]!r} there" if alike else about
            whole = [name for name in names if _letters(name) == _letters("".join(options.labels))]
            if len(options.labels) > 1 and whole:
                hint = f"; one column with a comma in its name is --label '\"{whole[0]}\"'"
            raise KDTutorError(nearest(f"column of {where}", column, names) + hint)
        if [*names].count(column) > 1:
            raise KDTutorError(f'{where} has {[*names].count(column)} columns named "{column}"')
    purposes: dict[str, str] = {}
    named = [("text", options.text), ("pair", options.pair), *(("label", name) for name in options.labels)]
    for purpose, column in named:
        if column in purposes:
            raise KDTutorError(
                f'{where}: {purposes[column]} and {purpose} are the same column, "{column}": each needs its own'
            )
        if column is not None:
            purposes[column] = purpose
    by = options.label is not None and BY in names and BY not in options.columns
    return [*options.columns, BY] if by else options.columns


def _letters(name: str) -> str:
    """Return a name without case, blanks and marks."""
    return "".join(filter(str.isalnum, name.casefold()))


def is_table(value: object) -> bool:
    """Tell whether a value holds rows: a DataFrame, a Dataset, an Arrow table, a list, a dict of columns."""
    return isinstance(value, (list, tuple, dict, pa.Table)) or hasattr(value, "columns") or _is_dataset(value)


def _is_dataset(value: object) -> bool:
    return hasattr(value, "with_format") and hasattr(value, "column_names")


def read_object(value: Any, options: ReadOptions, where: str) -> Read:
    """Read the wanted columns of a Python object; rows without names are (text, label), or texts."""
    if isinstance(value, (list, tuple)):
        if not all(isinstance(row, Mapping) for row in value):
            value = [_named(row, number, options, where) for number, row in enumerate(value, 1)]
        return Read(table_of_rows(value, where, options))
    if _is_dataset(value) and not hasattr(value, "__len__"):
        raise KDTutorError(f"{where} are a stream, whose parts can't be cut: list(stream.take(10_000))")
    try:
        table = _arrow_table(value)
    except pa.ArrowException as error:
        # A column of a DataFrame may mix types.
        if not hasattr(value, "to_dict"):
            raise KDTutorError(f"{where} can't be read as a table: {_first_line(error)}") from error
        columns = check_columns([*map(str, value.columns)], where, options)
        chosen = value[[name for name in value.columns if str(name) in columns]]
        return Read(table_of_rows(chosen.to_dict("records"), where, options))
    except (TypeError, ValueError) as error:
        raise KDTutorError(f"{where} can't be read as a table: {_first_line(error)}") from error
    table = flattened(table)
    return Read(table.select(check_columns(table.column_names, where, options)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def flattened(table: pa.Table) -> pa.Table:
    """Make a column of each value in columns with several values by name, as of translations: "translation.en"."""
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table


def _flat(row: Any, before: str = "") -> Any:
    """Do so with one object."""
    if not isinstance(row, Mapping):
        return row
    cells: dict[str, Any] = {}
    for name, value in row.items():
        cells |= (
            _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
        )
    return cells


def _named(row: Any, number: int, options: ReadOptions, where: str) -> dict[str, Any]:
    cells = [row] if isinstance(row, str) else row
    if not isinstance(cells, Sequence) or len(cells) != len(options.columns):
        raise KDTutorError(
            f"{where}, row {number} is {str(row)[:40]!r}; expected is ({', '.join(options.columns)})"
        )
    return dict(zip(options.columns, cells, strict=True))


def _arrow_table(value: Any) -> pa.Table:
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, dict):
        return pa.table(value)
    if _is_dataset(value):
        return value.with_format("arrow")[:]
    return pa.Table.from_pandas(value, preserve_index=False)


def table_of_rows(rows: Sequence[Any], where: object, options: ReadOptions) -> pa.Table:
    """Make a table of objects; a value that is no single one is refused by its row."""
    if any("." in column for column in options.columns):
        rows = [*map(_flat, rows)]
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise KDTutorError(
                f"{where}, row {number} is a {type(row).__name__}, not an object with named values"
            )
        if not names.keys() >= row.keys():
            names |= dict.fromkeys(row)
    columns = {}
    for column in check_columns([str(name) for name in names], where, options):
        several = column == options.label and any(isinstance(row.get(column), _SEVERAL) for row in rows)
        read, kind = (_cells, pa.list_(pa.string())) if several else (_cell, pa.string())
        cells = [read(row.get(column), where, number, column) for number, row in enumerate(rows, 1)]
        columns[column] = pa.array(cells, kind)
    return pa.table(columns)


_SEVERAL = (list, tuple, set)


def _cells(value: Any, where: object, row: int, column: str) -> list[str | None] | None:
    """Read several labels of one text."""
    if value is not None and not isinstance(value, _SEVERAL):
        raise KDTutorError(
            f'{where}: column "{column}", row {row} holds no list, as others do: {str(value)[:40]!r}'
        )
    return None if value is None else [_cell(label, where, row, column, alone=False) for label in value]


def _cell(value: Any, where: object, row: int, column: str, alone: bool = True) -> str | None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise KDTutorError(
                f'{where}: column "{column}", row {row} holds half of a character ({value[:40]!r})'
            )
        return value
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, np.bool_) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, bytes | list | tuple | set | Mapping):
        raise KDTutorError(
            f'{where}: column "{column}", row {row} holds a {type(value).__name__}, not one text or number: '
            f"{str(value)[:40]!r}"
            + (
                f'; "{column}.{next(iter(value))}" names one of its values'
                if alone and isinstance(value, Mapping) and value
                else ""
            )
        )
    return str(value)
