"""Make slides of every notebook: `make slides`.

    python tools/build_slides.py build/slides                           every notebook of the course
    python tools/build_slides.py build/slides notebooks/04_*.ipynb      some of them

Each `##` begins a column of slides, to the right; below it each text is a slide, with the code that follows and what
that printed, and each figure is one with its code. Code that sets up Colab is left out. nbconvert makes the
pages (tools/slides); reveal.js shows them. It comes from npm and lies beside them: they open from a disk.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat
from build_site import COURSE, NOTEBOOKS, SiteError, copy, javascript, paths
from nbconvert import SlidesExporter

FILES = {
    "reveal.js/dist": "reveal/dist",
    "mathjax/es5/tex-svg-full.js": "mathjax/tex-svg-full.js",
    "mathjax/es5/a11y": "mathjax/a11y",
    "mathjax/es5/sre": "mathjax/sre",
    "mathjax/es5/ui": "mathjax/ui",
}
SET_UP = re.compile(r"^#.*\bColab", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make slides of notebooks, with their stored outputs.")
    parser.add_argument("folder", type=Path, help="where the slides go; what was in it is removed")
    parser.add_argument("notebooks", nargs="*", type=Path, help="files or folders; default: the whole course")
    options = parser.parse_args(arguments)
    try:
        made = build(options.folder, [*paths(options.notebooks or [NOTEBOOKS])])
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    print(*made, sep="\n")
    return 0


def build(folder: Path, notebooks: list[Path]) -> list[Path]:
    """Write a page of slides for each notebook, and what the pages load; return the pages. Raises SiteError."""
    modules = javascript()
    shutil.rmtree(folder, ignore_errors=True)
    for origin, target in FILES.items():
        copy(modules / origin, folder / target)
    exporter = SlidesExporter(
        extra_template_basedirs=[str(COURSE.parent)],
        template_name="slides",
        reveal_url_prefix="reveal",
        reveal_theme="white",  # its fonts lie beside it
    )
    made = []
    for path in notebooks:
        if (path.parent / "images").is_dir():
            copy(path.parent / "images", folder / "images")
        notebook = cut(nbformat.read(path, as_version=4))
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        made.append(folder / f"{path.stem}.html")
        made[-1].write_text(page, encoding="utf-8")
    return made


def cut(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Say of each cell, in place, whether it begins a column, begins a slide, goes on with one, or is left out.

    A text with a `##` inside it becomes two cells.
    """
    cells, before = [], None
    for cell in notebook.cells:
        parts = (
            re.split(r"^(?=## )", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else [""]
        )
        texts = [part for part in parts if part.strip()]
        cells += [nbformat.v4.new_markdown_cell(text) for text in texts] or [cell]
    for cell in cells:
        kind = kind_of(cell, before)
        cell.metadata["slideshow"] = {"slide_type": kind}
        if kind != "skip":
            before = cell
    notebook.cells = cells
    return notebook


def kind_of(cell: nbformat.NotebookNode, before: nbformat.NotebookNode | None) -> str:
    """Choose a cell's slide_type, `before` being the last cell that is shown."""
    if cell.cell_type == "markdown":
        if re.match(r"##? ", cell.source):
            return "slide"
        return "-" if cell.source.startswith("<details") else "subslide"
    if SET_UP.search(cell.source):
        if not cell.outputs:
            return "skip"
        cell.metadata.transient = {"remove_source": True}  # what it shows belongs to the text above it
        return "-"
    # A few lines and what they print go with the text above them.
    has_figure = any("image/png" in output.get("data", {}) for output in cell.outputs)
    return "subslide" if has_figure or before is None or before.cell_type == "code" else "-"


if __name__ == "__main__":
    sys.exit(main())
