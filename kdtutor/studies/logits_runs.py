"""Making the runs of the study of distilling logits: see logits.py for what is compared, and how it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
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
from kdtutor.objectives.formulas import entropy
from kdtutor.studies.bench import Bench
from kdtutor.studies.logits import Configuration, Plan, configurations, name_of
from kdtutor.studies.runner import Job, Sweeps, kept
from kdtutor.studies.stored import HARD, MEASURED, TEACHER, WORDS, Stored
from kdtutor.studies.training import scores_from, train, words_alone
from kdtutor.training.checkpoints import writable


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
    return _Bench(plan, task, teacher, body, folder).run(file, report)


class _Bench(Bench):
    """Makes the rows of the file. Texts are tokenized once per process, and a teacher is asked once."""

    study, compared = "logits", staticmethod(configurations)
    format = 2  # the first had one length, and one learning rate for all
    may_change = ("seeds", "passes")

    def __init__(self, plan: Plan, task: Task, teacher, body, folder: Path):
        super().__init__(plan, task, teacher, folder)
        self.body, self.all = body, {c.name: c for c in self.configurations}
        self.texts, self.watched, self.other = cache(self._texts), cache(self._watched), cache(self._other)

    # ---------------------------------------------------------------------------- which row is next

    def head(self) -> dict:
        return super().head() | {"body": fingerprint(self.body), "room": []}

    def chosen_by(self, c: Configuration) -> str:
        return c.settings_of or c.name

    def sweeps(self, c: Configuration) -> Sweeps:
        return self.all[self.chosen_by(c)].sweeps

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks: first the teacher and its control. Is there anything to be gained?"""
        control = self.all[name_of(HARD, self.plan.passes[0])]
        if not record["room"]:
            for bar in self.configurations[:2]:
                yield from self.jobs_of(bar, record)
            yield from (job for job in self.jobs_of(control, record) if job.kind == "choosing")
            _, chosen = self.settings(control, record)
            is_ready = chosen and any(row["configuration"] == TEACHER for row in record["runs"])
            yield Job("room", {"control": control.name}, partial(self.room, record) if is_ready else None)
        yield from super().jobs(record)

    # ---------------------------------------------------------------------------- what a row holds

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train and measure a student; with its settings not yet chosen it is not watched."""
        student, precision = self.student(c, seed)
        task, teacher = self.texts(c.texts, c.labels, c.teacher), self.other(c.teacher)
        how = settings | {"batch_size": self.plan.batch_size, "seed": seed, "precision": precision}
        seen = self.watched(c.texts) if "test" in splits else None
        found = train(student, teacher, task, c.objective, seen, cache=self.folder / "answers", **how)
        return found | self.scored(student, splits)

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

    def bar(self, c: Configuration, seed: int | None) -> dict:
        """Measure TF-IDF, or a teacher: on its own texts, the pool and both held-out splits, and how sure it is."""
        if c.arm == WORDS:
            return words_alone(self.texts(c.texts, c.labels))
        found, teacher = {}, self.other(c.teacher)
        sets = {"train": self.texts("own"), "pool": self.texts("pool")} | dict.fromkeys(MEASURED, self.task)
        for what, task in sets.items():
            split = "train" if what == "pool" else what
            logits = self.answers(teacher, task, split)
            found[what] = scores_from(logits, task.targets(split), task.rules, right=what == "test")
            found[what]["top"] = round(float(logits.double().softmax(-1).amax(-1).mean()), 6)
            found[what]["entropy"] = round(float(entropy(logits.double())), 6)
        return found

    def room(self, record: dict) -> dict:
        """Say on validation what the teacher has ahead of its control: without room there is nothing to study."""
        bar = {row["configuration"]: row["validation"]["accuracy"] for row in record["runs"]}
        control = name_of(HARD, self.plan.passes[0])
        rows = [row for row in record["choosing"] if row["configuration"] == control]
        tried = [row["validation"].get("accuracy", 0.0) for row in rows]  # none where it diverged
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
            return self.teacher
        kind, _, number = name.rpartition(" ")
        examples, passes = next(rest for other, *rest in self.plan.others if other == kind)
        seed, task = int(number), self.task.subset(examples)
        decides = [fingerprint(self.body), task.fingerprint, passes, self.plan.others_rate, seed]

        def make() -> tuple[PreTrainedModel, dict]:
            model = self.headed(seed)
            how = {"epochs": passes, "learning_rate": self.plan.others_rate, "seed": seed}
            return model, train(model, None, task, "HardLabels()", batch_size=self.plan.batch_size, **how)

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
