"""What watching costs: training with `LiveDistillation` beside the same runs without a widget, side by side.

    python benchmarks/live.py                      five rounds, about two minutes
    python benchmarks/live.py --rounds 2 --steps 80

Both arms run in one real kernel, without a browser: this script is the front end, and only counts what arrives. Each
round trains from the same initial weights, first without and then with the widget, or the other way round:

    without   for _ in zip(run, twin): pass        student and twin in turns, in one cell
    with      LiveDistillation(run).start()        the same two runs, in the background

A ratio is made of the two arms of one round, of seconds and of processor seconds.
The teacher's answers are asked before, and kept on disk for all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty

from jupyter_client.manager import KernelManager

PATIENCE = 600  # seconds for one arm
WANTED_RATIO, WANTED_PICTURES = 0.8, 5

SETUP = """
import time
import kdtutor as kd
from kdtutor.widgets import LiveDistillation

task = kd.load_task("supersense").subset({texts})
teacher = kd.load_teacher(task)

def runs():
    models = [kd.small_bert(task, layers={layers}, width={width}, dropout=0.0, seed=0) for _ in range(2)]
    how = dict(steps={steps}, learning_rate=1e-3, seed=0, progress=False)
    return (
        kd.Distillation(models[0], teacher, task, kd.blend(alpha=0.1, temperature=1), cache={cache!r}, **how),
        kd.Distillation(models[1], None, task, kd.HardLabels(), **how),
    )

for _, _step in zip(range(5), zip(*runs())):  # warm up
    pass
"""
WITHOUT = """
run, twin = runs()
started, cpu = time.perf_counter(), time.process_time()
for _ in zip(run, twin):
    pass
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
"""
WITH = """
run, twin = runs()
live, when = LiveDistillation(run, twin=twin), {}
clocks = lambda: (time.perf_counter(), time.process_time())
live.observe(lambda change: when.setdefault(change["new"], clocks()), "status")
live.start()
"""
SECONDS = """
seconds, cpu = (end - start for start, end in zip(when["training"], when["finished"]))
share = live._validating / live._working
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file")
    a = parser.parse_args()
    manager = KernelManager(kernel_name="python3")
    # The kernel of this very Python, whatever the machine has installed under that name.
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(
        extra_arguments=["--log-level=ERROR"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        with tempfile.TemporaryDirectory() as cache:
            rounds = measure(client, a, cache)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    about = {
        "machine": f"{platform.platform()}, {os.cpu_count()} processors",
        **{k: getattr(a, k) for k in ("steps", "texts", "layers", "width")},
    }
    report(rounds, about)
    if a.output:
        a.output.write_text(json.dumps({**about, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")


def measure(client, a: argparse.Namespace, cache: str) -> list[dict]:
    """Measure both arms, turn by turn."""
    execute(client, SETUP.format(cache=cache, **vars(a)))
    rounds = []
    for number in range(a.rounds):
        row: dict[str, float] = {}
        for arm in ("without", "with") if number % 2 == 0 else ("with", "without"):
            if arm == "without":
                execute(client, WITHOUT)
                row |= {"without": ask(client, "seconds"), "without_cpu": ask(client, "cpu")}
            else:
                execute(client, WITH)
                pictures, size = watch(client)
                execute(client, SECONDS)
                row |= {"with": ask(client, "seconds"), "with_cpu": ask(client, "cpu")}
                row["validation"] = ask(client, "share")
                row |= {"pictures": pictures / row["with"], "bytes": size / pictures}
        row["ratio"], row["cpu_ratio"] = row["without"] / row["with"], row["without_cpu"] / row["with_cpu"]
        rounds.append(row)
        print(
            f"round {number}: without {row['without']:.2f} s, with {row['with']:.2f} s; throughput {row['ratio']:.0%} "
            f"({row['cpu_ratio']:.0%} by processor time), "
            f"{row['pictures']:.1f} pictures a second, {row['bytes']:,.0f} bytes each",
            flush=True,
        )
    return rounds


def report(rounds: list[dict], about: dict) -> None:
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    ratio, cpu, pictures = ([row[name] for row in rounds] for name in ("ratio", "cpu_ratio", "pictures"))
    by_cpu = f"{statistics.median(cpu):.0%} (median; {min(cpu):.0%} to {max(cpu):.0%})"
    print(f"the same by processor time, which others on the machine disturb less: {by_cpu}")
    share = statistics.median(row["validation"] for row in rounds)
    print(
        f"throughput with the widget: {statistics.median(ratio):.0%} (median; {min(ratio):.0%} to {max(ratio):.0%})"
    )
    print(
        f"pictures a second: {statistics.median(pictures):.1f} (median; {min(pictures):.1f} to {max(pictures):.1f})"
    )
    print(f"of the time with the widget, validation takes {share:.0%}")
    good = statistics.median(ratio) >= WANTED_RATIO and statistics.median(pictures) >= WANTED_PICTURES
    print(
        f"wanted: at least {WANTED_RATIO:.0%} and {WANTED_PICTURES} pictures a second: {'met' if good else 'NOT MET'}"
    )


# ------------------------------------------------------------------------------------------------ the front end


def execute(client, code: str) -> None:
    """Run a cell to its end. RuntimeError with its message if it raises."""
    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=lambda message: None)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))


def ask(client, name: str) -> float:
    reply = client.execute_interactive(
        "", user_expressions={name: name}, timeout=PATIENCE, output_hook=lambda message: None
    )
    return float(reply["content"]["user_expressions"][name]["data"]["text/plain"])


def watch(client) -> tuple[int, int]:
    """Count, until training is over, how many pictures came, and their bytes of JSON."""
    pictures = size = 0
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            message = client.get_iopub_msg(timeout=10)
        except Empty:
            continue
        if message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))
        state = (
            message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
        )
        if "now" in state:
            pictures += 1
            size += len(json.dumps(state["now"]))
        if "curves" in state and pictures > 1:  # sent whole at the end
            return pictures, size
    raise RuntimeError(f"the live run did not finish within {PATIENCE} seconds")


if __name__ == "__main__":
    main()
