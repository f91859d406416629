"""What all instruments share: how they reach the browser, how they are shown where nothing runs, and their settings.

    class Dial(Instrument):
        _script = "dial.js"                                       # in static/; runs after common.js
        angle = Number(90.0, 0, 360, "an angle in degrees").tag(sync=True)

        def picture(self):                                        # for GitHub, nbviewer and PDF
            return plots.something(self.angle)

A setting is a synced trait that checks itself: what does not fit raises SettingError with one sentence, and the last
good value stays. Only what ipywidgets 7.7 (Colab) and 8 have in common is used.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from kdtutor.errors import KDTutorError, nearest
from kdtutor.plots.style import Picture

STATIC = Path(__file__).parent / "static"


class SettingError(KDTutorError, traitlets.TraitError, ValueError):
    """A widget was given something that it cannot show."""


@cache
def static(name: str) -> str:
    """Read a file in static/."""
    return (STATIC / name).read_text(encoding="utf-8")


class Instrument(anywidget.AnyWidget):
    """A widget with one look and one language: common.js and common.css, then its own `_script` (and `_style`).

    problem: one sentence that is shown as an alert; "" if all is well. summary: what is seen now in one sentence, the
    alt text. A subclass says in `picture` how it looks where no widget runs.
    """

    _script = ""
    _style = ""

    problem = traitlets.Unicode("").tag(sync=True)
    summary = traitlets.Unicode("").tag(sync=True)

    def __init_subclass__(cls, **kwargs) -> None:
        if "_script" in cls.__dict__:
            cls._esm = f"{static('common.js')}\n{static(cls._script)}"
            cls._css = static("common.css") + (static(cls._style) if cls._style else "")
        super().__init_subclass__(**kwargs)

    def picture(self) -> Picture:
        """Draw the present state with matplotlib, with its alt text."""
        raise NotImplementedError

    def set_state(self, sync_data: dict) -> None:
        """Take what the page changed; of what is tagged `told`, Python alone decides."""
        if isinstance(sync_data, dict):
            told = self.traits(told=True)
            super().set_state({name: value for name, value in sync_data.items() if name not in told})

    def _hear(self, widget, content: object, buffers) -> None:
        """Answer what the browser asks: "ping", whether anybody is there; "text", to read what was typed.

        For `on_msg`, in a subclass with a trait `text`.
        """
        if not isinstance(content, dict):
            return
        if content.get("kind") == "text":
            try:
                self.text, self.problem = str(content.get("text", "")), ""
            except KDTutorError as error:
                self.problem = str(error)
            except Exception as error:  # a model may fail in any way; the page must hear of it
                self.problem = f"the models could not read this text: {type(error).__name__}: {error}"[:300]
            self.send({"kind": "read"})
        self.send({"kind": "pong"})

    def __repr__(self) -> str:
        return self.summary or type(self).__name__  # never an address: stored outputs must not change

    def _repr_mimebundle_(self, include=None, exclude=None, **kwargs) -> tuple[dict, dict]:
        """Give one bundle: the live view for front ends that run widgets, the plain picture for all others."""
        data, metadata = super()._repr_mimebundle_()
        picture = self.picture()
        png, about = picture.png()
        data["image/png"], data["text/plain"] = base64.b64encode(png).decode("ascii"), picture.alt
        return data, {**metadata, "image/png": about}

    def _ipython_display_(self, **kwargs) -> None:
        from IPython.display import display

        data, metadata = self._repr_mimebundle_()  # ipywidgets 7 would show a bundle without a picture
        display(data, raw=True, metadata=metadata)


class WithExamples(Instrument):
    """An instrument that shows one text: one of its examples, or one that was typed.

    A subclass says what a text that is put into `text` makes it show, and sets `example` to None if it is none of them.
    """

    text = traitlets.Unicode("").tag(sync=True)
    example = traitlets.Integer(None, allow_none=True).tag(sync=True)
    examples = traitlets.List(traitlets.Dict()).tag(sync=True, told=True)

    @traitlets.validate("example")
    def _is_example(self, proposal) -> int | None:
        place = proposal["value"]
        if place is not None and not 0 <= place < len(self.examples):
            raise SettingError(f"example = {place}: there are {len(self.examples)}, counted from 0")
        return place

    @traitlets.observe("example")
    def _pick(self, change) -> None:
        if change["new"] is not None:
            self.text = self.examples[change["new"]]["text"]


# ------------------------------------------------------------------------------------------------ settings


class Number(traitlets.Float):
    """A finite number from `low` to `high`; `what` names it in the error: "a temperature"."""

    def __init__(self, default: float, low: float, high: float, what: str, **kwargs) -> None:
        self.low, self.high, self.what = low, high, what
        super().__init__(default, **kwargs)

    def validate(self, obj, value) -> float:
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not self.low <= number <= self.high:  # NaN is not, either
            raise SettingError(
                f"{self.name} = {value!r}: {self.what} is a number from {self.low:g} to {self.high:g}"
            )
        return number


class OneOf(traitlets.Unicode):
    """One of a few words."""

    def __init__(self, default: str, options: Iterable[str], **kwargs) -> None:
        self.options = tuple(options)
        super().__init__(default, **kwargs)

    def validate(self, obj, value) -> str:
        if value not in self.options:
            raise SettingError(nearest(self.name, value, self.options))
        return value


class Row(traitlets.List):
    """One row of finite numbers, (C,); tensors and arrays are welcome."""

    def validate(self, obj, value) -> list[float]:
        return finite(value, self.name.replace("_", " ")) if len(value) else []


def finite(values, what: str, classes: int | None = None) -> list[float]:
    """Convert one row of numbers, (C,) or (1, C), to plain Python floats, ready for JSON, which has no NaN.

    values: tensor (of any type, on any device), array or list. Raises SettingError, naming `what`, unless they are
    `classes` finite numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()  # numpy has no bfloat16
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{what} must be numbers, not {_short(values)}") from error
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not len(array) or classes not in (None, len(array)):
        wanted = "one row of numbers" if classes is None else f"{classes} in a row, one for each class"
        raise SettingError(f"{what} have the shape {array.shape}; there must be {wanted}")
    if not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise SettingError(f"{what} must be finite, and the one of class {place} is {array[place]}")
    return array.tolist()


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
