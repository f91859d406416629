"""Scores against scikit-learn, SciPy and loops written from the definitions; intervals and paired tests likewise."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refusal
from scipy import stats
from sklearn import metrics

from kdtutor.data.load import load_task
from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED
from kdtutor.evaluation.scores import (
    Evaluation,
    accuracy,
    ece,
    evaluate,
    macro_f1,
    predict,
    spearman,
    token_scores,
)
from kdtutor.evaluation.speed import latency_ms
from kdtutor.evaluation.statistics import mean_and_interval, paired_seeds_test, paired_test
from kdtutor.models.forward import forward
from kdtutor.models.students import small_bert


def made_up(examples=500, classes=5, seed=0, skill=1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, C) that are somewhat right about the labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (examples,), generator=generator)
    logits = torch.randn(examples, classes, generator=generator)
    logits[torch.arange(examples), labels] += skill
    return logits, labels


@pytest.fixture(scope="module")
def task() -> Task:
    """Sixty training and test texts."""
    whole = load_task("sentiment", max_length=24)
    part = whole.subset(60).split("train")
    return replace(whole, splits={"train": part, "test": part})


@pytest.fixture
def model(task):
    model = small_bert(task, layers=1, width=32, seed=0, dropout=0.5)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # so that it does not call every text positive
    return model.train()


# ----------------------------------------------------------------------- scores


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_accuracy_and_macro_f1_are_scikit_learns(classes):
    logits, labels = made_up(classes=classes, examples=120)
    assert accuracy(logits, labels) == pytest.approx(
        metrics.accuracy_score(labels, logits.argmax(-1)), abs=1e-12
    )
    expected = metrics.f1_score(labels, logits.argmax(-1), average="macro")
    assert macro_f1(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_macro_f1_leaves_out_classes_that_occur_nowhere_but_not_those_always_missed():
    logits = torch.eye(6)[[0, 0, 1, 1]]
    assert macro_f1(logits, torch.tensor([0, 0, 1, 1])) == 1.0
    labels = torch.tensor([0, 0, 1, 2])
    assert macro_f1(logits, labels) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert macro_f1(logits, labels) == pytest.approx(metrics.f1_score(labels, [0, 0, 1, 1], average="macro"))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_a_loop_over_the_bins(bins):
    logits, labels = made_up(seed=1, skill=3)
    confidence, predicted = logits.double().softmax(-1).max(-1)
    confidence, right = confidence.numpy(), (predicted == labels).numpy()
    expected = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert ece(logits, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_is_zero_if_sure_and_right_and_one_if_sure_and_wrong():
    logits = 100 * torch.eye(3)
    assert ece(logits, torch.tensor([0, 1, 2])) == pytest.approx(0, abs=1e-12)
    assert ece(logits, torch.tensor([1, 2, 0])) == pytest.approx(1, abs=1e-12)
    # Half sure, three quarters right.
    assert ece(torch.zeros(4, 2), torch.tensor([0, 1, 0, 0])) == pytest.approx(0.25)


def test_rank_correlation_is_scipys_ties_included():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(8, (200,), generator=generator).float()
    b = a + torch.randint(5, (200,), generator=generator)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(b, b.exp()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_ranks_counted_one_by_one(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(6, (30,), generator=generator).double() for _ in range(2))

    # How many are lower, and half of those that are equal: ranks from ½ on, ties share one.
    def rank(values, x):
        return sum(float(v < x) + 0.5 * float(v == x) for v in values)

    x, y = (np.array([rank(values, v) for v in values]) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    expected = (x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum())
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
    assert spearman(a.float(), -b.float()) == pytest.approx(-expected, abs=1e-12)


def test_whoever_predicts_a_constant_ranks_nothing():
    assert spearman(torch.ones(4), torch.arange(4.0)) == 0
    assert spearman(torch.arange(4.0), torch.full((4,), 0.1)) == 0


def test_rank_correlation_refuses_what_would_make_it_wrong():
    numbers = torch.arange(4.0)
    assert "got (4,) and (3,)" in refusal(spearman, numbers, numbers[:3])
    assert "got (4, 1) and (4,)" in refusal(spearman, numbers[:, None], numbers)
    assert "two or more" in refusal(spearman, numbers[:1], numbers[:1])
    broken = numbers.clone()
    broken[2] = float("nan")
    for pair in ((broken, numbers), (numbers, broken)):
        assert "prediction or target of example 2 is not finite" in refusal(spearman, *pair)


def test_scores_refuse_what_would_make_them_wrong():
    logits, labels = made_up(examples=10)
    for score in (accuracy, macro_f1, ece):
        hidden = labels.clone()
        hidden[4] = IGNORED
        assert "example 4 is unlabelled (-100)" in refusal(score, logits, hidden)
        hidden[4] = 5
        assert "example 4 has label 5, but the classes are 0 to 4" in refusal(score, logits, hidden)
        broken = logits.clone()
        broken[7, 1] = float("nan")
        assert "the logits of example 7 are not finite" in refusal(score, broken, labels)
        assert "10 rows of logits for 9 labels" in refusal(score, logits, labels[:9])
        assert "0 rows of logits for 0 labels" in refusal(score, logits[:0], labels[:0])


# ----------------------------------------------------------------------- a model on a split


def test_scores_are_taken_over_the_whole_split_not_over_batches(task, model):
    labels = task.targets("test")
    with torch.no_grad():
        alone = [
            forward(model.eval(), task.encode("test").batch(torch.tensor([i]))).logits[0] for i in range(60)
        ]
    predicted = torch.stack(alone).argmax(-1)
    result = evaluate(model, task, batch_size=59, latency=False)  # the second batch holds one text
    assert result.examples == 60
    assert result.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert result.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert 0 < result.accuracy < 1
    for batch_size in (7, 60, 1000):
        assert evaluate(model, task, batch_size=batch_size, latency=False).accuracy == result.accuracy


def test_evaluation_switches_dropout_off_and_the_mode_back(task, model):
    first, second = predict(model, task), predict(model, task)
    assert torch.equal(first, second)
    assert first.shape == (60, 2)
    evaluate(model, task)
    assert model.training
    evaluate(model.eval(), task)
    assert not model.training


def test_an_evaluation_reports_size_and_speed_and_goes_into_json(task, model):
    result = evaluate(model, task)
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.bytes == 4 * result.parameters
    assert result.latency_ms > 0
    assert result.throughput > 0
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert "retention" not in result.to_dict()
    assert "accuracy" in str(result)
    assert "ms per text" in str(result)


def test_retention_is_the_share_of_the_teachers_score(task, model):
    teacher = small_bert(task, layers=1, width=32, seed=1)
    result = evaluate(model, task, teacher=teacher, latency=False)
    own, reference = (evaluate(m, task, latency=False).accuracy for m in (model, teacher))
    assert result.retention == pytest.approx(own / reference)
    assert evaluate(model, task, teacher=model, latency=False).retention == 1


def test_a_regression_is_scored_by_rank_correlation_and_squared_error():
    valence = load_task("valence", max_length=16).subset(30)
    model = small_bert(valence, layers=1, width=32, seed=0)
    result = evaluate(model, valence, "train", latency=False)
    predicted, targets = predict(model, valence, "train")[:, 0], valence.targets("train")
    assert result.accuracy is None
    assert result.score == pytest.approx(stats.spearmanr(predicted, targets).statistic, abs=1e-6)
    assert result.mean_squared_error == pytest.approx(
        float(np.mean((predicted - targets).numpy() ** 2)), rel=1e-5
    )


def test_models_are_timed_in_turns_and_the_least_disturbed_rounds_are_compared(task, monkeypatch):
    from kdtutor import evaluation

    order = []
    seconds = {"teacher": iter([9.0, 6.0, 7.0]), "student": iter([1.0, 3.0, 20.0])}

    def timed(model, *arguments):
        order.append(model)
        return next(seconds[model])

    monkeypatch.setattr("kdtutor.evaluation.speed.latency_ms", timed)
    found = evaluation.latencies_ms({"teacher": "teacher", "student": "student"}, task, rounds=3)
    assert order == ["teacher", "student"] * 3
    assert found == {"teacher": 6, "student": 1}


@pytest.mark.parametrize("texts", [1, 3, 12])
def test_latency_needs_no_more_texts_than_there_are(task, model, texts):
    few = task.subset(texts)
    assert latency_ms(model, few, "train") > 0
    assert model.training


def test_a_logit_that_is_not_finite_stops_the_evaluation_naming_the_example(task, model):
    encoded = task.encode("test")
    token = int(encoded.ids[encoded.offsets[31] + 1])
    first = next(i for i in range(60) if token in encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]])
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[token] = float("nan")
    assert f"example {first} are not finite" in refusal(evaluate, model, task)
    assert model.training


def test_unlabelled_or_missing_examples_are_not_scored(task, model):
    assert "is unlabelled (-100)" in refusal(evaluate, model, task.transfer(20), "train", latency=False)
    part = task.split("test")
    bare = replace(task, splits={"test": replace(part, targets=None)})
    assert "sentiment has no labels to compare with in its test split" in refusal(evaluate, model, bare)
    empty = replace(task, splits={"test": replace(part, texts=([],), targets=part.targets[:0], encodings={})})
    assert "the split is empty" in refusal(evaluate, model, empty)
    assert 'unknown split of sentiment "dev"' in refusal(evaluate, model, task, "dev")


def test_a_model_of_another_task_is_not_scored(task, model):
    assert "has 2 outputs" in refusal(evaluate, model, replace(task, labels=("a", "b", "c")))


def test_masked_lm_scores_are_means_over_all_masked_tokens(task):
    raw = replace(task, kind="masked-lm", labels=())
    model = small_bert(raw, layers=1, width=32, seed=0).train()
    scores = token_scores(model, raw, batch_size=60, seed=3)
    assert model.training
    assert scores == token_scores(model, raw, batch_size=60, seed=3)

    from kdtutor.data.masking import mask_tokens
    from kdtutor.data.tokens import length_bucketed_batches

    encoded = raw.encode("test")
    (index,) = length_bucketed_batches(encoded.lengths, 60)
    batch = mask_tokens(encoded.batch(index), raw.tokenizer, 0.15, torch.Generator().manual_seed(3))
    with torch.no_grad():
        probabilities = forward(model.eval(), batch).logits.double().log_softmax(-1)
    where = [
        (b, t) for b in range(60) for t in range(batch["labels"].shape[1]) if batch["labels"][b, t] != -100
    ]
    losses = [-float(probabilities[b, t, batch["labels"][b, t]]) for b, t in where]
    right = [int(probabilities[b, t].argmax() == batch["labels"][b, t]) for b, t in where]
    assert scores["masked_tokens"] == len(where)
    assert scores["loss"] == pytest.approx(math.fsum(losses) / len(where), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert scores["accuracy"] == pytest.approx(sum(right) / len(where))
    assert "was masked" in refusal(token_scores, model, raw, masking=0.0)
    result = evaluate(model, raw, batch_size=60, latency=False)
    assert result.score == result.accuracy == token_scores(model, raw, batch_size=60)["accuracy"]
    assert "perplexity" in str(result)


def test_a_masked_lm_whose_logits_are_not_finite_is_not_scored_and_a_hopeless_one_is(task):
    raw = replace(task, kind="masked-lm", labels=())
    model = small_bert(raw, layers=1, width=32, seed=0)
    with torch.no_grad():
        model.cls.predictions.bias[:1000] = 5000.0  # some token is always far likelier than the right one
    assert token_scores(model, raw)["perplexity"] == math.inf
    with torch.no_grad():
        model.cls.predictions.bias[7] = float("nan")
    message = refusal(evaluate, model, raw, latency=False)
    assert "the model's logits on sentiment" in message
    assert "are not finite" in message


# ----------------------------------------------------------------------- is a difference real?


def test_the_interval_over_seeds_is_that_of_students_table():
    interval = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3
    t = 2.776  # t(0.975; 4)
    assert interval.half_width == pytest.approx(t * math.sqrt(2.5) / math.sqrt(5), rel=1e-3)
    # t(0.975; 1), s/√n = 1
    assert mean_and_interval([0.0, 2.0]).half_width == pytest.approx(12.706, rel=1e-4)
    assert "n = 5" in str(interval)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 20, 51])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_interval_over_seeds_is_scipys(n, confidence):
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
    interval = mean_and_interval(values, confidence)
    assert interval.mean - interval.half_width == pytest.approx(low, rel=1e-9)
    assert interval.mean + interval.half_width == pytest.approx(high, rel=1e-9)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert mean_and_interval([0.8]).half_width == math.inf
    assert mean_and_interval([0.8, 0.8, 0.8]).half_width == 0
    assert "at least one" in refusal(mean_and_interval, [])
    assert "nan" in refusal(mean_and_interval, [0.8, float("nan")])
    assert "confidence = 95" in refusal(mean_and_interval, [0.8, 0.9], confidence=95)


def test_two_students_are_compared_by_mcnemars_exact_test():
    (a, labels), (b, _) = made_up(seed=2, skill=2.0), made_up(seed=2, skill=1.5)
    b = b + torch.randn(b.shape, generator=torch.Generator().manual_seed(5))
    right_a, right_b = a.argmax(-1) == labels, b.argmax(-1) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    assert only_a != only_b
    test = paired_test(a, b, labels)
    assert test.p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    assert test.difference == pytest.approx(accuracy(a, labels) - accuracy(b, labels))
    mirrored = paired_test(b, a, labels)
    assert (mirrored.p_value, mirrored.difference) == (test.p_value, -test.difference)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 3, 1.0), (8, 1, 20 / 512)]
)
def test_the_exact_test_by_hand(only_a, only_b, p):
    labels = torch.zeros(20, dtype=torch.long)
    a, b = torch.tensor([[1.0, 0.0]]).repeat(20, 1), torch.tensor([[1.0, 0.0]]).repeat(20, 1)
    b[:only_a] = torch.tensor([0.0, 1.0])
    a[20 - only_b :] = torch.tensor([0.0, 1.0])
    assert paired_test(a, b, labels).p_value == pytest.approx(p)


def test_students_are_compared_on_the_same_examples_only():
    logits, labels = made_up(examples=10)
    assert "9 rows of logits for 10 labels" in refusal(paired_test, logits, logits[:9], labels)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 30])
def test_two_methods_are_compared_over_seeds_by_the_paired_t_test(n):
    generator = np.random.default_rng(n)
    a = generator.normal(0.8, 0.02, n)
    b = a - generator.normal(0.01, 0.01, n)
    test, expected = paired_seeds_test(a, b), stats.ttest_rel(a, b)
    assert test.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert test.difference == pytest.approx(float(np.mean(a - b)))
    assert f"{n} seeds" in str(test)


@pytest.mark.parametrize("n", [2, 5, 6, 31, 5000])
@pytest.mark.parametrize("distance", [1e3, 30.0, 6.0, 0.1])
def test_a_difference_far_from_chance_has_a_small_p_and_neither_0_nor_less(n, distance):
    a = distance / n**0.5 + np.random.default_rng(n).normal(0, 1, n)
    found, expected = paired_seeds_test(a, 0 * a).p_value, stats.ttest_rel(a, 0 * a).pvalue
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_paired_t_test_at_its_edges():
    assert paired_seeds_test([0.5, 0.75], [0.5, 0.75]).p_value == 1
    assert paired_seeds_test([0.5, 0.75], [0.25, 0.5]).p_value == 0  # always the same difference
    assert "got 2 and 1" in refusal(paired_seeds_test, [1, 2], [1])
    assert "got 1 and 1" in refusal(paired_seeds_test, [1], [1])


def test_statistics_need_no_scipy(monkeypatch):
    """SciPy is not among the packages that a learner installs."""
    for name in [m for m in sys.modules if m.split(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert mean_and_interval([1.0, 2.0]).n == 2
    assert paired_seeds_test([1.0, 2.0, 4.0], [1.5, 2.0, 3.0]).p_value < 1
    logits, labels = made_up(examples=10)
    assert paired_test(logits, logits, labels).p_value == 1


def test_an_evaluation_without_a_score_prints_what_it_has():
    assert "parameters" in str(Evaluation("t", "test", 1, 10, 40, {"accuracy": 0.5}))
