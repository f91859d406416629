"""What every stored notebook is held to; running it against its stored outputs is nbval's part of `make test`."""

from __future__ import annotations

import asyncio
import base64
import copy
import itertools
import json
import queue
import re
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from execute_notebooks import NOTEBOOKS, NotebookError, clean, looking_every_second, run, write
from PIL import Image

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CLAIM = "nbval-check-output"
EXERCISES = {"00": 1}  # by the number in the file's name; all others have at least three
MACHINE_PATH = re.compile(
    r"(?<![\w:/.~-])/(?:home|root|Users|tmp|var|mnt|opt|srv|usr|work|workspace|private|content)/\w|\b[A-Z]:\\\w"
)


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    read = nbformat.read(request.param, as_version=4)
    read.path = request.param
    return read


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def claims(notebook):
    return [cell for cell in notebook.cells if CLAIM in cell.metadata.get("tags", ())]


def text_of(output) -> str:
    """What an output shows as text."""
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


def squeezed(text: str) -> str:
    return " ".join(text.split())


# --------------------------------------------------------------------------------------------- the stored notebooks


def test_there_are_notebooks_and_they_are_numbered_in_reading_order():
    assert PATHS
    numbers = [path.name.partition("_")[0] for path in PATHS]
    assert all(re.fullmatch(r"\d\d", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)


def test_it_was_executed_top_to_bottom_in_one_kernel(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_stored_output_is_an_error_or_stderr(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_it_is_stored_as_the_tool_stores_it(notebook):
    stored = nbformat.read(notebook.path, as_version=4)
    assert stored == clean(copy.deepcopy(stored)), "edited by hand? run: make notebooks"


def test_nothing_in_it_names_a_path_or_an_address_of_the_machine_that_ran_it(notebook):
    for cell in notebook.cells:
        shown = [cell.source, *map(text_of, cell.get("outputs", ()))]
        for text in shown:
            assert not MACHINE_PATH.search(text), text
            assert not re.search(r" at 0x[0-9a-f]+", text), text


def test_every_claim_has_a_count_and_an_output_or_nbval_would_skip_it(notebook):
    for cell in claims(notebook):
        assert cell.cell_type == "code"
        assert cell.execution_count is not None, cell.source
        assert cell.outputs, f"claims nothing: {cell.source}"


def test_it_checks_at_least_one_claim(notebook):
    assert claims(notebook)


def test_its_first_code_cell_installs_what_is_missing_and_keeps_cells_for_a_processor_on_it(notebook):
    """A student trained on a GPU stays there, and the cells after it compute with what lies on the processor."""
    first = code_cells(notebook)[0].source
    assert 'find_spec("kdtutor") is None' in first and "%pip install --quiet --no-deps" in first
    is_for_a_gpu = notebook.path.name.startswith("14")
    assert ('os.environ.setdefault("ACCELERATE_USE_CPU", "true")' in first) is not is_for_a_gpu


def test_its_first_cell_is_a_title_with_the_time_needed_and_what_one_will_be_able_to_do(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert re.search(r"\d+(\s*(to|–|-)\s*\d+)?\s+minutes", first.source)
    assert "you will be able to" in squeezed(first.source).lower()


def test_the_minutes_of_its_sections_add_up_to_the_time_that_it_states(notebook):
    headings = re.findall(r"^## (.*) · (\d+) min$", prose(notebook), re.MULTILINE)
    total = sum(int(minutes) for heading, minutes in headings if "Optional" not in heading)
    stated = int(re.search(r"\*\*Time needed:\*\* (\d+)", notebook.cells[0].source)[1])
    assert not headings or total == pytest.approx(stated, rel=0.07)


def test_the_minutes_of_its_exercises_add_up_to_those_that_it_states(notebook):
    minutes = re.findall(r"^#+ Exercise .*\n\n\*[^*]*?(\d+) minutes", prose(notebook), re.MULTILINE)
    assert f" {sum(map(int, minutes))} for the exercises" in notebook.cells[0].source


def test_what_installs_is_folded_away_in_jupyter_and_on_the_site(notebook):
    installing = [
        cell for cell in code_cells(notebook) if re.search(r"^ +%pip install", cell.source, re.MULTILINE)
    ]
    assert [cell.execution_count for cell in installing] == [1]
    for cell in installing:
        assert cell.metadata.get("jupyter") == {"source_hidden": True}
        assert "hide-input" in cell.metadata.get("tags", ())


def test_it_has_its_exercises(notebook):
    found = re.findall(r"^#{2,5} .*\bExercise\b", prose(notebook), re.MULTILINE)
    assert len(found) >= EXERCISES.get(notebook.path.name[:2], 3)


def test_code_cells_are_short_and_prose_carries_them(notebook):
    lines = [len(cell.source.strip().splitlines()) for cell in code_cells(notebook)]
    assert statistics.median(lines) <= 6
    assert len(prose(notebook).split()) >= 6 * sum(lines), "at least 6 words a line of code, better 10"


def test_each_static_figure_has_an_alt_text_that_is_printed_beside_it(notebook):
    for cell in code_cells(notebook):
        shown = squeezed("\n".join(text_of(output) for output in cell.outputs))
        for output in cell.outputs:
            for kind in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", ())):
                alt = squeezed(output.metadata.get(kind, {}).get("alt", ""))
                assert len(alt.split()) >= 6, f"no sentence says what the figure shows: {cell.source}"
                assert alt in shown, f"the summary is not printed beside the figure: {cell.source}"


def test_pictures_in_the_prose_have_an_alt_text(notebook):
    assert not re.findall(r"!\[\s*\]\(", prose(notebook))
    for tag in re.findall(r"<img\b[^>]*>", prose(notebook)):
        assert re.search(r"\balt=\"[^\"]+\"", tag), tag


def test_the_social_cards_picture_is_notebook_00s_as_it_is_stored():
    stored = json.loads((NOTEBOOKS / "00_start_here.ipynb").read_text(encoding="utf-8"))
    pictures = {
        base64.b64decode(output["data"]["image/png"])
        for cell in stored["cells"]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    }
    assert (NOTEBOOKS / "images/comparison.png").read_bytes() in pictures, "run: notebooks/images/make.py"


def test_the_readme_stays_short():
    """Two screens (tests/browser/test_readme.py): what it is, what it buys, how to start, the path. The rest has pages
    in docs/."""
    assert len((NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8").split()) <= 490


def test_the_readmes_moving_picture_moves_is_small_and_is_described():
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    [(address, alt)] = re.findall(
        r'<img src="(notebooks/images/[^"]+\.gif)" width="\d+" alt="([^"]+)">', readme
    )
    file = NOTEBOOKS.parent / address
    with Image.open(file) as picture:
        assert picture.n_frames > 20 and picture.width <= 800
    assert file.stat().st_size < 2_000_000
    assert re.search(r"believes at first .* at the end .* its teacher believes", alt)


def test_the_readmes_map_has_every_notebook_and_no_other_with_the_time_that_each_states():
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    listed = sorted(re.findall(r"\| (\d\d) \| \[[^]]+\]\(notebooks/([^)]+)\) \| ([\d–]+) (?=\|)", readme))
    assert [(name[:2], name) for _, name, _ in listed] == [(number, name) for number, name, _ in listed]
    assert [name for _, name, _ in listed] == sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    for _, name, minutes in listed:
        first = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"][0]["source"]
        assert f"**Time needed:** {minutes.replace('–', ' to ')} minutes" in "".join(first), name


def test_the_readmes_map_is_made_from_the_notebooks():
    made = runpy.run_path(str(NOTEBOOKS / "images/make.py"))
    assert made["course_map"]() in (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")


def test_the_map_in_notebook_00_and_the_next_lines_lead_through_all_notebooks_in_order():
    names = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    text = {name: "".join(map(text_of_cell, cells_of(name))) for name in names}
    assert re.findall(r"^\| \d\d \| \[.*\]\((.*\.ipynb)\) \|", text[names[0]], re.MULTILINE) == names[1:]
    for name, following in itertools.pairwise(names[1:]):
        [said] = re.findall(r"\*\*Next:\*\* .*", text[name])
        assert following in said, f"{name} leads elsewhere: {said}"


def text_of_cell(cell: dict) -> str:
    return "".join(cell["source"]) + "\n"


def cells_of(name: str) -> list[dict]:
    return json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]


def test_what_readme_and_docs_link_to_is_there():
    root = NOTEBOOKS.parent
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_to_other_notebooks_lead_somewhere(notebook):
    for target in re.findall(r"\]\(([\w./-]+\.ipynb)", prose(notebook)):
        assert (notebook.path.parent / target).is_file(), target


# --------------------------------------------------------------------------- nbval fails when a claim is falsified


def made(*cells: tuple[str, bool]) -> nbformat.NotebookNode:
    """A notebook of code cells, each (source, whether it is a claim)."""
    new = nbformat.v4.new_notebook()
    for source, is_claim in cells:
        new.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [CLAIM]} if is_claim else {}))
    return new


def nbval(path: Path) -> subprocess.CompletedProcess:
    """What `make test` runs over each notebook."""
    flags = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *flags, "--rootdir", str(path.parent), str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)


def falsify(cell: nbformat.NotebookNode) -> None:
    """Change one character of the cell's stored output: its first digit, or its first letter."""
    for output in cell.outputs:
        holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
        text = holder.get(key, "")
        place = re.search(r"\d", text) or re.search(r"\w", text)
        if place:
            old = place.group()
            new = str((int(old) + 1) % 10) if old.isdigit() else "q" if old != "q" else "x"
            holder[key] = text[: place.start()] + new + text[place.end() :]
            return
    raise AssertionError(f"nothing to falsify in the output of {cell.source!r}")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A small notebook, executed and stored by the same tool as the course's: a printed claim and a returned one."""
    path = tmp_path_factory.mktemp("small") / "small.ipynb"
    write(path, made(("x = [1, 2, 3]", False), ("print(sum(x), 'in all')", True), ("len(x)", True)))
    write(path, run(path))
    return path


@pytest.mark.slow
def test_nbval_passes_on_what_the_tool_stored(small):
    result = nbval(small)
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["printed", "returned"])
def test_nbval_fails_when_a_stored_claim_is_falsified(small, which):
    notebook = nbformat.read(small, as_version=4)
    falsify(claims(notebook)[which])
    altered = small.with_name(f"altered{which}.ipynb")
    write(altered, notebook)
    result = nbval(altered)
    assert result.returncode == 1, result.stdout
    assert "1 failed, 2 passed" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_nbval_fails_when_the_first_claim_of_a_real_notebook_is_falsified(path):
    notebook = nbformat.read(path, as_version=4)
    first = next(
        number for number, cell in enumerate(notebook.cells) if CLAIM in cell.metadata.get("tags", ())
    )
    notebook.cells = notebook.cells[: first + 1]
    falsify(notebook.cells[first])
    # Beside the real one, so that relative paths in it hold; a leading dot keeps it out of every glob.
    altered = path.with_name(f".altered-{path.name}")
    try:
        write(altered, notebook)
        result = nbval(altered)
    finally:
        altered.unlink(missing_ok=True)
    assert result.returncode == 1, result.stdout
    assert "1 failed" in result.stdout


# ------------------------------------------------------------------------------------------------------- the tool


@pytest.mark.slow
def test_the_tool_stops_at_an_error_and_leaves_the_notebook_as_it_was(tmp_path):
    path = tmp_path / "broken.ipynb"
    write(path, made(("1 / 0", False)))
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=r"broken\.ipynb, cell 0: (?s:.*)ZeroDivisionError"):
        run(path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_tool_refuses_output_on_stderr(tmp_path):
    path = tmp_path / "noisy.ipynb"
    write(path, made(("import sys; print('careful', file=sys.stderr)", False)))
    with pytest.raises(NotebookError, match=r"noisy\.ipynb, cell 0 writes to stderr:\ncareful"):
        run(path)


@pytest.mark.slow
def test_the_tool_runs_interact_and_stores_no_view_of_it(tmp_path):
    path = tmp_path / "slider.ipynb"
    write(path, made(("from ipywidgets import interact\ninteract(lambda x: print(x), x=(0, 3));", False)))
    stored = run(path)
    assert stored.cells[0].outputs
    assert not re.search("widget-(view|state)", nbformat.writes(stored))


def test_the_tool_looks_for_a_reply_every_second_until_its_time_is_over():
    asked = []

    async def get_msg(timeout: float) -> dict:
        asked.append(timeout)
        if len(asked) == 3:
            return {"content": "a reply that nobody was told of"}
        raise queue.Empty

    look = looking_every_second(get_msg)
    assert asyncio.run(look(timeout=None))["content"]
    assert len(asked) == 3 and max(asked) <= 1
    with pytest.raises(queue.Empty):
        asyncio.run(look(timeout=0))


@pytest.mark.slow
def test_executing_again_changes_no_byte(small):
    before = small.read_bytes()
    write(small, run(small))
    assert small.read_bytes() == before


def test_cells_without_an_id_or_with_a_repeated_one_get_one_from_their_text():
    notebook = made(("a", False), ("b", False), ("b", False), ("c", False))
    notebook.cells[0].id = notebook.cells[3].id = "kept"
    for cell in notebook.cells[1:3]:
        del cell["id"]
    ids = [cell.id for cell in clean(copy.deepcopy(notebook)).cells]
    assert ids[0] == "kept"
    assert len(set(ids)) == 4
    assert ids == [cell.id for cell in clean(notebook).cells]


def test_views_of_widgets_are_not_stored_but_their_plain_pictures_are():
    notebook = made(("show()", False))
    data = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "image/png": "AAAA",
        "text/plain": "x",
    }
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data)]
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    cleaned = clean(notebook)
    assert set(cleaned.cells[0].outputs[0].data) == {"image/png", "text/plain"}
    assert "widgets" not in cleaned.metadata


@pytest.mark.slow
def test_for_a_page_the_views_of_widgets_and_their_state_are_kept(tmp_path):
    path = tmp_path / "slider.ipynb"
    write(path, made(("from ipywidgets import IntSlider\nIntSlider(7)", False)))
    notebook = run(path, live=True)
    [output] = notebook.cells[0].outputs
    view = output.data["application/vnd.jupyter.widget-view+json"]
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert state[view["model_id"]]["state"]["value"] == 7
    assert "widget" not in nbformat.writes(clean(notebook)).replace("ipywidgets", "")


@pytest.mark.slow
def test_for_a_page_a_widget_is_kept_as_the_background_left_it(tmp_path):
    path = tmp_path / "background.ipynb"
    start = """import asyncio
from ipywidgets import IntSlider
slider = IntSlider(7)
async def count():
    for slider.value in range(20, 30):
        await asyncio.sleep(0.02)
task = asyncio.create_task(count())
slider"""
    write(path, made((start, False), ("await task", False)))
    notebook = run(path, live=True)
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    [slider] = [model["state"] for model in state.values() if model["model_name"] == "IntSliderModel"]
    assert slider["value"] == 29
