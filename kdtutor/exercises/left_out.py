"""What a learner's code may have left out: around every expression, what can be done with a value like its own.

Of which kind a value is, a tensor or a number or a list, is seen by running the function once.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Iterator
from functools import cache
from numbers import Number
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from kdtutor.exercises.edits import Edit, slots, variables
from kdtutor.exercises.slips import shown

# What may be missing around a value X, by what it is called: for every kind of value, and for a tensor with axes.
AROUND = {
    "thin": {"the removal of an axis of size 1": "X.squeeze()"},
    "float": {
        "a sign": "-X",
        "its complement to 1": "1 - X",
        "an absolute value": "abs(X)",
        "a square": "X ** 2",
        "a root": "X ** 0.5",
        "a logarithm": "_torch.as_tensor(X).log(); _torch.as_tensor(X).log10(); X.clamp_min(1e-9).log()",
        "an exponential": "_torch.as_tensor(X).exp()",
        "a reciprocal": "1 / X",
        "a factor of 2": "2 * X; X / 2",
        "a bound at 0": "max(X, 0); X.clamp(min=0); X.nan_to_num(0, 0, 0)",
        "rounding": "round(X); _math.ceil(X); X.round(); X.ceil()",
        "a step of one": "X + 1; X - 1",
    },
    "tensor": {
        "a detach, which stops the gradient,": "X.detach()",
        "a copy": "X.clone()",
        "another type": "X.item(); X.tolist(); float(X); X.bool(); X.long(); X.float()",
    },
    "axes": {
        "a mean": "X.mean(); X.mean(-1); X.mean(0); X.mean(1); X.mean(-1, keepdim=True); X.mean(0, keepdim=True)",
        "a sum": "X.sum(); X.sum(-1); X.sum(0); X.sum(1); X.sum(-1, keepdim=True)",
        "a softmax": "X.softmax(-1); X.log_softmax(-1)",
        "an axis of size 1": "X[..., None]; X[None]; X[:, None]",
        "a maximum": "X.amax(-1); X.argmax(-1); X.amax(0); X.max()",
        "a transposition": "X.mT; X.transpose(0, 1); X.transpose(1, 2)",
        "a sort": "X.sort().values; X.argsort(); X.sort(descending=True).values",
        "a change of direction": "X.flip(0); X.flip(-1)",
        "a normalisation": "X / X.norm(dim=-1, keepdim=True); X / X.sum(-1, keepdim=True); X / X.sum(); X - X.mean(0); "
        "X / X.mean(); X - X.mean(-1, keepdim=True)",
        "a cut": "X[1:]; X[:-1]; X[:, 1:]; X[:, :-1]; X[:, 0]; X[0]; X[-1]; X[:, -1]; X[1]",
    },
    "bool": {"a negation": "~X; not X", "another type": "X.float(); X.long(); X.bool(); int(X); bool(X)"},
    "int": {
        "a step of one": "X + 1; X - 1",
        "another type": "X.float(); X.bool(); float(X); _torch.tensor(X)",
        "a bound": "max(X, 1); max(X, 0); X.clamp(min=0); X.clamp(min=1)",
        "a square": "X ** 2",
        "a factor of 2": "2 * X; X // 2",
    },
    "number": {"another type": "float(X); int(X); _torch.tensor(X)"},
    "list": {
        "a sort": "sorted(X); sorted(X, reverse=True)",
        "a change of direction": "X[::-1]",
        "a cut": "X[1:]; X[:-1]; X[0]; X[1]; X[-1]",
        "another type": "tuple(X); list(X); _torch.tensor(X); _torch.stack(list(X)); dict(X); set(X)",
        "a sum": "sum(X); len(X); sum(X) / len(X)",
        "a copy": "list(X)",
    },
    "dict": {"another type": "list(X.values()); list(X)", "a copy": "dict(X)"},
    "other": {"a copy": "_copy.deepcopy(X)", "a list": "list(X); tuple(X)"},
}  # fmt: skip
RARE = (
    "a maximum",
    "a sort",
    "a change of direction",
    "a transposition",
    "a reciprocal",
    "an exponential",
    "a copy",
)
# Done to a value that stays the same.
UNSEEN = ("a detach, which stops the gradient,", "a copy", "another type")
# What may be missing between a number or a tensor X and another variable V, by V's kind.
WITH = {
    "number": {
        "a factor": "X * V; X * V ** 2; X * V ** 0.5; X * (1 - V)",
        "a divisor": "X / V; X / V ** 2; X / V ** 0.5; X / (1 - V)",
        "a summand": "X + V; X - V",
    },
    "float tensor": {
        "a factor": "X * V; X * V.mean()", "a divisor": "X / V; X / V.sum()", "a summand": "X + V; X - V",
    },
    "bool tensor": {
        "a mask": "X * V; X[V]; X & V; X & ~V; X[~V]", "a share": "X * V.float().mean()", "a divisor": "X / V.sum()",
    },
    "int tensor": {"a mask": "X * V; X * V[..., None]", "a choice": "X[V]", "a divisor": "X / V.sum()"},
    "axes": {
        "a divisor": "X / len(V); X / V.shape[-1]; X / V.shape[-1] ** 0.5; X / V.numel()",
        "a factor": "X * len(V); X * V.shape[-1]",
    },
    "list": {"a divisor": "X / len(V)", "a factor": "X * len(V)"},
}  # fmt: skip


# Ranks among the edits: where a value of the solution's comes of it, and where not.
LIKELY, UNLIKELY = 1, 5

# What may have to be done before a line with a model, an optimiser or a loss V; and first of all with an argument.
STEPS = {
    "other": "V.eval(); V.train(); V.zero_grad(); V.step(); V.requires_grad_(False)",
    "scalar": "V.backward()",
}
FIRST = {"tensor": "V = V.clone(); V = V.detach()", "list": "V = list(V)", "dict": "V = dict(V)"}


def left_out(
    tree: ast.Module, seen: dict[ast.AST | str, Any], is_expected: Callable[[Any], bool] = lambda value: False
) -> Iterator[Edit]:
    """Add to an expression what may be missing there, the outer ones first.

    seen: the value of each expression, and by its name that of each variable. is_expected: whether a value is the
    solution's; an edit that makes such a one of another is a likely one.
    """
    places, depth = [], {}  # how far inside of its line an expression is
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for parent, field, index, node in slots(function):
            if isinstance(node, ast.stmt) and index is not None:
                yield from _steps(parent, field, index, node, seen, variables(function))
            elif isinstance(node, ast.expr):
                depth[node] = depth.get(parent, -1) + (node in seen)
                if node in seen:
                    places.append((parent, field, index, node, variables(function)))
    for parent, field, index, node, names in sorted(places, key=lambda place: depth[place[3]]):
        has = is_expected(seen[node])
        for what, form, name, new in _additions(seen[node], seen, names):
            rank = LIKELY if not has and is_expected(new) else UNLIKELY
            filled_in = filled(form, node, name)
            hint = f"`{shown(node)}`: something{f' to do with `{name}`' if name else ''} is left out there."
            yield Edit(rank, parent, field, index, filled_in, f"{what} left out", hint, node)


def _additions(value: Any, seen: dict, names: list[str]) -> Iterator[tuple[str, str, str, Any]]:
    """List what can be done with a value: what it would be called, its form, the variable in it, what comes of it."""
    kinds, found = kinds_of(value), []
    some = [(what, forms, "") for kind in AROUND if kind in kinds for what, forms in AROUND[kind].items()]
    for name in names if kinds & {"tensor", "number"} else ():
        of_it = kinds_of(seen.get(name)) & set(WITH)
        some += [(what, forms, name) for kind in of_it for what, forms in WITH[kind].items()]
    for what, forms, name in sorted(some, key=lambda each: each[0] in RARE):
        for form in forms.split("; "):
            new = _computed(form, value, seen.get(name))
            # one that cannot be computed, or comes to the same as another form, needs no trial
            if new is not None and not any(_equal(new, other) for other in found):
                found += [new] if what not in UNSEEN else []
                yield what, form, name, new


def _computed(form: str, x: Any, v: Any) -> Any:
    try:
        return eval(_code(form), {"X": x, "V": v, "_torch": torch, "_math": math, "_copy": copy})
    except Exception:  # of whatever kind: it is not for this value
        return None


@cache
def _code(form: str) -> CodeType:
    return compile(form, "<form>", "eval")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and not isinstance(a, (Tensor, list, tuple, dict)) and a == b


def _steps(
    parent: ast.AST, field: str, index: int, line: ast.stmt, seen: dict, names: list[str]
) -> Iterator[Edit]:
    """Add a line before this one."""
    body, name_of = getattr(parent, field), "a step left out"
    for name in names:
        kinds = kinds_of(seen.get(name))
        forms = [STEPS[kind] for kind in kinds & set(STEPS)]
        if isinstance(parent, ast.FunctionDef) and not index:
            forms += [FIRST[kind] for kind in kinds & set(FIRST)]
        for form in "; ".join(forms).split("; ") if forms else ():
            longer = [*body[:index], *ast.parse(form.replace("V", name)).body, *body[index:]]
            hint = f"Before that, something has to happen to `{name}`."
            yield Edit(4, parent, field, None, longer, name_of, hint, line)


class _Filling(ast.NodeTransformer):
    def __init__(self, x: ast.expr, name: str) -> None:
        self.x, self.name = x, name

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.x if node.id == "X" else ast.Name(self.name, ast.Load()) if node.id == "V" else node


def filled(form: str, x: ast.expr, name: str = "") -> ast.expr:
    """Fill a form such as "X / V" with an expression and a variable."""
    return _Filling(x, name).visit(ast.parse(form, mode="eval").body)


# ------------------------------------------------------------------------------------------ what is seen of values


class Noting(ast.NodeTransformer):
    """Every expression of a copy of the code reports its value; `nodes` are those of the code itself."""

    def __init__(self, tree: ast.AST) -> None:
        self.nodes: list[ast.AST] = []
        self.copied = copy.deepcopy(tree)
        for mine, theirs in zip(ast.walk(tree), ast.walk(self.copied), strict=True):
            theirs.twin = mine
        self.copied = ast.fix_missing_locations(self.visit(self.copied))

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.JoinedStr, ast.arguments)):
            return node
        self.generic_visit(node)
        noted = isinstance(node, (ast.Name, ast.Call, ast.BinOp, ast.Subscript, ast.Attribute, ast.Compare, ast.BoolOp,
                                  ast.UnaryOp, ast.List, ast.Tuple, ast.ListComp, ast.Dict, ast.DictComp))  # fmt: skip
        if not noted or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return node
        self.nodes.append(node.twin)
        return ast.Call(ast.Name("_note", ast.Load()), [ast.Constant(len(self.nodes) - 1), node], [])


def kinds_of(value: Any) -> set[str]:
    """Tell of which kinds a value is: "tensor", "axes", "float", …"""
    if isinstance(value, Tensor):
        kind = "float" if value.is_floating_point() else "bool" if value.dtype == torch.bool else "int"
        thin = {"thin"} if 1 in value.shape else set()
        return {"tensor", kind, f"{kind} tensor", "axes" if value.dim() else "scalar"} | thin
    if isinstance(value, bool):
        return {"bool"}
    if value is None:
        return set()
    if isinstance(value, Number):
        return {"number", "float" if isinstance(value, float) else "int"}
    if isinstance(value, (list, tuple)):
        return {"list"}
    return {"dict"} if isinstance(value, dict) else set() if callable(value) else {"other"}
