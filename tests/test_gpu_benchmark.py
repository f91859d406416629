"""The GPU benchmark writes one file, whatever becomes of its arms."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


@pytest.mark.slow
def test_arms_that_run_out_of_time_stop_no_other_and_the_file_says_so(tmp_path):
    file = tmp_path / "gpu.json"
    command = ["bash", str(SCRIPT), "--small", "--seconds", "1", "--output", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["hardware"].keys() >= {"gpus", "processor", "torch", "cuda", "transformers"}
    assert {name.partition(":")[0] for name in found["arms"]} == {"loop", "masked LM"}
    assert {"loop: tuned", "masked LM: ours, compiled", "masked LM: ours, graphs"} <= found["arms"].keys()
    assert all("not done within" in arm["failed"] for arm in found["arms"].values())


@pytest.mark.slow
def test_only_named_arms_run_and_an_unknown_one_is_named(tmp_path):
    command = ["bash", str(SCRIPT), "--small", "--output", str(tmp_path / "gpu.json"), "--only"]
    done = subprocess.run([*command, "loop: oars"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "there is no arm loop: oars" in done.stderr
    subprocess.run([*command, "loop: ours", "--seconds", "1"], check=True, capture_output=True, timeout=300)
    assert json.loads((tmp_path / "gpu.json").read_text())["arms"].keys() == {"loop: ours"}
