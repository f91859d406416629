"""Whether memory stays flat while a CPU trains: resident memory after 300 steps and after 3,000, and what it costs.

    python benchmarks/memory.py                                       the table of benchmarks/README.md
    python benchmarks/memory.py --steps 600 --kinds classification    a quick look
    python benchmarks/memory.py --steps 200 --width 256 --rounds 5    speed: what few shapes cost a larger student

A small student distils from a small teacher with random weights, asked at every step: supersense by soft and hard
labels, glosses by DistilBERT's objective. Each run is a process of its own; the two arms take turns, and the second
table has the ratio of their times, round by round: above 1 few shapes are the faster.

    few shapes    as the package is: batches and rows padded to one of few sizes, freed memory returned to the system
    every shape   the same with both switched off, as it was before
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from training import describe

ARMS = ("few shapes", "every shape")
KINDS = ("classification", "masked LM")
PRECISIONS = ("fp32", "bf16")
EARLY = 300  # steps after which memory is compared with that at the end


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--width", type=int, default=64, help="of student and teacher")
    parser.add_argument("--rounds", type=int, default=1, help="times that the arms take turns")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file")
    parser.add_argument("--one", nargs=3, metavar=("ARM", "KIND", "PRECISION"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(*a.one, a.steps, a.width)))
        return
    print(describe())
    early = min(EARLY, a.steps)
    print(
        f"| kind | precision | arm | shapes | after {early} steps | after {a.steps:,} | ratio | processor seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for kind in a.kinds:
        for precision in a.precisions:
            for arm in a.rounds * a.arms:
                command = [sys.executable, __file__, "--one", arm, kind, precision, "--steps", str(a.steps)]
                command += ["--width", str(a.width)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{arm}, {kind}, {precision} failed:\n{done.stderr[-2000:]}", flush=True)
                    continue
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(row(results[-1]), flush=True)
    print("\n".join(speeds(results)))
    if a.output:
        a.output.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")


def measure(arm: str, kind: str, precision: str, steps: int, width: int) -> dict:
    """Train, and read how much memory is resident after EARLY steps and at the end."""
    import importlib

    import psutil
    import torch

    import kdtutor as kd
    from kdtutor import hardware
    from kdtutor.data import tokens

    if arm == "every shape":
        # The package gives the function of that name.
        forward = importlib.import_module("kdtutor.models.forward")
        tokens.round_up = forward.round_up = lambda count: count
        hardware.release_freed_memory = lambda: None
    torch.set_num_threads(1)
    if kind == "classification":
        task, batch, goal = kd.load_task("supersense"), 32, kd.blend(alpha=0.1, temperature=2)
    else:
        task, batch = kd.load_task("glosses"), 4
        goal = 5 * kd.SoftTargets(2) + 2 * kd.MaskedLM() + 1 * kd.CosineHidden()
    teacher, student = (kd.small_bert(task, layers=2, width=width, seed=seed) for seed in (1, 2))
    run = kd.Distillation(
        student,
        teacher,
        task,
        goal,
        steps=steps,
        batch_size=batch,
        precision=precision,
        cache=False,
        progress=False,
    )
    process, resident, shapes = psutil.Process(), {}, set()
    began, began_by_the_clock = time.process_time(), time.perf_counter()
    for step in run:
        if step.number in (min(EARLY, steps), steps):
            resident[step.number] = process.memory_info().rss
    seconds, by_the_clock = time.process_time() - began, time.perf_counter() - began_by_the_clock
    for number in range(steps):
        shapes |= {tuple(part["input_ids"].shape) for part in run.batches[number]}
    return {
        "arm": arm,
        "kind": kind,
        "precision": precision,
        "early": resident[min(EARLY, steps)],
        "late": resident[steps],
        "processor_seconds": seconds,
        "seconds": by_the_clock,
        "shapes": len(shapes),
    }


def row(result: dict) -> str:
    """Write one line of the table."""
    early, late = (f"{result[name] / 1e6:,.0f} MB" for name in ("early", "late"))
    ratio = f"{result['late'] / result['early']:.2f}"
    cells = [result["kind"], result["precision"].replace("fp32", "float32"), result["arm"]]
    cells += [str(result["shapes"]), early, late, ratio]
    return f"| {' | '.join(cells)} | {result['processor_seconds']:.0f} |"


def speeds(results: list[dict]) -> list[str]:
    """Compare the arms' times, the n-th run of one with the n-th of the other: the lines of a second table."""
    lines = [
        "",
        "| kind | precision | rounds | speed by the processor's time | by the clock |",
        "|---|---|---|---|---|",
    ]
    for kind, precision in dict.fromkeys((result["kind"], result["precision"]) for result in results):
        few, every = (
            [r for r in results if (r["arm"], r["kind"], r["precision"]) == (arm, kind, precision)]
            for arm in ARMS
        )
        if len(few) != len(every):
            continue  # one arm alone was asked for, or a run failed
        cells = []
        for time_of in ("processor_seconds", "seconds"):
            ratios = [slow[time_of] / fast[time_of] for fast, slow in zip(few, every, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {kind} | {precision} | {len(few)} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
