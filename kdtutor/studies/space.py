"""The space of a search: which fields of a recipe, and which numbers of its formula, may take which values.

    search:
      learning_rate: {low: 1e-4, high: 1e-2, log: true}       # a range; `points: 5` or `step: …` for a grid
      temperature: [1, 2, 4, 8]                               # choices
      alpha: {low: 0, high: 1}
      shape:                                                  # choices of several fields at once
        - {student: cnn, width: 64}
        - {student: small-bert, layers: 1, width: 64}

With `objective: "{alpha} * HardLabels() + (1 - {alpha}) * SoftTargets({temperature})"` in the same recipe, `alpha` and
`temperature` are the numbers that stand in braces there; every other name is a field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from kdtutor.errors import Check, KDTutorError, nearest

BRACES = re.compile(r"\{([A-Za-z_]\w*)\}")
RANGE = ("low", "high", "log", "step", "points")


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, evenly spread, or their logarithms if `log`. points: how many a grid has of them."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    points: int | None = None
    whole: bool = False

    def values(self, name: str) -> list:
        """List what a grid takes of it, both ends included."""
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return [self._kept(self.low + i * self.step) for i in range(count)]
        if not self.points:
            raise KDTutorError(
                f"search: a grid needs to know how many values of {name}: points: 5, or a step"
            )
        at = [i / max(1, self.points - 1) for i in range(self.points)]
        if self.log:
            found = [self.low * (self.high / self.low) ** t for t in at]
        else:
            found = [self.low + t * (self.high - self.low) for t in at]
        return [*dict.fromkeys(map(self._kept, found))]

    def _kept(self, value: float) -> float:
        return round(value) if self.whole else float(f"{value:.10g}")


@dataclass(frozen=True)
class Space:
    """What may be varied, by name: a Range or a list of choices.

    bundles: the fields that each choice of several at once stands for. in_formula: the names in braces.
    """

    dimensions: dict[str, Range | list]
    bundles: dict[str, dict[str, dict]]
    in_formula: frozenset[str]

    def grid(self) -> list[dict]:
        """List every point of the grid."""
        values = [d if isinstance(d, list) else d.values(name) for name, d in self.dimensions.items()]
        return [dict(zip(self.dimensions, point, strict=True)) for point in product(*values)]

    def fields(self, recipe: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe at a point of the space: fields set, bundles opened, and numbers put into the formula."""
        made = dict(recipe)
        for name, value in point.items():
            if name in self.bundles:
                made |= self.bundles[name][value]
            elif name not in self.in_formula:
                made[name] = value
        if self.in_formula:
            made["objective"] = BRACES.sub(lambda found: f"{point[found[1]]:.6g}", str(made["objective"]))
        return made


def read_space(
    given: object, recipe: Mapping[str, Any], checks: Mapping[str, Check], refused: Mapping[str, str]
) -> Space:
    """Read the `search:` part of a recipe.

    checks: the fields that may be searched, and what each may be. refused: the others, and why not. Raises KDTutorError
    if it is empty, or names what is no field, nor a number in braces of the objective; if a field stands there twice;
    or if a value is not what its field may be.
    """
    if not isinstance(given, dict) or not given:
        example = "search: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}"
        raise KDTutorError(f"the search space is empty: say what may vary, as in {example}")
    in_formula = _braces(recipe, given)
    if missing := sorted(in_formula - {*given}):
        raise KDTutorError(f"the objective has {{{missing[0]}}}, and search says nothing of it")
    dimensions: dict[str, Range | list] = {}
    bundles: dict[str, dict[str, dict]] = {}
    for name, what in given.items():
        name = str(name)
        if name in refused and name not in in_formula:
            raise KDTutorError(refused[name])
        if isinstance(what, list) and what and all(isinstance(choice, dict) for choice in what):
            bundles[name] = {_told(choice): _checked(choice, checks, refused) for choice in what}
            dimensions[name] = [*bundles[name]]
        elif name in in_formula:
            dimensions[name] = _dimension(name, what, None)
        elif name in checks:
            dimensions[name] = _dimension(name, what, checks[name])
        else:
            raise KDTutorError("search: " + nearest("field", name, [*in_formula, *checks]))
    fields = [f for bundle in bundles.values() for f in {key for choice in bundle.values() for key in choice}]
    fields += [name for name in dimensions if name not in bundles and name not in in_formula]
    if twice := sorted({f for f in fields if fields.count(f) > 1}):
        raise KDTutorError(f"search varies {twice[0]} twice")
    return Space(dimensions, bundles, in_formula)


def _braces(recipe: Mapping[str, Any], given: Mapping) -> frozenset[str]:
    """Return the names in braces of every formula that may be taken."""
    formulas = [str(recipe.get("objective", ""))]
    for name, what in given.items():
        for choice in what if isinstance(what, list) else ():
            if isinstance(choice, dict):
                formulas.append(str(choice.get("objective", "")))
            elif name == "objective":
                formulas.append(str(choice))
    return frozenset(name for formula in formulas for name in BRACES.findall(formula))


def _told(choice: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in choice.items())


def _checked(choice: Mapping, checks: Mapping[str, Check], refused: Mapping[str, str]) -> dict:
    for name, value in choice.items():
        if name in refused:
            raise KDTutorError(refused[name])
        if name not in checks:
            raise KDTutorError("search: " + nearest("field", name, checks))
        _value(name, value, checks[name])
    return dict(choice)


def _dimension(name: str, what: object, check: Check | None) -> Range | list:
    """Read a list of choices, or a range."""
    if isinstance(what, list):
        choices = [_value(name, value, check) for value in what]
        if len(set(map(repr, choices))) < max(1, len(choices)) or not choices:
            raise KDTutorError(f"search: {name} has no choice, or one twice: {what}")
        return choices
    if not isinstance(what, dict):
        raise KDTutorError(f"search: {name} needs a list of choices or {{low: …, high: …}}, not {what!r}")
    for key in what:
        if key not in RANGE:
            raise KDTutorError(f"search: {name}: " + nearest("part of a range", key, RANGE))
    if not {"low", "high"} <= {*what}:
        raise KDTutorError(f"search: the range of {name} needs low and high")
    low, high = (_value(name, what[end], check) for end in ("low", "high"))
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise KDTutorError(f"search: {name} has no numbers: give a list of choices")
    whole = check is not None and isinstance(low, int) and isinstance(high, int)
    log, points = what.get("log", False), what.get("points")
    step = None if what.get("step") is None else _value(name, what["step"], None)
    if not low < high or (log and low <= 0):
        raise KDTutorError(
            f"search: {name} must rise from low to high{', from above 0,' if log else ''} not from {low} to {high}"
        )
    if (step is not None and (step <= 0 or log)) or (points is not None and not _is_count(points)):
        raise KDTutorError(f"search: {name}: a step is above 0 and without log, and points are 2 or more")
    return Range(low, high, bool(log), step, points, whole)


def _is_count(points: object) -> bool:
    return isinstance(points, int) and not isinstance(points, bool) and points >= 2


def _value(name: str, value: Any, check: Check | None) -> Any:
    """Read a value as its field has it; a number of the formula as a float. YAML reads 1e-4 as a text."""
    if check is not None:
        # What may stand in the braces of a formula is checked when they are filled.
        return value if name == "objective" else check.from_text(name, str(value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise KDTutorError(f"search: {name} stands in the formula, so it takes numbers, not {value!r}")
    return number
