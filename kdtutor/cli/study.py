"""`kdtutor study NAME`: make the runs of a stored study that its file lacks."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from kdtutor.errors import KDTutorError, nearest
from kdtutor.studies import STUDIES
from kdtutor.studies.logits import logits_study, run
from kdtutor.studies.stored import SPLITS, results_file


def main(argv: list[str]) -> int:
    """Run `kdtutor study NAME`."""
    parser = argparse.ArgumentParser(prog="kdtutor study", description=__doc__.splitlines()[0])
    parser.add_argument("name", help=f"one of: {', '.join(STUDIES)}")
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
    if arguments.name not in STUDIES:
        raise KDTutorError(nearest("study", arguments.name, STUDIES))
    if arguments.teacher and not arguments.output:
        raise KDTutorError(
            "--teacher needs --output: the file that notebooks show belongs to the embedded teacher"
        )
    file, say = arguments.output or results_file(arguments.name), partial(print, flush=True)
    if arguments.name == "distilbert":
        from kdtutor.studies import distilbert as study_distilbert

        tasks = study_distilbert.load_tasks()
        teacher = _teacher(tasks["glosses"], arguments.teacher)
        options = {"restart": arguments.restart, "report": say}
        print(
            study_distilbert.run(study_distilbert.Plan(), file, arguments.folder, tasks, teacher, **options)
        )
        return 0
    study = logits_study()
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
