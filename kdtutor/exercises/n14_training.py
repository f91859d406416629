"""The exercise of notebook 14 on the large run's step: a gradient from many pieces.

It is judged by what counts: what is left in the model, and how much of the batch was ever held at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import between, keeps_graph

WIDTH, VOCABULARY = 5, 7
Batch = dict[str, Tensor]


class TinyHead(nn.Module):
    """A linear layer onto a vocabulary, (B, L, D) → (B, L, V), that notes how much waits for its way back."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, VOCABULARY)
        for weights in self.parameters():
            nn.init.normal_(weights, generator=generator)
        # Positions: whose backward pass has not come yet, now and at most; and in one pass.
        self.waiting = self.most = self.largest = 0

    def forward(self, features: Tensor) -> Tensor:
        logits = self.last(features)
        if logits.requires_grad:
            positions = logits.numel() // VOCABULARY
            self.largest = max(self.largest, positions)
            self.waiting += positions
            self.most = max(self.most, self.waiting)
            logits.register_hook(lambda _: self._came_back(positions))
        return logits

    def _came_back(self, positions: int) -> None:
        self.waiting -= positions


def step_gradient(
    model: nn.Module, shares: Sequence[Sequence[Batch]], wrong: frozenset[str] = RIGHT
) -> float:
    """Leave in the model the gradient of the mean loss of all masked tokens of a step; return that loss.

    shares: for each process its micro-batches, {"features": (B, L, D), "labels": (B, L), −100 where not masked}.
    """
    shares = shares[:1] if "one process alone" in wrong else shares
    if "older gradients kept" not in wrong:
        model.zero_grad()
    everything = [batch for share in shares for batch in share]
    if "one large batch" in wrong:
        joined = {
            "features": torch.cat([b["features"].flatten(0, -2) for b in everything])[None],
            "labels": torch.cat([b["labels"].flatten() for b in everything])[None],
        }
        shares = [[joined]]
        everything = [joined]
    loss, graph = 0.0, 0.0
    for share in shares:
        for batch in share:
            if "only the last micro-batch" in wrong:
                model.zero_grad()
            part = _part(model, batch, share, shares, wrong)
            if "one backward for all" in wrong:
                graph = graph + part
            else:
                (len(everything) * part if "divided after backward" in wrong else part).backward()
            if "cleared after the backward pass" in wrong:
                model.zero_grad()
            loss += part.item()
    if "one backward for all" in wrong:
        graph.backward()
    if "the returned loss keeps its graph" in wrong:
        return torch.tensor(loss, requires_grad=True)
    if "the gradient divided by the micro-batches as well" in wrong:
        for weights in model.parameters():
            weights.grad /= len(everything)
    if "the returned loss divided once more" in wrong:
        return loss / len(everything)
    if "the sum of the means returned" in wrong:
        return sum(_mean_loss(model, batch) for batch in everything)
    return part.item() if "the last loss returned" in wrong else loss


def _part(
    model: nn.Module, batch: Batch, share: Sequence[Batch], shares: Sequence, wrong: frozenset[str]
) -> Tensor:
    """Tell what a micro-batch of a process's share adds to the loss of the step, with its graph."""
    everything = [each for some in shares for each in some]
    logits, labels = model(batch["features"]).flatten(0, 1), batch["labels"].flatten()
    total = _masked(everything)
    shares_of_means = {
        "mean of the means": 1 / len(everything),
        "divided after backward": 1 / len(everything),
        "the mean times its count": _masked([batch]) / total,
        "the mean times its texts": len(batch["labels"]) / sum(len(b["labels"]) for b in everything),
    }
    for name, weight in shares_of_means.items():
        if name in wrong:
            return weight * F.cross_entropy(logits, labels)
        if f"{name}, empty ones skipped" in wrong:
            return weight * F.cross_entropy(logits, labels, reduction="sum") / max(1, _masked([batch]))

    factor = 1 / total
    if "every process its own mean" in wrong:
        factor = 1 / (_masked(share) * len(shares))
    if "divided by the texts" in wrong:
        factor = 1 / sum(len(b["labels"]) for b in everything)
    if "divided by all positions" in wrong:
        factor = 1 / sum(b["labels"].numel() for b in everything)
    if "not divided" in wrong:
        factor = 1.0
    if "multiplied by the processes" in wrong:
        factor = factor * len(shares)
    if "divided by the processes as well" in wrong:
        factor = factor / len(shares)
    return factor * F.cross_entropy(logits, labels, reduction="sum")


def _mean_loss(model: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(batch["features"]).flatten(0, 1), batch["labels"].flatten()).item()


def _masked(batches: Sequence[Batch]) -> int:
    return sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)


def _shares(generator: torch.Generator) -> list[tuple]:
    """Draw tiny models, and steps of two or three processes with two or three micro-batches each, unevenly masked."""
    probes = []
    for processes in (2, 3):
        shares = []
        for rank in range(processes):
            share = []
            for place in range(2 + rank % 2):
                texts, length = 2 + (rank + place) % 2, between(generator, 4, 7)
                labels = torch.randint(VOCABULARY, (texts, length), generator=generator)
                masked = torch.rand(texts, length, generator=generator) < 0.15 + 0.3 * ((rank + place) % 3)
                masked[0, 0] = True
                if processes == 3 and (rank, place) == (1, 1):  # by chance, nothing to be predicted
                    masked[:] = False
                features = torch.randn(texts, length, WIDTH, generator=generator)
                share.append({"features": features, "labels": torch.where(masked, labels, IGNORED)})
            shares.append(share)
        probes.append((TinyHead(generator), shares))
    return probes


def _observe_step(function, model: TinyHead, shares: list[list[Batch]]) -> dict:
    for i, weights in enumerate(model.parameters()):
        weights.grad = torch.full_like(weights, 0.3 + 0.2 * i)  # what an earlier step has left
    micro = max(batch["labels"].numel() for share in shares for batch in share)
    loss = function(model, shares)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return {
        "the gradient that is left in the model": torch.cat([g.flatten() for g in gradients]),
        "the loss that it returns": loss,
        "whether more than one micro-batch goes through the model at once": model.largest > micro,
        "whether more than one micro-batch waits for its backward pass": model.most > micro,
        "whether the returned loss keeps its graph": keeps_graph(loss),
    }


STEP_GRADIENT = Exercise(
    name="step_gradient",
    number="14.4",
    title="Accumulation that equals the large batch",
    reference=step_gradient,
    mistakes=(
        Mistake(
            "mean of the means",
            "Your gradient is the mean of the micro-batches' means. A masked token then counts for more where "
            "there are few of them.",
            also=("mean of the means, empty ones skipped",),
        ),
        Mistake(
            "the mean times its texts",
            "Your micro-batches weigh by their texts. A mean over masked tokens weighs by *their* number, which is not "
            "the same; and where nothing is to be predicted, it is 0/0.",
            also=("the mean times its texts, empty ones skipped",),
        ),
        Mistake(
            "the mean times its count",
            "Where a micro-batch has nothing to be predicted, its mean is 0/0, and NaN times 0 is NaN: the whole step "
            "is lost. Which reduction adds up, and divides by nothing?",
        ),
        Mistake(
            "every process its own mean",
            "Your processes divide by their own number of masked tokens, and then the processes are averaged. Who "
            "has to know the number of all?",
        ),
        Mistake(
            "divided by the processes as well",
            "Your gradient is too small by the number of processes. The number of all masked tokens already counts "
            "those of every process.",
        ),
        Mistake(
            "divided after backward",
            "The loss that you return is divided, and the gradient is not: it has been computed by then. What comes "
            "first, the division or the backward pass?",
        ),
        Mistake(
            "divided by the texts",
            "Your sum is divided by the number of texts. The loss is a mean over what is predicted, and that is "
            "tokens.",
        ),
        Mistake(
            "divided by all positions",
            "Your sum is divided by all positions, also by those where nothing is to be predicted.",
        ),
        Mistake(
            "only the last micro-batch",
            "Your model has the gradient of the last micro-batch alone. Where does each one start from zero?",
        ),
        Mistake(
            "older gradients kept",
            "Your gradient still has something of an earlier step in it. A new sum starts from zero.",
        ),
        Mistake(
            "one backward for all",
            "Your gradient is right, but it comes from one backward pass at the end. Until then the activations of "
            "all micro-batches are kept, and it was to save these that the batch was cut up.",
        ),
        Mistake(
            "one process alone",
            "Your gradient knows only the first process's micro-batches. Each process sees its own share, and the "
            "step is taken with the sum.",
        ),
        Mistake(
            "one large batch",
            "Your gradient is right, but all micro-batches went through the model as one: the memory for that "
            "is what was missing.",
        ),
        Mistake(
            "the returned loss keeps its graph",
            "What you return still holds its graph. A plain number was asked for.",
        ),
        Mistake(
            "the sum of the means returned",
            "The gradient is right. But the loss that you return adds up the means of the micro-batches.",
        ),
        Mistake(
            "the last loss returned",
            "The gradient is right. But the loss that you return is that of the last micro-batch.",
        ),
        Mistake(
            "not divided", "Your gradient is that of a sum over the masked tokens: a mean was asked for."
        ),
        Mistake(
            "multiplied by the processes",
            "Your gradient is too large by the number of processes. Where a library averages over processes, one has "
            "to make up for that; here the gradients add up.",
        ),
        Mistake(
            "cleared after the backward pass",
            "You clear the gradient after each backward pass, and in the end there is none left.",
        ),
        Mistake(
            "the gradient divided by the micro-batches as well",
            "Your gradient is divided by the number of micro-batches once more, after it was right.",
        ),
        Mistake(
            "the returned loss divided once more",
            "The gradient is right. The loss that you return is divided by the number of micro-batches once more.",
        ),
    ),
    planted=("divided after backward",),
    symptom="Cut into twice as many pieces, the same batch gives a gradient that is twice as long.",
    probes=_shares,
    observe=_observe_step,
)


EXERCISES = [STEP_GRADIENT]
