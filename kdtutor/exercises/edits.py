"""Small edits of a learner's code: each one slip undone, with what it would be called.

An edit puts one piece of syntax in the place of another: an axis, a sign, two arguments the other way round, a line
elsewhere. Which of them makes the function right is tried out by `repairing`; what is said of it names the place and
the kind of slip, and not what should stand there.
"""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from kdtutor.exercises.slips import KINDS, called, shown, slips

EVERYWHERE = 3  # how likely it is that the same slip is made in several places
STOPS = (
    "detach",
    "detach_",
    "data",
    "item",
    "tolist",
    "float",
    "tensor",
    "no_grad",
    "inference_mode",
    "numpy",
    "clone",
)
AT_MOST = 8  # places, and names of variables


@dataclass(frozen=True)
class Edit:
    """One piece put in the place of another, and with it all of `more`. rank: how likely it is; the likeliest is 0."""

    rank: int
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST | list[ast.stmt]
    name: str
    hint: str
    old: ast.AST
    more: tuple[Edit, ...] = ()

    def is_about_the_graph(self) -> bool:
        """Tell whether it puts in or takes out what stops a gradient."""
        held = getattr(self.parent, self.field)
        old, new = (
            [word for piece in (pieces if isinstance(pieces, list) else [pieces]) for word in _stops(piece)]
            for pieces in (held if self.index is None else held[self.index], self.new)
        )
        return old != new

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the edit in the code; afterwards it is as it was."""
        held = getattr(self.parent, self.field)
        before = held if self.index is None else held[self.index]
        self._put(self.new)
        try:
            with ExitStack() as others:
                for edit in self.more:
                    others.enter_context(edit.made())
                yield
        finally:
            self._put(before)

    def _put(self, piece: ast.AST | list[ast.stmt]) -> None:
        if self.index is None:
            setattr(self.parent, self.field, piece)
        else:
            getattr(self.parent, self.field)[self.index] = piece


def edits(tree: ast.Module) -> list[Edit]:
    """List all small edits of some functions, the likeliest first."""
    found = []
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        names = variables(function)
        some = [
            Edit(KINDS[kind][0], parent, field, index, new, kind, _question(kind, node, part), node)
            for parent, field, index, node in slots(function)
            if _is_read(node)
            for kind, new, part in slips(node, names)
        ]
        found += [*some, *_statements(function), *_exchanged(some, names)]
    return sorted([*found, *_everywhere(found)], key=lambda edit: edit.rank)


def _stops(piece: ast.AST) -> list[str]:
    """List the names in a piece of code that stop a gradient."""
    names = (getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(piece))
    return [name for name in names if name in STOPS]


def _question(kind: str, node: ast.AST, part: str) -> str:
    return f"`{shown(node)}`: {KINDS[kind][1].replace('{part}', part)}"


def _is_read(node: ast.AST) -> bool:
    return isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", None), (ast.Load, type(None)))


def _everywhere(found: list[Edit]) -> Iterator[Edit]:
    """Make the same edit in all places where it can be made, if these are several."""
    groups = defaultdict(list)
    for edit in found:
        if not isinstance(edit.old, ast.expr) or edit.more:
            continue
        if edit.name == "the wrong function":
            groups[edit.name, called(edit.old), called(edit.new)].append(edit)
        elif edit.rank < EVERYWHERE:
            # what an edit does, whatever it is done to
            old, new = ast.unparse(edit.old), ast.unparse(edit.new)
            groups[edit.name, old.replace(new, "…"), new.replace(old, "…")].append(edit)
    for first, *others in groups.values():
        if 0 < len(others) < AT_MOST:
            hint = f"{first.hint} And so wherever it stands."
            yield replace(first, rank=EVERYWHERE, hint=hint, more=tuple(others))


def _exchanged(found: list[Edit], names: list[str]) -> Iterator[Edit]:
    """Exchange two variables wherever they are read, and within one line."""
    by_line = defaultdict(list)
    for edit in found:
        if edit.name == "the wrong variable":
            by_line[edit.old.lineno].append(edit)
    everywhere = list(itertools.chain(*by_line.values()))
    for some in (everywhere, *by_line.values()):
        for pair in itertools.combinations(names, 2):
            both = [edit for edit in some if {edit.old.id, edit.new.id} == set(pair)]
            if len({edit.old.id for edit in both}) == 2:
                hint = f"`{pair[0]}` and `{pair[1]}`: which of the two belongs where?"
                name = "two variables exchanged"
                yield replace(both[0], rank=2, name=name, hint=hint, more=tuple(both[1:]))


def _statements(function: ast.FunctionDef) -> Iterator[Edit]:
    """Leave lines out, exchange them, move them into a loop or out of it."""
    for holder in ast.walk(function):
        if isinstance(holder, (ast.FunctionDef, ast.For, ast.With, ast.If)):
            for place, line in enumerate(holder.body):
                yield from _of_a_line(holder, place, line)


def _of_a_line(holder: ast.AST, place: int, line: ast.stmt) -> Iterator[Edit]:
    before, after = holder.body[:place], holder.body[place + 1 :]

    def edit(new: list[ast.stmt], name: str, hint: str, old: ast.AST = line, rank: int = 1) -> Edit:
        return Edit(rank, holder, "body", None, new, name, hint, old)

    if (before or after) and not isinstance(line, ast.Return):
        yield edit([*before, *after], "a line too many", "What is this line for?")
    if after:
        hint = "Should it happen before the next line, or after it?"
        yield edit([*before, after[0], line, *after[1:]], "two lines in the wrong order", hint)
    if isinstance(line, ast.For):
        loop, often = partial(ast.For, line.target, line.iter), "How often should this line run?"
        if len(line.body) > 1:
            short = [*before, loop(line.body[:-1], []), line.body[-1], *after]
            yield edit(short, "in the loop", often, line.body[-1])
        if after:
            longer = [*before, loop([*line.body, after[0]], []), *after[1:]]
            yield edit(longer, "after the loop", often, after[0])
        if before:
            longer = [*before[:-1], loop([before[-1], *line.body], []), *after]
            yield edit(longer, "before the loop", often, before[-1])
    elif isinstance(line, (ast.If, ast.With)):
        name = "a condition too many" if isinstance(line, ast.If) else "a with too many"
        yield edit([*before, *line.body, *after], name, "Does what is below it depend on that?")
    elif isinstance(line, ast.Assign):
        quiet = ast.parse("with _torch.no_grad(): pass").body[0]
        quiet.body = [line]
        hint = "Who learns from this line?"
        yield edit([*before, quiet, *after], "gradients where none should be", hint, rank=4)


def variables(function: ast.FunctionDef) -> list[str]:
    """List the arguments of a function and the variables that it sets, the first of them."""
    stored = (n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return list(dict.fromkeys([*(each.arg for each in function.args.args), *stored]))[: AT_MOST + 4]


def slots(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """List every place of a piece of code: its parent, the field, the index there, and the piece.

    What stands in a while loop is left alone: it might never end.
    """
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(child, (ast.expr, ast.stmt, ast.keyword, ast.comprehension)):
                yield node, field, index, child
                if not isinstance(child, (ast.While, ast.JoinedStr)):
                    yield from slots(child)
