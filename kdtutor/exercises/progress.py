"""What a learner has solved in this session, as a table and as a JSON file that an instructor can collect.

The file (UTF-8), one a learner, gathered over all notebooks, since each has a kernel of its own:

    {"format": "kdtutor progress", "version": 1, "name": "Ada", "course": "0.1.0",
     "exercises": {"soft_targets": {"number": "5.1", "title": "Soft targets from memory", "solved": true,
                                    "solved_at": "2025-03-14T09:26:53+00:00", "verdict": "right", "attempts": 3,
                                    "mistakes": {"no T²": 2}}, ...}}

`course` is kdtutor's version. `attempts` counts the checks of something attempted up to the first right answer,
`mistakes` how often each known mistake was recognised; `verdict` is the kind of the last feedback. Exercises never
attempted are not in it. Times are UTC.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import kdtutor
from kdtutor.errors import KDTutorError
from kdtutor.files import write_atomically

FORMAT, VERSION = "kdtutor progress", 1
Record = dict[str, Any]


class ProgressError(KDTutorError):
    """A progress file that cannot be read or merged."""


class Progress:
    """The records of one session, by the exercise's name."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._written: dict[Path, dict[str, Record]] = {}  # what of them each file has counted already

    def note(self, exercise: Any, verdict: Any) -> None:
        """Count one feedback. Something not attempted does not count, nor do attempts after the right answer."""
        if verdict.kind == "not attempted":
            return
        new = {"number": exercise.number, "title": exercise.title, "solved": False, "solved_at": None}
        record = self.records.setdefault(exercise.name, new | {"attempts": 0, "mistakes": {}})
        record["verdict"] = verdict.kind
        if not record["solved"]:
            record["attempts"] += 1
            for name in verdict.mistakes:
                record["mistakes"][name] = record["mistakes"].get(name, 0) + 1
            if verdict.solved:
                record |= {"solved": True, "solved_at": datetime.now(UTC).isoformat(timespec="seconds")}

    def table(self, exercises: Iterable[Any]) -> str:
        """One line an exercise with what has become of it in this session; one a notebook that was not begun."""
        lines, exercises = [], list(exercises)
        for notebook, group in groupby(exercises, key=lambda exercise: exercise.number.partition(".")[0]):
            group = list(group)
            if begun := any(exercise.name in self.records for exercise in group):
                lines.append(f"Notebook {notebook:0>2}")
            else:
                lines.append(f"Notebook {notebook:0>2}: {len(group)} open")
            for exercise in group if begun else ():
                state = _state(self.records.get(exercise.name))
                lines.append(f"  {exercise.number:<5}{exercise.title:<44} {state}")
        solved = sum(record["solved"] for record in self.records.values())
        return "\n".join([*lines, f"{solved} of {len(exercises)} solved in this session."])

    def write(self, path: str | os.PathLike, name: str | None = None) -> str:
        """Merge this session's records into the file at `path`, atomically; what is solved there stays solved.

        A file that is damaged, or another learner's, or not ours, is not overwritten: ProgressError says why.
        """
        path = Path(path)
        before = _read(path) if path.exists() else {"name": name, "exercises": {}}
        if name is not None and before["name"] not in (None, name):
            raise ProgressError(f"{path} is the progress of {before['name']}: choose another file for {name}")
        counted = self._written.get(path.resolve(), {})
        exercises = before["exercises"] | {
            key: _merged(before["exercises"].get(key), record, counted.get(key))
            for key, record in self.records.items()
        }
        content = {"format": FORMAT, "version": VERSION, "name": before["name"] if name is None else name}
        content |= {"course": kdtutor.__version__, "exercises": exercises}
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        self._written[path.resolve()] = copy.deepcopy(self.records)
        solved = sum(record["solved"] for record in exercises.values())
        return f"{path.name} now has {len(exercises)} attempted exercises, of which {solved} are solved."


def _state(record: Record | None) -> str:
    if record is None:
        return "open"
    tries = f"{record['attempts']} attempt{'s' * (record['attempts'] != 1)}"
    return f"solved, {tries}" if record["solved"] else f"not yet, {tries}"


def _merged(old: Record | None, new: Record, counted: Record | None) -> Record:
    """The file's record and this session's together, less what of this session the file has counted before."""
    if old is None or old["solved"]:
        return old or new
    counted = counted or {"attempts": 0, "mistakes": {}}
    mistakes = dict(old["mistakes"])
    for name, times in new["mistakes"].items():
        if more := times - counted["mistakes"].get(name, 0):
            mistakes[name] = mistakes.get(name, 0) + more
    return new | {"attempts": old["attempts"] + new["attempts"] - counted["attempts"], "mistakes": mistakes}


def _read(path: Path) -> Record:
    """The content of a progress file, checked as far as it is used here."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        for record in content["exercises"].values():
            known = isinstance(record["solved"], bool) and isinstance(record["attempts"], int)
            if not (known and all(isinstance(times, int) for times in record["mistakes"].values())):
                raise ValueError(record)
        name = content["name"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProgressError(
            f"{path} is damaged, or no progress file of kdtutor, and was left as it is: choose another name"
        ) from error
    if content.get("version") != VERSION:
        raise ProgressError(f"{path} was written by a later kdtutor: update kdtutor, or choose another name")
    return {"name": name, "exercises": content["exercises"]}
