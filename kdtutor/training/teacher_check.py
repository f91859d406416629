"""A teacher is measured before it teaches: one whose classes are mixed up would teach the wrong ones, in silence."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Split, Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import predict, spearman
from kdtutor.models.ensemble import Ensemble
from kdtutor.models.outputs import output_names, written

TEXTS = 256  # labelled texts that are asked
SIGMAS = 3.0  # a difference of so many standard errors is no accident
TAKE_IT = "check_teacher=False (--no_check_teacher) takes it as it is"


def check_teacher(teacher: PreTrainedModel, task: Task, fast: bool = True) -> None:
    """Refuse a teacher that is below chance on labelled texts, or far better with its outputs in another order.

    Validation texts are asked, and training texts where those are few. A teacher that ships is known. Raises
    KDTutorError with both scores, and with the label map that would fit. Of several teachers each is measured.
    """
    if isinstance(teacher, Ensemble):
        for which, member in enumerate(teacher.members, start=1):
            try:
                check_teacher(member, task, fast)
            except KDTutorError as error:
                raise KDTutorError(f"teacher {which}: {error}") from error
        return
    if getattr(teacher, "is_shipped", False) or task.rules.answer == "token":
        return
    texts = _labelled(task)
    if len(texts) < 2:
        return
    try:
        logits = predict(teacher, replace(task, splits={"asked": texts}), "asked", fast=fast)
    except KDTutorError:  # not finite: whoever asks it for good says for which example
        return
    if task.rules.answer == "classes":
        _check_classes(logits, texts.targets, teacher, task)
    elif task.kind == "multi-label":
        _check_labels(logits, texts.targets, teacher, task)
    elif task.kind == "regression":
        found = spearman(logits[:, 0], texts.targets)
        if found * math.sqrt(len(texts) - 1) < -SIGMAS:
            raise KDTutorError(
                f"the teacher ranks {len(texts)} labelled texts the other way round (rank correlation {found:.2f}): "
                f"are its numbers or the labels turned? {TAKE_IT}"
            )


def _labelled(task: Task) -> Split:
    """Draw labelled texts, of validation first."""
    parts, room = [], TEXTS
    for name in ("validation", "train"):
        part = task.splits.get(name)
        if part is not None and room > 0 and part.labelled.any():
            parts.append(part.labelled_only().sample(room))
            room -= len(parts[-1])
    if not parts:
        return Split(([],), None)
    texts = tuple([*chain(*columns)] for columns in zip(*(part.texts for part in parts), strict=True))
    return Split(texts, torch.cat([part.targets for part in parts]))


def _check_classes(logits: Tensor, labels: Tensor, teacher: PreTrainedModel, task: Task) -> None:
    n, classes, predicted = len(labels), task.num_labels, logits.argmax(-1)
    table = torch.zeros(classes, classes, dtype=torch.long)  # (label, output)
    table.index_put_((labels, predicted), torch.ones(n, dtype=torch.long), accumulate=True)
    right, majority = int(table.diagonal().sum()), int(table.sum(1).max())
    told = f"the teacher is right on {right / n:.1%} of {n} labelled texts (always the same class: {majority / n:.1%})"

    # Its own labels permuted: would another order of its outputs be far better?
    order = _best_order(table)
    permuted = int(table[torch.tensor(order), torch.arange(classes)].sum())
    if permuted - right > SIGMAS * math.sqrt(permuted + right) and permuted > majority:
        line = _map_of(order, teacher, task)
        raise KDTutorError(
            f"{told}, and would be on {permuted / n:.1%} with its outputs in another order: load_teacher(…, "
            f"label_map='{line}') (--label_map '{line}'); {TAKE_IT}"
        )

    # Chance: how often two would agree that have these frequencies and nothing in common.
    chance = float((table.sum(0) * table.sum(1)).sum()) / n**2
    if right / n < chance - SIGMAS * math.sqrt(chance * (1 - chance) / n):
        raise KDTutorError(f"{told}, below the {chance:.1%} of chance: does it know these classes? {TAKE_IT}")


def _check_labels(logits: Tensor, targets: Tensor, teacher: PreTrainedModel, task: Task) -> None:
    """Check several labels per text, (N, C) both: what counts is how many given labels are found."""
    said, given = (logits > 0).double(), (targets > 0).double()
    table, by_chance = given.T @ said, given.sum(0)[:, None] * said.sum(0) / len(given)  # (label, output)
    found, chance = float(table.diagonal().sum()), float(by_chance.diagonal().sum())
    told = (
        f"the teacher finds {found:.0f} of the {given.sum():.0f} labels of {len(given)} texts, "
        f"and {chance:.0f} would be found by chance"
    )

    # Of many orders one is good by accident: half of the texts choose it, the other half judge it.
    half = given[::2].T @ said[::2]
    order = _best_order(half - given[::2].sum(0)[:, None] * said[::2].sum(0) / max(1, len(given[::2])))
    rest, outputs = given[1::2].T @ said[1::2], torch.arange(len(order))
    permuted, right = float(rest[torch.tensor(order), outputs].sum()), float(rest.diagonal().sum())
    if permuted - right > SIGMAS * math.sqrt(permuted + right):
        line = _map_of(order, teacher, task)
        raise KDTutorError(
            f"{told}; with its outputs in another order it would find {permuted / max(right, 1):.1f} times as many: "
            f"load_teacher(…, label_map='{line}') (--label_map '{line}'); {TAKE_IT}"
        )
    if found < chance - SIGMAS * math.sqrt(chance):
        raise KDTutorError(f"{told}: does it know these labels, or says it yes for no? {TAKE_IT}")


def _map_of(order: list[int], teacher: PreTrainedModel, task: Task) -> str:
    """Write the label map by which output i means label order[i]."""
    names = getattr(teacher, "output_names", None) or output_names(teacher.config)
    return written({name: task.labels[label] for name, label in zip(names, order, strict=True)})


def _best_order(table: Tensor) -> list[int]:
    """Give each output (column) a label (row) of its own, the most frequent pairs first."""
    classes = len(table)
    order = [-1] * classes
    free = set(range(classes))
    for place in table.flatten().argsort(descending=True, stable=True).tolist():
        label, output = divmod(place, classes)
        if label in free and order[output] < 0:
            order[output] = label
            free.discard(label)
    return order
