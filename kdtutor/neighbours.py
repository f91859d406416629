"""Busy neighbours: work on CPUs that shares its cores with other processes loses its share of time, and not much more.

After every parallel loop OpenMP's threads wait for the slowest. GNU's spin for some milliseconds before they sleep, so
where another process has taken the core of the slowest, the others burn theirs meanwhile: on two processors with other
work a step took 25 times as long with two threads as with one (benchmarks/busy.py). But where there are more OpenMP
threads than processors they hardly spin at all (libgomp's manual, GOMP_SPINCOUNT). That is what is done here while
there are neighbours: one more thread has a pool of its own, and sleeps. No result depends on it.

    for batch in beside_neighbours(batches, device): ...    # long work, in pieces
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from kdtutor.hardware import own_and_idle, processors

LOOK_EVERY = 1.0  # seconds
ALONE = 0.85  # of this process's cores: what is taken from them beyond that is a neighbour's doing

T = TypeVar("T")


def beside_neighbours(items: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yield the pieces of some work on `device`; in between, look whether there are neighbours."""
    with Neighbours(device) as neighbours:
        for item in items:
            neighbours.look()
            yield item


class Neighbours:
    """While one is entered, `look()` decides now and then whether threads may spin: as if not alone until it knows.

    They may be entered within one another: what was seen, and the pool that sleeps, are the process's.
    """

    def __init__(self, device: torch.device) -> None:
        spins = device.type == "cpu" and sys.platform == "linux"
        self.threads = torch.get_num_threads() if spins else 1

    def __enter__(self) -> Neighbours:
        if self.threads > 1:
            _here.enter()
            self.look()
        return self

    def __exit__(self, *error: object) -> None:
        # A loop that was left standing ends when Python does, which by then has forgotten its modules.
        if self.threads > 1 and _here is not None:
            _here.leave()

    def look(self) -> None:
        """Find out whether all the cores that the threads need were this process's own, since it last looked."""
        if self.threads > 1:
            _here.look(self.threads)


class _Here:
    """This process: whether it was alone when it last looked, and the pool that sleeps while it is not."""

    def __init__(self) -> None:
        self.inside, self.is_alone = 0, False
        self._looked, self._had = time.monotonic(), own_and_idle()  # so that the first loop knows already
        self._pool: _SleepingPool | None = None
        self._lock = threading.Lock()  # runs may be steps of several threads

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
            self._act()

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1
            self._act()

    def look(self, threads: int) -> None:
        with self._lock:
            if (passed := time.monotonic() - self._looked) < LOOK_EVERY:
                return
            have = own_and_idle()
            # Cores that this process used or could have used.
            cores = min((have - self._had) / passed, processors())
            self._looked, self._had = time.monotonic(), have
            self.is_alone = cores >= ALONE * threads
            self._act()

    def _act(self) -> None:
        sleeps = self.inside > 0 and not self.is_alone
        if sleeps and self._pool is None:
            self._pool = _SleepingPool()
        elif self._pool is not None and not sleeps:
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


_here = _Here()
