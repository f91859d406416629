"""Take the social card's picture from the stored notebook 00, and the times of the README's map from all notebooks.

    python notebooks/images/make.py

So the picture shows what the notebook showed. After `make notebooks`, run it again. The README's moving one is made
by moving.py.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
MAP = re.compile(r"^(\| \d\d \| \[.*\]\(notebooks/(.*)\) \| .* \| )[\d–]* \|$", re.MULTILINE)
CELLS = {"measure": "comparison.png"}  # id of the cell → file


def main() -> None:
    notebook = json.loads((HERE.parent / "00_start_here.ipynb").read_text(encoding="utf-8"))
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook["cells"]}
    for cell, name in CELLS.items():
        output = next(output for output in outputs[cell] if "image/png" in output.get("data", {}))
        (HERE / name).write_bytes(base64.b64decode(output["data"]["image/png"]))
    readme = MAP.sub(lambda row: f"{row[1]}{minutes(row[2])} |", README.read_text(encoding="utf-8"))
    README.write_text(readme, encoding="utf-8", newline="\n")


def minutes(name: str) -> str:
    """Read from a notebook's first cell how long it takes, such as "75–100"."""
    first = "".join(json.loads((HERE.parent / name).read_text(encoding="utf-8"))["cells"][0]["source"])
    found = re.search(r"(\d+)(?: to (\d+))? minutes", first)
    assert found, f"{name} does not say how long it takes"
    return "–".join(filter(None, found.groups()))


if __name__ == "__main__":
    main()
