"""Stored studies: a comparison trained at several seeds and kept as one JSON file, which notebooks show.

    kdtutor study logits              # makes the runs that the file lacks; may be stopped at any time
    stored = load("logits")           # what it found
    stored.scores("hard labels")      # test accuracy, one per seed
    stored.compare("soft targets, T = 2", "hard labels")    # paired over the seeds

Every configuration has the same student and the same steps, and at one seed the same initial weights and the
same order of the data: what differs is what the table says. Choose on the validation split; the test split is
only reported. The study `distilbert`, which trains in two stages, stands in distilbert.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdtutor.assets import asset_path
from kdtutor.errors import KDTutorError, nearest
from kdtutor.files import write_atomically

SPLITS = ("validation", "test")
IDENTITY = ("teacher", "data", "versions", "plan")  # what all runs of one file have in common


@dataclass(frozen=True)
class Stored:
    """The results of a study, as its file holds them."""

    record: dict

    @property
    def configurations(self) -> tuple[str, ...]:
        return tuple(self.record["configurations"])

    def scores(self, configuration: str, measure: str = "accuracy", split: str = "test") -> list[float]:
        """List one value per seed, seeds in order. measure: accuracy, macro_f1 or ece, fractions from 0 to 1."""
        if configuration not in self.configurations:
            what = f"configuration of {self.record['study']}"
            raise KDTutorError(nearest(what, configuration, self.configurations))
        rows = [row for row in self.record["runs"] if row["configuration"] == configuration]
        return [row[split][measure] for row in sorted(rows, key=lambda row: row["seed"])]

    def mean(self, configuration: str, *what, **which):
        """Average over the seeds, with a 95 % interval, of what `scores` gives."""
        from kdtutor.evaluation.statistics import mean_and_interval

        return mean_and_interval(self.scores(configuration, *what, **which))

    def compare(self, first: str, second: str, *what, **which):
        """Compare first minus second of what `scores` gives, paired over the seeds."""
        from kdtutor.evaluation.statistics import paired_seeds_test

        return paired_seeds_test(self.scores(first, *what, **which), self.scores(second, *what, **which))

    def best(self, configurations: tuple[str, ...]) -> str:
        """Choose the one with the highest mean accuracy on the validation split, never on the test split."""
        return max(configurations, key=lambda name: self.mean(name, split="validation").mean)


def results_file(name: str) -> Path:
    return asset_path(f"results/{name}.json")


def still_valid(record: dict, file: Path, report: Callable[[str], None]) -> dict[str, list[dict]]:
    """Read what `file` holds in the lists of `record` and belongs to it: same identity, same configuration."""
    if not file.is_file():
        return {}
    old = read_file(file)
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
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
