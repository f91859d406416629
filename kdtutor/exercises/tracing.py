"""How far a wrong function and the solution have the same values: the first of the learner's that the solution lacks.

Both are run with every expression reporting its value. A value counts as the solution's if its numbers occur there, in
whatever order and shape, as they are or one step away (their logarithms, say). What leads to such a value is right.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.left_out import Noting
from kdtutor.exercises.running import portable, run
from kdtutor.exercises.slips import shown

AT_MOST = 20  # values of one expression that are kept, such as in a loop
SMALL = 16  # whole numbers up to this one are found everywhere, and tell nothing
FORMS = lambda x: x, np.negative, lambda x: 1 - x, np.exp, np.log, np.square, np.sqrt, np.reciprocal
# The values of each expression, in the order in which they were first computed.
Trace = dict[ast.AST, list[Any]]


class Traced:
    """Some functions that report the value of every expression in them."""

    def __init__(self, tree: ast.AST, scope: Mapping[str, Any], name: str) -> None:
        self.noting, self.name, self.seen = Noting(tree), name, {}
        self.scope = {**scope, "_note": self._note}
        exec(compile(self.noting.copied, "<noted>", "exec"), self.scope)

    def values(self, exercise: Exercise, probe: tuple) -> Trace:
        self.seen = {}
        run(exercise, self.scope[self.name], probe)
        return self.seen

    def _note(self, number: int, value: Any) -> Any:
        kept = self.seen.setdefault(self.noting.nodes[number], [])
        if len(kept) < AT_MOST:
            kept.append(portable(value))
        return value


def solution(exercise: Exercise) -> Traced | None:
    """Read the reference of an exercise, with what it calls in the files of exercises; None if it cannot be read."""
    name, scope, wanted, found = exercise.reference.__name__, {}, [exercise.reference], {}
    try:
        while wanted:
            function = wanted.pop()
            module, one = sys.modules[function.__module__], function.__name__
            if one not in found and module.__name__.startswith(__package__):
                found[one] = _functions(module)[one]
                scope = {**vars(module), **scope}
                called = [
                    vars(module).get(node.id) for node in ast.walk(found[one]) if isinstance(node, ast.Name)
                ]
                wanted += [other for other in called if isinstance(other, FunctionType)]
        return Traced(ast.Module([*found.values()], []), scope, name)
    except (OSError, SyntaxError, KeyError):
        return None


def _functions(module: ModuleType) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


# ------------------------------------------------------------------------------------------ values found again


class Table:
    """The values of one run, to be found again: a row of fractions by its numbers, all else as a whole."""

    def __init__(self, trace: Trace) -> None:
        telling = [numbers for values in trace.values() for v in values if tells(numbers := numbers_of(v))]
        self.pool = np.unique(np.concatenate([*filter(_are_fractions, telling), np.zeros(1)]))
        by_size = defaultdict(list)
        for numbers in telling:
            by_size[numbers.size].append(_features(numbers))
        self.features = {size: np.array(rows) for size, rows in by_size.items()}

    def has(self, value: Any) -> bool:
        """Tell whether the numbers of a value occur, in whatever order and shape, as they are or one step away."""
        numbers = numbers_of(value)
        if numbers.size > 2 and _are_fractions(numbers):
            with np.errstate(all="ignore"):
                return any(self._has_all(form(numbers)) for form in FORMS)
        rows = self.features.get(numbers.size)
        return rows is not None and bool(
            np.isclose(rows, _features(numbers), rtol=2e-4, atol=1e-6).all(1).any()
        )

    def _has_all(self, numbers: np.ndarray) -> bool:
        numbers = numbers[np.isfinite(numbers) & (numbers != 0) & (numbers != 1)]
        above = np.searchsorted(self.pool, numbers).clip(1, len(self.pool) - 1) if len(self.pool) > 1 else 0
        near = np.minimum(abs(self.pool[above] - numbers), abs(self.pool[above - 1] - numbers))
        return numbers.size > 2 and bool((near <= 2e-5 * abs(numbers) + 1e-7).all())


def tells(value: Any) -> bool:
    """Tell whether a value is found again by more than chance: no small whole number, none that is all the same."""
    numbers = numbers_of(value)
    if numbers.size == 1:
        return not (float(numbers[0]).is_integer() and abs(numbers[0]) <= SMALL)
    return numbers.size > 0 and bool((numbers != numbers[0]).any())


def numbers_of(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool) or not isinstance(value, (Tensor, int, float, list, tuple)):
        return np.zeros(0)
    if isinstance(value, Tensor):
        return np.zeros(0) if value.is_complex() else value.detach().flatten().double().numpy()
    parts = value if isinstance(value, (list, tuple)) else [value]
    plain = all(type(part) in (int, float) and abs(part) < 1e300 for part in parts)
    return np.array(parts, dtype=float) if plain else np.zeros(0)


def _are_fractions(numbers: np.ndarray) -> bool:
    return bool((numbers % 1 != 0).any())


def _features(numbers: np.ndarray) -> tuple[float, float, float]:
    """Compute what stays the same in another order: of what is finite the mean, the mean square, the largest."""
    numbers = np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0)
    return numbers.mean(), np.square(numbers).mean() ** 0.5, numbers.max()


# ------------------------------------------------------------------------------------------ the first that differs


class Comparison:
    """A learner's values beside those of the solution, one trace of each for every probe.

    fine: the expressions whose numbers the solution has, and all that leads to them. suspects: the others, in the order
    in which they are computed. tables: where the solution's values are found again, for each probe.
    """

    def __init__(self, tree: ast.Module, mine: Sequence[Trace], right: Sequence[Trace]) -> None:
        self.tables, self._missing = [Table(trace) for trace in right], _missing(mine, right)
        telling = [node for node in mine[0] if all(tells(*trace.get(node, [0])[:1]) for trace in mine)]
        self.good = {node for node in telling if _among(node, mine, self.tables)}
        self.fine = _leading_to(tree, self.good, set(telling))
        beside = _inside_a_chain(tree) | _after_a_step(tree, self.good)
        self.suspects = [node for node in telling if node not in self.fine | beside and _is_a_step(node)]

    def in_words(self, where: Callable[[ast.AST], str]) -> str:
        """Say what comes first that the solution lacks, and what it has that is lacking here; where: in which line."""
        if not self.suspects:
            text = "All that your code computes on the way occurs in a solution, too."
            question = "Is a step left out, or the last one wrong?"
            return f"{text} {question} {self._missing}".strip() if self.good else ""
        first = self.suspects[0]
        inputs = dict.fromkeys(f"`{shown(node)}`" for node in _outermost(first, self.good))
        had = f"; of {' and '.join(inputs)} it has them" if inputs else ""
        text = (
            f"Step by step beside a solution: `{shown(first)}`, in {where(first)}, is the first of your values whose "
            f"numbers do not occur there{had}. If that is another way to the same, look at what follows."
        )
        return f"{text} {self._missing}".strip()


def _missing(mine: Sequence[Trace], right: Sequence[Trace]) -> str:
    """Write a sentence on the first variable of the solution whose numbers occur nowhere in the learner's run."""
    found = defaultdict(list)
    for trace, table in zip(right, map(Table, mine), strict=True):
        for node, values in trace.items():
            if isinstance(node, ast.Name) and len(node.id) > 1 and tells(values[0]):
                found[node.id].append(any(table.has(value) for value in values))
    name = next((name for name, here in found.items() if not any(here)), "")
    return f"What the solution calls `{name}` has no counterpart in yours." if name else ""


def _leading_to(tree: ast.Module, good: set[ast.AST], telling: set[ast.AST]) -> set[ast.AST]:
    """List all expressions that the right values are made of, those of earlier lines and of helpers among them."""
    sources = [
        (stored.id, node.iter if isinstance(node, ast.For) else node.value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.For))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for stored in ast.walk(target)
        if isinstance(stored, ast.Name)
    ]
    sources += [(node.name, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    fine, waiting = set(), [*good]
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name) and node not in fine:
                earlier = [
                    source for name, source in sources if name == node.id and source.lineno < node.lineno
                ]
                # a source whose own numbers are not right is that of another branch
                waiting += [source for source in earlier if source in good or source not in telling]
            fine.add(node)
    return fine


def _inside_a_chain(tree: ast.Module) -> set[ast.AST]:
    """Find products in a product, and sums in a sum: in which order one multiplies or adds up is nobody's mistake."""
    return {
        part
        for node in ast.walk(tree)
        for kinds in ((ast.Mult, ast.Div), (ast.Add, ast.Sub))
        if isinstance(node, ast.BinOp) and isinstance(node.op, kinds)
        for part in (node.left, node.right)
        if isinstance(part, ast.BinOp) and isinstance(part.op, kinds)
    }


def _after_a_step(tree: ast.Module, good: set[ast.AST]) -> set[ast.AST]:
    """Find what a model says that was right when asked before: no wrong line, it has learned wrongly since."""
    given = {each.arg for each in tree.body[0].args.args} if ".step()" in ast.unparse(tree) else set()

    def asked(node: ast.AST) -> set[str]:
        calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
        return given & {func.id for func in calls if isinstance(func, ast.Name)}

    before = set().union(*map(asked, good))
    return {node for node in ast.walk(tree) if asked(node) & before} if before else set()


def _is_a_step(node: ast.AST) -> bool:
    return not isinstance(node, ast.Name) and getattr(node, "attr", "") not in ("shape", "T", "mT")


def _outermost(node: ast.AST, good: set[ast.AST]) -> list[ast.AST]:
    """List the right values that an expression is made of."""
    return [
        found
        for child in ast.iter_child_nodes(node)
        for found in ([child] if child in good else _outermost(child, good))
    ]


def _among(node: ast.AST, traces: Sequence[Trace], tables: Sequence[Table]) -> bool:
    # the first time: what comes later in a loop may differ because of what was done at the end of it
    return all(table.has(trace[node][0]) for trace, table in zip(traces, tables, strict=True))
