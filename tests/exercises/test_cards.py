"""Feedback as a card and progress as a map of dots in a notebook; the same words as plain text elsewhere."""

from __future__ import annotations

import re

import pytest

from kdtutor.exercises import Check, load_exercises
from kdtutor.exercises.definitions import Verdict

MARKUP = "<script>alert(1)</script>"


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict(True, "right", "Right."), "✓ solved Right."),
        (Verdict(True, "right, but slow", "Slow."), "✓ right, but … Slow."),
        (Verdict(False, "a known mistake", "No T².", ("no T²",)), "✗ known mistake No T²."),
        (Verdict(False, "another mistake", "Differs."), "✗ not yet Differs."),
    ],
)
def test_a_card_has_a_sign_a_word_and_what_is_said(verdict, expected):
    assert words(verdict._repr_html_()) == expected
    assert repr(verdict) == verdict.text


def test_the_four_are_told_apart_by_words_and_by_colours():
    cards = [
        Verdict(solved, kind, "x", names)._repr_html_()
        for solved, kind, names in (
            (True, "right", ()),
            (True, "right, but slow", ()),
            (False, "a known mistake", ("m",)),
            (False, "NaN", ()),
        )
    ]
    assert (
        len({words(one) for one in cards}) == len({re.search("#[0-9a-f]{6}", one)[0] for one in cards}) == 4
    )


def test_what_was_not_attempted_stays_a_line_of_text():
    assert Verdict(False, "not attempted", "Not attempted yet.")._repr_html_() is None


def test_what_a_learner_wrote_is_never_markup():
    html = Verdict(False, "raises", f"ValueError: {MARKUP}")._repr_html_()
    assert MARKUP not in html and "&lt;script&gt;" in html


def test_a_right_answer_names_the_next_exercise_and_the_last_one_none():
    check, exercises = Check(), [*load_exercises().values()]
    first = next(exercise for exercise in exercises if hasattr(exercise, "reference"))
    then = exercises[exercises.index(first) + 1]
    verdict = getattr(check, first.name)(first.reference)
    assert verdict.solved and verdict.then == f"exercise {then.number} · {then.title}"
    assert f"Next: exercise {then.number}" in words(verdict._repr_html_())
    last = [exercise for exercise in exercises if exercise.number.startswith("4.")][-1]
    if hasattr(last, "reference"):
        assert getattr(check, last.name)(last.reference).then == ""


def test_the_map_has_a_dot_for_every_exercise_and_says_what_it_means():
    check, exercises = Check(), [*load_exercises().values()]
    tried = next(exercise for exercise in exercises if hasattr(exercise, "reference"))
    getattr(check, tried.name)(lambda *_: "a text")
    shown = check.progress()
    html = shown._repr_html_()
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert len(labels) == len(exercises)
    assert [label for label in labels if label.endswith("not yet")] == [
        f"{tried.number} · {tried.title}: not yet"
    ]
    getattr(check, tried.name)(tried.reference)
    assert check.progress()._repr_html_().count(": solved") == 2 and html.count(": solved") == 0
    assert shown.splitlines()[-1] in words(html)
