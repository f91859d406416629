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
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from kdtutor.assets import verified
from kdtutor.data.files import READERS, format_of, is_saved_dataset
from kdtutor.data.hub import hub_access, unavailable
from kdtutor.data.kinds import KINDS
from kdtutor.data.own import from_file, from_folder, from_object, from_parts, has_train
from kdtutor.data.packed import advice
from kdtutor.data.rows import ReadOptions, is_table
from kdtutor.data.task import Split, Task
from kdtutor.errors import SEED, SWITCH, TEXT, Check, KDTutorError, nearest, optional, several
from kdtutor.hardware import format_bytes, memory, within_memory

EMBEDDED = ("supersense", "sentiment", "valence", "glosses", "pronunciation")
#: Hub names a learner meets in the course: dataset path, configuration, text column(s), label column
#: and, where the Hub keeps the test labels secret, the split that plays the part of `test`.
HUB = {
    "sst2": ("nyu-mll/glue", "sst2", ("sentence",), "label", "validation"),
    "mrpc": ("nyu-mll/glue", "mrpc", ("sentence1", "sentence2"), "label", "test"),
    "cola": ("nyu-mll/glue", "cola", ("sentence",), "label", "validation"),
    "qnli": ("nyu-mll/glue", "qnli", ("question", "sentence"), "label", "validation"),
    "mnli": ("nyu-mll/glue", "mnli", ("premise", "hypothesis"), "label", "validation_matched"),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", ("text",), None, "test"),
    # Its second text is to be written.
    "opus_books": ("Helsinki-NLP/opus_books", "en-fr", ("translation.en", "translation.fr"), None, "test"),
}

TIMES = 3  # as much memory as a file has bytes
#: what the options of load_task may be
OPTIONS = {
    **dict.fromkeys(("text", "pair", "kind", "delimiter", "encoding", "separator", "quote"), optional(TEXT)),
    "label": optional(several(TEXT)),
    "stratify": SWITCH,
    "tokenizer": optional(
        Check("a name or a folder, as tokenizer.save_pretrained(folder) makes one", TEXT.keep)
    ),
    "seed": SEED,
}
MANY = 10_000  # files, or folders, that no data set in a folder has


def load_task(
    name: object,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | Sequence[str] | None = None,
    kind: str | None = None,
    stratify: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    quote: str | None = None,
    tokenizer: str | None = None,
    max_length: int = 128,
    seed: int = 0,
) -> Task:
    """Load a task by name (embedded or Hub), from a file or a folder of files, or from a Python object with rows.

    Files are CSV, TSV, JSON lines or arrays, also as .gz, .bz2, .xz or .zst, Parquet or Arrow; objects a DataFrame, a
    Dataset, a dict of columns, a list of dicts, of (text, label) or of texts. text, pair, label: their columns. A
    folder holds train.*, and validation.* and test.* or what `datasets` reads; a missing part is cut from train. With a
    task.json, as in those that ship, that says what the task is.

    One file is cut into train, validation and test, 80/10/10, by a hash of each text (at `seed`): a row keeps its part
    when the file grows. `stratify` cuts each class exactly instead. Labels are classes as they are written; numbers
    with fractions that hardly repeat are a regression, and `kind` ("classification", "regression") decides otherwise.
    A column of lists is a multi-label task, and so is one of texts in which `separator` stands between labels, as in
    "food;staff"; there an empty cell is unlabelled, and the separator alone means no label. Several label columns, as
    in label=("food", "staff"), say 0 or 1 of one label each. Rows without a label are trained on by what needs none.
    No label column: a masked-LM task, or, with kind="causal-lm", one of next tokens. With kind="seq2seq" the label is
    the text that is to be written. What was guessed or looks wrong is printed, and kept in `task.notes`. delimiter,
    encoding: of a text file, by default what fits; quote: what stands around its cells, '"' by default, or "none".

    tokenizer: a name or folder for `AutoTokenizer`; by default the course's own vocabulary. Texts are cut to
    `max_length` tokens; those of your own masked-LM task (WikiText's paragraphs, say) are split there, so none is lost.

    Raises KDTutorError, naming file, row and column: unknown name, missing column, empty text, one class, a label only
    in the test part, a corrupted asset, no network.
    """
    given = locals()
    for option, check in OPTIONS.items():
        check(option, given[option])
    if not isinstance(max_length, int) or max_length < 4:
        raise KDTutorError(
            f"max_length = {max_length}: [CLS] and [SEP] leave no room for a text; take 4 at least"
        )
    label = OPTIONS["label"].keep(label)
    options = ReadOptions(text, pair, label, delimiter, encoding, separator, quote)
    if kind in KINDS and KINDS[kind].writes:
        options = _of_two_texts(options, kind)
    with within_memory(
        str(name) if isinstance(name, (str, os.PathLike)) else "the rows", _what_would_fit(name)
    ):
        task = _load(name, options, kind, stratify, seed)
    if task.notes and os.environ.get("RANK", "0") == "0":
        print("\n  ".join(task.notes), flush=True)
    return replace(
        task,
        tokenizer_name=tokenizer or task.tokenizer_name,
        max_length=min(max_length, task.max_length if task.tokenizer_name else max_length),
    )


def _what_would_fit(name: object) -> str:
    """Say how much of a file finds room as a task: it takes about three times as much (benchmarks/loading.py)."""
    if not isinstance(name, (str, os.PathLike)) or not os.path.isfile(name):
        return "Take fewer rows"
    size = format_bytes(os.path.getsize(name))
    most = format_bytes(memory()[1] / TIMES)
    return (
        f"The file has {size}; unpacked, one of about {most} would fit, since rows take {TIMES} times as much"
    )


def _of_two_texts(options: ReadOptions, kind: str) -> ReadOptions:
    """Make the column that is to be written the second text."""
    both = options.text is None or options.label is not None
    if options.pair is not None or isinstance(options.label, tuple) or not both:
        raise KDTutorError(
            f'kind = "{kind}" reads one column and writes another: text="…", label="…" name them'
        )
    return replace(options, pair=options.label, label=None)


def _load(name: object, options: ReadOptions, kind: str | None, stratify: bool, seed: int) -> Task:
    if not isinstance(name, (str, os.PathLike)):
        if not is_table(name):
            raise KDTutorError(
                f"a task is a name, a file or rows, not a {type(name).__name__}; texts and labels apart are "
                "list(zip(texts, labels))"
            )
        return from_object(name, options, kind, stratify, seed)

    if "://" in str(name):
        raise KDTutorError(f"{name} is an address: download it, and name the file")
    path = Path(os.path.expanduser(name))
    if any(len(os.fsencode(part)) > 255 for part in path.parts) or "\0" in str(name):
        raise KDTutorError(f"{str(name)[:60]!r}… can't be the name of a file")
    if str(name) in EMBEDDED:
        return _as_kind(_load_embedded(str(name)), kind)
    if (path / "task.json").is_file():
        return _as_kind(_load_with_card(path), kind)
    if str(name) in HUB:
        return _load_hub(str(name), options, kind, stratify)
    if path.is_dir() and (is_saved_dataset(path) or has_train(path)):
        return from_folder(path, options, kind, stratify, seed)
    if format_of(path):
        return from_file(path, options, kind, stratify, seed)
    if path.is_file():
        kinds = f"{', '.join(READERS)}, not as {path.suffix or 'this'}"
        raise KDTutorError(f"{path}: files are read as {kinds}{advice(path.suffix)}")
    place = os.path.expanduser(name)  # not the path's own spelling: ./sst2 is a folder, and sst2 the Hub's
    if not os.path.isdir(_place_of(place)[0]) and str(name).startswith((".", "~", os.sep)):
        raise KDTutorError(f"there is no file or folder {path.absolute()}")
    return _load_hub(place, options, kind, stratify)


def _place_of(name: str) -> tuple[str, str]:
    """Cut "owner/dataset:configuration", or "folder:configuration", in two; without a configuration that is empty."""
    if ":" not in name or os.path.isdir(name):
        return name, ""
    place, _, configuration = name.rpartition(":")
    return place, configuration


def as_task(task: Task | str | os.PathLike) -> Task:
    """Return the task itself, or load the one of that name."""
    if isinstance(task, (str, os.PathLike)):
        return load_task(task)
    if not isinstance(task, Task):
        raise KDTutorError(f"the task is a {type(task).__name__}, not a Task or the name of one")
    return task


def _as_kind(task: Task, kind: str | None) -> Task:
    """Read a task that says its kind itself as another one: raw text is for masked and for causal LMs."""
    if kind in (None, task.kind):
        return task
    if {kind, task.kind} != {"masked-lm", "causal-lm"}:
        raise KDTutorError(f'"{task.name}" is a {task.kind} task, and can\'t be read as a {kind} task')
    return replace(task, kind=kind)


@cache
def _load_embedded(name: str) -> Task:
    return _load_with_card(verified(f"data/{name}"))


def _load_with_card(folder: Path) -> Task:
    """Load a task as they ship: `task.json` says its kind, its classes and its splits, each a Parquet file."""
    import pyarrow.parquet as parquet

    about = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    kind, splits = about["kind"], {}
    for split in about["splits"]:
        # Neither read_table nor to_numpy: they import pandas, 40 MB more in every notebook.
        with parquet.ParquetFile(folder / f"{split}.parquet") as file:
            table = file.read()
        targets = None
        if "label" in table.column_names:
            targets = torch.tensor(table["label"].to_pylist(), dtype=KINDS[kind].dtype)
        domains = table["domain"].to_pylist() if "domain" in table.column_names else None
        columns = [table[name].to_pylist() for name in ("text", "target") if name in table.column_names]
        splits[split] = Split(tuple(columns), targets, domains)
    labels = ("value",) if kind == "regression" else tuple(about["labels"])
    # What is no text in words has a tokenizer of its own.
    own = {"tokenizer_name": str(folder), "max_length": about["max_length"]} if about.get("tokenizer") else {}
    return Task(about["name"], kind, labels, splits, description=about["description"], **own)


def _load_hub(name: str, options: ReadOptions, kind: str | None, stratify: bool) -> Task:
    """Load a task by a short name of HUB, as "owner/dataset" or from a folder, either with ":configuration" behind.

    Examples whose class is hidden (-1, as in GLUE's test parts) are left out. Without a validation part, or if that
    plays the test, 5 % of train (2,000 at most) become the validation part; of a folder, or where there is nothing but
    train, what is missing is cut as from a file.
    """
    place, configuration = _place_of(name)
    folder = os.path.isdir(place)
    if name in HUB:
        path, configuration, texts, label, test = HUB[name]
        options = ReadOptions(texts[0], texts[1] if len(texts) > 1 else None, label)
        kind = kind or ("seq2seq" if len(texts) > 1 and label is None else None)
    elif folder or "/" in name or options.text is not None:
        path, test = os.path.abspath(place) if folder else place, "test"
    else:
        raise KDTutorError(
            nearest("task", name, [*EMBEDDED, *HUB]) + ' (or a file, or "owner/dataset" with text="…")'
        )
    if (
        folder
        and sum(len(files) for _, (_, _, files) in zip(range(MANY), os.walk(path), strict=False)) > MANY
    ):
        raise KDTutorError(f"the folder {path} holds more than {MANY:,} files: is it a data set?")
    raw = _fetch(name, path, configuration)
    if folder or {*raw} == {"train"}:
        # As of most collections of translations: what is missing is cut from it, by a hash of each text.
        return from_parts(raw, options, Path(name).name if folder else name, kind, stratify, of_others=True)
    for split in ("train", test):
        if split not in raw:
            raise KDTutorError(nearest(f"split of {name}", split, raw))

    # Without a validation part, or where that plays the test, some of train is held out.
    parts = {"train": raw["train"], "validation": raw.get("validation"), "test": raw[test]}
    if parts["validation"] is None or test != "test":
        share = min(0.05, 2000 / len(raw["train"]))
        held = raw["train"].train_test_split(test_size=share, seed=0)
        parts |= {"train": held["train"], "validation": held["test"]}
    task = from_parts(parts, options, name, kind, stratify, of_others=True)
    return replace(task, notes=()) if name in HUB else task


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
        if listed := re.search(r"(?:configs|Available): \[(.+)\]", str(error)):
            there = re.findall(r"'([^']+)'", listed[1])
            whose = _place_of(name)[0]
            wrong = nearest(f"configuration of {whose}", configuration, there)
            raise KDTutorError(f'{wrong}; name one, as in "{whose}:{there[0]}"') from error
        raise KDTutorError(unavailable("task", name, error)) from error
