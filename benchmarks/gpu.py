"""What gpu.sh runs: every arm of training.py and pretraining.py once, each within its share of the time, into one file.

An arm that fails, or that is not done when its share is over, has the reason in the file and stops no other. A share is
what is left, divided by the arms that are left. The file is written anew after each arm, so a killed run leaves what it
has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LOOP = ("ours", "tuned", "ours, online", "plain", "compiled")
PRETRAINING = ("ours", "tuned", "ours, plain", "ours, graphs", "ours, compiled", "tuned, compiled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="proves on a CPU that all of it runs")
    parser.add_argument("--seconds", type=float, help="for all arms together (560; small: 300)")
    parser.add_argument("--only", nargs="+", metavar="ARM", help='these arms, such as "masked LM: ours"')
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    a = parser.parse_args()
    ends = time.monotonic() + (a.seconds or (300 if a.small else 560))
    found = {"hardware": hardware(), "small": a.small, "arms": {}}
    todo = arms(a.small)
    if unknown := {*(a.only or ())} - todo.keys():
        parser.error(f"there is no arm {', '.join(sorted(unknown))}; there are: {', '.join(todo)}")
    todo = {name: command for name, command in todo.items() if not a.only or name in a.only}
    for number, (name, command) in enumerate(todo.items()):
        share = max(1.0, (ends - time.monotonic()) / (len(todo) - number))
        found["arms"][name] = measured([sys.executable, *command], share)
        a.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found["arms"][name].get("failed") or found["arms"][name]["tokens_per_second"], flush=True)


def arms(small: bool) -> dict[str, list[str]]:
    """List a name and a command for each; what compiles, and so takes longest, comes last."""
    texts, scale, batch = ("64", "embedded", "8") if small else ("8000", "full", "256")
    steps = ["--steps", "3", "--warm-up", "1"] if small else ["--steps", "25", "--warm-up", "5"]
    todo = {}
    for arm in LOOP:
        one = [str(HERE / "training.py"), "--one", arm, "small" if small else "half depth"]
        todo[f"loop: {arm}"] = [*one, "--texts", texts, "--epochs", "1" if small else "3"]
    for arm in PRETRAINING:
        one = [str(HERE / "pretraining.py"), "--one", arm, "--scale", scale, "--batch", batch]
        todo[f"masked LM: {arm}"] = [*one, *steps]
    return dict(sorted(todo.items(), key=lambda arm: arm[0].endswith(("compiled", "graphs"))))


def measured(command: list[str], seconds: float) -> dict:
    """Read the figures that a command prints as its last line, or the reason why it has none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        return {"failed": done.stderr[-2000:] or f"it ended with {done.returncode}"}
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {seconds:.0f} s"}
    except (ValueError, IndexError) as error:
        return {"failed": f"it printed no figures ({error})"}


def hardware() -> dict[str, object]:
    """Name the devices and versions, so that a figure can be read by itself."""
    import platform

    import accelerate
    import torch
    import transformers

    there = torch.cuda.is_available()
    return {
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if there else [],
        "processor": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }


if __name__ == "__main__":
    main()
