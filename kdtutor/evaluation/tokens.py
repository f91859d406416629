"""How well a language model knows the tokens of a text: loss, perplexity and accuracy over a whole split."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import length_bucketed_batches
from kdtutor.errors import KDTutorError
from kdtutor.models.forward import as_memory_allows, evaluating, forward, unembedding
from kdtutor.neighbours import beside_neighbours

AT_ONCE = 2048  # tokens that have their logits at the same time


@torch.no_grad()
def token_scores(
    model: PreTrainedModel,
    task: Task,
    split: str = "test",
    *,
    masking: float = 0.15,
    seed: int = 0,
    batch_size: int | None = None,
    fast: bool = True,
) -> dict[str, float]:
    """Compute loss (nats per predicted token), perplexity and accuracy over the whole split, each token given the true
    ones: the masked tokens of a masked LM, all next tokens of a causal one, all written ones of an encoder–decoder.

    Masks are drawn once, by `seed` and `batch_size`: compare models at the same ones. The last entry counts the tokens.
    """
    encoded, generator = task.encode(split), torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    # Where the logits of all its tokens are made at once, a batch is small.
    batch_size = batch_size or (256 if task.rules.masks or unembedding(model) else 16)

    loss = right = count = 0
    order = length_bucketed_batches(encoded.lengths, batch_size)
    with evaluating(model):
        for index in beside_neighbours(order, device):
            batch = task.rules.with_labels(encoded.batch(index), task.tokenizer, masking, generator)

            def scored(texts: Tensor, batch: dict[str, Tensor] = batch) -> tuple[float, int, int]:
                part = {name: value[texts].to(device) for name, value in batch.items()}
                rows = task.rules.counted(part, "masked").flatten().nonzero()[:, 0]
                return _scored(model, part, rows, fast)

            for more in as_memory_allows(
                scored, torch.arange(len(index)), device, batch["input_ids"].shape[1]
            ):
                loss, right, count = loss + more[0], right + more[1], count + more[2]
    return _means(loss, right, count, task, split)


def _means(loss: float, right: int, count: int, task: Task, split: str) -> dict[str, float]:
    """Divide the sums over a split by its tokens. KDTutorError if there is none, or if the loss is not finite."""
    if not count:
        what = "was masked" if task.rules.masks else "is to be predicted"
        raise KDTutorError(f"no token of {task.name}, {split} split, {what}: the split is too small")
    mean_loss = loss / count
    if not math.isfinite(mean_loss):
        raise KDTutorError(f"the model's logits on {task.name}, {split} split, are not finite")
    return {
        "loss": mean_loss,
        "perplexity": math.exp(mean_loss) if mean_loss < 709 else math.inf,  # math.exp would overflow
        "accuracy": right / count,
        "masked_tokens" if task.rules.masks else "tokens": count,
    }


def _scored(
    model: PreTrainedModel, batch: dict[str, Tensor], rows: Tensor, fast: bool
) -> tuple[float, int, int]:
    """Sum the loss of some tokens, and count those that are right, and all."""
    labels, loss, right = batch["labels"].flatten()[rows], 0.0, 0
    for logits, truth in _by_chunk(model, batch, rows, labels, fast):
        loss += float(F.cross_entropy(logits, truth, reduction="sum"))
        right += int((logits.argmax(-1) == truth).sum())
    return loss, right, len(labels)


def _by_chunk(
    model: PreTrainedModel, batch: dict[str, Tensor], rows: Tensor, labels: Tensor, fast: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (n, V) in float32 and labels (n,) of the tokens `rows`, a few at a time where the head is known."""
    needs = frozenset({"features" if unembedding(model) else "logits"})
    out = forward(model, batch, needs, rows=rows, fast=fast)
    if out.unembedding is None:
        yield out.logits.float(), labels
        return
    chunks = out.features[: len(rows)].split(AT_ONCE), labels.split(AT_ONCE)
    for features, truth in zip(*chunks, strict=True):
        yield out.unembedding(features).float(), truth
