"""Weights are drawn by a seed, and nobody else's random numbers with them."""

import torch

from kdtutor.models.seeds import drawn_by


def test_a_seed_draws_the_same_and_leaves_the_callers_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with drawn_by(7):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with drawn_by(7):
        assert torch.equal(torch.rand(4), first)


def test_no_gpu_is_seeded(monkeypatch):
    # Found on a GPU: what the caller drew there after a student was made was no longer what its own seed says.
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with drawn_by(7):
        pass
    assert not seeded
    torch.manual_seed(3)
    assert seeded, "torch.manual_seed doesn't seed the GPUs, so this test holds nothing"
