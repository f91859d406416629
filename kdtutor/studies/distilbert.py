"""The stored study of DistilBERT: which parts of its recipe matter, and what is retained downstream.

    kdtutor study distilbert               # makes the runs that the file lacks; may be stopped at any time
    stored = load("distilbert")            # what it found, of every seed that is complete
    stored.scores("triple loss", task="sentiment")          # test accuracy, one per seed
    stored.retention("triple loss")        # macro average over the three tasks, as a share of the teacher's
    stored.compare("triple loss", "without cosine", task="macro")    # paired over the seeds

Stage one, pre-training: the course's BERT (6 layers) teaches students of 3 layers on a random part of `glosses`. It
is measured by masked LM. Stage two, fine-tuning: each of these students, and the teacher's own body, is
fine-tuned on each task: same texts, same steps. What differs between two configurations is what `ARMS` says.

How a run is set up (`Plan`). Every text is seen once: at equal cost, new texts teach more than old ones.
Learning rates are chosen at one seed outside the five, on validation, and never for the benefit of distillation: the
students' on the student without distillation (masked LM alone), the teacher's on the teacher, and that of the student
with random weights, which wants larger ones, on itself. Dropout is 0 at pre-training, as in the teacher's own, and 0.1
at fine-tuning, for all alike. The test splits are used once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from kdtutor import evaluation
from kdtutor.data.load import load_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.evaluation.statistics import Interval, mean_and_interval
from kdtutor.models.load import load_model, load_teacher, quiet
from kdtutor.models.sizes import sizes
from kdtutor.models.students import make_student, set_dropout
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies.stored import SPLITS, Stored, still_valid, versions, write
from kdtutor.training.checkpoints import held, writable
from kdtutor.training.distillation import Distillation
from kdtutor.training.teachers import fingerprint

TASKS = ("supersense", "sentiment", "valence")
MEASURE = {"glosses": "accuracy", "supersense": "accuracy", "sentiment": "accuracy", "valence": "spearman"}
TRIPLE = "5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()"

#: Sanh et al. 2019, arXiv:1910.01108: its tables 1 and 3, relative to BERT-base
PAPER = {"retention": 77.0 / 79.5, "parameters": 66 / 110, "speed": 668 / 410}


@dataclass(frozen=True)
class Arm:
    """One configuration: how its body was made, and how it is fine-tuned.

    pretraining: the objective on masked LM, or None: no step. copied: whether its layers are the teacher's at first, or
    random. again: whether the fine-tuned teacher of the same task and seed teaches once more at fine-tuning, as in the
    paper's section 4: half hard labels, half the teacher (soft targets, T = 2; squared error in a regression).
    body: the name of the arm whose pre-trained body it shares, by default its own.
    """

    name: str
    pretraining: str | None = None
    copied: bool = True
    again: bool = False
    body: str = ""
    tasks: tuple[str, ...] = TASKS

    @property
    def measured_on(self) -> tuple[str, ...]:
        """Return the tasks of its rows: masked LM first, unless another arm has the same body."""
        return self.tasks if self.body else ("glosses", *self.tasks)


TEACHER, CONTROL, RANDOM = "teacher", "masked LM alone", "random weights"
DISTILLED, TWICE = "triple loss", "triple loss, distilled again"
ARMS = {
    arm.name: arm
    for arm in (
        Arm(TEACHER),
        Arm(DISTILLED, TRIPLE),
        Arm(TWICE, TRIPLE, again=True, body=DISTILLED),
        Arm(CONTROL, "MaskedLM()"),
        Arm("without soft targets", "2 * MaskedLM() + 1 * CosineHidden()", tasks=TASKS[:1]),
        Arm("without masked LM", "5 * SoftTargets(2) + 1 * CosineHidden()", tasks=TASKS[:1]),
        Arm("without cosine", "5 * SoftTargets(2) + 2 * MaskedLM()", tasks=TASKS[:1]),
        Arm(RANDOM, TRIPLE, copied=False, tasks=TASKS[:1]),
        Arm("copied layers alone", tasks=TASKS[:1]),
    )
}


@dataclass(frozen=True)
class Stage:
    """How a body is trained on a task, and measured.

    texts, validation, test: how many random texts of each split, the same at every seed; None: all. Each training
    text is seen once. rates: the learning rates that are tried first.
    """

    texts: int | None = None
    validation: int | None = None
    test: int | None = None
    batch_size: int = 32
    rates: tuple[float, ...] = (2e-4, 4e-4)


@dataclass(frozen=True)
class Plan:
    """Sizes: about four hours in one thread of a slow CPU, of which 37 minutes for each seed."""

    glosses: Stage = Stage(10_000, validation=1000, test=3000, rates=(1.5e-4, 3e-4))
    supersense: Stage = Stage(8000, validation=1000, test=4000)
    sentiment: Stage = Stage(8000, batch_size=16, rates=(1.5e-4, 3e-4))
    valence: Stage = Stage(8000, batch_size=16, rates=(1.5e-4, 3e-4))
    random_rates: tuple[float, ...] = (6e-4, 1.2e-3)  # at pre-training, from random weights
    beyond: int = 2  # how many more are tried, doubled or halved, while the best is the largest or smallest
    dropout: float = 0.1  # at fine-tuning
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


def load_tasks() -> dict:
    return {name: load_task(name) for name in ("glosses", *TASKS)}


def run(
    plan: Plan, file: Path, folder: Path, tasks=None, teacher=None, restart: bool = False, report=print
) -> Results:
    """Make every run that `file` lacks, seed by seed, and write it after each, whole or not at all.

    folder: where pre-trained bodies and fine-tuned teachers are kept (about 1.5 GB) for the runs that start from them;
    what is missing there is made again. tasks, teacher: by default the embedded ones. restart: forget what is stored.
    Raises KDTutorError if the file was made with another teacher, data, versions or plan, or if the folder is in use.
    """
    tasks = tasks or load_tasks()
    teacher = teacher or load_teacher(tasks["glosses"])
    for place in (folder, file.parent):
        writable(place)  # said now, not after the first run
    arms = {arm.name: as_stored(arm) for arm in ARMS.values()}
    record = {
        "study": "distilbert",
        "command": "kdtutor study distilbert",
        "teacher": fingerprint(teacher),
        "data": ", ".join(f"{name} {task.fingerprint}" for name, task in tasks.items()),
        "versions": versions(),
        "plan": as_stored(plan) | {"chosen_on": {name: arms[name] for name in (CONTROL, RANDOM, TEACHER)}},
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
        "configurations": arms,
        "sizes": {},
        "choosing": [],
        "speed": [],
        "runs": [],
    }
    with held(folder):
        if restart:
            for about in folder.glob("*/*/about.json"):
                shutil.rmtree(about.parent)
        else:
            record |= still_valid(record, file, report)
        workshop = _Workshop(plan, tasks, teacher, folder, record, partial(write, file, record), report)
        workshop.measure_sizes()
        workshop.choose()
        for seed in plan.seeds:
            workshop.compare_speed(seed)
            for arm in ARMS.values():
                for task in arm.measured_on:
                    workshop.make(arm, task, seed)
    return Results(record)


def as_stored(what) -> dict:
    """Convert a dataclass to what the file gives back of it."""
    return json.loads(json.dumps(asdict(what)))


class _Workshop:
    """Makes runs. Whatever one starts from is made first, or found in the work folder."""

    def __init__(
        self, plan: Plan, tasks: Mapping, teacher, folder: Path, record: dict, save: Callable, report
    ):
        self.plan, self.teacher, self.folder = plan, teacher, folder
        self.record, self.save, self.report = record, save, report
        self.tasks = {name: _part(task, getattr(plan, name)) for name, task in tasks.items()}
        self.done = {(row["configuration"], row["task"], row["seed"]) for row in record["runs"]}
        total = sum(len(arm.measured_on) for arm in ARMS.values()) * len(plan.seeds)
        self.count = lambda: f"{len(self.record['runs'])} of {total}"

    # -------------------------------------------------------------------------------- rows of the file

    def make(self, arm: Arm, task: str, seed: int) -> None:
        """Add a row for this arm, task and seed, if there is none yet."""
        if (arm.name, task, seed) in self.done:
            return
        rate = self.rate(arm, task)
        model, seconds = self.trained(arm, task, seed, rate)
        scores = {split: self.scores(model, task, split) for split in SPLITS}
        row = {"configuration": arm.name, "task": task, "seed": seed, "learning_rate": rate}
        self.record["runs"].append(row | {"seconds": seconds} | scores)
        self.save()
        shown = ", ".join(f"{split} {scores[split][MEASURE[task]]:.4f}" for split in SPLITS)
        self.report(f"{self.count()}: seed {seed}, {arm.name}, {task}: {shown}, {seconds:.0f} s")

    def choose(self) -> None:
        """Try learning rates at a seed outside the study: see the module's docstring."""
        both = [(who, task) for task in TASKS for who in (CONTROL, TEACHER)]
        for who, task in [(CONTROL, "glosses"), (RANDOM, "glosses"), *both]:
            planned = self.plan.random_rates if who == RANDOM else getattr(self.plan, task).rates
            while rate := rate_to_try(planned, _tried(self.record, who, task), self.plan.beyond):
                model, seconds = self.trained(ARMS[who], task, self.plan.choosing_seed, rate)
                scores = self.scores(model, task, "validation")
                row = {"configuration": who, "task": task, "learning_rate": rate, "seconds": seconds}
                self.record["choosing"].append(row | {"seed": self.plan.choosing_seed, "validation": scores})
                self.save()
                shown = f"validation {scores[MEASURE[task]]:.4f}, {seconds:.0f} s"
                self.report(f"choosing: {who}, {task}, learning rate {rate:g}: {shown}")

    def trained(self, arm: Arm, task: str, seed: int, rate: float | None) -> tuple[PreTrainedModel, float]:
        """Train a model to be measured on `task`; also the seconds that took."""
        if task != "glosses":
            return self.finetuned(arm, task, seed, rate)
        folder, seconds = self.body(arm, seed, rate)
        return load_model(folder, self.tasks["glosses"]), seconds

    def rate(self, arm: Arm, task: str) -> float | None:
        """Look up the learning rate that was chosen for this arm on this task; None where it takes no step."""
        if task == "glosses" and arm.pretraining is None:
            return None
        own = arm.name == TEACHER or (arm.name == RANDOM and task == "glosses")
        return chosen_rate(self.record, arm.name if own else CONTROL, task)

    def compare_speed(self, seed: int) -> None:
        """Time teacher and student, one text at a time on the CPU, in turns: a row for each seed."""
        if any(row["seed"] == seed for row in self.record["speed"]):
            return
        times = evaluation.latencies_ms(self.pair(), self.tasks[TASKS[0]])
        times = {name: round(value, 3) for name, value in times.items()}
        self.record["speed"].append({"seed": seed, "threads": torch.get_num_threads(), "milliseconds": times})
        self.save()

    def measure_sizes(self) -> None:
        self.record["sizes"] = {name: asdict(sizes(model)) for name, model in self.pair().items()}

    def pair(self) -> dict:
        """Make teacher and student with a classification head, as they would be used."""
        names = {"teacher": ARMS[TEACHER], "student": ARMS["copied layers alone"]}
        return {name: self.with_head(arm, TASKS[0], seed=0) for name, arm in names.items()}

    # -------------------------------------------------------------------------------- models

    def body(self, arm: Arm, seed: int, rate: float | None = None) -> tuple[Path, float]:
        """Find or make the masked LM of an arm: folder, seconds of training. rate: by default the chosen one."""
        if arm.name == TEACHER:
            return self.kept({"body": "teacher"}, lambda: self.teacher)
        if arm.pretraining is None:  # the same at every seed
            return self.kept({"body": arm.name}, lambda: self.student(arm, seed))
        rate = rate or self.rate(arm, "glosses")
        decides = {"body": arm.body or arm.name, "formula": arm.pretraining, "seed": seed, "rate": rate}
        return self.kept(decides, lambda: self.pretrain(arm, seed, rate))

    def pretrain(self, arm: Arm, seed: int, rate: float):
        student = set_dropout(self.student(arm, seed), 0.0)
        return self.train(student, self.teacher, "glosses", arm.pretraining, seed, rate)

    def student(self, arm: Arm, seed: int):
        """Take half the teacher's layers: the teacher's own, or random ones."""
        student = make_student("half-depth", self.teacher, self.tasks["glosses"], token_types="drop")
        with _random_weights(seed):
            return student if arm.copied else type(student)(student.config).train()

    def with_head(self, arm: Arm, task: str, seed: int):
        """Put a new head for `task` on an arm's body."""
        folder, _ = self.body(arm, seed)
        with _random_weights(seed):
            return load_model(folder, self.tasks[task])

    def finetuned(self, arm: Arm, task: str, seed: int, rate: float) -> tuple[PreTrainedModel, float]:
        """Fine-tune an arm on a task; also the seconds that took. The teacher is kept: it teaches another arm."""
        if arm.name == TEACHER:
            folder, seconds = self.finetuned_teacher(task, seed, rate)
            return load_model(folder, self.tasks[task]), seconds
        student, teacher, formula = self.with_head(arm, task, seed), None, "HardLabels()"
        if arm.again:
            folder, _ = self.finetuned_teacher(task, seed, self.rate(ARMS[TEACHER], task))
            teacher = load_teacher(self.tasks[task], folder)
            soft = "SoftTargets(2)" if self.tasks[task].rules.answer == "classes" else "LogitsMSE()"
            formula = f"0.5 * HardLabels() + 0.5 * {soft}"
        start = time.perf_counter()
        self.train(set_dropout(student, self.plan.dropout), teacher, task, formula, seed, rate)
        return student, round(time.perf_counter() - start, 1)

    def finetuned_teacher(self, task: str, seed: int, rate: float) -> tuple[Path, float]:
        def make():
            model = set_dropout(self.with_head(ARMS[TEACHER], task, seed), self.plan.dropout)
            return self.train(model, None, task, "HardLabels()", seed, rate)

        return self.kept({"body": f"teacher of {task}", "seed": seed, "rate": rate}, make)

    def train(self, model, teacher, task: str, formula: str, seed: int, rate: float):
        """Train for one pass over the training texts of a task."""
        objective = parse_objective(formula)
        settings = {"epochs": 1, "batch_size": getattr(self.plan, task).batch_size, "learning_rate": rate}
        teacher = teacher if objective.needs_teacher else None
        quiet = {"precision": "fp32", "progress": False}
        Distillation(model, teacher, self.tasks[task], objective, seed=seed, **settings, **quiet).run()
        return model

    def scores(self, model, task: str, split: str) -> dict[str, float]:
        texts = self.tasks[task]
        if task == "glosses":
            found = evaluation.masked_lm_scores(model, texts, split)
        else:
            logits, targets = evaluation.predict(model, texts, split), texts.targets(split)
            found = evaluation.scores_of(logits, targets, texts.rules)
            domains = texts.split(split).domains or ()
            for domain in sorted(set(domains)):
                inside = torch.tensor([other == domain for other in domains])
                found[f"spearman_{domain}"] = evaluation.spearman(logits[inside, 0], targets[inside])
        return {name: round(value, 6) for name, value in found.items()}

    def kept(self, decides: dict, make: Callable[[], PreTrainedModel]) -> tuple[Path, float]:
        """Find or make a model in the work folder: where, and the seconds that `make` took, now or earlier.

        Its folder's name tells apart whatever `decides` what the model is, so none is taken for another.
        """
        same = {what: self.record[what] for what in ("teacher", "data", "versions", "plan")}
        digest = hashlib.sha256(json.dumps([same, decides], sort_keys=True).encode()).hexdigest()[:8]
        name = "-".join(str(decides["body"]).replace(",", "").split())
        seed = f"seed-{decides['seed']}" if "seed" in decides else "start"
        folder = self.folder / seed / f"{name}-{digest}"
        about = folder / "about.json"
        if not about.is_file():
            start = time.perf_counter()
            model = make()
            seconds = round(time.perf_counter() - start, 1)
            unfinished = folder.with_name(f"{folder.name}.partial")
            for remains in (folder, unfinished):
                shutil.rmtree(remains, ignore_errors=True)
            with quiet():
                model.save_pretrained(unfinished)
            told = decides | {"seconds": seconds}
            (unfinished / about.name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            os.replace(unfinished, folder)
        return folder, json.loads(about.read_text(encoding="utf-8"))["seconds"]


@contextmanager
def _random_weights(seed: int) -> Iterator[None]:
    """Open a block in which new weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _part(task: Task, stage: Stage) -> Task:
    """Pick the random texts that `stage` trains on and measures."""
    for split, count in {"train": stage.texts, "validation": stage.validation, "test": stage.test}.items():
        if count is not None:
            task = task.subset(count, split=split)
    return task


# ------------------------------------------------------------------------------------------------ the results


class Results(Stored):
    """The results of the study, of every seed that is complete: partial results compare like with like."""

    @property
    def seeds(self) -> list[int]:
        """List the seeds at which every configuration was measured on each of its tasks."""
        arms = [Arm(**arm) for arm in self.record["configurations"].values()]
        wanted = {(arm.name, task) for arm in arms for task in arm.measured_on}
        found = defaultdict(set)
        for row in self.record["runs"]:
            found[row["seed"]].add((row["configuration"], row["task"]))
        return sorted(seed for seed, rows in found.items() if rows == wanted)

    def scores(
        self, configuration: str, measure: str | None = None, split: str = "test", task: str = "supersense"
    ) -> list[float]:
        """List one value per seed, in order, of one task ("glosses": masked LM) or "macro": the mean of all three.

        measure: by default accuracy, or spearman for valence; whatever the file has of that task, such as macro_f1,
        ece, perplexity.
        """
        if task == "macro":
            tasks = [self.scores(configuration, measure, split, task) for task in TASKS]
            return [statistics.mean(scores) for scores in zip(*tasks, strict=True)]
        if configuration not in self.configurations:
            raise KDTutorError(nearest("configuration of distilbert", configuration, self.configurations))
        measured = Arm(**self.record["configurations"][configuration]).measured_on
        if task not in measured:
            raise KDTutorError(f'"{configuration}" was measured on {", ".join(measured)}, not on {task}')
        rows = {
            row["seed"]: row[split]
            for row in self.record["runs"]
            if (row["configuration"], row["task"]) == (configuration, task)
        }
        return [rows[seed][measure or MEASURE[task]] for seed in self.seeds]

    def retention(self, configuration: str, task: str = "macro", split: str = "test") -> list[float]:
        """Compute the score as a share of the teacher's, one value per seed."""
        own, teacher = (self.scores(who, None, split, task) for who in (configuration, TEACHER))
        return [score / reference for score, reference in zip(own, teacher, strict=True)]

    def speed(self) -> list[float]:
        """Compute how many times faster than the teacher the student reads one text on the CPU, one value per seed."""
        times = [row["milliseconds"] for row in self.record["speed"] if row["seed"] in self.seeds]
        return [time["teacher"] / time["student"] for time in times]

    def size(self) -> float:
        """Compute the student's parameters as a share of the teacher's."""
        sizes = self.record["sizes"]
        return sizes["student"]["parameters"] / sizes["teacher"]["parameters"]

    def __str__(self) -> str:
        if not self.seeds:
            return "no seed is complete yet"
        tasks = ("glosses", *TASKS, "macro")
        lines = [f"test scores over {len(self.seeds)} seeds" + "".join(f"{task:>17}" for task in tasks)]
        for name in self.configurations:
            arm = Arm(**self.record["configurations"][name])
            measured = {*arm.measured_on, *(["macro"] if set(TASKS) <= set(arm.tasks) else [])}
            cells = [_cell(self.mean(name, task=task)) if task in measured else "" for task in tasks]
            lines.append(f"{name:<29}" + "".join(f"{cell:>17}" for cell in cells))
        for name in (CONTROL, DISTILLED, TWICE):
            lines.append(f"retained by {name}: {_cell(mean_and_interval(self.retention(name)))}")
        lines.append(f"parameters {self.size():.3f}, speed {_cell(mean_and_interval(self.speed()))}")
        return "\n".join(lines)

    __repr__ = __str__


def _cell(found: Interval) -> str:
    return f"{found.mean:.4f} ± {found.half_width:.4f}"


# ------------------------------------------------------------------------------------------------ learning rates


def rate_to_try(planned: Sequence[float], tried: Mapping[float, float], beyond: int) -> float | None:
    """Choose the next learning rate: those planned, then up to `beyond` more while the best is the last on its side.

    tried: learning rate → what it was worth, higher is better.
    """
    if left := [rate for rate in planned if rate not in tried]:
        return left[0]
    best = max(tried, key=tried.__getitem__)
    if len(tried) >= len(planned) + beyond or min(tried) < best < max(tried):
        return None
    return 2 * best if best == max(tried) else best / 2


def chosen_rate(record: Mapping, who: str, task: str) -> float:
    """Look up the learning rate with the best score on validation (masked LM: the lowest loss)."""
    tried = _tried(record, who, task)
    return max(tried, key=tried.__getitem__)


def _tried(record: Mapping, who: str, task: str) -> dict[float, float]:
    """List what each learning rate was worth on validation, in the order of trying."""
    rows = [row for row in record["choosing"] if (row["configuration"], row["task"]) == (who, task)]
    worth = {row["learning_rate"]: row["validation"] for row in rows}
    return {
        rate: -found["loss"] if task == "glosses" else found[MEASURE[task]] for rate, found in worth.items()
    }
