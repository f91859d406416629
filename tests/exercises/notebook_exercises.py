"""What the notebooks have of each exercise: title, cell, hint, solution; and how answers to them are judged."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import nbformat

from kdtutor.exercises import checker, load_exercises, sandbox
from kdtutor.exercises.definitions import Verdict

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
EXERCISES = load_exercises()


def sections() -> dict[str, tuple[str, str, str, str]]:
    """Each exercise's title, the cell with its check, hint and solution, and all imports above it, by number."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        number, imports = None, ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%"):
                imports += imports_of(cell.source)
            if heading := re.search(r"^### Exercise (\d+\.\d+) · (.+)$", cell.source, re.MULTILINE):
                number, title, code = heading[1], heading[2], ""
            elif number and cell.cell_type == "code" and re.search(r"^check\.", cell.source, re.MULTILINE):
                code = cell.source
            elif number and "<summary><b>Solution</b></summary>" in cell.source:
                found[number] = (title, code, cell.source, imports)
                number = None
    return found


def imports_of(code: str) -> str:
    """The imports of a cell, whose magics of IPython are passed over."""
    try:
        lines = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)).body
    except SyntaxError:
        return ""
    wanted = [line for line in lines if isinstance(line, (ast.Import, ast.ImportFrom))]
    return "".join(f"{ast.unparse(line)}\n" for line in wanted)


SECTIONS = sections()


def solution(folded: str) -> str:
    """The code of the solution."""
    return re.search(r"```python\n(.*?)```", folded.partition("<b>Solution</b>")[2], re.DOTALL)[1]


def judged(exercise: str, answer: Callable, seed: int | None = None, names: Iterable[str] = ()) -> Verdict:
    """The verdict on an answer, which ought to have these names: at seed 1 as in a notebook, in a child of its own.

    Further seeds draw other probes. There a child is forked only to find a slip that no bank knows: it takes longer
    than the answer itself.
    """
    in_a_child = seed in (None, 1) or not {mistake.name for mistake in EXERCISES[exercise].mistakes} >= {
        *names
    }
    with nullcontext() if in_a_child else mock.patch.object(sandbox, "can_fork", lambda: False):
        return checker.judge(EXERCISES[exercise], answer, seed)
