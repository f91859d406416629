"""The batches of a training run: seed and step alone decide examples and masks, however a batch is cut up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.data.masking import rarity
from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED, Encoded, length_bucketed_batches
from kdtutor.training.randomness import generator_from
from kdtutor.training.settings import Settings


@dataclass
class Batches:
    """`batches[step]` is this process's part of the batch of an optimiser step (0 for the first), in micro-batches.

    batch_size: examples per step, over all processes. accumulate: how many micro-batches at most. rank, world: which
    process this is, of how many. masking: for masked LMs, the fraction of tokens to predict; rare_words: 0, or the
    exponent by which rare ones are drawn more often; positions: the tokens whose logits count, "masked" or "valid".
    sampling: "uniform", each text once per pass, or "balanced", see `balanced_chances`.
    """

    task: Task
    data: Encoded
    batch_size: int
    seed: int = 0
    masking: float = 0.15
    positions: str = "valid"
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    rare_words: float = 0.0
    sampling: str = "uniform"

    @classmethod
    def of(cls, task: Task, settings: Settings, positions: str, rank: int, world: int) -> Batches:
        """Make the batches of a run with these settings."""
        shared = {
            name: getattr(settings, name)
            for name in ("batch_size", "seed", "masking", "accumulate", "rare_words", "sampling")
        }
        return cls(task, task.encode(settings.split), positions=positions, rank=rank, world=world, **shared)

    @property
    def parts(self) -> int:
        """Tell into how many micro-batches a batch is cut, over all processes."""
        return self.accumulate * self.world

    @property
    def micro_batch(self) -> int:
        """Tell how many texts the largest micro-batch has: so many a process has in hand at once."""
        return math.ceil(min(self.batch_size, len(self.data)) / self.parts)

    def __post_init__(self):
        self.per_epoch = math.ceil(len(self.data) / self.batch_size)
        self._fixed: tuple[Encoded, Encoded] | None = None  # corrupted texts, and their labels
        self._weights = None
        if self.rare_words:
            self._weights = rarity(self.data, len(self.task.tokenizer), self.rare_words)
        self._chances = balanced_chances(self.data.labels) if self.sampling == "balanced" else None
        self._order: tuple[int, list[Tensor]] = (-1, [])  # an epoch, and its batches

    def index(self, step: int) -> Tensor:
        """Give the examples of a step, over all processes. An epoch has an order of its own, of each example once."""
        epoch, position = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = generator_from(self.seed, "order", epoch)
            if self._chances is None:
                batches = length_bucketed_batches(self.data.token_counts, self.batch_size, order)
            else:
                drawn = self._chances.multinomial(len(self.data), replacement=True, generator=order)
                batches = length_bucketed_batches(self.data.token_counts[drawn], self.batch_size, order)
                batches = [drawn[index] for index in batches]
            self._order = epoch, batches
        return self._order[1][position]

    def tokens(self, step: int) -> int:
        """Count the tokens of a step, over all processes, padding left out."""
        return int(self.data.token_counts[self.index(step)].sum())

    def tokens_of_a_pass(self) -> int:
        """Count the tokens of an epoch, padding left out; of a balanced one, which is drawn, what is expected."""
        if self._chances is None:
            return int(self.data.token_counts.sum())
        return round(len(self.data) * float(self._chances @ self.data.token_counts.double()))

    def fix_masks(self) -> Encoded:
        """Draw the masks of all texts once, where there are any: every epoch has the same ones. Return what is read."""
        if not self.task.rules.masks:
            return self.data
        drawn = []
        for index in torch.arange(len(self.data)).split(256):
            generator = generator_from(self.seed, "fixed masks", int(index[0]))
            whole = self.data.batch(index)
            masked = self._with_labels(whole, generator)
            real = masked["attention_mask"].bool()
            drawn.append((masked["input_ids"][real], masked["labels"][real]))
        ids, labels = (torch.cat(parts).int() for parts in zip(*drawn, strict=True))
        self._fixed = replace(self.data, ids=ids), replace(self.data, ids=labels, pad=IGNORED)
        return self._fixed[0]

    def labelled(self, index: Tensor, step: int = 0) -> dict[str, Tensor]:
        """Return the texts `index` with their labels, and with masks: the fixed ones, or those of this step."""
        if self._fixed:
            corrupted, labels = self._fixed
            return corrupted.batch(index) | {"labels": labels.batch(index)["input_ids"]}
        return self._with_labels(self.data.batch(index), generator_from(self.seed, "masks", step))

    def __getitem__(self, step: int) -> list[dict[str, Tensor]]:
        return self._micro_batches(step, self.rank)

    def missing(self, step: int) -> list[dict[str, Tensor]]:
        """Return the micro-batch that the first process has and this one has not, where there are too few texts."""
        size = len(self.index(step))
        first, mine = (min(self.accumulate, math.ceil((size - rank) / self.world)) for rank in (0, self.rank))
        return self._micro_batches(step, 0)[mine:] if mine < first else []

    def _micro_batches(self, step: int, rank: int) -> list[dict[str, Tensor]]:
        """Return a process's part of a step, cut into micro-batches; none is empty."""
        # Labels and masks are made for all of it at once, so that they don't depend on how it is cut.
        batch = self.labelled(self.index(step), step)
        # Every n-th example, of n parts: texts of similar length lie side by side, so no part has all the long ones.
        # Whether processes or micro-batches cut a batch makes no difference to its parts, only how many there are.
        every = torch.arange(len(batch["index"]))
        mine = (every[rank + n * self.world :: self.parts] for n in range(self.accumulate))
        return [self._cut(batch, part) for part in mine if len(part)]

    def _cut(self, batch: dict[str, Tensor], part: Tensor) -> dict[str, Tensor]:
        """Return some examples of a batch, padded to the longest of them or a little more: there are few lengths."""
        cut = {name: value[part] for name, value in batch.items()}
        pad = self.data.pad
        _pad(cut, self.data, "attention_mask", {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0})
        if self.data.written is not None:
            _pad(cut, self.data.written, "target_mask", {"target_ids": pad, "target_mask": 0})
        if self.task.rules.per_token:
            like = cut["input_ids" if self.data.written is None else "target_ids"]
            cut["labels"] = _to_width(cut["labels"], like.shape[1], IGNORED)
        # Found here, on the host, where no device has to be waited for.
        counted = self.task.rules.counted(cut, self.positions)
        if counted is not None:
            rows, labels = counted.flatten().nonzero()[:, 0], cut["labels"][counted]
            # Those with a label first: most chunks of a vocabulary's losses then have none.
            order = (labels == IGNORED).int().argsort(stable=True)
            cut["labels"] = labels[order]  # (n,)
            cut["rows"] = rows[order]  # (n,) places in the flattened (B·L), or (B·M)
        return cut

    def _with_labels(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        rules, tokenizer = self.task.rules, self.task.tokenizer
        return rules.with_labels(batch, tokenizer, self.masking, generator, self._weights)


def _pad(batch: dict[str, Tensor], data: Encoded, mask: str, padding: dict[str, int]) -> None:
    """Bring what `padding` names, and with what, to the length of the batch's longest text by `mask`, or a bit more."""
    length = data.round_length(int(batch[mask].sum(1).max()))
    for name in padding.keys() & batch.keys():
        batch[name] = _to_width(batch[name], length, padding[name])


def _to_width(x: Tensor, length: int, value: int) -> Tensor:
    # A negative width cuts off.
    return F.pad(x, (0, length - x.shape[1]), value=value)


def balanced_chances(labels: Tensor) -> Tensor:
    """Give the chance of each text (N,) to be drawn: classes alike, texts of one class alike; float64, the sum is 1.

    Unlabelled texts, together, are drawn as often as they occur.
    """
    classes, which, counts = labels.unique(return_inverse=True, return_counts=True)
    is_class = classes != IGNORED
    share = torch.where(is_class, counts[is_class].sum() / is_class.sum().clamp(min=1), counts)
    return (share / counts / len(labels)).double()[which]
