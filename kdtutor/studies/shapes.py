"""The stored study of students of another shape: five architectures, and what they learn from.

    kdtutor study shapes --processes 2     # makes the runs that the file lacks; may be stopped at any time
    kdtutor study shapes-sentiment         # the same arms on film reviews, smaller

Every architecture learns from a few labels, sharp and smoothed, from the teacher's answers to the same texts, to these
and their variants (`kd.augment`, Tang et al. 2019), and to these and the pool, in equally many steps. Then the same
shapes wider or deeper, at equal multiply-adds or in equal time, and the pool in twice the steps: was that long enough?
Each arm of each architecture chooses its learning rate on validation, at one seed outside the five, by one rule for
all; the test split is only reported. A seed decides initial weights and order; texts and variants are the same at every
seed. The bars are the teacher, and TF-IDF with a linear model on the same labels.

Not on `valence`: one number has neither a smoothed label nor a soft target, and no teacher of it ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel

from kdtutor.data.augment import augment
from kdtutor.data.task import Task
from kdtutor.models.students import make_student
from kdtutor.models.vectors import token_vectors
from kdtutor.studies.bench import Bench
from kdtutor.studies.stored import CONTROLS, HARD, TEACHER, WORDS
from kdtutor.studies.training import words_alone

POOL, LONGER = "soft targets, pool", "soft targets, pool, longer"
#: what is learned from: its texts and its objective
ARMS = {arm: ("few", formula) for arm, formula in CONTROLS.items()} | {
    "soft targets": ("few", "SoftTargets(2)"),
    "soft targets, variants": ("variants", "SoftTargets(2)"),
    POOL: ("pool", "SoftTargets(2)"),
}
#: what is asked of other widths and depths
MAIN = (HARD, POOL)


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run.

    shapes: students of the register, each with its options; sizes: the same shapes, wider or deeper. few: labelled
    texts; copies: variants of each. longer: how many times the steps, of "longer"; 1: it is left out. The first of the
    rates is the one that is kept until its turn comes.
    """

    study: ClassVar[str] = "shapes"
    arms: ClassVar[Mapping[str, tuple[str, str]]] = ARMS

    few: int = 2000
    copies: int = 4
    steps: int = 2000
    longer: int = 2
    batch_size: int = 64
    max_norm: float = 10.0
    rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    shapes: tuple[tuple[str, str, dict], ...] = (
        ("LSTM", "lstm", {"width": 128}),
        ("CNN", "cnn", {"width": 128, "dropout": 0.2}),
        ("static", "static", {"width": 128}),
        ("GRU", "gru", {"width": 128}),
        ("BERT", "small-bert", {"layers": 2, "width": 128, "dropout": 0.0}),
    )
    sizes: tuple[tuple[str, str, dict], ...] = (
        ("LSTM, 1 × 64", "lstm", {"width": 64}),
        ("BERT, 1 × 64", "small-bert", {"layers": 1, "width": 64, "dropout": 0.0}),
        ("LSTM, 4 × 64", "lstm", {"layers": 4, "width": 64}),
        ("BERT, 8 × 64", "small-bert", {"layers": 8, "width": 64, "dropout": 0.0}),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Reviews(Plan):
    """The same on `sentiment`, three shapes of half the width in half the steps.

    No pool is there: in its place stand the other 6,501 training texts, whose labels the student does not see, but the
    teacher did.
    """

    study: ClassVar[str] = "shapes-sentiment"
    arms: ClassVar[Mapping[str, tuple[str, str]]] = {
        **{arm: what for arm, what in ARMS.items() if arm != POOL},
        "soft targets, rest": ("rest", "SoftTargets(2)"),
    }

    steps: int = 1000
    longer: int = 1
    shapes: tuple[tuple[str, str, dict], ...] = (
        ("LSTM", "lstm", {"width": 64}),
        ("CNN", "cnn", {"width": 64, "dropout": 0.2}),
        ("static", "static", {"width": 64}),
    )
    sizes: tuple[tuple[str, str, dict], ...] = ()


#: a study and its sizes
PLANS = {plan.study: plan for plan in (Plan(), Reviews())}


@dataclass(frozen=True)
class Configuration:
    """A row of a table. shape: of the plan's; arm: of its arms, or `LONGER`; objective: its formula, None for a bar."""

    name: str
    shape: str
    arm: str
    texts: str
    objective: str | None


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared, one architecture after the other: the runs are made in this order."""
    bars = [Configuration(name, "", name, "few", None) for name in (TEACHER, WORDS)]
    arms = {**plan.arms, LONGER: ARMS[POOL]}
    compared = [
        *((shape, arm) for shape, _, _ in plan.shapes for arm in plan.arms),
        *((size, arm) for size, _, _ in plan.sizes for arm in MAIN),
        *((shape, LONGER) for shape, _, _ in plan.shapes if plan.longer > 1),
    ]
    return bars + [Configuration(f"{shape}, {arm}", shape, arm, *arms[arm]) for shape, arm in compared]


class Shapes(Bench):
    """Makes the rows of the file. Texts are tokenized once per process, and the teacher is asked once."""

    compared = staticmethod(configurations)

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        self.study = plan.study
        super().__init__(plan, task, teacher, folder)
        self.texts = cache(self._texts)
        self.table = cache(lambda width: token_vectors(teacher, task, width))

    def bar(self, c: Configuration, seed: int | None) -> dict:
        return words_alone(self.texts("few")) if c.arm == WORDS else super().bar(c, seed)

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it in these splits."""
        student = self.student(c.shape, seed)
        how = settings | {"steps": self.plan.steps * (self.plan.longer if c.arm == LONGER else 1)}
        found = self.train(student, self.teacher, self.texts(c.texts), c.objective, seed, **how)
        return found | self.scored(student, splits)

    def student(self, shape: str, seed: int) -> PreTrainedModel:
        """Make a student; of another shape, with the teacher's vectors of the tokens, which are asked for once."""
        known = (*self.plan.shapes, *self.plan.sizes)
        _, name, options = next(row for row in known if row[0] == shape)
        if name == "small-bert":
            return make_student(name, self.teacher, self.task, seed, **options)
        student = make_student(name, None, self.task, seed, **options)
        student.get_input_embeddings().weight.data.copy_(self.table(options["width"]))
        return student

    def _texts(self, which: str) -> Task:
        """Pick the training texts, the same at every seed: the few, or with their variants, the pool, the rest."""
        few = self.task.subset(self.plan.few)
        return {
            "few": lambda: few,
            "variants": lambda: augment(few, self.plan.copies),
            "pool": few.with_pool,
            "rest": lambda: self.task.transfer(self.plan.few),
        }[which]()


run = Shapes.make
