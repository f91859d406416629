"""Tasks that are kept: a folder with a card, a Parquet file for each split, and the tokenizer where it has its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from kdtutor.data.task import Split, Task
from kdtutor.errors import KDTutorError

COLUMNS = ("text", "target")  # what is read, and what is to be written


def save_task(task: Task, folder: str | os.PathLike) -> Path:
    """Write a task to a new folder, whole or not at all; `load_task(folder)` brings it back. Returns the folder.

    Raises KDTutorError if there is such a folder already, or for targets of several numbers per text.
    """
    folder = Path(os.path.expanduser(folder))
    if folder.exists():
        raise KDTutorError(f"{folder} exists already: name a new folder")
    tables = {name: _table(task, name) for name in task.split_names}
    own = task.tokenizer_name is not None
    card = {
        "name": task.name,
        "kind": task.kind,
        "labels": [*task.labels],
        "description": task.description,
        "splits": {name: len(task.split(name)) for name in task.split_names},
        "tokenizer": own,
        "max_length": task.max_length,
    }
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, table in tables.items():
            parquet.write_table(table, partial / f"{name}.parquet")
        if own:
            task.tokenizer.save_pretrained(partial)
        (partial / "task.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, folder)
    except OSError as error:
        raise KDTutorError(f"{task.name} can't be kept in {folder}: {error}") from error
    return folder


def _table(task: Task, name: str) -> pa.Table:
    split: Split = task.split(name)
    if split.targets is not None and split.targets.dim() > 1:
        raise KDTutorError(f"{task.name} has several targets per text, and only tasks with one can be kept")
    if len(split.texts) > 1 and not task.rules.writes:
        raise KDTutorError(f"{task.name} has pairs of texts, and only tasks with one text each can be kept")
    columns: dict[str, Any] = dict(zip(COLUMNS, map(list, split.texts), strict=False))
    if split.targets is not None:
        columns["label"] = split.targets.numpy()
    if split.domains is not None:
        columns["domain"] = list(split.domains)
    return pa.table(columns)
