"""The generator of hostile cases: it finds what it is there to find, and what it runs of this package is sound."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
fuzz = pytest.importorskip("fuzz")


def test_of_120_cases_none_ends_badly_and_the_seed_decides_them():
    counts, bad = fuzz.fuzz(120, seed=20)
    assert not bad
    assert {kind: sum(found.values()) for kind, found in counts.items()} == dict.fromkeys(fuzz.KINDS, 20)
    # Both sides of the table are asked; a folder of sound files is never refused.
    assert all(found["good"] and (found["refused"] or kind == "folders") for kind, found in counts.items())
    assert fuzz.fuzz(30, seed=20, kinds=["formulas"]) == fuzz.fuzz(30, seed=20, kinds=["formulas"])


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    "run, meant, ended",
    [
        (lambda: 3, 3, "good"),
        (lambda: 3.0, 3, "good"),
        (lambda: 4, 3, "wrong"),
        (lambda: True, 1, "wrong"),
        (raising(fuzz.KDTutorError("no")), fuzz.ANY, "refused"),
        (raising(fuzz.KDTutorError("no")), ("or refused", 3), "refused"),
        (lambda: 4, ("or refused", 3), "wrong"),
        (raising(fuzz.KDTutorError("no")), 3, "wrong"),
        (raising(fuzz.KDTutorError("")), fuzz.ANY, "wrong"),
        (raising(fuzz.KDTutorError("x" * 9999)), fuzz.ANY, "wrong"),
        (raising(ValueError("no")), fuzz.ANY, "raw"),
        (raising(SystemExit(2)), fuzz.ANY, "raw"),
        (raising(MemoryError()), fuzz.ANY, "raw"),
    ],
)
def test_an_end_is_called_by_its_name(run, meant, ended):
    assert fuzz.outcome(run, meant)[0] == ended


def test_what_does_not_end_is_a_hang(monkeypatch):
    def compute():
        while True:
            pass

    monkeypatch.setattr(fuzz, "PATIENCE", 0.2)
    for call in (lambda: time.sleep(30), compute):
        assert fuzz.outcome(call, fuzz.ANY)[0] == "hang"
