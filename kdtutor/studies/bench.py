"""What most studies do alike: every configuration chooses its settings on validation, then trains at every seed.

    class Shapes(Bench):
        study, compared = "shapes", staticmethod(configurations)
        def trained(self, c, seed, settings, splits): ...     # one run: how a student is made, trained and measured

    stored = Shapes(plan, task, teacher, folder).run(file, report)

A study says what it compares, as a list of configurations, and what one run is. Which runs a file lacks, and in which
order they are made, is the same everywhere, and written here: so no arm gets a larger budget for tuning than another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.studies.runner import Job, Ledger, Sweeps, as_stored, head_of, settings_to_try, work
from kdtutor.studies.stored import MEASURED, Stored
from kdtutor.studies.training import scores, train
from kdtutor.training.checkpoints import writable
from kdtutor.training.history import NonFiniteLoss


class Bench:
    """Makes the rows of a study's file. A subclass names the study and defines `trained`, and `bar` if it has others.

    plan: the sizes of a study, among them `rates` to be tried, `batch_size`, `max_norm`, `seeds`, and `choosing_seed`,
    none of these. compared: lists the rows of its table; each has a `name` and an `objective`, a formula, or None for a
    bar, which is not trained. folder: where the teacher's answers are kept.
    """

    study: str
    compared: Callable[[Any], Sequence[Any]]
    format = 1  # of the file
    may_change = ("seeds",)  # of the plan: more may be asked for later

    def __init__(self, plan: Any, task: Task, teacher: PreTrainedModel, folder: Path):
        self.plan, self.configurations = plan, list(self.compared(plan))
        self.task, self.teacher, self.folder = task, teacher, writable(folder)

    # ------------------------------------------------------------------------------------ what a study says

    def trained(self, c: Any, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train one student and measure it in these splits: `{split: {"accuracy": …}}`, and what else is kept."""
        raise NotImplementedError

    def bar(self, c: Any, seed: int | None) -> dict:
        """Measure what is not trained: the teacher itself."""
        return self.scored(self.teacher)

    def sweeps(self, c: Any) -> Sweeps:
        """List the settings that a configuration chooses, and their values."""
        return [("learning_rate", self.plan.rates)]

    def seeds(self, c: Any) -> Sequence[int | None]:
        """List the seeds of a configuration; as a rule a bar has none."""
        return [None] if c.objective is None else self.plan.seeds

    def chosen_by(self, c: Any) -> str:
        """Name the configuration whose settings this one has: as a rule its own."""
        return c.name

    def worth(self, found: dict) -> float:
        """Return what a choice on validation goes by: higher is better."""
        return found["validation"]["accuracy"]

    # ------------------------------------------------------------------------------------ what they do alike

    def train(self, model, teacher, task: Task, objective: str, seed: int, **settings) -> dict:
        """Train a model as all of a study are: what was seen on the way. settings: steps, rate, and what differs."""
        how = {"batch_size": self.plan.batch_size, "max_norm": self.plan.max_norm, "precision": "fp32"}
        how |= {"seed": seed, "cache": self.folder / "answers"}
        return train(model, teacher, task, objective, **how | settings)

    def scored(self, model: PreTrainedModel, splits: Sequence[str] = MEASURED) -> dict:
        """Measure a model in these splits; of the test split, also which texts it gets right."""
        return {split: scores(model, self.task, split, right=split == "test") for split in splits}

    def settings(self, c: Any, record: dict) -> tuple[list[dict], dict | None]:
        """Return the settings still to be tried and None, or an empty list and those chosen on validation."""
        rows = [row for row in record["choosing"] if row["configuration"] == self.chosen_by(c)]
        worth = [-math.inf if row.get("diverged") else self.worth(row) for row in rows]
        return settings_to_try(
            self.sweeps(c), [(row["settings"], found) for row, found in zip(rows, worth, strict=True)]
        )

    # ------------------------------------------------------------------------------------ how it is made

    @classmethod
    def make(
        cls, plan: Any, file: Path, folder: Path, task: Task, teacher: PreTrainedModel, report=print
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
        """Say how the file is made, and which lists of rows it has."""
        data = f"{self.task.name} {self.task.fingerprint}"
        rows = {
            "configurations": {c.name: as_stored(c) for c in self.configurations},
            "choosing": [],
            "runs": [],
        }
        head = head_of(self.study, self.teacher, data, self.plan, self.may_change)
        return head | {"format": self.format} | rows

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks, one configuration after the other."""
        for c in self.configurations:
            yield from self.jobs_of(c, record)

    def jobs_of(self, c: Any, record: dict) -> Iterator[Job]:
        """Yield what the record lacks of a configuration: first the settings to be tried, then its seeds."""
        done = {row["seed"] for row in record["runs"] if row["configuration"] == c.name}
        missing = [{"configuration": c.name, "seed": seed} for seed in self.seeds(c) if seed not in done]
        if c.objective is None:
            yield from (Job("runs", row, partial(self.bar, c, row["seed"])) for row in missing)
            return
        untried, settings = self.settings(c, record) if missing else ([], None)
        for tried in untried if self.chosen_by(c) == c.name else []:
            row = {"configuration": c.name, "seed": self.plan.choosing_seed, "settings": tried}
            yield Job("choosing", row, partial(self._try, c, tried))
        if settings is not None:
            yield from (Job("runs", row, partial(self._run, c, row["seed"], settings)) for row in missing)

    def _try(self, c: Any, settings: dict) -> dict:
        try:
            return self.trained(c, self.plan.choosing_seed, settings, ("validation",))
        except NonFiniteLoss:
            return {"validation": {}, "diverged": True}

    def _run(self, c: Any, seed: int, settings: dict) -> dict:
        return {"settings": settings} | self.trained(c, seed, settings, MEASURED)
