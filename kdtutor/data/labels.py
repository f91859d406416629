"""What a column of labels means: classes or numbers, what was guessed and why, and what in it looks wrong."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from kdtutor.data.columns import NO, YES, Columns
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError, nearest

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*\Z")
_LIST = re.compile(r"\s*(\[.*\]|\{.*\}|\(.*,.*\))\s*\Z", re.DOTALL)
SHOWN = 8  # classes whose counts are printed
#: words that tables have where there is no value
NOTHING = {"nan", "none", "null", "na", "n/a", "<na>", "#n/a", "?", "-", "unlabeled", "unlabelled"}


@dataclass(frozen=True)
class Labels:
    """kind: of the task. names: of the classes or labels, or ("value",). values: int64 class numbers, -1 where
    unlabelled; of several labels per text 0 or 1 for each, float32 (N, C), -100 where unlabelled; or numbers, float32.
    notes: what was guessed, and what looks wrong. codes: int64 (N,), equal for equal labels, -1 where unlabelled; None
    for numbers."""

    kind: str
    names: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...]
    codes: np.ndarray | None = None


def read_labels(columns: Columns, column: str, kind: str | None, separator: str | None = None) -> Labels:
    """Read a column of labels as `kind`, or as what they look like. KDTutorError, naming the row, if that can't be."""
    encoded = columns.labels.dictionary_encode()
    written = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if not written:
        raise KDTutorError(f'{columns.where[0][0]}: column "{column}" has no labels')

    def fail(number: int, what: str) -> None:
        row = int(np.flatnonzero(codes == number)[0])
        raise KDTutorError(
            f"{_before_row(columns, row, column)}: the label {what} ({written[number][:40]!r})"
        )

    if kind == "classification" and _alone(columns, written):
        written = [str(json.loads(cell)[0]) for cell in written]
    elif columns.several or separator is not None or kind == "multi-label":
        if kind not in (None, "multi-label"):
            raise KDTutorError(
                f'kind = "{kind}", but column "{column}" has several labels per text: "multi-label"'
            )
        return _several_labels(columns, column, written, codes, separator, fail)
    for number, label in enumerate(written):
        if _LIST.match(label):
            fail(number, 'is a list: kind="multi-label" (--kind multi-label) takes several labels per text')
        if "\n" in label.strip():
            fail(number, "holds a line break: is a quotation mark before it never closed?")

    if columns.names and kind != "regression":
        return _named_classes(columns, column, written, codes, fail)
    counts = np.bincount(codes[codes >= 0], minlength=len(written))
    kind, why = _kind(written, counts, kind)
    if kind == "regression":
        return _numbers(columns, column, written, codes, why, fail)
    return _classes(column, written, codes, counts, why)


def _classes(column: str, written: list[str], codes: np.ndarray, counts: np.ndarray, why: str) -> Labels:
    """Number the classes in the order of their names; what looks alike, or holds several, is noted."""
    order = _sorted(written)
    renumbered = np.empty(len(written) + 1, np.int64)
    renumbered[order], renumbered[-1] = np.arange(len(written)), -1
    names = tuple(written[i] for i in order)
    notes = (
        f'label column "{column}": classification, {why}; {_counted(names, counts[order])}',
        *_alike(written),
        *_in_one(written),
    )
    return Labels("classification", names, renumbered[codes], notes, renumbered[codes])


def _kind(written: list[str], counts: np.ndarray, kind: str | None) -> tuple[str, str]:
    """Decide between classes and numbers, and say why."""
    if kind == "regression":
        return kind, "as you say"
    if kind == "classification":
        return kind, f"as you say, of {len(written)} classes"
    if kind is not None:
        raise KDTutorError(
            nearest("kind of labelled task", kind, ("classification", "multi-label", "regression"))
        )
    if not all(map(_NUMBER.match, written)):
        return "classification", f"since labels are words: {len(written)} different ones"
    labelled = int(counts.sum())
    fractions = any(value % 1 for value in map(float, written) if math.isfinite(value))
    told = f"{len(written)} different numbers in {labelled} rows"
    if fractions and len(written) > labelled / 2:
        return (
            "regression",
            f'since there are {told}, with fractions (kind="classification", --kind, says otherwise)',
        )
    return (
        "classification",
        f'since there are {told} (kind="regression", --kind regression, takes them as numbers)',
    )


def _numbers(columns: Columns, column: str, written: list[str], codes: np.ndarray, why: str, fail) -> Labels:
    for number, label in enumerate(written):
        if not _NUMBER.match(label) or not math.isfinite(float(label)):
            with_point = label.replace(",", ".", 1)
            hint = f", {with_point} with a decimal point," if _NUMBER.match(with_point) else ""
            fail(number, f"is no finite number{hint}")
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise KDTutorError(
            f"{_before_row(columns, row, column)}: the label is missing; a regression needs all"
        )
    values = np.array([float(label) for label in written])
    note = f'label column "{column}": regression, {why}; from {values.min():g} to {values.max():g}'
    return Labels("regression", ("value",), values[codes].astype(np.float32), (note,))


def _named_classes(columns: Columns, column: str, written: list[str], codes: np.ndarray, fail) -> Labels:
    """Read numbers that stand for names, -1 for a hidden label."""
    numbers = np.full(len(written) + 1, -1)
    for i, label in enumerate(written):
        if not re.fullmatch(r"-?\d+", label) or not -1 <= int(label) < len(columns.names):
            fail(i, f"is none of the {len(columns.names)} that the file names")
        numbers[i] = int(label)
    values = numbers[codes]
    counts = np.bincount(values[values >= 0], minlength=len(columns.names))
    why = f"the file names {len(columns.names)} classes"
    note = f'label column "{column}": classification, {why}; {_counted(columns.names, counts)}'
    return Labels("classification", columns.names, values, (note,), values)


def _several_labels(
    columns: Columns, column: str, written: list[str], codes: np.ndarray, separator: str | None, fail
) -> Labels:
    """Read lists of labels, or texts in which `separator` stands between labels."""
    lists = []
    for number, cell in enumerate(written):
        labels = split_cell(cell, separator, bool(columns.several))
        if labels is None:
            fail(number, "is no list: separator=\";\" (--separator ';') says what stands between labels")
        lists.append(labels)
    why = f"since {columns.several}" if columns.several else "as you say"
    if not columns.names and separator is None and _are_marks(lists):
        lists = [[str(place) for place, mark in enumerate(marks) if mark.lower() in YES] for marks in lists]
        why = "since labels are lists of 0 and 1, for each label by its place"
    sets = [{*labels} for labels in lists]
    if len({frozenset(labels) for labels in sets}) < 2:
        raise KDTutorError(f'{columns.where[0][0]}: column "{column}" says the same of every text')

    found = [*dict.fromkeys(label for labels in lists for label in labels)]
    names = columns.names or tuple(found[i] for i in _sorted(found))
    number_of = {str(i) if columns.names else name: i for i, name in enumerate(names)}
    table = np.zeros((len(written) + 1, len(names)), np.float32)
    table[-1] = IGNORED
    for row, labels in enumerate(sets):
        if unknown := labels - number_of.keys():
            fail(row, f"{min(unknown)} is none of the {len(names)} that the file names")
        table[row, [number_of[label] for label in labels]] = 1

    values, labelled = table[codes], codes >= 0
    mean = values[labelled].sum() / labelled.sum()
    if _alone(columns, written):
        why += ' (each text has one: kind="classification", --kind classification, takes them as classes)'
    note = (
        f'label column "{column}": multi-label, {why}; {mean:.1f} of {len(names)} labels per text, '
        f"{int((values[labelled].sum(1) == 0).sum()):,} texts with none; "
        + _counted(names, values[labelled].sum(0).astype(int))
    )
    return Labels("multi-label", names, values, (note, *_alike([*names])), codes)


def _alone(columns: Columns, written: list[str]) -> bool:
    """Tell whether labels stand in lists of one each."""
    return bool(columns.several) and all(len(json.loads(cell)) == 1 for cell in written)


def _are_marks(lists: list[list[str]]) -> bool:
    """Tell whether lists say of each of several labels, by its place, whether a text has it: as long, of 0 and 1."""
    widths = {len(marks) for marks in lists}
    return len(widths) == 1 < max(widths) and {mark.lower() for marks in lists for mark in marks} <= {
        *YES,
        *NO,
    }


def split_cell(cell: str, separator: str | None, is_json: bool) -> list[str] | None:
    """Return the labels of one cell; None if it is neither a list nor to be split."""
    if separator is not None and not is_json:
        return [label.strip() for label in cell.split(separator) if label.strip()]
    try:
        found = json.loads(cell) if is_json else ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [*map(str, found)] if isinstance(found, (list, tuple, set)) else None


def _sorted(written: list[str]) -> list[int]:
    """Order labels: numbers by size, words by letters."""
    if all(map(_NUMBER.match, written)):
        return sorted(range(len(written)), key=lambda i: (float(written[i]), written[i]))
    return sorted(range(len(written)), key=written.__getitem__)


def _alike(written: list[str]) -> list[str]:
    """Name labels that differ only by case or blanks, by what nobody sees, or by how a number is written; and words
    that may stand for none."""
    notes, folded = [], {_folded(label): label for label in written}
    for key, among, how in (
        (_folded, written, "differ only by case or blanks"),
        (_seen, folded.values(), "can't be told apart by eye"),
        (_as_number, written, "differ only by notation"),
    ):
        groups = defaultdict(list)
        for label in among:
            groups[key(label)].append(label)
        alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
        if alike:
            notes.append(f"WARNING: labels that {how} are different classes: {_few(alike)}")
    for label in written:
        if _folded(label) in NOTHING:
            notes.append(
                f"WARNING: the class {label} may stand for a missing label: leave such cells empty if it does"
            )
    return notes


def _in_one(written: list[str]) -> list[str]:
    """Say that a label looks like several, of which one is a label by itself."""
    whole = {*written}
    for separator in ";|,":
        for label in written:
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and whole.intersection(parts) and not _NUMBER.match(label.replace(",", ".")):
                ways = f"separator={separator!r} (--separator '{separator}')"
                return [
                    f"WARNING: {label!r} is taken as one class: does it stand for several? {ways} reads them"
                ]
    return []


def as_numbers(names: Sequence[str]) -> str:
    """Say how labels are read as numbers, after a semicolon; nothing if they are words."""
    if not all(_NUMBER.match(name.replace(",", ".", 1)) for name in names):
        return ""
    point = ", to be written with a decimal point" if any("," in name for name in names) else ""
    return f'; or they are numbers{point}: kind="regression" (--kind regression)'


def otherwise(label: str, names: Iterable[str]) -> str:
    """Say how a label is written among others, after a semicolon; nothing if it isn't."""
    same = (n for n in names if any(key(n) == key(label) for key in (_folded, _seen, _as_number)))
    found = next(same, None)
    return "" if found is None else f'; "{label[:60]}" is "{found[:60]}" there'


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())


def _seen(label: str) -> str:
    """Return what is seen of a label: letters in one form, without those that have no width."""
    plain = unicodedata.normalize("NFKC", label)
    return _folded("".join(letter for letter in plain if unicodedata.category(letter) not in ("Cf", "Cc")))


def _as_number(label: str) -> object:
    return Decimal(label) if _NUMBER.match(label) else label  # not float: ids of 17 digits differ


def _before_row(columns: Columns, row: int, column: str) -> str:
    file, _, number = columns.place(row).rpartition(", row ")
    return f'{file}: column "{column}", row {number}'


def _counted(names, counts) -> str:
    listed = [f"{name[:60]} {count:,}" for name, count in zip(names, counts, strict=True)]
    return _few(listed)


def _few(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
