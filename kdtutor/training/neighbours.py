"""Busy neighbours: a run on CPUs that shares its cores with other processes loses its share of time, and not much more.

After every parallel loop OpenMP's threads wait for the slowest. GNU's spin for some milliseconds before they sleep, so
where another process has taken the core of the slowest, the others burn theirs meanwhile: on two processors with other
work a step took 25 times as long with two threads as with one (benchmarks/busy.py). But where there are more OpenMP
threads than processors they hardly spin at all (libgomp's manual, GOMP_SPINCOUNT). That is what is done here while
there are neighbours: one more thread has a pool of its own, and sleeps. No result depends on it.
"""

from __future__ import annotations

import sys
import threading
import time

import torch

from kdtutor.hardware import own_and_idle, processors

LOOK_EVERY = 1.0  # seconds
ALONE = 0.85  # of a run's cores: what is taken from them beyond that is a neighbour's doing


class Neighbours:
    """While it is entered, `look()` decides now and then whether threads may spin: they begin as if not alone."""

    def __init__(self, device: torch.device) -> None:
        spins = device.type == "cpu" and sys.platform == "linux"
        self.threads = torch.get_num_threads() if spins else 1
        self._pool: _SleepingPool | None = None

    def __enter__(self) -> Neighbours:
        if self.threads > 1:
            self._looked, self._had = time.monotonic(), own_and_idle()
            self._pool = _SleepingPool()
        return self

    def __exit__(self, *error: object) -> None:
        self._let_spin()

    def look(self) -> None:
        """Find out whether all the cores that this run has threads for were its own, since it last looked."""
        if self.threads == 1 or (passed := time.monotonic() - self._looked) < LOOK_EVERY:
            return
        have = own_and_idle()
        # Cores that this process used or could have used.
        cores = min((have - self._had) / passed, processors())
        self._looked, self._had = self._looked + passed, have

        if cores >= ALONE * self.threads:
            self._let_spin()
        elif self._pool is None:
            self._pool = _SleepingPool()

    def _let_spin(self) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None


class _SleepingPool:
    """OpenMP threads that do nothing, and are there."""

    def __init__(self) -> None:
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="kdtutor: sleeping pool", daemon=True)
        self._thread.start()
        self._begun.wait()

    def _hold(self) -> None:
        # Large enough for every thread to get a part, for which OpenMP starts them.
        torch.ones(1 << 17).add_(1)
        self._begun.set()
        self._over.wait()

    def end(self) -> None:
        """Let the threads go."""
        self._over.set()
        self._thread.join()
