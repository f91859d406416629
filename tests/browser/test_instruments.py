"""Live distillation, the attention viewer and Be the teacher in JupyterLab."""

from __future__ import annotations

import json
import re

import pytest
from conftest import TALL
from instruments import GAME, RUN, SETUP, VIEWER
from playwright.sync_api import Locator, expect
from servers import Notebook, store


@pytest.fixture(scope="module")
def notebook(open_page, lab) -> Notebook:
    store(lab.folder / "instruments.ipynb", SETUP, f"{RUN}\nlive", f"{VIEWER}\nviewer", f"{GAME}\ngame")
    opened = Notebook(open_page(lab.address, viewport=TALL).page, lab, "instruments.ipynb")
    opened.run_all()
    return opened


class Part:
    """An instrument on the page."""

    def __init__(self, notebook: Notebook, name: str) -> None:
        self.notebook, self.root = notebook, notebook.page.locator(f".kd-{name}").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def value(self, name: str) -> float:
        return float(self[name].get_attribute("data-value"))


# ---------------------------------------------------------------------------------------------- live distillation


@pytest.fixture
def live(notebook) -> Part:
    notebook.run("live.pause()\nlive.reset()")
    part = Part(notebook, "live")
    expect(part.root).to_have_attribute("data-status", "ready", timeout=20_000)
    expect(part.root).to_have_attribute("data-kernel", "yes", timeout=20_000)
    return part


def reaches(live: Part, step: int) -> None:
    live.notebook.page.wait_for_function(
        "(step) => +document.querySelector('.kd-live').dataset.step >= step", arg=step, timeout=60_000
    )


def test_it_starts_pauses_changes_t_on_the_way_and_finishes(notebook, live, screenshot):
    live["start"].click()
    expect(live.root).to_have_attribute("data-status", "training", timeout=20_000)
    reaches(live, 10)
    # The kernel runs other cells meanwhile.
    assert notebook.run("print(sum(range(10)), live.status)") == "45 training"
    live["temperature"].focus()
    for _ in range(40):
        notebook.page.keyboard.press("ArrowRight")
    reaches(live, int(live.root.get_attribute("data-step")) + 5)
    live["pause"].click()
    expect(live.root).to_have_attribute("data-status", "paused", timeout=20_000)
    T, step = live.value("temperature"), int(notebook.run("print(run.done)"))
    assert T > 2
    assert float(notebook.run("print(run.objective.temperature)")) == pytest.approx(T, abs=1e-9)
    assert int(notebook.run("import time; time.sleep(0.5)\nprint(run.done)")) == step
    expect(live["at"]).to_have_attribute("data-value", f"{step}")
    screenshot(live.root, "live-paused")
    live["step"].click()
    expect(live["at"]).to_have_attribute("data-value", f"{step + 1}")
    live["start"].click()
    expect(live.root).to_have_attribute("data-status", "finished", timeout=120_000)
    assert (
        notebook.run("print(live.status, run.done == run.total_steps, live.twin.done == run.done)")
        == "finished True True"
    )
    assert int(live["chart-losses"].get_attribute("data-points")) > 5
    assert int(live["chart-score"].get_attribute("data-points")) > 1
    screenshot(live.root, "live-finished")


def test_stop_and_settings_from_a_cell_act_at_once(notebook, live):
    notebook.run("live.start()")
    reaches(live, 3)
    notebook.run("live.temperature, live.alpha = 4, 0.25")
    expect(live["temperature"]).to_have_attribute("data-value", "4")
    notebook.run("live.stop()")
    expect(live.root).to_have_attribute("data-status", "paused", timeout=20_000)
    assert notebook.run("print(run.objective)").count("0.25") >= 1


def test_a_second_run_is_refused_while_one_is_training(notebook, live):
    live["start"].click()
    expect(live.root).to_have_attribute("data-status", "training", timeout=20_000)
    said = notebook.run(
        "other = kd.Distillation(kd.small_bert(task, layers=1, width=16), teacher, task, kd.SoftTargets(2))\n"
        "kd.widgets.LiveDistillation(other, twin=False, validation=20).start()"
    )
    assert "KDTutorError" in said and "live run" in said, said
    assert notebook.run("print(live.status)") == "training"


def test_closing_the_page_leaves_the_run_in_python(notebook, live, open_page, lab):
    live["start"].click()
    reaches(live, 3)
    notebook.run("at_closing = run.done")
    notebook.page.close()
    opened = Notebook(open_page(lab.address, viewport=TALL).page, lab, "instruments.ipynb")
    notebook.page = opened.page
    said = notebook.run("import asyncio; await asyncio.sleep(1)\nprint(run.done > at_closing, live.status)")
    assert said.startswith("True ")
    notebook.run("live.pause()")
    notebook.run("live", keep=True)
    expect(Part(notebook, "live")["at"]).to_have_attribute(
        "data-value", notebook.run("print(run.done)"), timeout=20_000
    )


# --------------------------------------------------------------------------------------------- the attention viewer


def test_the_viewer_works_by_keyboard_and_shows_torchs_weights(notebook, screenshot):
    notebook.run("viewer", keep=True)
    viewer = Part(notebook, "attention")
    for who in ("teacher", "student"):
        viewer[f"{who}-token-2"].focus()
        notebook.page.keyboard.press("ArrowDown")
        expect(viewer[f"{who}-token-3"]).to_be_focused()
        expect(viewer[f"{who}-token-3"]).to_have_attribute("aria-selected", "true")
        said = notebook.run(
            "import json, time; time.sleep(0.3)\n"
            f"print(json.dumps([viewer.token, viewer.shown('{who}')[3].double().tolist()]))"
        )
        token, weights = json.loads(said)
        assert token == 3
        shown = [viewer.value(f"{who}-weight-{j}") for j in range(len(weights))]
        assert shown == pytest.approx(weights, abs=1e-4)  # they travel as integers of 16 bits
        assert viewer.value(f"{who}-sum") == pytest.approx(1, abs=1e-9)
    viewer["teacher-head"].focus()
    notebook.page.keyboard.press("End")
    assert notebook.run("import time; time.sleep(0.3)\nprint(viewer.head)") == viewer[
        "teacher-head"
    ].get_attribute("max")
    screenshot(viewer.root, "attention-viewer")


# --------------------------------------------------------------------------------------------------- be the teacher


def test_the_game_works_by_keyboard_and_learns_what_torch_learns(notebook, screenshot):
    notebook.run("game", keep=True)
    game = Part(notebook, "teacher-game")
    bar = game.root.locator("input[data-kd^='target-']").first
    bar.focus()
    notebook.page.keyboard.press("Home")
    for _ in range(30):
        notebook.page.keyboard.press("ArrowRight")
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"^30\.0"))
    share = float(bar.get_attribute("data-value"))
    said = notebook.run(
        "import json, time; time.sleep(0.5)\n"
        "print(json.dumps([game.target, game.beliefs('yours')[0].tolist(), game.beliefs('label')[1].tolist()]))"
    )
    target, yours, by_label = json.loads(said)
    assert target[int(bar.get_attribute("data-kd").removeprefix("target-"))] == pytest.approx(share, abs=1e-9)
    assert sum(target) == pytest.approx(1)
    assert json.loads(game["beliefs-0"].get_attribute("data-yours")) == pytest.approx(yours, abs=1e-6)
    assert json.loads(game["beliefs-1"].get_attribute("data-label")) == pytest.approx(by_label, abs=1e-6)
    screenshot(game.root, "be-the-teacher")


def test_figures_are_dark_in_jupyterlabs_dark_theme(open_page, lab, screenshot):
    figure = "kd.plots.distributions([0.7, 0.2, 0.1], None, ['a', 'b', 'c'])"
    store(lab.folder / "dark.ipynb", "import kdtutor as kd", figure)
    notebook = Notebook(open_page(lab.address).page, lab, "dark.ipynb")
    notebook.run_all()
    shown = notebook.page.locator(".jp-RenderedImage img")
    expect(notebook.page.locator(".kd-caption")).to_be_visible()
    assert shown.evaluate("(image) => getComputedStyle(image).filter") == "none"
    notebook.page.evaluate(
        "window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })"
    )
    expect(notebook.page.locator('body[data-jp-theme-light="false"]')).to_have_count(1)
    assert "invert" in shown.evaluate("(image) => getComputedStyle(image).filter")
    screenshot(notebook.page, "figure-in-dark-jupyterlab")
