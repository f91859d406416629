"""A cached teacher for masked LM: fixed masks, and of each token's logits only the k largest.

    run = Distillation(student, teacher, glosses, SoftTargets(2) + MaskedLM(), cache=TopK(64))     # or cache="topk:64"

An approximation, twice: every epoch has the same masks, where drawing them anew shows the student more; and what the
teacher gives to all other tokens counts as 0, the k probabilities being scaled up to 1. `Distillation.teacher_mode`
says how much that leaves out. Hidden states are not kept: CosineHidden needs the teacher at every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.tokens import Encoded
from kdtutor.errors import KDTutorError
from kdtutor.hardware import memory
from kdtutor.models.forward import forward
from kdtutor.objectives.logits import SoftCrossEntropy, SoftTargets
from kdtutor.objectives.terms import Term
from kdtutor.training.batches import Batches
from kdtutor.training.processes import bar, sum_values
from kdtutor.training.settings import TopK

LEFT_OUT = (
    -1e30
)  # a logit whose probability is 0 at any temperature, and no infinity, which would make NaN of 0 · ∞
ASKED_AT_ONCE = 64  # texts a process


@dataclass
class TopLogits:
    """In the order of `data`. log_p: float16 (tokens, k), at temperature 1; tokens: int32 (tokens, k)."""

    data: Encoded
    log_p: Tensor
    tokens: Tensor

    def of(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of a micro-batch's real tokens, row by row: (n, k) each."""
        index, mask = batch["index"], batch["attention_mask"].bool()
        column = torch.arange(mask.shape[1])
        where = (self.data.offsets[index][:, None] + column)[mask]
        return {"top_log_p": self.log_p[where], "top_tokens": self.tokens[where]}


def bytes_of(wanted: TopK, data: Encoded) -> int:
    """How much the answers for all tokens take: a float16 and an int32 each."""
    return int(data.offsets[-1]) * wanted.k * 6


def refuse(wanted: TopK, task, terms: Iterable[Term], chunked: bool) -> None:
    """KDTutorError, with the reason, where the k largest logits can't stand in for the teacher."""
    reads = [term for term in terms if term.needs_teacher]
    reason = None
    if task.kind != "masked-lm":
        reason = f"{task.name} is a {task.kind} task: cache=True keeps all of its few logits"
    elif others := [type(t).__name__ for t in reads if type(t) not in (SoftTargets, SoftCrossEntropy)]:
        reason = f"{others[0]} needs more of the teacher than probabilities: leave cache alone"
    elif reads and not chunked:
        reason = "it works with chunked=True alone"
    elif wanted.k > len(task.tokenizer):
        reason = f"the vocabulary has {len(task.tokenizer)} tokens only"
    if reason:
        raise KDTutorError(f"the teacher's answers can't be cached as {wanted}: {reason}")


@torch.no_grad()
def ask_for_top(
    wanted: TopK,
    teacher: PreTrainedModel,
    batches: Batches,
    temperature: float,
    bf16: bool,
    fast: bool,
    accelerator: Accelerator,
    progress: bool | None,
) -> tuple[TopLogits, str]:
    """Ask the teacher once about every token of `batches`, and say what is kept and what is left out."""
    data, device = batches.data, accelerator.device
    total, size = int(data.offsets[-1]), bytes_of(wanted, data)
    if size > memory()[1] // 2:
        raise KDTutorError(
            f"the teacher's {wanted.k} largest logits of {total:,} tokens take {size / 1e9:.1f} GB, and "
            f"{memory()[1] / 1e9:.1f} GB are free: take fewer, or leave cache alone"
        )
    kept = TopLogits(
        data,
        torch.empty(total, wanted.k, dtype=torch.float16),
        torch.empty(total, wanted.k, dtype=torch.int32),
    )
    rank, world, outside = accelerator.process_index, accelerator.num_processes, 0.0
    parts = torch.arange(len(data)).split(ASKED_AT_ONCE * world)
    for part in bar(accelerator, progress, parts, desc="asking the teacher"):
        first, last = int(data.offsets[part[0]]), int(data.offsets[part[-1] + 1])
        log_p, tokens = torch.zeros(2, last - first, wanted.k, device=device)
        left = torch.zeros((), device=device)
        mine = part[rank::world]  # the others stay 0 here, and are summed up
        if len(mine):
            batch = batches.masked(mine)
            where = (data.offsets[mine][:, None] + torch.arange(batch["attention_mask"].shape[1]))[
                batch["attention_mask"].bool()
            ] - first
            rows = batch["attention_mask"].flatten().nonzero()[:, 0].to(device)
            inputs = {name: value.to(device) for name, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = forward(teacher.eval(), inputs, rows=rows, fast=fast).logits.float()
            best = logits.log_softmax(-1).topk(wanted.k)
            where = where.to(device)
            log_p[where], tokens[where] = best.values, best.indices.float()
            soft = (logits / temperature).softmax(-1)
            left = (1 - soft.gather(-1, best.indices).sum(-1)).sum()
        kept.log_p[first:last] = sum_values(accelerator, log_p).half().cpu()
        kept.tokens[first:last] = sum_values(accelerator, tokens).int().cpu()
        outside += float(sum_values(accelerator, left))
    if not torch.isfinite(kept.log_p).all():
        raise KDTutorError("the teacher's logits are not finite")
    return kept, (
        f"asked once, {wanted.k} of {teacher.config.vocab_size:,} logits of {total:,} tokens cached in memory, "
        f"{size / 1e6:,.1f} MB: {outside / total:.2%} of its probability at temperature {temperature:g} is left out; "
        "masks are fixed"
    )


def logits_of_top(log_p: Tensor, tokens: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """(n, k) log-probabilities and their tokens as logits (n, V), all others so low that their probability is 0."""
    logits = torch.full((len(log_p), vocabulary), LEFT_OUT, dtype=dtype, device=log_p.device)
    return logits.scatter_(-1, tokens.long(), log_p.to(dtype))
