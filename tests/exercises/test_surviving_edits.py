"""tools/surviving_edits.py finds the wrong answer that an exercise with too few probes accepts."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from kdtutor.exercises import load_exercises

PATH = Path(__file__).resolve().parents[2] / "tools" / "surviving_edits.py"
SPEC = importlib.util.spec_from_file_location("surviving_edits", PATH)
TOOL = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TOOL)


def test_a_probe_that_tells_nothing_apart_lets_an_edit_survive_and_a_good_one_does_not():
    exercise = load_exercises()["rate_grid"]
    blind = dataclasses.replace(exercise, probes=lambda generator: [(1.0, 1.0, 3)])
    tried, alive = TOOL.survivors(blind, rank=1)
    assert 0 < len(alive) < tried
    assert any("high // low" in lines for _, lines in alive)
    assert not any("high // low" in lines for _, lines in TOOL.survivors(exercise, rank=1)[1])
