"""The first instrument of the course: one distribution, and a slider for the temperature that softens it.

    slider = TemperatureSlider(logits, task.labels, "a sour fruit of a tree that grows in warm countries")
    slider.temperature = 4                       # moves the picture
    slider.probabilities()                       # softmax(logits / T)

The axis runs from 0 to 100 % at every temperature: a bar is as long as what it says. The explorer (explorer.py) has the
student, the losses and α beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets

from kdtutor import plots
from kdtutor.widgets.base import Instrument, Number, SettingError, finite

SHOWN = 6  # classes, before the others are added up: a temperature changes no rank


class TemperatureSlider(Instrument):
    """Draw softmax(logits / T) of one text while T moves.

    logits: (C,), or (1, C). class_names: C names. text: what was classified. temperature: 0.1 to 20, shared with the
    browser. Raises SettingError, naming what does not fit.
    """

    _script = "temperature_slider.js"

    temperature = Number(1.0, 0.1, 20, "a temperature").tag(sync=True)
    plan = traitlets.Dict().tag(sync=True, told=True)

    def __init__(self, logits, class_names: Sequence[str], text: str = "", temperature: float = 1.0) -> None:
        names = [str(name) for name in class_names]
        if len(names) < 2:
            raise SettingError(f"the slider softens a choice between classes, and there is {len(names)}")
        z = finite(logits, "the logits", len(names))
        super().__init__(plan={"names": names, "logits": z, "text": text})
        self.temperature = temperature
        self._sum_up()

    def probabilities(self) -> torch.Tensor:
        """Compute softmax(logits / T), float64 (C,)."""
        return (torch.tensor(self.plan["logits"], dtype=torch.float64) / self.temperature).softmax(-1)

    @traitlets.observe("temperature")
    def _sum_up(self, change=None) -> None:
        if self.plan:
            said = plots.ranking(self.probabilities().numpy(), self.plan["names"])
            self.summary = f"At T = {self.temperature:.3g} the probabilities are {said}."

    def picture(self) -> plots.Picture:
        """Draw the likeliest classes as they are now."""
        picture = plots.distributions(
            self.probabilities(), None, self.plan["names"], SHOWN, self.plan["text"]
        )
        return plots.describe(picture, self.summary)
