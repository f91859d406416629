"""Tasks and text: embedded, from your own file, or from the Hub, behind one interface.

    task  = load_task("supersense")                       # ships with the package, no network
    task  = load_task("sst2")                             # the same path, from the Hub
    task  = load_task("mine.csv", text="review", label="stars")
    batch = task.encode("train").batch(torch.tensor([3, 1, 4]))

A `Task` is texts and targets in fixed splits; `Encoded` is the same as token ids, kept *ragged* (one flat array and
offsets) so that a batch is padded only to its own longest text.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from kdtutor.assets import verified
from kdtutor.data.hub import hub_access, unavailable
from kdtutor.data.kinds import KINDS
from kdtutor.data.task import Split, Task, random_order
from kdtutor.errors import KDTutorError, nearest

SPLITS = ("train", "validation", "test")
EMBEDDED = ("supersense", "sentiment", "valence", "glosses")
#: Hub names a learner meets in the course: dataset path, configuration, text column(s), label column
#: and, where the Hub keeps the test labels secret, the split that plays the part of `test`.
HUB = {
    "sst2": ("nyu-mll/glue", "sst2", ("sentence",), "label", "validation"),
    "mrpc": ("nyu-mll/glue", "mrpc", ("sentence1", "sentence2"), "label", "test"),
    "cola": ("nyu-mll/glue", "cola", ("sentence",), "label", "validation"),
    "qnli": ("nyu-mll/glue", "qnli", ("question", "sentence"), "label", "validation"),
    "mnli": ("nyu-mll/glue", "mnli", ("premise", "hypothesis"), "label", "validation_matched"),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", ("text",), None, "test"),
}


def load_task(
    name: str | os.PathLike,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    tokenizer: str | None = None,
    max_length: int = 128,
    seed: int = 0,
) -> Task:
    """Load a task by name (embedded or Hub), from a file (CSV, JSON lines, Parquet), or from a folder of such files.

    text, pair, label: column names of your own file. A file is cut 80/10/10 into train, validation and test at
    `seed`; a folder holds train.*, validation.* and test.*, or what `datasets.load_dataset` reads. No label column:
    a masked-LM task. Numbers with a fraction: regression; any other labels are classes.
    tokenizer: a name or folder for `AutoTokenizer`; by default the course's own vocabulary. Texts are cut to
    `max_length` tokens; those of your own masked-LM task (WikiText's paragraphs, say) are split there, so none is lost.

    Raises KDTutorError, naming the culprit: unknown name, missing column, empty text, one class, a label only in the
    test part, a corrupted asset, no network.
    """
    if max_length < 4:
        raise KDTutorError(
            f"max_length = {max_length}: [CLS] and [SEP] leave no room for a text; take 4 at least"
        )
    path = Path(name).expanduser()
    if str(name) in EMBEDDED:
        task = _load_embedded(str(name))
    elif str(name) in HUB:
        task = _load_hub(str(name), text, pair, label)
    elif path.suffix.lower() in _READERS or any((path / f"train{suffix}").is_file() for suffix in _READERS):
        task = _load_files(path, text, pair, label, seed)
    elif path.is_file():
        raise KDTutorError(f"{path}: files are read as {', '.join(_READERS)}, not as {path.suffix or 'this'}")
    elif not path.is_dir() and str(name).startswith((".", "~", os.sep)):
        raise KDTutorError(f"there is no file or folder {path.absolute()}")
    else:
        task = _load_hub(str(path), text, pair, label)
    return replace(task, tokenizer_name=tokenizer, max_length=max_length)


def as_task(task: Task | str | os.PathLike) -> Task:
    """Return the task itself, or load the one of that name."""
    if isinstance(task, (str, os.PathLike)):
        return load_task(task)
    if not isinstance(task, Task):
        raise KDTutorError(f"the task is a {type(task).__name__}, not a Task or the name of one")
    return task


@cache
def _load_embedded(name: str) -> Task:
    import pyarrow.parquet as parquet

    about = json.loads(verified(f"data/{name}/task.json").read_text(encoding="utf-8"))
    kind, splits = about["kind"], {}
    for split in SPLITS:
        table = parquet.read_table(verified(f"data/{name}/{split}.parquet"))
        targets = None
        if "label" in table.column_names:
            targets = torch.tensor(table["label"].to_numpy(), dtype=KINDS[kind].dtype)
        domains = table["domain"].to_pylist() if "domain" in table.column_names else None
        splits[split] = Split((table["text"].to_pylist(),), targets, domains)
    labels = ("value",) if kind == "regression" else tuple(about["labels"])
    return Task(name, kind, labels, splits, description=about["description"])


def _read_csv(path: Path):
    from pyarrow import csv

    return csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True))


def _read_json(path: Path):
    from pyarrow import json as arrow_json

    return arrow_json.read_json(path, parse_options=arrow_json.ParseOptions(newlines_in_values=True))


def _read_parquet(path: Path):
    from pyarrow import parquet

    return parquet.read_table(path)


_READERS = {".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json, ".parquet": _read_parquet}


def _load_files(path: Path, text, pair, label, seed: int) -> Task:
    if path.is_dir():
        files = {s: next((f for e in _READERS if (f := path / f"{s}{e}").is_file()), None) for s in SPLITS}
        if missing := [split for split, file in files.items() if file is None]:
            raise KDTutorError(
                f"folder {path} lacks {', '.join(missing)} (each as one of {', '.join(_READERS)})"
            )
        return _assemble(
            path.resolve().name, {s: _read(f, text, pair, label) for s, f in files.items()}, label, where=path
        )
    columns = _read(path, text, pair, label)
    n = len(columns[text])
    train, validation, test = random_order(n, seed).tensor_split([int(0.8 * n), int(0.9 * n)])
    rows = {"train": train.tolist(), "validation": validation.tolist(), "test": test.tolist()}
    if not all(rows.values()):
        raise KDTutorError(
            f"{path} has {n} rows, too few to be cut into train, validation and test; 10 will do"
        )
    parts = {s: {c: [values[i] for i in sorted(rows[s])] for c, values in columns.items()} for s in SPLITS}
    return _assemble(path.stem, parts, label, where=path)


def _read(path: Path, text, pair, label) -> dict[str, list]:
    """Read the named columns of one file, and check every row."""
    if not path.is_file():
        raise KDTutorError(f"there is no file {path} (looked in {path.absolute().parent})")
    try:
        table = _READERS[path.suffix.lower()](path)
    # pyarrow raises several types; all mean the same to the reader.
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise KDTutorError(f"{path} can't be read as {path.suffix[1:]} (UTF-8): {reason}") from error
    _check_columns(table.column_names, path, text, pair, label)
    columns = {c: table[c].to_pylist() for c in (text, pair, label) if c}
    if not columns[text]:
        raise KDTutorError(f"{path} has no rows")
    _check_rows(columns, path, label)
    return columns


def _check_columns(names: Sequence[str], where, text, pair, label) -> None:
    if text is None:
        listing = ", ".join(f'"{name}"' for name in names)
        raise KDTutorError(f'{where}: which column holds the text? Say text="…"; its columns are {listing}')
    for column in (text, pair, label):
        if column is not None and column not in names:
            raise KDTutorError(nearest(f"column of {where}", column, names))
        if names.count(column) > 1:
            raise KDTutorError(f'{where} has {names.count(column)} columns named "{column}"')


def _check_rows(columns: dict[str, list], where, label, blank: bool = False) -> None:
    """Refuse the first row without a text (unless it may be `blank`) or label. Row 1 stands below the header."""
    for column, values in columns.items():
        what = "text is empty, or not a text"
        if column == label:
            what = "label is missing, or neither text nor a number"
        for row, value in enumerate(values, 1):
            if isinstance(value, str):
                good = value.strip() or (blank and column != label)
            else:
                good = column == label and isinstance(value, (int, float)) and math.isfinite(value)
            if not good:
                raise KDTutorError(f'{where}: column "{column}", row {row}: the {what} ({str(value)[:40]!r})')


def _assemble(name: str, columns: dict[str, dict[str, list]], label, where, names=None) -> Task:
    """Make a task of each split's columns; the labels decide its kind. `names`: the classes that integers number."""
    texts = {s: tuple(values for c, values in part.items() if c != label) for s, part in columns.items()}
    if label is None:
        splits = {s: Split(t, None) for s, t in texts.items()}
        return Task(name, "masked-lm", (), splits, splits_long=True)

    # Numbers, some with a fraction: a regression.
    values = {s: part[label] for s, part in columns.items()}
    kinds = {type(value) for part in values.values() for value in part}
    if kinds <= {int, float} and not all(float(v).is_integer() for part in values.values() for v in part):
        targets = {s: torch.tensor(part, dtype=torch.float32) for s, part in values.items()}
        return Task(name, "regression", ("value",), {s: Split(texts[s], targets[s]) for s in texts})

    # Anything else is a class. pandas writes integers as 1.0, 2.0 when a row was missing once.
    if float in kinds:
        values = {s: [int(v) if isinstance(v, float) else v for v in part] for s, part in values.items()}
    seen = set(values["train"])
    if len(seen) < 2:
        only = f'one class only ("{next(iter(seen))}")'
        raise KDTutorError(f'{where}: column "{label}" has {only}; there is nothing to learn')
    for split, part in values.items():
        if unseen := set(part) - seen:
            listing = ", ".join(f'"{value}"' for value in sorted(map(str, unseen)))
            raise KDTutorError(
                f'{where}: column "{label}": the {split} part has labels never seen in training ({listing}); '
                "add examples of them or leave them out"
            )

    classes = range(len(names)) if names else sorted(seen)
    number = {value: i for i, value in enumerate(classes)}
    targets = {s: torch.tensor([number[v] for v in part]) for s, part in values.items()}
    splits = {s: Split(texts[s], targets[s]) for s in texts}
    return Task(name, "classification", tuple(names or map(str, classes)), splits)


def _load_hub(name: str, text, pair, label) -> Task:
    """Load a task by a short name of HUB, as "owner/dataset" or "owner/dataset:configuration", or from a folder.

    Examples whose class is hidden (-1, as in GLUE's test parts) are left out. Without a validation part, or if that
    plays the test, 5 % of train (2,000 at most) become the validation part.
    """
    folder = Path(name).is_dir()
    if name in HUB:
        path, configuration, texts, label, test = HUB[name]
        text, pair = texts[0], texts[1] if len(texts) > 1 else None
    elif folder or "/" in name or text is not None:
        path, _, configuration = (os.path.abspath(name), "", "") if folder else name.partition(":")
        test = "test"
    else:
        raise KDTutorError(
            nearest("task", name, [*EMBEDDED, *HUB]) + ' (or a file, or "owner/dataset" with text="…")'
        )
    raw = _fetch(name, path, configuration)
    for split in ("train", test):
        if split not in raw:
            raise KDTutorError(nearest(f"split of {name}", split, raw))
    _check_columns(raw["train"].column_names, name, text, pair, label)

    # Without a validation part, or where that plays the test, some of train is held out.
    parts = {"train": raw["train"], "validation": raw.get("validation"), "test": raw[test]}
    if parts["validation"] is None or test != "test":
        share = min(0.05, 2000 / len(raw["train"]))
        held = raw["train"].train_test_split(test_size=share, seed=0)
        parts |= {"train": held["train"], "validation": held["test"]}

    # Rows that can't be used are left out: blank lines and headings of raw text, hidden labels.
    names = getattr(raw["train"].features.get(label), "names", None) if label else None
    columns = {}
    for split, part in parts.items():
        columns[split] = {c: part[c][:] for c in (text, pair, label) if c}
        if label is None:
            columns[split] = {text: [t for t in columns[split][text] if len(t.split()) > 3]}
        elif names:
            keep = [i for i, value in enumerate(columns[split][label]) if value not in (None, -1)]
            columns[split] = {c: [values[i] for i in keep] for c, values in columns[split].items()}
        if not columns[split][text]:
            why = "every label is hidden (-1)" if names and len(part) else "it is empty"
            raise KDTutorError(f"the {split} part of {name} can't be used: {why}")
        _check_rows(columns[split], f"{name}, {split} part", label, blank=True)
    return _assemble(Path(name).name if folder else name, columns, label, name, names)


def _fetch(name: str, path: str, configuration: str):
    """Read a data set with the datasets library, from the Hub, its cache or a folder."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise KDTutorError("tasks from the Hub need the datasets package: pip install datasets") from error
    try:
        with hub_access(path):
            return load_dataset(path, configuration or None)
    # No network, an unknown or a gated name: datasets raises a different type for each.
    except Exception as error:
        raise KDTutorError(unavailable("task", name, error)) from error
