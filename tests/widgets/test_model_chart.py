"""The chart of models in Python: what is on the front, what a budget allows, and what cannot be drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdtutor.evaluation import Choice
from kdtutor.widgets import ModelChart
from kdtutor.widgets.base import SettingError

MODELS = [
    Choice("teacher", 0.88, 0.86, 0.9, 1000, 62_000_000, 15_600_000, 9.0, 300.0, "fifty thousand labels"),
    Choice("LSTM", 0.78, 0.75, 0.81, 1000, 3_200_000, 800_000, 0.6, 4000.0, "soft targets at T = 2"),
    Choice("CNN", 0.82, 0.79, 0.85, 1000, 3_400_000, 830_000, 0.3, 9000.0),
    Choice("static", 0.75, 0.72, 0.78, 1000, 3_000_000, 770_000, 0.1, 30_000.0),
]


def said(chart: ModelChart) -> str:
    return chart.summary.replace("\u00a0", " ")


def test_the_summary_names_the_front_by_the_cost_chosen_and_all_numbers_of_one_model():
    chart = ModelChart(MODELS)
    assert chart.summary.startswith(
        "On the Pareto front of accuracy and milliseconds: static, CNN, teacher. "
    )
    assert "teacher: 88.0 % (86.0 % to 90.0 %), 62.0 MB, 9 ms for one text, 300 texts" in said(chart)
    chart.cost, chart.chosen = "bytes", 1
    assert chart.summary.startswith(
        "On the Pareto front of accuracy and bytes: static, LSTM, CNN, teacher. LSTM: 78"
    )


@pytest.mark.parametrize(
    "cost, budget, best",
    [
        ("milliseconds", None, 0),
        ("milliseconds", 1.0, 2),
        ("milliseconds", 0.01, None),
        ("bytes", 3_300_000, 1),
        ("throughput", 5000, 2),
        ("throughput", 1e6, None),
    ],
)
def test_the_best_is_the_most_accurate_that_the_budget_allows(cost, budget, best):
    chart = ModelChart(MODELS, cost=cost, budget=budget)
    assert chart.best() == best
    if budget is not None:
        name = "none" if best is None else MODELS[best].name
        assert f"the best is {name}." in chart.summary
        assert ("at least" if cost == "throughput" else "at most") in chart.summary


@pytest.mark.parametrize(
    "models, sentence",
    [
        (MODELS[:1], "two to 7 models, not 1"),
        (MODELS * 2, "two to 7 models, not 8"),
        ([MODELS[0], MODELS[0]], "two models are called 'teacher'"),
        ([MODELS[0], replace(MODELS[1], milliseconds=0.0)], "LSTM: every cost is a number above 0"),
        ([MODELS[0], replace(MODELS[1], accuracy=float("nan"))], "LSTM: every cost is a number above 0"),
    ],
)
def test_models_that_cannot_be_drawn_are_refused(models, sentence):
    with pytest.raises(SettingError, match=sentence):
        ModelChart(models)


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("cost", "seconds", "unknown cost"),
        ("chosen", 4, "the models 0 to 3"),
        ("budget", -1.0, "a number above 0"),
        ("axis", "bytes", "no setting axis"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name, value, sentence):
    with pytest.raises(SettingError, match=sentence):
        ModelChart(MODELS, **{name: value})


def test_the_picture_has_all_models_and_the_page_cannot_change_the_points():
    chart = ModelChart(MODELS)
    chart.set_state({"plan": {"models": []}, "chosen": 2})
    assert len(chart.plan["models"]) == 4 and chart.chosen == 2
    assert all(model.name in chart.picture().alt for model in MODELS)
