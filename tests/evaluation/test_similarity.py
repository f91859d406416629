"""CKA against its definition by Gram matrices in float64, what leaves it as it is, and probes against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_task, model, refusal, same, weights
from sklearn.linear_model import Ridge

import kdtutor as kd
from kdtutor.data.task import Split
from kdtutor.evaluation.similarity import (
    cka_of_layers,
    layer_probes,
    layer_similarity,
    layer_states,
    linear_cka,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_gram_matrices(x: torch.Tensor, y: torch.Tensor) -> float:
    """HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), HSIC = tr(K H L H), K = X Xᵀ, H centres: Kornblith et al. 2019, eq. 3."""
    k, m = (np.asarray(z, np.float64) @ np.asarray(z, np.float64).T for z in (x, y))
    h = np.eye(len(k)) - np.full_like(k, 1 / len(k))

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ h @ b @ h))

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


# ------------------------------------------------------------------------------------------------ linear CKA


@pytest.mark.parametrize(("n", "d_x", "d_y"), [(40, 6, 9), (12, 30, 20), (2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_definition(n, d_x, d_y, dtype):
    x, y = numbers(n, d_x, seed=1) + 3, numbers(n, d_y, seed=2) - 1
    y[:, :2] += x[:, :2]
    expected = by_gram_matrices(x, y)
    assert linear_cka(x.to(dtype), y.to(dtype)).item() == pytest.approx(expected, rel=1e-4)
    assert linear_cka(y.to(dtype), x.to(dtype)).item() == pytest.approx(expected, rel=1e-4)


def test_rotating_moving_and_stretching_all_of_it_changes_nothing():
    x, y = numbers(50, 8, seed=1).double(), numbers(50, 5, seed=2).double()
    y[:, 0] += x[:, 0]
    before = linear_cka(x, y).item()
    rotation = torch.linalg.qr(numbers(8, 8, seed=3).double())[0]
    for changed in (x @ rotation, 7 * x, -x, x + 100 * numbers(8, seed=4), x[:, torch.randperm(8)]):
        assert linear_cka(changed, y).item() == pytest.approx(before, rel=1e-9)
        assert linear_cka(changed, x).item() == pytest.approx(1, rel=1e-9)


def test_another_linear_map_does_change_it():
    x = numbers(50, 8, seed=1).double()
    for matrix in (torch.diag(torch.tensor([10.0] + 7 * [1.0])), numbers(8, 8, seed=5)):
        assert linear_cka(x @ matrix.double(), x) < 0.95


def test_independent_representations_of_many_items_resemble_each_other_little_and_of_few_items_much():
    many, few = (linear_cka(numbers(n, 20, seed=1), numbers(n, 20, seed=2)) for n in (5000, 10))
    assert many < 0.01
    assert few > 0.5


def test_padding_never_counts():
    x, y = numbers(4, 7, 5, seed=1), numbers(4, 7, 6, seed=2)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None]
    plain = linear_cka(x[mask], y[mask])
    for junk in (1e6, float("nan")):
        assert torch.equal(linear_cka(x.masked_fill(~mask[..., None], junk), y, mask), plain)
        assert torch.equal(linear_cka(x, y.masked_fill(~mask[..., None], junk), mask.long()), plain)
    assert not torch.isclose(linear_cka(x, y), plain, rtol=1e-3)


def test_what_never_varies_resembles_nothing():
    x = numbers(9, 4)
    for still in (torch.ones(9, 3), torch.full((9, 3), 0.1), torch.zeros(9, 3)):
        assert linear_cka(still, x) == linear_cka(x, still) == linear_cka(still, still) == 0


@pytest.mark.parametrize(
    ("x", "y", "mask", "sentence"),
    [
        ((3, 4), (4, 4), None, "two representations of the same items"),
        ((1, 4), (1, 4), None, "at least two items"),
        ((2, 3, 4), (2, 3, 4), (3, 2), "the mask has shape"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, mask, sentence):
    mask = None if mask is None else torch.ones(mask)
    assert sentence in refusal(linear_cka, numbers(*x), numbers(*y), mask)


def test_what_is_not_finite_is_refused():
    x = numbers(5, 3)
    x[2, 1] = float("inf")
    assert "finite" in refusal(linear_cka, x, numbers(5, 3))


def test_half_precision_is_computed_in_float32():
    x, y = numbers(30, 5, seed=1).half(), numbers(30, 5, seed=2).half()
    assert linear_cka(x, y).dtype == torch.float32
    assert linear_cka(x, y).item() == pytest.approx(by_gram_matrices(x.float(), y.float()), rel=1e-4)


# ------------------------------------------------------------------------------------------------ layers of models


@pytest.fixture
def task():
    return make_task()


def test_a_map_has_a_row_for_each_layer_of_the_student_and_its_numbers_are_those_of_the_hidden_states(task):
    student, teacher = (
        kd.small_bert(task, layers=1, width=32, seed=1),
        kd.small_bert(task, layers=2, width=64, seed=2),
    )
    found = layer_similarity(student, teacher, task, split="test")
    assert found.shape == (2, 3)
    batch = task.encode("test").batch(torch.arange(12))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        h_s, h_t = (m.eval()(**inputs, output_hidden_states=True).hidden_states for m in (student, teacher))
    for i, s in enumerate(h_s):
        for j, t in enumerate(h_t):
            assert found[i, j].item() == pytest.approx(by_gram_matrices(s[mask], t[mask]), abs=1e-4)


def test_how_texts_are_batched_changes_nothing_and_the_models_stay_as_they_were(task):
    student = model(task, dropout=0.5).train()
    before = weights(student)
    part = task.split("train")
    together = layer_states(student, task, part)
    alone = [layer_states(student, task, part.select(torch.tensor([i]))) for i in range(len(part))]
    for layer, rows in enumerate(zip(*alone, strict=True)):
        torch.testing.assert_close(together[layer], torch.cat(rows), rtol=1e-4, atol=1e-5)
    assert student.training
    assert same(before, weights(student))


def test_a_text_counts_once_by_its_mean_or_by_its_first_token(task):
    student, part = model(task), task.split("test")
    tokens, means, first = (layer_states(student, task, part, rows) for rows in ("tokens", "mean", "first"))
    lengths = task.encode("test").lengths.tolist()
    for whole, mean, start in zip(tokens, means, first, strict=True):
        texts = whole.split(lengths)
        torch.testing.assert_close(mean, torch.stack([text.mean(0) for text in texts]))
        torch.testing.assert_close(start, torch.stack([text[0] for text in texts]))
    # [CLS] in its place is the same for every text, so before the first layer it resembles nothing.
    similar = layer_similarity(student, student, task, split="train", items="first")
    assert (similar[0] == 0).all() and similar[1, 1] == pytest.approx(1)


def test_a_model_resembles_itself_and_any_number_of_texts_is_the_same_choice(task):
    student = model(task)
    found = layer_similarity(student, student, task, split="train", texts=20)
    torch.testing.assert_close(found.diagonal(), torch.ones(2))
    assert torch.equal(found, layer_similarity(student, student, task, split="train", texts=20))
    assert "tokens, mean or first" in refusal(
        layer_similarity, student, student, task, items="words"
    ).replace('"', "")


# ------------------------------------------------------------------------------------------------ probes


def test_a_probe_is_ridge_regression_onto_the_classes(task):
    student = kd.small_bert(task, layers=2, width=32, seed=3)
    found = layer_probes(student, task, train=30, test=12, split="test")
    known, asked = task.split("train").sample(30), task.split("test").sample(12)
    assert len(found) == 3
    for layer, score in enumerate(found):
        x, z = (layer_states(student, task, part, "mean")[layer].double() for part in (known, asked))
        mean, spread = x.mean(0), x.std(0)
        onehot = np.eye(3)[known.targets.numpy()]
        ridge = Ridge(alpha=0.1 * len(x)).fit(((x - mean) / spread).numpy(), onehot)
        guesses = ridge.predict(((z - mean) / spread).numpy()).argmax(-1)
        assert score == pytest.approx((guesses == asked.targets.numpy()).mean())


def test_a_probe_reads_what_stands_there_and_unlabelled_texts_teach_it_nothing():
    texts = [
        f"{word} {filler}"
        for word in ("animal", "fish")
        for filler in ("a small furry", "tree", "or the sweet")
    ]
    split = Split((texts * 20,), torch.tensor([0, 0, 0, 1, 1, 1] * 20))
    task = make_task()
    told = replace(task, splits={"train": split, "validation": split})
    assert layer_probes(model(task), told)[-1] == 1
    hidden = Split(split.texts, torch.where(torch.arange(120) < 60, split.targets, -100))
    assert layer_probes(model(task), replace(told, splits={"train": hidden, "validation": split}))[-1] == 1
    shuffled = Split(split.texts, torch.randint(2, (120,), generator=torch.Generator().manual_seed(0)))
    assert layer_probes(model(task), replace(told, splits={"train": shuffled, "validation": split}))[-1] < 0.9


def test_probes_ask_for_classes_and_for_one_vector_a_text(task):
    regression = make_task("regression")
    assert "a probe reads classes" in refusal(layer_probes, model(regression), regression)
    assert "one vector per text" in refusal(layer_probes, model(task), task, items="tokens")


def test_several_representations_are_compared_at_once():
    xs, ys = (
        [numbers(20, 4, seed=1), numbers(20, 6, seed=2)],
        [numbers(20, 5, seed=seed) for seed in (3, 4, 5)],
    )
    found = cka_of_layers(xs, ys)
    expected = [[linear_cka(x, y).item() for y in ys] for x in xs]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
