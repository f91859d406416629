"""How long a model takes: for one text, for the first one, for many; and what energy, where the machine tells it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles
from typing import IO, Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import length_bucketed_batches
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.hardware import format_bytes, joules
from kdtutor.models.forward import evaluating, inputs_of
from kdtutor.models.reading import read_by
from kdtutor.models.writing import generated_ids
from kdtutor.neighbours import beside_neighbours

CPU = torch.device("cpu")


@torch.no_grad()
def latency_ms(model: PreTrainedModel, task: Task, split: str = "test", texts: int = 50) -> float:
    """Time one text alone on the CPU, tokens already made: milliseconds, the median over real texts.

    The model runs as it does wherever transformers runs it, not by `kdtutor.models.lean`. An encoder–decoder is timed
    while it writes its whole answer, token by token.
    """
    encoded = read_by(model, task).encode(split)
    chosen = torch.arange(len(encoded))[:: max(1, len(encoded) // texts)][:texts]
    batches = [encoded.batch(i[None]) for i in chosen]
    answer = partial(generated_ids, model, task)
    if not task.rules.writes:
        batches, answer = [inputs_of(model, batch) for batch in batches], lambda batch: model(**batch)
    with evaluating(model, CPU):
        times = _seconds(answer, [*batches[:5], *batches])  # the first five warm up
    return 1000 * median(times[-len(batches) :])


def latencies_ms(
    models: Mapping[str, PreTrainedModel], task: Task, split: str = "test", texts: int = 50, rounds: int = 5
) -> dict[str, float]:
    """Time several models, by name, each by the least `latency_ms` of `rounds` in which they take turns.

    What else the machine does only ever slows them, and some rounds more than others: the least disturbed ones are
    compared. On a busy machine the medians of two equal models have been seen a factor of nearly two apart.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name].append(latency_ms(model, task, split, texts))
    return {name: min(values) for name, values in times.items()}


class Runs(Protocol):
    """A model that is no longer PyTorch's: an exported one, say. bytes: on disk."""

    bytes: int

    def run(self, batch: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Speed:
    """What one model takes. first_ms: its first text here, when nothing is prepared; median_ms and p95_ms: the median
    and the 95th percentile of one text at a time, warm; throughput: texts per second, in batches. joules: a text's, in
    batches, of the whole processor; None where the machine doesn't tell.
    """

    bytes: int
    first_ms: float
    median_ms: float
    p95_ms: float
    throughput: float
    joules: float | None


@dataclass(frozen=True)
class Speeds:
    """Several models, measured side by side: `speeds["int8"].median_ms`; printed, a table."""

    rows: dict[str, Speed]
    texts: int
    batch_size: int
    threads: int = field(default_factory=torch.get_num_threads)

    def __getitem__(self, name: str) -> Speed:
        return self.rows[name]

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        head = (
            f"{'':<{width}}{'bytes':>12}{'first':>11}{'median':>11}{'95 %':>11}{'texts/s':>10}{'energy':>12}"
        )
        lines = [head]
        for name, row in self.rows.items():
            energy = "unknown" if row.joules is None else f"{1000 * row.joules:.1f} mJ"
            times = "".join(f"{ms:>8.2f} ms" for ms in (row.first_ms, row.median_ms, row.p95_ms))
            size = format_bytes(row.bytes)
            lines.append(f"{name:<{width}}{size:>12}{times}{row.throughput:>10,.0f}{energy:>12}")
        return "\n".join([*lines, f"{self.texts} texts one by one, then in batches of {self.batch_size}"])


def speeds(
    models: Mapping[str, PreTrainedModel | Runs],
    task: Task,
    split: str = "test",
    texts: int = 50,
    rounds: int = 3,
    batch_size: int = 32,
) -> Speeds:
    """Measure models by name on real texts of the task, on the CPU, tokens already made.

    In each round they take turns, so that what else the machine does slows all of them alike. Raises KDTutorError if
    there are too few texts for a percentile.
    """
    encoded = task.encode(split)
    if COUNT("texts", texts) < 2 or len(encoded) < texts:
        raise KDTutorError(f"2 to {len(encoded)} texts of {task.name} can be timed, not {texts}")
    chosen = torch.arange(len(encoded))[:: len(encoded) // texts][:texts]
    alone = [encoded.batch(i[None]) for i in chosen]
    order = length_bucketed_batches(encoded.lengths[chosen], batch_size)
    together = [encoded.batch(chosen[index]) for index in order]
    with _ready(models) as runs:
        first = {name: _seconds(run, alone[:1])[0] for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        whole: dict[str, list[float]] = {name: [] for name in runs}
        energy: dict[str, list[float | None]] = {name: [] for name in runs}
        for _ in range(COUNT("rounds", rounds)):
            for name, run in runs.items():
                _seconds(run, alone[:3])  # warms up
                times[name] += _seconds(run, alone)
                before = joules()
                whole[name].append(sum(_seconds(run, together)))
                energy[name].append(None if before is None else joules() - before)
    rows = {}
    for name, model in models.items():
        spent = None if None in energy[name] else median(energy[name]) / texts
        p95 = quantiles(times[name], n=20, method="inclusive")[-1]
        rows[name] = Speed(
            stored_bytes(model),
            1000 * first[name],
            1000 * median(times[name]),
            1000 * p95,
            texts / median(whole[name]),
            spent,
        )
    return Speeds(rows, texts, batch_size)


def stored_bytes(model: PreTrainedModel | Runs) -> int:
    """Count the bytes that a model takes on disk: of a file, or of weights as they are, whole numbers included."""
    if not isinstance(model, torch.nn.Module):
        return model.bytes
    file = _Counted()
    torch.save(model.state_dict(), cast(IO[bytes], file))
    return file.bytes


class _Counted(io.RawIOBase):
    """A file that keeps nothing but the number of bytes that were written."""

    bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += len(data)
        return len(data)


def _seconds(run: Callable[[dict[str, Tensor]], object], batches: list[dict[str, Tensor]]) -> list[float]:
    """Time each batch alone."""
    times = []
    for batch in beside_neighbours(batches, CPU):
        start = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - start)
    return times


@contextmanager
def _ready(models: Mapping[str, PreTrainedModel | Runs]) -> Iterator[dict[str, Callable]]:
    """Give what runs a batch, by name; PyTorch's models on the CPU, in eval mode, and put back afterwards."""
    with ExitStack() as held, torch.no_grad():
        runs = {}
        for name, model in models.items():
            if isinstance(model, torch.nn.Module):
                held.enter_context(evaluating(model, CPU))
            runs[name] = _runner(model) if isinstance(model, torch.nn.Module) else model.run
        yield runs


def _runner(model: PreTrainedModel) -> Callable[[dict[str, Tensor]], object]:
    return lambda batch: model(**inputs_of(model, batch))
