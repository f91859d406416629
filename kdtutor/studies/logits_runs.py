"""Making the runs of the study of distilling logits: see logits.py for what is compared, and how it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED
from kdtutor.evaluation import predict
from kdtutor.models.depth import half_depth
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.load import freeze, load_model
from kdtutor.models.seeds import drawn_by
from kdtutor.models.students import set_dropout, small_bert
from kdtutor.studies.logits import HARD, TEACHER, WORDS, Configuration, Plan, configurations, name_of
from kdtutor.studies.runner import (
    Job,
    Ledger,
    as_stored,
    hardware,
    kept,
    settings_to_try,
    work,
)
from kdtutor.studies.stored import SPLITS, Stored, versions
from kdtutor.studies.training import scores, scores_from, train, words_alone
from kdtutor.training.checkpoints import writable
from kdtutor.training.history import NonFiniteLoss

FORMAT = 2  # of the file; the first had one length, and one learning rate for all


def run(
    plan: Plan,
    file: Path,
    folder: Path,
    task: Task,
    teacher: PreTrainedModel,
    body: PreTrainedModel,
    report=print,
) -> Stored:
    """Make what `file` lacks, and write it after every run, whole or not at all; other processes may help.

    folder: where teachers' answers and the other teachers are kept; what is missing there is made again. body: the
    pre-trained masked LM. Raises KDTutorError if the file was made otherwise.
    """
    head = {
        "study": "logits",
        "format": FORMAT,
        "command": "kdtutor study logits",
        "teacher": fingerprint(teacher),
        "body": fingerprint(body),
        "data": f"{task.name} {task.fingerprint}",
        "versions": versions(),
        "plan": {name: value for name, value in as_stored(plan).items() if name not in ("seeds", "passes")},
        "hardware": hardware(),
        "configurations": {c.name: as_stored(c) for c in configurations(plan)},
        "room": [],
        "choosing": [],
        "runs": [],
    }
    writable(folder)
    ledger = Ledger(file, head, report)
    bench = _Bench(plan, task, teacher, body, folder)
    seeded = sum(c.objective is not None for c in configurations(plan))
    total = len(configurations(plan)) + seeded * (len(plan.seeds) - 1)
    return Stored(work(ledger, bench.jobs, total, report))


class _Bench:
    """Makes the rows of the file. Texts are tokenized once per process, and a teacher is asked once."""

    def __init__(self, plan: Plan, task: Task, teacher, body, folder: Path):
        self.plan, self.task, self.body, self.folder = plan, task, body, folder
        self.all = {c.name: c for c in configurations(plan)}
        self.teachers = {TEACHER: teacher}
        self.texts, self.watched, self.other = cache(self._texts), cache(self._watched), cache(self._other)

    # ---------------------------------------------------------------------------- which row is next

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks: the bars and the room, then one configuration after the other, all its seeds."""
        done = {(row["configuration"], row["seed"]) for row in record["runs"]}
        bars = [c for c in self.all.values() if c.part == "bars"]

        # First the teacher and its control: is there anything to be gained?
        control = self.all[name_of(HARD, self.plan.passes[0])]
        if not record["room"]:
            yield from (self._row(c, None) for c in bars[:2] if (c.name, None) not in done)
            waiting, settings = self._choosing(control, record)
            yield from waiting
            ready = settings and (TEACHER, None) in done
            yield Job("room", {"control": control.name}, (lambda: self.room(record)) if ready else None)

        for c in self.all.values():
            missing = [s for s in (self.plan.seeds if c.objective else [None]) if (c.name, s) not in done]
            if not missing:
                continue
            waiting, settings = self._choosing(c, record)
            yield from waiting
            if settings is not None:
                yield from (self._row(c, seed, settings) for seed in missing)

    def _choosing(self, c: Configuration, record: dict) -> tuple[list[Job], dict | None]:
        """Return the settings that this configuration must still try, or those chosen."""
        if c.objective is None:
            return [], {}
        if c.settings_of:
            return self._choosing(self.all[c.settings_of], record)
        rows = [row for row in record["choosing"] if row["configuration"] == c.name]
        tried = [(row["settings"], row["validation"]["accuracy"]) for row in rows]
        missing, chosen = settings_to_try(c.sweeps, tried)
        row = {"configuration": c.name, "seed": self.plan.choosing_seed}
        jobs = [Job("choosing", row | {"settings": settings}, self._try(c, settings)) for settings in missing]
        return jobs, chosen

    def _try(self, c: Configuration, settings: dict):
        def make() -> dict:
            try:
                return self.trained(c, self.plan.choosing_seed, settings, watch=False)
            except NonFiniteLoss:
                return {"validation": {"accuracy": 0.0}, "diverged": True}

        return make

    def _row(self, c: Configuration, seed: int | None, settings: dict | None = None) -> Job:
        def make() -> dict:
            if c.arm == WORDS:
                return words_alone(self.texts(c.texts, c.labels))
            if c.objective is None:
                return self.bar(c.teacher)
            return {"settings": settings} | self.trained(c, seed, settings)

        return Job("runs", {"configuration": c.name, "seed": seed}, make)

    # ---------------------------------------------------------------------------- what a row holds

    def trained(self, c: Configuration, seed: int, settings: dict, watch: bool = True) -> dict:
        """Train and measure a student; with its settings not yet chosen on the validation split alone."""
        student, precision = self.student(c, seed)
        task, teacher = self.texts(c.texts, c.labels, c.teacher), self.other(c.teacher)
        how = settings | {"batch_size": self.plan.batch_size, "seed": seed, "precision": precision}
        seen = self.watched(c.texts) if watch else None
        found = train(student, teacher, task, c.objective, seen, cache=self.folder / "answers", **how)
        for split in SPLITS if watch else ("validation",):
            found[split] = scores(student, self.task, split, right=split == "test")
        return found

    def student(self, c: Configuration, seed: int) -> tuple[PreTrainedModel, str]:
        """Make a student, and tell its precision: for a small one bf16 is no faster."""
        if c.student == "small":
            layers, width = self.plan.small
            return small_bert(self.task, layers, width, dropout=0.0, seed=seed), "fp32"
        return half_depth(self.headed(seed), self.plan.read, seed), "auto"

    def headed(self, seed: int) -> PreTrainedModel:
        """Put a head with random weights on the pre-trained body."""
        folder, _ = kept(self.folder / "models" / "body", fingerprint(self.body), lambda: (self.body, {}))
        with drawn_by(seed):
            return set_dropout(load_model(folder, self.task), self.plan.dropout)

    def bar(self, name: str) -> dict:
        """Measure a teacher: on its own texts, on the pool and on both held-out splits, and how sure it is there."""
        found, teacher = {}, self.other(name)
        sets = {
            "train": self.texts("own"),
            "pool": self.texts("pool"),
            "validation": self.task,
            "test": self.task,
        }
        for what, task in sets.items():
            split = "train" if what == "pool" else what
            logits = self.answers(teacher, task, split)
            found[what] = scores_from(logits, task.targets(split), task.rules, right=what == "test")
            p = logits.double().softmax(-1)
            found[what]["top"] = round(float(p.amax(-1).mean()), 6)
            found[what]["entropy"] = round(float(-(p * p.clamp(min=1e-300).log()).sum(-1).mean()), 6)
        return found

    def room(self, record: dict) -> dict:
        """Say on validation what the teacher has ahead of its control: without room there is nothing to study."""
        bar = {row["configuration"]: row["validation"]["accuracy"] for row in record["runs"]}
        control = name_of(HARD, self.plan.passes[0])
        tried = [r["validation"]["accuracy"] for r in record["choosing"] if r["configuration"] == control]
        return {"teacher": bar[TEACHER], "best": max(tried), "room": round(bar[TEACHER] - max(tried), 6)}

    # ---------------------------------------------------------------------------- texts and teachers

    def _texts(self, which: str, labels: str = "true", teacher: str = TEACHER) -> Task:
        """Pick the training texts, the same at every seed, with the labels that the student may see."""
        if which == "few and pool":
            task = self.task.subset(self.plan.few).with_pool(labels=labels == "true")
        else:
            task = self.task.train_on("pool") if which == "pool" else self.task
            task = task.subset(self.plan.few if which == "few" else self.plan.examples)
        if labels == "argmax":
            hidden = ~task.split("train").labelled if which == "few and pool" else torch.tensor(True)
            answers = self.answers(self.other(teacher), task, "train").argmax(-1)
            return _relabelled(task, torch.where(hidden, answers, task.targets("train")))
        if labels == "hidden" and which == "pool":
            return _relabelled(task, torch.full_like(task.targets("train"), IGNORED))
        return task

    def _watched(self, texts: str) -> Task:
        """Pick the fixed texts that are watched along the training, with their true labels."""
        task = self.texts(texts)
        splits = {split: task.split(split) for split in ("train", "validation")}
        count = self.plan.watched
        return replace(task, splits={name: part.sample(count) for name, part in splits.items()})

    def _other(self, name: str) -> PreTrainedModel:
        """Find or make a teacher: the course's own, or another one, fine-tuned here from the pre-trained body."""
        if name == TEACHER:
            return self.teachers[TEACHER]
        kind, _, number = name.rpartition(" ")
        examples, passes = next(rest for other, *rest in self.plan.others if other == kind)
        seed, task = int(number), self.task.subset(examples)
        decides = [fingerprint(self.body), task.fingerprint, passes, self.plan.others_rate, seed]

        def make() -> tuple[PreTrainedModel, dict]:
            model = self.headed(seed)
            how = {
                "epochs": passes,
                "learning_rate": self.plan.others_rate,
                "batch_size": self.plan.batch_size,
            }
            return model, train(model, None, task, "HardLabels()", seed=seed, **how)

        folder, _ = kept(self.folder / "models" / f"{kind}-{number}", decides, make)
        return freeze(load_model(folder, self.task))

    def answers(self, teacher: PreTrainedModel, task: Task, split: str) -> Tensor:
        """Find a teacher's logits in the work folder, or ask it: (N, C)."""
        key = f"{fingerprint(teacher)}-{task.fingerprint}-{split}"
        file = writable(self.folder / "answers") / f"logits-{key}.npy"
        with FileLock(file.with_suffix(".lock")):
            if not file.is_file():
                partial = file.with_suffix(".partial.npy")
                np.save(partial, predict(teacher, task, split).numpy())
                partial.replace(file)
        return torch.from_numpy(np.load(file))


def _relabelled(task: Task, targets: Tensor) -> Task:
    return replace(task, splits=task.splits | {"train": replace(task.split("train"), targets=targets)})
