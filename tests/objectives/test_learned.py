"""The learned temperature: value and gradients from the definition, and what optimiser and checkpoint know of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import make_run, make_task, model, refusal, same, take, weights

from kdtutor.objectives import HardLabels, LearnedTemperature, parse_objective


def by_definition(z_s, z_t, theta, lowest, highest):
    """T² Σ p_T (log p_T − log p_S), a mean over the texts, in float64; all written out."""
    temperature = lowest + (highest - lowest) / (1 + torch.exp(-theta))
    p, q = (torch.exp(z / temperature) for z in (z_t, z_s))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return temperature**2 * (p * torch.log(p / q)).sum(1).mean()


def test_value_and_gradients_are_those_of_the_definition_and_thetas_is_reversed():
    generator = torch.Generator().manual_seed(0)
    z_s, z_t = (3 * torch.randn(5, 4, generator=generator, dtype=torch.double) for _ in range(2))
    z_s.requires_grad_()
    term = LearnedTemperature(begin=3, strength=0.5, lowest=1, highest=9).double()
    assert term.learned == pytest.approx(3, abs=1e-6)
    batch = {"labels": torch.zeros(5, dtype=torch.long)}
    loss = term(SimpleNamespace(logits=z_s), SimpleNamespace(logits=z_t), batch, reduction="mean")
    loss.backward()

    mine = z_s.detach().clone().requires_grad_()
    theta = term.theta.detach().clone().requires_grad_()
    expected = by_definition(mine, z_t, theta, 1, 9)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(z_s.grad, mine.grad, rtol=1e-9, atol=1e-12)
    assert theta.grad.abs() > 1e-3
    assert term.theta.grad.item() == pytest.approx(-0.5 * theta.grad.item(), rel=1e-9)


def test_a_step_makes_the_loss_larger_in_T_and_the_optimiser_has_it():
    task = make_task()
    run = make_run(task, 0.5 * HardLabels() + 0.5 * LearnedTemperature(2), learning_rate=1e-2)
    term = run.objective.terms[1]
    assert any(parameter is term.theta for parameter in run.parameters)
    before = term.theta.item()
    take(run, 1)
    # Adam's first step goes against the gradient that it was given, which is the reversed one.
    assert term.theta.grad.sign().item() == -torch.sign(torch.tensor(term.theta.item() - before)).item()
    take(run, 3)
    assert term.learned != pytest.approx(2, abs=1e-3)


def test_a_resumed_run_goes_on_with_the_learned_temperature_bit_by_bit(tmp_path):
    def begun(**settings):
        return make_run(make_task(), 0.5 * HardLabels() + 0.5 * LearnedTemperature(2), **settings)

    straight = begun()
    straight.run()
    broken = begun(folder=tmp_path, save_every=2)
    take(broken, 2)
    resumed = begun(folder=tmp_path, student=model(make_task(), seed=5))
    resumed.resume()
    resumed.run()
    assert resumed.objective.terms[1].theta.item() == straight.objective.terms[1].theta.item()
    assert same(weights(resumed.student), weights(straight.student))


def test_a_strength_that_rose_between_steps_is_in_the_checkpoint_and_a_wrong_one_is_refused(tmp_path):
    def begun(**settings):
        return make_run(make_task(), 0.5 * HardLabels() + 0.5 * LearnedTemperature(2, strength=0), **settings)

    def raised_after_two_steps(run):
        take(run, 2)
        run.objective.terms[1].strength = 0.75
        return run

    straight = raised_after_two_steps(begun())
    straight.run()
    broken = raised_after_two_steps(begun(folder=tmp_path))
    broken.save()
    resumed = begun(folder=tmp_path, student=model(make_task(), seed=5))
    resumed.resume()
    term = resumed.objective.terms[1]
    assert term.strength == 0.75
    resumed.run()
    assert [row["settings"][1]["strength"] for row in resumed.history][:3] == [0, 0, 0.75]
    assert term.theta.item() == straight.objective.terms[1].theta.item()

    assert refusal(setattr, term, "strength", -1).startswith("strength must be a finite number, 0 or more")
    assert term.strength == 0.75


def test_it_is_read_from_a_formula_and_refuses_a_beginning_that_is_no_place():
    term = parse_objective("0.5 * HardLabels() + 0.5 * LearnedTemperature(begin=6, highest=12)").terms[1]
    assert term.learned == pytest.approx(6, abs=1e-5)
    assert repr(term) == "0.5 * LearnedTemperature(begin=6, strength=1, lowest=1, highest=12)"
    assert "begins between lowest and highest (1 and 20), not at 20" in refusal(LearnedTemperature, 20)
