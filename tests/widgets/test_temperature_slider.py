"""The first slider: its numbers are softmax's, its picture says what is drawn, and bad input gets a sentence."""

from __future__ import annotations

import pytest
import torch
from helpers import refusal

pytest.importorskip("anywidget")
from kdtutor.widgets import TemperatureSlider

LOGITS, NAMES = [1.0, 3.0, -2.0, 0.5], ["plant", "food", "time", "act"]


@pytest.mark.parametrize("temperature", [0.1, 1, 2.5, 20])
def test_it_shows_softmax_at_its_temperature(temperature):
    slider = TemperatureSlider(LOGITS, NAMES, "a fruit", temperature)
    weights = (torch.tensor(LOGITS, dtype=torch.float64) / temperature).exp()
    torch.testing.assert_close(slider.probabilities(), weights / weights.sum())


def test_a_moved_slider_says_what_is_seen_in_its_summary_and_beside_its_picture():
    slider = TemperatureSlider(torch.tensor([LOGITS]), NAMES, "a fruit")
    before = slider.summary
    slider.temperature = 4
    p = (torch.tensor(LOGITS) / 4).softmax(-1)
    assert before != slider.summary
    assert slider.summary == (
        f"At T = 4 the probabilities are food {p[1]:.0%}, plant {p[0]:.0%} and act {p[3]:.0%}.".replace(
            "%", "\N{NO-BREAK SPACE}%"
        )
    )
    assert slider.picture().alt == slider.summary


@pytest.mark.parametrize(
    ("logits", "names", "settings", "said"),
    [
        (LOGITS, NAMES[:3], {}, "3 in a row, one for each class"),
        ([1.0, float("nan")], NAMES[:2], {}, "the logits must be finite"),
        ([1.0], NAMES[:1], {}, "a choice between classes, and there is 1"),
        (LOGITS, NAMES, {"temperature": 0}, "a temperature is a number from 0.1 to 20"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(logits, names, settings, said):
    assert said in refusal(TemperatureSlider, logits, names, **settings)
