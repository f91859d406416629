"""Making the runs of the study of DistilBERT: see distilbert.py for what is compared, and how it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from kdtutor import evaluation
from kdtutor.data.task import Split, Task
from kdtutor.models.depth import half_depth
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.load import load_model, load_teacher
from kdtutor.models.seeds import drawn_by
from kdtutor.models.sizes import sizes
from kdtutor.models.students import set_dropout
from kdtutor.studies import load
from kdtutor.studies.distilbert import (
    ARMS,
    CONTROL,
    PLANS,
    RANDOM,
    START,
    TASKS,
    TEACHER,
    Arm,
    Plan,
    Results,
    Stage,
    tried,
)
from kdtutor.studies.runner import Job, Ledger, as_stored, head_of, kept, settings_to_try, work
from kdtutor.studies.stored import MEASURED, WORDS, versions
from kdtutor.studies.training import scores, train, words_alone
from kdtutor.training.checkpoints import writable

FORMAT = 2  # of the file; the first had one pass, and one learning rate for all students


def run(plan: Plan, file: Path, folder: Path, tasks: Mapping[str, Task], teacher, report=print) -> Results:
    """Make what `file` lacks, seed by seed, and write it after each row, whole or not at all; others may help.

    folder: where pre-trained bodies and fine-tuned teachers are kept (about 2 GB) for the runs that start from them;
    what is missing there is made again. Raises KDTutorError if the file was made with another teacher, data or plan.
    """
    bench = _Bench(plan, tasks, teacher, writable(folder))
    data = ", ".join(f"{name} {task.fingerprint}" for name, task in tasks.items())
    head = head_of(name_of(plan), teacher, data, plan, ("seeds",)) | {"study": "distilbert", "format": FORMAT}
    head["configurations"] = {name: as_stored(ARMS[name]) for name in plan.arms}
    head["sizes"] = {name: asdict(sizes(model)) for name, model in bench.pair().items()}
    head |= {"bars": [], "room": [], "choosing": _chosen_before(plan), "speed": [], "runs": []}
    total = len(plan.seeds) * sum(len(ARMS[name].measured_on) for name in plan.arms)
    return Results(work(Ledger(file, head, report), bench.jobs, total, report))


def name_of(plan: Plan) -> str:
    """Look up the name of a plan; one of other sizes has that of the study."""
    return next((name for name, known in PLANS.items() if known == plan), "distilbert")


def _chosen_before(plan: Plan) -> list[dict]:
    """List what another study tried, where this one takes its learning rates: all that it doesn't try itself."""
    if not plan.tuned_by:
        return []
    own = {"glosses"} if plan.glosses != PLANS[plan.tuned_by].glosses else set()
    tried_there = load(plan.tuned_by).record["choosing"]
    return [row for row in tried_there if row["configuration"] in plan.arms and row["task"] not in own]


def _corpus(plan: Plan, tasks: Mapping[str, Task]) -> Task:
    """Pick what is pre-trained on: all training texts of the other tasks of the corpus, and other lines of glosses."""
    others = dict.fromkeys(text for name in plan.corpus[1:] for text in tasks[name].texts("train"))
    if not others:
        return _part(tasks["glosses"], plan.glosses)
    lines = tasks["glosses"].split("train")
    new = torch.tensor([i for i, text in enumerate(lines.texts[0]) if text not in others])
    rest = replace(tasks["glosses"], splits=tasks["glosses"].splits | {"train": lines.select(new)})
    part = _part(rest, replace(plan.glosses, texts=plan.glosses.texts - len(others)))
    train = Split(([*part.texts("train"), *others],), None)
    return replace(part, name=f"{part.name}[and {len(others)} others]", splits=part.splits | {"train": train})


class _Bench:
    """Makes the rows of the file. Whatever one starts from is made first, or found in the work folder."""

    def __init__(self, plan: Plan, tasks: Mapping[str, Task], teacher: PreTrainedModel, folder: Path):
        self.plan, self.teacher, self.folder = plan, teacher, folder / "models"
        self.tasks = {name: _part(tasks[name], getattr(plan, name)) for name in TASKS}
        self.tasks["glosses"] = _corpus(plan, tasks)
        self.few = _part(tasks["glosses"], replace(plan.glosses, texts=plan.choosing_texts))
        self.record: dict = {"choosing": []}  # as it was when the present job was found
        self.same = [fingerprint(teacher), [task.fingerprint for task in self.tasks.values()], versions()]

    # ---------------------------------------------------------------------------- which row is next

    def jobs(self, record: dict) -> Iterator[Job]:
        """Yield what the record lacks: the bars, then seed by seed, arm by arm, control and teacher first."""
        self.record = record
        done = {(row["configuration"], row["task"], row["seed"]) for row in record["runs"]}
        bars = {row["task"] for row in record["bars"]}
        for task in (task for task in TASKS if task not in bars):
            row = {"configuration": WORDS, "task": task}
            yield Job("bars", row, lambda task=task: words_alone(self.tasks[task]))
        yield from self._rooms()
        names = sorted(self.plan.arms, key=lambda name: name not in (CONTROL, TEACHER))
        arms = [ARMS[name] for name in names]
        for seed in self.plan.seeds:
            if all(row["seed"] != seed for row in record["speed"]):
                yield Job("speed", {"seed": seed}, self.compare_speed)
            for arm in arms:
                for task in arm.measured_on:
                    if (arm.name, task, seed) not in done:
                        yield from self._next(arm, task, seed, done)

    def _next(self, arm: Arm, task: str, seed: int, done: set) -> Iterator[Job]:
        """Yield the job of one row, or what has to be chosen before it; or say that it must wait for another row."""
        row = {"configuration": arm.name, "task": task, "seed": seed}
        needed = set()
        if task != "glosses":  # the rates of fine-tuning are tried on the first seed's body
            needed = {(arm.body or arm.name, "glosses", s) for s in (seed, self.plan.seeds[0])}
        if arm.again:
            needed.add((TEACHER, task, seed))
        if not needed <= done:
            yield Job("runs", row)
            return
        missing, _ = self._choosing(arm, task)
        yield from missing
        if not missing:
            yield Job("runs", row, lambda: self.measured(arm, task, seed))

    def _choosing(self, arm: Arm, task: str) -> tuple[list[Job], float | None]:
        """Return what this arm must still try on this task, or the learning rate that it chose; None: takes no step."""
        if task == "glosses" and arm.pretraining is None:
            return [], None
        rates = getattr(self.plan, task).rates
        if (arm.name, task) == (RANDOM, "glosses"):
            rates = self.plan.random_rates
        worth, seeds = tried(self.record, arm.name, task), self.plan.choosing_seeds
        known = [
            ({"rate": r}, mean(found.values())) for r, found in worth.items() if {*seeds} == found.keys()
        ]
        missing, chosen = settings_to_try([("rate", rates)], known)
        jobs = []
        for rate in (settings["rate"] for settings in missing):
            for seed in (seed for seed in seeds if seed not in worth.get(rate, {})):
                row = {"configuration": arm.name, "task": task, "seed": seed, "learning_rate": rate}
                jobs.append(Job("choosing", row, partial(self._try, arm, task, seed, rate)))
        return jobs, chosen and chosen["rate"]

    def rate(self, arm: Arm, task: str) -> float | None:
        return self._choosing(arm, task)[1]

    def _try(self, arm: Arm, task: str, seed: int, rate: float) -> dict:
        """Try a learning rate: at pre-training on fewer texts, at fine-tuning from the body of the first seed."""
        if task == "glosses":
            model, found = self.pretrained(arm, seed, rate, self.few)
        else:
            model, found = self.finetuned(arm, task, seed, rate, body_seed=self.plan.seeds[0])
        return found | {"validation": self.scores(model, task, "validation")}

    def _rooms(self) -> Iterator[Job]:
        """Say on validation what the teacher has ahead of its control: without room, nothing can be transferred."""
        known = {row["task"] for row in self.record["room"]}
        if not {TEACHER, CONTROL} <= {*self.plan.arms}:
            return
        for task in (task for task in TASKS if task not in known):
            if all(self.rate(ARMS[who], task) for who in (TEACHER, CONTROL)):
                worth = [tried(self.record, who, task) for who in (TEACHER, CONTROL)]
                best = [max(mean(found.values()) for found in by_rate.values()) for by_rate in worth]
                found = {"teacher": best[0], "control": best[1], "room": round(best[0] - best[1], 6)}
                yield Job("room", {"task": task}, lambda found=found: found)

    # ---------------------------------------------------------------------------- what a row holds

    def measured(self, arm: Arm, task: str, seed: int) -> dict:
        """Train and measure a model at the rate that its arm chose."""
        rate = self.rate(arm, task)
        if task == "glosses":
            folder, found = self.body(arm, seed)
            model = load_model(folder, self.tasks[task])
        else:
            model, found = self.finetuned(arm, task, seed, rate, body_seed=seed)
        found |= {split: self.scores(model, task, split) for split in MEASURED}
        return {"learning_rate": rate} | found

    def scores(self, model, task: str, split: str) -> dict[str, float]:
        texts = self.tasks[task]
        model.to(PartialState().device)  # where it was trained, or would have been
        if task == "glosses":
            found = evaluation.token_scores(model, texts, split)
            return {name: round(value, 6) for name, value in found.items()}
        found = scores(model, texts, split, right=split == "test")
        for domain in sorted(set(texts.split(split).domains or ())):
            inside = torch.tensor([other == domain for other in texts.split(split).domains]).nonzero()[:, 0]
            part = replace(texts, splits={split: texts.split(split).select(inside)})
            found[f"spearman_{domain}"] = scores(model, part, split)["spearman"]
        return found

    def compare_speed(self) -> dict:
        """Time teacher and student as transformers runs them, one text at a time on the CPU, in turns."""
        times = evaluation.latencies_ms(self.pair(), self.tasks[TASKS[0]])
        times = {name: round(value, 3) for name, value in times.items()}
        return {"threads": torch.get_num_threads(), "milliseconds": times}

    def pair(self) -> dict[str, PreTrainedModel]:
        """Make teacher and student with a classification head, as they would be used."""
        names = {"teacher": ARMS[TEACHER], "student": ARMS[START]}
        return {name: self.with_head(arm, TASKS[0], 0, 0) for name, arm in names.items()}

    # ---------------------------------------------------------------------------- models

    def body(self, arm: Arm, seed: int) -> tuple[Path, dict]:
        """Find or make the masked LM of an arm: its folder, and what was seen."""
        arm = ARMS[arm.body or arm.name]
        if arm.name == TEACHER:
            return kept(self.folder / "teacher", self.same, lambda: (self.teacher, {}))
        place, decides = self.folder / "-".join(arm.name.split()), [*self.same, as_stored(arm)]
        rate = self.rate(arm, "glosses")
        if rate:
            place, decides = place.with_name(f"{place.name}-seed-{seed}"), [*decides, seed, rate]
            decides.append(as_stored(self.plan.glosses))
        return kept(place, decides, lambda: self.pretrained(arm, seed, rate, self.tasks["glosses"]))

    def pretrained(
        self, arm: Arm, seed: int, rate: float | None, glosses: Task
    ) -> tuple[PreTrainedModel, dict]:
        """Make a student of half the teacher's layers, its own or random ones, and let it learn; also what was seen."""
        student = half_depth(self.teacher)
        if not arm.copied:
            with drawn_by(seed):
                student = type(student)(student.config)
        set_dropout(student, 0.0)
        if arm.pretraining is None:
            return student, {}
        return student, self.train(student, self.teacher, "glosses", arm.pretraining, seed, rate, glosses)

    def with_head(self, arm: Arm, task: str, seed: int, body_seed: int) -> PreTrainedModel:
        """Put a new head for `task` on an arm's body."""
        folder, _ = self.body(arm, body_seed)
        with drawn_by(seed):
            return set_dropout(load_model(folder, self.tasks[task]), self.plan.dropout)

    def finetuned(
        self, arm: Arm, task: str, seed: int, rate: float, body_seed: int
    ) -> tuple[PreTrainedModel, dict]:
        """Fine-tune an arm on a task; also what was seen. The teacher is kept: it teaches another arm."""
        if arm.name == TEACHER:
            folder, found = self.finetuned_teacher(task, seed, rate)
            return load_model(folder, self.tasks[task]), found
        student, teacher, formula = self.with_head(arm, task, seed, body_seed), None, "HardLabels()"
        if arm.again:
            folder, _ = self.finetuned_teacher(task, seed, self.rate(ARMS[TEACHER], task))
            teacher = load_teacher(self.tasks[task], folder)
            soft = "SoftTargets(2)" if self.tasks[task].rules.answer == "classes" else "LogitsMSE()"
            formula = f"0.5 * HardLabels() + 0.5 * {soft}"
        return student, self.train(student, teacher, task, formula, seed, rate)

    def finetuned_teacher(self, task: str, seed: int, rate: float) -> tuple[Path, dict]:
        def make() -> tuple[PreTrainedModel, dict]:
            model = self.with_head(ARMS[TEACHER], task, seed, seed)
            return model, self.train(model, None, task, "HardLabels()", seed, rate)

        decides = [*self.same, task, seed, as_stored(getattr(self.plan, task)), self.plan.dropout, rate]
        return kept(self.folder / f"teacher-of-{task}-seed-{seed}", decides, make)

    def train(
        self, model, teacher, task: str, formula: str, seed: int, rate: float, texts: Task | None = None
    ) -> dict:
        stage = getattr(self.plan, task)
        how = {"epochs": stage.passes, "batch_size": stage.batch_size, "max_norm": stage.max_norm}
        how |= {"learning_rate": rate, "precision": self.plan.precision}
        found = train(model, teacher, texts or self.tasks[task], formula, seed=seed, **how)
        return {name: found[name] for name in ("steps", "precision", "clipped")}


def _part(task: Task, stage: Stage) -> Task:
    """Pick the random texts that `stage` trains on and measures."""
    for split, count in {"train": stage.texts, "validation": stage.validation, "test": stage.test}.items():
        if count is not None:
            task = task.subset(count, split=split)
    return task
