"""Validation while training: the student measured every so many steps, the best one kept, an early end.

What was measured stands in the rows of the history, and the best weights lie in the checkpoints: a resumed run knows
both. Nothing that is measured changes a weight of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from accelerate import Accelerator

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import LOWER_IS_BETTER
from kdtutor.training import processes
from kdtutor.training.diagnosis import fit
from kdtutor.training.settings import Settings
from kdtutor.training.state import Learning

SPLIT = "validation"


class Validation:
    """Measure a run's student on validation: its main score, that of `metric`, and its loss with the true labels.

    every: steps between two measurements, 0 if there are none; the last step is measured as well. measured: after each
    step that was, the value to compare by, of which higher is better.
    """

    def __init__(
        self,
        learning: Learning,
        task: Task,
        settings: Settings,
        accelerator: Accelerator,
        per_epoch: int,
        total: int,
    ) -> None:
        self.learning, self.task, self.settings, self.accelerator = learning, task, settings, accelerator
        self.total = total
        is_needed = settings.keep_best or settings.patience is not None
        every = settings.validate_every or ("epoch" if is_needed else 0)
        self.every = per_epoch if every == "epoch" else int(every)
        self.measured: dict[int, float] = {}
        if self.every:
            task.rules.check(task.targets(SPLIT), task.num_labels, SPLIT, task.name)
            part = task.split(SPLIT)
            if not (task.rules.per_token or part.labelled.all()) or not len(part):
                raise KDTutorError(
                    f"the validation split of {task.name} has texts without labels, or none: nothing can be measured "
                    "while training (validate_every, keep_best, patience)"
                )

    def is_scheduled(self, step: int) -> bool:
        """Say whether the student is measured after this step."""
        return bool(self.every) and (step % self.every == 0 or step == self.total)

    def look(self, row: dict) -> None:
        """Measure the student after the step of this `row`, and keep its weights if they are the best so far."""
        student, settings, found = self.learning.whole(), self.settings, []
        processes.on_main(
            self.accelerator,
            lambda: found.append(
                fit(student, self.task, SPLIT, settings.masking, settings.fast, settings.metric)
            ),
        )
        row[SPLIT] = processes.from_main(self.accelerator, found)
        self.measured[row["step"]] = self._value(row[SPLIT])
        if settings.keep_best and self.best == row["step"]:
            self.learning.keep_best()

    def take(self, rows: Sequence[Mapping]) -> None:
        """Know what the rows of a resumed history say was measured."""
        self.measured = {row["step"]: self._value(row[SPLIT]) for row in rows if SPLIT in row}

    @property
    def best(self) -> int | None:
        """Tell after which step the student was best, the first of equals; None before anything was measured."""
        return max(self.measured, key=self.measured.__getitem__, default=None)

    @property
    def is_exhausted(self) -> bool:
        """Say whether the last `patience` measurements were no better than the best before them."""
        values = [*self.measured.values()]
        patience = self.settings.patience or math.inf
        return len(values) > patience and len(values) - 1 - values.index(max(values)) >= patience

    def _value(self, found: Mapping[str, float]) -> float:
        name = self.settings.metric or next(iter(found))
        return -found[name] if name in LOWER_IS_BETTER else found[name]
