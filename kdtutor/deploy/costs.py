"""What exported models take, side by side, each in a process of its own: size, accuracy, time, memory, energy.

print(costs({"float32": "exported", "int8": "exported-int8"}, task))
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor

from kdtutor.data.task import Task
from kdtutor.deploy.session import checked
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.evaluation.scores import SCORES
from kdtutor.evaluation.statistics import share_interval


@dataclass(frozen=True)
class Cost:
    """What one exported model takes, on one thread. logits: of all texts, (N, C), on the host.

    bytes: of model.onnx. score, interval: the task's first score, and where an accuracy over so many texts may lie
    (95 %, Wilson); None without labels. cold_s: from starting Python to the first answer. median_ms, p95_ms: one text
    at a time, warm. throughput: texts per second, in batches. peak_memory: bytes resident at most. joules: for a text,
    of the whole processor; None where the machine doesn't tell.
    """

    bytes: int
    score: float | None
    interval: tuple[float, float] | None
    cold_s: float
    median_ms: float
    p95_ms: float
    throughput: float
    peak_memory: int
    joules: float | None
    logits: Tensor


@dataclass(frozen=True)
class Costs:
    """Several exported models by name: `costs["int8"].median_ms`; printed, a table. texts: of split, all; timed."""

    rows: dict[str, Cost]
    task: str
    split: str
    score_name: str
    texts: int
    timed: int

    def __getitem__(self, name: str) -> Cost:
        return self.rows[name]

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        columns = ("MB", self.score_name, "cold s", "median ms", "95 % ms", "texts/s", "peak MB", "mJ/text")
        widths = (7, 15, 8, 11, 9, 9, 9, 9)
        lines = [" " * width + "".join(f"{name:>{w}}" for name, w in zip(columns, widths, strict=True))]
        for name, row in self.rows.items():
            cells = (
                f"{row.bytes / 1e6:.1f}",
                _score(row),
                f"{row.cold_s:.2f}",
                f"{row.median_ms:.2f}",
                f"{row.p95_ms:.2f}",
                f"{row.throughput:,.0f}",
                f"{row.peak_memory / 1e6:.0f}",
                "unknown" if row.joules is None else f"{1000 * row.joules:.1f}",
            )
            lines.append(
                f"{name:<{width}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
            )
        return "\n".join(
            [*lines, f"{self.texts:,} {self.split} texts of {self.task}, {self.timed} of them timed"]
        )


def _score(row: Cost) -> str:
    if row.score is None or row.interval is None:
        return "no labels" if row.score is None else f"{row.score:.3f}"
    low, high = row.interval
    return f"{row.score:.1%} ± {(high - low) / 2:.1%}"


def costs(
    folders: Mapping[str, str | os.PathLike],
    task: Task,
    split: str = "test",
    timed: int = 32,
    rounds: int = 2,
) -> Costs:
    """Measure exported folders by name on the texts of `split`, of which the first `timed` are timed.

    Each has a process of its own, in which there is no PyTorch. In each round they take turns, so that what else the
    machine does slows all of them alike. Raises KDTutorError if there are too few texts for a percentile, or a folder
    holds no exported model.
    """
    part = task.split(split)
    if not 2 <= COUNT("timed", timed) <= len(part):
        raise KDTutorError(f"2 to {len(part)} texts of {task.name} can be timed, not {timed}")
    places = {name: checked(Path(folder)) for name, folder in folders.items()}
    texts = part.texts[0] if len(part.texts) == 1 else [*zip(*part.texts, strict=True)]
    found: dict[str, list[dict]] = {name: [] for name in places}
    for number in range(COUNT("rounds", rounds)):
        for name, place in places.items():
            # Once is enough for what does not change.
            found[name].append(_measured(place, list(texts if number == 0 else texts[:timed]), timed))
    targets, score = part.targets if part.labelled.all() else None, task.rules.scores[0]
    rows = {name: _cost(places[name], runs, targets, score) for name, runs in found.items()}
    return Costs(rows, task.name.partition("[")[0], split, score, len(part), timed)


def _cost(place: Path, runs: list[dict], targets: Tensor | None, score_name: str) -> Cost:
    logits = torch.tensor(runs[0]["logits"])
    times = [seconds for run in runs for seconds in run["times"]]
    score = None if targets is None else float(SCORES[score_name](logits, targets))
    spent = [run["joules"] for run in runs]
    return Cost(
        bytes=(place / "model.onnx").stat().st_size,
        score=score,
        interval=share_interval(score, len(logits))
        if score is not None and score_name == "accuracy"
        else None,
        cold_s=median(run["cold"] for run in runs),
        median_ms=1000 * median(times),
        p95_ms=1000 * quantiles(times, n=20, method="inclusive")[-1],
        throughput=median(run["throughput"] for run in runs),
        peak_memory=max(run["peak_memory"] for run in runs),
        joules=None if None in spent else median(spent),
        logits=logits,
    )


def _measured(folder: Path, texts: list, timed: int) -> dict:
    """Run kdtutor.deploy.alone, and take the time until its first answer. KDTutorError if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtutor.deploy.alone", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process:
        try:
            json.dump({"texts": texts, "timed": timed}, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already, and says below why
        answered = process.stdout.readline()
        cold = time.perf_counter() - start
        said, errors = process.stdout.read(), process.stderr.read()
    if process.returncode or not answered:
        why = (errors.strip().splitlines() or ["no answer"])[-1]
        raise KDTutorError(f"{folder} gives no answer in a process of its own: {why[:200]}")
    return json.loads(said) | {"cold": cold}
