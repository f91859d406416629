"""Take the social card's picture from the stored notebook 00, and the README's map from the notebooks there are.

    python notebooks/images/make.py

So the picture shows what the notebook showed, and the map no other notebook and no other time. After `make notebooks`,
run it again. The README's moving picture is made by moving.py.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent
README = HERE.parents[1] / "README.md"
MAP = re.compile(r"^\| \| notebook \|.*?\n(?!\|)", re.MULTILINE | re.DOTALL)
CELLS = {"measure": "comparison.png"}  # id of the cell → file


def main() -> None:
    notebook = json.loads((NOTEBOOKS / "00_start_here.ipynb").read_text(encoding="utf-8"))
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook["cells"]}
    for cell, name in CELLS.items():
        output = next(output for output in outputs[cell] if "image/png" in output.get("data", {}))
        (HERE / name).write_bytes(base64.b64decode(output["data"]["image/png"]))
    readme = MAP.sub(course_map(), README.read_text(encoding="utf-8"))
    README.write_text(readme, encoding="utf-8", newline="\n")


def course_map() -> str:
    """Write the map of the course as a table: two columns of notebooks, with the time that each takes."""
    notebooks = [row(path) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))]
    half = (len(notebooks) + 1) // 2
    second = [*notebooks[half:], "| | | "][:half]
    lines = [f"{left}{right}|" for left, right in zip(notebooks[:half], second, strict=True)]
    head = "| | notebook | minutes "
    return "\n".join([f"{head}{head}|", "|---" * 6 + "|", *lines, ""])


def row(path: Path) -> str:
    """Write a notebook's number, title and minutes, as its first cell says them."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    number, title = re.match(r"# (\d\d) · ([^:\n]+)", first).groups()
    minutes = re.search(r"(\d+)(?: to (\d+))? minutes", first)
    assert minutes, f"{path.name} does not say how long it takes"
    return f"| {number} | [{title}](notebooks/{path.name}) | {'–'.join(filter(None, minutes.groups()))} "


if __name__ == "__main__":
    main()
