"""What two models' layers have in common, and what can be read from each: linear CKA, and linear probes.

    layer_similarity(student, teacher, task)     # (student's layers + 1, teacher's layers + 1): 0 the embeddings
    layer_probes(student, task)                  # one accuracy for each layer

Neither is a loss: they look at models, and train none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.data.load import as_task
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import length_bucketed_batches
from kdtutor.errors import COUNT, KDTutorError, one_of
from kdtutor.models.forward import evaluating, forward, texts_at_once
from kdtutor.models.reading import read_by
from kdtutor.neighbours import beside_neighbours

ITEMS = one_of("tokens", "mean", "first")
STILL = 1e-10  # of a representation's squared length: what varies by less than that does not vary


def linear_cka(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute linear centred kernel alignment, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms: Kornblith et al. 2019.

    x: (N, D_x), y: (N, D_y), columns centred here: two representations of the same N items. Or (B, L, D_x) and
    (B, L, D_y), of whose tokens those count that `mask` (B, L) does not hide. From 0 to 1 (0-d); rotating either,
    moving or stretching all of it alike changes nothing, any other linear map does (arXiv:1905.00414). A representation
    that is the same for all items resembles nothing: 0. Raises KDTutorError if rows don't match, are fewer than two, or
    are not finite.
    """
    if x.shape[:-1] != y.shape[:-1]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise KDTutorError(f"CKA compares two representations of the same items, not {shapes}")
    if mask is not None:
        if mask.shape != x.shape[:-1]:
            raise KDTutorError(f"the mask has shape {tuple(mask.shape)}, but the items {tuple(x.shape[:-1])}")
        x, y = x[mask.bool()], y[mask.bool()]
    return cka_of_layers([x.flatten(0, -2)], [y.flatten(0, -2)])[0, 0]


def cka_of_layers(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """Compute linear_cka() of every two of these representations, each (N, D): (len(xs), len(ys))."""
    xs, ys = ([_centred(x) for x in side] for side in (xs, ys))
    norms_x, norms_y = ([(x.T @ x).norm() for x in side] for side in (xs, ys))
    rows = [
        [
            (y.T @ x).norm().square() / (n_x * n_y) if n_x * n_y > 0 else n_x * n_y
            for y, n_y in zip(ys, norms_y, strict=True)
        ]
        for x, n_x in zip(xs, norms_x, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def layer_similarity(
    student: nn.Module,
    teacher: nn.Module,
    task: Task | str,
    *,
    split: str = "validation",
    texts: int = 200,
    items: str = "tokens",
) -> Tensor:
    """Compute linear CKA between every two layers: (student's layers + 1, teacher's layers + 1), on the host.

    Layer 0 is the embeddings. texts: so many random ones of the split, always the same. items: what counts as one:
    "tokens", all that are not padding; "mean", a text's mean over them; "first", its [CLS]. With fewer items than a
    layer has numbers CKA is too large: prefer many. Eval mode; modes are restored. Raises KDTutorError if a model gives
    no hidden states, or if the two read with different tokenizers and tokens are to be compared.
    """
    task = as_task(task)
    if (
        ITEMS("items", items) == "tokens"
        and read_by(student, task).tokenizer_name != read_by(teacher, task).tokenizer_name
    ):
        raise KDTutorError(
            'student and teacher read with different tokenizers, so tokens are others: items="mean" compares texts'
        )
    some = task.split(split).sample(COUNT("texts", texts))
    return cka_of_layers(*(layer_states(model, task, some, items) for model in (student, teacher)))


def layer_probes(
    model: nn.Module,
    task: Task | str,
    *,
    items: str = "mean",
    train: int = 2000,
    test: int = 1000,
    split: str = "validation",
) -> list[float]:
    """Measure what a linear classifier can read from each layer, embeddings first: its accuracies on `split`.

    Ridge regression from a text's `items` ("mean" of its tokens, or "first", [CLS]) onto one-hot classes, fitted to
    `train` random labelled training texts; the largest output is its guess (probes: Alain & Bengio 2017,
    arXiv:1610.01644). The model stays as it is. Raises KDTutorError if the task has no classes.
    """
    task = as_task(task)
    if task.rules.answer != "classes":
        raise KDTutorError(f"a probe reads classes, and {task.name} is a {task.kind} task")
    if ITEMS("items", items) == "tokens":
        raise KDTutorError('a probe reads one vector per text: items is "mean" or "first"')
    known, asked = (
        task.split(name).labelled_only().sample(COUNT(what, count))
        for what, name, count in (("train", "train", train), ("test", split, test))
    )
    pairs = zip(layer_states(model, task, known, items), layer_states(model, task, asked, items), strict=True)
    return [_probe(x, known.targets, x_asked, asked.targets, task.num_labels) for x, x_asked in pairs]


@torch.no_grad()
def layer_states(model: nn.Module, task: Task, part: Split, items: str = "tokens") -> list[Tensor]:
    """Read all layers' representations of a split's texts, embeddings first: each (N, D), float32, on the host.

    items: see `layer_similarity`; of tokens those of a text stand together, texts in the split's order.
    """
    encoded = replace(read_by(model, task), splits={"these": part}).encode("these")
    device = next(model.parameters()).device
    order = length_bucketed_batches(encoded.lengths, texts_at_once(device))
    found: list[tuple[int, list[Tensor]]] = []
    with evaluating(model):
        for index in beside_neighbours(order, device):
            batch = {name: value.to(device) for name, value in encoded.batch(index).items()}
            states = forward(model, batch, {"hidden_states"}).hidden_states
            if states is None:
                raise KDTutorError(
                    f"{type(model).__name__} gives no hidden states, so its layers can't be compared"
                )
            found += _by_text(index, states, batch["attention_mask"].bool(), items)
    texts = [layers for _, layers in sorted(found, key=lambda pair: pair[0])]
    return [torch.cat(layer) for layer in zip(*texts, strict=True)]


def _by_text(
    index: Tensor, states: tuple[Tensor, ...], mask: Tensor, items: str
) -> list[tuple[int, list[Tensor]]]:
    """Cut a batch's states (B, L, D) into texts: (its number, its items in each layer, (n, D))."""
    cut = []
    for place, number in enumerate(index.tolist()):
        found = [state[place, mask[place]].float().cpu() for state in states]
        if items == "mean":
            found = [tokens.mean(0, keepdim=True) for tokens in found]
        elif items == "first":
            found = [tokens[:1] for tokens in found]
        cut.append((number, found))
    return cut


# ------------------------------------------------------------------------------------------------ CKA


def _centred(x: Tensor) -> Tensor:
    """Take each column's mean off: (N, D), float32 or wider; all 0 where nothing varies."""
    if len(x) < 2:
        raise KDTutorError(f"CKA needs at least two items, and there {'is one' if len(x) else 'are none'}")
    if not x.isfinite().all():
        raise KDTutorError("CKA needs finite numbers, and a representation has some that are not")
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    moved = x - x.mean(0)
    return moved if moved.square().sum() > STILL * x.square().sum() else torch.zeros_like(x)


# ------------------------------------------------------------------------------------------------ probes


def _probe(x: Tensor, y: Tensor, x_asked: Tensor, y_asked: Tensor, classes: int, decay: float = 0.1) -> float:
    """Fit W to one-hot rows by least squares, |Y − X W|² / N + decay · |W|², columns at one scale; its accuracy."""
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    x, x_asked = (x - mean) / spread, (x_asked - mean) / spread
    targets = F.one_hot(y, classes).float()
    penalty = decay * len(x) * torch.eye(x.shape[1])
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (targets - targets.mean(0)))
    guesses = (x_asked @ weights + targets.mean(0)).argmax(-1)
    return (guesses == y_asked).float().mean().item()
