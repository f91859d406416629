"""The ecosystem's idiom: the loss of trl's distillation on fixed samples (λ = 0) is ours, token for token.

trl is an optional extra. Where it is missing this file is skipped, and says so.
"""

from __future__ import annotations

import pytest
import torch

from kdtutor.objectives import generalised_jsd

gkd = pytest.importorskip(
    "trl.experimental.gkd.gkd_trainer", reason="NOT COMPARED WITH TRL: pip install trl", exc_type=ImportError
)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("T", [0.7, 1, 2])
def test_trls_generalised_jsd_is_ours_divided_by_t_squared(beta, T):
    draw = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 3, 6, 50, generator=draw, dtype=torch.float64)
    z_s.requires_grad_()
    labels = torch.randint(50, (3, 6), generator=draw)
    labels[0, :3] = labels[2, 4:] = -100  # a prompt and padding

    theirs = gkd.GKDTrainer.generalized_jsd_loss(z_s, z_t, labels, beta=beta, temperature=T)
    ours = generalised_jsd(z_s, z_t, float(beta), T, mask=labels != -100) / T**2
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(loss, z_s)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-14)
