"""How a training step slows down beside busy neighbours, by the way in which OpenMP's threads wait for each other.

    python benchmarks/busy.py                                     every way, beside 0, 1 and 2 neighbours, three rounds
    python benchmarks/busy.py --ways kdtutor spinning --neighbours 1 --rounds 1       a quick look

A step of fine-tuning (by default 6 layers × 384, 64 texts) runs some thousand parallel loops, and at the end of each
its threads wait for the slowest. GNU's OpenMP lets them spin: at best nothing is lost, but where a neighbour has taken
the core of the slowest, the others burn theirs meanwhile. kdtutor's loop makes them sleep while there are neighbours
(kdtutor/neighbours.py); `spinning` is the loop without that, the other ways are OpenMP's own settings.

A neighbour is a process that counts, at the same priority. Each measurement is a process of its own, ways take turns,
and a figure is the median over rounds of a step's mean time; ratios are to the first way with the fewest neighbours.
Other work on the machine counts as neighbours too: then compare ways, not numbers of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# The environment of each way; OpenMP reads its own when torch loads it.
WAYS = {
    "kdtutor": {},
    "spinning": {"BUSY_SPINNING": "1"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one": {"OMP_NUM_THREADS": "1"},
}
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WARM_UP = 1  # steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement, at least one step")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--model", nargs=3, type=int, default=[6, 384, 64], metavar=("LAYERS", "WIDTH", "BATCH")
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(a.seconds, a.precision, *a.model)))
        return
    found: dict[tuple[str, int], list[dict]] = {}
    for number in range(a.rounds):
        for count in a.neighbours:
            for way in a.ways:
                step = beside(
                    count,
                    way,
                    ["--seconds", str(a.seconds), "--precision", a.precision, "--model", *map(str, a.model)],
                )
                found.setdefault((way, count), []).append(step)
                print(
                    f"round {number}, {count} neighbours, {way}: {step['seconds']:.3f} s a step", flush=True
                )
    print(table(found, a.ways, a.neighbours))


def beside(neighbours: int, way: str, flags: list[str]) -> dict:
    """Measure one way in a process of its own, while so many others count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        environment = {name: value for name, value in os.environ.items() if name not in OURS} | WAYS[way]
        command = [sys.executable, __file__, "--one", *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(seconds: float, precision: str, layers: int, width: int, batch: int) -> dict:
    """Train for so long; the mean time of a step, and the processor's."""
    import kdtutor as kd
    from kdtutor.neighbours import Neighbours

    if "BUSY_SPINNING" in os.environ:
        Neighbours.__enter__, Neighbours.look = lambda self: self, lambda self: None
    task = kd.load_task("supersense").subset(40 * batch)
    student = kd.small_bert(task, layers=layers, width=width, seed=0)
    settings = {"batch_size": batch, "precision": precision, "progress": False}
    steps = iter(kd.Distillation(student, None, task, kd.HardLabels(), steps=10_000, **settings))
    for _ in range(WARM_UP):
        next(steps)
    taken, began, spent = 0, time.perf_counter(), time.process_time()
    while not taken or time.perf_counter() - began < seconds:
        next(steps)
        taken += 1
    wall, processor = time.perf_counter() - began, time.process_time() - spent
    return {"seconds": wall / taken, "processor": processor / taken, "steps": taken}


def table(found: dict[tuple[str, int], list[dict]], ways: list[str], neighbours: list[int]) -> str:
    """Write seconds per step, and the ratio to the first way with the fewest neighbours."""

    def median(way: str, count: int, what: str) -> float:
        return statistics.median(step[what] for step in found[way, count])

    first = median(ways[0], neighbours[0], "seconds")
    lines = ["| way | neighbours | seconds a step | ratio | processor seconds |", "|---|---|---|---|---|"]
    for way in ways:
        for count in neighbours:
            wall, processor = (median(way, count, what) for what in ("seconds", "processor"))
            lines.append(f"| {way} | {count} | {wall:.3f} | {wall / first:.2f} | {processor:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
