"""What a learner has solved in this session, as a table and as a JSON file that an instructor can collect.

The file (UTF-8), one per learner, gathered over all notebooks, since each has a kernel of its own:

    {"format": "kdtutor progress", "version": 1, "name": "Ada", "course": "0.1.0",
     "exercises": {"soft_targets": {"number": "5.1", "title": "Soft targets from memory", "solved": true,
                                    "solved_at": "2025-03-14T09:26:53+00:00", "verdict": "right", "attempts": 3,
                                    "mistakes": {"no T²": 2}}, ...}}

`course` is kdtutor's version. `attempts` counts the checks of something attempted up to the first right answer,
`mistakes` how often each known mistake was recognised; `verdict` is the kind of the last feedback. Exercises never
attempted are not in it. Times are UTC. `seal` is a sum over all else, by which a file that was edited is told.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import textwrap
from collections.abc import Iterable
from contextlib import suppress
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
    """The records of one session, by the exercise's name, and what earlier sessions have kept as solved.

    kept: a file that outlives the kernel; in it is what was solved, and nothing else.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.kept, self.earlier = kept, _kept(kept)
        self.records: dict[str, Record] = dict(self.earlier)
        self.answers: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._written: dict[Path, dict[str, Record]] = {}  # what of them each file has counted already

    def note(self, exercise: Any, verdict: Any, answer: Any = None) -> None:
        """Count one feedback. Something not attempted does not count, nor do attempts after the right answer."""
        if verdict.kind == "not attempted":
            return
        if verdict.solved and answer:
            self.answers[exercise.name] = answer
        new = {"number": exercise.number, "title": exercise.title, "solved": False, "solved_at": None}
        record = self.records.setdefault(exercise.name, new | {"attempts": 0, "mistakes": {}})
        record["verdict"] = verdict.kind
        if not record["solved"]:
            record["attempts"] += 1
            for name in verdict.mistakes:
                record["mistakes"][name] = record["mistakes"].get(name, 0) + 1
            if verdict.solved:
                with suppress(OSError, TypeError):  # written where no source is kept
                    self._sources[exercise.name] = textwrap.dedent(inspect.getsource(answer))
                record |= {"solved": True, "solved_at": datetime.now(UTC).isoformat(timespec="seconds")}
                self._keep()

    def _keep(self) -> None:
        """Write what is solved to the file that outlives the kernel, if there is one and it can be written."""
        if self.kept:
            solved = {name: record for name, record in self.records.items() if record["solved"]}
            with suppress(KDTutorError):
                _write(self.kept, None, _kept(self.kept) | solved)
                sources = _sources(self.kept) | self._sources
                write_atomically(_beside(self.kept), json.dumps(sources, indent=1, ensure_ascii=False) + "\n")

    def source(self, name: str) -> str:
        """Return the source of the right answer that this session or an earlier one has kept, or nothing."""
        return (_sources(self.kept) | self._sources).get(name, "")

    def table(self, exercises: Iterable[Any]) -> str:
        """Show a line per exercise with what has become of it in this session; one per notebook that was not begun."""
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
        when = f", {len(self.earlier)} of them in earlier sessions." if self.earlier else " in this session."
        return "\n".join([*lines, f"{solved} of {len(exercises)} solved{when}"])

    def write(self, path: str | os.PathLike, name: str | None = None) -> str:
        """Merge this session's records into the file at `path`, atomically; what is solved there stays solved.

        A file that is damaged, or another learner's, or not ours, is not overwritten: ProgressError says why.
        """
        path = Path(path)
        try:
            before = read(path) if path.exists() else {"name": name, "exercises": {}}
        except ProgressError as error:
            raise ProgressError(f"{error}, and was left as it is: choose another name") from error
        if name is not None and before["name"] not in (None, name):
            raise ProgressError(f"{path} is the progress of {before['name']}: choose another file for {name}")
        # what an earlier session has kept, it may have written to this file up to some attempt
        counted = {key: before["exercises"].get(key) for key in self.earlier} | self._written.get(
            path.resolve(), {}
        )
        exercises = before["exercises"] | {
            key: _merged(before["exercises"].get(key), record, counted.get(key))
            for key, record in self.records.items()
        }
        _write(path, before["name"] if name is None else name, exercises)
        self._written[path.resolve()] = copy.deepcopy(self.records)
        solved = sum(record["solved"] for record in exercises.values())
        return f"{path.name} now has {len(exercises)} attempted exercises, of which {solved} are solved."


def _state(record: Record | None) -> str:
    if record is None:
        return "open"
    tries = f"{record['attempts']} attempt{'s' * (record['attempts'] != 1)}"
    return f"solved, {tries}" if record["solved"] else f"not yet, {tries}"


def _merged(old: Record | None, new: Record, counted: Record | None) -> Record:
    """Merge the file's record and this session's, less what of this session the file has counted before."""
    if old is None or old["solved"]:
        return old or new
    counted = counted or {"attempts": 0, "mistakes": {}}
    mistakes = dict(old["mistakes"])
    for name, times in new["mistakes"].items():
        if more := times - counted["mistakes"].get(name, 0):
            mistakes[name] = mistakes.get(name, 0) + more
    return new | {"attempts": old["attempts"] + new["attempts"] - counted["attempts"], "mistakes": mistakes}


def read(path: Path) -> Record:
    """Read the name and the exercises of a progress file; ProgressError, with its name, if it is not as written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        for record in content["exercises"].values():
            known = isinstance(record["solved"], bool) and isinstance(record["number"], str)
            known = known and isinstance(record["attempts"], int)
            if not (known and all(isinstance(times, int) for times in record["mistakes"].values())):
                raise ValueError(record)
        name = content["name"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProgressError(f"{path} is damaged, or no progress file of kdtutor") from error
    if content.get("version") != VERSION:
        raise ProgressError(f"{path} was written by a later kdtutor: update kdtutor")
    if content.get("seal") != _seal(content):
        raise ProgressError(f"{path} was changed after check.progress wrote it")
    return {"name": name, "exercises": content["exercises"]}


def _kept(path: Path | None) -> dict[str, Record]:
    """Read what an earlier session has kept as solved; nothing where there is no such file, or it cannot be read."""
    try:
        return read(path)["exercises"] if path and path.exists() else {}
    except ProgressError:
        return {}


def _beside(kept: Path) -> Path:
    """Tell where the sources of right answers are: beside what is solved, and on nobody else's machine."""
    return kept.with_name(f"{kept.stem}-answers.json")


def _sources(kept: Path | None) -> dict[str, str]:
    try:
        content = json.loads(_beside(kept).read_text(encoding="utf-8")) if kept else {}
    except (OSError, ValueError):
        return {}
    return (
        {name: text for name, text in content.items() if isinstance(text, str)}
        if isinstance(content, dict)
        else {}
    )


def _write(path: Path, name: str | None, exercises: dict[str, Record]) -> None:
    content = {"format": FORMAT, "version": VERSION, "name": name, "course": kdtutor.__version__}
    content["exercises"] = exercises
    content["seal"] = _seal(content)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _seal(content: Record) -> str:
    """Compute a sum over the content. It tells a file that was edited; it stops nobody who reads this line."""
    sealed = {key: value for key, value in content.items() if key != "seal"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()
