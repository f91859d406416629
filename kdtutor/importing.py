"""Importing what is heavy without Python's search for garbage, which would look through it all again and again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HEAVY = ("torch", "transformers.modeling_utils")


@contextmanager
def uncollected() -> Iterator[None]:
    """Search for no garbage while torch or transformers comes in, and keep later searches away from what came.

    They make half a million objects, and all of them stay. Until there are that many, Python goes through them
    several times, and through all once more some steps into the first run (benchmarks/README.md says how long that
    took). What is there by then is set aside for good (`gc.freeze`): a cycle among objects made before is never freed.
    Where both are there already, or somebody has switched the search off, nothing is changed.
    """
    missing = [name for name in HEAVY if name not in sys.modules]
    if not missing or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if any(name in sys.modules for name in missing):
            gc.freeze()
        gc.enable()
