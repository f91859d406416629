"""Relations among the texts of a batch, and DKD and DIST, against definitions written from the papers in float64."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import kdtutor as kd
from kdtutor.objectives import (
    contrastive,
    decoupled_kd,
    pearson_kd,
    relational_angle,
    relational_distance,
    similarity_preserving,
    soft_targets,
)
from kdtutor.objectives.parse import parse_objective
from kdtutor.objectives.rows import ObjectiveError


def random(*shape, seed=0, scale=1.0, dtype=torch.float64):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * drawn).to(dtype)


def gradient(function, student, *rest, **how):
    student = student.detach().clone().requires_grad_()
    [result] = torch.autograd.grad(function(student, *rest, **how), student)
    return result


# ------------------------------------------------------------------------------------------------ the definitions


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def length(x):
    return math.sqrt(math.fsum(v * v for v in x))


def define_distance(student, teacher):
    ratios = []
    for x in (student, teacher):
        distances = {(i, j): length(x[i] - x[j]) for i, j in itertools.permutations(range(len(x)), 2)}
        positive = [d for d in distances.values() if d > 0]
        mean = math.fsum(positive) / len(positive) if positive else 1.0
        ratios.append({pair: d / mean for pair, d in distances.items()})
    return np.mean([huber(ratios[0][pair] - ratios[1][pair]) for pair in ratios[0]])


def define_angle(student, teacher):
    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return math.fsum(a * b) / (length(a) * length(b)) if length(a) and length(b) else 0.0

    triples = itertools.permutations(range(len(student)), 3)
    return np.mean([huber(cosine(student, *t) - cosine(teacher, *t)) for t in triples])


def define_similarity(student, teacher):
    n, grams = len(student), []
    for x in (student, teacher):
        gram = [[math.fsum(a * b) for b in x] for a in x]
        grams.append([[value / length(row) for value in row] for row in gram])
    return math.fsum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(n) for j in range(n)) / n**2


def define_contrastive(student, teacher, T=0.1):
    losses = []
    for i, s in enumerate(student):
        z = [math.fsum(s * t) / (length(s) * length(t)) / T for t in teacher]
        losses.append(math.log(math.fsum(math.exp(x - max(z)) for x in z)) + max(z) - z[i])
    return np.mean(losses)


FORMULAS = {
    "distance": (relational_distance, define_distance, 7),
    "angle": (relational_angle, define_angle, 7),
    "similarity": (similarity_preserving, define_similarity, 7),
    "contrastive": (contrastive, define_contrastive, 5),
}
every = pytest.mark.parametrize("function, define, width", FORMULAS.values(), ids=FORMULAS)


# ------------------------------------------------------------------------------------------------ values


@every
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("n", [3, 6])
def test_a_batch_has_the_value_of_its_definition(function, define, width, scale, n):
    student, teacher = random(n, 5, seed=1, scale=scale), random(n, width, seed=2)
    assert function(student, teacher).item() == pytest.approx(
        define(student.numpy(), teacher.numpy()), rel=1e-9
    )
    narrow = function(student.float(), teacher.float()).item()
    assert narrow == pytest.approx(function(student, teacher).item(), rel=1e-4)


@every
def test_gradients_are_those_of_finite_differences(function, define, width):
    teacher = random(4, width, seed=2)
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), random(4, 5, seed=1).requires_grad_())


@every
def test_the_order_of_texts_does_not_matter(function, define, width):
    student, teacher, order = random(6, 5, seed=1), random(6, width, seed=2), torch.tensor([3, 0, 5, 1, 4, 2])
    whole, moved = function(student, teacher), function(student[order], teacher[order])
    assert moved.item() == pytest.approx(whole.item(), rel=1e-12)
    # But whose vector is whose does.
    assert abs(function(student, teacher[order]).item() / whole.item() - 1) > 1e-3


@pytest.mark.parametrize("function", [relational_distance, relational_angle], ids=["distance", "angle"])
def test_neither_scale_nor_place_nor_turn_changes_rkd(function):
    student, teacher = random(5, 4, seed=1), random(5, 6, seed=2)
    turn = torch.linalg.qr(random(4, 4, seed=3))[0]
    moved = 7 * (student @ turn) + random(1, 4, seed=4)
    assert function(moved, teacher).item() == pytest.approx(function(student, teacher).item(), rel=1e-9)
    assert function(moved, student).item() == pytest.approx(0, abs=1e-12)


def test_similarity_preserving_forgets_a_common_scale_but_not_one_texts_length():
    student, teacher = random(5, 4, seed=1), random(5, 6, seed=2)
    assert similarity_preserving(9 * student, teacher).item() == pytest.approx(
        similarity_preserving(student, teacher).item()
    )
    longer = student * torch.tensor([[5.0], [1], [1], [1], [1]])
    assert abs(similarity_preserving(longer, teacher) / similarity_preserving(student, teacher) - 1) > 0.01


def test_contrast_is_least_where_each_text_is_nearest_to_itself():
    vectors = random(6, 5, seed=1)
    same, far = contrastive(vectors, vectors), contrastive(vectors, vectors[[1, 2, 3, 4, 5, 0]])
    assert same < 0.5 * math.log(6) < far
    assert contrastive(torch.ones(6, 5), torch.ones(6, 5)).item() == pytest.approx(math.log(6))  # chance


# ------------------------------------------------------------------------------------------------ what is degenerate


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "case",
    ["one text", "two texts", "equal texts", "two of them equal", "zeros", "a collapsed student", "large"],
)
def test_degenerate_batches_give_no_nan_in_value_or_gradient(function, define, width, dtype, case):
    student, teacher = random(4, 5, seed=1), random(4, width, seed=2)
    if case == "one text":
        student, teacher = student[:1], teacher[:1]
    elif case == "two texts":
        student, teacher = student[:2], teacher[:2]
    elif case == "equal texts":
        student, teacher = student[:1].expand(4, 5), teacher[:1].expand(4, width)
    elif case == "two of them equal":
        student, teacher = student[[0, 0, 1, 2]], teacher[[0, 0, 1, 2]]
    elif case == "zeros":
        student, teacher = torch.zeros(4, 5), torch.zeros(4, width)
    elif case == "a collapsed student":
        student = student[:1].expand(4, 5)
    elif case == "large":
        student, teacher = 1e4 * student, 1e4 * teacher
    student, teacher = student.to(dtype), teacher.to(dtype)
    loss, slope = function(student, teacher), gradient(function, student, teacher)
    assert loss.isfinite() and slope.isfinite().all() and loss >= -1e-6
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if case in ("one text", "equal texts") and function in (relational_distance, relational_angle):
        assert loss.item() == 0 and (slope == 0).all()


@pytest.mark.parametrize("function", [relational_distance, relational_angle], ids=["distance", "angle"])
def test_texts_that_differ_by_rounding_alone_are_equal(function):
    """Equal texts in one batch come out of a float32 model a few last digits apart."""
    same = random(1, 64, seed=1, dtype=torch.float32)
    student = same + 1e-7 * random(6, 64, seed=3, dtype=torch.float32)
    assert (gradient(function, student, random(6, 8, seed=2).float()) == 0).all()
    few = torch.cat([student[:2], random(3, 64, seed=4, dtype=torch.float32)])
    assert gradient(function, few, random(5, 8, seed=2).float()).norm() < 1


def test_two_texts_have_no_distance_but_the_mean_itself():
    assert relational_distance(random(2, 5, seed=1), random(2, 7, seed=2)).item() == 0


@every
def test_nothing_reads_a_value_back_from_the_device(function, define, width):
    """Tensors on "meta" have shapes and no values, so whatever must look at one raises."""
    student, teacher = (
        torch.zeros(4, 5, device="meta", requires_grad=True),
        torch.zeros(4, width, device="meta"),
    )
    function(student, teacher).backward()


def test_neither_do_decoupled_and_pearson_kd():
    z = torch.zeros(4, 5, device="meta", requires_grad=True)
    (
        decoupled_kd(z, z.detach(), torch.zeros(4, dtype=torch.long, device="meta"))
        + pearson_kd(z, z.detach())
    ).backward()


@every
def test_the_teacher_is_a_constant_unless_its_projection_learns(function, define, width):
    student, teacher = random(4, 5, seed=1).requires_grad_(), random(4, width, seed=2).requires_grad_()
    function(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert (teacher.grad is None) == (function is not contrastive)


@every
def test_vectors_that_are_none_or_of_other_texts_are_refused(function, define, width):
    with pytest.raises(ObjectiveError, match=r"\(4, 5\) .*\(3, 5\)"):
        function(torch.zeros(4, 5), torch.zeros(3, 5))
    if function is not contrastive:
        with pytest.raises(ObjectiveError, match=r"one vector per text, \(N, D\) of each model"):
            function(torch.zeros(4, 3, 5), torch.zeros(4, 3, 5))


# ------------------------------------------------------------------------------------------------ the terms


TERMS = [kd.RelationalDistance, kd.RelationalAngle, kd.SimilarityPreserving]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
BATCH = {"attention_mask": MASK, "labels": torch.tensor([0, 1, 0, 2])}


def model(width=8, depth=2, labels=3):
    config = SimpleNamespace(hidden_size=width, num_hidden_layers=depth, num_labels=labels)
    return SimpleNamespace(config=config)


def states(width, depth, seed, texts=4):
    layers = tuple(random(texts, 4, width, seed=seed + i) for i in range(depth + 1))
    return SimpleNamespace(logits=None, hidden_states=layers)


@pytest.mark.parametrize("kind", TERMS)
def test_a_term_has_one_value_a_micro_batch(kind):
    student, teacher = states(8, 2, 1), states(6, 4, 20)
    term = kind(layers="every second")
    term.prepare(model(8, 2), model(6, 4))
    pairs = [(student.hidden_states[i][:, 0], teacher.hidden_states[j][:, 0]) for i, j in ((1, 2), (2, 4))]
    expected = np.mean([kind.formula(*pair).item() for pair in pairs])
    for reduction in ("sum", "mean"):
        assert term(student, teacher, BATCH, reduction).item() == pytest.approx(expected)
    assert term(student, teacher, BATCH).shape == (1,)
    assert term.count(BATCH) == 1


@pytest.mark.parametrize("kind", TERMS)
def test_the_mean_of_a_texts_tokens_leaves_padding_out(kind):
    student, teacher = states(8, 2, 1), states(6, 4, 20)
    term = kind(pooling="mean")
    term.prepare(model(8, 2), model(6, 4))
    vectors = []
    for outputs in (student, teacher):
        last = outputs.hidden_states[-1]
        vectors.append(torch.stack([last[i, : MASK[i].sum()].mean(0) for i in range(4)]))
        last[~MASK.bool()] = math.nan
    assert term(student, teacher, BATCH, "mean").item() == pytest.approx(kind.formula(*vectors).item())


@pytest.mark.parametrize("kind, fewest", [*zip(TERMS, (3, 3, 2), strict=True), (kd.Contrastive, 2)])
def test_too_few_texts_have_no_relation_and_do_not_count(kind, fewest):
    for texts in range(1, 5):
        student, teacher = states(8, 2, 1, texts), states(6, 4, 20, texts)
        batch = {"attention_mask": MASK[:texts], "labels": BATCH["labels"][:texts]}
        term = kind()
        term.prepare(model(8, 2), model(6, 4))
        term.double()
        losses = term(student, teacher, batch)
        assert len(losses) == term.count(batch) == int(texts >= fewest)
        assert texts >= fewest or term(student, teacher, batch, "sum").item() == 0


def test_contrast_learns_two_maps_into_one_space():
    student, teacher = states(8, 2, 1), states(6, 4, 20)
    term = kd.Contrastive(temperature=0.2, width=5)
    term.prepare(model(8, 2), model(6, 4))
    term.double()
    [(ours, theirs)] = term.projections
    assert (ours.weight.shape, theirs.weight.shape) == ((5, 8), (5, 6))
    vectors = [
        outputs.hidden_states[-1][:, 0].numpy() @ w.weight.detach().numpy().T
        for outputs, w in ((student, ours), (teacher, theirs))
    ]
    loss = term(student, teacher, BATCH, "mean")
    assert loss.item() == pytest.approx(define_contrastive(*vectors, T=0.2))
    loss.backward()
    assert all(w.weight.grad.abs().sum() > 0 for w in (ours, theirs))
    assert term.settings() == {"weight": 1.0}  # a live run's slider of T is for soft targets


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: kd.RelationalDistance(pooling="max"), r"pooling is .cls. or .mean., not 'max'"),
        (lambda: kd.RelationalAngle("every third"), "unknown map of layers"),
        (lambda: kd.Contrastive(width=0), "width is a whole number, 1 or more, not 0"),
        (lambda: kd.Contrastive(temperature=0), "temperature must be"),
        (lambda: kd.DecoupledKD(alpha=-1), "alpha must be a finite number, 0 or more"),
        (lambda: kd.DecoupledKD(beta="8"), "beta must be a finite number, 0 or more"),
        (lambda: kd.PearsonKD(gamma=math.nan), "gamma must be a finite number, 0 or more"),
        (lambda: kd.DecoupledKD().prepare(model(labels=1), model(labels=1)), "use LogitsMSE"),
        (lambda: kd.PearsonKD().prepare(model(labels=1), model(labels=1)), "use LogitsMSE"),
        (lambda: kd.SimilarityPreserving().prepare(model(), None), "learns from a teacher"),
        (
            lambda: kd.RelationalDistance({9: 1}).prepare(model(), model()),
            r"student has no hidden states \[9\]",
        ),
    ],
)
def test_settings_and_models_that_do_not_fit_are_refused_before_training(make, said):
    with pytest.raises(ObjectiveError, match=said):
        make()


@pytest.mark.parametrize(
    ("formula", "printed"),
    [
        ("RelationalAngle()", "RelationalAngle(layers='last', pooling='cls')"),
        ("SimilarityPreserving([1], 'mean')", "SimilarityPreserving(layers=[1], pooling='mean')"),
        (
            "Contrastive(0.2, width=64)",
            "Contrastive(temperature=0.2, width=64, layers='last', pooling='cls')",
        ),
        ("DecoupledKD(beta=2)", "DecoupledKD(alpha=1, beta=2, temperature=4)"),
        ("2 * PearsonKD(1, 2, 4)", "2 * PearsonKD(beta=1, gamma=2, temperature=4)"),
    ],
)
def test_their_formula_can_be_read_and_is_printed(formula, printed):
    assert repr(parse_objective(formula)) == printed == repr(parse_objective(printed))


# ------------------------------------------------------------------------------------------------ DKD


def softmax(z, T=1.0):
    e = [math.exp(x / T - max(z) / T) for x in z]
    return [x / math.fsum(e) for x in e]


def kl(p, q):
    return math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x)


def define_decoupled(z_s, z_t, y, T):
    """TCKD and NCKD of one text, from both models' probabilities."""
    p, q = softmax(z_t, T), softmax(z_s, T)
    target = kl((p[y], 1 - p[y]), (q[y], 1 - q[y]))
    rest = [[x / (1 - d[y]) for i, x in enumerate(d) if i != y] for d in (p, q)]
    return target, kl(*rest)


@pytest.mark.parametrize("T", [0.5, 1, 4, 20])
@pytest.mark.parametrize("classes", [2, 3, 25])
def test_decoupled_kd_is_the_label_against_the_rest_and_the_rest_alone(T, classes):
    z_s, z_t = random(6, classes, seed=1, scale=2), random(6, classes, seed=2, scale=2)
    y = torch.tensor([0, 1, classes - 1, 0, 1, 0])
    rows = [define_decoupled(*row, T) for row in zip(z_s.tolist(), z_t.tolist(), y.tolist(), strict=True)]
    found = decoupled_kd(z_s, z_t, y, 1.5, 8, T, reduction="none")
    np.testing.assert_allclose(found, [T**2 * (1.5 * a + 8 * b) for a, b in rows], rtol=1e-7, atol=1e-11)
    if classes == 2:  # nothing is left among the rest
        assert decoupled_kd(z_s, z_t, y, 0, 1, T).item() == pytest.approx(0, abs=1e-12)


def test_soft_targets_are_decoupled_kd_whose_beta_is_the_teachers_doubt():
    z_s, z_t, y = random(1, 5, seed=1), random(1, 5, seed=2), torch.tensor([3])
    doubt = 1 - softmax(z_t[0].tolist(), 2)[3]
    assert decoupled_kd(z_s, z_t, y, 1, doubt, 2).item() == pytest.approx(
        soft_targets(z_s, z_t, 2).item(), rel=1e-9
    )


def test_unlabelled_texts_and_their_nan_do_not_count_in_decoupled_kd(monkeypatch):
    z_s, z_t, y = random(4, 5, seed=1), random(4, 5, seed=2), torch.tensor([0, -100, 4, -100])
    right = decoupled_kd(z_s[::2], z_t[::2], y[::2]).item()
    z_s[1::2] = math.nan
    for on_cpu in (True, False):
        monkeypatch.setattr(torch.Tensor, "is_cpu", on_cpu, raising=False)
        assert decoupled_kd(z_s, z_t, y).item() == pytest.approx(right)
        assert (gradient(decoupled_kd, z_s, z_t, y)[1::2] == 0).all()
    term, batch = kd.DecoupledKD(), BATCH | {"labels": y}
    outputs = SimpleNamespace(logits=z_s), SimpleNamespace(logits=z_t)
    assert len(term(*outputs, batch)) == term.count(batch) == 2


# ------------------------------------------------------------------------------------------------ DIST


def define_pearson(z_s, z_t, beta, gamma, T):
    p_s, p_t = (np.array([softmax(row, T) for row in z]) for z in (z_s.tolist(), z_t.tolist()))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    return T**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize("T", [0.5, 1, 4, 100])
@pytest.mark.parametrize("classes", [2, 25])
def test_pearson_kd_is_one_less_the_correlation_of_texts_and_of_classes(T, classes):
    z_s, z_t = random(6, classes, seed=1), random(6, classes, seed=2)
    expected = define_pearson(z_s, z_t, 2, 3, T)
    assert pearson_kd(z_s, z_t, 2, 3, T).item() == pytest.approx(expected, rel=1e-7)
    assert pearson_kd(z_s.float(), z_t.float(), 2, 3, T).item() == pytest.approx(expected, rel=1e-3)


def test_padding_has_no_part_in_a_classs_correlation(monkeypatch):
    z_s, z_t = random(2, 3, 5, seed=1), random(2, 3, 5, seed=2)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    right = pearson_kd(z_s[mask.bool()], z_t[mask.bool()]).item()
    z_s[~mask.bool()] = math.nan
    for on_cpu in (True, False):
        monkeypatch.setattr(torch.Tensor, "is_cpu", on_cpu, raising=False)
        assert pearson_kd(z_s, z_t, mask=mask).item() == pytest.approx(right)
        assert gradient(pearson_kd, z_s, z_t, mask=mask).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_does_not_vary_has_no_correlation_and_no_gradient(dtype):
    varied, level = random(4, 5, seed=1, dtype=dtype), torch.full((4, 5), 0.1, dtype=dtype)
    assert pearson_kd(level, varied).item() == pytest.approx(2)
    assert (gradient(pearson_kd, level, varied) == 0).all()
    same = varied[:1].expand(4, 5)  # classes do not vary over equal texts; within a text they do
    assert gradient(pearson_kd, same, varied).isfinite().all()
    one = pearson_kd(varied[:1], random(1, 5, seed=2, dtype=dtype), beta=1)
    assert one.item() == pytest.approx(
        pearson_kd(varied[:1], random(1, 5, seed=2, dtype=dtype), gamma=0).item()
    )


def test_pearson_kd_has_one_value_a_micro_batch():
    outputs = SimpleNamespace(logits=random(4, 5, seed=1)), SimpleNamespace(logits=random(4, 5, seed=2))
    term = kd.PearsonKD(1, 2, 4)
    expected = pearson_kd(outputs[0].logits, outputs[1].logits, 1, 2, 4)
    assert term(*outputs, BATCH).shape == (1,) and term.count(BATCH) == 1
    assert torch.equal(term(*outputs, BATCH, "sum"), expected)
    assert kd.PearsonKD().needs == kd.DecoupledKD().needs == {"logits"}
