"""Exercises that say which mistake you made.

    from kdtutor.exercises import check

    check.soft_targets(my_function)             # feedback: right, or which mistake it is
    check.progress()                            # what is solved, notebook by notebook
    check.progress("ada.json", name="Ada")      # the same as a file that an instructor can collect
    check.odds(prediction, measured, because)   # an experiment: which misconception the prediction shows
    check.answer("blend")                       # what you wrote, to be used: in a later notebook, too

An exercise is asked for by its name; `dir(check)` lists them. They stand in files that carry their notebook's number;
the files, and torch with them, are imported when the first one is asked for. What you write runs on your own machine,
in a child of the kernel where there can be one, so that the notebook survives it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtutor.errors import KDTutorError, nearest
from kdtutor.exercises.cards import dots
from kdtutor.exercises.progress import Progress
from kdtutor.importing import uncollected

if TYPE_CHECKING:
    from kdtutor.exercises.definitions import Exercise, Experiment, Verdict

#: the files of exercises, named after their notebooks' numbers, and those of the experiments
FILES = sorted(
    file.stem
    for name in ("n[0-9][0-9]_*", "experiments*")
    for file in Path(__file__).parent.glob(f"{name}.py")
)


@cache
def load_exercises() -> dict[str, Exercise | Experiment]:
    """Return all exercises of the course by name, in the order of their numbers."""
    with uncollected():
        files = [import_module(f"{__name__}.{file}") for file in FILES]
    every = [exercise for file in files for exercise in file.EXERCISES]
    every.sort(key=lambda exercise: tuple(map(int, exercise.number.split("."))))
    return {exercise.name: exercise for exercise in every}


class Check:
    """`check.<exercise>(your_function)` gives feedback as text; it never raises, whatever the function does."""

    def __init__(self, kept: Path | None = None) -> None:
        self._progress = Progress(kept)
        self._one_at_a_time = threading.Lock()

    def progress(self, path: str | os.PathLike | None = None, name: str | None = None) -> Text:
        """Show what is solved, as a table; with a path, also write it to that file, merged with what is in it."""
        exercises, said = load_exercises().values(), ""
        table = self._progress.table(exercises)
        if path is not None:
            try:
                said = self._progress.write(path, name)
            except KDTutorError as error:
                said = f"Not written: {error}."
        summary = f"{table.splitlines()[-1]} {said}".strip()
        return Text(f"{table}\n{said}".rstrip(), dots(exercises, self._progress.records, summary))

    def answer(self, name: str) -> Callable:
        """Return your own right answer, from this notebook or an earlier one; the course's where there is none yet."""
        from kdtutor.exercises import checker

        exercise = _known(name)
        mine = self._progress.answers.get(name) or checker.rebuilt(exercise, self._progress.source(name))
        whose = "your own" if mine else "not solved yet, so this is the course's own"
        print(f"{name} of exercise {exercise.number}: {whose}")
        return mine or exercise.reference

    def __getattr__(self, name: str) -> ExerciseCheck:
        if name.startswith("_"):  # such as _repr_html_, which Jupyter asks every object for
            raise AttributeError(name)
        return ExerciseCheck(self, _known(name))

    def __dir__(self) -> list[str]:
        return [*load_exercises(), "answer", "progress"]

    def __repr__(self) -> str:
        return "check.<exercise>(your_function) gives feedback, check.progress() says what is solved"


def _known(name: str) -> Exercise | Experiment:
    exercises = load_exercises()
    if name not in exercises:
        raise AttributeError(nearest("exercise", name, exercises))
    return exercises[name]


class ExerciseCheck:
    """One exercise's check, as in `check.soft_targets`."""

    def __init__(self, check: Check, exercise: Exercise | Experiment) -> None:
        self._check, self._exercise = check, exercise

    def __call__(self, *answer: Any, **named: Any) -> Verdict:
        from kdtutor.exercises import checker, predicting, sandbox
        from kdtutor.exercises.definitions import Experiment

        if sandbox.is_running():
            return checker.not_a_function("check is called inside of the function that it checks.")
        if isinstance(self._exercise, Experiment):
            verdict = predicting.judge(self._exercise, *answer[:3], **named)
            self._check._progress.note(self._exercise, verdict)
            return replace(verdict, then=_following(self._exercise)) if verdict.solved else verdict
        if len(answer) != 1 or named:
            return checker.not_a_function(f"check.{self._exercise.name} takes one thing: your function.")
        with self._check._one_at_a_time:  # it catches what is printed, which all threads share
            verdict = checker.judge(self._exercise, answer[0])
        self._check._progress.note(self._exercise, verdict, answer[0])
        return replace(verdict, then=_following(self._exercise)) if verdict.solved else verdict

    def __repr__(self) -> str:
        exercise = self._exercise
        return f"Exercise {exercise.number} · {exercise.title}: check.{exercise.name}(your_function)"


def _following(exercise: Exercise | Experiment) -> str:
    """Name the exercise that comes next in the same notebook; nothing after its last."""
    exercises = list(load_exercises().values())
    for one in exercises[exercises.index(exercise) + 1 :][:1]:
        if one.number.partition(".")[0] == exercise.number.partition(".")[0]:
            return f"exercise {one.number} · {one.title}"
    return ""


class Text(str):
    """Text that shows itself without quotes, so that it needs no print at the end of a cell; as HTML in a notebook."""

    def __new__(cls, text: str, html: str) -> Text:
        new = super().__new__(cls, text)
        new.html = html
        return new

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.html


#: beside the notebooks: what was solved in them, for the time after a restart of the kernel
KEPT = Path(".kdtutor-solved.json")

check = Check(KEPT.absolute() if "ipykernel" in sys.modules else None)
