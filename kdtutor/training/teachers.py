"""Where a teacher's outputs come from: the model itself at each step, or what it answered when it was asked once.

    answers = answers_for(inference, objective.terms, needs, batches, split="train", cache=True)
    answers.ask()                                  # nothing, or a pass over the data
    teacher = answers.outputs(batch, inputs)       # at each step

`Distillation` knows these two methods and nothing else, so a teacher of another kind is one more class, as several
teachers are in several.py: the logits of each are kept, since a mean of probabilities depends on a term's temperature.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.tokens import Encoded, length_bucketed_batches
from kdtutor.errors import KDTutorError
from kdtutor.files import sign, signed_array
from kdtutor.hardware import format_bytes, memory
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.forward import Outputs, forward, logits_by_batch, refuse_non_finite, texts_at_once
from kdtutor.models.reading import read_by
from kdtutor.objectives.logits import SoftCrossEntropy, SoftTargets
from kdtutor.objectives.terms import Batch, Term
from kdtutor.training.batches import Batches
from kdtutor.training.checkpoints import writable
from kdtutor.training.processes import bar, on_main, sum_values
from kdtutor.training.settings import TopK
from kdtutor.training.shipped import find as find_shipped

FLUSH_EVERY = 30  # seconds that a killed build may lose
ASKED_AT_ONCE = 64  # texts per process, where each of their tokens has logits
# A logit whose probability is 0 at any temperature; an infinite one would make NaN of 0 · ∞.
LEFT_OUT = -1e30


@dataclass(frozen=True)
class Inference:
    """A teacher, and how it is run. progress: whether to show a bar (see `bar`).

    vocabulary: how many tokens the student knows, where tokens have logits. What a teacher has beyond only rounds up
    its table, and no text has it: those logits are cut off.
    """

    model: PreTrainedModel
    accelerator: Accelerator
    bf16: bool
    fast: bool
    progress: bool | None = False
    vocabulary: int | None = None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def outputs(self, inputs: Batch, needs: Set[str]) -> Outputs:
        with self.autocast():
            found = forward(self.model.eval(), inputs, needs, inputs.get("rows"), self.fast)
        return found if self.vocabulary is None else found.narrowed(self.vocabulary)


class Answers:
    """The outputs of no teacher. mode: a phrase that says how the teacher is asked, and why; bytes: what is kept."""

    mode = "not used (no term needs a teacher)"
    bytes = 0

    def ask(self) -> None:
        """Ask once what no step changes. KDTutorError if the answers find no room, or are not finite."""

    def ask_anew(self) -> None:
        """Ask again, also where the answers are known already: what it takes is timed."""
        self.ask()

    def ships(self) -> bool:
        """Tell whether the answers come with the course, and nobody is asked."""
        return False

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs | None:
        """Give the teacher's outputs for a micro-batch, which lies on the host (`batch`) and the device (`inputs`)."""
        return None


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
        _refuse_top(cache, task, terms, needs)
        return (
            TopLogits(inference, batches, cache.k, terms) if needs else Unused(batches, has_fixed_masks=True)
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
            self.logits = self._in_memory() if self.folder is None else self._on_disk(writable(self.folder))

    def ask_anew(self) -> None:
        self._in_memory()

    def ships(self) -> bool:
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
        """Keep one file per teacher, task, split and precision. Two runs that need it: the second waits for it."""
        how = ("bf16" if self.inference.bf16 else "fp32") + ("" if self.inference.fast else "-plain")
        key = f"{fingerprint(self.inference.model)}-{self.task.fingerprint}-{self.split}-{how}"
        file, main = folder / f"teacher-{key}.npy", self.accelerator.is_main_process
        with FileLock(folder / f".{file.name}.lock") if main else nullcontext():
            missing = torch.tensor(float(main and not file.is_file()), device=self.accelerator.device)
            if sum_values(self.accelerator, missing):
                try:
                    self._build(file)
                except OSError as error:
                    raise KDTutorError(
                        f"the teacher's answers can't be written to {file}: {error}"
                    ) from error
        try:
            return torch.from_numpy(signed_array(file, self.shape))
        except (OSError, ValueError, EOFError) as error:
            raise KDTutorError(
                f"{file} is damaged ({error}); delete it, and the teacher is asked again"
            ) from error

    def _build(self, file: Path) -> None:
        """Fill the file, in a partial one that says how far it is."""
        partial, progress = file.with_suffix(".partial"), file.with_suffix(".partial.json")
        plan = {"shape": [*self.shape], "batches": len(self.order)}
        logits: np.memmap | None = None
        first, kept = 0, time.monotonic()

        def prepare() -> None:
            nonlocal logits, first
            # Nothing begun, or not readably: begin anew.
            with suppress(OSError, ValueError, KeyError, TypeError):
                stored = json.loads(progress.read_text(encoding="utf-8"))
                first = stored.pop("done") if partial.is_file() else 0
                first = first if stored == plan else 0
            free = shutil.disk_usage(file.parent).free
            if not first and self.bytes > free:
                room = f"{format_bytes(self.bytes)} in {file.parent}, and {format_bytes(free)} are free"
                raise KDTutorError(f"the teacher's answers take {room}")
            how = {"mode": "r+"} if first else {"mode": "w+", "dtype": np.float32, "shape": self.shape}
            logits = np.lib.format.open_memmap(partial, **how)
            # Take the room now: a mapped file that finds none later kills the process.
            if hasattr(os, "posix_fallocate"):
                with open(partial, "r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, partial.stat().st_size)

        def keep(done: int) -> None:
            logits.flush()
            fresh = progress.with_suffix(".new")
            fresh.write_text(json.dumps(plan | {"done": done}), encoding="utf-8")
            os.replace(fresh, progress)

        def finish() -> None:
            logits.flush()
            sign(partial, logits.offset + logits.nbytes)
            os.replace(partial, file)
            progress.unlink(missing_ok=True)

        on_main(self.accelerator, prepare)
        first = int(sum_values(self.accelerator, torch.tensor(float(first), device=self.accelerator.device)))
        for done, (index, answers) in enumerate(self._asked(first), start=first + 1):
            if logits is not None:
                logits[index.numpy()] = answers.numpy()
                if time.monotonic() - kept > FLUSH_EVERY:
                    keep(done)
                    kept = time.monotonic()
        on_main(self.accelerator, finish)

    def _asked(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index, logits (n, C) on the host) batch by batch, from batch number `first` on."""
        accelerator, batches = self.accelerator, self.order[first:]
        rank, world = accelerator.process_index, accelerator.num_processes
        share = (index[rank::world] for index in batches if len(index) > rank)
        model, fast = self.inference.model, self.inference.fast
        mine = logits_by_batch(model, self.data, share, self.inference.autocast(), fast)
        title = f"asking the teacher, {format_bytes(self.bytes)}"
        for index in bar(accelerator, self.inference.progress, batches, desc=title):
            answers = torch.zeros(len(index), self.shape[1], device=accelerator.device)
            if len(index) > rank:
                answers[rank::world] = next(mine)
            answers = sum_values(accelerator, answers).cpu()  # zeros wherever another process answered
            try:
                yield index, refuse_non_finite(answers, index)
            except KDTutorError as error:
                who = f"{self.split} split of {self.task.name}, asked of the teacher"
                raise KDTutorError(f"{who}: {error}") from error


# ------------------------------------------------------------------------------------------------ the k largest


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
        self._refuse_too_many()
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
                where = (_places(data, mine) - first).to(accelerator.device)
                log_p[where], tokens[where], left = self._largest(mine)
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

    def _refuse_too_many(self) -> None:
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


def _refuse_top(cache: TopK, task, terms: Sequence[Term], needs: Set[str]) -> None:
    """Raise KDTutorError, with the reason, where the k largest logits can't stand in for the teacher."""
    reads = [type(term) for term in terms if term.needs_teacher]
    reason = None
    if not task.rules.per_token:
        reason = f"{task.name} is a {task.kind} task: cache=True keeps all of its few logits"
    elif others := [kind.__name__ for kind in reads if kind not in (SoftTargets, SoftCrossEntropy)]:
        reason = f"{others[0]} needs more of the teacher than probabilities: leave cache alone"
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
