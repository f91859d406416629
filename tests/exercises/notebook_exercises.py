"""What the notebooks have of each exercise: title, cell, hint and solution."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


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
