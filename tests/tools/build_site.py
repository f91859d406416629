"""Execute every notebook without a screen and make a folder of HTML pages from them: `make course`.

    python tests/tools/build_site.py build/site

The pages are nbconvert's: text, code and outputs as in Jupyter, alt texts included, links between the notebooks kept.
Formulas are drawn by MathJax, which the pages fetch from the network, and widgets show their plain pictures.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path

import nbformat
from execute_notebooks import NOTEBOOKS, NotebookError, run
from nbconvert import HTMLExporter

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kdtutor: knowledge distillation of Transformers</title>
<style>body {{ max-width: 40em; margin: 2em auto; padding: 0 1em; font: 1.1em/1.6 sans-serif }}</style>
</head>
<body>
<h1>kdtutor: knowledge distillation of Transformers</h1>
<ul>
{links}
</ul>
</body>
</html>
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute every notebook and make HTML pages from them.")
    parser.add_argument("folder", type=Path, help="where the pages go")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            notebook = run(path)
        except NotebookError as error:
            print(error, file=sys.stderr)
            return 1
        (folder / f"{path.stem}.html").write_text(page(notebook, path.stem), encoding="utf-8")
        links.append(f'<li><a href="{path.stem}.html">{html.escape(title(notebook))}</a></li>')
    (folder / "index.html").write_text(INDEX.format(links="\n".join(links)), encoding="utf-8")
    print(f"open {folder / 'index.html'}")
    return 0


def page(notebook: nbformat.NotebookNode, name: str) -> str:
    """The notebook as one HTML page: links to other notebooks lead to their pages, pictures have their alt texts."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\]\([\w./-]+)\.ipynb\b", r"\1.html", cell.source)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                output.data["text/html"] = image(output)
    exporter = HTMLExporter()  # its embed_images would close every <details> at once
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name, "path": str(NOTEBOOKS)}})
    return body


def image(output: nbformat.NotebookNode) -> str:
    """The output's PNG as an <img>. nbconvert's own, in the template that looks like JupyterLab, drops the alt text."""
    about = {key: html.escape(str(value)) for key, value in output.metadata.get("image/png", {}).items()}
    attributes = "".join(f' {key}="{about[key]}"' for key in ("alt", "width", "height") if key in about)
    return f'<img src="data:image/png;base64,{output.data["image/png"].strip()}"{attributes}>'


def title(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


if __name__ == "__main__":
    sys.exit(main())
