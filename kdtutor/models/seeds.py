"""Random weights that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdtutor.errors import SEED


@contextmanager
def drawn_by(seed: int | None) -> Iterator[None]:
    """Draw what is random in this block by `seed`, and leave the caller's random numbers alone; None: go on with them.

    Raises KDTutorError for what is no seed.
    """
    if seed is None:
        yield
        return
    seed = SEED("seed", seed)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which sets the numbers of every GPU too: weights are drawn on the host.
        torch.default_generator.manual_seed(seed)
        yield
