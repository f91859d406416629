"""What a training run will take: steps, tokens, memory and time, before it is begun.

    print(plan(student, teacher, task, objective, epochs=3, batch_size=4096))      # as for Distillation

`kdtutor distill … --dry-run` prints the same. Weights, gradients and optimiser are counted. What autograd keeps of the
forward pass is measured on one and on two texts, here, and drawn out to a micro-batch. The time is measured on a few
steps of a copy, where the run is meant for this machine, and else not stated.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.hardware import format_bytes
from kdtutor.models.forward import Outputs, forward, unembedding
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training import vocabulary
from kdtutor.training.batches import Batches
from kdtutor.training.distillation import Distillation
from kdtutor.training.processes import Launch
from kdtutor.training.settings import Settings, TopK, takes_settings

# A process's texts in a step of the trial, and its steps, the first of which warms up.
TRIAL_TEXTS, TRIAL_STEPS = 32, 4
# Of a chunk's logits: the student's, their log-softmax, its gradient and a product; with a teacher also the teacher's,
# its log-softmax, both softmaxes and a difference …
TABLES, TABLES_WITH_TEACHER = 4, 9
# … and of all logits, where autograd keeps what its way back needs.
PLAIN_TABLES = 10


@dataclass(frozen=True)
class Estimate:
    """What a training run will take, as far as it is known; printed, it is a table.

    steps: optimiser steps. tokens: of all of them, padding left out. memory: bytes per process, by what takes them.
    seconds: of the training, or None; tokens_per_second: of all processes, or None; time: a phrase that says why.
    """

    steps: int
    batch_size: int
    processes: int
    accumulate: int
    micro_batch: int  # texts
    length: int  # tokens of the longest
    tokens: int
    memory: dict[str, int] = field(default_factory=dict)
    tokens_per_second: float | None = None
    seconds: float | None = None
    time: str = ""

    def __str__(self) -> str:
        shared = f"{self.processes} × " if self.processes > 1 else ""
        cut = f"{shared}{self.accumulate} × {self.micro_batch} texts of at most {self.length} tokens"
        rows = [
            ("steps", f"{self.steps:,} of {self.batch_size:,} texts: {cut}"),
            ("tokens", f"{self.tokens:,}, padding left out"),
            ("memory", f"{format_bytes(sum(self.memory.values()))} per process, estimated:"),
            *((f"  {name}", format_bytes(size)) for name, size in self.memory.items()),
            ("time", self.time),
        ]
        return "\n".join(f"{name:<26}{value}" for name, value in rows)


@takes_settings
def plan(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    task: Task,
    objective: Objective | Term,
    *,
    launch: Launch | None = None,
    measure: bool = True,
    **settings,
) -> Estimate:
    """Return the plan of `Distillation(student, teacher, task, objective, **settings)`; nothing of them is changed.

    launch: the processes it will be launched with (default: as this is). measure: whether to time a few steps, which
    is done only where the run is meant for this machine. Raises what Distillation would raise.
    """
    cache = Settings.of(settings).cache
    settings = settings | {"cache": False, "folder": None, "progress": False}
    uncompiled = settings | {"compile": False}  # compiling would change the student
    run = Distillation(student, teacher, task, copy.deepcopy(objective), **uncompiled)
    answers = run.answers_with(cache)
    is_meant_for_here = launch is None
    launch = launch or Launch(run.accelerator.num_processes, run.device.type, run.bf16)
    batches = replace(run.batches, world=launch.processes, rank=0)
    micro = math.ceil(math.ceil(batches.batch_size / launch.processes) / batches.accumulate)
    known = Estimate(
        run.total_steps, batches.batch_size, launch.processes, batches.accumulate, micro,
        _longest(batches), _tokens(batches, run.total_steps),
    )  # fmt: skip
    memory = _memory(run, launch, micro, known.length)
    if answers.bytes:
        memory["teacher's answers"] = answers.bytes
    known = replace(known, memory=memory)
    if not is_meant_for_here and launch.device != run.device.type:
        why = f"not estimated: meant for {launch.device}, and this machine has none; plan it there"
        return replace(known, time=why)
    if not is_meant_for_here and launch.processes != run.accelerator.num_processes:
        why = f"not estimated: meant for {launch.processes} processes, and this is {run.accelerator.num_processes}"
        return replace(known, time=why)
    if not measure:
        return replace(known, time="not measured")
    in_memory = cache if isinstance(cache, TopK) else bool(answers.bytes)
    is_asked = bool(answers.bytes) and not answers.ships()
    return _timed(known, run, settings | {"cache": in_memory}, is_asked)


def _longest(batches: Batches) -> int:
    """Count the tokens of the longest text, read or written."""
    data = batches.data
    return int(max(part.lengths.max() for part in (data, data.written) if part is not None))


def _tokens(batches: Batches, steps: int) -> int:
    """Count tokens: whole passes have every one once; the rest of the steps is counted one by one."""
    passes, rest = divmod(steps, batches.per_epoch)
    first = passes * batches.per_epoch
    counted = sum(batches.tokens(step) for step in range(first, first + rest))
    return passes * batches.tokens_of_a_pass() + counted


# ------------------------------------------------------------------------------------------------ memory


def _memory(run: Distillation, launch: Launch, texts: int, length: int) -> dict[str, int]:
    """Count the bytes that a process holds at most, by what takes them: an upper bound, since peaks fall apart."""
    trained = sum(p.numel() for p in run.parameters)
    one, two = (_kept_by_forward(run, launch.bf16, count, length) for count in (1, 2))
    teacher = _outputs_of_teacher(run, launch.bf16, length)
    kept = one.bytes + (texts - 1) * (two.bytes - one.bytes)  # bf16 copies of the weights are kept once
    memory = {
        "student's weights": _bytes(run.student.parameters()),
        "teacher's weights": _bytes(run.teacher.parameters()) if run.teacher_needs else 0,
        "gradients": 4 * trained,
        "AdamW's moments": 8 * trained,
        "activations": kept + texts * teacher,
        "the way back": 2 * texts * (two.largest - one.largest),  # two gradients of the largest activation
    }
    if run.settings.keep_best:
        memory["best weights"] = memory["student's weights"]
    if launch.processes > 1:
        memory["gradients on their way"] = 4 * trained
    if run.task.rules.per_token:
        memory["logits"] = _logits_memory(run, texts * length, launch.device)
    return {name: size for name, size in memory.items() if size}


def _logits_memory(run: Distillation, tokens: int, device: str) -> int:
    vocabulary_size = run.student.config.vocab_size
    if run.batches.positions == "masked":
        tokens = math.ceil(tokens * run.masking)
    if not run.chunked:
        return PLAIN_TABLES * 4 * tokens * vocabulary_size
    tables = TABLES_WITH_TEACHER if run.objective.needs_teacher else TABLES
    rows = min(tokens, vocabulary.default_chunk_size(vocabulary_size, device))
    # The matrix's gradient, and the one it is added to.
    gradients = 2 * 4 * unembedding(run.student).weight.numel()
    return tables * 4 * rows * vocabulary_size + gradients


@dataclass
class _Kept:
    bytes: int = 0
    largest: int = 0  # of one tensor


def _kept_by_forward(run: Distillation, bf16: bool, texts: int, length: int) -> _Kept:
    """Tell what autograd keeps of the student's forward pass for the way back, parameters and inputs left out."""
    batch, rows = _example(run, texts, length)
    known = {p.untyped_storage().data_ptr() for p in [*run.student.parameters(), *batch.values()]}
    kept: dict[int, torch.UntypedStorage] = {}  # as long as they live, no other takes their place

    def keep(tensor: Tensor) -> None:  # a tensor in its place would keep the graph that keeps it
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage

    with _as_it_was(run.student), torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=bf16):
            outputs = forward(run.student.train(), batch, run.needs, rows, run.settings.fast)
        del outputs
    sizes = [storage.nbytes() for storage in kept.values()]
    return _Kept(sum(sizes), max(sizes, default=0))


@torch.no_grad()
def _outputs_of_teacher(run: Distillation, bf16: bool, length: int) -> int:
    """Count bytes of what the teacher hands over for one text: hidden states and the like, if needed, and features."""
    if not run.teacher_needs:
        return 0
    batch, rows = _example(run, 1, length)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=bf16):
        outputs: Outputs = forward(run.teacher.eval(), batch, run.teacher_needs, rows, run.settings.fast)
    by_layer = (outputs.hidden_states, outputs.attentions, outputs.queries, outputs.keys, outputs.values)
    parts = [part for layers in by_layer for part in layers or ()]
    if outputs.features is not None:
        parts.append(outputs.features)
    return _bytes(parts)


def _example(run: Distillation, texts: int, length: int) -> tuple[dict[str, Tensor], Tensor | None]:
    ids = torch.ones(texts, length, dtype=torch.long, device=run.device)
    rows = None
    if run.task.rules.per_token:
        share = run.masking if run.batches.positions == "masked" else 1
        rows = torch.arange(math.ceil(texts * length * share), device=run.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"target_ids": ids} if run.task.rules.writes else {}), rows


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Bring the model's mode and the random state back."""
    mode = model.training
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            model.train(mode)


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# ------------------------------------------------------------------------------------------------ time


def _timed(known: Estimate, run: Distillation, settings: dict, is_asked: bool) -> Estimate:
    """Return the plan with a time: a few small steps of a copy, on some texts of the training split.

    is_asked: whether the teacher is asked, before the first step, for what is then cached.
    """
    world = run.accelerator.num_processes
    texts = min(TRIAL_TEXTS, known.micro_batch) * world
    steps = min(TRIAL_STEPS, known.steps)
    few = run.task
    if run.split == "train":
        few = few.subset(min(texts * steps, len(few.split("train"))))
    small = {"batch_size": texts, "accumulate": 1, "steps": steps, "save_every": None}
    student, objective = copy.deepcopy(run.student), copy.deepcopy(run.objective)
    trial = Distillation(student, run.teacher, few, objective, **settings | small)
    asking, began = 0.0, time.perf_counter()
    if is_asked:
        trial.answers.ask_anew()
        asking = (time.perf_counter() - began) * len(run.batches.data) / len(trial.batches.data)
    for step in trial:
        if step.number == 1 < steps:
            began = _now(run)
    rows = trial.history[1:] or trial.history
    rate = sum(row["tokens"] for row in rows) / (_now(run) - began)
    seconds = known.tokens / rate + asking
    how = (
        f"{_duration(seconds)} at {rate:,.0f} tokens a second, measured on {len(rows)} steps of {texts} texts"
    )
    if is_asked:
        how += f", {_duration(asking)} of it asking the teacher"
    elif trial.answers.bytes:
        how += ", none of it asking the teacher, whose answers ship with the course"
    return replace(known, tokens_per_second=rate, seconds=seconds, time=f"{how} ({run.device.type})")


def _now(run: Distillation) -> float:
    """Return the time at which everything that was begun is done, here and in the other processes."""
    run.accelerator.wait_for_everyone()
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter()


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
