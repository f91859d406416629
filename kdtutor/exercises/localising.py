"""Which line of a learner's function is the wrong one: with the right value there, all that follows is right.

The solution's values are those that its variables had in its own run; one of the same kind and shape is put in the
place of what the learner's line computes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.edits import Edit, slots
from kdtutor.exercises.running import portable, run
from kdtutor.exercises.words import number

ONE_LINE = "the wrong line"
ORACLE = "_right_value"  # what stands in the learner's code in place of an expression
FILES = __file__.rpartition("/")[0]


def values_of(exercise: Exercise, probe: tuple) -> dict[str, Any]:
    """What the variables of the solution are when it returns, those of its helpers with it, but not its result."""
    found, returned = {}, []

    def watch(frame: Any, event: str, value: Any) -> None:
        if event == "return" and frame.f_code.co_filename.startswith(FILES):
            inside = frame.f_code.co_name
            kept = {name: portable(each) for name, each in frame.f_locals.items() if _is_value(each)}
            found.update({f"{inside}.{name}": each for name, each in kept.items()})
            if inside == getattr(exercise.reference, "__name__", ""):
                returned.append(value)
            elif _is_value(value):
                found[f"{inside}()"] = portable(value)

    sys.setprofile(watch)
    try:
        run(exercise, exercise.reference, probe)
    finally:
        sys.setprofile(None)
    given = [*probe, *returned]
    return {name: each for name, each in found.items() if not any(_equal(each, one) for one in given)}


def _is_value(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, list, tuple, dict)) and not isinstance(value, bool)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b.detach())
    return type(a) is type(b) and not isinstance(a, Tensor) and repr(a) == repr(b)


def replaced(tree: ast.Module, seen: dict[ast.AST, Any], right: dict[str, Any]) -> Iterator[Edit]:
    """Edits that put a value of the solution in the place of what a line computes, the last line's at last.

    seen: the value of each expression in the learner's own run.
    """
    for parent, field, index, node in slots(tree):
        if not (isinstance(parent, (ast.Assign, ast.AugAssign)) and field == "value") or node not in seen:
            continue
        target = ast.unparse(parent.targets[0] if isinstance(parent, ast.Assign) else parent.target)
        for name, value in right.items():
            if _alike(seen[node], value) and not _equal(seen[node], value):
                new = ast.Call(ast.Name(ORACLE, ast.Load()), [ast.Constant(name)], [])
                hint = f"There `{target}` {_said(seen[node], value)} The lines around it fit together."
                yield Edit(7, parent, field, index, new, ONE_LINE, hint, node)


def _alike(mine: Any, right: Any) -> bool:
    if isinstance(mine, Tensor) or isinstance(right, Tensor):
        return isinstance(mine, Tensor) and isinstance(right, Tensor) and mine.shape == right.shape
    return type(mine) is type(right) and (not hasattr(mine, "__len__") or len(mine) == len(right))


def _said(mine: Any, right: Any) -> str:
    """What is seen of a wrong value: itself where it is a number, and how much of it is wrong where it is many."""
    if isinstance(mine, Tensor) and mine.dim():
        wrong = ~torch.isclose(mine.double(), right.double(), equal_nan=True)
        return f"is wrong in {int(wrong.sum())} of its {wrong.numel()} entries."
    if isinstance(mine, (int, float, Tensor)):
        return f"is {number(float(mine))}, and should be {number(float(right))}."
    return "is not yet what it should be."
