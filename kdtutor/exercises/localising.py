"""Which line of a learner's function is the wrong one, or which part: with the right value there, all is right.

The solution's values are those that its expressions had in its own run; one of the same kind and shape is put in the
place of what the learner's code computes.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtutor.exercises.edits import Edit, slots
from kdtutor.exercises.slips import shown
from kdtutor.exercises.tracing import Traced, numbers_of
from kdtutor.exercises.words import number

ONE_LINE = "the wrong line"
ORACLE = "_right_value"  # what stands in the learner's code in place of an expression


def values_of(solution: Traced, given: Sequence[Any]) -> dict[int, Any]:
    """List what the solution's expressions were when they were computed last, each value once, and none that was given.

    given: the arguments, and the right result, in whose place nothing would be left to be done.
    """
    found, known = {}, {_key(value) for value in given}
    for place, node in enumerate(solution.noting.nodes):
        value = solution.seen.get(node, [None])[-1]
        if _is_value(value) and (key := _key(value)) not in known:
            known.add(key)
            found[place] = value
    return found


def _is_value(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, list, tuple, dict)) and not isinstance(value, bool)


def _key(value: Any) -> tuple:
    if isinstance(value, Tensor):
        return value.dtype, value.shape, numbers_of(value).tobytes()
    return type(value), repr(value)


def replaced(
    tree: ast.Module, fine: Collection[ast.AST], seen: dict[ast.AST, Any], right: dict[int, Any]
) -> Iterator[Edit]:
    """Put a value of the solution in the place of what a line computes, unless that is fine.

    seen: the value of each expression in the learner's own run.
    """
    for parent, field, index, node in slots(tree):
        if not (isinstance(parent, (ast.Assign, ast.AugAssign)) and field == "value"):
            continue
        if node in fine or node not in seen:
            continue
        target = ast.unparse(parent.targets[0] if isinstance(parent, ast.Assign) else parent.target)
        for new, value in _others(seen[node], right):
            hint = f"There `{target}` {_said(seen[node], value)} The lines around it fit together."
            yield Edit(7, parent, field, index, new, ONE_LINE, hint, node)


def replaced_within(
    tree: ast.Module, suspects: Sequence[ast.AST], seen: dict[ast.AST, Any], right: dict[int, Any]
) -> Iterator[Edit]:
    """Do the same for parts of lines that may be wrong, in the order in which they are computed."""
    places = {node: (parent, field, index) for parent, field, index, node in slots(tree)}
    for node in suspects:
        for new, value in _others(seen[node], right) if node in places else ():
            hint = f"There `{shown(node)}` {_said(seen[node], value)} What is done with it fits."
            yield Edit(8, *places[node], new, ONE_LINE, hint, node)


def _others(mine: Any, right: dict[int, Any]) -> Iterator[tuple[ast.Call, Any]]:
    """Return the solution's values that may stand in place of one, and the call that gives them."""
    for place, value in right.items():
        if _alike(mine, value) and _key(mine) != _key(value):
            yield ast.Call(ast.Name(ORACLE, ast.Load()), [ast.Constant(place)], []), value


def _alike(mine: Any, right: Any) -> bool:
    if isinstance(mine, Tensor) or isinstance(right, Tensor):
        both = isinstance(mine, Tensor) and isinstance(right, Tensor)
        return both and mine.shape == right.shape and _kind(mine) == _kind(right)
    return type(mine) is type(right) and (not hasattr(mine, "__len__") or len(mine) == len(right))


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.dtype == torch.bool


def _said(mine: Any, right: Any) -> str:
    """Say what is seen of a wrong value: itself where it is a number, and how much of it is wrong where it is many."""
    if isinstance(mine, Tensor) and mine.dim():
        wrong = ~torch.isclose(mine.double(), right.double(), equal_nan=True)
        return f"is wrong in {int(wrong.sum())} of its {wrong.numel()} entries."
    if isinstance(mine, (int, float, Tensor)):
        return f"is {number(float(mine))}, and should be {number(float(right))}."
    return "is not yet what it should be."
