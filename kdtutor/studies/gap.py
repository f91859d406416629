"""The stored study of the teachers of one small student: larger and smaller, briefly and long trained, and assistants.

    kdtutor study gap                      # makes the runs that the file lacks; may be stopped at any time

A bag of 16 numbers per token learns in equally many steps. Does it learn less from a larger teacher, and more from an
assistant between the two, which that teacher taught (Mirzadeh et al. 2020)? And does a teacher that was trained for
longer, and scores higher, teach better (Cho & Hariharan 2019)? Three parts:

sizes      answers to the pool: the course's BERT, two CNNs that learned from labels, and two that the BERT taught
lengths    a CNN after 2, 5 and 20 passes over 5,000 labels: its answers to those texts, and to the pool
longer     the largest teacher and its assistant once more with twice the steps: was that long enough?

Each arm chooses its learning rate on validation, at one seed outside the five, by one rule. At each seed the teachers
but for the BERT are others too, so an interval knows how such teachers differ. They begin with random tables; their
rates are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.convolutional import cnn_student
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.load import freeze, load_model
from kdtutor.models.static import static_student
from kdtutor.studies.bench import Bench
from kdtutor.studies.runner import kept
from kdtutor.studies.stored import CONTROLS, HARD
from kdtutor.studies.training import scores

BERT, SOFT = "BERT", "SoftTargets(2)"


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: an hour of one core in all, beside much other work.

    few, own: labelled texts, the same at every seed. teachers: name, shape, width, what it learns from, steps and
    learning rate: from all labels, the own ones, or the BERT's answers to the pool. The first of the rates is the one
    that is kept until its turn comes.
    """

    few: int = 2000
    own: int = 5000
    width: int = 16
    steps: int = 1000
    longer: int = 2
    batch_size: int = 64
    max_norm: float = 100.0
    rates: tuple[float, ...] = (2e-2, 6e-2)
    teachers: tuple[tuple[str, str, int, str, int, float], ...] = (
        ("assistant CNN, 64", "cnn", 64, "pool", 1500, 5e-3),
        ("CNN, 64", "cnn", 64, "all", 1560, 5e-3),
        ("CNN, 16", "cnn", 16, "all", 1560, 1e-2),
        ("assistant CNN, 16", "cnn", 16, "pool", 1500, 1e-2),
        ("CNN, 2 passes", "cnn", 32, "own", 158, 5e-3),
        ("CNN, 5 passes", "cnn", 32, "own", 395, 5e-3),
        ("CNN, 20 passes", "cnn", 32, "own", 1580, 5e-3),
    )
    assistant: str = "assistant CNN, 64"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table: a teacher itself, or its student. like: whose rate a student has; times: the plan's steps."""

    name: str
    part: str
    teacher: str
    texts: str
    objective: str | None
    like: str = ""
    times: int = 1


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared: the runs are made in this order, a teacher's own scores after its first students'."""
    lengths = [name for name, *_, texts, _, _ in plan.teachers if texts == "own"]
    sizes = [name for name, *_ in plan.teachers if name not in lengths]
    learned = {name: texts for name, _, _, texts, _, _ in plan.teachers} | {BERT: "all"}
    bars = {name: Configuration(name, "teachers", name, texts, None) for name, texts in learned.items()}
    found = [*(_student("sizes", arm, "few") for arm in CONTROLS), _student("sizes", BERT, "pool")]
    for teacher in sizes:
        found += [_student("sizes", teacher, "pool"), bars[teacher]]
    found += [_student("lengths", teacher, "own") for teacher in (*CONTROLS, BERT)]
    for teacher in lengths:
        found += [*(_student("lengths", teacher, texts) for texts in ("own", "pool")), bars[teacher]]
    found += [_student("longer", teacher, "pool", plan.longer) for teacher in (BERT, plan.assistant)]
    return [*found, bars[BERT]]


def _student(part: str, taught_by: str, texts: str, times: int = 1) -> Configuration:
    name = f"from {taught_by}, {texts}"
    teacher, objective = ("", CONTROLS[taught_by]) if taught_by in CONTROLS else (taught_by, SOFT)
    return Configuration(name + ", longer" * (times > 1), part, teacher, texts, objective, name, times)


class Gap(Bench):
    """Makes the rows of the file. A teacher is made once, when its first student needs it, and asked once."""

    study, compared = "gap", staticmethod(configurations)

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        super().__init__(plan, task, teacher, folder)
        self.texts = cache(self._texts)

    def seeds(self, c: Configuration) -> Sequence[int | None]:
        return [None] if c.teacher == BERT and c.objective is None else self.plan.seeds

    def chosen_by(self, c: Configuration) -> str:
        return c.like

    def bar(self, c: Configuration, seed: int | None) -> dict:
        """Measure a teacher; one of those trained here also on its own texts: has it learned them by heart?"""
        teacher = self.other(c.teacher, seed)
        own = {"train": scores(teacher, self.texts("own"), "train")} if c.texts == "own" else {}
        return self.scored(teacher) | own

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it in these splits."""
        student = self.made("static", self.plan.width, seed)
        teacher = self.other(c.teacher, seed) if c.teacher else None
        how = settings | {"steps": c.times * self.plan.steps}
        found = self.train(student, teacher, self.texts(c.texts), c.objective, seed, **how)
        return found | self.scored(student, splits)

    def other(self, name: str, seed: int | None) -> PreTrainedModel:
        """Find or make a teacher: the course's own, or one of the plan's, another at each seed."""
        if name == BERT:
            return self.teacher
        _, shape, width, texts, steps, rate = next(row for row in self.plan.teachers if row[0] == name)
        teacher, objective = (self.teacher, SOFT) if texts == "pool" else (None, CONTROLS[HARD])
        data, how = self.texts(texts), {"steps": steps, "learning_rate": rate}
        decides = [
            fingerprint(self.teacher),
            data.fingerprint,
            shape,
            width,
            steps,
            rate,
            seed,
            self.plan.max_norm,
        ]

        def make() -> tuple[PreTrainedModel, dict]:
            model = self.made(shape, width, seed)
            return model, self.train(model, teacher, data, objective, seed, **how)

        place = self.folder / "models" / f"{shape}-{width}-{texts}-{seed}"
        return freeze(load_model(kept(place, decides, make)[0], self.task))

    def made(self, shape: str, width: int, seed: int | None) -> PreTrainedModel:
        """Make a bag or a CNN from random weights, which a seed decides."""
        if shape == "static":
            return static_student(self.task, width=width, dropout=0.0, seed=seed)
        return cnn_student(self.task, width=width, filters=width, dropout=0.0, seed=seed)

    def _texts(self, which: str) -> Task:
        """Pick the training texts, the same at every seed."""
        return {
            "few": lambda: self.task.subset(self.plan.few),
            "own": lambda: self.task.subset(self.plan.own),
            "pool": lambda: self.task.subset(self.plan.few).with_pool(),
            "all": lambda: self.task,
        }[which]()


run = Gap.make
