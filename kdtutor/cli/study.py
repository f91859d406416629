"""`kdtutor study NAME`: make the runs of a stored study that its file lacks."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from kdtutor.errors import Flags, KDTutorError, nearest
from kdtutor.studies import STUDIES
from kdtutor.studies.stored import Stored, forget, results_file

#: studies of one task that is not supersense
TASKS = {"sequences": "pronunciation", "robustness": "sentiment", "shapes-sentiment": "sentiment"}


def main(argv: list[str]) -> int:
    """Run `kdtutor study NAME`."""
    parser = Flags(prog="kdtutor study", description=__doc__.splitlines()[0])
    parser.add_argument("name", help=f"one of: {', '.join(STUDIES)}")
    parser.add_argument("--output", type=Path, help="results file (default: the one that notebooks show)")
    parser.add_argument("--teacher", help="another teacher: a folder, say (default: the embedded one)")
    parser.add_argument("--body", help="another pre-trained masked LM (default: bert-glosses)")
    parser.add_argument("--data", type=Path, help="a folder of tasks (default: the embedded ones)")
    parser.add_argument(
        "--tokenizer", help="a folder (default: the teacher's, if it is a folder, or the embedded one)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="run so many side by side, each in one thread"
    )
    parser.add_argument("--restart", action="store_true", help="forget the stored runs")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where models and answers are kept while it runs (default: runs/study-NAME)",
    )
    given = parser.parse_args(argv)
    if given.name not in STUDIES:
        raise KDTutorError(nearest("study", given.name, STUDIES))
    if (given.teacher or given.body or given.data) and not given.output:
        raise KDTutorError(
            "--teacher, --body and --data need --output: the file that notebooks show belongs to what is embedded"
        )

    file, folder = given.output or results_file(given.name), given.folder or Path(f"runs/study-{given.name}")
    if given.restart:
        forget(file, folder)
    if given.processes > 1:
        return side_by_side(given.processes, ["study", *(part for part in argv if part != "--restart")])
    kind, _, _ = given.name.partition("-")  # distilbert-longer is a plan of distilbert's
    make = {"logits": _logits, "distilbert": _distilbert}.get(kind, _of_one_task)
    print(make(given, file, folder))
    return 0


def _logits(given, file: Path, folder: Path) -> Stored:
    from kdtutor.models import load_teacher
    from kdtutor.studies import logits, logits_runs

    task = _task(given, "supersense")
    teacher, body = load_teacher(task, given.teacher), load_teacher(_task(given, "glosses"), given.body)
    say = partial(print, flush=True)
    return logits_runs.run(logits.Plan(), file, folder, task, teacher, body, say)


def _of_one_task(given, file: Path, folder: Path) -> Stored:
    """Run a study of one task, the module of its name; "shapes-sentiment" is one of the plans of shapes."""
    from kdtutor.models import load_teacher

    kind, _, other = given.name.partition("-")
    study = importlib.import_module(f"kdtutor.studies.{kind}")
    plan = study.PLANS[given.name] if other else study.Plan()
    task = _task(given, TASKS.get(given.name, "supersense"))
    teacher = load_teacher(task, given.teacher)
    return study.run(plan, file, folder, task, teacher, partial(print, flush=True))


def _distilbert(given, file: Path, folder: Path) -> Stored:
    from kdtutor.models import load_teacher
    from kdtutor.studies import distilbert, distilbert_runs

    tasks = {name: _task(given, name) for name in ("glosses", *distilbert.TASKS)}
    teacher = load_teacher(tasks["glosses"], given.teacher)
    plan = distilbert.PLANS[given.name]
    return distilbert_runs.run(plan, file, folder, tasks, teacher, report=partial(print, flush=True))


def _task(given, name: str):
    from kdtutor.data import load_task

    tokenizer = given.tokenizer
    if not tokenizer and given.teacher and Path(given.teacher, "tokenizer.json").is_file():
        tokenizer = given.teacher
    return load_task(given.data / name if given.data else name, tokenizer=tokenizer)


def side_by_side(count: int, argv: list[str]) -> int:
    """Run the same command in so many processes, which share the work; one that ends badly ends alone."""
    command = [sys.executable, "-m", "kdtutor", *argv, "--processes", "1"]

    def end(*_) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    started: list[subprocess.Popen] = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}))
        return max(process.wait() for process in started)
    finally:
        for process in started:
            process.terminate()
