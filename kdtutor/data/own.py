"""Tasks of your own data: a file, a folder of files, rows in Python; and what is said about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from kdtutor.data import parts as cutting
from kdtutor.data.columns import Columns, columns_of, joined
from kdtutor.data.files import READERS, format_of, is_saved_dataset, read_file, saved_dataset
from kdtutor.data.kinds import KINDS
from kdtutor.data.labels import SHOWN, Labels, as_numbers, otherwise, read_labels
from kdtutor.data.packed import PACKED
from kdtutor.data.parts import SPLITS, STRATIFY, TRAIN
from kdtutor.data.rows import ReadOptions, is_table, read_object
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError, nearest

#: Kinds of raw text, the first one where none is named.
RAW = ("masked-lm", "causal-lm")
#: What parts, and the files of a folder, may be called.
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}


def from_file(path: Path, options: ReadOptions, kind: str | None, stratify: bool, seed: int) -> Task:
    """Make a task of one file, which is cut into three parts."""
    columns = columns_of(read_file(path, options), options, str(path))
    return _task(path.name.split(".")[0] or path.name, {"train": columns}, options, kind, stratify, seed)


def from_folder(folder: Path, options: ReadOptions, kind: str | None, stratify: bool, seed: int) -> Task:
    """Make a task of a folder with a file for each part, or of what `save_to_disk` wrote."""
    name = folder.resolve().name
    if is_saved_dataset(folder):
        return replace(
            from_object(saved_dataset(folder), options, kind, stratify, seed, str(folder)), name=name
        )
    files = {split: _file_of(folder, split) for split in SPLITS}
    if files["train"] is None:
        raise KDTutorError(f"folder {folder} lacks a train file (as one of {', '.join(READERS)})")
    parts = {}
    for split, file in files.items():
        if file is not None:
            parts[split] = _part(
                lambda options, file=file: read_file(file, options), split, options, str(file)
            )
    others = [
        path.name for path in sorted(folder.iterdir()) if format_of(path) and path not in files.values()
    ]
    parts["train"].notes += _left_out(others)
    return _task(name, parts, options, kind, stratify, seed)


def from_object(
    value: Any, options: ReadOptions, kind: str | None, stratify: bool, seed: int, where: str = "your rows"
) -> Task:
    """Make a task of rows in Python, or of several such by the names of their parts."""
    if _has_parts(value):
        return from_parts(value, options, where, kind, stratify, seed)
    if (
        options.text is None
        and isinstance(value, (list, tuple))
        and value
        and not isinstance(value[0], Mapping)
    ):
        second = None if isinstance(value[0], str) else "label"
        purpose = "pair" if kind in KINDS and KINDS[kind].writes else "label"
        options = replace(options, text="text", **{purpose: second})
    columns = columns_of(read_object(value, options, where), options, where)
    return _task("own", {"train": columns}, options, kind, stratify, seed)


def _has_parts(value: Any) -> bool:
    """Tell whether rows stand in parts by name, rather than in columns."""
    return isinstance(value, Mapping) and any(
        is_table(part) and not isinstance(part, (list, tuple)) for part in value.values()
    )


def from_parts(
    tables: Mapping[str, Any], options: ReadOptions, name: str, kind: str | None, stratify: bool, seed: int = 0,
    of_others: bool = False,
) -> Task:  # fmt: skip
    """Make a task of tables for each part. of_others: headings and hidden labels are left out, as the Hub has them."""
    parts, found = {}, {split: _named(split, tables) for split in SPLITS}
    if found["train"] is None:
        raise KDTutorError(nearest(f"part of {name}", "train", tables))
    for split, given in found.items():
        if given is None:
            continue
        where = f"{name}, {split} part"
        table = tables[given]
        columns = _part(
            lambda options, t=table: read_object(t, options, name), split, options, where, of_others
        )
        parts[split] = _usable(columns, split, name) if of_others else columns
    parts["train"].notes += _left_out([str(part) for part in tables if part not in found.values()])
    return _task(name, parts, options, kind, stratify, seed)


def _named(split: str, names: Iterable[str]) -> str | None:
    """Find what a part is called; the names in the order of PARTS."""
    return next((name for part in PARTS[split] for name in names if str(name).lower() == part), None)


def _left_out(names: list[str]) -> list[str]:
    return [f"left out, since they are no parts: {', '.join(names[:SHOWN])}"] if names else []


def has_train(folder: Path) -> bool:
    """Tell whether a folder has a file for the train part."""
    return any(
        path.stem.split(".")[0].lower() in PARTS["train"] for path in folder.iterdir() if path.is_file()
    )


def _file_of(folder: Path, split: str) -> Path | None:
    """Find the file of a part; the formats in the order of READERS, and zipped ones last."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.split(".")[0].lower() in PARTS[split] and path.is_file() and format_of(path)
    ]
    return min(
        found, key=lambda path: (path.suffix in PACKED, [*READERS].index(format_of(path))), default=None
    )


def _part(read, split: str, options: ReadOptions, where: str, blank: bool = False) -> Columns:
    """Read one part; a test part may lack the column of labels."""
    try:
        return columns_of(read(options), options, where, blank)
    except KDTutorError as error:
        if split != "test" or not any(f'"{label}"; there are' in str(error) for label in options.labels):
            raise
        columns = columns_of(read(replace(options, label=None)), replace(options, label=None), where, blank)
        columns.labels = pa.nulls(len(columns), pa.string())
        return columns


def _usable(columns: Columns, split: str, name: str) -> Columns:
    """Leave out headings and blank lines of raw text, and rows whose label is hidden."""
    if columns.labels is None and len(columns.texts) == 1:
        keep = [row for row, text in enumerate(columns.texts[0]) if len(text.split()) > 3]
        why = "it is empty"
    elif columns.labels is not None and columns.names:
        shown = pc.fill_null(pc.not_equal(columns.labels, "-1"), False)
        keep = np.flatnonzero(shown.to_numpy(zero_copy_only=False)).tolist()
        why = "every label is hidden (-1)"
    else:
        return columns
    if not keep:
        raise KDTutorError(f"the {split} part of {name} can't be used: {why}")
    return _rows(columns, np.array(keep))


def _rows(columns: Columns, keep: np.ndarray) -> Columns:
    if len(keep) == len(columns):
        return columns
    rows = keep.tolist()
    texts = tuple([column[row] for row in rows] for column in columns.texts)
    labels = None if columns.labels is None else columns.labels.take(pa.array(keep))
    by = None if columns.by_teacher is None else columns.by_teacher[keep]
    return replace(columns, texts=texts, labels=labels, by_teacher=by)


# ------------------------------------------------------------------------------------------- the task


def _task(
    name: str, given: dict[str, Columns], options: ReadOptions, kind: str | None, stratify: bool, seed: int
) -> Task:
    """Cut what is not given, read the labels, and say what was found."""
    writes = kind in KINDS and KINDS[kind].writes
    if kind is not None and (options.label is None) != (writes or kind in RAW):
        raise KDTutorError(
            f'kind = "{kind}": classes and numbers need a label column, {" and ".join(RAW)} have none'
        )
    pa.default_memory_pool().release_unused()  # the tables are gone
    given, notes = _without_unlabelled_test(given) if options.label else (given, [])

    held_out = tuple(number for number, split in enumerate(SPLITS) if split not in given)
    columns, label = joined([*given.values()]), ", ".join(options.labels)
    labels = None if options.label is None else read_labels(columns, label, kind, options.separator)
    part = np.concatenate([np.full(len(rows), SPLITS.index(split)) for split, rows in given.items()])
    classes = labels.codes if labels else None

    # Of a text with several answers all are in one part.
    keys = cutting.text_keys(columns.texts[:1] if writes else columns.texts, seed)
    notes += cutting.duplicates(keys, classes, columns)
    # A rank correlation needs two values.
    fewest = 2 if labels and labels.kind == "regression" else 1
    if labels and labels.kind == "multi-label":
        classes = np.minimum(classes, 0)  # combinations of labels are too many to be cut each by itself
    if held_out:
        part, more = _cut(part, keys, classes, held_out, fewest if stratify else 0, columns.by_teacher)
        notes += more
        taught = 0 if columns.by_teacher is None else int(columns.by_teacher.sum())
        cutting.check_large_enough(part, keys, columns.where[0][0], fewest, stratify, taught)
    notes += cutting.overlaps(keys, part) if len(given) > 1 else []
    notes += [] if columns.by_teacher is None else cutting.taught(columns.by_teacher, part)
    if labels:
        by_hash = () if stratify else held_out
        notes += _check_classes(columns, label, labels, part, by_hash) if labels.codes is not None else []

    title = _title(columns, part, held_out, stratify)
    notes = [title, *columns.notes, *(labels.notes if labels else ()), *notes]
    return _assembled(name, kind, columns, labels, part, notes)


def _without_unlabelled_test(given: dict[str, Columns]) -> tuple[dict[str, Columns], list[str]]:
    """Leave out a test part without any label, which measures nothing, and say so."""
    test = given.get("test")
    if test is None or test.labels.null_count < len(test):
        return given, []
    note = f"{test.where[0][0]} has no labels: it measures nothing, and is left out"
    return {split: columns for split, columns in given.items() if split != "test"}, [note]


def _title(columns: Columns, part: np.ndarray, held_out: tuple[int, ...], stratify: bool) -> str:
    """Tell how many rows there are, how many in each part, and how the parts were cut."""
    sizes = ", ".join(f"{split} {int((part == number).sum()):,}" for number, split in enumerate(SPLITS))
    told = f"{os.path.basename(columns.where[0][0])}: {len(columns):,} rows, {sizes}"
    if not held_out:
        return told
    what = " and ".join(SPLITS[number] for number in held_out)
    by = (
        "exactly, class by class"
        if stratify
        else "by a hash of each text, so a row keeps its part when the file grows"
    )
    return f"{told} ({what} cut from it {by})"


def _cut(
    part: np.ndarray, keys: np.ndarray, classes: np.ndarray | None, held_out: tuple[int, ...], fewest: int,
    by_teacher: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Cut the parts that are not given from the rows of train with a label of their own; the others are trained on.

    fewest: texts that a class has at least in a part held out, in a stratified cut; 0 for one by hash.
    """
    part, rows = part.copy(), np.flatnonzero(part == TRAIN)
    unlabelled = np.zeros(len(part), bool) if classes is None else classes < 0
    if by_teacher is not None:
        unlabelled |= by_teacher
    labelled = rows[~unlabelled[rows]]
    if fewest:
        own = None if classes is None else classes[labelled]
        part[labelled] = cutting.stratified(keys[labelled], own, held_out, fewest)
    else:
        part[labelled] = cutting.cut(keys[labelled], held_out)
    # An unlabelled row whose text is measured on teaches nothing else.
    seen = unlabelled & (part == TRAIN) & np.isin(keys, keys[part != TRAIN])
    part[seen] = -1
    return part, [
        f"{int(seen.sum()):,} rows without a label of their own left out: they repeat texts to measure on"
    ] if seen.any() else []


def _cure(split: int, by_hash: tuple[int, ...]) -> str:
    ways = [f"{STRATIFY} cuts each class by itself"] if split in by_hash else []
    return "; or ".join([*ways, "add examples of them, or leave them out"])


def _check_classes(
    columns: Columns, column: str, labels: Labels, part: np.ndarray, by_hash: tuple[int, ...]
) -> list[str]:
    """Count classes in each part; refuse what can't be learned, name what can't be measured, with a cure.

    by_hash: the parts that were cut by a hash.
    """
    where, values, several = columns.where[0][0], labels.codes, labels.kind == "multi-label"
    counts = _counts(labels, part)
    if not several and (total := counts.sum(0) > 0).sum() < 2:
        only = f'one class only ("{labels.names[int(total.argmax())]}")'
        raise KDTutorError(f'{where}: column "{column}" has {only}; there is nothing to learn')
    for p in range(1, 3):
        if len(unseen := np.flatnonzero((counts[TRAIN] == 0) & (counts[p] > 0))) and not several:
            listed = ", ".join(f'"{labels.names[i][:60]}"' for i in unseen[:SHOWN])
            trained = [labels.names[i] for i in np.flatnonzero(counts[TRAIN])]
            first = int(np.flatnonzero((part == p) & (values == unseen[0]))[0])
            raise KDTutorError(
                f'{columns.place(first)}: column "{column}": the {SPLITS[p]} part has labels never seen in training '
                f"({listed}){otherwise(labels.names[unseen[0]], trained)}; {_cure(p, by_hash)}"
                f"{as_numbers(labels.names)}"
            )
        if len(missing := np.flatnonzero(values[part == p] < 0)):
            row = int(np.flatnonzero(part == p)[missing[0]])
            raise KDTutorError(
                f'{columns.place(row)}: column "{column}": the label is missing, and {SPLITS[p]} is to measure on'
            )

    return _notes_on_classes(labels, part, counts, by_hash)


def _counts(labels: Labels, part: np.ndarray) -> np.ndarray:
    """Count each class, or each label, in train, validation and test: (3, C)."""
    if labels.kind == "multi-label":
        return np.stack([(labels.values[part == p] > 0).sum(0) for p in range(3)])
    rows = [(part == p) & (labels.codes >= 0) for p in range(3)]
    return np.stack([np.bincount(labels.codes[chosen], minlength=len(labels.names)) for chosen in rows])


def _notes_on_classes(
    labels: Labels, part: np.ndarray, counts: np.ndarray, by_hash: tuple[int, ...]
) -> list[str]:
    """Say how many texts a class has (counts, (3, C)), and what can't be learned or measured."""
    notes, several = [], labels.kind == "multi-label"
    if hidden := int(((labels.codes < 0) & (part == TRAIN)).sum()):
        have = "1 row has" if hidden == 1 else f"{hidden:,} rows have"
        notes.append(f"{have} no label: trained on by what needs none, a teacher's soft targets")
    if len(labels.names) <= SHOWN:
        for p, split in enumerate(SPLITS):
            listed = ", ".join(f"{n[:60]} {c:,}" for n, c in zip(labels.names, counts[p], strict=True))
            notes.append(f"{split}: {listed}")
    if several and len(absent := np.flatnonzero(counts[TRAIN] == 0)):
        listed = ", ".join(labels.names[i][:60] for i in absent[:SHOWN])
        notes.append(f"WARNING: no training text has the label {listed}: it can't be learned")
    for p in range(1, 3):
        if len(absent := np.flatnonzero((counts[p] == 0) & (counts[TRAIN] > 0))):
            listed = ", ".join(labels.names[i][:60] for i in absent[:SHOWN])
            way_out = "" if several else f"; {_cure(p, by_hash)}"
            notes.append(f"WARNING: the {SPLITS[p]} part has no example of {listed}{way_out}")
    return notes


def _assembled(
    name: str, kind: str | None, columns: Columns, labels: Labels | None, part: np.ndarray, notes: list[str]
) -> Task:
    splits = {}
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(part == number)
        texts = tuple([column[row] for row in rows.tolist()] for column in columns.texts)
        targets = None
        if labels is not None:
            targets = torch.from_numpy(labels.values[rows])
            if labels.kind == "classification":
                targets[targets < 0] = IGNORED
        splits[split] = Split(texts, targets)
    if labels is None:
        kind = kind or RAW[0]
        return Task(name, kind, (), splits, splits_long=kind in RAW, notes=tuple(notes))
    return Task(name, labels.kind, labels.names, splits, notes=tuple(notes))
