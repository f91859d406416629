"""What each objective costs over logits alone: the time of a step, and the memory that it holds at its peak.

    python benchmarks/objectives.py                         the table: half-depth student, supersense, batches of 32
    python benchmarks/objectives.py --tiny --turns 3        whether it runs: models of random weights, seconds
    python benchmarks/objectives.py --only "value relations" "RKD distances"

All arms train at once in one process, each its own copy of the student, and take turns step by step: the same batch in
every arm, one after the other in an order drawn for each turn, so that a machine that slows down slows all of them. A
ratio is made of the steps of one turn; a figure is the median over the turns. Hidden states and the like are asked of
the teacher at every step, logits only once: the arm "logits, asked" says how much of a ratio is that.

Memory is what a step holds at its peak beyond what lay there before it: torch's own on a GPU, resident memory on Linux,
elsewhere not measured.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from training import describe

import kdtutor as kd
from kdtutor.hardware import release_freed_memory
from kdtutor.objectives.parse import parse_objective

LOGITS = "0.1 * HardLabels() + 0.9 * SoftTargets(2)"
ASKED = "logits, asked"
OBJECTIVES = {
    "hidden states, last": "HiddenStates()",
    "hidden states, every second": "HiddenStates('every second')",
    "cosine of hidden states": "CosineHidden()",
    "[CLS] patience": "CLSPatience()",
    "attention maps, KL": "AttentionMaps()",
    "attention maps, scores": "AttentionMaps('scores', 'every second')",
    "attention relations": "AttentionRelations()",
    "value relations": "ValueRelations()",
    "query relations": "QueryRelations()",
    "key relations": "KeyRelations()",
    "MiniLMv2": "QueryRelations() + KeyRelations() + ValueRelations()",
    "RKD distances": "RelationalDistance()",
    "RKD angles": "RelationalAngle()",
    "similarity preserving": "SimilarityPreserving()",
    "contrastive": "Contrastive()",
    "decoupled KD": "DecoupledKD()",
    "Pearson KD": "PearsonKD()",
}
WARM_UP = 3  # turns that are not counted: memory is taken and kernels are chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=[*OBJECTIVES], metavar="OBJECTIVE")
    parser.add_argument("--tiny", action="store_true", help="small models of random weights")
    a = parser.parse_args()

    steps = a.turns + WARM_UP
    task = kd.load_task("supersense").subset(steps * a.batch_size)
    teacher = kd.small_bert(task, layers=4, width=32, heads=2, seed=1) if a.tiny else kd.load_teacher(task)
    runs = make_runs(task, teacher, a.only, steps, a.batch_size)
    print(f"{describe()}\n{a.turns} turns, batches of {a.batch_size}\n")
    print(table(take_turns(runs, a.turns)))


def make_runs(task, teacher, names: list[str], steps: int, batch_size: int) -> dict[str, kd.Distillation]:
    """Make a run an arm, of the same student."""
    student = kd.half_depth(teacher, seed=0)
    formulas = {"logits": LOGITS, ASKED: LOGITS} | {name: f"{LOGITS} + {OBJECTIVES[name]}" for name in names}
    settings = {"steps": steps, "batch_size": batch_size, "progress": False, "check_teacher": False}
    return {
        name: kd.Distillation(
            copy.deepcopy(student), teacher, task, parse_objective(formula), cache=name != ASKED, **settings
        )
        for name, formula in formulas.items()
    }


def take_turns(runs: dict[str, kd.Distillation], turns: int) -> dict[str, list[tuple[float, float | None]]]:
    """Take the runs' steps by turns: for each arm, the seconds and the bytes of every step that counts."""
    iterators = {name: iter(run) for name, run in runs.items()}
    measured: dict[str, list[tuple[float, float | None]]] = {name: [] for name in runs}
    order, draw = [*runs], random.Random(0)
    for turn in range(turns + WARM_UP):
        draw.shuffle(order)  # who is first takes the memory for a batch of new length, which others find
        for name in order:
            steps = iterators[name]
            figures = measure(lambda steps=steps: next(steps), runs[name].device)
            if turn >= WARM_UP:
                measured[name].append(figures)
    return measured


def measure(step: Callable, device: torch.device) -> tuple[float, float | None]:
    """Take a step: its seconds, and the bytes it held at its peak beyond what lay there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() - before

    release_freed_memory()
    before = resident("VmRSS") if forget_peak() else None
    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    return seconds, None if before is None else resident("VmHWM") - before


def forget_peak() -> bool:
    """Let Linux count the peak of resident memory from now on; False where that can't be."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident(what: str) -> int:
    """Read "VmRSS", the bytes resident now, or "VmHWM", their peak."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1])


def table(measured: dict[str, list[tuple[float, float | None]]]) -> str:
    """Write the table: each arm's median time, and both ratios to the step of "logits" in the same turn."""
    lines = ["| objective, beside logits | ms a step | time | peak memory |", "|---|---|---|---|"]
    base = measured["logits"]
    for name, steps in measured.items():
        times = [mine[0] / theirs[0] for mine, theirs in zip(steps, base, strict=True)]
        pairs = [(mine[1], theirs[1]) for mine, theirs in zip(steps, base, strict=True)]
        memory = [mine / theirs for mine, theirs in pairs if mine is not None and theirs]
        shown = f"{statistics.median(memory):.2f}×" if memory else "not measured"
        milliseconds = 1000 * statistics.median(step[0] for step in steps)
        lines.append(f"| {name} | {milliseconds:.0f} | {spread(times)} | {shown} |")
    return "\n".join(lines)


def spread(ratios: list[float]) -> str:
    """Write the median, and between which two the middle half of the turns lies."""
    if len(ratios) < 4:
        return f"{statistics.median(ratios):.2f}×"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f}× ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
