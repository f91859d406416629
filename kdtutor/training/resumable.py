"""A training run that is saved at any step, and goes on from there bit by bit.

`Distillation` is one; its loop calls `save`. What a state is made of is in state.py, its files in checkpoints.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Set
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.objectives.terms import Objective
from kdtutor.training import checkpoints, processes
from kdtutor.training.checks import identity
from kdtutor.training.history import NonFiniteLoss
from kdtutor.training.settings import Settings, check_setting
from kdtutor.training.state import Learning, State
from kdtutor.training.validation import Validation

CHECK_EVERY = 10  # steps between two looks at the NaN flag, each of which makes the host wait for the device


class Resumable:
    """What a run keeps and brings back; the run itself has the attributes named here."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    task: Task
    objective: Objective
    settings: Settings
    folder: Path | None
    accelerator: Accelerator
    device: torch.device
    bf16: bool
    teacher_needs: Set[str]
    total_steps: int
    parameters: list
    learning_rate: float
    validation: Validation
    _learning: Learning
    _began_with: str
    _saved: tuple | None

    @property
    def done(self) -> int:
        """Tell how many optimiser steps were taken."""
        return self._learning.done

    def whole(self) -> PreTrainedModel:
        """Return the student; where its weights are divided among processes, a copy with all of them in each process.

        There, all processes must call this.
        """
        return self._learning.whole()

    def check_finite(self) -> None:
        """Raise NonFiniteLoss if a late step was not finite, and go back to before it, where the weights still are."""
        row = self._learning.go_back(CHECK_EVERY)
        if row is None:
            return
        culprit = self._learning.history.culprit(row)
        saved = checkpoints.found(self.folder) if self.folder else []
        raise NonFiniteLoss(
            f"step {row['step']}: {culprit} is not finite (learning rate {row['learning_rate']:.2g}). The "
            f"student has the weights from before that step{f'; {saved[-1]} is whole' if saved else ''}"
        )

    def state(self) -> State:
        """Copy all that makes the run what it is now: `restore` brings it back bit by bit, after any further steps."""
        return self._present().copy()

    def restore(self, state: State) -> Self:
        """Go back, or forward, to what `state()` gave, and return the run itself.

        Raises KDTutorError if it is the state of a run with another task, teacher, objective or setting.
        """
        try:
            self._check(state, "this state")
        except ValueError as error:
            raise KDTutorError(f"this state can't be restored: {error}") from error
        return self._take_over(state.copy())

    def save(self, folder: str | os.PathLike | None = None) -> Path:
        """Write a checkpoint, whole or not at all: student (loads with from_pretrained), optimiser, history."""
        folder = self.folder if folder is None else checkpoints.writable(folder)
        if folder is None:
            raise KDTutorError("no folder to save to: save(folder) or Distillation(…, folder=…)")
        student, state = self._learning.gathered(self._present(), self.accelerator.is_main_process)
        checkpoints.check_none_later(folder, self.done)

        def write() -> None:
            self._learning.history.written = checkpoints.write(folder, student, state)

        processes.on_main(self.accelerator, write)
        return checkpoints.found(folder)[-1]

    def resume(self, folder: str | os.PathLike | None = None) -> Self:
        """Go on from the newest checkpoint in `folder` (default: the run's own). Returns the run itself.

        What was changed during the run, such as a temperature or the learning rate, comes back as well. This run may
        have more steps than the one that was saved: from here on, the schedule is that of the longer run. A damaged
        checkpoint is named in a warning and set aside, and the one before it is used. Raises KDTutorError if none is
        whole, or if it was made with another task, teacher, objective or setting.
        """
        folder = self.folder if folder is None else Path(folder)
        if folder is None:
            raise KDTutorError("no checkpoint in None: resume(folder) or Distillation(…, folder=…)")
        # Safetensors knows no "cpu:0"; and what is divided is whole in main memory alone.
        device = "cpu" if self.device.type == "cpu" or self._learning.sharded else str(self.device)
        newest, state, damaged = checkpoints.newest_whole(
            folder, device, lambda path, state: self._check(state, path.name)
        )
        if damaged:
            warnings.warn(f"{'; '.join(map(str, damaged))}: going on from {newest.name}", stacklevel=2)
            processes.on_main(self.accelerator, partial(checkpoints.set_aside, folder, newest))
        return self._take_over(state)

    def _present(self) -> State:
        """Give the state as it stands, with the very tensors that are trained; refuse if a step failed or was torn."""
        self._learning.check_not_torn()
        self.check_finite()
        return self._learning.state(self._belongs_to, self.learning_rate)

    def _check(self, state: State, name: str) -> None:
        """Refuse a state of another run: KDTutorError. ValueError if it can't be one of this run's."""
        state.check_same_run(name, self._belongs_to)
        if state.about["done"] > self.total_steps:
            raise ValueError(f"step {state.about['done']} of {self.total_steps}")
        check_setting("learning_rate", state.about["learning_rate"])
        self._learning.check(state)

    def _take_over(self, state: State) -> Self:
        """Become what a checked state says; its tensors may be used as they are."""
        self._learning.take(state)
        self.validation.take(state.history)
        self.learning_rate = state.about["learning_rate"]
        # A run that was steered remains the one that it began as.
        self._belongs_to["objective"] = state.about["belongs_to"]["objective"]

        self._saved = self.done, self.objective.settings(), self.learning_rate
        return self

    @cached_property
    def _belongs_to(self) -> dict[str, object]:
        """Tell what a checkpoint can be resumed with."""
        teacher = self.teacher if self.teacher_needs else None
        own = {"objective": self._began_with, "total_steps": self.total_steps}
        trained = len(self.parameters)
        return identity(self.student, trained, teacher, self.task, self.settings, self.bf16) | own
