"""How a study is run: what its file lacks is found, claimed by one of several processes, made, and written down.

    ledger = Ledger(file, head)
    work(ledger, plan, report)       # plan(record) yields the jobs that the record lacks, the most instructive first

Any number of processes may work on one file. A claim is a lock that the system takes back when its holder dies, so a
killed process costs the run that it was at and no more; the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from kdtutor.hardware import has_bf16
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.load import quiet
from kdtutor.studies.stored import read_file, still_valid, versions, write
from kdtutor.training.checkpoints import writable

PAUSE = 2.0  # seconds between two looks at a file whose last runs others are making


@dataclass(frozen=True)
class Job:
    """A row that the file lacks.

    kind: the list of the file that it belongs to. row: what tells it from all others of that list. make: trains and
    measures, and returns what the row lacks; None: not yet, since it starts from what another job makes.
    """

    kind: str
    row: dict
    make: Callable[[], dict] | None = None


class Ledger:
    """The file of a study, which several processes read and add rows to."""

    def __init__(self, file: Path, head: dict, report: Callable[[str], None]):
        """Begin the file, or go on with it. Raises KDTutorError if it was made with another teacher, data or plan."""
        self.file, self.claims = file, file.parent / f".{file.name}.claims"
        writable(self.claims)
        with self._locked():
            kept = still_valid(head, file, report)
            self.hardware = head.get("hardware", "")
            if kept.get("runs"):  # made on another machine, perhaps: `add` names this one
                head = head | {"hardware": read_file(file).get("hardware", "")}
            write(file, head | kept)

    def read(self) -> dict:
        return read_file(self.file)

    def add(self, kind: str, row: dict) -> None:
        with self._locked():
            record = self.read()
            record[kind].append(row)
            places = [*record.get("hardware", "").split("; then "), self.hardware]
            record["hardware"] = "; then ".join(dict.fromkeys(filter(None, places)))
            write(self.file, record)

    @contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """Hold a job: whether it is ours to do. Not so if another process is at it, or has done it by now."""
        place = self.claims / digest_of([job.kind, job.row])
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield not any(job.row.items() <= row.items() for row in self.read()[job.kind])
        finally:
            with suppress(OSError):  # Windows deletes no open file
                place.unlink()
            lock.release()

    def _locked(self) -> FileLock:
        return FileLock(self.claims / "file")


def work(
    ledger: Ledger, plan: Callable[[dict], Iterable[Job]], total: int, report: Callable[[str], None]
) -> dict:
    """Do one job after the other until the file lacks none; returns what it then holds. total: of all runs, to tell."""
    while True:
        record, waiting = ledger.read(), False
        for job in plan(record):
            if job.make is None:
                waiting = True
                continue
            with ledger.claim(job) as ours:
                if ours:
                    start = time.perf_counter()
                    row = job.row | job.make()
                    row["seconds"] = round(time.perf_counter() - start, 1)
                    ledger.add(job.kind, row)
                    count = f"{len(ledger.read()['runs'])} of {total}" if job.kind == "runs" else job.kind
                    report(f"{count}: {told(row)}")
                    break
            waiting = True
        else:
            if not waiting:
                shutil.rmtree(ledger.claims, ignore_errors=True)
                return record
            time.sleep(PAUSE)


def told(row: Mapping) -> str:
    """Tell in a line what a row is and what it found."""
    parts = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{key} {number:.4g}" for key, number in value.items() if isinstance(number, float)
            )
        if isinstance(value, (str, int, float)) and value != "":
            parts.append(f"{name} {value}")
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------------ settings


Sweeps = Sequence[tuple[str, Sequence[float]]]


def settings_to_try(
    sweeps: Sweeps, tried: Sequence[tuple[Mapping, float]], beyond: int = 1
) -> tuple[list[dict], dict | None]:
    """Search settings one after the other: those to be tried next and None, or an empty list and the chosen ones.

    sweeps: each setting and its values, of which the first is kept until its turn comes; then all are tried, and the
    best stays. While the best is the smallest or largest, up to `beyond` more are tried, halved or doubled; not of the
    bound on gradients, which ends with no bound, nor of what has one value. tried: settings and what they were worth,
    higher is better. The rule is the same for every arm, so none gets a larger budget than its rivals.
    """
    chosen = {name: values[0] for name, values in sweeps}
    for name, values in sweeps:
        worth = {found[name]: value for found, value in tried if found == chosen | {name: found.get(name)}}
        missing = [value for value in values if value not in worth]
        if not missing and name != "max_norm" and 1 < len(values) <= len(worth) < len(values) + beyond:
            best = max(worth, key=worth.__getitem__)
            missing = [best * 2] * (best == max(worth)) + [best / 2] * (best == min(worth))
            missing = [type(best)(value) for value in missing]
        if missing:
            return [chosen | {name: value} for value in missing], None
        chosen[name] = max(worth, key=worth.__getitem__)
    return [], chosen


# ------------------------------------------------------------------------------------------------ kept models


def kept(place: Path, decides: object, make: Callable[[], tuple[PreTrainedModel, dict]]) -> tuple[Path, dict]:
    """Find a model in the work folder, or make it there, whole or not at all: its folder, and what was seen of it.

    decides: all that determines the model; its digest is part of the folder's name, so none is taken for another. Two
    processes that need the same one: the second waits.
    """
    folder = place.with_name(f"{place.name}-{digest_of(decides)}")
    about = folder / "about.json"
    writable(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not about.is_file():
            unfinished = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            model, found = make()
            with quiet():
                model.save_pretrained(unfinished)
            (unfinished / about.name).write_text(json.dumps(found) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
    return folder, json.loads(about.read_text(encoding="utf-8"))


def digest_of(what: object) -> str:
    """Shorten what JSON can write to 12 digits that tell it from anything else."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def hardware() -> str:
    """Tell what times were measured on."""
    bf16 = "with" if has_bf16(torch.device("cpu")) else "without"
    gpu = f"{torch.cuda.get_device_name()} beside " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{platform.machine()} {bf16} bf16, {torch.get_num_threads()} of {os.cpu_count()} cores per run"
    )


def head_of(study: str, teacher: PreTrainedModel, data: str, plan, may_change: Sequence[str]) -> dict:
    """Say how a study's file is made: what a run must agree with to be kept. may_change: fields of the plan."""
    return {
        "study": study,
        "command": f"kdtutor study {study}",
        "teacher": fingerprint(teacher),
        "data": data,
        "versions": versions(),
        "plan": {name: value for name, value in as_stored(plan).items() if name not in may_change},
        "hardware": hardware(),
    }


def as_stored(what) -> dict:
    """Convert a dataclass to what the file gives back of it."""
    return json.loads(json.dumps(asdict(what)))
