"""The errors that kdtutor raises on purpose, and the checks that raise them: each message names the culprit."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import SequenceMatcher, get_close_matches
from numbers import Real
from reprlib import Repr
from typing import Any, NoReturn, cast

LISTED = 100  # names that a sentence lists at most


class KDTutorError(Exception):
    """Base class of every error that kdtutor raises on purpose."""


def nearest(kind: str, name: object, options: Iterable[str]) -> str:
    """Return one sentence that says what does exist, nearest to `name` first; of very many, the nearest `LISTED`.

    >>> nearest("task", "supersens", ["glosses", "supersense"])
    'unknown task "supersens"; there are: supersense, glosses'
    """
    shown = str(name) if len(str(name)) <= 80 else f"{str(name)[:80]}…"
    wanted = shown.lower()
    # Equal ratios keep the caller's order, because sorted() is stable.
    ranked = sorted(options, key=lambda option: -SequenceMatcher(None, wanted, option.lower()).ratio())
    ranked = [option if len(option) <= 80 else f"{option[:80]}…" for option in ranked]
    more = f" and {len(ranked) - LISTED:,} more" if len(ranked) > LISTED else ""
    listing = f"there are: {', '.join(ranked[:LISTED])}{more}" if ranked else "there are none"
    return f'unknown {kind} "{shown}"; {listing}'


def did_you_mean(kind: str, name: str, options: Iterable[str], dashes: str = "") -> str:
    """Return what `nearest` does, and ask first for the one that was most likely meant, if one is close.

    >>> did_you_mean("field", "epoch", ["model", "epochs"], "--")
    'unknown field "epoch": did you mean --epochs? There are: epochs, model'
    """
    options = [*options]
    listing, close = nearest(kind, name, options), get_close_matches(name, options, 1, 0.7)
    return (
        listing.replace("; there are", f": did you mean {dashes}{close[0]}? There are", 1)
        if close
        else listing
    )


class Flags(argparse.ArgumentParser):
    """A parser of flags that refuses in one sentence, as a KDTutorError, with the flag that was likely meant."""

    def parse_known_args(self, args=None, namespace=None):
        """Read the flags; an unknown one is refused by the command, or the part of it, that lacks it."""
        read, unknown = super().parse_known_args(args, namespace)
        if unknown:
            names = dict.fromkeys(re.findall(r"--([\w-]+)", self.format_usage()))
            name = unknown[0].lstrip("-").partition("=")[0]
            self.error(did_you_mean("field", name, names, "--"))
        return read, unknown

    def error(self, message: str) -> NoReturn:
        """Raise the sentence; argparse itself would print how the command is used, and leave."""
        raise KDTutorError(f"{self.prog.removeprefix('kdtutor ')}: {message}")


# ------------------------------------------------------------------------------------------------ checks


@dataclass(frozen=True)
class Check:
    """What a setting may be. `check(name, value)` returns the value as it is kept, or raises `error` in one sentence.

    allowed: the end of "… must be". keep: the value as it is kept; TypeError, ValueError or OverflowError where it is
    not allowed. read: makes a value of the text that a flag or a YAML file has.
    """

    allowed: str
    keep: Callable[[Any], Any]
    read: Callable[[str], Any] = str
    error: type[KDTutorError] = KDTutorError

    def __call__(self, name: str, value: object) -> Any:
        return self._or_raise(name, value, self.keep)

    def from_text(self, name: str, text: str) -> Any:
        return self._or_raise(name, text, lambda text: self.keep(self.read(text)))

    def _or_raise(self, name: str, value: Any, keep: Callable[[Any], Any]) -> Any:
        try:
            return keep(value)
        except (TypeError, ValueError, OverflowError):
            raise self.error(f"{name} must be {self.allowed}, not {_shown(value)}") from None


def number(allowed: str, fits: Callable[[float], bool], error: type[KDTutorError] = KDTutorError) -> Check:
    """Make the check for a finite number, kept as a float."""

    def keep(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not fits(cast(float, value)):
            raise ValueError
        return float(value)

    return Check(allowed, keep, float, error)


def whole(allowed: str, fits: Callable[[float], bool]) -> Check:
    """Make the check for a whole number, kept as an int."""
    real = number(allowed, lambda value: value % 1 == 0 and fits(value))

    def keep(value: Any) -> int:
        real.keep(value)
        return int(value)

    return Check(allowed, keep, int)


def one_of(*options: str) -> Check:
    """Make the check for one of some names."""

    def keep(value: str) -> str:
        if value not in options:
            raise ValueError
        return value

    return Check(", ".join(options[:-1]) + f" or {options[-1]}", keep)


def optional(check: Check) -> Check:
    """Make the check for what `check` allows, or None."""
    return Check(check.allowed, lambda value: value if value is None else check.keep(value), check.read)


def several(check: Check) -> Check:
    """Make the check for one or more of what `check` allows: one is kept as it is, more as a tuple."""

    def keep(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return check.keep(value)
        kept = tuple(check.keep(each) for each in value)
        if not kept:
            raise ValueError
        return kept if len(kept) > 1 else kept[0]

    return Check(check.allowed, keep, check.read)


def _shown(value: object) -> str:
    """Return the repr of what was given, on one line, cut where it is long."""
    short = Repr()
    short.maxstring = short.maxother = 80
    try:
        return " ".join(short.repr(value).split())
    except ValueError:  # a number of more digits than Python prints
        return f"an {type(value).__name__} of that size"


def _text(value: Any) -> str | os.PathLike:
    # No file, column or class has a name with a NUL in it.
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in str(value):
        raise ValueError
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _yes_or_no(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())


COUNT = whole("a whole number, 1 or more", lambda value: value >= 1)
SEED = whole("a whole number from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63)
POSITIVE = number("a number above 0", lambda value: 0 < value < math.inf)
PROBABILITY = number("a probability from 0 to 1", lambda value: 0 <= value <= 1)
FRACTION = number("a fraction from 0 to below 1", lambda value: 0 <= value < 1)
TEXT = Check("a text", _text)
FOLDER = Check("the name of a folder", _text)
SWITCH = Check("True or False", _switch, _yes_or_no)


class Checked:
    """A dataclass whose fields' metadata say, as "check", what they may be."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # whoever inherits is a dataclass
            value = field.metadata["check"](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
