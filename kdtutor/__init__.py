"""kdtutor: knowledge distillation of Transformers, taught with the real training loop.

    import kdtutor as kd

    task    = kd.load_task("supersense")
    teacher = kd.load_teacher(task)
    student = kd.half_depth(teacher)
    for step in kd.Distillation(student, teacher, task, kd.blend(alpha=0.1, temperature=4), epochs=2):
        ...
    kd.evaluate(student, task)

A folder imports only what stands above it here:

    errors, importing   a sentence per mistake; what is heavy, without looking for garbage in between
    hardware, neighbours, files   the machine; who else uses it; files written whole
    assets       data, tokenizer, checkpoints and stored results that ship
    data         text → task → tokens
    models       teachers and students
    objectives   what is minimised; begin with formulas.py, then terms.py
    evaluation   what a student is worth
    training     the loop; begin with `Distillation._train_step`
    plots        every figure
    deploy       what leaves the laptop: ONNX, int8, pruning, a server, a browser page
    transformer  attention, encoder, decoder and BERT in one file
    doctor       what this machine has, and what that means for the course
    studies, exercises, widgets, cli   what is built on all that

Importing this package imports nothing heavy: each name is fetched from its module when it is first used (PEP 562).
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from kdtutor.importing import uncollected

__version__ = "0.1.0"

_FOLDER = Path(__file__).parent


def _offered() -> dict[str, str]:
    """Map each name that `kd.` offers to its module, as the stub says that editors and type checkers read."""
    stub = ast.parse((_FOLDER / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {name.name: str(node.module) for node in imports for name in node.names}


_HOME = _offered()


def __getattr__(name: str):
    if name not in _HOME:
        from kdtutor.errors import nearest

        raise AttributeError(nearest("name in kdtutor", name, __dir__()), name=name)
    home = _HOME[name]
    with uncollected():
        value = import_module(f"kdtutor.{name}") if home == __name__ else getattr(import_module(home), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*_HOME, "__version__"})


class _NearestModule:
    """The last finder that `import kdtutor.…` asks: it finds nothing, but says what there is.

    Without it, `import kdtutor.distillation`, where the loop once was, would say "No module named …" and no more.
    """

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> None:
        if not name.startswith(f"{__name__}."):
            return
        from difflib import SequenceMatcher

        files = (file.relative_to(_FOLDER.parent).with_suffix("") for file in _FOLDER.rglob("[!_]*.py"))
        options = sorted({".".join(file.parts) for file in files} | {f"{__name__}.{name}" for name in _HOME})
        last = name.rpartition(".")[2]
        options.sort(key=lambda option: -SequenceMatcher(None, last, option.rpartition(".")[2]).ratio())
        raise ModuleNotFoundError(f'unknown module "{name}"; nearest: {", ".join(options[:5])}')


sys.meta_path.append(_NearestModule)
