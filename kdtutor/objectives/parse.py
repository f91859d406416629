"""A formula in text becomes an objective; none of it is run as code."""

from __future__ import annotations

import ast
import operator

from kdtutor.errors import KDTutorError, nearest

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def parse_objective(formula: str):
    """`"0.1 * HardLabels() + 0.9 * SoftTargets(4)"` → the objective. Reads the formula; runs none of it as code."""
    from kdtutor import objectives

    known = {
        name: value
        for name, value in vars(objectives).items()
        if isinstance(value, type) and issubclass(value, objectives.Term) and value is not objectives.Term
    } | {"blend": objectives.blend}

    def value(node):
        match node:
            case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](value(left), value(right))
            case ast.Call(ast.Name(name), arguments, keywords):
                if name not in known:
                    raise KDTutorError(nearest("term", name, known))
                return known[name](*map(value, arguments), **{k.arg: value(k.value) for k in keywords})
            case ast.Dict(keys, values) if None not in keys:
                return dict(zip(map(value, keys), map(value, values), strict=True))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.Constant(int() | float() as constant) if not isinstance(constant, bool):
                return constant
        raise KDTutorError(f"objective: {ast.unparse(node)!r} is no number, term or sum of them")

    try:
        result = value(ast.parse(formula.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise KDTutorError(f"objective {formula!r}: {error}") from error
    if not isinstance(result, objectives.Formula):
        raise KDTutorError(f"objective {formula!r} holds no term; there are: {', '.join(known)}")
    return result
