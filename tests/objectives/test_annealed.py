"""Annealed logits: the squared difference from the definition, and φ in a checkpoint; two phases in one run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import make_run, make_task, model, refusal, same, take, weights

from kdtutor.objectives import AnnealedLogits, HardLabels, parse_objective


def two_phases(run) -> None:
    """Jafari et al.: φ rises from 1/τ to 1 over half of the steps, then labels alone; τ = 4."""
    annealed, labels = run.objective.terms
    for step in run:
        done = step.number / step.total
        annealed.phi = min(1, 1 / 4 + 3 / 4 * done / 0.5)
        annealed.weight, labels.weight = (1, 0) if done < 0.5 else (0, 1)


def test_the_loss_and_its_gradient_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    z_s, z_t = (torch.randn(5, 4, generator=generator, dtype=torch.double) for _ in range(2))
    z_s.requires_grad_()
    term, batch = AnnealedLogits(0.25), {"labels": torch.zeros(5, dtype=torch.long)}
    loss = term(SimpleNamespace(logits=z_s), SimpleNamespace(logits=z_t), batch, reduction="mean")
    loss.backward()
    expected = sum((z_s[i, c] - 0.25 * z_t[i, c]) ** 2 for i in range(5) for c in range(4)) / 20
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(z_s.grad, 2 * (z_s.detach() - 0.25 * z_t) / 20, rtol=1e-12, atol=0)


def test_a_run_of_two_phases_goes_on_bit_by_bit_where_it_was_broken_off(tmp_path):
    def begun(**settings):
        return make_run(make_task(), AnnealedLogits(0.25) + 0 * HardLabels(), epochs=2, **settings)

    straight = begun()
    two_phases(straight)
    of_both = [row["settings"] for row in straight.history]
    assert of_both[0][0] == {"weight": 1, "phi": 0.25} and of_both[-1][1] == {"weight": 1}
    assert [first["phi"] for first, _ in of_both] == sorted(first["phi"] for first, _ in of_both)

    broken = begun(folder=tmp_path, save_every=1)
    for _, step in zip(range(4), broken, strict=False):
        broken.objective.terms[0].phi = min(1, 1 / 4 + 3 / 4 * step.number / step.total / 0.5)
    broken.save()
    resumed = begun(folder=tmp_path, student=model(make_task(), seed=5))
    resumed.resume()
    assert resumed.objective.terms[0].phi == broken.objective.terms[0].phi > 0.25
    two_phases(resumed)
    assert same(weights(resumed.student), weights(straight.student))


def test_it_is_read_from_a_formula_and_phi_is_a_share():
    term = parse_objective("AnnealedLogits(0.125) + 0 * HardLabels()").terms[0]
    assert repr(term) == "AnnealedLogits(0.125)"
    assert "phi must be a number from 0 to 1" in refusal(AnnealedLogits, 1.5)
    assert "phi must be a number from 0 to 1" in refusal(setattr, term, "phi", -1)
    take(make_run(make_task(), term), 1)
