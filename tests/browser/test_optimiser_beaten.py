"""Beat the optimiser, by mouse, keyboard, slider and finger, in a page without a kernel and in JupyterLab."""

from __future__ import annotations

import json
from pathlib import Path

import build_site as site_tool
import pytest
from conftest import PHONE, TALL
from playwright.sync_api import Locator, Page, expect
from servers import Notebook, store

MAKE = """import kdtutor as kd
game = kd.widgets.BeatTheOptimiser(kd.studies.load("grid"), budget=3)"""


class Game:
    """The game on a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".kd-beat-the-optimiser").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def tried(self) -> set[str]:
        self.page.wait_for_timeout(150)
        cells = self.root.locator('[data-state="tried"]')
        return set(cells.evaluate_all("(cells) => cells.map((cell) => cell.dataset.kd)"))


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_game.ipynb", "# 01 · A game\n\n5 minutes.", f"{MAKE}\ngame")
    return build_site(folder)


@pytest.fixture
def game(site, open_page) -> Game:
    page = open_page("file://").page
    page.goto((site / "01_game.html").as_uri())
    return Game(page)


def test_a_click_shows_one_score_and_no_more_than_the_budget_are_placed(game, screenshot):
    game["cell-0-0"].click()
    assert game.tried() == {"cell-0-0"}
    shown = float(game["cell-0-0"].inner_text().split("\n")[0])
    assert shown == pytest.approx(100 * float(game["you"].get_attribute("data-validation")), abs=0.06)
    expect(game["cell-1-1"]).to_contain_text("?")
    game["cell-0-0"].click()  # once more: nothing
    for name in ("cell-1-2", "cell-2-3", "cell-3-3"):
        game[name].click()
    assert game.tried() == {"cell-0-0", "cell-1-2", "cell-2-3"}
    expect(game["try"]).to_be_disabled()
    expect(game["you"]).not_to_have_attribute("data-test", "x")
    screenshot(game.root, "page-optimiser-hidden")


def test_unveiled_every_cell_has_its_mean_and_the_rivals_their_choice(game, screenshot):
    game["cell-2-2"].click()
    game["unveil"].click()
    expect(game.root).to_have_attribute("data-unveiled", "yes")
    game.page.wait_for_timeout(150)
    cells = game.root.locator(".kd-bo-cell")
    assert cells.count() == 25 == game.root.locator('[data-state="shown"]').count()
    assert game.root.locator('[data-best="yes"]').count() >= 1
    for name in ("you", "tpe", "random"):
        assert 0 < float(game[name].get_attribute("data-test")) < 1
    expect(game["summary"]).to_contain_text("TPE chose")
    screenshot(game.root, "page-optimiser-unveiled")
    game["again"].click()
    expect(game.root).to_have_attribute("data-unveiled", "no")
    assert game.tried() == set()


def test_it_is_played_with_the_keyboard_alone_and_with_the_sliders(game):
    game["cell-0-0"].focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        game.page.keyboard.press(key)
    assert game.tried() == {"cell-1-2"}
    expect(game["cell-1-2"]).to_be_focused()
    name = game["cell-1-2"].get_attribute("aria-label")
    assert name.startswith("α = 0.1, T = 4: validation ") and name.endswith("your trial 1")
    game["alpha"].focus()
    game.page.keyboard.press("ArrowRight")
    game["try"].focus()
    game.page.keyboard.press("Enter")
    assert game.tried() == {"cell-1-2", "cell-1-0"}


def test_a_finger_is_enough_and_nothing_sticks_out(site, open_page, screenshot):
    page = open_page("file://", viewport=PHONE, has_touch=True).page
    page.goto((site / "01_game.html").as_uri())
    game = Game(page)
    game["cell-4-4"].tap()
    assert game.tried() == {"cell-4-4"}
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(game.root, "phone-optimiser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, open_page, screenshot, scheme):
    page = open_page("file://", color_scheme=scheme).page
    page.goto((site / "01_game.html").as_uri())
    game = Game(page)
    game["cell-1-1"].click()
    game["unveil"].click()
    page.wait_for_timeout(500)
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate(
        "axe.run('.kd-beat-the-optimiser', { resultTypes: ['violations'], preload: false })"
    )
    faults = [(f["id"], f["impact"], [n["html"][:200] for n in f["nodes"][:3]]) for f in found["violations"]]
    screenshot(game.root, f"page-optimiser-{scheme}")
    assert not faults, json.dumps(faults, indent=1)


def test_in_jupyterlab_python_knows_the_trials_and_moves_them(open_page, lab):
    store(lab.folder / "game.ipynb", MAKE, "game")
    page = open_page(lab.address, viewport=TALL).page
    notebook = Notebook(page, lab, "game.ipynb")
    notebook.run_all()
    game = Game(page)
    game["cell-3-1"].click()
    assert game.tried() == {"cell-3-1"}
    assert json.loads(notebook.run("print(game.placed)")) == [[3, 1]]
    notebook.run("game.placed = [[0, 2]]; game.unveiled = True")
    expect(game.root).to_have_attribute("data-unveiled", "yes", timeout=20_000)
    page.goto("about:blank")
