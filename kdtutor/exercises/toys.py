"""Small models, texts and labels for exercises in which something is trained; the models note how they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

WORDS, CLASSES = 11, 4
Inputs = dict[str, Tensor]


class Output:
    """What a Hugging Face model returns: with labels, its loss comes first, and `output[0]` is the loss."""

    def __init__(self, logits: Tensor, loss: Tensor | None) -> None:
        self.logits, self.loss = logits, loss

    def __getitem__(self, place: int) -> Tensor:
        return [value for value in (self.loss, self.logits) if value is not None][place]


def between(generator: torch.Generator, low: int, high: int) -> int:
    """Draw from low to high − 1."""
    return int(torch.randint(low, high, (), generator=generator))


def observe_number(name: str, function: Callable, *arguments: object) -> dict:
    """Observe the one number that a function returns, under this name."""
    return {name: torch.tensor(float(function(*arguments)))}


@dataclass(frozen=True)
class Call:
    """How a model was called once."""

    texts: int
    largest_id: int
    in_train_mode: bool
    with_graph: bool


class TinyClassifier(nn.Module):
    """Mean of word vectors, dropout, a linear layer; called like a Hugging Face model. It notes how it was called."""

    def __init__(
        self, width: int, dropout: float = 0.0, generator: torch.Generator | None = None, words: int = WORDS
    ) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(words, width), nn.Linear(width, CLASSES)
        self.dropout = nn.Dropout(dropout)
        for weights in self.parameters():
            nn.init.normal_(weights, generator=generator)
        self.calls: list[Call] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Output:
        mode, graph = self.training or self.dropout.training, torch.is_grad_enabled()
        self.calls.append(Call(len(input_ids), int(input_ids.max()), mode, graph))
        mask = attention_mask[..., None]
        logits = self.head(self.dropout((self.words(input_ids) * mask).sum(1) / mask.sum(1)))
        return Output(logits, None if labels is None else F.cross_entropy(logits, labels))

    @property
    def in_train_mode(self) -> list[bool]:
        return [call.in_train_mode for call in self.calls]

    @property
    def with_graph(self) -> list[bool]:
        return [call.with_graph for call in self.calls]


def padded_texts(generator: torch.Generator, texts: int) -> Inputs:
    """Make ids and mask of a batch of padded texts."""
    lengths = torch.randint(2, 6, (texts, 1), generator=generator)
    ids = torch.randint(WORDS, (texts, 5), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(5) < lengths).long()}


def weights_of(model: nn.Module) -> Tensor:
    """Lay all of a model's weights into one vector."""
    return torch.cat([part.detach().flatten() for part in model.parameters()])


@contextmanager
def steps_watched(steps: list[tuple[set[int], bool]]) -> Iterator[None]:
    """Note in `steps`, for each step of any optimiser, which weights it holds, and whether any has a gradient."""

    def note(optimizer: torch.optim.Optimizer, *_) -> None:
        held = [weight for group in optimizer.param_groups for weight in group["params"]]
        moved = any(weight.grad is not None and bool(weight.grad.any()) for weight in held)
        steps.append(({id(weight) for weight in held}, moved))

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


def labels_with_gaps(generator: torch.Generator, texts: int, classes: int, last: bool) -> Tensor:
    """Draw labels among which the last class occurs, or does not: a one-hot row must not depend on that."""
    labels = torch.randint(classes - 1, (texts,), generator=generator)
    if last:
        labels[int(torch.randint(texts, (), generator=generator))] = classes - 1
    return labels


def keeps_graph(*values: object) -> bool:
    """Tell whether any of these values still holds what a backward pass would need."""
    return any(getattr(value, "requires_grad", False) for value in values)
