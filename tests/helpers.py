"""What several test files share: a tiny task, a tiny teacher, a tiny run, and ways to compare and to launch them."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from kdtutor.data.task import Split, Task
from kdtutor.errors import KDTutorError
from kdtutor.models.students import small_bert, small_gpt2, small_seq2seq
from kdtutor.objectives.logits import blend
from kdtutor.training.distillation import Distillation, Step

PATIENCE = 300  # seconds until a test that waits for another process gives up
SENTENCE = "a small furry animal that lives near water and eats fish or the sweet red fruit of tree"
WORDS = SENTENCE.split(" ")
TINY = ["--batch_size", "16", "--precision", "fp32", "--max_length", "24"]  # flags of a small run
ROWS = 44  # with a batch of 8: five full batches an epoch, and one of 4


def texts(n: int, first: int) -> list[str]:
    """Texts of 2 to 13 words, all different."""
    return [
        " ".join(WORDS[(i * 7 + k * (i % 5 + 1)) % len(WORDS)] for k in range(2 + i % 12))
        for i in range(first, first + n)
    ]


def make_task(
    kind: str = "classification", rows: int = ROWS, targets: Tensor | None = None, **changes
) -> Task:
    def split(n: int, first: int) -> Split:
        labels = {
            "classification": torch.arange(first, first + n) * 5 % 3,
            "regression": torch.arange(n) / n,
        }.get(kind)
        read = texts(n, first)
        # To be written: the words from the last to the first.
        written = [" ".join(reversed(text.split())) for text in read]
        return Split((read, written) if kind == "seq2seq" else (read,), labels)

    splits = {"train": split(rows, 0), "validation": split(12, 500), "test": split(12, 700)}
    if targets is not None:
        splits["train"] = Split(splits["train"].texts, targets)
    labels = {"classification": ("animal", "food", "plant"), "regression": ("value",)}.get(kind, ())
    return Task(changes.pop("name", "tiny"), kind, labels, splits, **{"max_length": 24, **changes})


def model(task: Task, seed: int = 1, dropout: float = 0.0, width: int = 32):
    small = {"causal-lm": small_gpt2, "seq2seq": small_seq2seq}.get(task.kind, small_bert)
    return small(task, layers=1, width=width, dropout=dropout, seed=seed)


def sharp_teacher(task: Task, seed: int = 9, width: int = 32):
    """Random, but with logits far enough apart that its soft targets say something."""
    teacher = model(task, seed, dropout=0.5, width=width)  # dropout: a teacher in train mode would be noticed
    if not task.rules.per_token:
        with torch.no_grad():
            teacher.classifier.weight *= 20
    return teacher


def make_run(
    task: Task, objective=None, *, student=None, teacher=None, dropout: float = 0.0, **settings
) -> Distillation:
    objective = blend(alpha=0.3, temperature=2) if objective is None else objective
    if teacher is None and objective.needs_teacher:
        teacher = sharp_teacher(task)
    student = model(task, dropout=dropout) if student is None else student
    settings = {"batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "precision": "fp32"} | settings
    return Distillation(student, teacher, task, objective, **settings)


def weights(model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def without_time(history: list[dict]) -> list[dict]:
    measured = {"seconds", "peak_memory"}
    return [{name: value for name, value in row.items() if name not in measured} for row in history]


def take(run: Distillation, steps: int) -> list[Step]:
    return list(itertools.islice(run, steps))


def refusal(call, *arguments, **options) -> str:
    """The message of the KDTutorError that `call` raises."""
    with pytest.raises(KDTutorError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def synced(widget) -> dict:
    """What the browser gets; json refuses NaN, which a browser could not read."""
    state = {
        name: value
        for name, value in widget.get_state().items()
        if not name.startswith("_") and name != "layout"
    }
    return json.loads(json.dumps(state, allow_nan=False))


@contextmanager
def training_on(device: str) -> Iterator[None]:
    """Let runs made in this block train on "cpu" or "cuda": accelerate settles that once a process."""
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState)]
    before = [dict(state) for state in shared]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", str(device == "cpu").lower())
        for state in shared:
            state.clear()
        try:
            yield
        finally:
            for state, values in zip(shared, before, strict=True):
                state.clear()
                state.update(values)


def processes(world: int, code: str) -> list[subprocess.CompletedProcess]:
    """Run a script as so many processes that know of each other, and wait until all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common = where | {"WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the tests' own folders
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, said, strict=True)
    ]
