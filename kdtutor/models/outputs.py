"""Which output of a model stands for which class: by name, or as a label map says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.models.forward import forward

LabelMap = Mapping[str, str] | str


def output_names(config: PretrainedConfig) -> list[str]:
    """List what a model calls its outputs, in their order."""
    return [str(name) for _, name in sorted(config.id2label.items())]


def is_unnamed(names: Sequence[str]) -> bool:
    """Tell whether these are the names that transformers gives to outputs without any."""
    return all(name.startswith("LABEL_") for name in names)


def written(label_map: Mapping[str, str]) -> str:
    """Write a label map as one types it, in Python and on the command line alike."""
    names = [name for pair in label_map.items() for name in pair]
    # What divides names, what a shell reads for itself, what JSON begins with, blanks that would be cut off.
    if any(set("=,'\"{") & set(name) or name != name.strip() for name in names):
        return json.dumps(label_map, ensure_ascii=False)
    return ",".join(f"{theirs}={ours}" for theirs, ours in label_map.items())


def read_label_map(label_map: LabelMap) -> dict[str, str]:
    """Read `teacher's name=task's name, …`, or the same as JSON or a dict."""
    if isinstance(label_map, Mapping):
        return {str(theirs): str(ours) for theirs, ours in label_map.items()}
    try:
        if label_map.lstrip().startswith("{"):
            return {str(theirs): str(ours) for theirs, ours in json.loads(label_map).items()}
        pairs = [pair.split("=") for pair in label_map.split(",")]
        return {theirs.strip(): ours.strip() for theirs, ours in pairs}
    except ValueError:
        raise KDTutorError(
            f"label_map is \"the model's name=the task's name, …\", not {label_map[:80]!r}"
        ) from None


def order_of(names: Sequence[str], task: Task, who: str, label_map: LabelMap | None) -> list[int] | None:
    """Tell which output stands for each class of the task; None if they stand in its order already.

    Without a label map, outputs without names are taken as they stand, and others are matched by name, whatever the
    case. Raises KDTutorError, with the label map to write, if the names are other ones.
    """
    labels = list(task.labels)
    if label_map is not None:
        mapped = read_label_map(label_map)
        for theirs, ours in mapped.items():
            if theirs not in names:
                raise KDTutorError("label_map: " + nearest(f"output of {who}", theirs, names))
            if ours not in labels:
                raise KDTutorError("label_map: " + nearest(f"class of {task.name}", ours, labels))
        if sorted(mapped.values()) != sorted(labels):
            raise KDTutorError(f"label_map must name each output of {who} and each class of {task.name} once")
        found = {ours: names.index(theirs) for theirs, ours in mapped.items()}
    elif is_unnamed(names) or [*names] == labels:
        return None
    else:
        plain = [name.strip().casefold() for name in names]
        if sorted(plain) != sorted(label.strip().casefold() for label in labels) or len({*plain}) < len(
            plain
        ):
            line = written(dict(zip(names, labels, strict=True)))
            raise KDTutorError(
                f'{who} has the classes {first_five(names)}, but "{task.name}" has {first_five(labels)}: say which is '
                f"which, as in label_map='{line}' (--label_map '{line}')"
            )
        found = {label: plain.index(label.strip().casefold()) for label in labels}
    order = [found[label] for label in labels]
    return None if order == list(range(len(order))) else order


def reorder(model: PreTrainedModel, order: list[int], task: Task) -> None:
    """Let output i of the model be what its output `order[i]` was. Raises KDTutorError if its head isn't known."""
    batch = task.encode("train").batch(torch.arange(1))
    before = _logits(model, batch)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(order)]
    if heads:
        with torch.no_grad():
            for parameter in heads[-1].parameters():
                parameter.copy_(parameter[order].clone())
    if not heads or not torch.allclose(_logits(model, batch), before[:, order], atol=1e-5):
        raise KDTutorError(f"the outputs of a {type(model).__name__} can't be put into another order")


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    return forward(model.eval(), batch).logits.float()


def first_five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
