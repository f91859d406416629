"""A new user's first minutes: a clone, the first distillation, the first solved exercise; what each took is told."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from conftest import ROOT
from playwright.sync_api import expect
from servers import RUN, Notebook, jupyter

FIRST = "00_start_here.ipynb"
FIRST_CELLS = ("imports", "task", "examples", "six-lines", "curve")
# Runs the notebook's cell with this id, with another source if one is given, and returns what it printed.
RUN_CELL = """async ([id, source]) => {
    const { content } = window.jupyterapp.shell.currentWidget;
    content.activeCellIndex = content.widgets.findIndex((cell) => cell.model.id === id);
    const cell = content.activeCell;
    if (source) cell.model.sharedModel.setSource(source);
    await window.jupyterapp.commands.execute("notebook:run-cell");
    return JSON.stringify(cell.model.outputs.toJSON());
}"""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is no repository to clone")
def test_from_a_clone_to_a_distillation_and_a_solved_exercise(
    open_page, tmp_path, monkeypatch, screenshot, capsys
):
    clone, times, start = tmp_path / "kdtutor", {}, time.monotonic()
    subprocess.run(["git", "clone", "-q", "--depth", "1", ROOT.as_uri(), str(clone)], check=True)
    times["clone"] = time.monotonic() - start
    monkeypatch.setenv("PYTHONPATH", str(clone))

    stored = json.loads((clone / "notebooks" / FIRST).read_text(encoding="utf-8"))
    sources = {cell["id"]: "".join(cell["source"]) for cell in stored["cells"]}
    solution = re.search(r"```python\n(.*?)```", sources["exercise-0-1-help"], re.DOTALL)[1]
    check = sources["exercise-0-1-check"].splitlines()[-1]

    with jupyter(clone / "notebooks", "jupyterlab") as server:
        opened = open_page(server.address).page
        opened.set_default_timeout(3 * RUN)
        notebook = Notebook(opened, server, FIRST)
        times["JupyterLab"] = time.monotonic() - start
        for cell in FIRST_CELLS:
            assert '"error"' not in opened.evaluate(RUN_CELL, [cell, None]), cell
        times["the first distillation"] = time.monotonic() - start

        answer = f"from kdtutor.exercises import check\n\n\n{solution}\n\n{check}"
        opened.evaluate(RUN_CELL, ["exercise-0-1-check", answer])
        card = opened.locator(".kd-card").first
        expect(card).to_contain_text("Exercise 0.1 is solved")
        expect(card).to_contain_text("Next: exercise 0.2")
        card.scroll_into_view_if_needed()
        times["the first solved exercise"] = time.monotonic() - start
        screenshot(opened, "new-user-solved")
        assert notebook.run("print(kd.__file__)").startswith(str(clone))
    assert (clone / "notebooks" / ".kdtutor-solved.json").is_file()
    with capsys.disabled():
        told = ", ".join(f"{what} after {seconds:.0f} s" for what, seconds in times.items())
        print(f"\na new user's first minutes: {told}")
