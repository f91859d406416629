"""Is it trained? Training beside validation, and how many steps were clipped."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import ROWS, make_run, make_task, model, refusal, same, weights

from kdtutor import evaluation
from kdtutor.data.load import load_task
from kdtutor.data.tokens import IGNORED
from kdtutor.objectives.logits import HardLabels, MaskedLM
from kdtutor.objectives.parse import parse_objective
from kdtutor.training import diagnosis
from kdtutor.training.diagnosis import ClippingWarning, Diagnosis
from kdtutor.training.plan import plan


@pytest.fixture(scope="module")
def task():
    return make_task()


def said(run) -> list[str]:
    """What a run warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.run()
    return [str(warning.message) for warning in caught if warning.category is ClippingWarning]


# ------------------------------------------------------------------------------------------------ clipping


def test_clipped_is_the_share_of_steps_whose_gradient_was_longer_than_max_norm(task):
    norms = sorted(row["grad_norm"] for row in make_run(task, learning_rate=1e-9).run())
    run = make_run(task, learning_rate=1e-9, max_norm=(norms[1] + norms[2]) / 2)
    assert run.clipped == 0
    run.run()
    assert run.clipped == (len(run) - 2) / len(run)


def test_a_run_that_was_mostly_clipped_says_so_once_and_what_to_do(task):
    run = make_run(task, steps=24, max_norm=1e-3)
    [message] = said(run)
    assert message.startswith("100% of the 24 steps were clipped: ")
    assert "max_norm = 0.001" in message
    assert message.endswith("raise max_norm, or lower the learning rate")
    assert said(run) == []  # nothing was left to do


def test_a_run_that_was_clipped_now_and_then_or_took_a_few_steps_says_nothing(task):
    assert said(make_run(task, steps=24, max_norm=1e9)) == []
    assert said(make_run(task, steps=diagnosis.FEW_STEPS - 1, max_norm=1e-3)) == []


def test_a_plan_warns_of_nothing(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClippingWarning)
        plan(model(task), None, task, HardLabels(), max_norm=1e-3, steps=100)


# ------------------------------------------------------------------------------------------------ nothing learned


def test_a_student_that_gives_one_answer_to_all_is_told_so(task):
    run = make_run(task, HardLabels(), steps=1)
    run.student.classifier.bias.data[1] = 9
    found = run.diagnose()
    assert found.warning == "all 12 validation texts get the same answer, 'food'"
    assert str(found).endswith(f"\nwarning: {found.warning}")
    assert json.loads(json.dumps(found.to_dict()))["warning"] == found.warning


def test_answers_that_are_hardly_better_than_the_most_frequent_class_are_told_so():
    labels = torch.tensor([0] * 70 + [1] * 30)

    def answers(right_of_0: int, right_of_1: int) -> torch.Tensor:
        given = torch.tensor(
            [0] * right_of_0 + [1] * (70 - right_of_0) + [1] * right_of_1 + [0] * (30 - right_of_1)
        )
        return F.one_hot(given, 2).float()

    said = diagnosis.hardly_learned(answers(65, 10), labels, ("no", "yes"))
    assert said.startswith("the answers are right on 75.0% of 100 validation texts, and 'no', given to every")
    assert said.endswith("would be right on 70.0%")
    assert diagnosis.hardly_learned(answers(65, 25), labels, ("no", "yes")) == ""
    alike = torch.zeros(9, dtype=torch.long)
    assert diagnosis.hardly_learned(F.one_hot(alike, 2).float(), alike, ("no", "yes")) == ""


def test_a_student_that_gives_the_same_labels_to_all_is_told_so():
    rows = [(f"the soup number {n}", [["food"], ["staff", "food"], []][n % 3]) for n in range(90)]
    task = load_task(rows, stratify=True)
    student = model(task)
    for bias, said in (([9, -9], "food"), ([-9, -9], "none"), ([9, 9], "food, staff")):
        student.classifier.bias.data = torch.tensor(bias, dtype=torch.float32)
        assert (
            diagnosis.diagnose(student, task).warning == f"all 9 validation texts get the same labels: {said}"
        )
    assert diagnosis.same_labels(torch.tensor([[1.0, -1], [1, 1]]), ("food", "staff")) == ""


# ------------------------------------------------------------------------------------------------ underfitting


@pytest.mark.parametrize(
    ("kind", "score"), [("classification", "accuracy"), ("regression", "spearman"), ("masked-lm", "accuracy")]
)
def test_every_kind_is_measured_on_training_and_validation_by_its_score_and_its_loss(kind, score):
    task = make_task(kind)
    run = make_run(task, parse_objective(task.rules.hard), steps=2, masking=0.5)
    run.run()
    found = run.diagnose()
    assert found.texts == ROWS
    for split, fit in (("train", found.training), ("validation", found.validation)):
        assert [*fit] == [score, "loss"]
        assert fit[score] == evaluation.measure(run.student, task, split, masking=0.5)[score]
        if kind == "masked-lm":
            expected = evaluation.measure(run.student, task, split, masking=0.5)["loss"]
        else:
            logits, targets = evaluation.predict(run.student, task, split), task.targets(split)
            loss = F.cross_entropy if kind == "classification" else lambda z, y: F.mse_loss(z[:, 0], y)
            expected = float(loss(logits.double(), targets))
        assert fit["loss"] == pytest.approx(expected, rel=1e-5)


def test_texts_learned_by_heart_are_overfitting(task):
    by_heart = make_task(targets=torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(0)))
    run = make_run(by_heart, HardLabels(), epochs=60, learning_rate=3e-3)
    run.run()
    found = run.diagnose()
    assert found.training["accuracy"] > found.validation["accuracy"] + 0.3
    assert "mostly overfitting: " in str(found)


def test_a_student_that_learned_nothing_is_underfitting(task):
    found = make_run(task).diagnose()
    assert found.training["accuracy"] < 0.6
    assert "mostly underfitting: " in str(found)


@pytest.mark.parametrize(
    ("training", "validation", "line"),
    [
        (
            0.67,
            0.53,
            "training 67.0% (loss 0.500), validation 53.0% (loss 0.900): mostly underfitting: of the 47.0 points that "
            "validation lacks, 33.0 are lacking on training texts too; train longer, or take a larger student",
        ),
        (
            0.98,
            0.53,
            "training 98.0% (loss 0.500), validation 53.0% (loss 0.900): mostly overfitting: of the 47.0 points that "
            "validation lacks, 45.0 are lacking on new texts alone; more texts help (a teacher needs no labels), or "
            "fewer passes",
        ),
        (1.0, 1.0, "training 100.0% (loss 0.500), validation 100.0% (loss 0.900): nothing is lacking"),
    ],
)
def test_a_diagnosis_is_one_line(training, validation, line):
    fits = {"accuracy": training, "loss": 0.5}, {"accuracy": validation, "loss": 0.9}
    assert str(Diagnosis(*fits, texts=2000, clipped=0.5)) == line
    clipped = str(Diagnosis(*fits, texts=2000, clipped=0.51))
    assert clipped == f"{line}\n51% of the steps were clipped: raise max_norm, or lower the learning rate"


def test_where_the_score_is_no_fraction_losses_are_compared():
    fits = {"spearman": 0.81, "loss": 0.02}, {"spearman": 0.62, "loss": 0.09}
    assert str(Diagnosis(*fits, texts=2000, is_fraction=False)) == (
        "training 0.810 (loss 0.020), validation 0.620 (loss 0.090): mostly overfitting: of validation's loss of "
        "0.090, 0.070 are lost on new texts alone; more texts help (a teacher needs no labels), or fewer passes"
    )


def test_at_most_2000_training_texts_are_asked_the_same_each_time_and_labelled_ones_only(monkeypatch):
    targets = torch.arange(ROWS) % 3
    targets[::2] = IGNORED
    run = make_run(make_task(targets=targets), steps=1)
    assert run.diagnose().texts == ROWS // 2
    monkeypatch.setattr(diagnosis, "TEXTS", 9)
    asked, predict = [], diagnosis.predict

    def noted(student, task, split, **options):
        asked.append(task.split(split).texts[0])
        assert (task.targets(split) != IGNORED).all()
        return predict(student, task, split, **options)

    monkeypatch.setattr(diagnosis, "predict", noted)
    assert run.diagnose() == run.diagnose()
    assert [len(texts) for texts in asked] == [9, 12, 9, 12]
    assert asked[0] == asked[2]


def test_training_texts_without_any_label_are_refused():
    run = make_run(make_task(targets=torch.full((ROWS,), IGNORED)), steps=1)
    assert refusal(run.diagnose) == "the train split of tiny has no labels to compare with"


def test_diagnosing_between_two_steps_leaves_the_run_as_it_is():
    glosses = make_task("masked-lm")
    runs = [make_run(glosses, MaskedLM(), steps=3, dropout=0.2) for _ in range(2)]
    runs[0].run()
    for _ in runs[1]:
        runs[1].diagnose()
        assert runs[1].student.training
    assert same(weights(runs[0].student), weights(runs[1].student))


def test_a_diagnosis_is_ready_for_json(task):
    run = make_run(task, steps=2)
    run.run()
    found = json.loads(json.dumps(run.diagnose().to_dict()))
    assert found.keys() == {"training", "validation", "texts", "clipped", "verdict", "warning"}
    assert found["training"].keys() == {"accuracy", "loss"}
    assert found["clipped"] == run.clipped
    assert math.isfinite(found["validation"]["loss"])
