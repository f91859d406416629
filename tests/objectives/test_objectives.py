"""Objectives against computations written from their definitions: float64 or decimals, one row at a time."""

import copy
import math
import re
from decimal import Decimal, localcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtutor import objectives as kd
from kdtutor.errors import KDTutorError
from kdtutor.objectives import rows
from kdtutor.objectives.hidden import CosineHidden, HiddenStates
from kdtutor.objectives.logits import (
    Blend,
    HardLabels,
    LogitsMSE,
    MaskedLM,
    SoftCrossEntropy,
    SoftTargets,
    blend,
)
from kdtutor.objectives.rows import ObjectiveError
from kdtutor.objectives.terms import Objective

TEMPERATURES = [0.05, 0.5, 1, 2, 4, 20, 100]

# ----------------------------------------------------------------------- the definitions, once more


def log_softmax(z):
    """log softmax of one row of floats, with the largest logit taken out so that exp stays finite."""
    z = np.asarray(z, dtype=np.float64)
    return z - z.max() - math.log(math.fsum(np.exp(z - z.max())))


def define_kl(z_p, z_q, T):
    p, q = log_softmax(np.asarray(z_p) / T), log_softmax(np.asarray(z_q) / T)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def define_soft_targets(z_s, z_t, T):
    return T**2 * define_kl(z_t, z_s, T)


def define_entropy(z, T):
    return -math.fsum(math.exp(a) * a for a in log_softmax(np.asarray(z) / T))


def define_soft_cross_entropy(z_s, z_t, T):
    p, q = log_softmax(np.asarray(z_t) / T), log_softmax(np.asarray(z_s) / T)
    return -(T**2) * math.fsum(math.exp(a) * b for a, b in zip(p, q, strict=True))


def define_mse(a, b):
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def define_cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def probabilities(z, T=1.0):
    return np.exp([log_softmax(row / T) for row in z.detach().double().numpy()])


# ----------------------------------------------------------------------- material


def random(*shape, seed=0, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def pair(*shape, scale=3.0, dtype=torch.float64):
    return random(*shape, seed=1, scale=scale, dtype=dtype), random(*shape, seed=2, scale=scale, dtype=dtype)


def numpy_rows(*tensors):
    return zip(*(tensor.flatten(0, -2).double().numpy() for tensor in tensors), strict=True)


def gradient(function, student, *rest, **keywords):
    student = student.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(function(student, *rest, **keywords), student)
    return result


def close(actual, expected, rtol=1e-9, atol=1e-12):
    actual = actual.detach().double().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Every formula of a student's and a teacher's tensor of one shape, and its definition for one row.
PAIRED = {
    "soft_targets": (partial(kd.soft_targets, temperature=2), partial(define_soft_targets, T=2)),
    "soft_cross_entropy": (
        partial(kd.soft_cross_entropy, temperature=2),
        partial(define_soft_cross_entropy, T=2),
    ),
    "logits_mse": (kd.logits_mse, define_mse),
    "cosine_hidden": (kd.cosine_hidden, define_cosine),
    "hidden_states_mse": (kd.hidden_states_mse, define_mse),
    "kl_divergence": (partial(kd.kl_divergence, temperature=2), partial(define_kl, T=2)),
}
paired = pytest.mark.parametrize("function, define", PAIRED.values(), ids=PAIRED)


# All formulas in the shape of the paired ones; the label of a row is its least likely class.
EVERY = {name: function for name, (function, _) in PAIRED.items()} | {
    "hard_labels": lambda student, _, **how: kd.hard_labels(student, student.detach().argmin(-1), **how),
    "masked_lm": lambda student, _, **how: kd.masked_lm(student, student.detach().argmin(-1), **how),
    "uniform_targets": lambda student, _, **how: kd.uniform_targets(student, **how),
    "entropy": lambda student, _, **how: kd.entropy(student, 2, **how),
}
every = pytest.mark.parametrize("function", EVERY.values(), ids=EVERY)


@pytest.fixture(params=["cpu", "as on a GPU"])
def device_way(request, monkeypatch):
    """Padded rows are left out on a CPU and zeroed on a GPU: run a test both ways, on any machine."""
    if request.param != "cpu":
        monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)


# ----------------------------------------------------------------------- values


@pytest.mark.parametrize("classes", [2, 25])
@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("name", ["soft_targets", "soft_cross_entropy"])
def test_soft_losses_have_the_value_of_their_definition_at_every_temperature(name, T, classes):
    z_s, z_t = pair(6, classes)
    define = {"soft_targets": define_soft_targets, "soft_cross_entropy": define_soft_cross_entropy}[name]
    expected = [define(s, t, T) for s, t in numpy_rows(z_s, z_t)]
    close(getattr(kd, name)(z_s, z_t, T, reduction="none"), expected, rtol=1e-9)


@paired
def test_every_reduction_has_the_value_of_its_definition(function, define):
    a, b = pair(5, 4)
    expected = [define(x, y) for x, y in numpy_rows(a, b)]
    close(function(a, b, reduction="none"), expected)
    close(function(a, b, reduction="sum"), math.fsum(expected))
    close(function(a, b, reduction="mean"), math.fsum(expected) / 5)
    close(function(a, b), math.fsum(expected) / 5)


@paired
def test_only_tokens_inside_the_mask_are_averaged(function, define, device_way):
    a, b = pair(3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    keep = mask.bool()
    expected = [define(x, y) for x, y in numpy_rows(a[keep], b[keep])]
    for tokens in (mask, keep):
        close(function(a, b, mask=tokens), math.fsum(expected) / 6)
        close(function(a, b, mask=tokens, reduction="sum"), math.fsum(expected))
        close(function(a, b, mask=tokens, reduction="none"), expected)
    close(function(a, b), np.mean([define(x, y) for x, y in numpy_rows(a, b)]))  # no mask: all twelve


def test_hard_labels_are_minus_the_log_probability_of_the_label():
    z, y = random(6, 5), torch.tensor([0, 4, 2, -100, 1, 1])
    expected = [-log_softmax(row)[label] for row, label in zip(z.numpy(), y, strict=True) if label != -100]
    close(kd.hard_labels(z, y, reduction="none"), expected)
    close(kd.hard_labels(z, y), np.mean(expected))
    close(kd.hard_labels(z, y.int()), np.mean(expected))  # int32, as Parquet files store them
    close(kd.hard_labels(z, torch.where(y == -100, 7, y), ignore_index=7), np.mean(expected))


def test_hard_labels_of_a_regression_are_squared_errors():
    z, y = random(4, 1), torch.tensor([0.5, -100.0, 2.0, -3.0], dtype=torch.float64)
    expected = [(z[i, 0].item() - y[i].item()) ** 2 for i in (0, 2, 3)]
    close(kd.hard_labels(z, y, reduction="none"), expected)
    close(kd.hard_labels(z, y), np.mean(expected))


def test_masked_lm_averages_over_the_masked_tokens_alone(device_way):
    z = random(2, 3, 7)
    y = torch.tensor([[-100, 6, -100], [0, -100, 3]])
    expected = [-log_softmax(z[i, j].numpy())[y[i, j]] for i, j in [(0, 1), (1, 0), (1, 2)]]
    close(kd.masked_lm(z, y), np.mean(expected))
    close(kd.masked_lm(z.flatten(0, 1), y.flatten(), reduction="none"), expected)
    close(kd.masked_lm(z, y, mask=torch.tensor([[1, 1, 1], [1, 0, 0]])), np.mean(expected[:2]))


def test_hidden_states_are_compared_after_the_projection():
    h_s, h_t, w = random(2, 3, 4, seed=1), random(2, 3, 6, seed=2), random(6, 4, seed=3)
    expected = [define_mse(w.numpy() @ s, t) for s, t in numpy_rows(h_s, h_t)]
    close(kd.hidden_states_mse(h_s, h_t, lambda h: h @ w.T), np.mean(expected))


@pytest.mark.parametrize("T", TEMPERATURES)
def test_soft_cross_entropy_is_soft_targets_plus_the_entropy_of_the_teacher(T):
    z_s, z_t = pair(6, 5)
    entropies = [define_entropy(row, T) for row in z_t.numpy()]
    close(kd.entropy(z_t, T, reduction="none"), entropies)
    close(kd.soft_cross_entropy(z_s, z_t, T), kd.soft_targets(z_s, z_t, T).item() + T**2 * np.mean(entropies))


def test_entropy_runs_from_zero_to_log_c():
    close(kd.entropy(torch.tensor([[1e4, 0.0, 0.0]])), 0)
    close(kd.entropy(torch.zeros(3, 8, dtype=torch.float64)), math.log(8))


def test_log_probabilities_serve_as_logits_of_a_kl_divergence():
    a, b = pair(4, 6)
    close(kd.kl_divergence(a.log_softmax(-1), b.log_softmax(-1)), kd.kl_divergence(a, b).item())
    assert kd.kl_divergence(a, a).item() == 0


# ----------------------------------------------------------------------- gradients


@pytest.mark.parametrize("T", TEMPERATURES)
def test_the_soft_gradient_is_t_times_the_difference_of_probabilities(T):
    z_s, z_t = pair(6, 5)
    expected = T * (probabilities(z_s, T) - probabilities(z_t, T)) / 6
    close(gradient(kd.soft_targets, z_s, z_t, T), expected, rtol=1e-8, atol=1e-13)
    close(gradient(kd.soft_cross_entropy, z_s, z_t, T), expected, rtol=1e-8, atol=1e-13)


def test_the_hard_gradient_is_probability_minus_label_and_zero_where_unlabelled():
    z, y = random(4, 5), torch.tensor([3, -100, 0, 0])
    expected = probabilities(z)
    expected[[0, 2, 3], [3, 0, 0]] -= 1
    expected[1] = 0
    close(gradient(kd.hard_labels, z, y), expected / 3)


def test_the_gradient_of_squared_differences_is_linear():
    a, b = pair(4, 5)
    expected = 2 * (a - b).numpy() / (4 * 5)
    close(gradient(kd.logits_mse, a, b), expected)
    close(gradient(kd.hidden_states_mse, a, b), expected)


def test_the_cosine_gradient_turns_the_student_towards_the_teacher_and_keeps_its_length():
    a, b = pair(4, 5)
    unit_a, unit_b = (x.numpy() / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = (unit_a * unit_b).sum(1, keepdims=True)
    expected = -(unit_b - cosine * unit_a) / np.linalg.norm(a, axis=1, keepdims=True) / 4
    result = gradient(kd.cosine_hidden, a, b)
    close(result, expected)
    close((result * a).sum(1), np.zeros(4))


def test_the_projection_gets_the_gradient_of_a_linear_regression():
    h, t, w = random(6, 4, seed=1), random(6, 3, seed=2), random(3, 4, seed=3).requires_grad_()
    kd.hidden_states_mse(h, t, lambda x: x @ w.T).backward()
    error = h.numpy() @ w.detach().numpy().T - t.numpy()
    close(w.grad, 2 * error.T @ h.numpy() / (6 * 3))


@pytest.mark.parametrize(
    "name", ["soft_targets", "soft_cross_entropy", "logits_mse", "cosine_hidden", "hidden_states_mse"]
)
def test_the_teacher_is_a_constant(name):
    student, teacher = (x.requires_grad_() for x in pair(3, 4))
    getattr(kd, name)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@every
def test_a_teacher_that_ran_in_inference_mode_can_be_learned_from(function):
    with torch.inference_mode():
        teacher = random(3, 4, dtype=torch.float32) + 1
    student = random(3, 4, seed=5, dtype=torch.float32).requires_grad_()
    function(student, teacher).backward()
    assert student.grad.isfinite().all()


# ----------------------------------------------------------------------- the limit of high temperature


def test_at_high_temperature_soft_targets_tend_to_half_the_mean_square_of_the_centred_difference():
    z_s, z_t = pair(5, 6)
    difference = (z_s - z_t).numpy()
    limit = 0.5 * np.mean((difference - difference.mean(1, keepdims=True)) ** 2, axis=1)
    errors = []
    for T in (1e2, 1e3, 1e4):
        exact = [soft_targets_in_decimals(s, t, T) for s, t in numpy_rows(z_s, z_t)]
        errors.append(max(abs(e / x - 1) for e, x in zip(exact, limit, strict=True)))
        close(kd.soft_targets(z_s, z_t, T, reduction="none"), exact, rtol=1e-6)
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # the distance from the limit falls as 1/T
    assert errors[2] < 1e-2
    close(kd.soft_targets(z_s, z_t, 1e4, reduction="none"), limit, rtol=1e-2)


def test_that_limit_is_half_the_logit_mse_only_if_the_logits_are_centred():
    z_s, z_t = pair(5, 6)
    c_s, c_t = (z - z.mean(1, keepdim=True) for z in (z_s, z_t))
    close(kd.soft_targets(z_s, z_t, 1e4), 0.5 * kd.logits_mse(c_s, c_t).item(), rtol=1e-2)
    assert kd.logits_mse(z_s, z_t) > 1.02 * kd.logits_mse(c_s, c_t)
    # So is its gradient: a class gets its centred difference, divided by the number of classes.
    expected = ((c_s - c_t) / 6 / 5).numpy()
    close(gradient(kd.soft_targets, z_s, z_t, 1e5), expected, rtol=1e-2, atol=1e-5)


def soft_targets_in_decimals(z_s, z_t, T):
    """The definition in 60 decimal digits, softmax included: no cancellation is left at any temperature."""
    with localcontext(prec=60):
        s, t = ([(Decimal(float(x)) / Decimal(T)).exp() for x in z] for z in (z_s, z_t))
        q, p = ([x / sum(e) for x in e] for e in (s, t))
        return float(Decimal(T) ** 2 * sum(a * (a / b).ln() for a, b in zip(p, q, strict=True)))


# ----------------------------------------------------------------------- precision


@pytest.mark.parametrize("T, tolerance", [(0.5, 2e-6), (1, 2e-6), (4, 2e-6), (20, 5e-6), (100, 2e-4)])
def test_float32_soft_targets_stay_near_float64_at_every_temperature(T, tolerance):
    z_s, z_t = pair(200, 25, dtype=torch.float32)
    exact = kd.soft_targets(z_s.double(), z_t.double(), T, reduction="none")
    close(kd.soft_targets(z_s, z_t, T, reduction="none"), exact.numpy(), rtol=tolerance)


def test_at_a_high_temperature_the_bare_formula_would_be_less_precise():
    z_s, z_t = pair(200, 25, dtype=torch.float32)
    exact = kd.soft_targets(z_s.double(), z_t.double(), 100, reduction="none")
    log_s, log_t = (z_s / 100).log_softmax(-1), (z_t / 100).log_softmax(-1)
    bare = 100**2 * (log_t.exp() * (log_t - log_s)).sum(-1)
    ours = kd.soft_targets(z_s, z_t, 100, reduction="none")
    assert (bare - exact).abs().mean() > 4 * (ours - exact).abs().mean()


@pytest.mark.parametrize("T", TEMPERATURES)
def test_float32_gradients_stay_near_float64_at_every_temperature(T):
    z_s, z_t = pair(50, 25, dtype=torch.float32)
    exact = gradient(kd.soft_targets, z_s.double(), z_t.double(), T, reduction="sum")
    error = gradient(kd.soft_targets, z_s, z_t, T, reduction="sum") - exact
    assert error.norm() < 2e-5 * exact.norm()


@every
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(function, half):
    a, b = pair(4, 5, dtype=half)
    loss = function(a, b)
    assert loss.dtype == torch.float32
    assert loss == function(a.float(), b.float())
    assert gradient(function, a, b).dtype == half


@every
def test_float64_stays_float64(function):
    assert function(*pair(4, 5)).dtype == torch.float64


EXTREMES = {
    "sure and wrong": ([1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0]),
    "sure and right": ([1e4, -1e4, -1e4, -1e4], [1e4, -1e4, -1e4, -1e4]),
    "sure student, clueless teacher": ([1e4, -1e4, 1e4, -1e4], [0, 0, 0, 0]),
    "clueless student, sure teacher": ([0, 0, 0, 0], [-1e4, -1e4, 1e4, -1e4]),
    "all alike, far from zero": ([1e4, 1e4, 1e4, 1e4], [-1e4, -1e4, -1e4, -1e4]),
    "tiny differences": ([1e-6, 0, 0, -1e-6], [0, 1e-6, 0, 0]),
}


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("z_s, z_t", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("name", ["soft_targets", "soft_cross_entropy"])
def test_extreme_logits_give_no_nan_and_the_defined_value(name, z_s, z_t, T):
    define = {"soft_targets": define_soft_targets, "soft_cross_entropy": define_soft_cross_entropy}[name]
    student, teacher = torch.tensor([z_s]).float(), torch.tensor([z_t]).float()
    loss = getattr(kd, name)(student, teacher, T)
    close(loss, define(z_s, z_t, T), rtol=1e-5, atol=2e-7 * T**2)
    expected = T * (probabilities(student, T) - probabilities(teacher, T))
    close(gradient(getattr(kd, name), student, teacher, T), expected, rtol=1e-5, atol=1e-7 * T)


@every
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_formula_gives_nan_in_value_or_gradient(function, scale, dtype):
    a, b = pair(40, 7, scale=scale, dtype=dtype)
    for student, teacher in ((a, b), (a, a), (a, torch.zeros_like(a)), (a.clamp(-1e4, 1e4).sign() * 1e4, b)):
        assert function(student, teacher, reduction="none").isfinite().all()
        assert gradient(function, student, teacher).isfinite().all()


LOGITS = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(LOGITS, LOGITS), min_size=2, max_size=9), st.floats(0.05, 100))
def test_soft_targets_of_any_logits_are_finite_not_negative_and_pull_no_harder_than_t(logits, T):
    z_s, z_t = torch.tensor(logits, dtype=torch.float32).T.unsqueeze(1)
    loss = kd.soft_targets(z_s, z_t, T).item()
    assert math.isfinite(loss) and loss >= -1e-6 * T**2  # not below 0, up to rounding
    assert (gradient(kd.soft_targets, z_s, z_t, T).abs() <= 1.001 * T).all()


# ----------------------------------------------------------------------- what must not matter


@every
@pytest.mark.parametrize("garbage", [0.0, 1e30, math.nan, math.inf, -math.inf])
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(function, garbage, device_way):
    a, b = pair(2, 3, 5)
    pad = torch.full((2, 2, 5), garbage, dtype=torch.float64)
    padded_a, padded_b = torch.cat([a, pad], 1), torch.cat([b, pad], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    for reduction in ("mean", "sum"):
        close(
            function(padded_a, padded_b, mask=mask, reduction=reduction),
            function(a, b, reduction=reduction).item(),
        )
        result = gradient(function, padded_a, padded_b, mask=mask, reduction=reduction)
        close(result[mask.bool()], gradient(function, a, b, reduction=reduction).flatten(0, 1).numpy())
        assert (result[~mask.bool()] == 0).all()
    close(function(padded_a, padded_b, mask=mask, reduction="none"), function(a, b, reduction="none").numpy())


def test_a_nan_in_the_padding_does_not_reach_the_projection(device_way):
    term = HiddenStates()
    term.prepare(model(4), model(6))
    h_s, h_t = random(2, 3, 4, dtype=torch.float32), random(2, 3, 6, dtype=torch.float32)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    clean = torch.autograd.grad(
        term(hidden(h_s), hidden(h_t), {"attention_mask": mask}, "mean"), term.parameters()
    )
    h_s[1, 1:], h_t[1, 1:] = math.nan, math.inf
    dirty = torch.autograd.grad(
        term(hidden(h_s), hidden(h_t), {"attention_mask": mask}, "mean"), term.parameters()
    )
    assert torch.equal(clean[0], dirty[0])


def test_unlabelled_rows_change_nothing_whatever_they_hold(device_way):
    z, y = random(3, 4), torch.tensor([0, 3, 1])
    more = torch.cat([z, torch.full((2, 4), math.nan, dtype=torch.float64)])
    labels = torch.cat([y, torch.tensor([-100, -100])])
    close(kd.hard_labels(more, labels), kd.hard_labels(z, y).item())
    result = gradient(kd.hard_labels, more, labels)
    close(result[:3], gradient(kd.hard_labels, z, y).numpy())
    assert (result[3:] == 0).all()


@every
def test_a_batch_without_a_single_item_has_loss_zero_and_gradient_zero(function, device_way):
    a, b = torch.full((2, 3, 4), math.nan), torch.full((2, 3, 4), math.nan)
    mask = torch.zeros(2, 3)
    for reduction in ("mean", "sum"):
        assert function(a, b, mask=mask, reduction=reduction).item() == 0
        assert (gradient(function, a, b, mask=mask, reduction=reduction) == 0).all()
    assert function(a, b, mask=mask, reduction="none").shape == (0,)
    assert function(torch.zeros(0, 4), torch.zeros(0, 4)).item() == 0


@pytest.mark.parametrize("name", ["soft_targets", "soft_cross_entropy", "kl_divergence"])
def test_a_shift_of_all_logits_changes_no_soft_loss(name):
    z_s, z_t = pair(4, 5)
    function = partial(getattr(kd, name), temperature=3)
    shift_s, shift_t = random(4, 1, seed=7, scale=100), random(4, 1, seed=8, scale=100)
    close(function(z_s + shift_s, z_t + shift_t), function(z_s, z_t).item())
    close(gradient(function, z_s + shift_s, z_t + shift_t), gradient(function, z_s, z_t).numpy(), atol=1e-13)


def test_a_shift_of_all_logits_changes_the_logit_mse_but_not_cross_entropy():
    z_s, z_t = pair(4, 5)
    labels = torch.tensor([0, 1, 2, 3])
    close(kd.hard_labels(z_s + 50, labels), kd.hard_labels(z_s, labels).item())
    assert kd.logits_mse(z_s + 50, z_t) > 50 * kd.logits_mse(z_s, z_t)


@every
def test_micro_batches_add_up_to_the_whole_batch(function):
    a, b = pair(12, 5)
    whole, whole_gradient = function(a, b), gradient(function, a, b)
    for cuts in ([12], [6, 6], [1, 11], [5, 4, 3]):
        student = a.clone().requires_grad_()
        total = 0.0
        for part in torch.arange(12).split(cuts):
            # Divided by the whole batch's count, before backward.
            loss = function(student[part], b[part], reduction="none").sum() / 12
            loss.backward()
            total += loss.item()
        close(total, whole.item())
        close(student.grad, whole_gradient.numpy())


def test_micro_batches_with_padding_add_up_only_if_the_count_is_global():
    a, b = pair(4, 3, 5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    whole = kd.soft_targets(a, b, 2, mask=mask).item()
    sums = [
        kd.soft_targets(a[i:j], b[i:j], 2, mask=mask[i:j], reduction="sum").item()
        for i, j in [(0, 2), (2, 4)]
    ]
    close(sum(sums) / 6, whole)
    means = [kd.soft_targets(a[i:j], b[i:j], 2, mask=mask[i:j]).item() for i, j in [(0, 2), (2, 4)]]
    assert abs(sum(means) / 2 / whole - 1) > 1e-3  # the mean of means is another number


# ----------------------------------------------------------------------- these tests can fail


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_the_usual_mistakes_give_another_value():
    z_s, z_t, T = random(6, 5, seed=1), random(6, 5, seed=2, scale=8), 4
    right = kd.soft_targets(z_s, z_t, T).item()
    log_s, log_t = (z_s / T).log_softmax(-1), (z_t / T).log_softmax(-1)
    wrong = {
        "no T²": kd.kl_divergence(z_t, z_s, T),
        "T for T²": T * kd.kl_divergence(z_t, z_s, T),
        "mean over classes too": T**2 * F.kl_div(log_s, log_t.exp(), reduction="mean"),
        "arguments swapped": kd.soft_targets(z_t, z_s, T),
        "T on the teacher alone": T**2 * F.kl_div(z_s.log_softmax(-1), log_t.exp(), reduction="batchmean"),
        "T on the student alone": T**2 * F.kl_div(log_s, z_t.softmax(-1), reduction="batchmean"),
        "softmax over the batch": T**2
        * F.kl_div((z_s / T).log_softmax(0), (z_t / T).softmax(0), reduction="batchmean"),
        "softmax for log-softmax": T**2 * F.kl_div(log_s.exp(), log_t.exp(), reduction="batchmean"),
        "logits for log-probabilities": T**2 * F.kl_div(z_s / T, log_t.exp(), reduction="batchmean"),
        "sign lost": T**2 * (log_t.exp() * log_s).sum(-1).mean(),
        "sum over the batch": T**2 * F.kl_div(log_s, log_t.exp(), reduction="sum"),
    }
    close(T**2 * F.kl_div(log_s, log_t.exp(), reduction="batchmean"), right)  # torch's way to get it right
    for mistake, value in wrong.items():
        assert abs(value.item() / right - 1) > 0.05, mistake


def test_batchmean_on_tokens_is_another_number():
    z_s, z_t = pair(2, 3, 5)
    wrong = F.kl_div(z_s.log_softmax(-1), z_t.softmax(-1), reduction="batchmean")
    close(wrong, 3 * kd.soft_targets(z_s, z_t, 1).item())  # divided by 2 texts, not by 6 tokens


def test_cross_entropy_at_the_temperature_of_the_soft_targets_is_another_number():
    z, y = random(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    assert abs(kd.hard_labels(z / 4, y) / kd.hard_labels(z, y) - 1) > 0.05


# ----------------------------------------------------------------------- the device is not waited for


def test_nothing_in_a_formula_reads_a_value_back_from_the_device():
    """Tensors on "meta" have shapes and no values, so whatever must look at one raises."""
    a = torch.zeros(2, 3, 4, device="meta", requires_grad=True)
    b, mask = torch.zeros(2, 3, 4, device="meta"), torch.ones(2, 3, device="meta")
    for function in EVERY.values():
        for reduction in ("mean", "sum"):
            function(a, b, mask=mask, reduction=reduction).backward()
    with pytest.raises(
        (NotImplementedError, RuntimeError)
    ):  # "none" with a mask has to look, and is found out
        kd.logits_mse(a, b, mask=mask, reduction="none")


def test_no_term_reads_a_value_back_from_the_device():
    batch = {
        "labels": torch.zeros(2, dtype=torch.int64, device="meta"),
        "attention_mask": torch.ones(2, 3, device="meta"),
    }
    outputs = SimpleNamespace(
        logits=torch.zeros(2, 5, device="meta", requires_grad=True),
        hidden_states=[torch.zeros(2, 3, 4, device="meta", requires_grad=True)] * 3,
    )
    goal = blend() + SoftCrossEntropy() + LogitsMSE() + MaskedLM() + CosineHidden() + HiddenStates()
    goal(outputs, outputs, batch).backward()
    assert all(term.count(batch).device.type == "meta" for term in goal.terms)


def test_where_every_item_counts_nothing_is_copied():
    a = random(2, 3, 4)
    for mask in (None, torch.ones(2, 3)):
        (kept,), rest = rows.valid_rows(mask, "mean", a)
        assert kept.data_ptr() == a.data_ptr() and rest is None


# ----------------------------------------------------------------------- terms


def model(width=8, depth=2, labels=5, **extra):
    return SimpleNamespace(
        config=SimpleNamespace(hidden_size=width, num_hidden_layers=depth, num_labels=labels, **extra)
    )


def outputs(logits=None, hidden_states=None):
    return SimpleNamespace(logits=logits, hidden_states=hidden_states, attentions=None)


def hidden(*layers):
    return outputs(hidden_states=layers)


@pytest.fixture
def batch():
    """Both models' outputs and a batch: 4 texts of up to 3 tokens, the last one without a label."""
    z_s, z_t = pair(4, 5)
    h_s = tuple(random(4, 3, 8, seed=i) for i in (10, 11, 12))
    h_t = tuple(random(4, 3, 8, seed=i) for i in (20, 21, 22, 23, 24))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    inputs = {"labels": torch.tensor([0, 4, 2, -100]), "attention_mask": mask}
    return outputs(z_s, h_s), outputs(z_t, h_t), inputs


TERMS = [
    HardLabels(),
    SoftTargets(3),
    SoftCrossEntropy(3),
    LogitsMSE(),
    CosineHidden(),
    HiddenStates(),
    MaskedLM(),
]


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_a_term_gives_one_value_for_each_item_it_counts_before_it_runs(term, batch):
    student, teacher, inputs = batch
    losses = term(student, teacher, inputs)
    count = term.count(inputs)
    assert losses.dim() == 1 and count.dim() == 0
    assert len(losses) == count
    close(term(student, teacher, inputs, reduction="sum"), losses.sum().item())
    close(term(student, teacher, inputs, reduction="mean"), losses.mean().item())


@pytest.mark.parametrize("term", TERMS[:4] + TERMS[-1:], ids=repr)
@pytest.mark.parametrize("selected", [True, False], ids=["rows selected", "whole batch"])
def test_terms_count_tokens_where_labels_are_per_token(term, selected):
    """Masked LM: the loop hands over (n, V) logits and (n,) labels; by hand (B, L, V) and (B, L) do too."""
    z_s, z_t = pair(2, 3, 5)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    labels = torch.tensor([[-100, 2, -100], [0, -100, -100]])
    inputs = {"labels": labels, "attention_mask": mask}
    if selected:
        z_s, z_t, inputs["labels"] = z_s[mask.bool()], z_t[mask.bool()], labels[mask.bool()]
    losses = term(outputs(z_s), outputs(z_t), inputs)
    assert len(losses) == term.count(inputs) == (5 if term.needs_teacher else 2)


def test_terms_are_their_formulas(batch):
    student, teacher, inputs = batch
    z_s, z_t, mask = student.logits, teacher.logits, inputs["attention_mask"]
    expected = {
        HardLabels(): kd.hard_labels(z_s, inputs["labels"]),
        SoftTargets(3): kd.soft_targets(z_s, z_t, 3),
        SoftCrossEntropy(3): kd.soft_cross_entropy(z_s, z_t, 3),
        LogitsMSE(): kd.logits_mse(z_s, z_t),
        MaskedLM(): kd.masked_lm(z_s, inputs["labels"]),
        CosineHidden(): kd.cosine_hidden(student.hidden_states[-1], teacher.hidden_states[-1], mask=mask),
        HiddenStates(): kd.hidden_states_mse(student.hidden_states[-1], teacher.hidden_states[-1], mask=mask),
    }
    for term, value in expected.items():
        assert torch.equal(term(student, teacher, inputs, "mean"), value), term


def test_label_smoothing_is_a_blend_with_a_uniform_teacher(batch):
    student, _, inputs = batch
    smoothed = 0.9 * HardLabels() + 0.1 * kd.UniformTargets()
    inputs = {**inputs, "labels": torch.tensor([0, 4, 2, 1])}
    expected = F.cross_entropy(student.logits, inputs["labels"], label_smoothing=0.1)
    close(smoothed(student, None, inputs), expected.item())
    assert not smoothed.needs_teacher


def test_uniform_targets_are_minus_the_mean_log_probability(batch):
    student, _, inputs = batch
    expected = [-math.fsum(log_softmax(row)) / 5 for row in student.logits.numpy()]
    losses = kd.UniformTargets()(student, None, inputs)
    assert len(losses) == kd.UniformTargets().count(inputs) == 4  # it asks for no label
    close(losses, expected)
    with pytest.raises(ObjectiveError, match="one output"):
        kd.UniformTargets().prepare(model(labels=1), None)


def test_unlabelled_examples_teach_through_soft_targets_alone(batch):
    student, teacher, inputs = batch
    inputs = {**inputs, "labels": torch.full((4,), -100)}
    assert HardLabels().count(inputs) == 0 and SoftTargets().count(inputs) == 4
    close(
        blend(0.5, 2)(student, teacher, inputs),
        0.5 * kd.soft_targets(student.logits, teacher.logits, 2).item(),
    )


def test_regression_learns_from_scores_and_the_teacher_together():
    inputs = {"labels": torch.tensor([0.5, -100.0, 2.0]), "attention_mask": torch.ones(3, 2)}
    z_s, z_t = pair(3, 1, dtype=torch.float32)
    goal = 0.5 * HardLabels() + 0.5 * LogitsMSE()
    goal.prepare(model(labels=1), model(labels=1))
    hard = np.mean([(z_s[0, 0] - 0.5) ** 2, (z_s[2, 0] - 2) ** 2])
    close(
        goal(outputs(z_s), outputs(z_t), inputs),
        0.5 * hard + 0.5 * np.mean((z_s - z_t).numpy() ** 2),
        rtol=1e-6,
    )


def test_terms_say_what_they_need():
    goal = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()
    assert goal.needs == {"logits", "hidden_states"} and goal.needs_teacher
    assert (0.5 * HardLabels() + MaskedLM()).needs_teacher is False
    assert HardLabels().needs == {"logits"} and CosineHidden().needs == {"hidden_states"}
    assert (0 * SoftTargets() + HardLabels()).needs_teacher  # its weight may rise at any step


def test_the_masked_tokens_are_enough_only_if_no_term_reads_other_logits():
    assert (MaskedLM() + CosineHidden()).positions == "masked"
    assert (MaskedLM() + SoftTargets()).positions == "valid"
    assert Objective([SoftTargets()]).positions == "valid"


# ----------------------------------------------------------------------- hidden states


def test_equal_widths_need_no_projection(batch):
    term = HiddenStates()
    term.prepare(model(8, 2), model(8, 4))
    assert not list(term.parameters())


def test_a_projection_is_a_parameter_of_the_objective_for_each_pair_of_layers():
    goal = HardLabels() + HiddenStates({1: 2, 2: 4})
    goal.prepare(model(4, 2), model(6, 4))
    parameters = dict(goal.named_parameters())
    assert [p.shape for p in parameters.values()] == [(6, 4), (6, 4)]
    assert all(p.requires_grad for p in parameters.values()) and set(parameters) == set(goal.state_dict())
    student, teacher = (
        [random(2, 3, 4, seed=i).float() for i in range(3)],
        [random(2, 3, 6, seed=i).float() for i in range(5)],
    )
    goal.terms[1](hidden(*student), hidden(*teacher), {"attention_mask": torch.ones(2, 3)}, "mean").backward()
    assert all(p.grad.abs().sum() > 0 for p in parameters.values())


def test_a_second_run_starts_with_a_new_projection():
    term = HiddenStates()
    term.prepare(model(4), model(6))
    first = term.projections[0].weight
    term.prepare(model(4), model(6))
    assert len(list(term.parameters())) == 1 and not torch.equal(first, term.projections[0].weight)
    term.prepare(model(6), model(6))
    assert not list(term.parameters())


def test_pairs_of_layers_are_averaged_and_negative_indices_count_from_the_end(batch):
    student, teacher, inputs = batch
    term = HiddenStates({1: 2, -1: -1})
    term.prepare(model(8, 2), model(8, 4))
    mse = partial(kd.hidden_states_mse, mask=inputs["attention_mask"])
    h_s, h_t = student.hidden_states, teacher.hidden_states
    close(term(student, teacher, inputs, "mean"), ((mse(h_s[1], h_t[2]) + mse(h_s[2], h_t[4])) / 2).item())
    assert term.count(inputs) == 9


def test_the_map_of_layers_is_copied():
    layers = {1: 2}
    term = HiddenStates(layers)
    layers[5] = 6
    assert term.layers == {1: 2}


def test_real_configurations_name_their_width_and_depth():
    from transformers import BertConfig, DistilBertConfig

    student = SimpleNamespace(config=DistilBertConfig(dim=24, n_layers=3, n_heads=2, vocab_size=9))
    teacher = SimpleNamespace(
        config=BertConfig(hidden_size=48, num_hidden_layers=6, num_attention_heads=2, vocab_size=9)
    )
    term = HiddenStates({3: 6})
    term.prepare(student, teacher)
    assert term.projections[0].weight.shape == (48, 24)
    with pytest.raises(ObjectiveError, match=r"student has no hidden states \[4\].*3"):
        HiddenStates({4: 6}).prepare(student, teacher)


# ----------------------------------------------------------------------- arithmetic


def test_an_objective_is_the_formula_that_it_prints():
    assert (
        repr(0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4))
        == "0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)"
    )
    assert repr(blend(0.3, 2.5)) == "0.3 * HardLabels() + 0.7 * SoftTargets(temperature=2.5)"
    distilbert = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()
    assert repr(distilbert) == "5 * SoftTargets(temperature=2) + 2 * MaskedLM() + CosineHidden()"
    assert (
        repr(2 * (HardLabels() + HiddenStates({1: 2})))
        == "2 * HardLabels() + 2 * HiddenStates(layers={1: 2})"
    )


def test_an_objective_is_worth_the_weighted_sum_of_its_means(batch):
    student, teacher, inputs = batch
    goal = 0.25 * HardLabels() + 2 * SoftTargets(3) + CosineHidden()
    expected = (
        0.25 * kd.hard_labels(student.logits, inputs["labels"])
        + 2 * kd.soft_targets(student.logits, teacher.logits, 3)
        + kd.cosine_hidden(
            student.hidden_states[-1], teacher.hidden_states[-1], mask=inputs["attention_mask"]
        )
    )
    close(goal(student, teacher, inputs), expected.item())
    close((3 * goal)(student, teacher, inputs), 3 * expected.item())
    close((goal * 3)(student, teacher, inputs), 3 * expected.item())
    close((goal + goal)(student, teacher, inputs), 2 * expected.item())
    close(
        sum([goal, LogitsMSE()])(student, teacher, inputs),
        (goal + LogitsMSE())(student, teacher, inputs).item(),
    )


def test_a_multiple_of_a_term_is_a_term_and_numpy_numbers_are_numbers():
    for factor in (0.5, np.float64(0.5), np.float32(0.5)):
        for product in (factor * SoftTargets(4), SoftTargets(4) * factor):
            assert isinstance(product, SoftTargets)
            assert (product.weight, product.temperature) == (0.5, 4)
    assert (2 * (3 * HardLabels())).weight == 6
    assert isinstance(np.float64(2) * blend(), Objective)


def test_arithmetic_copies_its_operands_and_never_changes_them():
    hard, soft = HardLabels(), SoftTargets(2)
    goal = 0.1 * hard + 0.9 * soft
    doubled = 2 * goal
    longer = goal + LogitsMSE()
    soft.temperature, hard.weight = 7, 3
    goal.terms[0].weight = 0.5
    assert repr(goal) == "0.5 * HardLabels() + 0.9 * SoftTargets(temperature=2)"
    assert repr(doubled) == "0.2 * HardLabels() + 1.8 * SoftTargets(temperature=2)"
    assert repr(longer) == "0.1 * HardLabels() + 0.9 * SoftTargets(temperature=2) + LogitsMSE()"
    assert repr(sum([goal])) == repr(goal) and sum([goal]).terms[0] is not goal.terms[0]


def test_a_copy_has_its_own_projection():
    term = HiddenStates()
    term.prepare(model(4), model(6))
    double = 2 * term
    assert torch.equal(double.projections[0].weight, term.projections[0].weight)
    assert double.projections[0].weight is not term.projections[0].weight


def test_an_objective_made_of_a_list_holds_these_very_terms():
    """So that a loop that wraps a single term still sees the learner change its temperature."""
    term = SoftTargets(4)
    goal = Objective([term])
    term.temperature = 2
    assert goal.terms[0].temperature == 2
    assert [*term.terms] == [term]


@pytest.mark.parametrize("other", [1, 0.5, "text", None])
def test_only_objectives_add_up(other):
    with pytest.raises(TypeError):
        HardLabels() + other
    with pytest.raises(TypeError):
        other + HardLabels()
    with pytest.raises(TypeError):
        "text" * blend()


def test_a_term_of_weight_zero_is_not_computed(batch):
    student, _, inputs = batch
    goal = blend(alpha=1)
    # No teacher asked.
    close(goal(student, None, inputs), kd.hard_labels(student.logits, inputs["labels"]).item())
    with pytest.raises(ObjectiveError, match="every weight"):
        (0 * blend())(student, None, inputs)


# ----------------------------------------------------------------------- settings that change between steps


def test_alpha_and_temperature_act_on_the_next_call(batch):
    student, teacher, inputs = batch
    goal = blend(alpha=0.1, temperature=4)
    hard = kd.hard_labels(student.logits, inputs["labels"]).item()
    for alpha, temperature in [(0.1, 4), (0.7, 4), (0.7, 1), (0, 20), (1, 0.5)]:
        goal.alpha, goal.temperature = alpha, temperature
        assert (goal.alpha, goal.temperature) == (alpha, temperature)
        soft = kd.soft_targets(student.logits, teacher.logits, temperature).item()
        close(goal(student, teacher, inputs), alpha * hard + (1 - alpha) * soft)


def test_a_blend_is_the_sum_it_stands_for(batch):
    by_hand = 0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)
    assert repr(blend(0.1, 4)) == repr(by_hand)
    assert blend(0.1, 4)(*batch) == by_hand(*batch)
    assert type(2 * blend()) is Objective and type(blend() + HardLabels()) is Objective
    assert isinstance(copy.deepcopy(blend(0.3, 5)), Blend) and copy.deepcopy(blend(0.3, 5)).alpha == 0.3


def test_settings_are_recorded_and_restored():
    goal = blend(0.1, 4) + HiddenStates()
    recorded = goal.settings()
    assert recorded == [{"weight": 0.1}, {"weight": 0.9, "temperature": 4.0}, {"weight": 1.0}]
    goal.terms[1].temperature, goal.terms[2].weight = 9, 0
    goal.restore(recorded)
    assert goal.settings() == recorded


def test_settings_are_plain_python_floats():
    goal = blend(np.float32(0.5), np.int64(3))
    assert all(type(value) is float for settings in goal.settings() for value in settings.values())


# ----------------------------------------------------------------------- refusals


def test_a_label_that_is_no_class_is_one_sentence():
    with pytest.raises(ObjectiveError, match=r"a label is none of the classes 0 to 2 \(Target 5"):
        kd.hard_labels(torch.zeros(2, 3), torch.tensor([0, 5]))


NOT_TEMPERATURES = [0, -1, 1e-300, 1e300, math.nan, math.inf, "4", None, torch.tensor(4.0)]


@pytest.mark.parametrize("T", NOT_TEMPERATURES, ids=repr)
def test_a_temperature_that_is_not_above_zero_or_that_float32_can_not_work_with_is_refused_everywhere(T):
    z_s, z_t = pair(2, 3)
    goal, term = blend(), SoftTargets(4)
    for attempt in (
        lambda: kd.soft_targets(z_s, z_t, T),
        lambda: kd.soft_cross_entropy(z_s, z_t, T),
        lambda: kd.kl_divergence(z_s, z_t, T),
        lambda: kd.entropy(z_s, T),
        lambda: SoftTargets(T),
        lambda: SoftCrossEntropy(temperature=T),
        lambda: blend(0.5, T),
        lambda: setattr(goal, "temperature", T),
        lambda: setattr(term, "temperature", T),
    ):
        with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
            attempt()
    assert (goal.temperature, term.temperature) == (2, 4)  # refused, so unchanged


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf, "0.5", None], ids=repr)
def test_an_alpha_outside_zero_to_one_is_refused(alpha):
    goal = blend(0.3)
    with pytest.raises(ValueError, match="alpha must be a number from 0 to 1"):
        blend(alpha)
    with pytest.raises(ValueError, match="alpha must be a number from 0 to 1"):
        goal.alpha = alpha
    assert goal.alpha == 0.3


@pytest.mark.parametrize("factor", [True, False, 1e300], ids=repr)
def test_a_factor_that_is_no_number_or_that_float32_can_not_work_with_is_refused(factor):
    for attempt in (lambda: factor * HardLabels(), lambda: HardLabels() * factor, lambda: factor * blend()):
        with pytest.raises(ValueError, match=re.escape(f"0 or more (at most 1e6), not {factor!r}")):
            attempt()


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_a_weight_below_zero_or_not_finite_is_refused(weight):
    for attempt in (
        lambda: weight * HardLabels(),
        lambda: weight * blend(),
        lambda: setattr(HardLabels(), "weight", weight),
    ):
        with pytest.raises(ValueError, match="weight must be a finite number, 0 or more"):
            attempt()


def test_every_refusal_is_both_a_value_error_and_an_error_of_this_package():
    assert issubclass(ObjectiveError, ValueError) and issubclass(ObjectiveError, KDTutorError)


@paired
def test_shapes_that_differ_are_named(function, define):
    with pytest.raises(ObjectiveError, match=r"\(4, 5\).*\(4, 6\)"):
        function(torch.zeros(4, 5), torch.zeros(4, 6))
    with pytest.raises(ObjectiveError, match=r"\(4, 5\).*\(4, 1\)"):  # would broadcast
        function(torch.zeros(4, 5), torch.zeros(4, 1))
    with pytest.raises(ObjectiveError, match=r"\(4, 5\).*\(\)"):  # a teacher's loss for its logits
        function(torch.zeros(4, 5), torch.tensor(0.7))


def test_shapes_around_a_projection_are_named():
    w = torch.nn.Linear(3, 6, bias=False)
    with pytest.raises(ObjectiveError, match=r"\(2, 4, 3\).*\(2, 5, 6\)"):
        kd.hidden_states_mse(torch.zeros(2, 4, 3), torch.zeros(2, 5, 6), w)
    with pytest.raises(ObjectiveError, match=r"projected.*\(8, 6\).*\(8, 7\)"):
        kd.hidden_states_mse(torch.zeros(2, 4, 3), torch.zeros(2, 4, 7), w)


@every
def test_a_mask_of_another_shape_is_refused(function):
    with pytest.raises(ObjectiveError, match=r"mask has shape \(2, 4\).*\(2, 3\)"):
        function(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), mask=torch.ones(2, 4))


@every
def test_an_unknown_reduction_is_refused(function):
    with pytest.raises(ObjectiveError, match="batchmean"):
        function(*pair(2, 3), reduction="batchmean")


@paired
def test_a_single_row_is_refused(function, define):
    with pytest.raises(ObjectiveError, match=r"single row, \(3,\)"):
        function(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("function", [kd.hard_labels, kd.masked_lm])
def test_labels_of_another_shape_or_kind_are_refused(function):
    with pytest.raises(ObjectiveError, match=r"logits \(4, 3\), labels \(2,\)"):
        function(torch.zeros(4, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ObjectiveError, match=r"logits \(4, 3\), labels \(4, 3\)"):  # one-hot
        function(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ObjectiveError, match=r"integers.*float32"):
        function(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ObjectiveError, match=r"integers.*bool"):
        function(torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ObjectiveError, match=r"floats.*int64"):  # cross-entropy over one class is always 0
        function(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))


def test_soft_targets_over_one_output_are_refused_and_the_way_on_is_named():
    for function in (kd.soft_targets, kd.soft_cross_entropy):
        with pytest.raises(ObjectiveError, match="use LogitsMSE"):
            function(torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(ObjectiveError, match="use LogitsMSE"):
        blend().prepare(model(labels=1), model(labels=1))


def test_a_missing_teacher_is_refused_before_training_and_at_a_call(batch):
    student, _, inputs = batch
    for term in (SoftTargets(), LogitsMSE(), CosineHidden(), HiddenStates()):
        with pytest.raises(ObjectiveError, match=f"{type(term).__name__} learns from a teacher"):
            term.prepare(model(), None)
        with pytest.raises(ObjectiveError, match=r"teacher's (logits|hidden_states) are needed"):
            term(student, None, inputs)
    HardLabels().prepare(model(), None)
    MaskedLM().prepare(model(), None)


def test_hidden_states_that_were_not_computed_are_named(batch):
    student, teacher, inputs = batch
    for term in (CosineHidden(), HiddenStates()):
        with pytest.raises(ObjectiveError, match="student's hidden_states are needed"):
            term(outputs(student.logits), teacher, inputs)


def test_cosine_hidden_refuses_unequal_widths_and_names_hidden_states():
    with pytest.raises(ObjectiveError, match=r"student's is 4 and the teacher's 6.*HiddenStates"):
        CosineHidden().prepare(model(4), model(6))


@pytest.mark.parametrize(
    "layers, culprit",
    [({5: 1}, "student"), ({-4: 1}, "student"), ({1: 5}, "teacher"), ({1: 1, 2: -6}, "teacher")],
)
def test_layers_that_a_model_has_not_are_refused(layers, culprit):
    with pytest.raises(ObjectiveError, match=f"the {culprit} has no hidden states"):
        HiddenStates(layers).prepare(model(8, 2), model(8, 4))


def test_a_model_without_hidden_states_to_compare_is_refused():
    lstm = SimpleNamespace()
    for term in (CosineHidden(), HiddenStates()):
        with pytest.raises(ObjectiveError, match="student's config names no hidden_size"):
            term.prepare(lstm, model())


def test_an_objective_without_terms_is_refused():
    with pytest.raises(ObjectiveError, match="at least one term"):
        Objective([])
