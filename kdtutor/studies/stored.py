"""The results of a study, as its file holds them: read, averaged and compared; and the file itself.

A record has a list of `runs`, a row for each configuration and seed (None for what has no seed: the teacher, TF-IDF),
and what all of them have in common: teacher, data, versions, plan. Which test texts a run got right is kept as bits,
so that a difference has an interval over seeds and texts together.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from kdtutor.assets import asset_path
from kdtutor.errors import KDTutorError, nearest
from kdtutor.files import write_atomically

MEASURED = ("validation", "test")  # the splits
#: What most studies have: two bars, two controls, and what these learn by.
TEACHER, WORDS, HARD, SMOOTH = "teacher", "TF-IDF", "hard labels", "label smoothing"
CONTROLS = {HARD: "HardLabels()", SMOOTH: "0.9 * HardLabels() + 0.1 * UniformTargets()"}
IDENTITY = ("teacher", "body", "data", "versions", "plan")  # what all runs of one file have in common


@dataclass(frozen=True)
class Stored:
    """The results of a study, as its file holds them."""

    record: dict

    @property
    def configurations(self) -> tuple[str, ...]:
        return tuple(self.record["configurations"])

    def select(self, **what) -> list[str]:
        """List the configurations that are what is asked for, such as part="patience", passes=10, and were measured."""
        measured = {row["configuration"] for row in self.record["runs"]}
        return [
            name
            for name, about in self.record["configurations"].items()
            if name in measured and all(about.get(key) == value for key, value in what.items())
        ]

    def rows(self, configuration: str) -> dict[int | None, dict]:
        """Return the runs of a configuration by their seed, seeds in order."""
        if configuration not in self.configurations:
            what = f"configuration of {self.record['study']}"
            raise KDTutorError(nearest(what, configuration, self.configurations))
        rows = [row for row in self.record["runs"] if row["configuration"] == configuration]
        return {row["seed"]: row for row in sorted(rows, key=lambda row: row["seed"] or 0)}

    def scores(self, configuration: str, measure: str | None = None, split: str = "test") -> list[float]:
        """List one value per seed, seeds in order: accuracy, macro_f1, ece (fractions) or loss (nats)."""
        return [row[split][measure or "accuracy"] for row in self.rows(configuration).values()]

    def mean(self, configuration: str, *what, **which):
        """Average over the seeds, with a 95 % interval, of what `scores` gives."""
        from kdtutor.evaluation.statistics import mean_and_interval

        return mean_and_interval(self.scores(configuration, *what, **which))

    def compare(self, first: str, second: str, measure: str | None = None, split: str = "test", **which):
        """Compare first minus second of what `scores` gives, paired over the seeds that both have.

        Where the file says which texts were right, the interval is over seeds and texts together. What has no seed is
        compared with every seed of the other.
        """
        from kdtutor.evaluation.statistics import paired_seeds_and_texts, paired_seeds_test

        if measure in (None, "accuracy") and (right := self._right(first, second, split, **which)):
            return paired_seeds_and_texts(*right)
        a, b = (self._by_seed(name, measure, split, **which) for name in (first, second))
        return paired_seeds_test(*_paired(a, b))

    def _by_seed(self, configuration: str, measure: str | None, split: str) -> dict[int | None, float]:
        return dict(zip(self.rows(configuration), self.scores(configuration, measure, split), strict=True))

    def _right(self, first: str, second: str, split: str, **which) -> tuple[np.ndarray, np.ndarray] | None:
        """Return which texts two configurations got right, (seeds, texts) each, or None where the file does not say."""
        if which:
            return None
        a, b = ({seed: row[split] for seed, row in self.rows(name).items()} for name in (first, second))
        return self._stacked(_paired(a, b))

    @staticmethod
    def _stacked(sides: Sequence[Sequence[dict]]) -> tuple[np.ndarray, ...] | None:
        """Turn the scores of two sides, one per seed, into what they got right, (seeds, texts) each."""
        if len(sides[0]) < 2 or not all("right" in scores for side in sides for scores in side):
            return None
        return tuple(np.stack([unpacked(scores["right"]) for scores in side]) for side in sides)

    def curve(
        self, configuration: str, measure: str = "accuracy", split: str = "validation"
    ) -> list[tuple[float, list[float]]]:
        """List (passes, one value per seed) along the training of a configuration. split: validation or train."""
        curves = [row["curve"] for row in self.rows(configuration).values()]
        return [
            (points[0]["passes"], [point[split][measure] for point in points])
            for points in zip(*curves, strict=True)
        ]

    def settings(self, configuration: str) -> dict:
        """Return the settings that validation chose for a configuration."""
        return next(iter(self.rows(configuration).values()))["settings"]

    @property
    def core_hours(self) -> float:
        """Sum up the time that all runs took, one thread each."""
        lists = [rows for rows in self.record.values() if isinstance(rows, list)]
        return sum(row.get("seconds", 0) for rows in lists for row in rows) / 3600

    def best(self, configurations: Sequence[str]) -> str:
        """Choose the one with the highest mean accuracy on the validation split, never on the test split."""
        return max(configurations, key=lambda name: self.mean(name, split="validation").mean)

    def __str__(self) -> str:
        lines = [f"{self.record['study']}: {self.core_hours:.1f} hours of one core"]
        for name in self.select():
            values = [f"{split} {self.mean(name, split=split)}" for split in MEASURED]
            lines.append(f"{name:<60}{'  '.join(values)}")
        return "\n".join(lines)

    __repr__ = __str__


def _paired(a: dict, b: dict) -> tuple[list, list]:
    """List what both sides have at the seeds that they share; what has no seed (None) goes with every seed."""
    seeds = [seed for seed in (a if None in b else b) if seed in a or None in a]
    return [a.get(seed, a.get(None)) for seed in seeds], [b.get(seed, b.get(None)) for seed in seeds]


# ------------------------------------------------------------------------------------------------ the file


def results_file(name: str) -> Path:
    return asset_path(f"results/{name}.json")


def forget(file: Path, folder: Path) -> None:
    """Delete a file of results, and what the work folder keeps to make them."""
    file.unlink(missing_ok=True)
    for kept in ("answers", "models"):
        shutil.rmtree(folder / kept, ignore_errors=True)


def still_valid(record: dict, file: Path, report: Callable[[str], None]) -> dict[str, list[dict]]:
    """Read what `file` holds in the lists of `record` and belongs to it: same identity, same configuration."""
    if not file.is_file():
        return {}
    old = read_file(file)
    if old.get("format") != record.get("format"):
        raise KDTutorError(
            f"{file} holds an older study, planned otherwise: its runs can't be compared with new ones. Choose another "
            "--output, or --restart to replace it"
        )
    for what in IDENTITY:
        if old.get(what) != record.get(what):
            raise KDTutorError(
                f"{file} was made with another {what} ({old.get(what)}, now {record.get(what)}): its runs "
                "can't be compared with new ones; --restart makes all of them anew"
            )
    new = record["configurations"]
    changed = sorted(name for name, what in old["configurations"].items() if new.get(name) != what)
    if changed:
        report(f"changed since they ran, so forgotten: {', '.join(changed)}")
    lists = [name for name, rows in record.items() if isinstance(rows, list)]
    return {
        name: [row for row in old.get(name, []) if row.get("configuration") not in changed] for name in lists
    }


def read_file(file: Path) -> dict:
    """Read a study's record. KDTutorError if the file can't be read, or holds no such record."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        runs = record["runs"]
        names = {str(row["configuration"]) for row in runs}
        # An older study has no list of configurations: `still_valid` says so.
        if not isinstance(record["study"], str) or not names <= {*record.get("configurations", names)}:
            raise ValueError("it holds no study")
        return record
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        message = f"{file} can't be read ({error}); restore it, or make it anew: --restart"
        raise KDTutorError(message) from error


def write(file: Path, record: dict) -> None:
    """Write a record, whole or not at all; one line per run makes for a readable diff."""
    lists = {name: rows for name, rows in record.items() if rows and isinstance(rows, list)}
    text = json.dumps(record | {name: [] for name in lists}, indent=2)
    for name, rows in lists.items():
        lines = ",\n    ".join(map(json.dumps, rows))
        text = text.replace(f'\n  "{name}": []', f'\n  "{name}": [\n    {lines}\n  ]')
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text + "\n")


def versions() -> dict[str, str]:
    return {name: __import__(name).__version__ for name in ("torch", "transformers")}


def packed(right: Tensor) -> str:
    """Write bool (N,) as "N:" and its bits in base64."""
    bits = np.packbits(right.numpy()).tobytes()
    return f"{len(right)}:{base64.b64encode(bits).decode()}"


def unpacked(text: str) -> np.ndarray:
    """Read what `packed` wrote: bool (N,)."""
    count, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=int(count)).astype(bool)
