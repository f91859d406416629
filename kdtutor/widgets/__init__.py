"""The live instruments: Jupyter widgets that are computed and drawn in the browser.

    kd.widgets.TemperatureSlider(logits, task.labels)        # one answer, at any temperature
    kd.widgets.TemperatureExplorer(teacher, student, task)   # what T and α do to one text
    kd.widgets.LiveDistillation(distillation)                # a training to steer while it runs
    kd.widgets.BeTheTeacher(task, teacher)                   # soft targets by hand
    kd.widgets.AttentionViewer(teacher, student, task=task)  # who looks where
    kd.widgets.LayerMap(student, teacher, task)              # which layer teaches which
    kd.widgets.WatchThemWrite({"teacher": …, …}, task)       # token by token, and what the teacher says of each
    kd.widgets.NoiseDial({"teacher": teacher, …}, task)      # a text that is broken bit by bit
    kd.widgets.BeatTheOptimiser(studies.load("grid"))        # a hidden landscape, and two rivals
    kd.widgets.ModelChart(evaluation.choices({…}, task))    # which model to choose, and its recipe

Each is a traitlets model like any ipywidget, so `explorer.temperature = 4` moves the picture and `explorer.observe`
works. Importing this package imports none of them; each comes when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

from kdtutor.importing import uncollected

_HOME = {
    "TemperatureSlider": "temperature_slider",
    "TemperatureExplorer": "explorer",
    "LiveDistillation": "live",
    "BeTheTeacher": "be_the_teacher",
    "AttentionViewer": "attention",
    "LayerMap": "layer_map",
    "WatchThemWrite": "watch_them_write",
    "NoiseDial": "noise_dial",
    "BeatTheOptimiser": "beat_the_optimiser",
    "ModelChart": "model_chart",
    "Instrument": "base",
}


def __getattr__(name: str):
    if name not in _HOME:
        from kdtutor.errors import nearest

        raise AttributeError(nearest("name in kdtutor.widgets", name, _HOME), name=name)
    try:
        with uncollected():
            value = getattr(import_module(f"kdtutor.widgets.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        from kdtutor.errors import KDTutorError

        raise KDTutorError(f"widgets need the package {error.name}: pip install kdtutor[lab]") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
