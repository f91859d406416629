"""On-policy distillation: the student writes, and the teacher judges each of its tokens (GKD, Agarwal et al. 2024).

    run = Distillation(student, teacher, task, GeneralisedJSD(beta=0.5), on_policy=OnPolicy(share=0.5))

On the data's texts a student only ever sees prefixes that are right. When it writes for itself, its first error leads
to a place where it was never taught (*exposure bias*). So in a share λ of the steps the texts are its own, as it is
now, and the teacher says what should come next after *those* words. Nothing else of the loop changes: a batch is a
batch.

What the student wrote is no truth. Its labels are −100, so that HardLabels learns from the data's texts alone; only
what a teacher says of those tokens counts, and of the prompt's tokens nothing does. Writing has no gradient (the policy
gradient is left out, as in GKD): the tokens are given, and the divergence at each is what falls.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError
from kdtutor.models.writing import generated_ids
from kdtutor.objectives.terms import Batch, Objective, Term
from kdtutor.training.randomness import generator_from, seed_from
from kdtutor.training.settings import OnPolicy


class Writing:
    """The student at work: `instead_of(micro_batches, step)` gives the texts of a step.

    Seed, step and the student's weights alone decide what it writes, so a resumed run writes what it would have
    written. rank: which process this is.
    """

    def __init__(self, student: PreTrainedModel, task: Task, how: OnPolicy, seed: int, rank: int) -> None:
        self.student, self.task, self.how, self.seed, self.rank = student, task, how, seed, rank

    def instead_of(self, micro_batches: list[Batch], step: int) -> list[Batch]:
        """Return the data's micro-batches, or with the chance λ, in all processes alike, what the student writes."""
        if float(torch.rand((), generator=generator_from(self.seed, "on-policy", step))) >= self.how.share:
            return micro_batches
        return [self._written(batch, step, number) for number, batch in enumerate(micro_batches)]

    def _written(self, batch: Batch, step: int, number: int) -> Batch:
        prompts = prompts_of(self.task, batch, self.how.prompt)
        seed = seed_from(self.seed, "writing", step, self.rank, number)
        ids, mask = generated_ids(
            self.student, self.task, prompts, temperature=self.how.temperature,
            max_new_tokens=self.how.max_new_tokens, seed=seed,
        )  # fmt: skip
        written = with_rows(self.task, with_written(self.task, prompts, ids.cpu(), mask.cpu()))
        return written | {"labels": torch.full_like(written["labels"], IGNORED)}


def check_on_policy(how: OnPolicy | None, task: Task, objective: Objective | Term, top: bool) -> None:
    """Refuse a student that can't write, or nobody who judges. top: whether a teacher's logits are kept beforehand."""
    if how is None:
        return
    if not task.rules.per_token or task.rules.masks:
        raise KDTutorError(
            f"on_policy lets the student write, and nothing is written in {task.name}, a {task.kind} task"
        )
    if not objective.needs_teacher:
        raise KDTutorError(
            f"on_policy wants a teacher that judges what the student wrote, and {objective} asks none: to learn from "
            "its own texts as if they were right would only make it surer of its errors"
        )
    if top:
        raise KDTutorError(
            "on_policy asks the teacher about texts that nobody knows beforehand: leave cache alone"
        )


def prompts_of(task: Task, batch: Batch, tokens: int) -> Batch:
    """Cut texts down to what a model is given: input_ids, attention_mask (B, L), and index (B,).

    An encoder–decoder reads all; of a causal LM's text the first `tokens`, and never the last, which ends it.
    """
    prompts: Batch = {name: batch[name] for name in ("input_ids", "attention_mask", "index") if name in batch}
    if task.rules.writes:
        return prompts
    lengths = (prompts["attention_mask"].sum(1, keepdim=True) - 1).clamp(1, tokens)
    width = int(lengths.max())
    given = torch.arange(width) < lengths
    ids = prompts["input_ids"][:, :width].where(given, task.tokenizer.pad_token_id)
    return prompts | {"input_ids": ids, "attention_mask": given.long()}


def with_written(task: Task, prompts: Batch, ids: Tensor, mask: Tensor) -> Batch:
    """Put what was given and what was written, int64 and bool (B, N), into one batch, with labels (B, M).

    labels: the written tokens, each in the row that predicts it, and −100 elsewhere: in the prompt and in the padding.
    """
    if task.rules.writes:
        batch = prompts | {"target_ids": ids, "target_mask": mask.long()}
        return task.rules.with_labels(batch, task.tokenizer, 0.0, None)

    # Right behind its prompt, wherever that ends.
    given, written = prompts["attention_mask"].sum(1), mask.sum(1)
    place = torch.arange(int((given + written).max()))
    whole = torch.cat([prompts["input_ids"], ids], 1)
    width = prompts["input_ids"].shape[1]
    source = place.where(place < given[:, None], place - given[:, None] + width).clamp(max=whole.shape[1] - 1)
    real = place < (given + written)[:, None]
    text = whole.gather(1, source).where(real, task.tokenizer.pad_token_id)
    batch = prompts | {"input_ids": text, "attention_mask": real.long()}
    batch = task.rules.with_labels(batch, task.tokenizer, 0.0, None)
    # The last place of the prompt already predicts what the student wrote.
    batch["labels"] = batch["labels"].where(place >= given[:, None] - 1, IGNORED)
    return batch


def with_rows(task: Task, batch: Batch) -> Batch:
    """Keep the labels (n,) of the places that count, and those as `rows` (n,) of the flattened batch."""
    counted = task.rules.counted(batch, "valid")
    return batch | {"rows": counted.flatten().nonzero()[:, 0], "labels": batch["labels"][counted]}
