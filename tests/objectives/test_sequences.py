"""Divergences for models that write, against the papers' definitions, computed token by token in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import refusal

import kdtutor as kd
from kdtutor.models.forward import Outputs
from kdtutor.objectives import (
    ObjectiveError,
    generalised_jsd,
    parse_objective,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    soft_targets,
)
from kdtutor.training import vocabulary

TOKENS, V = 7, 11


def pair(*shape, dtype=torch.float64, scale=2.0):
    draw = torch.Generator().manual_seed(3)
    return [(scale * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(dtype) for _ in range(2)]


def softmax(z, T):
    powers = np.exp((z - z.max()) / T)
    return powers / powers.sum()


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def define_jsd(z_s, z_t, beta, T=1.0):
    """Agarwal et al. 2024, equation (1), and its limits at both ends."""
    p, q = softmax(z_t, T), softmax(z_s, T)
    if beta in (0, 1):
        return T**2 * (kl(q, p) if beta else kl(p, q))
    mixture = beta * p + (1 - beta) * q
    return T**2 * (beta * kl(p, mixture) + (1 - beta) * kl(q, mixture))


def define_skewed(z_s, z_t, skew, T=1.0):
    """Ko et al. 2024, equation (4)."""
    p, q = softmax(z_t, T), softmax(z_s, T)
    return T**2 * kl(p, skew * p + (1 - skew) * q)


def define_skewed_reverse(z_s, z_t, skew, T=1.0):
    """Ko et al. 2024, equation (5)."""
    p, q = softmax(z_t, T), softmax(z_s, T)
    return T**2 * kl(q, skew * q + (1 - skew) * p)


KINDS = [
    (generalised_jsd, define_jsd, (0, 0.1, 0.5, 0.9, 1)),
    (skewed_kl, define_skewed, (0, 0.1, 0.7)),
    (skewed_reverse_kl, define_skewed_reverse, (0, 0.1, 0.7)),
]
CASES = [(formula, define, between) for formula, define, values in KINDS for between in values]
every = pytest.mark.parametrize("formula, define, between", CASES, ids=lambda v: getattr(v, "__name__", v))


@pytest.fixture(params=["cpu", "as on a GPU"])
def device_way(request, monkeypatch):
    """Padded rows are left out on a CPU and zeroed on a GPU: run a test both ways, on any machine."""
    if request.param != "cpu":
        monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)


def expected(define, z_s, z_t, *arguments):
    rows = zip(z_s.flatten(0, -2).numpy(), z_t.flatten(0, -2).numpy(), strict=True)
    return np.array([define(s, t, *arguments) for s, t in rows])


def close(found, wanted, rtol=1e-10):
    torch.testing.assert_close(
        found.double(), torch.as_tensor(wanted, dtype=torch.float64), rtol=rtol, atol=1e-12
    )


# ------------------------------------------------------------------------------------------------ values


@every
@pytest.mark.parametrize("T", [0.5, 1, 3])
def test_every_divergence_has_the_value_of_its_paper_times_t_squared(formula, define, between, T):
    z_s, z_t = pair(TOKENS, V)
    close(formula(z_s, z_t, between, T, reduction="none"), expected(define, z_s, z_t, between, T))


@every
def test_only_tokens_within_the_mask_count_and_each_counts_once(formula, define, between, device_way):
    z_s, z_t = pair(2, 4, V)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    wanted = expected(define, z_s, z_t, between).reshape(2, 4)[mask.bool().numpy()]
    # What stands in the padding, even NaN, changes neither value nor gradient.
    for z in (z_s, z_t):
        z[~mask.bool()] = math.nan
    z_s.requires_grad_()
    loss = formula(z_s, z_t, between, mask=mask)
    close(loss.detach(), wanted.mean())
    loss.backward()
    assert z_s.grad.isfinite().all() and not z_s.grad[~mask.bool()].any()


def test_the_shift_is_the_masks_row_t_counts_where_token_t_plus_1_exists():
    z_s, z_t = pair(1, 5, V)
    attention_mask = torch.tensor([[1, 1, 1, 0, 0]])  # three tokens: two predictions that can be judged
    found = generalised_jsd(z_s[:, :-1], z_t[:, :-1], 0.5, mask=attention_mask[:, 1:], reduction="none")
    close(found, expected(define_jsd, z_s[:, :2], z_t[:, :2], 0.5))


def test_reverse_kl_is_soft_targets_with_the_models_exchanged():
    z_s, z_t = pair(TOKENS, V)
    close(reverse_kl(z_s, z_t, 2.0), soft_targets(z_t, z_s, 2.0).item())
    close(generalised_jsd(z_s, z_t, 0.0, 2.0), soft_targets(z_s, z_t, 2.0).item())


def test_within_the_ends_it_vanishes_and_divided_by_beta_it_tends_to_the_kl():
    z_s, z_t = pair(TOKENS, V)
    ends = soft_targets(z_s, z_t).item(), reverse_kl(z_s, z_t).item()
    for beta in (1e-4, 1e-6):
        below, above = generalised_jsd(z_s, z_t, beta).item(), generalised_jsd(z_s, z_t, 1 - beta).item()
        assert below < 10 * beta * ends[0] and above < 10 * beta * ends[1]
        assert below / beta == pytest.approx(ends[0], rel=20 * beta**0.5)
        assert above / beta == pytest.approx(ends[1], rel=20 * beta**0.5)


def test_jensen_shannon_is_symmetric_and_at_most_log_2():
    z_s, z_t = pair(TOKENS, V, scale=30)
    jsd = generalised_jsd(z_s, z_t, 0.5, reduction="none")
    close(jsd, generalised_jsd(z_t, z_s, 0.5, reduction="none").numpy())
    assert 0.5 * math.log(2) < jsd.max() <= math.log(2)


def test_a_skew_bounds_what_a_token_can_cost():
    z_s, z_t = pair(TOKENS, V, scale=300)
    assert soft_targets(z_s, z_t) > 100
    assert skewed_kl(z_s, z_t, 0.1) < math.log(10)
    assert skewed_reverse_kl(z_s, z_t, 0.1) < math.log(10)


@every
def test_float32_stays_near_float64_also_at_a_high_temperature(formula, define, between):
    z_s, z_t = pair(60, V, dtype=torch.float32)
    for T, tolerance in ((1, 1e-5), (20, 1e-4)):
        exact = formula(z_s.double(), z_t.double(), between, T)
        close(formula(z_s, z_t, between, T), exact, rtol=tolerance)


# ------------------------------------------------------------------------------------------------ gradients


@every
def test_gradients_reach_the_student_alone_and_are_those_of_the_definition(formula, define, between):
    z_s, z_t = (z.requires_grad_() for z in pair(3, 5))
    formula(z_s, z_t, between, 2.0).backward()
    assert z_t.grad is None
    torch.autograd.gradcheck(lambda z: formula(z, z_t, between, 2.0), z_s)


@every
def test_equal_models_have_no_divergence_and_no_gradient(formula, define, between):
    z_s = pair(3, 5)[0].requires_grad_()
    loss = formula(z_s, z_s.detach().clone(), between)
    loss.backward()
    close(loss.detach(), 0.0)
    assert z_s.grad.abs().max() < 1e-12


# ------------------------------------------------------------------------------------------------ terms

TERMS = {
    "GeneralisedJSD(beta=0.3, temperature=2)": lambda s, t: generalised_jsd(s, t, 0.3, 2.0),
    "ReverseKL(temperature=2)": lambda s, t: reverse_kl(s, t, 2.0),
    "SkewedKL(skew=0.2, temperature=2)": lambda s, t: skewed_kl(s, t, 0.2, 2.0),
    "SkewedReverseKL(skew=0.2, temperature=2)": lambda s, t: skewed_reverse_kl(s, t, 0.2, 2.0),
}


@pytest.mark.parametrize("formula", TERMS)
def test_each_term_is_written_as_it_is_parsed_and_gives_its_formula(formula):
    term = parse_objective(formula)
    assert repr(term) == formula
    z_s, z_t = pair(TOKENS, V)
    found = term(Outputs(z_s), Outputs(z_t), {"labels": torch.zeros(TOKENS).long()}, reduction="mean")
    close(found, TERMS[formula](z_s, z_t).item())
    other = parse_objective(formula.split("(")[0] + "()")
    other.restore(term.settings())
    assert repr(other) == formula


@pytest.mark.parametrize("formula", TERMS)
def test_each_term_may_be_computed_chunk_by_chunk(formula):
    student, teacher = (kd.small_bert(kd.load_task("glosses"), layers=1, width=32, seed=s) for s in (1, 2))
    assert vocabulary.can_chunk(kd.Objective([parse_objective(formula)]), student, teacher)


def test_beta_and_skew_are_numbers_within_their_bounds():
    assert "beta must be a number from 0 to 1, not 1.5" in refusal(kd.GeneralisedJSD, 1.5)
    assert "skew must be a number from 0 to below 1, not 1" in refusal(kd.SkewedKL, 1.0)
    with pytest.raises(ObjectiveError, match="LogitsMSE"):
        reverse_kl(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ObjectiveError, match="do not fit together"):
        skewed_kl(torch.zeros(2, 3), torch.zeros(2, 4))
