"""Edit the notebooks' solutions, slip by slip, and print what the checker still takes for right.

    .venv/bin/python tools/surviving_edits.py 5.3 14      an exercise, all exercises of a notebook; none: all

Each line printed is the same thing written otherwise, or a wrong answer that would be accepted: then an exercise lacks
a probe that tells the two apart. Edits whose code is the same again, such as another name of the same axis, are many.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from kdtutor.exercises import load_exercises, sandbox
from kdtutor.exercises.comparing import same
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.edits import edits
from kdtutor.exercises.running import Run, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "exercises"))
from notebook_exercises import SECTIONS, solution

SEEDS, SECONDS = (1, 2), 2.0  # of the probes; of processor time for one edited solution


def main() -> None:
    """Print the surviving edits of the exercises that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "numbers", nargs="*", metavar="NUMBER", help="such as 5.3, or 5 for all of notebook 05"
    )
    parser.add_argument(
        "--rank", type=int, default=2, help="edits up to this one, the likeliest is 0 (default: 2)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, _stop)
    for exercise in load_exercises().values():
        wanted = {exercise.number, exercise.number.partition(".")[0]} & set(options.numbers)
        if isinstance(exercise, Exercise) and (wanted or not options.numbers):
            tried, alive = survivors(exercise, options.rank)
            print(f"{exercise.number} {exercise.name}: {tried} edits, {len(alive)} survive", flush=True)
            print("".join(f"    {name}\n{lines}" for name, lines in alive), end="", flush=True)


def survivors(exercise: Exercise, rank: int) -> tuple[int, list[tuple[str, str]]]:
    """Count the edits of a solution that run, and list those that pass: the kind of slip, and its lines."""
    _, _, folded, imports = SECTIONS[exercise.number]
    tree = ast.parse(solution(folded))
    before, tried, alive = ast.unparse(tree), 0, []
    probes = [probe for seed in SEEDS for probe in exercise.probes(torch.Generator().manual_seed(seed))]
    right = [run(exercise, exercise.reference, probe) for probe in probes]
    for name, code in _edited(tree, rank):
        if code == before:
            continue
        scope: dict = {}
        try:
            exec(imports + code, scope)
        except Exception:  # such as an import that was edited
            continue
        tried += 1
        if _passes(exercise, scope[exercise.name], probes, right):
            alive.append((name, _changed_lines(before, code)))
    return tried, alive


def _edited(tree: ast.Module, rank: int) -> Iterator[tuple[str, str]]:
    seen = set()
    for edit in edits(tree):
        if edit.rank > rank:
            break
        try:
            with edit.made():
                code = ast.unparse(ast.fix_missing_locations(tree))
                compile(code, "<edited>", "exec")
        except (SyntaxError, ValueError, TypeError, AttributeError):
            continue
        if code not in seen:
            seen.add(code)
            yield edit.name, code


def _passes(exercise: Exercise, function, probes: list[tuple], right: list[Run]) -> bool:
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        for probe, expected in zip(probes, right, strict=True):
            mine = run(exercise, function, probe)
            if mine.failure or not mine.changed <= expected.changed or not same(mine.seen, expected.seen):
                return False
        return True
    except sandbox.OutOfTime:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _changed_lines(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "".join(
        f"        {line[0]} {line[1:].strip()}\n" for line in lines if line[:2] not in ("--", "++", "@@")
    )


def _stop(*_: object) -> None:
    raise sandbox.OutOfTime


if __name__ == "__main__":
    main()
