"""Rare classes: class weights in the loss, balanced sampling, and the score by which a student is judged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import make_run, make_task, model, refusal, same, take, weights, without_time

import kdtutor as kd
from kdtutor.evaluation.scores import LOWER_IS_BETTER, SCORES
from kdtutor.models.forward import Outputs
from kdtutor.objectives.formulas import hard_labels
from kdtutor.objectives.logits import HardLabels, MaskedLM, SoftTargets, balanced_weights
from kdtutor.objectives.parse import parse_objective
from kdtutor.training.batches import balanced_chances
from kdtutor.training.control import control_of
from kdtutor.training.plan import plan

RARE = torch.tensor([0] * 30 + [1] * 10 + [2] * 4)


@pytest.fixture(scope="module")
def task():
    return make_task(targets=RARE)


# ------------------------------------------------------------------------------------------------ class weights


def test_class_weights_are_factors_of_each_items_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels, factors = torch.tensor([0, 2, 1, 1, -100, 0, 2]), torch.tensor([0.5, 3.0, 0.0])
    defined = [
        float(factors[y]) * -float(torch.log(logits[i].exp()[y] / logits[i].exp().sum()))
        for i, y in enumerate(labels.tolist())
        if y != -100
    ]
    found = hard_labels(logits, labels, factors, reduction="none")
    torch.testing.assert_close(found, torch.tensor(defined, dtype=torch.float64))
    assert float(hard_labels(logits, labels, factors)) == pytest.approx(sum(defined) / 6)
    # torch divides by the sum of the weights instead
    known = labels >= 0
    torchs = F.cross_entropy(logits[known], labels[known], factors.double())
    assert float(torchs) == pytest.approx(sum(defined) / (2 * 0.5 + 2 * 3.0))


def test_balanced_weights_give_every_class_the_same_say_and_are_one_on_average():
    factors = balanced_weights(torch.cat([RARE, torch.tensor([-100] * 9)]), 3)
    assert factors.tolist() == pytest.approx([44 / (3 * 30), 44 / (3 * 10), 44 / (3 * 4)])
    assert float(factors[RARE].mean()) == pytest.approx(1)
    # A class without a text is left out of the count.
    assert balanced_weights(torch.tensor([0, 0, 1]), 3)[:2].tolist() == pytest.approx([3 / 4, 3 / 2])


def test_a_run_counts_the_classes_of_its_training_texts(task):
    named = make_run(task, 0.5 * HardLabels(balanced_weights(RARE, 3)) + 0.5 * SoftTargets(2), steps=4)
    counted = make_run(task, 0.5 * HardLabels("balanced") + 0.5 * SoftTargets(2), steps=4)
    plain = make_run(task, 0.5 * HardLabels() + 0.5 * SoftTargets(2), steps=4)
    for run in (named, counted, plain):
        run.run()
    assert same(weights(named.student), weights(counted.student))
    assert not same(weights(plain.student), weights(counted.student))


def test_cutting_a_step_into_micro_batches_changes_nothing(task):
    whole, cut = (make_run(task, HardLabels("balanced"), steps=2, accumulate=n) for n in (1, 3))
    assert whole.run()[0]["loss"] == pytest.approx(cut.run()[0]["loss"], rel=1e-5)


def test_the_weights_stand_in_the_formula_and_a_resumed_run_has_the_same(task, tmp_path):
    for written in (
        "0.1 * HardLabels(class_weights='balanced')",
        "HardLabels(class_weights=[1.0, 2.5, 0.5])",
    ):
        assert repr(parse_objective(written)) == written
    goal = 0.1 * HardLabels("balanced") + SoftTargets(2)
    straight = make_run(task, goal, steps=6)
    straight.run()
    stopped = make_run(task, goal, steps=6, folder=tmp_path, save_every=1)
    take(stopped, 3)
    resumed = make_run(task, goal, steps=6).resume(tmp_path)
    resumed.run()
    assert same(weights(straight.student), weights(resumed.student))
    other = make_run(task, 0.1 * HardLabels() + SoftTargets(2), steps=6)
    assert "another objective: 0.1 * HardLabels(class_weights='balanced')" in refusal(other.resume, tmp_path)


@pytest.mark.parametrize("given", ["balance", [], [1.0], [0, 0, 0], [1, -1, 1], [1, True, 1], [1, "x"], 3])
def test_weights_that_make_no_sense_are_refused(given):
    said = refusal(HardLabels, given)
    assert "class_weights must be" in said or "weight must be" in said


def test_weights_that_do_not_fit_the_task_are_refused_before_the_first_step(task):
    assert "has 2 class weights for 3 classes" in refusal(make_run, task, HardLabels([1, 2]))
    for kind in ("regression", "masked-lm"):
        said = refusal(make_run, make_task(kind), HardLabels("balanced"), student=model(make_task(kind)))
        assert "no text of this task has a class" in said
    said = refusal(HardLabels("balanced"), Outputs(torch.zeros(2, 3)), None,
                   {"labels": torch.zeros(2, dtype=torch.long)})  # fmt: skip
    assert "has seen no labels to count" in said
    assert "takes 1 positional argument" in refusal(parse_objective, "MaskedLM('balanced')")
    assert "2 class weights, but there are 3 classes" in refusal(
        hard_labels, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), torch.ones(2)
    )


def test_the_control_keeps_the_weights(task):
    run = make_run(task, 0.2 * HardLabels("balanced") + SoftTargets(2), steps=2)
    assert repr(control_of(run).objective) == "HardLabels(class_weights='balanced')"


# ------------------------------------------------------------------------------------------------ sampling


def drawn(run, passes: int) -> torch.Tensor:
    return torch.cat([run.batches.index(step) for step in range(passes * run.batches.per_epoch)])


def test_balanced_sampling_draws_each_class_as_often_as_any_other(task):
    run = make_run(task, HardLabels(), sampling="balanced")
    index = drawn(run, 200)
    assert len(index) == 200 * len(RARE)
    shares = torch.bincount(RARE[index]) / len(index)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    # Within a class, texts are drawn alike.
    each = torch.bincount(index, minlength=len(RARE))[RARE == 1] / len(index)
    assert each.tolist() == pytest.approx([1 / 30] * 10, abs=0.005)


def test_unlabelled_texts_are_drawn_as_often_as_they_occur():
    labels = torch.tensor([0, 0, 0, 1, -100, -100])
    assert balanced_chances(labels).tolist() == pytest.approx([1 / 9] * 3 + [1 / 3] + [1 / 6] * 2)
    assert balanced_chances(torch.tensor([-100, -100])).tolist() == pytest.approx([0.5, 0.5])


def test_a_resumed_run_draws_what_the_run_would_have_drawn_and_must_draw_so(task, tmp_path):
    settings = {"sampling": "balanced", "steps": 10}
    straight = make_run(task, **settings)
    straight.run()
    take(make_run(task, **settings, folder=tmp_path, save_every=1), 7)
    resumed = make_run(task, **settings).resume(tmp_path)
    resumed.run()
    assert same(weights(straight.student), weights(resumed.student))
    assert without_time(straight.history) == without_time(resumed.history)
    assert "made with another sampling: balanced, now uniform" in refusal(
        make_run(task, steps=10).resume, tmp_path
    )


def test_the_plan_counts_the_tokens_that_are_to_be_expected():
    # The rare class has the longest texts.
    task = make_task(targets=torch.tensor([int(i % 12 > 9) for i in range(44)]))
    run = make_run(task, HardLabels(), sampling="balanced")
    planned = plan(
        run.student, None, task, HardLabels(), sampling="balanced", batch_size=8, steps=600, measure=False
    )
    counted = sum(run.batches.tokens(step) for step in range(600))
    assert planned.tokens == pytest.approx(counted, rel=0.02)
    uniform = make_run(task, HardLabels())
    assert abs(planned.tokens - sum(uniform.batches.tokens(step) for step in range(600))) > 0.1 * counted


def test_sampling_by_class_is_refused_where_there_is_none():
    for kind in ("regression", "masked-lm"):
        task = make_task(kind)
        objective = HardLabels() if kind == "regression" else MaskedLM()
        said = refusal(make_run, task, objective, sampling="balanced")
        assert "its texts have no class" in said


# ------------------------------------------------------------------------------------------------ the metric


def test_the_best_student_is_the_one_of_the_best_metric(task, monkeypatch):
    told = iter([(0.9, 0.2), (0.5, 0.8), (0.6, 0.3)])

    def scores(*_, **__):
        accuracy, f1 = next(told)
        return {"accuracy": accuracy, "macro_f1": f1, "ece": 0.0}

    for metric, best in (("macro_f1", 4), (None, 2)):
        told = iter([(0.9, 0.2), (0.5, 0.8), (0.6, 0.3)])
        run = make_run(task, HardLabels(), validate_every=2, steps=6, keep_best=True, metric=metric)
        with monkeypatch.context() as patched:
            patched.setattr("kdtutor.training.diagnosis.scores_of", scores)
            run.run()
        assert run.validation.best == best
        assert (metric or "accuracy") in run.history[1]["validation"]


@pytest.mark.parametrize("metric", ["loss", "ece"])
def test_less_is_better_where_it_is(task, monkeypatch, metric):
    told = iter([0.9, 0.1, 0.5])
    monkeypatch.setattr("kdtutor.training.validation.fit", lambda *_: {"accuracy": 1.0, metric: next(told)})
    run = make_run(task, HardLabels(), validate_every=2, steps=6, keep_best=True, metric=metric)
    run.run()
    assert run.validation.best == 4


def test_the_metric_stands_first_in_the_table_and_retention_is_of_it(task):
    student, teacher = model(task, seed=1), model(task, seed=2)
    plain = kd.evaluate(student, task, latency=False)
    judged = kd.evaluate(student, task, latency=False, teacher=teacher, metric="macro_f1")
    assert [*judged.scores] == ["macro_f1", "accuracy", "ece"]
    assert judged.score == plain.macro_f1
    theirs = kd.evaluate(teacher, task, latency=False).macro_f1
    assert judged.retention == pytest.approx(plain.macro_f1 / theirs)
    assert kd.evaluate(student, task, latency=False, teacher=teacher, metric="ece").retention is None


def test_a_metric_that_a_kind_does_not_have_is_refused_before_any_step(task):
    said = refusal(make_run, task, HardLabels(), metric="f1")
    assert said.startswith('unknown metric of a classification task "f1"; there are: ')
    assert "macro_f1" in said
    assert "unknown metric" in refusal(kd.evaluate, model(task), task, metric="spearman")


def test_of_every_score_it_is_known_whether_more_is_better():
    assert {*SCORES} - LOWER_IS_BETTER == {
        "accuracy", "macro_f1", "micro_f1", "mean_average_precision", "spearman",
    }  # fmt: skip
