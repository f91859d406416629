"""What most studies do alike: every configuration chooses its settings on validation, then trains at every seed.

    class Shapes(Bench):
        study = "shapes"
        def trained(self, c, seed, settings, splits): ...     # one run: how a student is made, trained and measured

    stored = Shapes(plan, configurations, task, teacher, folder).run(file, report)

A study says what it compares, as a list of configurations, and what one run is. Which runs a file lacks, and in which
order they are made, is the same everywhere, and written here: so no arm gets a larger budget for tuning than another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.fingerprint import fingerprint
from kdtutor.studies.runner import Job, Ledger, Sweeps, as_stored, hardware, settings_to_try, work
from kdtutor.studies.stored import SPLITS, Stored, versions
from kdtutor.training.checkpoints import writable
from kdtutor.training.history import NonFiniteLoss


class Configuration(Protocol):
    """A row of a table. name: its key in the file. objective: a formula, or None for a bar, which is not trained."""

    @property
    def name(self) -> str: ...
    @property
    def objective(self) -> str | None: ...


class Plan(Protocol):
    """Sizes of a study. rates: learning rates to be tried. choosing_seed: at which they are, none of the seeds."""

    @property
    def rates(self) -> tuple[float, ...]: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def choosing_seed(self) -> int: ...


class Bench:
    """Makes the rows of a study's file. A subclass names the study and defines `trained`, and `bar` if it has bars.

    folder: where the teacher's answers are kept.
    """

    study: str

    def __init__(
        self,
        plan: Plan,
        configurations: Sequence[Configuration],
        task: Task,
        teacher: PreTrainedModel,
        folder: Path,
    ):
        self.plan, self.configurations = plan, list(configurations)
        self.task, self.teacher, self.folder = task, teacher, writable(folder)

    # ------------------------------------------------------------------------------------ what a study says

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train one student and measure it in these splits: `{split: {"accuracy": …}}`, and what else is kept."""
        raise NotImplementedError

    def bar(self, c: Configuration, seed: int | None) -> dict:
        """Measure what is not trained, such as the teacher itself."""
        raise NotImplementedError

    def sweeps(self, c: Configuration) -> Sweeps:
        """List the settings that a configuration chooses, and their values."""
        return [("learning_rate", self.plan.rates)]

    def seeds(self, c: Configuration) -> Sequence[int | None]:
        """List the seeds of a configuration; as a rule a bar has none."""
        return [None] if c.objective is None else self.plan.seeds

    def chosen_by(self, c: Configuration) -> str:
        """Name the configuration whose settings this one has: as a rule its own."""
        return c.name

    def worth(self, found: dict) -> float:
        """Return what a choice on validation goes by: higher is better."""
        return found["validation"]["accuracy"]

    def settings(self, c: Configuration, record: dict) -> tuple[list[dict], dict | None]:
        """Return the settings still to be tried and None, or an empty list and those chosen on validation."""
        rows = [row for row in record["choosing"] if row["configuration"] == self.chosen_by(c)]
        worth = [-math.inf if row.get("diverged") else self.worth(row) for row in rows]
        return settings_to_try(
            self.sweeps(c), [(row["settings"], found) for row, found in zip(rows, worth, strict=True)]
        )

    # ------------------------------------------------------------------------------------ how it is made

    @classmethod
    def make(
        cls, plan: Plan, file: Path, folder: Path, task: Task, teacher: PreTrainedModel, report=print
    ) -> Stored:
        """Make what `file` lacks: see `run`. A study's module offers it as its `run`."""
        return cls(plan, task, teacher, folder).run(file, report)

    def run(self, file: Path, report: Callable[[str], None] = print) -> Stored:
        """Make what `file` lacks, and write it after every run, whole or not at all; other processes may help.

        Raises KDTutorError if the file was made with another teacher, data or plan.
        """
        ledger = Ledger(file, self.head(), report)
        return Stored(work(ledger, self.jobs, sum(len(self.seeds(c)) for c in self.configurations), report))

    def head(self) -> dict:
        """Say how the file is made: what a run must agree with to be kept."""
        return {
            "study": self.study,
            "format": 1,
            "command": f"kdtutor study {self.study}",
            "teacher": fingerprint(self.teacher),
            "data": f"{self.task.name} {self.task.fingerprint}",
            "versions": versions(),
            # more seeds may be asked for later
            "plan": {name: value for name, value in as_stored(self.plan).items() if name != "seeds"},
            "hardware": hardware(),
            "configurations": {c.name: as_stored(c) for c in self.configurations},
            "choosing": [],
            "runs": [],
        }

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks: of each configuration first the settings to be tried, then its seeds."""
        done = {(row["configuration"], row["seed"]) for row in record["runs"]}
        for c in self.configurations:
            missing = [seed for seed in self.seeds(c) if (c.name, seed) not in done]
            if not missing:
                continue
            if c.objective is None:
                yield from (
                    self._job("runs", c, seed, lambda c=c, seed=seed: self.bar(c, seed)) for seed in missing
                )
                continue
            untried, settings = self.settings(c, record)
            for tried in untried if self.chosen_by(c) == c.name else []:
                trial = self._job(
                    "choosing", c, self.plan.choosing_seed, lambda c=c, s=tried: self._try(c, s)
                )
                trial.row["settings"] = tried
                yield trial
            if settings is not None:
                yield from (
                    self._job("runs", c, seed, lambda c=c, seed=seed, s=settings: self._run(c, seed, s))
                    for seed in missing
                )

    def _job(self, kind: str, c: Configuration, seed: int | None, make: Callable[[], dict]) -> Job:
        return Job(kind, {"configuration": c.name, "seed": seed}, make)

    def _try(self, c: Configuration, settings: dict) -> dict:
        try:
            return self.trained(c, self.plan.choosing_seed, settings, ("validation",))
        except NonFiniteLoss:
            return {"validation": {}, "diverged": True}

    def _run(self, c: Configuration, seed: int, settings: dict) -> dict:
        return {"settings": settings} | self.trained(c, seed, settings, SPLITS)
