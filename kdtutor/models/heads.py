"""One body with several heads: a student of several tasks, Caruana 1997.

share_body(praise, senses, valence)          # three students of one shape, made for three tasks
for steps in in_turns(run_of_praise, run_of_senses, run_of_valence):
    ...                                      # a step through each head; the body learns from all
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError


def share_body(first: PreTrainedModel, *others: PreTrainedModel) -> nn.Module:
    """Put the body of the first student under the heads of all others, and return it: any number may share it.

    What is learned through one head, all have. Each run has an optimiser of its own, so the body gets a step, and
    weight decay, from each. Saved, every student brings the body along, and loaded it has its own again. Raises
    KDTutorError for one student twice, and for bodies that are not of one class and of equal sizes.
    """
    students = first, *others
    if len({id(student) for student in students}) < len(students):
        raise KDTutorError("a student is among the heads twice: make one for each task")
    body, *theirs = map(_body, students)
    for student, other in zip(others, theirs, strict=True):
        if difference := _difference(body, other):
            raise KDTutorError(
                f"the {type(student).__name__} can't have the first student's body: {difference}"
            )

    for student in others:
        setattr(student, student.base_model_prefix, body)
    return body


def _body(student: PreTrainedModel) -> nn.Module:
    """Return what is below a student's head."""
    body = getattr(student, getattr(student, "base_model_prefix", "") or "-", None)
    if body is None:
        raise KDTutorError(f"a {type(student).__name__} has no body that could be shared")
    return body


def _difference(body: nn.Module, other: nn.Module) -> str | None:
    """Say in what two bodies differ: in their class, or in the first of their weights; None if they don't."""
    if type(body) is not type(other):
        return f"that is a {type(body).__name__}, its own a {type(other).__name__}"
    ours, theirs = ({name: tuple(p.shape) for name, p in each.named_parameters()} for each in (body, other))
    if ours == theirs:
        return None
    name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
    return f"its {name} is {theirs.get(name, 'missing')}, the first one's {ours.get(name, 'missing')}"
