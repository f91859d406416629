"""Which one slip, undone in the learner's own code, makes a wrong function right.

Whatever the bank of an exercise knows, many mistakes are slips of one place: an axis, a sign, an argument too few.
Small edits of the function's source are tried until one is right on all probes and on fresh ones; its place and its
kind are named. This happens in a child of the kernel, and only where there can be one.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import linecache
import math
import signal
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from kdtutor.exercises import sandbox
from kdtutor.exercises.comparing import RESULT, same
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.edits import Edit, edits
from kdtutor.exercises.left_out import LIKELY, left_out
from kdtutor.exercises.localising import ONE_LINE, ORACLE, replaced, replaced_within, values_of
from kdtutor.exercises.running import Run, run
from kdtutor.exercises.tracing import Comparison, Traced, solution

# Seconds of processor time: for edits, for single lines and parts of them, and for all, whatever a function does.
SECONDS, FURTHER, MOST = 0.6, 0.2, 1.2
WAIT = 60.0  # seconds that may pass meanwhile, on a busy machine


@dataclass(frozen=True)
class Repair:
    """What one edit undoes: its name, where it is ("line 3, `x = y`"), and a hint.

    Without a name it is none, and the hint says where to look.
    """

    name: str = ""
    where: str = ""
    hint: str = ""


def repair(
    exercise: Exercise, answer: Callable, probes: Sequence[tuple], mine: Sequence[Run], right: Sequence[Run]
) -> Repair | None:
    """Find the likeliest single edit with which the function is right; None if there is no source to edit."""
    if not sandbox.can_fork() or not (source := _source(answer)):
        return None
    values_right = all(
        RESULT in one.seen and same({RESULT: one.seen[RESULT]}, {RESULT: other.seen.get(RESULT)})
        for one, other in zip(mine, right, strict=True)
    )
    # those first on which the function is wrong: few edits come further than that
    order = sorted(range(len(probes)), key=lambda place: same(mine[place].seen, right[place].seen))
    search = _Search(exercise, answer, source, [(probes[i], right[i]) for i in order], values_right)
    return sandbox.run(search.first, WAIT).value


@dataclass
class _Search:
    exercise: Exercise
    answer: types.FunctionType
    source: str
    probes: list[tuple[tuple, Run]]
    values_right: bool  # and only gradients are wrong
    tree: ast.Module = field(init=False)
    scope: dict[str, Any] = field(init=False)  # what the function can see
    fresh: list[tuple[tuple, Run]] = field(default_factory=list)
    solution: Traced | None = field(init=False)
    with_oracle: bool = False  # whether the function just tried asks for the solution's values
    oracles: dict[int, dict[int, Any]] = field(default_factory=dict)  # by the probes' ids

    def first(self) -> Repair:
        """Find the first edit with which the function is right on all probes and on fresh ones; else where to look."""
        signal.signal(signal.SIGVTALRM, _stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST)
        warnings.simplefilter("ignore")
        self.tree, self.scope = _parsed(self.answer, self.source)
        seen = self._values()
        if self.values_right:  # who exchanges student and teacher may do the same by chance
            slips = itertools.chain(edits(self.tree), left_out(self.tree, seen))
            return self._among(filter(Edit.is_about_the_graph, slips), SECONDS) or Repair()
        both = self._beside_the_solution()
        found = self._among(self._slips(seen, both), SECONDS)
        return found or self._wrong_line(seen, both) if both else found or Repair()

    def _beside_the_solution(self) -> Comparison | None:
        self.solution = solution(self.exercise)
        if not self.solution:
            return None
        mine, some = Traced(self.tree, self.scope, self.answer.__name__), self.probes[:2]
        traces = [
            [traced.values(self.exercise, probe) for probe, _ in some] for traced in (mine, self.solution)
        ]
        return Comparison(self.tree, *traces)

    def _slips(self, seen: dict[ast.AST | str, Any], both: Comparison | None) -> Iterator[Edit]:
        """List all slips, the likeliest first; of what may be left out, as many are tried beforehand as time allows."""
        every = left_out(self.tree, seen, both.tables[0].has if both else lambda value: False)
        stop = time.thread_time() + FURTHER / 2
        early = list(itertools.takewhile(lambda _: time.thread_time() < stop, every))
        likely = [edit for edit in early if edit.rank == LIKELY]
        yield from sorted([*edits(self.tree), *likely], key=lambda edit: edit.rank)
        yield from (edit for edit in early if edit.rank != LIKELY)
        yield from every

    def _wrong_line(self, seen: dict[ast.AST | str, Any], both: Comparison) -> Repair:
        """Find the wrong line, or the wrong part of one, or where to look first."""
        right = self._oracle(*self.probes[0])
        lines = itertools.chain(
            replaced(self.tree, both.fine, seen, right),
            replaced_within(self.tree, both.suspects, seen, right),
        )
        found = self._among(lines, FURTHER)
        return found or Repair(hint=both.in_words(lambda node: _where(self.answer, node)))

    def _oracle(self, probe: tuple, right: Run) -> dict[int, Any]:
        """Return the solution's values on a probe."""
        if id(probe) not in self.oracles:
            self.solution.values(self.exercise, probe)
            self.oracles[id(probe)] = values_of(self.solution, [*probe, right.returned])
        return self.oracles[id(probe)]

    def _among(self, candidates: Iterable[Edit], seconds: float) -> Repair | None:
        """Find the first of some edits that does it."""
        stop = time.thread_time() + seconds
        for edit in candidates:
            if time.thread_time() > stop:
                return None
            function, self.with_oracle = self._edited(edit), edit.name == ONE_LINE
            if not function:
                continue
            if self._is_right(function, self.probes) and self._is_right(function, self._more()):
                return Repair(edit.name, _where(self.answer, edit.old), edit.hint)
        return None

    def _edited(self, edit: Edit) -> Callable | None:
        try:
            with edit.made():
                _located(edit)
                code = compile(self.tree, "<edited>", "exec")
        except (SyntaxError, ValueError, TypeError, RecursionError):
            return None
        exec(code, self.scope)
        return self.scope[self.answer.__name__]

    def _is_right(self, function: Callable, probes: Sequence[tuple[tuple, Run]]) -> bool:
        for probe, right in probes:
            if self.with_oracle:
                values = self._oracle(probe, right)
                self.scope[ORACLE] = lambda place, values=values: copy.deepcopy(values.get(place))
            if not run(self.exercise, function, probe).is_as(right):
                return False
        return True

    def _more(self) -> list[tuple[tuple, Run]]:
        """Make further probes, and what is right there."""
        if not self.fresh:
            probes = self.exercise.probes(torch.Generator().manual_seed(20))
            self.fresh = [(probe, run(self.exercise, self.exercise.reference, probe)) for probe in probes]
        return self.fresh

    def _values(self) -> dict[ast.AST | str, Any]:
        """Collect the value of each expression and variable, on the first probe on which the function comes to it."""
        traced, seen = Traced(self.tree, self.scope, self.answer.__name__), {}
        for probe, _ in self.probes:
            for node, values in traced.values(self.exercise, probe).items():
                if node not in seen:
                    seen[node] = values[-1]
                    if isinstance(node, ast.Name):
                        seen[node.id] = seen[node]
        return seen


def _located(edit: Edit) -> None:
    """Give the new pieces the places of the old ones."""
    for each in (edit, *edit.more):
        for piece in each.new if isinstance(each.new, list) else [each.new]:
            if not hasattr(piece, "lineno"):
                ast.copy_location(piece, each.old)
            ast.fix_missing_locations(piece)


def _stop(*_: Any) -> NoReturn:
    raise sandbox.OutOfTime


# ---------------------------------------------------------------------------------------------- the source


def _source(answer: Any) -> str:
    """Read the text of a function; empty if it is none that was written with def."""
    if not isinstance(answer, types.FunctionType) or answer.__name__ == "<lambda>":
        return ""
    if not sandbox.is_the_learners(answer.__code__.co_filename):
        return ""
    try:
        return textwrap.dedent(inspect.getsource(answer))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return ""


def _parsed(answer: types.FunctionType, source: str) -> tuple[ast.Module, dict[str, Any]]:
    """Parse a function and the learner's own that it calls, lines counted as in their cells, and collect all names
    that it can see."""
    tree = _syntax(answer, source)
    helpers = [one for name in answer.__code__.co_names if _source(one := answer.__globals__.get(name))]
    for helper in helpers:
        if helper is not answer and helper.__name__ in answer.__code__.co_names:
            tree.body += _syntax(helper, _source(helper)).body
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
    cells = zip(answer.__code__.co_freevars, answer.__closure__ or (), strict=True)
    seen = {name: cell.cell_contents for name, cell in cells}
    return tree, {**answer.__globals__, **seen, "_torch": torch, "_copy": copy, "_math": math}


def _syntax(function: types.FunctionType, source: str) -> ast.Module:
    tree = ast.parse(source)
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    tree.body[0].name = function.__name__
    for node in ast.walk(tree):
        node.file = function.__code__.co_filename
    return tree


def _where(answer: types.FunctionType, piece: ast.AST) -> str:
    line = getattr(piece, "lineno", 0)
    text = linecache.getline(getattr(piece, "file", answer.__code__.co_filename), line).strip()
    return f"line {line}, `{text}`" if text else f"line {line}"
