"""What a training run will take: steps, tokens, memory and time, before it is begun.

    print(plan(student, teacher, task, objective, epochs=3, batch_size=4096))      # as for Distillation

`kdtutor distill … --dry-run` prints the same. How memory is estimated is told in memory.py. The time is measured on a
few steps of a copy, where the run is meant for devices of this machine's kind, and else not stated. Of more processes
than there are here it is drawn out: as many times as fast, and at each step a wait for the network.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import POSITIVE, KDTutorError
from kdtutor.hardware import BANDWIDTH, format_bytes, room
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training.batches import Batches
from kdtutor.training.distillation import Distillation
from kdtutor.training.memory import longest, memory_of
from kdtutor.training.processes import Launch, is_sharded
from kdtutor.training.settings import Settings, TopK, takes_settings
from kdtutor.training.sharding import root_and_layers

# A process's texts in a step of the trial, and its steps, the first of which warms up.
TRIAL_TEXTS, TRIAL_STEPS = 32, 4


@dataclass(frozen=True)
class Estimate:
    """What a training run will take, as far as it is known; printed, it is a table.

    steps: optimiser steps. tokens: of all of them, padding left out. memory: bytes per process, by what takes them.
    network: bytes that a process sends at each step, and bandwidth: how many gigabytes of them a second.
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
    network: int = 0
    bandwidth: float = BANDWIDTH
    tokens_per_second: float | None = None
    seconds: float | None = None
    time: str = ""
    room: str = ""  # what is wrong with the memory, if it is known to be

    @property
    def wait(self) -> float:
        """Tell how many seconds of a step the gradients are on their way; nothing else is done meanwhile."""
        return self.network / (1e9 * self.bandwidth)

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
        if self.room:
            rows.insert(-1, ("room", self.room))
        if self.network:
            how = f"per process and step, {1000 * self.wait:,.1f} ms at {self.bandwidth:g} GB a second"
            rows.insert(-1, ("network", f"{format_bytes(self.network)} {how}"))
        return "\n".join(f"{name:<26}{value}" for name, value in rows)


@takes_settings
def plan(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    task: Task,
    objective: Objective | Term,
    *,
    launch: Launch | None = None,
    bandwidth: float = BANDWIDTH,
    measure: bool = True,
    **settings,
) -> Estimate:
    """Return the plan of `Distillation(student, teacher, task, objective, **settings)`; nothing of them is changed.

    launch: the processes it will be launched with (default: as this is). bandwidth: gigabytes a second from each of
    them to the next. measure: whether to time a few steps, which is done only where there is such a device here. Raises
    what Distillation would raise.
    """
    POSITIVE("bandwidth", bandwidth)
    if is_sharded():
        raise KDTutorError(
            "a run that divides its weights is planned by one process, without FSDP: --launch FILE"
        )
    cache = Settings.of(settings).cache
    settings = settings | {"cache": False, "folder": None, "progress": False}
    if launch and launch.sharded:
        settings |= {"fast": False}
    uncompiled = settings | {"compile": False}  # compiling would change the student
    run = Distillation(student, teacher, task, copy.deepcopy(objective), **uncompiled)
    answers = run.answers_with(cache)
    launch = launch or Launch(run.accelerator.num_processes, run.device.type, run.bf16)
    batches = replace(run.batches, world=launch.processes, rank=0)
    micro = batches.micro_batch
    known = Estimate(
        run.total_steps, batches.batch_size, launch.processes, batches.accumulate, micro,
        longest(batches), _tokens(batches, run.total_steps), bandwidth=bandwidth,
        network=_sent(run, launch),
    )  # fmt: skip
    known = _with_memory(known, run, launch, answers.bytes)
    if launch.device != run.device.type:
        why = f"not estimated: meant for {launch.device}, and this machine has none; plan it there"
        return replace(known, time=why)
    if not measure:
        return replace(known, time="not measured")
    in_memory = TopK(cache.k) if isinstance(cache, TopK) else bool(answers.bytes)
    is_asked = bool(answers.bytes) and not answers.is_shipped()
    return _timed(known, run, settings | {"cache": in_memory}, is_asked)


def _sent(run: Distillation, launch: Launch) -> int:
    """Count the bytes that a process sends in a step, in rings (Patarasuk, Yuan 2009): n - 1 parts of n each time.

    Gradients go round twice, to be summed and to be handed out. Where weights are divided, each micro-batch has those
    of a layer gathered twice, forwards and backwards, the others once, and their gradients summed.
    """
    gradients = 4 * sum(p.numel() for p in run.parameters)
    round_by = 2 * gradients
    if launch.sharded:
        root, layers = root_and_layers(run.student)
        round_by = run.batches.accumulate * (2 * root + 3 * sum(layers))
    return round_by * (launch.processes - 1) // launch.processes


def _with_memory(known: Estimate, run: Distillation, launch: Launch, answers: int) -> Estimate:
    """Return the plan with the memory of a process, of which the teacher's `answers` take so many bytes."""
    held = memory_of(run, launch, known.length)
    memory = held(known.micro_batch)
    if answers:
        memory["teacher's answers"] = answers
    known = replace(known, memory=memory)
    return replace(known, room=_room(known, run, launch, held)) if launch.device == run.device.type else known


def _room(known: Estimate, run: Distillation, launch: Launch, held: Callable[..., dict[str, int]]) -> str:
    """Say whether a device like this one has less memory than a process needs, and whether FSDP would help."""
    free, needed = room(run.device), sum(known.memory.values())
    answers = known.memory.get("teacher's answers", 0)

    def there(count: int) -> int:
        return free // count if launch.device == "cpu" else free  # processes on CPUs share it

    if needed <= there(launch.processes):
        return ""
    told = f"too little: {format_bytes(there(launch.processes))} are there for a process"
    for count in (2**n for n in range(1, 11) if 2**n >= launch.processes):
        micro = replace(run.batches, world=count, rank=0).micro_batch
        divided = answers + sum(held(micro, replace(launch, processes=count, sharded=True)).values())
        if divided < min(needed, there(count)):
            return (
                f"{told}; {count} processes among which FSDP divides the weights (fsdp_version: 2) need "
                f"{format_bytes(divided)} each, which fits"
            )
    return f"{told}, and FSDP would not help: take a larger accumulate, or smaller models"


def _tokens(batches: Batches, steps: int) -> int:
    """Count tokens: whole passes have every one once; the rest of the steps is counted one by one."""
    passes, rest = divmod(steps, batches.per_epoch)
    first = passes * batches.per_epoch
    counted = sum(batches.tokens(step) for step in range(first, first + rest))
    return passes * batches.tokens_of_a_pass() + counted


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
    times = known.processes / world
    rate = times * sum(row["tokens"] for row in rows) / (_now(run) - began)
    asking /= times
    waiting = known.steps * known.wait if times != 1 else 0  # as many as here have measured their network too
    seconds = known.tokens / rate + waiting + asking
    how = (
        f"{_duration(seconds)} at {rate:,.0f} tokens a second, measured on {len(rows)} steps of {texts} texts"
    )
    if times != 1:
        how += f" by {world} of {known.processes} processes, each with a device of its own"
        how += f", {_duration(waiting)} of it the network"
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
