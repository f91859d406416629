"""Feedback and progress as a notebook shows them: a card, and a map of dots. Elsewhere they are plain text.

What is meant is told by a sign and a word as well as by a colour, and colours keep their contrast in light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from typing import Any

# kind of feedback → sign, word, colour
RIGHT, BUT = ("✓", "solved", "#009e73"), ("✓", "right, but …", "#56b4e9")
KNOWN, NOT_YET = ("✗", "known mistake", "#cc79a7"), ("✗", "not yet", "#e69f00")
STATES = {"solved": ("●", "#009e73"), "not yet": ("◐", "#e69f00"), "open": ("○", "currentColor")}


def look_of(kind: str, solved: bool, mistakes: tuple[str, ...]) -> tuple[str, str, str]:
    """Choose sign, word and colour of a verdict."""
    if solved:
        return RIGHT if kind == "right" else BUT
    return KNOWN if mistakes else NOT_YET


def card(kind: str, solved: bool, mistakes: tuple[str, ...], text: str, then: str = "") -> str:
    """Write a verdict as HTML; `then` is the next exercise. What a learner wrote in it stays text."""
    sign, word, colour = look_of(kind, solved, mistakes)
    after = f'<div style="margin-top:.5em">Next: {escape(then)}</div>' if then else ""
    return (
        f'<div class="kd-card" role="status" style="border:1px solid {colour};border-left-width:.5em;'
        f'border-radius:.4em;padding:.5em .9em;max-width:56em">'
        f'<div style="font-weight:600"><span aria-hidden="true" style="color:{colour};font-size:1.3em">{sign}</span> '
        f'{word}</div><div style="white-space:pre-wrap">{escape(text)}</div>{after}</div>'
    )


def dots(exercises: Iterable[Any], records: Mapping[str, Mapping[str, Any]], summary: str) -> str:
    """Write a row for each notebook, with a dot for each of its exercises: solved, tried or open."""
    rows = []
    for notebook, group in groupby(exercises, key=lambda exercise: exercise.number.partition(".")[0]):
        marks = "".join(_dot(exercise, records.get(exercise.name)) for exercise in group)
        rows.append(
            f'<tr><th scope="row" style="text-align:left;padding:0 1em 0 0">{notebook:0>2}</th>'
            f'<td style="text-align:left;padding:0">{marks}</td></tr>'
        )
    key = ", ".join(f"{sign} {state}" for state, (sign, _) in STATES.items())
    return (
        f'<table class="kd-dots" style="color:inherit">{"".join(rows)}</table><p>{escape(summary)} {key}.</p>'
    )


def _dot(exercise: Any, record: Mapping[str, Any] | None) -> str:
    state = "open" if record is None else ("solved" if record["solved"] else "not yet")
    sign, colour = STATES[state]
    name = escape(f"{exercise.number} · {exercise.title}: {state}", quote=True)
    return (
        f'<span role="img" aria-label="{name}" title="{name}" style="color:{colour};font-size:1.5em;line-height:1;'
        f'padding:0 .12em">{sign}</span>'
    )
