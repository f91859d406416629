"""What a learner waits for besides training, in this checkout and in an older one, by turns.

    python benchmarks/waits.py                                  today's seconds
    git worktree add ../before 2af5cc4
    python benchmarks/waits.py --before ../before               the table of benchmarks/README.md; 15 minutes
    python benchmarks/waits.py --only evaluation --rounds 1     whether it runs

Each wait is a process of its own with the same installed packages, and uses what both versions have. Processor time is
of that process and its children; a ratio is before over now, of one round; a figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
START = "import kdtutor as kd\n"
TASK = START + "task = kd.load_task('supersense')\n"

# What comes before the clock starts, and what is timed.
WAITS = {
    "import, first task, its teacher": ("", TASK + "kd.load_teacher(task)"),
    "tokenizing, per 65,000 texts": (TASK, "count = len(task.encode('train'))"),
    "first check of an exercise": (
        "from kdtutor.exercises import check\n"
        "def entropy(logits, temperature):\n"
        "    log_p = (logits / temperature).log_softmax(-1)\n"
        "    return -(log_p.exp() * log_p).sum(-1).mean()\n",
        "str(check.tempered_entropy(entropy))",
    ),
    "evaluation: 3 × 256, 2,000 texts": (
        TASK + "student = kd.small_bert(task, layers=3, width=256, seed=0)\n",
        "kd.predict(student, task.subset(2000), 'train')",
    ),
    "masked-LM distillation: 20 steps, 4 × 256 into 2": (
        START + "task = kd.load_task('glosses').subset(640)\n"
        "teacher = kd.small_bert(task, layers=4, width=256, seed=0)\n"
        "goal = 5 * kd.SoftTargets(2) + 2 * kd.MaskedLM() + 1 * kd.CosineHidden()\n"
        "run = kd.Distillation(kd.half_depth(teacher), teacher, task, goal, steps=20, progress=False)\n",
        "run.run()",
    ),
    "a run of a study: 300 steps of 2 × 128, scores": (
        TASK + "student, task = kd.small_bert(task, seed=0), task.subset(3200)\n"
        "run = kd.Distillation(student, None, task, kd.HardLabels(), precision='fp32', progress=False)\n",
        "run.run(), [kd.predict(student, task, split) for split in ('validation', 'test')]",
    ),
}
CLOCKS = """
import os, time
def clocks():
    used = os.times()
    return time.perf_counter(), used.user + used.system + used.children_user + used.children_system
"""
PROGRAM = """{clocks}
{before}
count, began = 65_000, clocks()
{timed}
wall, used = (65_000 / count * (now - then) for now, then in zip(clocks(), began))
print(wall, used)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout, for ratios")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAITS, default=[*WAITS], metavar="WAIT")
    a = parser.parse_args()
    checkouts = [HERE] if a.before is None else [a.before.resolve(), HERE]
    print("| wait | processor time, s | by the clock, s | before / now: processor | clock |")
    print("|---|---|---|---|---|")
    for name in a.only:
        rounds = [[taken(checkout, *WAITS[name]) for checkout in checkouts] for _ in range(a.rounds)]
        wall, used = (f"{statistics.median(each[-1][i] for each in rounds):.2f}" for i in (0, 1))
        ratios = ["", ""]
        if a.before is not None:
            ratios = [f"{statistics.median(then[i] / now[i] for then, now in rounds):.2f}×" for i in (1, 0)]
        print(f"| {name} | {used} | {wall} | {' | '.join(ratios)} |", flush=True)


def taken(checkout: Path, before: str, timed: str) -> tuple[float, float]:
    """Run a wait with this checkout's package: seconds by the clock, and of processor time."""
    program = PROGRAM.format(clocks=CLOCKS, before=before, timed=timed)
    with tempfile.TemporaryDirectory() as folder:
        where = os.environ | {"PYTHONPATH": str(checkout)}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=where
        )
    if done.returncode:
        raise SystemExit(f"{checkout}:\n{done.stderr[-2000:]}")
    wall, used = done.stdout.split()[-2:]
    return float(wall), float(used)


if __name__ == "__main__":
    main()
