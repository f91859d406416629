"""A formula in text becomes an objective; none of it is run as code."""

from __future__ import annotations

import ast
import importlib
import operator
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from kdtutor.errors import KDTutorError, nearest
from kdtutor.objectives.logits import blend
from kdtutor.objectives.terms import Formula, Term

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def parse_objective(formula: str) -> Formula:
    """Make the objective of a formula such as `"0.1 * HardLabels() + 0.9 * SoftTargets(4)"`; run none of it as code.

    Every Term that exists may stand in it: those of this folder's files, and those that a program or notebook defines.
    """
    known = term_classes() | {"blend": blend}
    try:
        result = _value(ast.parse(formula.strip(), mode="eval").body, known)
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise KDTutorError(f"objective {_cut(formula)!r}: {_cut(str(error))}") from error
    if not isinstance(result, Formula):
        raise KDTutorError(f"objective {_cut(formula)!r} holds no term; there are: {', '.join(known)}")
    return result


def _value(node: ast.expr, known: Mapping[str, Callable]) -> Any:
    """Return what a part of a formula stands for: a term, a sum of them, or what a term is made with."""
    match node:
        case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
            return OPERATORS[type(sign)](_operand(left, known), _operand(right, known))
        case ast.UnaryOp(ast.USub(), negated):
            return -_operand(negated, known)
        case ast.Call(ast.Name(name), arguments, keywords):
            if name not in known:
                raise KDTutorError(nearest("term", name, known))
            names = [keyword.arg for keyword in keywords]
            if None in names or len({*names}) < len(names):
                raise KDTutorError(f"objective: {name}(…) takes each argument once, by its name")
            given = {keyword.arg: _value(keyword.value, known) for keyword in keywords}
            return known[name](*(_value(argument, known) for argument in arguments), **given)
        case ast.Dict(keys, values) if None not in keys:
            found = {_value(k, known): _value(v, known) for k, v in zip(keys, values, strict=True)}
            if len(found) < len(keys):
                raise KDTutorError(f"objective: {_cut(ast.unparse(node))} names a key twice")
            return found
        case ast.List(items):
            return [_value(item, known) for item in items]
        case ast.Constant(int() | float() | str() | None as constant):  # True and False are ints
            return constant
    raise KDTutorError(f"objective: {_cut(ast.unparse(node))!r} is no number, term or sum of them")


def _operand(node: ast.expr, known: Mapping[str, Callable]) -> Any:
    """Return a number or term. Texts and lists are settings of terms; multiplied, they would fill the memory."""
    result = _value(node, known)
    if isinstance(result, bool) or not isinstance(result, int | float | Formula):
        raise KDTutorError(f"objective: {_cut(ast.unparse(node))!r} is no number, term or sum of them")
    return result


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def term_classes() -> dict[str, type[Term]]:
    """Map names to kinds of terms. Of two with one name the package's own counts, or else the one defined last."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")

    found, waiting = [], [Term]
    while waiting:
        below = waiting.pop().__subclasses__()
        found += below
        waiting += below
    own = [kind for kind in found if kind.__module__.startswith(f"{__package__}.")]
    return {kind.__name__: kind for kind in [*own, *found, *own]}
