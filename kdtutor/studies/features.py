"""The stored study of what lies below the logits: hidden states, attention, relations, each beside logits alone.

    kdtutor study features --processes 2   # makes the runs that the file lacks; may be stopped at any time
    print(load("features"))

Nine objectives, for a student with copied layers; four of them also for one with random weights, and for both with
more texts. Each chooses its learning rate on validation, and a term beside the logits its weight as well, at one seed
outside the five and by one rule for all. Controls: hard labels, label smoothing, and logits alone for as long as a
step with the teacher's layers takes: its answers are kept, and its layers are asked for at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.students import make_student, set_dropout
from kdtutor.studies.bench import Bench
from kdtutor.studies.runner import Sweeps
from kdtutor.studies.stored import CONTROLS, HARD, TEACHER, WORDS
from kdtutor.studies.training import words_alone

LOGITS = "SoftTargets(2)"
#: objectives; {weight} is chosen on validation, beside the learning rate
ARMS = CONTROLS | {
    "logits": LOGITS,
    "hidden states": LOGITS + " + {weight} * HiddenStates('evenly')",
    "attention relations": LOGITS + " + {weight} * AttentionRelations()",
    "value relations": LOGITS + " + {weight} * ValueRelations()",
    "CLS patience": LOGITS + " + {weight} * CLSPatience()",
    "distances of texts": LOGITS + " + {weight} * RelationalDistance()",
    "similarities of texts": LOGITS + " + {weight} * SimilarityPreserving()",
}
LONGER = "logits, at equal time"
#: what is asked of a second student, and with more texts
MAIN = (HARD, "logits", LONGER, "hidden states", "value relations")


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: some six hours of one core, by a count of multiply-adds.

    few, many: labelled texts. passes: over the few; as many steps over the many, twice as long. longer: how many times
    the steps of "at equal time". The first of the rates and weights is kept until its turn comes.
    """

    few: int = 2000
    many: int = 8000
    passes: int = 10
    batch_size: int = 32
    max_norm: float = 10.0
    longer: float = 1.7
    rates: tuple[float, ...] = (2e-4, 4e-4)
    random_rates: tuple[float, ...] = (1e-3, 5e-4)
    weights: tuple[float, ...] = (1.0, 0.1, 10.0)
    layers: int = 3
    width: int = 128  # of the student with random weights, which has two layers
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table. arm: of `ARMS`; student: copied or random; texts: few or many; objective: None for a bar."""

    name: str
    arm: str
    student: str
    texts: str
    objective: str | None


def configurations() -> list[Configuration]:
    """List what is compared: the runs are made in this order."""
    found = [
        Configuration(f"{name}, {texts}", name, "", texts, None)
        for name in (TEACHER, WORDS)
        for texts in (["few"] if name == TEACHER else ["few", "many"])
    ]
    formulas = ARMS | {LONGER: LOGITS}
    for student, texts in (("copied", "few"), ("random", "few"), ("copied", "many"), ("random", "many")):
        for arm in formulas if (student, texts) == ("copied", "few") else MAIN:
            name = f"{arm}, {student}, {texts}"
            found.append(Configuration(name, arm, student, texts, formulas[arm]))
    return found


class Features(Bench):
    """Makes the rows of the file."""

    study, compared = "features", staticmethod(lambda plan: configurations())

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        super().__init__(plan, task, teacher, folder)
        self.texts = cache(lambda which: task.subset(getattr(plan, which)))

    def bar(self, c: Configuration, seed: int | None) -> dict:
        return words_alone(self.texts(c.texts)) if c.arm == WORDS else super().bar(c, seed)

    def sweeps(self, c: Configuration) -> Sweeps:
        """List the settings to choose: a term beside the logits has a weight; a learning rate everything has."""
        rates = self.plan.random_rates if c.student == "random" else self.plan.rates
        weight = [("weight", self.plan.weights)] if "{weight}" in c.objective else []
        return [*weight, ("learning_rate", rates)]

    def student(self, c: Configuration, seed: int) -> PreTrainedModel:
        """Make a student: the teacher's layers copied, or random weights; the seed decides what is not copied."""
        if c.student == "copied":
            student = make_student("half-depth", self.teacher, self.task, seed, layers=self.plan.layers)
            return set_dropout(student, 0.0)
        return make_student("small-bert", self.teacher, self.task, seed, width=self.plan.width, dropout=0.0)

    def steps(self, c: Configuration) -> int:
        """Count the steps: as many for every arm of a student on the same texts, but for "at equal time"."""
        steps = self.plan.passes * self.plan.few // self.plan.batch_size * (2 if c.texts == "many" else 1)
        return round(steps * self.plan.longer) if c.arm == LONGER else steps

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it in these splits."""
        how = {"steps": self.steps(c), "learning_rate": settings["learning_rate"]}
        if "{weight}" in c.objective:
            how["cache"] = False  # layers are asked for at every step
        student, formula = self.student(c, seed), c.objective.format(weight=settings.get("weight"))
        found = self.train(student, self.teacher, self.texts(c.texts), formula, seed, **how)
        return found | self.scored(student, splits)


run = Features.make
