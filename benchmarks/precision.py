"""Where bf16 pays on this processor: the time of a training step by the student's width, in bf16 over float32.

    python benchmarks/precision.py                    the table of benchmarks/README.md; ten minutes on a quiet machine
    python benchmarks/precision.py --turns 2 --widths 64      whether it runs

One thread. The arms of a row train copies of the same student on the same batches and take turns; a figure is the
median over the turns of the ratio of their processor times, so that other work on the machine disturbs it little.

    labels              supersense, hard labels alone, 32 texts
    beside the teacher  the same with soft targets of the shipped teacher (6 × 384), asked at each step
    masked LM           glosses, soft targets and masked LM, 16 texts, a teacher of the same size asked at each step

The first figure is for student and teacher in bf16, the second for the student in float32 and its teacher in bf16.
Where there is no teacher, the second says how far such figures scatter.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from training import describe

import kdtutor as kd

ARMS = {
    "float32": ("fp32", False),
    "bf16": ("bf16", True),
    "mixed": ("fp32", True),
}  # the student, its teacher
LAYERS = {64: 2, 128: 2, 160: 2, 192: 2, 256: 3, 384: 3}
STEPS, WARM_UP = 4, 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--widths", type=int, nargs="+", choices=LAYERS, default=[*LAYERS])
    a = parser.parse_args()
    torch.set_num_threads(1)
    supersense, glosses = (kd.load_task(name).subset(2000) for name in ("supersense", "glosses"))
    teacher = kd.load_teacher(supersense)

    print(f"{describe()}\n{a.turns} turns of {STEPS} steps\n")
    print("| student | labels | beside the teacher | masked LM |\n|---|---|---|---|")
    for width in a.widths:
        size = {"layers": LAYERS[width], "width": width, "heads": max(1, width // 64)}
        small, large = kd.small_bert(supersense, **size, seed=0), kd.small_bert(glosses, **size, seed=0)
        alike = kd.small_bert(glosses, **size, seed=1)
        rows = (
            (small, None, supersense, kd.HardLabels(), 32),
            (small, teacher, supersense, kd.blend(alpha=0.1, temperature=2), 32),
            (large, alike, glosses, 5 * kd.SoftTargets(2) + 2 * kd.MaskedLM(), 16),
        )
        print(
            f"| {LAYERS[width]} × {width} | {' | '.join(ratios(*row, a.turns) for row in rows)} |", flush=True
        )


def begun(student, teacher, task: kd.Task, goal, texts: int, precision: str, asked_in_bf16: bool) -> Iterator:
    """Begin a run of a copy of this student, with its teacher in bf16 or not."""
    made = kd.Distillation(
        copy.deepcopy(student), teacher, task, goal, steps=10**6, batch_size=texts, precision=precision, cache=False,
        check_teacher=False, progress=False,
    )  # fmt: skip
    if teacher is not None:
        made.answers.inference = replace(made.answers.inference, bf16=asked_in_bf16)
    return iter(made)


def ratios(student, teacher, task: kd.Task, goal, texts: int, turns: int) -> str:
    """Take steps of all arms by turns, and tell how their times compare with that of float32."""
    runs = {arm: begun(student, teacher, task, goal, texts, *how) for arm, how in ARMS.items()}
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(turns + WARM_UP):
        taken = {}
        for arm in (*ARMS,)[turn % 3 :] + (*ARMS,)[: turn % 3]:
            began = time.process_time()
            for _ in range(STEPS):
                next(runs[arm])
            taken[arm] = time.process_time() - began
        for arm in ARMS if turn >= WARM_UP else ():
            found[arm].append(taken[arm] / taken["float32"])
    return ", ".join(f"{statistics.median(found[arm]):.2f}" for arm in ("bf16", "mixed"))


if __name__ == "__main__":
    main()
