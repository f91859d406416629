"""Several teachers that answer as one: opinion pools against float64, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import shutil

import pytest
import torch
from helpers import make_task, model, refusal, sharp_teacher
from torch import Tensor

from kdtutor.evaluation.scores import evaluate, predict
from kdtutor.models.ensemble import Ensemble
from kdtutor.models.load import load_ensemble, load_teacher
from kdtutor.models.pools import Pool, abstaining, by_agreement, by_confidence

CLASSES = "single_label_classification"


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def teachers(task):
    return [sharp_teacher(task, seed) for seed in (1, 2, 3)]


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float], temperature: float) -> list[float]:
    exps = [math.exp((z - max(row)) / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def mean_of_probabilities(z: Tensor, weights: list[float], temperature: float) -> Tensor:
    """Σ w_m softmax(z_m / T) by the definition, in Python's doubles: (M, B, C) → (B, C)."""
    rows = [[softmax(row, temperature) for row in member] for member in z.double().tolist()]
    return torch.tensor(
        [
            [sum(w * rows[m][b][c] for m, w in enumerate(weights)) for c in range(z.shape[2])]
            for b in range(z.shape[1])
        ],
        dtype=torch.float64,
    )


# ------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_probabilities_are_averaged_at_the_temperature_of_the_term(temperature):
    z, weights = logits(3, 5, 4), [0.5, 0.3, 0.2]
    pool = Pool(z, torch.tensor(weights)[:, None], "probabilities", CLASSES)
    wanted = mean_of_probabilities(z, weights, temperature)
    torch.testing.assert_close(
        (pool.at(temperature).double() / temperature).softmax(-1), wanted, atol=1e-6, rtol=0
    )


def test_the_mean_of_logits_is_another_teacher():
    z = torch.tensor([[[8.0, 0.0, 0.0]], [[-8.0, 0.0, 0.0]]])
    half = torch.full((2, 1), 0.5)
    arithmetic = Pool(z, half, "probabilities", CLASSES).at(1).softmax(-1)
    geometric = Pool(z, half, "logits", CLASSES).at(1).softmax(-1)
    assert arithmetic[0, 0].item() == pytest.approx(0.5, abs=2e-3)  # one of the two is sure
    assert geometric[0, 0].item() == pytest.approx(1 / 3, abs=1e-6)  # and the other has a veto


def test_what_is_combined_at_one_temperature_is_wrong_at_another():
    z, half = logits(2, 6, 5), torch.full((2, 1), 0.5)
    pool = Pool(z, half, "probabilities", CLASSES)
    once = (pool.at(1).double() / 4).softmax(-1)
    assert (once - mean_of_probabilities(z, [0.5, 0.5], 4)).abs().max() > 0.02


def test_of_several_labels_each_probability_is_averaged():
    z, weights = logits(3, 4, 2), torch.tensor([[0.2], [0.3], [0.5]])
    pool = Pool(z, weights, "probabilities", "multi_label_classification")
    wanted = (weights.double()[..., None] * (z.double() / 3).sigmoid()).sum(0)
    torch.testing.assert_close((pool.at(3.0).double() / 3).sigmoid(), wanted, atol=1e-6, rtol=0)


def test_numbers_have_a_mean_at_any_temperature():
    z, weights = logits(2, 4, 1), torch.tensor([[0.25], [0.75]])
    pool = Pool(z, weights, "probabilities", "regression")
    torch.testing.assert_close(pool.at(7.0), 0.25 * z[0] + 0.75 * z[1])


def test_a_silent_teacher_says_nothing():
    z = logits(2, 4, 3)
    pool = Pool(z, torch.tensor([[1.0], [0.0]]), "probabilities", CLASSES)
    torch.testing.assert_close(pool.at(2.0).softmax(-1), z[0].softmax(-1))


# ------------------------------------------------------------------------------------------ weights by text


def test_who_agrees_with_the_others_weighs_more():
    p = torch.tensor([[[0.8, 0.1, 0.1]], [[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]], dtype=torch.float64)
    # The shares by hand: Σ min(p, mean of the other two).
    shares = [0.4 + 0.1 + 0.1, 0.45 + 0.1 + 0.1, 0.1 + 0.1 + 0.1]
    wanted = torch.tensor([[share / sum(shares)] for share in shares], dtype=torch.float64)
    torch.testing.assert_close(by_agreement(p.log()), wanted)


def test_of_two_neither_can_tell_who_is_wrong():
    torch.testing.assert_close(by_agreement(logits(2, 5, 4)), torch.full((2, 5), 0.5))


def test_confidence_is_one_minus_the_entropy():
    p = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]], dtype=torch.float64)
    sure = 1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert by_confidence(p.log())[:, 0].tolist() == pytest.approx([0, 1], abs=1e-9)
    third = torch.cat([p, torch.tensor([[[0.6, 0.4]]], dtype=torch.float64)])
    less = 1 + (0.6 * math.log(0.6) + 0.4 * math.log(0.4)) / math.log(2)
    assert by_confidence(third.log())[1, 0].item() == pytest.approx(sure / (sure + less))


def test_who_is_unsure_abstains_and_where_all_are_everybody_is_heard():
    p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.55, 0.45], [0.4, 0.6]]])
    assert abstaining(0.8)(p.log()).tolist() == [[1.0, 0.5], [0.0, 0.5]]
    assert "below must be a probability" in refusal(abstaining, 3)


# ------------------------------------------------------------------------------------------ the model


def test_an_ensemble_is_measured_like_any_model(task, teachers):
    ensemble = Ensemble(teachers, weights=[2, 1, 1])
    z = torch.stack([predict(teacher, task) for teacher in teachers])
    wanted = mean_of_probabilities(z, [0.5, 0.25, 0.25], 1.0)
    torch.testing.assert_close(predict(ensemble, task).double().softmax(-1), wanted, atol=1e-6, rtol=0)
    measured = evaluate(ensemble, task, latency=False)
    assert measured.accuracy == (wanted.argmax(-1) == task.targets("test")).double().mean()
    assert measured.parameters == sum(p.numel() for teacher in teachers for p in teacher.parameters())
    assert not any(teacher.training for teacher in teachers)


def test_weights_may_change_and_a_function_may_give_them(task, teachers):
    ensemble = Ensemble(teachers)
    assert ensemble.weights == pytest.approx([1 / 3] * 3)
    ensemble.weights = [1, 0, 0]
    torch.testing.assert_close(predict(ensemble, task).softmax(-1), predict(teachers[0], task).softmax(-1))
    ensemble.weights = by_agreement
    named = Ensemble(teachers, weights="agreement")
    assert torch.equal(predict(ensemble, task), predict(named, task))


def test_one_teacher_is_an_ensemble_of_one(task, teachers):
    torch.testing.assert_close(
        predict(Ensemble(teachers[:1]), task).softmax(-1), predict(teachers[0], task).softmax(-1)
    )


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0, 0], "every teacher's weight is 0: at least one has to be heard"),
        ([1, -1], "the weight of teacher 2 must be a number, 0 or more, not -1"),
        ([1, math.nan], "the weight of teacher 2 must be a number, 0 or more, not nan"),
        ([1], "2 teachers want 2 weights, and there are 1"),
        ("agrement", 'unknown weighting of teachers "agrement"; there are: agreement, confidence'),
    ],
)
def test_weights_that_are_none_are_refused(teachers, weights, sentence):
    assert refusal(Ensemble, teachers[:2], weights=weights) == sentence


def test_a_function_of_weights_has_to_give_weights(task, teachers):
    short = Ensemble(teachers, weights=lambda z: z[0])
    assert "are (teachers, texts), (3, 12), not (12, 3)" in refusal(predict, short, task)
    double = Ensemble(teachers, weights=lambda z: z.new_ones(z.shape[:2]))
    assert "add up to 1 for each text" in refusal(predict, double, task)


def test_teachers_that_cannot_answer_as_one_are_refused(task, teachers):
    first = teachers[0]
    assert "the list is empty" in refusal(Ensemble, [])
    assert "teachers 1 and 2 are the same model" in refusal(Ensemble, [first, copy.deepcopy(first)])
    assert "teacher 2 is an ensemble" in refusal(Ensemble, [first, Ensemble(teachers[1:])])
    masked = model(make_task("masked-lm"))
    assert "teacher 2 is a BertForMaskedLM" in refusal(Ensemble, [first, masked])
    number = model(make_task("regression"))
    assert "teachers 1 and 2 have 3 and 1 outputs" in refusal(Ensemble, [first, number])
    assert 'weights="agreement" compare probabilities' in refusal(Ensemble, [number], weights="agreement")

    turned = copy.deepcopy(teachers[1])
    turned.config.id2label = {0: "plant", 1: "food", 2: "animal"}
    assert "the classes animal, food, plant and plant, food, animal" in refusal(Ensemble, [first, turned])
    other = copy.deepcopy(teachers[1])
    other.reads_with = "elsewhere"
    assert "read with other tokenizers" in refusal(Ensemble, [first, other])


def test_an_ensemble_does_not_fit_a_task_of_another_kind(teachers):
    said = refusal(evaluate, Ensemble(teachers), make_task("masked-lm"))
    assert "the model is a BertForSequenceClassification, but" in said


# ------------------------------------------------------------------------------------------ on disk


def test_a_saved_ensemble_answers_as_before(task, teachers, tmp_path):
    ensemble = Ensemble(teachers, weights=[2, 1, 1], combine="logits")
    ensemble.save_pretrained(tmp_path / "three")
    loaded = load_teacher(task, tmp_path / "three")
    assert isinstance(loaded, Ensemble)
    assert torch.equal(predict(loaded, task), predict(ensemble, task))
    assert load_ensemble(task, tmp_path / "three", combine="probabilities").config.combine == "probabilities"


def test_a_missing_teacher_is_named(task, teachers, tmp_path):
    Ensemble(teachers).save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "teacher-2")
    assert "lists 3 teachers, and the folder of teacher-2 is missing" in refusal(load_teacher, task, tmp_path)
    listed = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps({"teachers": listed["teachers"]}))
    assert "can't be read" in refusal(load_teacher, task, tmp_path)


def test_weights_that_are_a_function_are_not_saved(teachers, tmp_path):
    said = refusal(Ensemble(teachers, weights=abstaining(0.5)).save_pretrained, tmp_path)
    assert "a function can't be saved" in said


def test_a_teacher_named_twice_is_refused(task, teachers, tmp_path):
    teachers[0].save_pretrained(tmp_path / "a")
    said = refusal(load_ensemble, task, [tmp_path / "a", f"{tmp_path}/a/"])
    assert "is named twice as a teacher" in said
