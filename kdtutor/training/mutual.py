"""Students that teach each other while they learn: deep mutual learning, Zhang et al. 2018, arXiv:1706.00384.

    runs = mutual_learning(a, b, task, HardLabels() + SoftTargets(1), epochs=10)
    for steps in in_turns(*runs):       # a step of each: a learns from b as it is now, then b from a
        ...

There is no teacher to begin with. Each is the other's, asked at every step in eval mode: what it answers changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.ensemble import config_of
from kdtutor.models.forward import evaluating, forward
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training.distillation import Distillation, Step


class Peer(PreTrainedModel):
    """A student in the part of a teacher: it answers in eval mode, and goes on learning.

    Its weights are not the peer's own, so that freezing the teacher does not freeze the student.
    """

    gives = frozenset({"logits"})

    def __init__(self, student: PreTrainedModel):
        super().__init__(config_of([student]))
        self._student = (student,)  # in a tuple torch does not look for weights
        self.reads_with = getattr(student, "reads_with", None)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Compute the student's logits (B, C), without dropout."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        [student] = self._student
        with evaluating(student):
            logits = forward(student, batch).logits
        return SequenceClassifierOutput(logits=logits)


def mutual_learning(
    first: PreTrainedModel,
    second: PreTrainedModel,
    task: Task | str,
    objective: Objective | Term,
    **settings,
) -> tuple[Distillation, Distillation]:
    """Make two runs, each student the other's teacher, with settings as for Distillation; step them `in_turns`.

    Raises KDTutorError for one student twice, or settings that would keep an answer that changes.
    """
    if first is second:
        raise KDTutorError("a student can't be its own peer: make two, of different seeds or shapes")
    for name in ("cache", "check_teacher"):
        if settings.get(name):
            raise KDTutorError(f"{name} = {settings[name]}: a peer's answers change at every step")
    task = as_task(task)
    if task.rules.per_token:
        raise KDTutorError(f"peers answer texts as a whole here, and {task.name} is a {task.kind} task")
    fixed = settings | {"cache": False, "check_teacher": False}
    return (
        Distillation(first, Peer(second), task, objective, **fixed),
        Distillation(second, Peer(first), task, objective, **fixed),
    )


def in_turns(*runs: Distillation) -> Iterator[tuple[Step | None, ...]]:
    """Take a step of each run, then the next of each; a run that is over gives None until all are."""
    return zip_longest(*runs)
