"""What a run did, a row per step. Numbers stay on the device until someone asks: nobody else waits for it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtutor.errors import KDTutorError
from kdtutor.training.processes import finish_first


class NonFiniteLoss(KDTutorError, FloatingPointError):
    """A loss or gradient became NaN or infinite. The student has the weights from before that step."""


@dataclass(frozen=True)
class Written:
    """The first `rows` rows of a history as they lie in a file: its first `bytes`, with the hash of these."""

    file: Path
    rows: int = 0
    bytes: int = 0
    hash: Any = field(default_factory=hashlib.sha256)  # never updated: its copies are


class History:
    """The rows of a run. terms: what their losses are called; written: what of it the newest checkpoint holds."""

    def __init__(self, terms: Iterable[str]) -> None:
        self.terms = _numbered(terms)
        self.written: Written | None = None
        self._rows: list[dict] = []  # complete, on the host …
        self._pending: list[tuple[dict, Tensor]] = []  # … and those whose numbers still lie on the device

    def add(self, row: dict, values: Tensor) -> None:
        """Add a row. values: loss, gradient's norm and each term's loss, on the device (2 + n_terms,)."""
        self._pending.append((row, values))

    @property
    def rows(self) -> list[dict]:
        """Bring what lies on the device into the rows: the only place where training waits for the device."""
        with finish_first():
            if self._pending:
                rows, values = zip(*self._pending, strict=True)
                for row, numbers in zip(rows, torch.stack(values).tolist(), strict=True):
                    row.update(zip(("loss", "grad_norm", *self.terms), numbers, strict=True))
                self._rows.extend(rows)
                self._pending.clear()
        return self._rows

    def take(self, rows: list[dict], written: Written | None) -> None:
        """Become the history of a checkpoint or a state."""
        self._rows, self.written = rows, written
        self._pending.clear()

    def cut(self, steps: int) -> None:
        """Forget all but the first `steps` rows."""
        del self._rows[steps:]

    def not_finite(self, last: int) -> dict | None:
        """Return the first of the `last` rows with a loss or gradient that is not finite."""
        late = self.rows[-last:]
        return next((row for row in late if not math.isfinite(row["loss"] + row["grad_norm"])), None)

    def culprit(self, row: dict) -> str:
        """Say what of a row is not finite."""
        terms = [f"the term {name}" for name in self.terms if not math.isfinite(row[name])]
        return " and ".join(terms) or "the gradient (every term is finite)"

    def norms(self) -> list[float]:
        """List the gradients' norms, before clipping."""
        return [row["grad_norm"] for row in self.rows]


def _numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Put a number behind names that repeat: A, B, A → A, B, A2."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}{seen[name]}")
    return tuple(numbered)
