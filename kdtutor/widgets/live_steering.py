"""How a live distillation is steered: its settings are the objective's, and the next step has what a slider asks."""

from __future__ import annotations

import math
from numbers import Real

import traitlets

from kdtutor.objectives.logits import Blend
from kdtutor.widgets.base import Instrument, Number, SettingError
from kdtutor.widgets.live_parts import same_temperature


class Steered(Instrument):
    """The settings of a `distillation`, as traits; LiveDistillation says which, and when they act."""

    temperature = Number(None, 0.001, 1000, "a temperature", allow_none=True).tag(sync=True)
    alpha = Number(None, 0, 1, "alpha", allow_none=True).tag(sync=True)
    learning_rate = Number(1e-3, 1e-9, 10, "a learning rate").tag(sync=True)
    weights = traitlets.List(None, allow_none=True).tag(sync=True)

    def _settings(self) -> dict[str, object]:
        """Read the traits' values from the objective."""
        objective = self.distillation.objective
        is_blend = isinstance(objective, Blend)
        return {
            "temperature": same_temperature(self.distillation)[0],
            "alpha": objective.alpha if is_blend else None,
            "weights": None if is_blend else [term.weight for term in objective.terms],
            "learning_rate": self.distillation.learning_rate,
        }

    @traitlets.validate("temperature", "alpha", "weights")
    def _applies(self, proposal: dict) -> object:
        """Refuse a setting that the objective does not have, and None for one that it has."""
        name, value = proposal["trait"].name, proposal["value"]
        objective, has = self.distillation.objective, self._settings()[name]
        if (value is None) != (has is None):
            owns = ", ".join(f"live.{key}" for key, mine in self._settings().items() if mine is not None)
            raise SettingError(f"{name} = {value!r}: the objective {objective!r} has its settings in {owns}")
        if name == "weights" and value is not None:
            fits = all(isinstance(w, Real) and not isinstance(w, bool) and 0 <= w < math.inf for w in value)
            if not fits or len(value) != len(objective.terms):
                wanted = f"{len(objective.terms)} finite numbers, 0 or more, one per term"
                raise SettingError(f"weights = {value!r}: there must be {wanted}")
            if not any(value):
                raise SettingError(f"weights = {value!r}: with every weight 0 there is nothing to learn")
        return value

    def _setting_changed(self, change: dict) -> None:
        """Keep it for the next step. A step in hand, when another thread brings the message, ends as it began."""
        if change["new"] is None and self._settings()[change["name"]] is not None:
            self.set_trait(change["name"], change["old"])
            raise SettingError(f"{change['name']} = None: this objective has one, so it must be a number")
        self._asked[change["name"]] = change["new"]
        self._home.do(self._apply)

    def _apply(self) -> None:
        objective = self.distillation.objective
        while self._asked:
            name, value = self._asked.popitem()
            if value is None:
                continue
            if name == "learning_rate":
                self.distillation.learning_rate = value
            elif name == "alpha":
                objective.alpha = value
            elif name == "weights":
                for term, weight in zip(objective.terms, value, strict=True):
                    term.weight = weight
            else:
                for term in objective.terms:
                    if hasattr(term, "temperature"):
                        term.temperature = value

    def _read_settings(self) -> None:
        """Follow what a cell has changed directly, as in `goal.temperature = 4`."""
        self._apply()
        for name, value in self._settings().items():
            if getattr(self, name) != value:
                self.set_trait(name, value)
