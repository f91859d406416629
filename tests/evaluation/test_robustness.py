"""Broken texts, attacks and calibration: against brute force and definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import SENTENCE, make_task, model, refusal

from kdtutor.data.corruption import corrupted, split_words
from kdtutor.data.load import load_task
from kdtutor.data.synonyms import synonyms
from kdtutor.evaluation import ensembles
from kdtutor.evaluation.attacks import _gradient, attack, attack_rates
from kdtutor.evaluation.calibration import auroc, energy, fit_temperature, risk_coverage
from kdtutor.evaluation.robustness import other_domain, robustness_curve, transfer
from kdtutor.evaluation.scores import accuracy, predict
from kdtutor.models.forward import logits_of
from kdtutor.models.static import static_student
from kdtutor.objectives.logits import HardLabels
from kdtutor.training.distillation import Distillation


@pytest.fixture(scope="module")
def task():
    return load_task("sentiment").subset(600)


@pytest.fixture(scope="module")
def student(task):
    made = static_student(task, width=32, seed=0)
    settings = {"epochs": 8, "learning_rate": 0.02, "batch_size": 32, "max_norm": 100, "progress": False}
    Distillation(made, None, task, HardLabels(), **settings).run()
    return made.eval()


@pytest.fixture(scope="module")
def attacked(student, task):
    return attack(student, task, task.texts("test")[:40], task.targets("test")[:40])


# ------------------------------------------------------------------------------------------ curves


def test_a_curve_is_the_accuracy_on_the_broken_texts(student, task):
    found = robustness_curve(student, task, "drop", [0, 0.5])
    assert found[0] == accuracy(predict(student, task), task.targets("test"))
    broken = corrupted(task, "drop", 0.5)
    assert found[1] == accuracy(predict(student, broken), task.targets("test"))
    assert found[0] > found[1]


def test_a_tokenizer_without_capitals_does_not_see_them(student, task):
    assert len({*robustness_curve(student, task, "case", [0, 1])}) == 1


def test_curves_are_of_classes(student):
    regression = make_task("regression")
    assert "measured by classes" in refusal(robustness_curve, model(regression), regression, "typo", [0])


def test_another_domain_asks_the_same_question(task):
    shifted = other_domain(task)
    valence = load_task("valence").split("test")
    wanted = [
        (text, int(rating > 0))
        for text, rating, domain in zip(valence.texts[0], valence.targets, valence.domains, strict=True)
        if domain == "products" and rating != 0
    ]
    assert list(zip(shifted.texts("test"), shifted.targets("test").tolist(), strict=True)) == wanted
    assert len(wanted) > 100
    assert "it has movies, products" in refusal(other_domain, task, domain="books")
    assert "has 25 classes" in refusal(other_domain, "supersense")


# ------------------------------------------------------------------------------------------ attacks


def test_an_attack_by_synonyms_is_what_it_says(student, task, attacked):
    assert sum(one.succeeded for one in attacked) > 3
    for one in attacked:
        guess = int(logits_of(student, task.encode_texts(one.broken)).argmax())
        assert one.was_right == (int(logits_of(student, task.encode_texts(one.text)).argmax()) == one.label)
        assert one.succeeded == (one.was_right and guess != one.label)
        before, words = split_words(one.text)
        after, _ = split_words(one.broken)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert sorted(changed) == sorted(one.changes)
        assert all(new.lower() in synonyms()[old.lower()] for old, new in changed)
        assert len(changed) <= max(1, int(0.3 * len(words)))


def test_the_first_word_that_is_changed_means_most_to_the_model(student, task, attacked):
    one = next(one for one in attacked if one.changes and len(one.text.split()) > 8)
    pieces, words = split_words(one.text)

    def probability(text: str) -> float:
        return float(logits_of(student, task.encode_texts(text)).double().softmax(-1)[0, one.label])

    without = {
        i: probability("".join(pieces[:i] + pieces[i + 1 :]))
        for i in words
        if pieces[i].lower() in synonyms()
    }
    # A word none of whose synonyms helps is passed over.
    tried = sorted(without, key=without.get)
    places = [i for i in tried if pieces[i] == one.changes[0][0]]
    assert places
    for i in tried[: tried.index(places[0])]:
        swaps = ("".join([*pieces[:i], other, *pieces[i + 1 :]]) for other in synonyms()[pieces[i].lower()])
        assert all(probability(text) >= probability(one.text) - 1e-6 for text in swaps)


def test_the_gradient_by_a_word_is_that_of_the_definition(task):
    made = static_student(task, width=8, dropout=0.0, seed=1).double().eval()
    text = "a warm and funny film"
    found = _gradient(made, task, text, 1)
    # The mean of vectors, a linear layer, softmax: ∂L/∂e = Wᵀ(p − y) / L, the same for each token.
    ids = task.encode_texts(text).ids.long()
    features = made.encoder.embeddings.weight[ids].mean(0)
    p = (made.classifier.weight @ features + made.classifier.bias).softmax(0)
    wanted = made.classifier.weight.T @ (p - torch.tensor([0.0, 1.0], dtype=torch.float64)) / len(ids)
    torch.testing.assert_close(found.double(), wanted.expand(len(ids), -1), atol=1e-6, rtol=1e-4)


def test_hotflip_takes_the_word_that_the_gradient_names(student, task):
    texts, labels = task.texts("test")[:20], task.targets("test")[:20]
    found = attack(student, task, texts, labels, "gradient", at_most=0)
    one = next(one for one in found if one.changes)
    gradient = _gradient(student, task, one.text, one.label)
    table, vocabulary = student.encoder.embeddings.weight.detach(), task.tokenizer.get_vocab()
    ids = task.encode_texts(one.text).ids.tolist()
    whole = [i for name, i in vocabulary.items() if len(name) > 2 and name.isascii() and name.isalpha()]
    old, new = one.changes[0]
    at = ids.index(vocabulary[old.lower()])
    gains = (table[whole] - table[ids[at]]) @ gradient[at]
    assert vocabulary[new.lower()] == whole[int(gains.argmax())]
    assert attack_rates(found)["changes"] <= 1


def test_a_gradient_attack_works_on_a_frozen_bert_and_leaves_it_as_it_was():
    task = make_task()
    teacher = model(task).requires_grad_(False).eval()
    labels = predict(teacher, task).argmax(-1)
    found = attack(teacher, task, task.texts("test"), labels, "gradient", at_most=1)
    assert any(one.changes for one in found)
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_rates_are_counted(attacked):
    right = sum(one.was_right for one in attacked)
    fooled = sum(one.succeeded for one in attacked)
    rates = attack_rates(attacked)
    assert rates["before"] == right / 40
    assert rates["after"] == (right - fooled) / 40
    assert rates["success"] == fooled / right


def test_attacks_transfer_where_they_fool_another_model(student, task, attacked):
    assert transfer(attacked, student, task) == (1.0, sum(one.succeeded for one in attacked))
    other = static_student(task, width=16, seed=5).eval()
    found = [one for one in attacked if one.succeeded]

    def right(texts):
        return [
            int(logits_of(other, task.encode_texts(text)).argmax()) == one.label
            for text, one in zip(texts, found, strict=True)
        ]

    before, after = right([one.text for one in found]), right([one.broken for one in found])
    share, counted = transfer(attacked, other, task)
    assert counted == sum(before)
    if counted:
        assert share == sum(b and not a for b, a in zip(before, after, strict=True)) / counted
    assert transfer([], other, task)[1] == 0


def test_what_is_no_attack_is_refused(student, task):
    assert 'unknown method of attack "hotflip"' in refusal(attack, student, task, ["a"], [0], "hotflip")
    assert "2 texts have 1 labels" in refusal(attack, student, task, ["a", "b"], [0])
    assert "no attacks" in refusal(attack_rates, [])


# ------------------------------------------------------------------------------------------ calibration


def noisy(n: int = 400, sharp: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn at their own probabilities, and then made `sharp` times as large."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, generator=draw, dtype=torch.float64) * 1.5
    return sharp * z, torch.multinomial(z.softmax(-1), 1, generator=draw)[:, 0]


def test_the_fitted_temperature_is_where_the_loss_is_least():
    z, y = noisy()
    found = fit_temperature(z, y)

    def loss(t: float) -> float:
        return -float((z / t).log_softmax(-1)[torch.arange(len(y)), y].mean())

    grid = [math.exp(step / 500) for step in range(-2000, 2000)]
    assert found == pytest.approx(min(grid, key=loss), rel=0.003)
    assert found == pytest.approx(3.0, rel=0.2)
    assert fit_temperature(z.float() / 3, y) == pytest.approx(found / 3, rel=1e-4)


def test_risk_and_coverage_are_counted_from_the_surest():
    z = torch.tensor([[4.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 2.0]])
    coverage, risk = risk_coverage(z, torch.tensor([0, 1, 1, 0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_energy_is_minus_the_log_of_the_sum():
    z = torch.tensor([[1.0, 2.0, 3.0]])
    assert energy(z, 2.0).item() == pytest.approx(-2 * math.log(sum(math.exp(v / 2) for v in (1, 2, 3))))
    assert (energy(z + 5) - energy(z)).item() == pytest.approx(-5)


def test_the_area_under_the_roc_is_the_share_of_pairs_in_order():
    a, b = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 3.0])
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a.tolist() for y in b.tolist()]
    assert auroc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    assert "one value of each" in refusal(auroc, a, b[:0])


# ------------------------------------------------------------------------------------------ weights of teachers


def test_mixture_weights_are_the_best_on_the_labels():
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (200,), generator=draw)
    good = 2.0 * torch.nn.functional.one_hot(labels, 3) + torch.randn(200, 3, generator=draw)
    other = 1.5 * torch.nn.functional.one_hot(labels, 3) + torch.randn(200, 3, generator=draw)
    bad = torch.roll(good, 1, dims=1)
    found = ensembles.mixture_weights(torch.stack([good, bad, other]), labels)
    p = torch.stack([good, bad, other]).double().softmax(-1)[:, torch.arange(200), labels]

    def likelihood(w) -> float:
        return float((torch.tensor(w, dtype=torch.float64)[:, None] * p).sum(0).log().sum())

    grid = [(a / 50, b / 50, 1 - (a + b) / 50) for a in range(51) for b in range(51 - a)]
    best = max(grid, key=likelihood)
    assert sum(found) == pytest.approx(1)
    assert likelihood(found) >= likelihood(best) - 1e-3
    assert found == pytest.approx(best, abs=0.03)
    assert found[1] < 0.1


def test_weights_are_fitted_on_the_split_that_is_named(task, student):
    other = static_student(task, width=16, seed=5).eval()
    z = torch.stack([predict(each, task, "validation") for each in (student, other)])
    wanted = ensembles.mixture_weights(z, task.targets("validation"))
    assert ensembles.fit_weights([student, other], task) == wanted


def test_disagreement_is_of_pairs():
    z = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1], [0, 2, 2, 2]])]
    assert ensembles.disagreement(z) == pytest.approx((1 / 4 + 2 / 4 + 2 / 4) / 3)
    assert "nobody to disagree" in refusal(ensembles.disagreement, z[:1])


def test_the_sentence_of_the_helpers_has_words_with_synonyms():
    assert any(word in synonyms() for word in SENTENCE.split())
