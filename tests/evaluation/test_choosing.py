"""Measured models and their Pareto front; the interval of a share."""

from __future__ import annotations

import pytest
from helpers import make_task, model, refusal
from scipy.stats import binomtest

from kdtutor import evaluation
from kdtutor.evaluation import Choice, choices, pareto_front, share_interval


def made(name: str, accuracy: float, milliseconds: float, bytes: int = 1, throughput: float = 1) -> Choice:
    return Choice(name, accuracy, 0, 1, 100, bytes, 1, milliseconds, throughput)


@pytest.mark.parametrize("right, n", [(0, 5), (5, 5), (3, 5), (1234, 2000)])
def test_the_interval_of_a_share_is_wilsons(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert share_interval(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_that_is_none_has_no_interval():
    assert "not 1.2 of 10" in refusal(share_interval, 1.2, 10)
    assert "not 0.5 of 0" in refusal(share_interval, 0.5, 0)


def test_the_front_has_who_is_dominated_by_nobody_by_each_cost_from_the_cheapest_on():
    models = [
        made("dear, good", 0.9, 8.0, 100, 10),
        made("dear, bad", 0.7, 9.0, 90, 5),
        made("cheap, fair", 0.8, 1.0, 50, 100),
        made("cheap, fair, its equal", 0.8, 1.0, 60, 100),
        made("cheapest", 0.5, 0.5, 70, 200),
    ]
    assert pareto_front(models) == [4, 2, 3, 0]
    assert pareto_front(models, "bytes") == [2, 0]
    assert pareto_front(models, "throughput") == [4, 2, 3, 0]  # more texts per second are cheaper
    assert refusal(pareto_front, models, "seconds").startswith("unknown cost")


def test_models_are_measured_with_interval_sizes_times_and_recipe():
    task = make_task()
    models = {"one": model(task, 1), "two": model(task, 2, width=64)}
    found = choices(models, task, {"two": "by hand"}, texts=4, rounds=1)
    assert [(one.name, one.recipe, one.texts) for one in found] == [("one", "", 12), ("two", "by hand", 12)]
    for one, made_ in zip(found, models.values(), strict=True):
        assert one.accuracy == evaluation.accuracy(evaluation.predict(made_, task), task.targets("test"))
        assert (one.low, one.high) == share_interval(one.accuracy, 12)
        assert one.bytes == evaluation.stored_bytes(made_) and one.milliseconds > 0 < one.throughput
    assert found[0].bytes < found[1].bytes and found[0].parameters < found[1].parameters


def test_a_recipe_of_nobody_and_a_task_without_classes_are_refused():
    task = make_task()
    assert "model with a recipe" in refusal(choices, {"one": model(task)}, task, {"on": "x"})
    numbers = make_task("regression")
    assert "is a regression task" in refusal(choices, {"one": model(numbers)}, numbers)
