"""The stored grid of notebook 11: one student, every α with every temperature, and what else could have been tuned.

    kdtutor study grid                     # makes the runs that the file lacks; may be stopped at any time
    stored = load("grid")
    landscape(stored)                      # validation accuracy, (α, T, seeds)

A small CNN with the teacher's token vectors learns from 2,000 definitions by α · HardLabels() + (1 − α) ·
SoftTargets(T), in equally many steps everywhere. Three arms choose their learning rate on validation, at one seed
outside the five, by one rule: hard labels (the control), label smoothing, and the cell in the middle, whose rate all
cells have. Each run keeps its scores on validation and test; nothing is chosen by test.

Three parts: "landscape", the grid and its two controls; "longer", the control and the middle once more with twice the
steps, so that one sees whether the others had enough; "rates", a coarse grid of α, T and learning rate at one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.convolutional import cnn_student
from kdtutor.models.vectors import token_vectors
from kdtutor.studies.bench import Bench
from kdtutor.studies.stored import CONTROLS, Stored
from kdtutor.studies.training import scores

HARD, SMOOTH = CONTROLS


@dataclass(frozen=True)
class Plan:
    """Sizes: some three seconds of one core per run, ten minutes in all.

    few, validation: random texts, the same at every seed; who has 2,000 labels would not keep 8,000 to choose by.
    middle: the cell (α, T) whose learning rate the whole landscape has. The first of the rates is kept until its turn
    comes. coarse: the levels of α, T and learning rate in the part "rates".
    """

    few: int = 2000
    validation: int = 1000
    steps: int = 250
    batch_size: int = 64
    max_norm: float = 10.0
    student: tuple[tuple[str, float], ...] = (("filters", 32), ("width", 32), ("dropout", 0.1))
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6, 0.9)
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    middle: tuple[float, float] = (0.3, 4.0)
    rates: tuple[float, ...] = (1e-2, 5e-3)
    coarse: tuple[tuple[float, ...], ...] = ((0.1, 0.6), (1.0, 4.0, 16.0), (2.5e-3, 1e-2, 4e-2))
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    coarse_seeds: tuple[int, ...] = (0,)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """What one run is. like: the arm whose chosen rate it has, or else rate. times: how often the plan's steps."""

    name: str
    part: str
    objective: str
    alpha: float | None = None
    temperature: float | None = None
    rate: float | None = None
    like: str = ""
    times: int = 1


def cell(alpha: float, temperature: float) -> str:
    """Name a cell of the landscape."""
    return f"α = {alpha:g}, T = {temperature:g}"


def configurations(plan: Plan) -> list[Configuration]:
    """List what is made, in this order: the arms that choose a rate, the landscape, and the two other parts."""
    middle, found = cell(*plan.middle), []
    for name, objective in CONTROLS.items():
        found.append(Configuration(name, "landscape", objective, like=name))
    # The middle comes first: all others have its rate.
    for at in dict.fromkeys([plan.middle, *product(plan.alphas, plan.temperatures)]):
        found.append(Configuration(cell(*at), "landscape", formula(*at), *at, like=middle))
    for name, objective in {HARD: CONTROLS[HARD], middle: formula(*plan.middle)}.items():
        found.append(Configuration(f"{name}, twice as long", "longer", objective, like=name, times=2))
    for *at, rate in product(*plan.coarse):
        found.append(Configuration(f"{cell(*at)}, rate {rate:g}", "rates", formula(*at), *at, rate=rate))
    return found


def formula(alpha: float, temperature: float) -> str:
    return f"blend(alpha={alpha:g}, temperature={temperature:g})"


def landscape(stored: Stored, split: str = "validation", measure: str = "accuracy") -> np.ndarray:
    """Stack the scores of the landscape's cells: (α, T, seeds), in the order of the plan's alphas and temperatures."""
    plan = stored.record["plan"]
    return np.array(
        [
            [stored.scores(cell(alpha, t), measure, split) for t in plan["temperatures"]]
            for alpha in plan["alphas"]
        ]
    )


def rates(stored: Stored, split: str = "validation", measure: str = "accuracy") -> np.ndarray:
    """Stack the scores of the coarse grid: (α, T, learning rate, seeds)."""
    levels = stored.record["plan"]["coarse"]
    names = [f"{cell(*at)}, rate {rate:g}" for *at, rate in product(*levels)]
    return np.array([stored.scores(name, measure, split) for name in names]).reshape(*map(len, levels), -1)


class Grid(Bench):
    """Makes the rows of the file. Texts are tokenized once per process, and the teacher is asked once."""

    study, compared = "grid", staticmethod(configurations)

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        super().__init__(plan, task, teacher, folder)
        self.texts = task.subset(plan.few)
        self.looked_at = task.subset(plan.validation, split="validation")
        self.table = cache(lambda: token_vectors(teacher, task, dict(plan.student)["width"]))

    def seeds(self, c: Configuration) -> Sequence[int]:
        return self.plan.coarse_seeds if c.part == "rates" else self.plan.seeds

    def chosen_by(self, c: Configuration) -> str:
        return c.like

    def settings(self, c: Configuration, record: dict) -> tuple[list[dict], dict | None]:
        """Return the rate that a run of the coarse grid has, or what the arm that chooses for it has chosen."""
        return super().settings(c, record) if c.like else ([], {"learning_rate": c.rate})

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it in these splits; of the landscape, also which test texts are right."""
        student, bits = self.student(seed), c.part == "landscape"
        how = settings | {"steps": c.times * self.plan.steps}
        found = self.train(student, self.teacher, self.texts, c.objective, seed, **how)
        return found | {
            split: scores(student, self.looked_at, split, right=bits and split == "test") for split in splits
        }

    def student(self, seed: int) -> PreTrainedModel:
        """Make a student with the teacher's vectors of the tokens, which are asked for once."""
        student = cnn_student(self.task, seed=seed, **dict(self.plan.student))
        student.get_input_embeddings().weight.data.copy_(self.table())
        return student


run = Grid.make
