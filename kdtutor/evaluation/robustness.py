"""How much of its accuracy a model keeps on broken texts, in another domain, and against somebody else's attacks.

robustness_curve(student, task, "typo", [0, 0.1, 0.2, 0.4])       # an accuracy for each strength
attacked = attack(teacher, task, texts, labels)                   # attacks.py
transfer(attacked, student, task)                                 # which of them fool the student too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from kdtutor.data.corruption import corrupted
from kdtutor.data.load import as_task
from kdtutor.data.task import Split, Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.attacks import Attacked
from kdtutor.evaluation.scores import accuracy, predict
from kdtutor.models.forward import logits_of


def robustness_curve(
    model: PreTrainedModel,
    task: Task | str,
    kind: str,
    strengths: Sequence[float],
    split: str = "test",
    seed: int = 0,
) -> list[float]:
    """Measure a model's accuracy on the split's texts broken at each strength: `corrupt`; 0 leaves them as they are."""
    task = as_task(task)
    if task.rules.answer != "classes":
        raise KDTutorError(f"robustness is measured by classes here, and {task.name} is a {task.kind} task")
    return [
        accuracy(
            predict(model, corrupted(task, kind, strength, seed, split), split),
            task.targets(split),
        )
        for strength in strengths
    ]


def transfer(attacked: Sequence[Attacked], model: PreTrainedModel, task: Task | str) -> tuple[float, int]:
    """Tell which share of another model's successful attacks fools this one as well, and of how many.

    Counted are the texts whose attack succeeded there and which `model` gets right as they were. (nan, 0) if none is.
    """
    task = as_task(task)
    found = [one for one in attacked if one.succeeded]
    if not found:
        return float("nan"), 0
    labels = torch.tensor([one.label for one in found])
    before, after = (
        logits_of(model, task.encode_texts(texts)).argmax(-1) == labels
        for texts in ([one.text for one in found], [one.broken for one in found])
    )
    counted = int(before.sum())
    return (float((before & ~after).sum()) / counted if counted else float("nan")), counted


def other_domain(
    task: Task | str = "sentiment",
    valence: Task | str = "valence",
    domain: str = "products",
    split: str = "test",
) -> Task:
    """Return a task of two classes with the texts of `valence`'s other domain: the sign of each rating is its class.

    A shift of domain with the same question. Raises KDTutorError if no text is of that domain.
    """
    task, valence = as_task(task), as_task(valence)
    part = valence.split(split)
    known = sorted(set(part.domains or ()))
    if domain not in known:
        raise KDTutorError(
            f"{valence.name} has no texts of the domain {domain!r}; it has {', '.join(known) or 'none'}"
        )
    if task.num_labels != 2:
        raise KDTutorError(f"a rating has two signs, and {task.name} has {task.num_labels} classes")
    rows = [i for i, (d, y) in enumerate(zip(part.domains, part.targets, strict=True)) if d == domain and y]
    chosen = part.select(torch.tensor(rows))
    shifted = Split(chosen.texts, (chosen.targets > 0).long())
    return replace(task, name=f"{task.name}[{domain}]", splits=task.splits | {split: shifted})
