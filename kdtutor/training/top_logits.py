"""The k largest logits of each token, kept: `cache="topk:64"`, for language models whose vocabulary is large.

`cache=TopK(64, "answers")`, or "topk:64:answers", keeps them in that folder, and the next run asks nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set

import torch
from torch import Tensor

from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded
from kdtutor.errors import KDTutorError
from kdtutor.hardware import memory
from kdtutor.models.forward import Outputs, as_memory_allows
from kdtutor.objectives.logits import SoftCrossEntropy, SoftTargets
from kdtutor.objectives.terms import Batch, Term
from kdtutor.training.asking import Answers, Inference, on_disk
from kdtutor.training.batches import Batches
from kdtutor.training.checkpoints import writable
from kdtutor.training.processes import bar, sum_values
from kdtutor.training.settings import TopK

ASKED_AT_ONCE = 64  # texts per process, where each of their tokens has logits
# A logit whose probability is 0 at any temperature; an infinite one would make NaN of 0 · ∞.
LEFT_OUT = -1e30


class TopLogits(Answers):
    """A cached teacher of language models: of each token's logits only the k largest; for masked LM, fixed masks.

    An approximation: what the teacher gives to all other tokens counts as 0, the k probabilities being scaled up to 1,
    and `mode` says how much that leaves out. For masked LM a second one: every epoch has the same masks, where drawing
    them anew shows the student more. log_p: (tokens, k), at temperature 1, as float16 rounds it; tokens: (tokens, k);
    both in the data's order. In memory they are float16 and int32; in a file's rows, all float32, the share that is
    left out stands behind them.
    """

    def __init__(
        self, inference: Inference, batches: Batches, cache: TopK, terms: Sequence[Term], split: str
    ):
        self.inference, self.batches, self.split = inference, batches, split
        self.k, self.folder = cache.k, cache.folder
        self.temperature = max(term.temperature for term in terms if term.needs_teacher)
        self.places = batches.data.written or batches.data  # whose tokens have logits
        self.total = int(self.places.offsets[-1])
        self.columns = [self.k, self.k, 1]  # of a row: log_p, tokens, and what is left out
        # In memory a float16 and an int32 each, in a file whole rows.
        self.bytes = self.total * (self.k * 6 if self.folder is None else sum(self.columns) * 4)
        at_once = ASKED_AT_ONCE * inference.accelerator.num_processes
        self.parts = torch.arange(len(self.places)).split(at_once)

    def ask(self) -> None:
        read = self.batches.fix_masks()
        self.log_p, self.tokens, left = self._in_memory() if self.folder is None else self._on_disk(read)
        self.mode = (
            f"asked once, {self.k} of {self.inference.model.config.vocab_size:,} logits of {self.total:,} tokens "
            f"cached in {self.folder or 'memory'}, {self.bytes / 1e6:,.1f} MB: "
            f"{float(left.mean(dtype=torch.float64)):.2%} of its probability at temperature {self.temperature:g} is "
            "left out"
        )
        if self.batches.task.rules.masks:
            self.mode += "; masks are fixed"

    def ask_anew(self) -> None:
        self._in_memory()

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs:
        """Return those of the tokens that `batch["rows"]` names: (n, k) each."""
        length = batch.get("target_ids", batch["input_ids"]).shape[1]
        text, column = batch["rows"] // length, batch["rows"] % length
        where, device = self.places.offsets[batch["index"][text]] + column, self.inference.accelerator.device
        log_p, tokens = (part[where].to(device, non_blocking=True) for part in (self.log_p, self.tokens))
        return Outputs(None, top=(log_p, tokens))

    def _in_memory(self) -> Sequence[Tensor]:
        self._check_memory()
        kinds = torch.float16, torch.int32, torch.float32
        kept = [torch.empty(self.total, n, dtype=kind) for n, kind in zip(self.columns, kinds, strict=True)]
        for where, rows in self._asked():
            for whole, part in zip(kept, rows.split(self.columns, dim=1), strict=True):
                whole[where] = part.to(whole.dtype)
        return kept

    def _on_disk(self, read: Encoded) -> Sequence[Tensor]:
        """Keep one file per teacher, data, precision, k, masks, and temperature, by which more or less is left out."""
        known = repr((self.temperature, self.inference.vocabulary)).encode() + read.ids.numpy().tobytes()
        name = f"{self.inference.named(self.batches.task, self.split)}-top{self.k}"
        file = writable(self.folder) / f"{name}-{hashlib.sha256(known).hexdigest()[:16]}.npy"
        shape = self.total, sum(self.columns)
        rows = on_disk(file, shape, self.inference.accelerator, len(self.parts), self._asked)
        return rows.split(self.columns, dim=1)

    def _asked(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (where in the data (n,), rows (n, 2k + 1) on the host) part by part, from part number `first` on."""
        data, accelerator = self.places, self.inference.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        for part in bar(accelerator, self.inference.progress, self.parts[first:], desc="asking the teacher"):
            # Each process fills its own texts' places and leaves the others 0; the sum has them all.
            where, begin = _places(data, part), int(data.offsets[part[0]])
            rows = torch.zeros(len(where), sum(self.columns), device=accelerator.device)
            if len(mine := part[rank::world]):
                length = int(data.lengths[mine].max())
                for index, found in as_memory_allows(
                    lambda index: (index, self._largest(index)), mine, accelerator.device, length
                ):
                    rows[(_places(data, index) - begin).to(accelerator.device)] = found
            rows = sum_values(accelerator, rows).cpu()
            if not torch.isfinite(rows).all():
                raise KDTutorError("the teacher's logits are not finite")
            yield where, rows

    def _largest(self, index: Tensor) -> Tensor:
        """Ask for the k largest log-probabilities, whose they are, and what is left out: rows (n, 2k + 1).

        float32 holds every token below 2^24 = 16,777,216 exactly.
        """
        batch = self.batches.labelled(index)
        # Every place, also the last of a text, after which nothing comes: so each token has its row.
        batch["rows"] = batch.get("target_mask", batch["attention_mask"]).flatten().nonzero()[:, 0]
        inputs = {name: value.to(self.inference.accelerator.device) for name, value in batch.items()}
        logits = self.inference.outputs(inputs, {"logits"}).logits.float()
        best = logits.log_softmax(-1).topk(self.k)
        soft = (logits / self.temperature).softmax(-1)
        left = 1 - soft.gather(-1, best.indices).sum(-1, keepdim=True)
        return torch.cat([best.values.half().float(), best.indices.float(), left], dim=1)

    def _check_memory(self) -> None:
        free = memory()[1]
        if self.bytes > free // 2:
            raise KDTutorError(
                f"the teacher's {self.k} largest logits of {self.total:,} tokens take {self.bytes / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free: take fewer, keep them on disk "
                f'(cache="topk:{self.k}:FOLDER"), or leave cache alone'
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
