"""The noise dial: what it shows is what the models answer to the broken text, and bad settings get a sentence."""

from __future__ import annotations

import json

import pytest
from helpers import make_task, model, refusal, sharp_teacher

pytest.importorskip("anywidget")
from kdtutor.data.corruption import corrupt
from kdtutor.models.forward import logits_of
from kdtutor.widgets import NoiseDial
from kdtutor.widgets.noise_dial import KINDS


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def models(task):
    return {
        "teacher": sharp_teacher(task, 1),
        "hard student": sharp_teacher(task, 2),
        "soft student": model(task),
    }


@pytest.fixture
def dial(models, task):
    return NoiseDial(models, task, examples=[0, "a small furry animal that eats fish"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_the_models_answer_to_the_broken_text(dial, models, task, kind):
    dial.kind, dial.strength = kind, 0.7
    [broken] = corrupt([dial.text], kind, 0.7)
    assert dial.ladders[kind]["texts"][7] == broken
    for name, shown in dial.probabilities().items():
        wanted = logits_of(models[name], task.encode_texts(broken)).double().softmax(-1)[0]
        assert shown == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_typed_text_is_read_at_every_strength(dial, models, task):
    dial.text = "the sweet red fruit of a tree"
    assert dial.example is None
    assert dial.ladders["typo"]["texts"][10] == corrupt([dial.text], "typo", 1)[0]
    dial.example = 1
    assert dial.text == "a small furry animal that eats fish"
    assert dial.ladders == dial.examples[1]["ladders"]


def test_the_flip_is_the_first_other_answer(dial, models, task):
    for kind in KINDS:
        dial.kind = kind
        for name, found in dial.flips().items():
            texts = [corrupt([dial.text], kind, step / 10)[0] for step in range(11)]
            guesses = logits_of(models[name], task.encode_texts(texts)).argmax(-1).tolist()
            others = [step / 10 for step, guess in enumerate(guesses) if guess != guesses[0]]
            assert found == (others[0] if others else None)


def test_the_dial_stands_in_tenths_and_starts_where_it_is_told(models, task):
    dial = NoiseDial(models, task, kind="drop", strength=0.42)
    assert (dial.kind, dial.strength, len(dial.examples)) == ("drop", 0.4, 6)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("kind", "typos", 'unknown kind "typos"; there are: typo'),
        ("strength", 1.2, "a share of the words is a number from 0 to 1"),
        ("text", "  ", "the text is empty"),
        ("text", "x" * 700, "has 700 letters, and the dial takes 600"),
        ("example", 2, "there are 2, counted from 0"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_the_last_good_state_stays(dial, name, value, sentence):
    before = getattr(dial, name)
    assert sentence in refusal(setattr, dial, name, value)
    assert getattr(dial, name) == before


def test_what_does_not_fit_is_refused(models, task):
    regression = make_task("regression")
    assert "shows classes" in refusal(NoiseDial, {"teacher": model(regression)}, regression)
    assert "one to 3 models, not 0" in refusal(NoiseDial, {}, task)
    assert "the other" in refusal(NoiseDial, {"the other": model(regression)}, task)
    assert "no setting speed" in refusal(NoiseDial, models, task, speed=2)
    assert "example 99" in refusal(NoiseDial, models, task, examples=[99])


def test_the_browser_gets_plain_json_asks_for_texts_and_the_picture_says_what_is_shown(dial):
    json.dumps({name: dial.get_state()[name] for name in ("plan", "examples", "ladders")}, allow_nan=False)
    dial._hear(None, {"kind": "text", "text": "fruit of the tree"}, None)
    assert dial.text == "fruit of the tree"
    dial._hear(None, {"kind": "text", "text": ""}, None)
    assert "the text is empty" in dial.problem
    picture = dial.picture()
    assert dial.summary in picture.alt
    assert repr(dial) == dial.summary
    assert "flips" in dial.summary
