"""What a training run is made of at some step: copied, checked, and brought back bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.objectives.terms import Objective

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Written:
    """The first `rows` rows of a history as they lie in a file: its first `bytes`, with the hash of these."""

    file: Path
    rows: int = 0
    bytes: int = 0
    hash: Any = field(default_factory=hashlib.sha256)  # never updated: its copies are


@dataclass(frozen=True)
class State:
    """All that makes a run what it is after some step: how far it is and with which settings, and its tensors.

    about: "done", "belongs_to", "formula", "objective", "learning_rate", as JSON has them. student: its state_dict.
    learned: the optimiser's moments by the number of their parameter, "exp_avg.0", and projections, "objective.…".
    written: what of the history a checkpoint holds already.
    """

    about: dict[str, Any]
    history: list[dict]
    student: Tensors
    learned: Tensors
    written: Written | None = None

    def copy(self) -> State:
        """Copy the tensors and the list of rows, so that further training leaves them alone."""
        student, learned = (
            {name: value.detach().clone() for name, value in tensors.items()}
            for tensors in (self.student, self.learned)
        )
        return State(dict(self.about), [*self.history], student, learned, self.written)


@dataclass(frozen=True)
class Learning:
    """What changes while a run learns: student, the objective's projections, the optimiser of their `parameters`."""

    student: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]

    def learned(self) -> Tensors:
        """Name the tensors that are not the student's, as `State.learned` has them: the very ones, not copies."""
        tensors = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{name}.{i}": value for name, value in moments.items()}
        return tensors

    def check(self, state: State) -> None:
        """Raise ValueError if `state` is not of these modules: AdamW would read beyond a moment that is too small."""
        if [*map(set, state.about["objective"])] != [*map(set, self.objective.settings())]:
            raise ValueError(f"the objective's settings are {state.about['objective']}")
        expected = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            if f"step.{i}" in state.learned:
                moments = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
                expected |= {f"{name}.{i}": value for name, value in moments.items()}
        _compare(state.learned, expected)
        _compare(self._with_doubles(state.student), self.student.state_dict())

    def take(self, state: State) -> None:
        """Become what a checked state says; the moments are taken as they are, not copied."""
        self.student.load_state_dict(self._with_doubles(state.student))
        projections = {name: state.learned[f"objective.{name}"] for name in self.objective.state_dict()}
        self.objective.load_state_dict(projections)
        self.objective.restore(state.about["objective"])

        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        for i, parameter in enumerate(self.parameters):
            if f"step.{i}" in state.learned:
                moments = {name: state.learned[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = moments

    def _with_doubles(self, tensors: Tensors) -> Tensors:
        """Add what save_pretrained leaves out: the other names of tied weights."""
        own = self.student.state_dict()
        first = {value.data_ptr(): name for name, value in own.items() if name in tensors}
        doubles = {name: first.get(value.data_ptr()) for name, value in own.items() if name not in tensors}
        return {**tensors, **{name: tensors[other] for name, other in doubles.items() if other is not None}}


def _compare(found: Tensors, expected: Tensors) -> None:
    """Raise ValueError if a tensor is missing, left over, or of another shape or type than expected."""
    for name in {**expected, **found}:
        mine, theirs = (
            f"{tensors[name].dtype} {tuple(tensors[name].shape)}" if name in tensors else "missing"
            for tensors in (found, expected)
        )
        if mine != theirs:
            raise ValueError(f"{name} is {mine}, not {theirs}")
