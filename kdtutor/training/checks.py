"""What a training run refuses before its first step, naming the culprit."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import nn

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.load import check_fits
from kdtutor.objectives.terms import Objective, Term

LIMITS = {
    "epochs": (lambda x: 0 < x < math.inf, "a number above 0"),
    "learning_rate": (lambda x: 0 < x < math.inf, "a number above 0"),
    "warmup": (lambda x: 0 <= x <= 1, "a fraction from 0 to 1"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "a number, 0 or more"),
    "max_norm": (lambda x: x > 0, "a number above 0"),
    "masking": (lambda x: 0 < x < 1, "a fraction between 0 and 1"),
    "rare_words": (lambda x: 0 <= x < math.inf, "an exponent, 0 or more"),
}
COUNT = (lambda x: x >= 1 and x % 1 == 0, "a whole number, 1 or more")


def check_run(
    student: nn.Module, teacher: nn.Module | None, task: Task, objective: Objective | Term, split: str
) -> None:
    """Refuse, before anything is computed, what could only fail later or teach nothing."""
    if not isinstance(student, nn.Module):
        raise KDTutorError(f"the student is a {type(student).__name__}, not a model")
    if not isinstance(objective, (Objective, Term)):
        raise KDTutorError(
            f"the objective is a {type(objective).__name__}, not terms like HardLabels() + SoftTargets(4)"
        )
    if objective.needs_teacher and teacher is None:
        raise KDTutorError(f"the objective {objective} needs a teacher, but teacher is None")
    if len(task.split(split)) == 0:
        raise KDTutorError(f"the {split} split of {task.name} is empty")
    check_fits(student, task, "the student")
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise KDTutorError(
            "the student has no trainable parameter: was it frozen like a teacher? student.requires_grad_(True)"
        )
    if half := {p.dtype for p in trained} & {torch.float16, torch.bfloat16}:
        raise KDTutorError(
            f"the student's weights are {half.pop()}, too coarse for small steps: train student.float()"
        )
    if teacher is not None:
        check_fits(teacher, task, "the teacher")
        theirs = {p.untyped_storage().data_ptr() for p in teacher.parameters()}
        for name, parameter in student.named_parameters():
            if parameter.untyped_storage().data_ptr() in theirs:
                raise KDTutorError(
                    f"student and teacher share the tensor {name}: training one would change the other; copy it"
                )
        sizes = student.config.vocab_size, teacher.config.vocab_size
        if task.rules.per_token and objective.needs_teacher and sizes[0] != sizes[1]:
            raise KDTutorError(
                f"the student's vocabulary has {sizes[0]} tokens and the teacher's {sizes[1]}: their logits can't be "
                "compared; student.resize_token_embeddings(…) makes them alike"
            )
    masked = [type(term).__name__ for term in objective.terms if term.rows == "masked"]
    if masked and not task.rules.masks:
        raise KDTutorError(f"{masked[0]} predicts masked tokens, but {task.name} is a {task.kind} task")
    task.rules.check(task.targets(split), task.num_labels, split, task.name)


def number(name: str, value: object) -> float | int:
    """`value` as a plain number, if the setting `name` can be that."""
    fits, wanted = LIMITS.get(name, COUNT)
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
        raise KDTutorError(f"{name} must be {wanted}, not {value!r}")
    return float(value) if name in LIMITS else int(value)
