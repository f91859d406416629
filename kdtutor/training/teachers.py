"""Where a teacher's outputs come from: the model itself at each step, or what it answered when it was asked once.

    answers = answers_for(inference, objective.terms, needs, batches, split="train", cache=True)
    answers.ask()                                  # nothing, or a pass over the data
    teacher = answers.outputs(batch, inputs)       # at each step

`Distillation` knows these two methods and nothing else, so a teacher of another kind is one more class, as several
teachers are in several.py: the logits of each are kept, since a mean of probabilities depends on a term's temperature.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import torch
from torch import Tensor

from kdtutor.data.tokens import Encoded, length_bucketed_batches
from kdtutor.errors import KDTutorError
from kdtutor.hardware import format_bytes, memory
from kdtutor.models.forward import Outputs, check_finite_logits, logits_by_batch, texts_at_once
from kdtutor.models.reading import read_by
from kdtutor.objectives.terms import Batch, Term
from kdtutor.training.asking import Answers, Inference, on_disk
from kdtutor.training.batches import Batches
from kdtutor.training.checkpoints import writable
from kdtutor.training.processes import bar, sum_values
from kdtutor.training.settings import TopK
from kdtutor.training.shipped import find as find_shipped
from kdtutor.training.top_logits import TopLogits, check_top_logits_suffice


class Unused(Answers):
    """No term needs a teacher. Masks are as fixed as they would be beside one, so that the two runs compare."""

    def __init__(self, batches: Batches, has_fixed_masks: bool):
        self.batches, self.has_fixed_masks = batches, has_fixed_masks and batches.task.rules.masks

    def ask(self) -> None:
        if self.has_fixed_masks:
            self.batches.fix_masks()
            self.mode += "; masks are fixed"


class Online(Answers):
    """The teacher is asked at every step."""

    def __init__(self, inference: Inference, needs: Set[str], reason: str, own: Encoded | None = None):
        self.inference, self.needs, self.own = inference, needs, own
        self.mode = f"asked at every step ({reason})"

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs:
        if self.own is not None:
            device = self.inference.accelerator.device
            inputs = {name: value.to(device) for name, value in self.own.batch(batch["index"]).items()}
        return self.inference.outputs(inputs, self.needs)


def answers_for(
    inference: Inference,
    terms: Sequence[Term],
    needs: Set[str],
    batches: Batches,
    split: str,
    cache: bool | str | os.PathLike | TopK,
) -> Answers:
    """Return the answers that `terms` learn from; nothing is asked yet.

    needs: what the forward pass of the teacher computes, nothing if no term needs one. Raises KDTutorError if a cache
    is named though the answers can't be kept there.
    """
    task = batches.task
    if isinstance(cache, TopK):
        check_top_logits_suffice(cache, task, terms, needs)
        return (
            TopLogits(inference, batches, cache, terms, split)
            if needs
            else Unused(batches, has_fixed_masks=True)
        )
    if not needs:
        return Unused(batches, has_fixed_masks=False)
    reading = read_by(inference.model, task)
    if reading is not task and needs != {"logits"}:
        raise KDTutorError(
            f"the teacher reads with a tokenizer of its own ({inference.model.reads_with}): its logits can be compared "
            f"with a student's, its {', '.join(sorted(needs - {'logits'}))} can't, since their tokens are others"
        )
    if task.rules.masks:
        reason = "masks are drawn anew at each step, so the teacher's answers change too"
    elif task.rules.per_token:
        reason = 'the logits of every token would fill the memory; cache="topk:64" keeps the largest'
    elif needs != {"logits"}:
        reason = f"{', '.join(sorted(needs - {'logits'}))} of every token would fill the memory"
    elif cache is False:
        reason = "cache=False"
    else:
        return Cached(inference, batches, split, cache)
    if not isinstance(cache, bool):
        raise KDTutorError(f"the teacher's answers can't be cached in {cache}: {reason}")
    own = None if reading is task else reading.encode(split)
    return Online(inference, needs, reason, own)


# ------------------------------------------------------------------------------------------------ all logits


class Cached(Answers):
    """The teacher's logits for every example, (N, C) float32, in memory or in a file that is mapped into it.

    A mapped file may be larger than the memory: a step reads the rows that it needs. All processes take their share of
    every batch, and all get every answer; the main one writes. A killed build goes on where it was.
    """

    def __init__(self, inference: Inference, batches: Batches, split: str, cache: bool | str | os.PathLike):
        self.inference, self.accelerator = inference, inference.accelerator
        self.task, self.split = read_by(inference.model, batches.task), split
        self.data = batches.data if self.task is batches.task else self.task.encode(split)
        self.shape = len(self.data), inference.model.config.num_labels
        self.bytes = 4 * self.shape[0] * self.shape[1]
        self.folder = None if isinstance(cache, bool) else Path(cache)
        at_once = texts_at_once(self.accelerator.device) * self.accelerator.num_processes
        self.order = length_bucketed_batches(self.data.lengths, at_once)
        place = "memory" if self.folder is None else self.folder
        self.mode = f"asked once, answers cached in {place}, {format_bytes(self.bytes)}"

    def ask(self) -> None:
        shipped = self.shipped()
        if shipped is not None:
            self.logits, self.mode = shipped, "not asked, its answers ship with the course"
        else:
            self.logits = self._in_memory() if self.folder is None else self._on_disk(self.folder)

    def ask_anew(self) -> None:
        self._in_memory()

    def is_shipped(self) -> bool:
        return self.shipped() is not None

    def shipped(self) -> Tensor | None:
        """Look up the answers that ship with the course, (N, C); a folder holds what its own teacher was asked."""
        return None if self.folder else find_shipped(self.inference.model, self.data)

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs:
        return Outputs(self.logits[batch["index"]].to(self.accelerator.device, non_blocking=True))

    def _in_memory(self) -> Tensor:
        free = memory()[1]
        if self.bytes > free // 2:
            raise KDTutorError(
                f"the teacher's answers take {format_bytes(self.bytes)} of memory, and {format_bytes(free)} are "
                "free: cache='a folder' keeps them on disk, cache=False asks anew at every step"
            )
        logits = torch.empty(self.shape)
        for index, answers in self._asked():
            logits[index] = answers
        return logits

    def _on_disk(self, folder: Path) -> Tensor:
        file = writable(folder) / f"{self.inference.named(self.task, self.split)}.npy"
        if not file.is_file() and any(folder.glob("teacher-*.npy")):
            self.remark = (
                "; the answers that lie there already are another teacher's, or to other texts: not used"
            )
        return on_disk(file, self.shape, self.accelerator, len(self.order), self._asked)

    def _asked(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index, logits (n, C) on the host) batch by batch, from batch number `first` on."""
        accelerator, batches = self.accelerator, self.order[first:]
        rank, world = accelerator.process_index, accelerator.num_processes
        share = (index[rank::world] for index in batches if len(index) > rank)
        model, fast = self.inference.model, self.inference.fast
        mine = logits_by_batch(model, self.data, share, self.inference.autocast(), fast)
        title = f"asking the teacher, {format_bytes(self.bytes)} of answers"
        for index in bar(accelerator, self.inference.progress, batches, desc=title):
            answers = torch.zeros(len(index), self.shape[1], device=accelerator.device)
            if len(index) > rank:
                answers[rank::world] = next(mine)
            answers = sum_values(accelerator, answers).cpu()  # zeros wherever another process answered
            try:
                yield index, check_finite_logits(answers, index)
            except KDTutorError as error:
                who = f"{self.split} split of {self.task.name}, asked of the teacher"
                raise KDTutorError(f"{who}: {error}") from error
