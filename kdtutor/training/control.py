"""The control of a run: what would the same student be without its teacher?"""

from __future__ import annotations

import copy
from typing import Any

from kdtutor.errors import KDTutorError
from kdtutor.objectives.parse import parse_objective
from kdtutor.training.distillation import Distillation


class NoControl(KDTutorError):
    """A run has no control: there are no labels, or it learns from these alone itself."""


def control_of(run: Distillation, **settings: Any) -> Distillation:
    """Make the run of the same student on the labels alone: same weights, batches, steps and settings, no teacher.

    settings: those that differ. To begin with the same weights, call it before the first step. Raises NoControl if the
    training texts have no label, or the run itself has no other objective.
    """
    hard = parse_objective(run.task.rules.hard)
    # The run's own, with its class weights, where it has one.
    own = [term for term in run.objective.terms if type(term) is type(hard)]
    if own:
        hard = copy.deepcopy(own[0])
        hard.weight = 1.0
    if {type(term) for term in run.objective.terms} == {type(hard)}:
        raise NoControl("the student itself learns from hard labels alone")
    part = run.task.split(run.split)
    if part.targets is not None and not part.labelled.any():
        raise NoControl("no training text has a label")
    shared = run.settings.marked("twin") | {"learning_rate": run.learning_rate}
    return Distillation(copy.deepcopy(run.whole()), None, run.task, hard, **(shared | settings))
