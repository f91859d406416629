"""The stored study of objectives on logits: which one, at which temperature, and what unlabelled texts are worth."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kdtutor.studies.stored import SPLITS, Stored, still_valid, versions, write


@dataclass(frozen=True)
class Configuration:
    """One row of a comparison: everything that decides a run, but for the seed.

    objective: a formula, as in `kdtutor distill`. examples: training texts, the same random ones at every
    seed. labelled: how many of them keep their label (None: all). unlabelled: whether the others are there to
    learn from. The student is a BERT of `layers` × `width` with random weights, too small and too briefly trained
    for dropout. The learning rate is the best of 5e-4, 1e-3 and 2e-3 for the control without a teacher.
    """

    name: str
    objective: str
    examples: int = 10_000
    labelled: int | None = None
    unlabelled: bool = True
    layers: int = 2
    width: int = 128
    dropout: float = 0.0
    steps: int = 626  # two passes over 10,000 texts
    batch_size: int = 32
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Study:
    name: str
    task: str
    configurations: tuple[Configuration, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def logits_study() -> Study:
    """Plan notebook 05's study: which objective on logits, which temperature, what unlabelled texts are worth."""
    transfer = {"examples": 20_000, "labelled": 2000}
    blended = "0.1 * HardLabels() + 0.9 * SoftTargets(1)"  # the temperature that validation chose
    return Study(
        "logits",
        "supersense",
        (
            Configuration("hard labels", "HardLabels()"),
            Configuration("label smoothing", "0.9 * HardLabels() + 0.1 * UniformTargets()"),
            *(
                Configuration(f"soft targets, T = {t}", f"0.1 * HardLabels() + 0.9 * SoftTargets({t})")
                for t in (1, 2, 4, 8)
            ),
            Configuration("soft cross-entropy, T = 2", "0.1 * HardLabels() + 0.9 * SoftCrossEntropy(2)"),
            Configuration("logit MSE", "0.1 * HardLabels() + 0.9 * LogitsMSE()"),
            Configuration("2,000 labels", "HardLabels()", unlabelled=False, **transfer),
            Configuration("2,000 texts, teacher", blended, unlabelled=False, **transfer),
            Configuration("20,000 texts, teacher", blended, **transfer),
        ),
    )


def run(study: Study, file: Path, task=None, teacher=None, restart: bool = False, report=print) -> Stored:
    """Train and measure what `file` lacks, seed by seed, and write it after every run, whole or not at all.

    task, teacher: by default those that the study names and ship. restart: forget what is stored.
    Raises KDTutorError if the file was made with another teacher, other data or other versions.
    """
    from kdtutor import data, models
    from kdtutor.training.teachers import fingerprint

    task = task or data.load_task(study.task)
    teacher = teacher or models.load_teacher(task)
    record = {
        "study": study.name,
        "command": f"kdtutor study {study.name}",
        "teacher": fingerprint(teacher),
        "data": f"{task.name} {task.fingerprint}",
        "versions": versions(),
        "configurations": {c.name: asdict(c) for c in study.configurations},
        "runs": [],
    }
    if not restart:
        record |= still_valid(record, file, report)
    done = {(run["configuration"], run["seed"]) for run in record["runs"]}
    missing = [(c, seed) for seed in study.seeds for c in study.configurations if (c.name, seed) not in done]
    tasks: dict[tuple, data.Task] = {}  # texts are tokenized once a process, and a task hashed once
    with tempfile.TemporaryDirectory() as answers:  # and the teacher is asked once
        for i, (configuration, seed) in enumerate(missing, start=1):
            what = configuration.examples, configuration.labelled, configuration.unlabelled
            if what not in tasks:
                tasks[what] = _task(task, configuration)
            result = _run(configuration, seed, tasks[what], teacher, answers)
            record["runs"].append(result)
            write(file, record)
            scores = ", ".join(f"{split} {result[split]['accuracy']:.4f}" for split in SPLITS)
            who = f"{configuration.name}, seed {seed}"
            report(f"{i} of {len(missing)}: {who}: {scores}, {result['seconds']:.0f} s")
    return Stored(record)


def _run(configuration: Configuration, seed: int, task, teacher, answers: str) -> dict:
    """Train and measure one student: a row of the file. `answers`: the folder of the teacher's logits."""
    from kdtutor import evaluation, models
    from kdtutor.objectives.parse import parse_objective
    from kdtutor.training.distillation import Distillation

    shape = {name: getattr(configuration, name) for name in ("layers", "width", "dropout")}
    student = models.make_student("small-bert", teacher, task, seed=seed, **shape)
    objective = parse_objective(configuration.objective)
    settings = {name: getattr(configuration, name) for name in ("steps", "batch_size", "learning_rate")}
    distillation = Distillation(
        student,
        teacher,
        task,
        objective,
        seed=seed,
        precision="fp32",
        cache=answers,
        progress=False,
        **settings,
    )
    start = time.perf_counter()
    distillation.run()
    seconds = round(time.perf_counter() - start, 1)
    row = {"configuration": configuration.name, "seed": seed, "seconds": seconds}
    measures = evaluation.accuracy, evaluation.macro_f1, evaluation.ece
    for split in SPLITS:
        logits, labels = evaluation.predict(student, task, split), task.targets(split)
        row[split] = {measure.__name__: round(measure(logits, labels), 6) for measure in measures}
    return row


def _task(task, configuration: Configuration):
    if configuration.examples < len(task.split("train")):
        task = task.subset(configuration.examples)
    if configuration.labelled is not None:
        task = task.transfer(configuration.labelled)
    return task if configuration.unlabelled else task.labelled_only()
