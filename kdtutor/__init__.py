"""kdtutor: knowledge distillation of Transformers, taught with the real training loop.

    import kdtutor as kd

    task    = kd.load_task("supersense")
    teacher = kd.load_teacher(task)
    student = kd.half_depth(teacher)
    for step in kd.Distillation(student, teacher, task, kd.blend(alpha=0.1, temperature=4), epochs=2):
        ...
    kd.evaluate(student, task)

Importing this package imports nothing heavy: each name is fetched from its module when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

#: module → the names that `kd.` offers from it; the module itself is there as well, as in `kd.objectives.soft_targets`
_EXPORTS = {
    "errors": "KDTutorError",
    "data": "load_task load_tokenizer Task",
    "models": "load_teacher load_model half_depth small_bert layer_choice sizes freeze",
    "objectives": (
        "HardLabels SoftTargets SoftCrossEntropy LogitsMSE CosineHidden HiddenStates MaskedLM blend Term Objective"
    ),
    "evaluation": "evaluate predict mean_and_interval paired_test",
    "training.distillation": "Distillation",
    "training.topk": "TopK",
    "training.plan": "plan",
    "plots": "",
    "studies": "",
    "transformer": "",
    "doctor": "",
    "exercises": "",
    "widgets": "",
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names.split()}


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(import_module(f"kdtutor.{_HOME[name]}"), name)
    elif name in _EXPORTS and "." not in name:
        value = import_module(f"kdtutor.{name}")
    else:
        from kdtutor.errors import nearest

        raise AttributeError(nearest("name in kdtutor", name, __dir__()), name=name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*_HOME, "__version__", *(module for module in _EXPORTS if "." not in module)})
