"""The stored study of robustness: does a student inherit it from its teacher, or only accuracy?

    kdtutor study robustness --processes 2     # makes the runs that the file lacks; may be stopped at any time

One student, a small CNN on film reviews, learns from a few labels, from smoothed ones, from the teacher's answers to
the same texts, to these and broken copies of them, and to many more; then from labels of which some are wrong, with a
teacher that knows the true ones, and with teachers that were fine-tuned on these very labels. All in equally many
steps. Each arm chooses its learning rate on whole validation texts, at one seed outside the five (students of misled
teachers have that of their twins); the test split is only reported. Measured are whole and broken texts, two attacks,
the teacher's own adversarial texts, another domain, calibration before and after a temperature fitted on validation,
and whether foreign texts are noticed; where a teacher was misled, whole texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedModel

from kdtutor import evaluation
from kdtutor.data.corruption import CORRUPTIONS, corrupt, with_copies
from kdtutor.data.load import load_task
from kdtutor.data.task import Task, random_rows
from kdtutor.evaluation.attacks import METHODS, Attacked
from kdtutor.models import load_model, load_teacher, set_dropout
from kdtutor.models.forward import logits_of
from kdtutor.models.seeds import drawn_by
from kdtutor.models.students import make_student
from kdtutor.objectives.formulas import entropy
from kdtutor.studies.bench import Bench
from kdtutor.studies.runner import as_stored, kept
from kdtutor.studies.stored import CONTROLS, HARD, MEASURED, TEACHER
from kdtutor.studies.training import scores, scores_from

#: what is learned from: its texts and its objective
ARMS = {arm: ("few", formula) for arm, formula in CONTROLS.items()} | {
    "soft targets": ("few", "SoftTargets(2)"),
    "soft targets, broken copies": ("broken", "SoftTargets(2)"),
    "soft targets, many texts": ("many", "SoftTargets(2)"),
}
#: the same with some wrong labels, of which the teacher knows nothing
NOISY = CONTROLS | {"labels and teacher": "0.5 * HardLabels() + 0.5 * SoftTargets(2)"}
MISLED = "misled teacher"


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: about an hour of one core."""

    few: int = 2000
    steps: int = 1000
    batch_size: int = 32
    max_norm: float = 10.0
    rates: tuple[float, ...] = (3e-3, 1e-2, 1e-3)
    student: tuple[str, dict] = ("cnn", {"width": 64, "dropout": 0.2})
    noise: tuple[float, ...] = (0.1, 0.2, 0.4)
    strengths: tuple[float, ...] = (0.1, 0.2, 0.4)
    attacked: int = 100
    foreign: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table. arm: what it learns from; noise: the share of wrong labels; objective: None for the teacher."""

    name: str
    arm: str
    texts: str
    noise: float
    objective: str | None


@dataclass(frozen=True)
class Misled(Configuration):
    """A teacher that was told the same wrong labels, or its student, which has the next teacher at each seed.

    The other fields say how it is fine-tuned: as the course's own teacher of this task, but in as many texts as a
    student has, and from a body that is shipped. teachers: their seeds.
    """

    body: str = "bert-glosses"
    passes: int = 3
    learning_rate: float = 1e-4
    warmup: float = 0.1
    dropout: float = 0.1
    teachers: tuple[int, ...] = (0, 1)


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared: the runs are made in this order."""
    clean = [Configuration(arm, arm, texts, 0.0, formula) for arm, (texts, formula) in ARMS.items()]
    noisy = [
        Configuration(f"{arm}, {share:.0%} wrong", arm, "few", share, formula)
        for share in plan.noise
        for arm, formula in NOISY.items()
    ]
    # The worst first: it tells most.
    told_the_same = [
        Misled(f"{arm}, {share:.0%} wrong", arm, "few", share, formula)
        for share in reversed(plan.noise)
        for arm, formula in ((MISLED, None), (f"labels and {MISLED}", NOISY["labels and teacher"]))
    ]
    return [Configuration(TEACHER, TEACHER, "few", 0.0, None), *clean, *noisy, *told_the_same]


class Robustness(Bench):
    """Makes the rows of the file. Texts are made once per process, and the teacher is asked once."""

    study, compared = "robustness", staticmethod(configurations)

    def __init__(self, plan: Plan, task: Task, teacher: PreTrainedModel, folder: Path):
        super().__init__(plan, task, teacher, folder)
        self.texts = cache(self._texts)
        self.against_teacher = cache(lambda method: self._attack(teacher, method))

    def seeds(self, c: Configuration) -> Sequence[int | None]:
        return c.teachers if c.arm == MISLED else super().seeds(c)

    def chosen_by(self, c: Configuration) -> str:
        """Name the arm whose rate is taken: a misled teacher's student differs from its twin in the teacher alone."""
        return f"labels and teacher, {c.noise:.0%} wrong" if isinstance(c, Misled) else c.name

    def bar(self, c: Configuration, seed: int | None) -> dict:
        return self.misled(c, seed)[1] if isinstance(c, Misled) else self.measured(self.teacher)

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it: on validation alone while a rate is chosen, else in everything."""
        name, options = self.plan.student
        student, teacher = make_student(name, None, self.task, seed, **options), self.teacher
        if isinstance(c, Misled):
            folder, _ = self.misled(c, c.teachers[seed % len(c.teachers)])
            teacher = load_teacher(self.task, folder)
        how, texts = settings | {"steps": self.plan.steps}, self.texts(c.texts, c.noise)
        found = self.train(student, teacher, texts, c.objective, seed, **how)
        if "test" in splits and not isinstance(c, Misled):
            return found | self.measured(student)
        return found | self.scored(student, splits)

    def misled(self, c: Misled, seed: int) -> tuple[Path, dict]:
        """Fine-tune a teacher on the labels of `c`, or find it: its folder, and what it answers.

        told: the share of its training texts of which it repeats the label that it was told; true: the true one.
        """
        plan, told = self.plan, self.texts(c.texts, c.noise)

        def make() -> tuple[PreTrainedModel, dict]:
            with drawn_by(seed):
                model = set_dropout(load_model(c.body, self.task), c.dropout)
            how = {
                "epochs": c.passes,
                "learning_rate": c.learning_rate,
                "warmup": c.warmup,
                "precision": "auto",
            }
            found = self.train(model, None, told, CONTROLS[HARD], seed, **how) | self.scored(model)
            answers = evaluation.predict(model, told, "train")
            for name, texts in {"told": told, "true": self.texts(c.texts, 0.0)}.items():
                found[name] = round(evaluation.accuracy(answers, texts.targets("train")), 6)
            return model, found

        others = ("name", "arm", "objective", "teachers")
        about = {name: value for name, value in as_stored(c).items() if name not in others}
        decides = [about, seed, plan.few, plan.batch_size, plan.max_norm, self.task.fingerprint]
        return kept(self.folder / "models" / f"misled-{c.noise:.0%}-seed-{seed}", decides, make)

    # ------------------------------------------------------------------------------------------ measuring

    def measured(self, model: PreTrainedModel) -> dict:
        """Measure a model on whole texts, and in everything that this study is about."""
        model.eval()
        logits = {split: evaluation.predict(model, self.task, split) for split in MEASURED}
        labels = {split: self.task.targets(split) for split in MEASURED}
        found = {
            split: scores_from(logits[split], labels[split], self.task.rules, right=split == "test")
            for split in MEASURED
        }
        temperature = evaluation.fit_temperature(logits["validation"], labels["validation"])
        foreign = logits_of(model, self.task.encode_texts(self.foreign()))
        own = logits["test"]
        doubt = [entropy(z, reduction="none") for z in (foreign, own)]
        shifted = evaluation.other_domain(self.task)
        return found | {
            "broken": {
                kind: evaluation.robustness_curve(model, self.task, kind, self.plan.strengths)
                for kind in CORRUPTIONS
            },
            "attacks": {method: evaluation.attack_rates(self._attack(model, method)) for method in METHODS},
            "transfer": {
                method: evaluation.transfer(self.against_teacher(method), model, self.task)[0]
                for method in METHODS
            },
            "calibration": {
                "temperature": temperature,
                "ece": evaluation.ece(own / temperature, labels["test"]),
            },
            "foreign": {
                "entropy": evaluation.auroc(*doubt),
                "energy": evaluation.auroc(evaluation.energy(foreign), evaluation.energy(own)),
            },
            "products": scores(model, shifted, "test")["accuracy"],
        }

    def _attack(self, model: PreTrainedModel, method: str) -> list[Attacked]:
        texts = self.task.texts("test")[: self.plan.attacked]
        return evaluation.attack(model, self.task, texts, self.task.targets("test")[: len(texts)], method)

    def foreign(self) -> list[str]:
        """List definitions: texts of which nobody can say whether they praise."""
        return load_task("supersense", tokenizer=self.task.tokenizer_name).texts("test")[: self.plan.foreign]

    # ------------------------------------------------------------------------------------------ texts

    def _texts(self, which: str, noise: float) -> Task:
        """Pick the training texts, the same at every seed; a share of the labels may be wrong."""
        few = self.task.subset(self.plan.few)
        if which == "many":
            return self.task.transfer(self.plan.few)
        if which == "broken":
            return _with_broken(few)
        return _with_wrong_labels(few, noise) if noise else few


def _with_broken(task: Task) -> Task:
    """Add a broken copy of each training text, without a label: a third of each kind that a tokenizer can see."""
    kinds = "typo", "drop", "synonym"
    copies = [corrupt([text], kinds[i % 3], 0.3)[0] for i, text in enumerate(task.texts("train"))]
    return with_copies(task, [copies], "broken copies")


def _with_wrong_labels(task: Task, share: float) -> Task:
    """Give a share of the training texts another class, drawn evenly among the others."""
    train = task.split("train")
    rows = random_rows(len(train), round(share * len(train)), seed=1)
    step = torch.randint(1, task.num_labels, (len(rows),), generator=torch.Generator().manual_seed(1))
    targets = train.targets.clone()
    targets[rows] = (targets[rows] + step) % task.num_labels
    name = f"{task.name}[{share:.0%} wrong]"
    return replace(task, name=name, splits=task.splits | {"train": replace(train, targets=targets)})


run = Robustness.make
