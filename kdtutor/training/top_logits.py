"""The k largest logits of each token, kept: `cache="topk:64"`, for language models whose vocabulary is large."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded
from kdtutor.errors import KDTutorError
from kdtutor.hardware import memory
from kdtutor.models.forward import Outputs, as_memory_allows
from kdtutor.objectives.logits import SoftCrossEntropy, SoftTargets
from kdtutor.objectives.terms import Batch, Term
from kdtutor.training.asking import Answers, Inference
from kdtutor.training.batches import Batches
from kdtutor.training.processes import bar, sum_values
from kdtutor.training.settings import TopK

ASKED_AT_ONCE = 64  # texts per process, where each of their tokens has logits
# A logit whose probability is 0 at any temperature; an infinite one would make NaN of 0 · ∞.
LEFT_OUT = -1e30


class TopLogits(Answers):
    """A cached teacher of language models: of each token's logits only the k largest; for masked LM, fixed masks.

    An approximation: what the teacher gives to all other tokens counts as 0, the k probabilities being scaled up to 1,
    and `mode` says how much that leaves out. For masked LM a second one: every epoch has the same masks, where drawing
    them anew shows the student more. log_p: float16 (tokens, k), at temperature 1; tokens: int32 (tokens, k); both in
    the data's order.
    """

    def __init__(self, inference: Inference, batches: Batches, k: int, terms: Sequence[Term]):
        self.inference, self.batches, self.k = inference, batches, k
        self.temperature = max(term.temperature for term in terms if term.needs_teacher)
        self.places = batches.data.written or batches.data  # whose tokens have logits
        self.total = int(self.places.offsets[-1])
        self.bytes = self.total * k * 6  # a float16 and an int32 each

    def ask(self) -> None:
        self._check_memory()
        self.batches.fix_masks()
        data, accelerator = self.places, self.inference.accelerator
        self.log_p = torch.empty(self.total, self.k, dtype=torch.float16)
        self.tokens = torch.empty(self.total, self.k, dtype=torch.int32)
        outside = 0.0

        rank, world = accelerator.process_index, accelerator.num_processes
        parts = torch.arange(len(data)).split(ASKED_AT_ONCE * world)
        for part in bar(accelerator, self.inference.progress, parts, desc="asking the teacher"):
            # Each process fills its own texts' places and leaves the others 0; the sum has them all.
            first, last = int(data.offsets[part[0]]), int(data.offsets[part[-1] + 1])
            log_p = torch.zeros(last - first, self.k, device=accelerator.device)
            tokens = torch.zeros(last - first, self.k, device=accelerator.device, dtype=torch.int64)
            left = torch.zeros((), device=accelerator.device)
            if len(mine := part[rank::world]):
                length = int(data.lengths[mine].max())
                for index, best in as_memory_allows(
                    lambda index: (index, self._largest(index)), mine, accelerator.device, length
                ):
                    where = (_places(data, index) - first).to(accelerator.device)
                    log_p[where], tokens[where] = best[:2]
                    left += best[2]
            self.log_p[first:last] = sum_values(accelerator, log_p).half().cpu()
            self.tokens[first:last] = sum_values(accelerator, tokens).int().cpu()
            outside += float(sum_values(accelerator, left))

        if not torch.isfinite(self.log_p).all():
            raise KDTutorError("the teacher's logits are not finite")
        self.mode = (
            f"asked once, {self.k} of {self.inference.model.config.vocab_size:,} logits of {self.total:,} tokens "
            f"cached in memory, {self.bytes / 1e6:,.1f} MB: {outside / self.total:.2%} of its probability at "
            f"temperature {self.temperature:g} is left out"
        )
        if self.batches.task.rules.masks:
            self.mode += "; masks are fixed"

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs:
        """Return those of the tokens that `batch["rows"]` names: (n, k) each."""
        length = batch.get("target_ids", batch["input_ids"]).shape[1]
        text, column = batch["rows"] // length, batch["rows"] % length
        where, device = self.places.offsets[batch["index"][text]] + column, self.inference.accelerator.device
        log_p, tokens = (part[where].to(device, non_blocking=True) for part in (self.log_p, self.tokens))
        return Outputs(None, top=(log_p, tokens))

    def _largest(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ask for the k largest log-probabilities and whose they are; and what is left out."""
        batch = self.batches.labelled(index)
        # Every place, also the last of a text, after which nothing comes: so each token has its row.
        batch["rows"] = batch.get("target_mask", batch["attention_mask"]).flatten().nonzero()[:, 0]
        inputs = {name: value.to(self.inference.accelerator.device) for name, value in batch.items()}
        logits = self.inference.outputs(inputs, {"logits"}).logits.float()
        best = logits.log_softmax(-1).topk(self.k)
        soft = (logits / self.temperature).softmax(-1)
        return best.values, best.indices, (1 - soft.gather(-1, best.indices).sum(-1)).sum()

    def _check_memory(self) -> None:
        free = memory()[1]
        if self.bytes > free // 2:
            raise KDTutorError(
                f"the teacher's {self.k} largest logits of {self.total:,} tokens take {self.bytes / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free: take fewer, or leave cache alone"
            )


def _places(data: Encoded, index: Tensor) -> Tensor:
    """Tell where the tokens of some texts lie in the data, text by text."""
    column = torch.arange(int(data.lengths[index].max()))
    return (data.offsets[index][:, None] + column)[column < data.lengths[index][:, None]]


def check_top_logits_suffice(cache: TopK, task: Task, terms: Sequence[Term], needs: Set[str]) -> None:
    """Raise KDTutorError, with the reason, where the k largest logits can't stand in for the teacher."""
    reads = [type(term) for term in terms if term.needs_teacher]
    reason = None
    if not task.rules.per_token:
        reason = f"{task.name} is a {task.kind} task: cache=True keeps all of its few logits"
    elif others := [kind for kind in reads if kind not in (SoftTargets, SoftCrossEntropy)]:
        reason = f"{others[0].__name__} needs more of the teacher than probabilities: leave cache alone"
        if issubclass(others[0], SoftTargets):
            reason = (
                f"{others[0].__name__} asks about every token that the student might write, also those that are left "
                "out: learn by SoftTargets(…), or leave cache alone"
            )
    elif "logits" in needs:
        reason = "it works with chunked=True alone"
    elif cache.k > len(task.tokenizer):
        reason = f"the vocabulary has {len(task.tokenizer)} tokens only"
    if reason:
        raise KDTutorError(f"the teacher's answers can't be cached as {cache}: {reason}")


def logits_of_top(log_p: Tensor, tokens: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """Turn (n, k) log-probabilities and their tokens into logits (n, V); all others get a probability of 0."""
    logits = torch.full((len(log_p), vocabulary), LEFT_OUT, dtype=dtype, device=log_p.device)
    return logits.scatter_(-1, tokens.long(), log_p.to(dtype))
