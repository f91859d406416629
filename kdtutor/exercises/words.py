"""How to say in words what something is, and what is always the same about a difference."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

POWERS = {1: "{}", 2: "{}²", -1: "1 / {}", -2: "1 / {}²", 0.5: "√{}", -0.5: "1 / √{}"}


@dataclass(frozen=True)
class Unlike:
    """What a learner returned that is like nothing we know: its description."""

    description: str


def describe(value: Any) -> str:
    """Say what something is: "a tensor of shape (8, 25)", "a NumPy array", "a number (float)"."""
    if isinstance(value, Unlike):
        return value.description
    if value is None or value is ...:
        return "None" if value is None else "..."
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, Number):
        return f"a plain number ({type(value).__name__})"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    names = {str: "a text", dict: "a dictionary"}
    if inspect.ismodule(value):
        return "a module"
    return names.get(type(value), f"something of the type {type(value).__name__}")


def in_words(error: BaseException) -> str:
    """Type and message on one line, without addresses."""
    try:
        message = str(error)
    except BaseException:  # a learner's own exception, whose __str__ fails in its turn
        message = "(its message cannot be shown)"
    message = re.sub(r" at 0x[0-9a-f]+", "", " ".join(message.split()))
    message = textwrap.shorten(message, 300, placeholder=" …")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" …")


def number(value: float) -> str:
    """Write a number as it is shown: whole ones in full, others with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def sentence(text: str) -> str:
    """Begin the text with a capital letter."""
    return text[:1].upper() + text[1:]


def wrapped(text: str) -> str:
    """Break lines so that they fit a narrow window."""
    return "\n".join(textwrap.fill(line, 100) for line in text.splitlines())


# --------------------------------------------------------------------------- what is the same about a difference


def quantities(names: Sequence[str], args: Sequence[Any]) -> dict[str, float]:
    """List the numbers that a probe is made of, by what they are called: plain arguments, sizes of tensors."""
    found = {}
    for name, value in zip(names, args, strict=False):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
        elif isinstance(value, Tensor):
            for axis, size in enumerate(value.shape):
                which = "last" if axis == value.dim() - 1 and axis else ("first", "second", "third")[axis % 3]
                found.setdefault(f"the size of {name}'s {which} axis", float(size))
        elif isinstance(value, (list, tuple)):
            found[f"the length of {name}"] = float(len(value))
            if all(isinstance(part, str) for part in value):
                found[f"the number of words in {name}"] = float(sum(len(part.split()) for part in value))
                found[f"the number of letters in {name}"] = float(sum(map(len, value)))
    return found


def factor_in_words(pairs: Sequence[tuple[Tensor, Tensor]], probes: Sequence[dict[str, float]]) -> str:
    """Say by which factor the learner's numbers differ from the right ones, if there is one in each probe.

    It may be a constant, or a power of something that the probes are made of, such as a temperature or a size.
    """
    factors = [_factor(mine, right) for mine, right in pairs]
    if not factors or None in factors or sum(mine.numel() for mine, _ in pairs) < 2:
        return ""
    signs = {factor > 0 for factor in factors}
    if len(signs) > 1:
        return ""
    sign = "" if signs == {True} else ", and their sign is changed"
    sizes = [abs(factor) for factor in factors]
    if all(_near(size, sizes[0]) for size in sizes):
        return _constant(sizes[0], sign)
    for name in probes[0] if len(probes) == len(sizes) else ():
        if not all(probe.get(name, 0) > 0 for probe in probes):
            continue
        for power, form in POWERS.items():
            rest = [size / probe[name] ** power for size, probe in zip(sizes, probes, strict=True)]
            if all(_near(each, rest[0]) for each in rest):
                times = "" if _near(rest[0], 1) else f"{rest[0]:.4g} · "
                return f"Your numbers are the right ones multiplied by {times}{form.format(name)}, always{sign}. "
    for above, below in itertools.permutations(probes[0], 2) if len(probes) == len(sizes) > 2 else ():
        pairs_of = [(probe.get(above, 0), probe.get(below, 0)) for probe in probes]
        if all(b > 0 and _near(size, a / b) for size, (a, b) in zip(sizes, pairs_of, strict=True)):
            return f"Your numbers are the right ones multiplied by {above} / {below}, always{sign}. "
    return ""


def where_right(wrong: Sequence[int], probes: Sequence[dict[str, float]]) -> str:
    """Say with which arguments the numbers are right and with which they are not, if these tell.

    wrong: the probes whose numbers differ. Told by the first plain argument that has another value in each probe.
    """
    right = [place for place in range(len(probes)) if place not in wrong]
    for name in probes[0] if right else ():
        values = [probe.get(name) for probe in probes]
        if None in values or " " in name or len(set(values)) < len(values):
            continue
        good, bad = (" and ".join(number(values[place]) for place in some) for some in (right, wrong))
        return f"With {name} = {good} your numbers are right, with {bad} they are not. "
    return ""


def _factor(mine: Tensor, right: Tensor) -> float | None:
    mine, right = mine.flatten(), right.flatten()
    if not (mine.isfinite() & right.isfinite()).all() or not right.any():
        return None
    factor = (mine @ right / (right @ right)).item()
    near = torch.isclose(
        mine, factor * right, rtol=1e-4, atol=2e-6 + 1e-4 * abs(factor) * right.abs().max().item()
    )
    return factor if near.all() and abs(factor) > 1e-6 else None


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 3e-4 * abs(b)


def _constant(size: float, sign: str) -> str:
    if _near(size, 1):
        return "Your numbers are the right ones with the sign changed. " if sign else ""
    much, times = (size, "large") if size > 1 else (1 / size, "small")
    return (
        f"Your numbers are always {much:.4g} times too {times}{sign}: what here is {much:.4g}? For example, "
    )


def missing_term(
    mine: Sequence[float], right: Sequence[float], probes: Sequence[dict[str, float]], names: dict[str, str]
) -> str:
    """Say what was counted too often or not at all: one or two products of the arguments, if these do it.

    names: product → what it is the size of, such as "vocabulary · width" → "one table of the vocabulary".
    """
    gaps = np.array(mine, dtype=float) - np.array(right, dtype=float)
    arguments = list(probes[0])
    products = [chosen for n in (1, 2, 3) for chosen in itertools.combinations_with_replacement(arguments, n)]
    sizes = np.array([[np.prod([probe[name] for name in chosen]) for chosen in products] for probe in probes])
    for count in (1, 2):
        for columns in itertools.combinations(range(len(products)), count):
            times = _whole_numbers(sizes[:, columns], gaps)
            if times is not None:
                parts = [_product(products[c], t, names) for c, t in zip(columns, times, strict=True) if t]
                how = "too large" if all(t > 0 for t in times) else "too small"
                mixed = min(times) < 0 < max(times)
                return (
                    f"Your number is {'off' if mixed else how} by {' and '.join(parts)}, whatever the sizes. "
                )
    return ""


def _whole_numbers(columns: np.ndarray, gaps: np.ndarray) -> list[int] | None:
    """Find the small whole numbers, or halves, with which these columns add up to the gaps in every probe."""
    count = columns.shape[1]
    try:
        found = np.linalg.solve(columns[:count], gaps[:count])
    except np.linalg.LinAlgError:
        return None
    times = [Fraction(float(value)).limit_denominator(2) for value in found if abs(value) < 1000]
    if len(times) < count or any(t == 0 or abs(t) > 16 for t in times):
        return None
    exact = columns @ np.array([float(t) for t in times])
    return times if np.array_equal(exact, gaps) else None


def _product(chosen: Sequence[str], times: Fraction, names: dict[str, str]) -> str:
    powers = {name: chosen.count(name) for name in dict.fromkeys(chosen)}
    text = " · ".join(f"{name}{('', '', '²', '³')[power]}" for name, power in powers.items())
    meaning = f" ({names[text]})" if text in names else ""
    if abs(times) == 1:
        return f"{text}{meaning}"
    return f"{abs(times)} · {text}{meaning.replace(')', f', {abs(times)} times)')}"
