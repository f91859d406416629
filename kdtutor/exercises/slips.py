"""The slips of one expression, each with what undoes it: another axis, the arguments the other way round, …"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

# Each kind of slip: how likely it is, the likeliest being 0, and what to ask of the code in which it is made.
KINDS = {
    "the wrong axis": (0, "along which axis should it run?"),
    "arguments exchanged": (0, "which of its arguments comes first?"),
    "the wrong reduction": (0, "what is added up there, and by what is it divided?"),
    "the two sides exchanged": (0, "which of the two comes first?"),
    "the boundary case": (0, "what of two that are equal?"),
    "the comparison turned round": (0, "is it not the opposite?"),
    "and for or": (0, "must all of it be true, or is one enough?"),
    "the sign": (0, "is it not the opposite?"),
    "turned round": (0, "is it not the opposite?"),
    "yes for no": (0, "is that right there?"),
    "the wrong part": (0, "which part is meant?"),
    "the wrong function": (1, "is it `{part}` that is asked for?"),
    "a setting left out": (1, "what does `{part}` do if nothing else is said?"),
    "a function too many": (1, "does `{part}` belong here?"),
    "one too many or too few": (1, "with which number does it begin, and with which does it end?"),
    "the wrong operation": (1, "is it the right operation?"),
    "something too much": (1, "does `{part}` belong there?"),
    "a part where the whole should be": (1, "which part is meant?"),
    "the condition turned round": (1, "which of the two applies when?"),
    "two steps in the wrong order": (1, "should `{part}` come before or after?"),
    "the order": (1, "which of these comes first?"),
    "values and places confused": (1, "is it `{part}` that is asked for?"),
    "a condition too many": (2, "is `{part}` needed?"),
    "an axis left out": (2, "along which axis should it run?"),
    "a setting too many": (2, "is `{part}` as it should be?"),
    "the brackets": (2, "what belongs together there? Set the brackets."),
    "the wrong number": (2, "is that the right number?"),
    "an argument too many": (3, "has it an argument too many?"),
    "the wrong variable": (3, "is that the one that is meant here?"),
}
CLOSED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
TURNED = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add, ast.Div), ast.Mult: (ast.Div, ast.Add, ast.Pow, ast.MatMult),
    ast.Div: (ast.Mult, ast.FloorDiv, ast.Sub), ast.FloorDiv: (ast.Div, ast.Mod), ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
NOT_COMMUTATIVE = ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult
# Functions, methods and attributes that are taken for each other.
FAMILIES = (
    ("sum", "mean", "amax", "prod"), ("max", "min", "sum"), ("amax", "amin"), ("argmax", "argmin"), ("any", "all"),
    ("softmax", "log_softmax", "sigmoid"), ("log_softmax", "logsumexp"), ("exp", "log", "sqrt", "exp2"),
    ("log", "log10", "log2", "log1p"), ("floor", "ceil", "round", "trunc"), ("train", "eval"), ("std", "var"),
    ("zeros_like", "ones_like"), ("zeros", "ones"), ("append", "extend"), ("mse_loss", "l1_loss"), ("int", "round"),
    ("cumsum", "cumprod"), ("tril", "triu"), ("values", "indices", "keys", "items"), ("cat", "stack"),
    ("mean", "median"), ("mean", "amin", "min"), ("named_parameters", "parameters"), ("tanh", "sigmoid"),
)  # fmt: skip
ALONG = (
    "softmax", "log_softmax", "logsumexp", "sum", "mean", "max", "min", "amax", "amin", "argmax", "argmin", "argsort",
    "sort", "topk", "std", "var", "norm", "cumsum", "cumprod", "prod", "median", "any", "all", "flatten", "normalize",
    "cosine_similarity", "chunk", "split",
)  # fmt: skip
ALONG_AS_SAID = "cat", "stack", "squeeze", "unsqueeze", "gather", "transpose"  # whose axis cannot be left out
# Settings that are forgotten.
FORGOTTEN = {
    "kl_div": ("reduction='batchmean'", "reduction='sum'", "log_target=True", "reduction='none'"),
    "cross_entropy": ("reduction='sum'", "ignore_index=-100", "ignore_index=0", "reduction='none'"),
    "mse_loss": ("reduction='sum'", "reduction='none'"), "sort": ("descending=True",), "argsort": ("descending=True",),
    "sorted": ("reverse=True",), "topk": ("largest=False",), "std": ("correction=0",), "var": ("correction=0",),
    "triu": ("diagonal=1", "diagonal=-1"), "tril": ("diagonal=-1", "diagonal=1"), "zip": ("strict=True",),
    "sum": ("keepdim=True",), "mean": ("keepdim=True",), "amax": ("keepdim=True",), "norm": ("keepdim=True",),
}  # fmt: skip
REDUCTIONS = "mean", "sum", "none", "batchmean"
MODULES = "torch", "F", "math", "np", "nn", "nn.functional", "torch.nn.functional", "copy", "random"
BOUNDS = (1, 1), (0, 1), (1, 0), (0, -1), (-1, 0), (-1, -1)  # to be added to where something begins, and ends

Slip = tuple[str, ast.expr, str]  # its kind, what undoes it, and the part of the code that is asked about


def slips(node: ast.expr, names: list[str]) -> Iterator[Slip]:
    """List the slips that this expression, not counting those inside of it, may be; names: other variables."""
    if isinstance(node, ast.Call):
        yield from _of_a_call(node)
    elif isinstance(node, ast.BinOp):
        yield from _of_an_operation(node)
    elif isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.IfExp)):
        yield from _of_a_condition(node)
    elif isinstance(node, ast.Constant):
        yield from _of_a_constant(node.value)
    elif isinstance(node, ast.Subscript):
        yield from _of_a_part(node)
    elif isinstance(node, (ast.Tuple, ast.List)) and 2 <= len(node.elts) <= 4:
        for order in itertools.islice(itertools.permutations(node.elts), 1, None):
            yield "the order", type(node)(list(order), ast.Load()), ""
    elif isinstance(node, ast.Name):
        for name in names:
            if name != node.id:
                yield "the wrong variable", ast.Name(name, ast.Load()), ""
    elif isinstance(node, ast.Attribute) and node.attr in ("values", "indices", "T", "mT"):
        yield "a function too many", node.value, node.attr
        for other in _relatives(node.attr):
            yield "values and places confused", ast.Attribute(node.value, other, ast.Load()), node.attr
        if isinstance(node.value, ast.Call):  # max(…).values, where the sum should be, which has no values
            for other in _relatives(called(node.value)):
                yield "the wrong function", _renamed(node.value, other), called(node.value)


def _of_a_call(node: ast.Call) -> Iterator[Slip]:
    name, args = called(node), node.args
    for other in _relatives(name):
        yield "the wrong function", _renamed(node, other), name
    yield from _of_an_axis(node, name)
    for a, b in itertools.combinations(range(len(args)), 2):
        turned = list(args)
        turned[a], turned[b] = turned[b], turned[a]
        yield "arguments exchanged", ast.Call(node.func, turned, node.keywords), ""
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES:
        yield "a function too many", node.func.value, name
        if args:
            func = ast.Attribute(args[0], name, ast.Load())
            turned = ast.Call(func, [node.func.value, *args[1:]], node.keywords)
            yield "arguments exchanged", turned, ""
    if args:
        yield "a function too many", args[0], name
    yield from _of_two_calls(node)
    for place in range(len(args)):
        fewer = [*args[:place], *args[place + 1 :]]
        yield "an argument too many", ast.Call(node.func, fewer, node.keywords), ""
    if name in ("range", "arange") and args:
        start, stop = (ast.Constant(0), args[0]) if len(args) == 1 else args[:2]
        for low, high in BOUNDS:
            bounds = [_plus(start, low), _plus(stop, high), *args[2:]]
            yield "one too many or too few", ast.Call(node.func, bounds, []), ""
    yield from _of_settings(node, name)


def _of_two_calls(node: ast.Call) -> Iterator[Slip]:
    """Do in the other order what is done to a value: x.mean().log() and x.log().mean()."""
    inner = _subject(node)
    if isinstance(inner, ast.Call) and (innermost := _subject(inner)):
        yield "two steps in the wrong order", _of(inner, _of(node, innermost)), called(node)
    elif isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Pow):  # (x ** 2).mean()
        yield (
            "two steps in the wrong order",
            ast.BinOp(_of(node, inner.left), ast.Pow(), inner.right),
            called(node),
        )


def _subject(node: ast.Call) -> ast.expr | None:
    """Tell what a call is about: x in x.f(…) and in F.f(x, …)."""
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES:
        return node.func.value
    return node.args[0] if node.args and not isinstance(node.args[0], ast.Starred) else None


def _of(node: ast.Call, subject: ast.expr) -> ast.Call:
    """Make the same call about something else."""
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES:
        return ast.Call(ast.Attribute(subject, node.func.attr, ast.Load()), node.args, node.keywords)
    return ast.Call(node.func, [subject, *node.args[1:]], node.keywords)


def _of_settings(node: ast.Call, name: str) -> Iterator[Slip]:
    for text in FORGOTTEN.get(name, ()):
        keyword = ast.parse(f"f({text})", mode="eval").body.keywords[0]
        if keyword.arg not in {given.arg for given in node.keywords}:
            yield "a setting left out", _with(node, keyword), name
    for keyword in node.keywords:
        others = [each for each in node.keywords if each is not keyword]
        yield "a setting too many", ast.Call(node.func, node.args, others), keyword.arg or "**"
        for value in REDUCTIONS if keyword.arg == "reduction" else ():
            new = [*others, ast.keyword("reduction", ast.Constant(value))]
            yield "the wrong reduction", ast.Call(node.func, node.args, new), ""


def _of_an_axis(node: ast.Call, name: str) -> Iterator[Slip]:
    """Try other axes in a call that runs along one, and one where none is said."""
    given = next((each for each in node.keywords if each.arg in ("dim", "axis")), None)
    places = [i for i, arg in enumerate(node.args) if _axis(arg) is not None]
    if name not in (*ALONG, *ALONG_AS_SAID):
        return
    for axis in (-1, 0, 1, 2, -2):
        said = ast.keyword("dim", ast.Constant(axis))
        if given and _axis(given.value) != axis:
            others = [each for each in node.keywords if each is not given]
            yield "the wrong axis", ast.Call(node.func, node.args, [*others, said]), ""
        elif not given and places and _axis(node.args[places[-1]]) != axis:
            args = [ast.Constant(axis) if i == places[-1] else arg for i, arg in enumerate(node.args)]
            yield "the wrong axis", ast.Call(node.func, args, node.keywords), ""
        if not given and name in ALONG and (not places or name in ("chunk", "split")):
            yield "an axis left out", _with(node, said), ""


def _of_an_operation(node: ast.BinOp) -> Iterator[Slip]:
    left, right = node.left, node.right
    for other in OPERATORS.get(type(node.op), ()):
        yield "the wrong operation", ast.BinOp(left, other(), right), ""
    if isinstance(node.op, NOT_COMMUTATIVE):
        yield "the two sides exchanged", ast.BinOp(right, node.op, left), ""
    yield "something too much", left, shown(right)
    yield "something too much", right, shown(left)
    if isinstance(node.op, ast.Pow) and isinstance(left, ast.Call) and (subject := _subject(left)):
        new = _of(left, ast.BinOp(subject, ast.Pow(), right))
        yield "two steps in the wrong order", new, called(left)
    if isinstance(left, ast.BinOp):
        inner = ast.BinOp(left.right, node.op, right)
        yield "the brackets", ast.BinOp(left.left, left.op, inner), ""
    if isinstance(right, ast.BinOp):
        inner = ast.BinOp(left, node.op, right.left)
        yield "the brackets", ast.BinOp(inner, right.op, right.right), ""


def _of_a_condition(node: ast.Compare | ast.BoolOp | ast.UnaryOp | ast.IfExp) -> Iterator[Slip]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind, table in (("the boundary case", CLOSED), ("the comparison turned round", TURNED)):
            if other := table.get(type(node.ops[0])):
                yield kind, ast.Compare(node.left, [other()], node.comparators), ""
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and for or", ast.BoolOp(other, node.values), ""
        for value in node.values:
            left = [each for each in node.values if each is not value]
            yield (
                "a condition too many",
                left[0] if len(left) == 1 else ast.BoolOp(node.op, left),
                shown(value),
            )
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield "the sign" if isinstance(node.op, ast.USub) else "turned round", node.operand, ""
    elif isinstance(node, ast.IfExp):
        yield "a condition too many", node.body, shown(node.test)
        yield "a condition too many", node.orelse, shown(node.test)
        yield "the condition turned round", ast.IfExp(node.test, node.orelse, node.body), ""


def _of_a_constant(value: object) -> Iterator[Slip]:
    if isinstance(value, bool):
        yield "yes for no", ast.Constant(not value), ""
    elif isinstance(value, (int, float)):
        near = value + 1, value - 1, -value, 2 * value, value / 2, 1 - value, 10 * value, value / 10
        for other in dict.fromkeys((*near, 0, 1, 2, -1, 0.5, -100)):
            if other != value:
                whole = isinstance(value, int) and float(other).is_integer()
                yield "the wrong number", ast.Constant(int(other) if whole else other), ""


def _of_a_part(node: ast.Subscript) -> Iterator[Slip]:
    yield "a part where the whole should be", node.value, ""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for place, part in enumerate(parts):
        for new in _slices(part) if isinstance(part, ast.Slice) else ():
            yield "the wrong part", _part(node.value, [*parts[:place], new, *parts[place + 1 :]]), ""
    if len(parts) == 1 and not isinstance(parts[0], ast.Slice):
        yield "the wrong axis", _part(node.value, [ast.Slice(), *parts]), ""
    if len(parts) == 2:
        yield "the wrong axis", _part(node.value, parts[::-1]), ""


def _slices(part: ast.Slice) -> Iterator[ast.expr]:
    """Try other slices: the other end, all, one more or less at either end, counted from behind."""
    yield ast.Slice(part.upper, part.lower, part.step)
    yield ast.Slice(None, None, part.step)
    for low, high in BOUNDS:
        lower = _plus(part.lower, low) if part.lower else ast.Constant(1) if low == 1 else None
        upper = _plus(part.upper, high) if part.upper else ast.Constant(-1) if high == -1 else None
        yield ast.Slice(lower, upper, part.step)
    if bound := part.upper or part.lower:
        yield ast.Slice(ast.UnaryOp(ast.USub(), bound), None, part.step)
        yield ast.Slice(None, ast.UnaryOp(ast.USub(), bound), part.step)
    yield ast.Slice(ast.Constant(1), None) if part.upper else ast.Slice(None, ast.Constant(-1))


# --------------------------------------------------------------------------------------------------- syntax


def shown(node: ast.AST) -> str:
    """Write a piece of code on one short line."""
    code = " ".join(ast.unparse(node).split())
    return code if len(code) <= 70 else f"{code[:67]} …"


def called(node: ast.expr) -> str:
    """Name what is called, without where it is from; empty if nothing is."""
    func = getattr(node, "func", None)
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def _relatives(name: str) -> list[str]:
    others = (other for family in FAMILIES if name in family for other in family if other != name)
    return list(dict.fromkeys(others))


def _renamed(node: ast.Call, name: str) -> ast.Call:
    home = node.func.value if isinstance(node.func, ast.Attribute) else None
    func = ast.Attribute(home, name, ast.Load()) if home else ast.Name(name, ast.Load())
    return ast.Call(func, node.args, node.keywords)


def _with(node: ast.Call, keyword: ast.keyword) -> ast.Call:
    return ast.Call(node.func, node.args, [*node.keywords, keyword])


def _axis(node: ast.expr) -> int | tuple | None:
    """Find the axis, or the axes, that an argument may be: a whole number that stands there."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
    return value if type(value) in (int, tuple) else None


def _plus(node: ast.expr, step: int) -> ast.expr:
    return ast.BinOp(node, ast.Add(), ast.Constant(step)) if step else node


def _part(value: ast.expr, parts: list[ast.expr]) -> ast.Subscript:
    index = parts[0] if len(parts) == 1 else ast.Tuple(parts, ast.Load())
    return ast.Subscript(value, index, ast.Load())
