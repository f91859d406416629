"""The chart of models: accuracy against milliseconds, bytes or texts per second, the Pareto front, and the recipes.

    models = evaluation.choices({"teacher": teacher, "LSTM": lstm}, task, {"LSTM": "soft targets at T = 2"})
    chart = ModelChart(models)
    chart.cost, chart.budget = "bytes", 4e6      # or the buttons and the slider
    chart.chosen                                 # the model whose recipe is shown: pointed at, or walked to

Nothing of it needs a kernel: the browser has all points, and finds the front by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import traitlets

from kdtutor import plots
from kdtutor.evaluation.choosing import COSTS, Choice, pareto_front
from kdtutor.hardware import format_bytes
from kdtutor.widgets.base import Instrument, OneOf, SettingError

MOST = 7  # models: as many as have a look of their own


class ModelChart(Instrument):
    """Draw measured models, the front of those that none dominates, and the best one that a budget allows.

    models: two to seven of `evaluation.choices`. Settings, shared with the browser: cost, a field in COSTS; budget, in
    its unit, at most (for throughput: at least), or None; chosen, a place in `models`. Raises SettingError for models
    that can't be drawn, and for a setting that can't be.
    """

    _script, _style = "model_chart.js", "model_chart.css"

    cost = OneOf("milliseconds", COSTS).tag(sync=True)
    budget = traitlets.Float(None, allow_none=True).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    plan = traitlets.Dict().tag(sync=True, told=True)

    def __init__(self, models: Sequence[Choice], **settings) -> None:
        self.models = list(models)
        if not 2 <= len(self.models) <= MOST:
            raise SettingError(f"the chart shows two to {MOST} models, not {len(self.models)}")
        names = [model.name for model in self.models]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SettingError(f"two models are called {twice[0]!r}: give each its own name")
        for model in self.models:
            numbers = [*(getattr(model, cost) for cost in COSTS), model.low, model.accuracy, model.high]
            if not all(math.isfinite(x) and x >= 0 for x in numbers) or 0 in numbers[: len(COSTS)]:
                raise SettingError(f"{model.name}: every cost is a number above 0, every score one from 0")
        super().__init__(plan={"models": [asdict(model) for model in self.models]})
        for name, value in settings.items():
            if name not in ("cost", "budget", "chosen"):
                raise SettingError(f"the chart has no setting {name}: cost, budget, chosen")
            setattr(self, name, value)
        self._summarise()

    @traitlets.validate("chosen")
    def _is_a_model(self, proposal) -> int:
        if not 0 <= proposal["value"] < len(self.models):
            raise SettingError(
                f"chosen = {proposal['value']}: there are the models 0 to {len(self.models) - 1}"
            )
        return proposal["value"]

    @traitlets.validate("budget")
    def _is_a_budget(self, proposal) -> float | None:
        value = proposal["value"]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingError(f"budget = {value!r}: a number above 0, or None for no budget")
        return value

    def best(self) -> int | None:
        """Return the place of the most accurate model within the budget, the cheaper of equals; None if none is."""
        sign = COSTS[self.cost]
        costs = [sign * getattr(model, self.cost) for model in self.models]
        fits = [i for i in range(len(costs)) if self.budget is None or costs[i] <= sign * self.budget]
        return max(fits, key=lambda i: (self.models[i].accuracy, -costs[i]), default=None)

    @traitlets.observe("cost", "budget", "chosen")
    def _summarise(self, change=None) -> None:
        if not self.plan:
            return
        front = [self.models[i].name for i in pareto_front(self.models, self.cost)]
        model, best = self.models[self.chosen], self.best()
        self.summary = (
            f"On the Pareto front of accuracy and {self.cost}: {', '.join(front)}. "
            + ("" if self.budget is None else _within(self.cost, self.budget, best, self.models))
            + f"{model.name}: {plots.percent(model.accuracy, 1)} ({plots.percent(model.low, 1)} to "
            f"{plots.percent(model.high, 1)}), {format_bytes(model.bytes)}, {model.milliseconds:.2g} ms for one text, "
            f"{model.throughput:,.0f} texts per second."
        )

    def picture(self) -> plots.Picture:
        """Draw accuracy by the time for one text, whatever `cost` is."""
        points = {m.name: ([m.accuracy], m.milliseconds, m.parameters) for m in self.models}
        picture = plots.size_accuracy_latency(points)
        return plots.describe(picture, f"{self.summary} {picture.alt}")


def _within(cost: str, budget: float, best: int | None, models: Sequence[Choice]) -> str:
    bound = f"at least {budget:,.4g} texts per second" if COSTS[cost] < 0 else f"at most {budget:,.4g} {cost}"
    return f"With {bound} the best is {'none' if best is None else models[best].name}. "
