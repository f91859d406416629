"""Validation while training: measured on time, the best student kept, an early end, the same after a resume."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import make_run, make_task, refusal, same, take, weights, without_time

from kdtutor.data.task import Split
from kdtutor.evaluation.scores import measure
from kdtutor.objectives.logits import HardLabels, MaskedLM
from kdtutor.training.diagnosis import fit

EPOCH = 6  # steps


@pytest.fixture(scope="module")
def task():
    return make_task()


def measured(run) -> dict[int, dict]:
    return {row["step"]: row["validation"] for row in run.history if "validation" in row}


def told(run, monkeypatch, scores) -> None:
    """Let the run find these scores on validation, one after the other, whatever its student can."""
    given = itertools.chain(scores)
    monkeypatch.setattr("kdtutor.training.validation.fit", lambda *_: {"accuracy": next(given), "loss": 1.0})


@pytest.mark.parametrize("kind, objective", [("classification", None), ("masked-lm", MaskedLM())])
def test_the_student_is_measured_every_so_many_steps_and_at_the_end(kind, objective):
    task = make_task(kind)
    run = make_run(task, objective, validate_every=4, epochs=2, steps=10)
    found = {}
    for step in run:
        if step.number in (4, 8, 10):
            found[step.number] = fit(run.student, task, "validation")
    assert measured(run) == found
    assert found[10][task.rules.scores[0]] == next(iter(measure(run.student, task, "validation").values()))


def test_epoch_measures_after_each_pass_and_by_default_nothing_is_measured(task):
    run = make_run(task, validate_every="epoch", epochs=2)
    run.run()
    assert [*measured(run)] == [EPOCH, 2 * EPOCH]
    plain = make_run(task, epochs=2)
    plain.run()
    assert not measured(plain)


def test_measuring_changes_no_weight(task):
    plain, watched = (make_run(task, dropout=0.2, steps=8, validate_every=n) for n in (None, 1))
    plain.run(), watched.run()
    assert same(weights(plain.student), weights(watched.student))
    assert watched.student.training


def test_the_best_student_is_there_at_the_end_and_the_first_of_equals(task, monkeypatch):
    run = make_run(task, validate_every=2, steps=8, keep_best=True)
    told(run, monkeypatch, [0.5, 0.7, 0.7, 0.6])
    at = {step.number: weights(run.student) for step in run}
    assert run.validation.best == 4
    assert same(weights(run.student), at[4])
    last = make_run(task, validate_every=2, steps=8)
    told(last, monkeypatch, [0.5, 0.7, 0.7, 0.6])
    last.run()
    assert same(weights(last.student), at[8])


def test_the_best_may_be_the_one_of_the_lowest_loss(task, monkeypatch):
    losses = iter(
        [{"accuracy": 0.9, "loss": 0.9}, {"accuracy": 0.1, "loss": 0.3}, {"accuracy": 0.5, "loss": 0.5}]
    )
    monkeypatch.setattr("kdtutor.training.validation.fit", lambda *_: next(losses))
    run = make_run(task, validate_every=2, steps=6, keep_best=True, metric="loss")
    run.run()
    assert run.validation.best == 4


def test_a_run_ends_early_when_its_patience_is_at_its_end(task, monkeypatch, tmp_path):
    run = make_run(task, validate_every=2, steps=20, patience=2, keep_best=True, folder=tmp_path)
    told(run, monkeypatch, [0.5, 0.4, 0.6, 0.6, 0.5, 0.9])
    at = {step.number: weights(run.student) for step in run}
    assert run.is_over
    assert [*at] == [*range(1, 11)]
    assert same(weights(run.student), at[6])
    assert (tmp_path / "checkpoint-0000010").is_dir()
    assert len(run.run()) == 10


def test_a_resumed_run_knows_the_best_student_and_its_patience(task, monkeypatch, tmp_path):
    settings = {"validate_every": 2, "steps": 20, "patience": 3, "keep_best": True, "dropout": 0.1}
    scores = [0.5, 0.8, 0.6, 0.6, 0.6, 0.9]
    straight = make_run(task, **settings)
    told(straight, monkeypatch, scores)
    straight.run()
    assert straight.done == 10

    stopped = make_run(task, **settings, folder=tmp_path, save_every=1)
    told(stopped, monkeypatch, scores)
    take(stopped, 7)
    resumed = make_run(task, **settings).resume(tmp_path)
    told(resumed, monkeypatch, scores[3:])
    resumed.run()
    assert without_time(resumed.history) == without_time(straight.history)
    assert same(weights(resumed.student), weights(straight.student))
    assert resumed.done == 10

    finished = make_run(task, **settings).resume(tmp_path)
    told(finished, monkeypatch, scores[3:])
    finished.run()
    more = make_run(task, **(settings | {"patience": 9})).resume(tmp_path)
    assert not more.is_over
    assert "made with another keep_best: True, now False" in refusal(
        make_run(task, **(settings | {"keep_best": False})).resume, tmp_path
    )


def test_the_best_student_of_a_tied_model_comes_back_with_a_state():
    task = make_task("masked-lm")
    run = make_run(task, MaskedLM(), validate_every=2, steps=6, keep_best=True)
    take(run, 3)
    state = run.state()
    run.run()
    end = weights(run.student)
    run.restore(state).run()
    assert same(weights(run.student), end)


def test_a_validation_part_that_can_measure_nothing_is_refused_before_the_first_step(task):
    part = task.split("validation")
    none = {"validation": Split(part.texts, None)}
    some = {"validation": Split(part.texts, torch.where(torch.arange(len(part)) > 3, part.targets, -100))}
    for splits, said in (
        (none, "the validation split of tiny has no labels"),
        (some, "texts without labels"),
    ):
        changed = task._with("tiny", **splits)
        assert said in refusal(make_run, changed, HardLabels(), patience=1)
        assert make_run(changed, HardLabels(), steps=1).run()
