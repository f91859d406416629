"""The examples that a temperature explorer offers: which texts show something, and how the browser gets them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdtutor import objectives
from kdtutor.data.task import Task
from kdtutor.errors import nearest
from kdtutor.models.forward import logits_of
from kdtutor.widgets.base import SettingError, finite


def telling_examples(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, labels: torch.Tensor, each: int = 3
) -> dict[int, str]:
    """Find examples that show something, and say what: both logits (N, C), labels (N,).

    `each` of every kind: where the teacher's second guess is the label (the surest of its first guess come first);
    where it is most undecided (highest entropy); where the student is farthest from it (largest KL at T = 1); where it
    is surest of all (lowest entropy).
    """
    z_t, z_s = teacher_logits.double(), student_logits.double()
    undecided = objectives.entropy(z_t, reduction="none")
    apart = objectives.kl_divergence(z_t, z_s, reduction="none")
    best, guesses = z_t.softmax(-1).topk(min(2, z_t.shape[-1]))
    second = guesses[:, -1] == labels
    kinds = {
        "the teacher's second guess is the label": torch.where(second, best[:, 0], -torch.inf),
        "the teacher is undecided": undecided,
        "the student is far from the teacher": apart,
        "the teacher is sure": -undecided,
    }
    found: dict[int, str] = {}
    for why, score in kinds.items():
        order = [i for i in score.argsort(descending=True, stable=True).tolist() if i not in found]
        found |= {i: why for i in order[:each] if score[i] > -torch.inf}
    return found


def examples_of(
    teacher, student, task: Task, examples: Sequence[str | int] | None, among: int = 300
) -> list[dict]:
    """List the examples that may be picked, with both models' logits; by default of `among` everyday texts."""
    texts, labels = task.texts("test"), task.targets("test")
    given = _everyday(task, texts, among) if examples is None else list(examples)
    for i in given:
        if isinstance(i, int) and not 0 <= i < len(texts):
            raise SettingError(f"example {i}: the test split of {task.name} has {len(texts)} texts")
        if isinstance(i, str) and not i.strip():
            raise SettingError(f"example {given.index(i)} is an empty text")
    if not given:
        raise SettingError("the explorer needs one example at least")
    read = [texts[i] if isinstance(i, int) else i for i in given]
    encoded = task.encode_texts(read)
    z_t, z_s = (logits_of(model, encoded) for model in (teacher, student))
    truth = [
        int(labels[i]) if isinstance(i, int) and labels is not None and labels[i] >= 0 else None
        for i in given
    ]
    chosen = dict.fromkeys(range(len(given)), "")
    if examples is None:
        chosen = telling_examples(z_t, z_s, torch.tensor([-1 if y is None else y for y in truth]))
    entries = [
        {**entry_of(read[i], z_t[i], z_s[i], task.labels, truth[i]), "why": why} for i, why in chosen.items()
    ]
    return list({entry["text"]: entry for entry in entries}.values())


def _everyday(task: Task, texts: Sequence[str], among: int) -> list[int]:
    """Find the places of up to `among` texts that anyone gets at once: 3 to 8 words, each of them in the vocabulary.

    Spread over the split. Where there are fewer than 30 such texts, any will do.
    """
    short = [
        i
        for i, text in enumerate(texts)
        if all(map(str.isalpha, text.split())) and 3 <= len(text.split()) <= 8
    ]
    pieces = task.tokenizer([texts[i] for i in short], add_special_tokens=False)["input_ids"] if short else []
    plain = [i for i, ids in zip(short, pieces, strict=True) if len(ids) == len(texts[i].split())]
    usable = plain if len(plain) >= 30 else list(range(len(texts)))
    return usable[:: max(1, len(usable) // among)][:among]


def entry_of(text: str, teacher, student, class_names: Sequence[str], label) -> dict:
    """Write an example as the browser gets it."""
    if not text.strip():
        raise SettingError("one of the texts is empty")
    return {
        "text": text,
        "teacher": finite(teacher, f'the teacher\'s logits of "{text[:40]}"', len(class_names)),
        "student": finite(student, f'the student\'s logits of "{text[:40]}"', len(class_names)),
        "label": class_of(label, class_names),
        "why": "",
        "notice": "",
        "pieces": [],
    }


def public(entry: dict) -> dict:
    return {name: entry[name] for name in ("text", "teacher", "student", "label", "why", "notice", "pieces")}


def class_of(label, class_names: Sequence[str]) -> int | None:
    """Look up a class by number or name; −100 and None: unlabelled."""
    if isinstance(label, str):
        if label not in class_names:
            raise SettingError(nearest("class", label, class_names))
        return list(class_names).index(label)
    if label is None:
        return None
    try:
        if isinstance(label, bool) or int(label) != label:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise SettingError(f"label {str(label)[:40]}: a class is named, or has a whole number") from None
    if int(label) == objectives.IGNORED:
        return None
    if not 0 <= int(label) < len(class_names):
        raise SettingError(f"label {int(label)}: the classes are 0 to {len(class_names) - 1}")
    return int(label)


def rows_of(logits, what: str):
    """Convert (N, C), or (C,) as one row, to a list of rows."""
    if hasattr(logits, "detach"):
        logits = logits.detach().cpu().double().numpy()
    listed = list(logits)
    return listed if listed and hasattr(listed[0], "__len__") else [listed]


def listed(values) -> list:
    if isinstance(values, (int, str)):
        return [values]
    return values.tolist() if hasattr(values, "tolist") else list(values)
