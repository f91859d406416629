"""The stored study of students of another shape: five architectures, and what they learn from.

    kdtutor study shapes --processes 2     # makes the runs that the file lacks; may be stopped at any time

Every architecture learns from a few labels, from the teacher's answers to the same texts, to these and their variants
(`kd.augment`, Tang et al. 2019), and to these and the pool, in equally many steps. Each arm of each architecture
chooses its learning rate on validation, at one seed outside the five, by one rule for all; the test split is only
reported. A seed decides initial weights and order; texts and variants are the same at every seed. The bars are the
teacher, and TF-IDF with a linear model on the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PreTrainedModel

from kdtutor.data.augment import augment
from kdtutor.data.task import Task
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.students import make_student
from kdtutor.studies.runner import Job, Ledger, as_stored, hardware, settings_to_try, work
from kdtutor.studies.stored import SPLITS, Stored, versions
from kdtutor.studies.training import scores, train, words_alone
from kdtutor.training.checkpoints import writable
from kdtutor.training.history import NonFiniteLoss

TEACHER, WORDS = "teacher", "TF-IDF"
#: what is learned from: its texts and its objective
ARMS = {
    "hard labels": ("few", "HardLabels()"),
    "soft targets": ("few", "SoftTargets(2)"),
    "soft targets, variants": ("variants", "SoftTargets(2)"),
    "soft targets, pool": ("pool", "SoftTargets(2)"),
}


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: some four hours of one core, of which the BERT takes half.

    shapes: students of the register, each with its options. few: labelled texts; copies: variants of each. The first of
    the rates is the one that is kept until its turn comes.
    """

    few: int = 2000
    copies: int = 4
    steps: int = 2000
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
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table. shape: of the plan's; arm: of `ARMS`; objective: its formula, None for a bar."""

    name: str
    shape: str
    arm: str
    texts: str
    objective: str | None


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared, one architecture after the other: the runs are made in this order."""
    bars = [Configuration(name, "", name, "few", None) for name in (TEACHER, WORDS)]
    return bars + [
        Configuration(f"{shape}, {arm}", shape, arm, texts, objective)
        for shape, _, _ in plan.shapes
        for arm, (texts, objective) in ARMS.items()
    ]


def run(plan: Plan, file: Path, folder: Path, task: Task, teacher: PreTrainedModel, report=print) -> Stored:
    """Make what `file` lacks, and write it after every run, whole or not at all; other processes may help.

    folder: where the teacher's answers are kept. Raises KDTutorError if the file was made otherwise.
    """
    head = {
        "study": "shapes",
        "format": 1,
        "command": "kdtutor study shapes",
        "teacher": fingerprint(teacher),
        "data": f"{task.name} {task.fingerprint}",
        "versions": versions(),
        "plan": {name: value for name, value in as_stored(plan).items() if name != "seeds"},
        "hardware": hardware(),
        "configurations": {c.name: as_stored(c) for c in configurations(plan)},
        "choosing": [],
        "runs": [],
    }
    ledger = Ledger(file, head, report)
    bench = _Bench(plan, task, teacher, writable(folder))
    made = configurations(plan)
    seeded = sum(c.objective is not None for c in made)
    return Stored(work(ledger, bench.jobs, len(made) + seeded * (len(plan.seeds) - 1), report))


class _Bench:
    """Makes the rows of the file. Texts are tokenized once per process, and the teacher is asked once."""

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        self.plan, self.task, self.teacher, self.folder = plan, task, teacher, folder
        self.texts, self.table = cache(self._texts), cache(self._table)

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks: of each configuration first its rates, then its seeds."""
        done = {(row["configuration"], row["seed"]) for row in record["runs"]}
        for c in configurations(self.plan):
            missing = [s for s in (self.plan.seeds if c.objective else [None]) if (c.name, s) not in done]
            if not missing:
                continue
            settings = None
            if c.objective:
                rows = [row for row in record["choosing"] if row["configuration"] == c.name]
                tried = [(row["settings"], row["validation"]["accuracy"]) for row in rows]
                untried, settings = settings_to_try([("learning_rate", self.plan.rates)], tried)
                row = {"configuration": c.name, "seed": self.plan.choosing_seed}
                yield from (Job("choosing", row | {"settings": s}, self._try(c, s)) for s in untried)
                if settings is None:
                    continue
            yield from (self._row(c, seed, settings) for seed in missing)

    def _try(self, c: Configuration, settings: dict):
        def make() -> dict:
            try:
                return self.trained(c, self.plan.choosing_seed, settings, ("validation",))
            except NonFiniteLoss:
                return {"validation": {"accuracy": 0.0}, "diverged": True}

        return make

    def _row(self, c: Configuration, seed: int | None, settings: dict | None) -> Job:
        def make() -> dict:
            if c.arm == WORDS:
                return words_alone(self.texts("few"))
            if c.arm == TEACHER:
                return {
                    split: scores(self.teacher, self.task, split, right=split == "test") for split in SPLITS
                }
            return {"settings": settings} | self.trained(c, seed, settings, SPLITS)

        return Job("runs", {"configuration": c.name, "seed": seed}, make)

    def trained(self, c: Configuration, seed: int, settings: dict, splits: tuple[str, ...]) -> dict:
        """Train a student, and measure it in these splits."""
        student, plan = self.student(c.shape, seed), self.plan
        how = {"steps": plan.steps, "batch_size": plan.batch_size, "max_norm": plan.max_norm, "seed": seed}
        how |= {"precision": "fp32", "cache": self.folder / "answers"}
        found = train(student, self.teacher, self.texts(c.texts), c.objective, **how, **settings)
        return found | {split: scores(student, self.task, split, right=split == "test") for split in splits}

    def student(self, shape: str, seed: int) -> PreTrainedModel:
        """Make a student; of another shape, with the teacher's vectors of the tokens, which are asked for once."""
        _, name, options = next(row for row in self.plan.shapes if row[0] == shape)
        if name == "small-bert":
            return make_student(name, self.teacher, self.task, seed, **options)
        student = make_student(name, None, self.task, seed, **options)
        student.get_input_embeddings().weight.data.copy_(self.table(options["width"]))
        return student

    def _table(self, width: int):
        from kdtutor.models.vectors import token_vectors

        return token_vectors(self.teacher, self.task, width)

    def _texts(self, which: str) -> Task:
        """Pick the training texts, the same at every seed: the few, these and their variants, or these and the pool."""
        few = self.task.subset(self.plan.few)
        return {
            "few": lambda: few,
            "variants": lambda: augment(few, self.plan.copies),
            "pool": few.with_pool,
        }[which]()
