"""What a learner's code may have left out: around every expression, what can be done with a value like its own.

Of which kind a value is, a tensor or a number or a list, is seen by running the function once.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from kdtutor.exercises.edits import Edit, slots, variables
from kdtutor.exercises.slips import shown

# What may be missing around a value X, by what it is called: for every kind of value, and for a tensor with axes.
AROUND = {
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
    "int tensor": {"a mask": "X * V; X[V]; X * V[..., None]", "a divisor": "X / V.sum()"},
    "axes": {
        "a divisor": "X / len(V); X / V.shape[-1]; X / V.shape[-1] ** 0.5; X / V.numel()",
        "a factor": "X * len(V); X * V.shape[-1]",
    },
    "list": {"a divisor": "X / len(V)", "a factor": "X * len(V)"},
}  # fmt: skip


# What may have to be done before a line with a model or an optimiser V, or with a tensor.
STEPS = {
    "other": "V.eval(); V.train(); V.zero_grad(); V.step(); V.requires_grad_(False)",
    "tensor": "V.backward(); V = V.clone(); V = V.detach()",
    "list": "V = list(V)",
    "dict": "V = dict(V)",
}


def left_out(tree: ast.Module, seen: dict[ast.AST | str, set[str]]) -> Iterator[Edit]:
    """Edits that add to an expression what may be missing there, the likeliest first.

    seen: of which kinds the value of each expression was, and by its name that of each variable.
    """
    places, depth = [], {}  # how far inside of its line an expression is
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for parent, field, index, node in slots(function):
            if isinstance(node, ast.stmt) and index is not None:
                yield from _steps(parent, field, index, node, seen, variables(function))
            if isinstance(node, ast.expr) and node in seen and not isinstance(node, ast.Constant):
                depth[node] = depth.get(parent, -1) + 1
                places.append((parent, field, index, node, variables(function)))
            elif isinstance(node, ast.expr):
                depth[node] = depth.get(parent, -1)
    for parent, field, index, node, names in sorted(places, key=lambda place: depth[place[3]]):
        hint = f"`{shown(node)}`: something is left out there."
        for what, new in _additions(node, seen, names):
            yield Edit(5, parent, field, index, new, f"{what} left out", hint, node)


def _additions(node: ast.expr, seen: dict, names: list[str]) -> Iterator[tuple[str, ast.expr]]:
    for kind in ("float", "tensor", "axes", "bool", "int", "number", "list", "dict", "other"):
        for what, forms in AROUND[kind].items() if kind in seen[node] else ():
            for form in forms.split("; "):
                yield what, filled(form, node)
    if not seen[node] & {"tensor", "number"}:
        return
    for name, (kind, parts) in itertools.product(names, WITH.items()):
        if kind in seen.get(name, ()):
            for what, forms in parts.items():
                for form in forms.split("; "):
                    yield what, filled(form, node, name)


def _steps(
    parent: ast.AST, field: str, index: int, line: ast.stmt, seen: dict, names: list[str]
) -> Iterator[Edit]:
    """A line more, before this one, and for a loop's last after it."""
    for name, (kind, forms) in itertools.product(names, STEPS.items()):
        for form in forms.split("; ") if kind in seen.get(name, ()) else ():
            step = ast.parse(form.replace("V", name)).body
            body = getattr(parent, field)
            hint = f"Before that, something has to happen to `{name}`."
            yield Edit(
                4, parent, field, None, [*body[:index], *step, *body[index:]], "a step left out", hint, line
            )


class _Filling(ast.NodeTransformer):
    def __init__(self, x: ast.expr, name: str) -> None:
        self.x, self.name = x, name

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.x if node.id == "X" else ast.Name(self.name, ast.Load()) if node.id == "V" else node


def filled(form: str, x: ast.expr, name: str = "") -> ast.expr:
    """A form such as "X / V" with an expression and a variable in it."""
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
    """Of which kinds a value is: "tensor", "axes", "float", …"""
    if isinstance(value, Tensor):
        kind = "float" if value.is_floating_point() else "bool" if value.dtype == torch.bool else "int"
        return {"tensor", kind, f"{kind} tensor"} | ({"axes"} if value.dim() else set())
    if isinstance(value, bool):
        return {"bool"}
    if isinstance(value, Number):
        return {"number", "float" if isinstance(value, float) else "int"}
    if isinstance(value, (list, tuple)):
        return {"list"}
    return {"dict"} if isinstance(value, dict) else set() if callable(value) else {"other"}
