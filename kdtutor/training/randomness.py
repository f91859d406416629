"""Randomness that depends on a run's seed and what it is for, never on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_from(*parts: object) -> int:
    """Return a seed that depends on all parts, alike on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def generator_from(*parts: object) -> torch.Generator:
    """Return a generator on the host that depends on all parts."""
    return torch.Generator().manual_seed(seed_from(*parts))


@contextmanager
def own_randomness(device: torch.device, *parts: object) -> Iterator[None]:
    """Hold a block whose randomness depends on all parts and on nothing else; the caller's random state stays."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        # Not torch.manual_seed: it looks for every kind of GPU, and a small student's step is soon done.
        torch.default_generator.manual_seed(seed_from(*parts))
        if device.type == "cuda":
            torch.cuda.manual_seed(seed_from(*parts))
        yield
