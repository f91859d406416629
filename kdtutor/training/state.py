"""What a training run is made of at some step: copied, checked, and brought back bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError
from kdtutor.objectives.terms import Objective
from kdtutor.training.history import History, Written
from kdtutor.training.processes import is_part
from kdtutor.training.sharding import Sharded, part_of, whole

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class State:
    """All that makes a run what it is after some step: how far it is and with which settings, and its tensors.

    about: "done", "belongs_to", "formula", "objective", "learning_rate", as JSON has them. student: its state_dict.
    learned: the optimiser's moments by the number of their parameter, "exp_avg.0", projections, "objective.…", and the
    student's weights that were best on validation, "best.…", if kept.
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

    def check_same_run(self, name: str, run: Mapping[str, object]) -> None:
        """Raise KDTutorError if this state, called `name`, was made by another run than `run` describes.

        A run may be resumed with more steps than it was begun with, even after its end.
        """
        theirs = {"cache": None} | self.about["belongs_to"]
        for what, mine in run.items():
            if what not in theirs:
                continue  # written before this was recorded
            # The very object, changed since.
            is_steered = what == "objective" and mine == self.about["formula"]
            is_longer = what == "total_steps" and mine > theirs[what]
            if mine != theirs[what] and not (is_steered or is_longer):
                hint = "; a resumed run may be longer, not shorter" if what == "total_steps" else ""
                raise KDTutorError(f"{name} was made with another {what}: {theirs[what]}, now {mine}{hint}")


class Learning:
    """What changes while a run learns: weights, the optimiser's moments, the history, and how far it is.

    parameters: the weights that are learned, the student's and the objective's projections. done: optimiser steps
    taken. torn: whether an update was broken off. best: the student's weights that were best on validation, if kept.
    sharded: how the student is called if its weights are divided among processes; moments and `best` are then as well.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        weight_decay: float,
        device: torch.device,
        sharded: Sharded | None = None,
    ) -> None:
        self.student, self.objective, self.sharded, self.device = student, objective, sharded, device
        self.parameters = [p for p in (*student.parameters(), *objective.parameters()) if p.requires_grad]
        self.optimizer = _adamw(self.parameters, weight_decay)
        self.history = History(type(term).__name__ for term in objective.terms)
        self.done, self.torn = 0, False
        self.best: Tensors = {}
        self._failed = torch.tensor(False, device=device)  # has a loss or gradient not been finite?

    def update(self, rate: float, is_finite: Tensor) -> None:
        """Take the optimiser's step; but from the first loss or gradient on that is not finite, leave all as it is."""
        # This flag makes fused AdamW do so; nobody has to wait for it.
        self._failed |= ~is_finite
        self.optimizer.found_inf = self._failed.float()  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.torn = True  # until the step is counted: whoever gets through between the two leaves half of it
        self.optimizer.step()

    def count(self) -> None:
        """Count the step just taken, which is whole."""
        self.done += 1
        self.torn = False

    def check_not_torn(self) -> None:
        """Raise KDTutorError if the weights are neither those before an update nor those after it."""
        if self.torn:
            raise KDTutorError(
                f"step {self.done + 1} was broken off within its update, so the weights are neither those before nor "
                "those after it: resume() goes back to the newest checkpoint, restore(state) to a state; or begin anew"
            )

    def go_back(self, last: int) -> dict | None:
        """Go back to before the first of the `last` steps that was not finite, and return its row; None if all were."""
        row = self.history.not_finite(last)
        if row is not None:
            self.done = row["step"] - 1
            self.history.cut(self.done)
            self._failed.fill_(False)
        return row

    def keep_best(self) -> None:
        """Copy the student's weights, of tied ones one."""
        own: Tensors = self.student.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        for name, value in own.items():
            first.setdefault(_identity(value), name)
        self.best = {name: own[name].detach().clone() for name in first.values()}

    def finish(self) -> None:
        """Give the student the weights that were best, if they were kept, and let the last gradients go."""
        self.optimizer.zero_grad(set_to_none=True)  # as large as the weights, and a student outlives its run
        if self.best:
            self._load(self.best)

    def whole(self) -> PreTrainedModel:
        """Return the student, or if its weights are divided a copy with all of them, gathered in every process."""
        return self.sharded.whole(self.device) if self.sharded else self.student

    # ------------------------------------------------------------------------------------------ kept and brought back

    def state(self, belongs_to: Mapping[str, object], learning_rate: float) -> State:
        """Give the state as it stands, with the very tensors that are trained."""
        about = {
            "done": self.done,
            "belongs_to": dict(belongs_to),
            "formula": repr(self.objective),
            "objective": self.objective.settings(),
            "learning_rate": learning_rate,
        }
        history = self.history
        return State(about, history.rows, self.student.state_dict(), self.learned(), history.written)

    def learned(self) -> Tensors:
        """Name the tensors that are not the student's, as `State.learned` has them: the very ones, not copies."""
        tensors = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{name}.{i}": value for name, value in moments.items()}
        return tensors | {f"best.{name}": value for name, value in self.best.items()}

    def gathered(self, state: State, is_main: bool) -> tuple[PreTrainedModel, State]:
        """Return student and state as they are written; of divided weights the main process gets all, in main memory.

        All processes must call this.
        """
        if not self.sharded:
            return self.student, state
        learned = {name: whole(value, "cpu", is_main) for name, value in state.learned.items()}
        return self.sharded.whole("cpu", is_main), replace(state, learned=learned)

    def check(self, state: State) -> None:
        """Raise ValueError if `state` is not of these modules: AdamW would read beyond a moment that is too small."""
        done, rows = state.about["done"], len(state.history)
        if not 0 <= done == rows:
            raise ValueError(f"step {done}, with {rows} rows of history")
        if [*map(set, state.about["objective"])] != [*map(set, self.objective.settings())]:
            raise ValueError(f"the objective's settings are {state.about['objective']}")
        expected = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            if f"step.{i}" in state.learned:
                moments = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
                expected |= {f"{name}.{i}": value for name, value in moments.items()}
        best = _best(state)
        _compare(state.learned, expected | {f"best.{name}": value for name, value in best.items()})
        for weights in filter(None, (state.student, best)):
            _compare(self._with_doubles(weights), self.student.state_dict())

    def take(self, state: State) -> None:
        """Become what a checked state says; the moments and the history are taken as they are, not copied."""
        self.done, self.torn = state.about["done"], False
        self.history.take(state.history, state.written)
        self._failed.fill_(False)
        self._load(state.student)
        projections = {name: state.learned[f"objective.{name}"] for name in self.objective.state_dict()}
        self.objective.load_state_dict(projections)
        self.objective.restore(state.about["objective"])
        own = self.student.state_dict()
        self.best = {name: part_of(value, own[name]) for name, value in _best(state).items()}

        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        for i, parameter in enumerate(self.parameters):
            if f"step.{i}" in state.learned:
                likes = {"step": self._failed, "exp_avg": parameter, "exp_avg_sq": parameter}
                moments = {name: part_of(state.learned[f"{name}.{i}"], like) for name, like in likes.items()}
                self.optimizer.state[parameter] = moments

    def _load(self, tensors: Tensors) -> None:
        """Give the student these weights, of divided ones each process its part."""
        own = self.student.state_dict()
        parts = {name: part_of(value, own[name]) for name, value in self._with_doubles(tensors).items()}
        self.student.load_state_dict(parts)

    def _with_doubles(self, tensors: Tensors) -> Tensors:
        """Add what save_pretrained leaves out: the other names of tied weights."""
        own = self.student.state_dict(keep_vars=True)
        first = {_identity(value): name for name, value in own.items() if name in tensors}
        doubles = {name: first.get(_identity(value)) for name, value in own.items() if name not in tensors}
        return {**tensors, **{name: tensors[other] for name, other in doubles.items() if other is not None}}


def _adamw(parameters: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Make an AdamW whose weight decay acts on matrices and embeddings only; each step sets its rate."""
    groups = [
        {
            "params": [p for p in parameters if (p.ndim >= 2, is_part(p)) == (is_matrix, divided)],
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for divided in (False, True)  # they are not updated in one go
        for is_matrix in (True, False)
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _identity(value: Tensor) -> int:
    """Tell tensors apart, but for the several names of a tied one; a part of a small weight may have no place."""
    return id(value) if is_part(value) else value.data_ptr()


def _best(state: State) -> Tensors:
    """Return the weights that were best when a state was made; {} if none were kept."""
    prefix = "best."
    return {n.removeprefix(prefix): value for n, value in state.learned.items() if n.startswith(prefix)}


def _compare(found: Tensors, expected: Tensors) -> None:
    """Raise ValueError if a tensor is missing, left over, or of another shape or type than expected."""
    for name in {**expected, **found}:
        mine, theirs = (
            f"{tensors[name].dtype} {tuple(tensors[name].shape)}" if name in tensors else "missing"
            for tensors in (found, expected)
        )
        if mine != theirs:
            raise ValueError(f"{name} is {mine}, not {theirs}")
