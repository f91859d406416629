"""Stored studies: a comparison trained at several seeds and kept as one JSON file, which notebooks show.

    kdtutor study logits              # makes the runs that the file lacks; may be stopped at any time
    stored = load("logits")           # what it found
    stored.scores("hard labels")      # test accuracy, one a seed
    stored.compare("soft targets, T = 2", "hard labels")    # paired over the seeds

Every configuration has the same student and the same steps, and at one seed the same initial weights and the
same order of the data: what differs is what the table says. Choose on the validation split; the test split is
only reported. The study `distilbert`, which trains in two stages, stands in study_distilbert.py.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from kdtutor.assets import asset_path
from kdtutor.errors import KDTutorError, nearest

SPLITS = ("validation", "test")
IDENTITY = ("teacher", "data", "versions", "plan")  # what all runs of one file have in common


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


def _logits() -> Study:
    """Notebook 05: which objective on logits, which temperature, and what unlabelled texts are worth."""
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


STUDIES: dict[str, Callable[[], Study]] = {"logits": _logits}


def run(study: Study, file: Path, task=None, teacher=None, restart: bool = False, report=print) -> Stored:
    """Train and measure what `file` lacks, seed by seed, and write it after every run, whole or not at all.

    task, teacher: by default those that the study names and ship. restart: forget what is stored.
    Raises KDTutorError if the file was made with another teacher, other data or other versions.
    """
    from kdtutor import data, models
    from kdtutor.answers import fingerprint

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
    """One student, trained and measured: a row of the file. `answers`: the folder of the teacher's logits."""
    from kdtutor import evaluation, models
    from kdtutor.cli import parse_objective
    from kdtutor.distillation import Distillation

    shape = {name: getattr(configuration, name) for name in ("layers", "width", "dropout")}
    student = models.small_bert(task, seed=seed, **shape)
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


# ------------------------------------------------------------------------------------------------ the file


@dataclass(frozen=True)
class Stored:
    """The results of a study, as its file holds them."""

    record: dict

    @property
    def configurations(self) -> tuple[str, ...]:
        return tuple(self.record["configurations"])

    def scores(self, configuration: str, measure: str = "accuracy", split: str = "test") -> list[float]:
        """One value a seed, seeds in order. measure: accuracy, macro_f1 or ece, fractions from 0 to 1."""
        if configuration not in self.configurations:
            what = f"configuration of {self.record['study']}"
            raise KDTutorError(nearest(what, configuration, self.configurations))
        rows = [row for row in self.record["runs"] if row["configuration"] == configuration]
        return [row[split][measure] for row in sorted(rows, key=lambda row: row["seed"])]

    def mean(self, configuration: str, *what, **which):
        """Mean over the seeds, with its 95 % interval, of what `scores` gives."""
        from kdtutor.evaluation import mean_and_interval

        return mean_and_interval(self.scores(configuration, *what, **which))

    def compare(self, first: str, second: str, *what, **which):
        """First minus second of what `scores` gives, paired over the seeds."""
        from kdtutor.evaluation import paired_seeds_test

        return paired_seeds_test(self.scores(first, *what, **which), self.scores(second, *what, **which))

    def best(self, configurations: tuple[str, ...]) -> str:
        """The one to choose: highest mean accuracy on the validation split, never on the test split."""
        return max(configurations, key=lambda name: self.mean(name, split="validation").mean)


def results_file(name: str) -> Path:
    return asset_path(f"results/{name}.json")


def load(name: str) -> Stored:
    """The stored results of a study; of `distilbert`, as `study_distilbert.Results`."""
    file = results_file(name)
    if not file.is_file():
        stored = sorted(path.stem for path in file.parent.glob("*.json"))
        raise KDTutorError(nearest("stored study", name, stored) + f"; kdtutor study {name} makes it")
    record = _read(file)
    if record.get("study") == "distilbert":
        from kdtutor.study_distilbert import Results

        return Results(record)
    return Stored(record)


def still_valid(record: dict, file: Path, report: Callable[[str], None]) -> dict[str, list[dict]]:
    """What `file` holds in the lists of `record` and belongs to it: same identity, same configuration."""
    if not file.is_file():
        return {}
    old = _read(file)
    for what in IDENTITY:
        if old.get(what) != record.get(what):
            raise KDTutorError(
                f"{file} was made with another {what} ({old.get(what)}, now {record.get(what)}): its runs "
                "can't be compared with new ones; --restart makes all of them anew"
            )
    new = record["configurations"]
    changed = sorted(name for name, what in old["configurations"].items() if new.get(name) != what)
    if changed:
        report(f"changed since they ran, so forgotten: {', '.join(changed)}")
    lists = [name for name, rows in record.items() if isinstance(rows, list)]
    return {
        name: [row for row in old.get(name, []) if row.get("configuration") not in changed] for name in lists
    }


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{file} can't be read ({error}); restore it, or make it anew: --restart"
        raise KDTutorError(message) from error


def write(file: Path, record: dict) -> None:
    """Whole or not at all; one line a run, which makes for a readable diff."""
    lists = {name: rows for name, rows in record.items() if rows and isinstance(rows, list)}
    text = json.dumps(record | {name: [] for name in lists}, indent=2)
    for name, rows in lists.items():
        lines = ",\n    ".join(map(json.dumps, rows))
        text = text.replace(f'\n  "{name}": []', f'\n  "{name}": [\n    {lines}\n  ]')
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, file)


def versions() -> dict[str, str]:
    return {name: __import__(name).__version__ for name in ("torch", "transformers")}


def main(argv: list[str]) -> int:
    """`kdtutor study NAME`."""
    names = [*STUDIES, "distilbert"]
    parser = argparse.ArgumentParser(prog="kdtutor study", description=__doc__.splitlines()[0])
    parser.add_argument("name", help=f"one of: {', '.join(names)}")
    parser.add_argument("--output", type=Path, help="results file (default: the one that notebooks show)")
    parser.add_argument(
        "--teacher", help="another teacher: a folder, say; needs --output (default: the embedded one)"
    )
    parser.add_argument("--restart", action="store_true", help="forget the stored runs")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/study-distilbert"),
        help="where the study distilbert keeps its checkpoints while it runs (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.name not in names:
        raise KDTutorError(nearest("study", arguments.name, names))
    if arguments.teacher and not arguments.output:
        raise KDTutorError(
            "--teacher needs --output: the file that notebooks show belongs to the embedded teacher"
        )
    file, say = arguments.output or results_file(arguments.name), partial(print, flush=True)
    if arguments.name == "distilbert":
        from kdtutor import study_distilbert

        tasks = study_distilbert.load_tasks()
        teacher = _teacher(tasks["glosses"], arguments.teacher)
        options = {"restart": arguments.restart, "report": say}
        print(
            study_distilbert.run(study_distilbert.Plan(), file, arguments.folder, tasks, teacher, **options)
        )
        return 0
    study = STUDIES[arguments.name]()
    task = teacher = None
    if arguments.teacher:
        from kdtutor import data

        task = data.load_task(study.task)
        teacher = _teacher(task, arguments.teacher)
    stored = run(study, file, task, teacher, restart=arguments.restart, report=say)
    for name in stored.configurations:
        print(f"{name:<28}" + "".join(f"  {split} {stored.mean(name, split=split)}" for split in SPLITS))
    return 0


def _teacher(task, name: str | None):
    from kdtutor import models

    return models.load_teacher(task, name)
