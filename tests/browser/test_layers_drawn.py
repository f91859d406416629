"""The layer map, by mouse, touch and keyboard: in a page without a kernel, and in JupyterLab, where it trains."""

from __future__ import annotations

import json
from pathlib import Path

import build_site as site_tool
import pytest
from conftest import PHONE, TALL
from playwright.sync_api import Locator, Page, expect
from servers import Notebook, store

MAKE = """import kdtutor as kd, torch
torch.manual_seed(0)
task = kd.load_task("supersense").subset(320)
teacher, student = (kd.small_bert(task, layers=n, width=32) for n in (4, 2))
board = kd.widgets.LayerMap(student, teacher, task, steps=8, texts=40, batch_size=16)"""
TRAINED = 'board.run({}); board.run("evenly")\nboard.beside = 1\nboard'


class Board:
    """A layer map on a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".kd-layer-map").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def lines(self) -> dict[int, int]:
        """Once the picture has caught up: {student's layer: teacher's}."""
        self.page.wait_for_timeout(150)
        found = self.root.locator(".kd-lm-line").evaluate_all(
            "(lines) => lines.map((line) => [line.dataset.kd.slice(5), line.dataset.teacher])"
        )
        return {int(s): int(t) for s, t in found}

    def middle(self, name: str) -> tuple[float, float]:
        self[name].scroll_into_view_if_needed()
        box = self[name].bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_layers.ipynb", "# 01 · Layers\n\n5 minutes.", f"{MAKE}\n{TRAINED}")
    return build_site(folder)


@pytest.fixture
def board(site, open_page) -> Board:
    page = open_page("file://").page
    page.goto((site / "01_layers.html").as_uri())
    return Board(page)


def test_a_line_is_drawn_with_the_mouse_from_either_side_and_taken_away_by_itself(board, screenshot):
    assert board.lines() == {1: 2, 2: 4}
    board["teacher-3"].scroll_into_view_if_needed()
    for start, end in (("teacher-3", "student-1"), ("student-0", "teacher-0")):
        board.page.mouse.move(*board.middle(start))
        board.page.mouse.down()
        board.page.mouse.move(*board.middle(end), steps=8)
        board.page.mouse.up()
    assert board.lines() == {0: 0, 1: 3, 2: 4}
    screenshot(board.root, "page-layer-map")
    board["teacher-4"].click()
    expect(board["teacher-4"]).to_have_attribute("aria-pressed", "true")
    board["student-2"].click()
    assert board.lines() == {0: 0, 1: 3}
    expect(board["teacher-4"]).to_have_attribute("aria-pressed", "false")


def test_a_drag_that_ends_nowhere_or_at_the_same_model_draws_nothing(board):
    for end in ((5.0, 5.0), board.middle("teacher-1")):
        board.page.mouse.move(*board.middle("teacher-3"))
        board.page.mouse.down()
        board.page.mouse.move(*end, steps=5)
        board.page.mouse.up()
    assert board.lines() == {1: 2, 2: 4}


def test_a_line_is_drawn_with_the_keyboard_alone(board):
    board["clear"].focus()
    board.page.keyboard.press("Enter")
    assert board.lines() == {}
    board["teacher-0"].focus()
    for key in ("ArrowDown", "ArrowDown", "Enter", "ArrowRight"):
        board.page.keyboard.press(key)
    expect(board["student-1"]).to_be_focused()
    board.page.keyboard.press("Enter")
    assert board.lines() == {1: 2}
    expect(board["student-1"]).to_have_accessible_name("student, layer 1, learns from the teacher's layer 2")
    board.page.keyboard.press("Space")
    board.page.keyboard.press("Escape")
    expect(board["student-1"]).to_have_attribute("aria-pressed", "false")
    board.page.keyboard.press("Delete")
    assert board.lines() == {}


def test_a_line_is_drawn_with_a_finger(site, open_page, screenshot):
    page = open_page("file://", viewport=PHONE, has_touch=True).page
    page.goto((site / "01_layers.html").as_uri())
    board = Board(page)
    board["teacher-1"].tap()
    board["student-2"].tap()
    assert board.lines() == {1: 2, 2: 1}
    # A finger that is dragged.
    devtools = page.context.new_cdp_session(page)
    (x1, y1), (x2, y2) = board.middle("teacher-3"), board.middle("student-1")
    for kind, points in (
        ("touchStart", [{"x": x1, "y": y1}]),
        ("touchMove", [{"x": (x1 + x2) / 2, "y": (y1 + y2) / 2}]),
        ("touchMove", [{"x": x2, "y": y2}]),
        ("touchEnd", []),
    ):
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert board.lines() == {1: 3, 2: 1}
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(board.root, "phone-layer-map")


def test_without_a_kernel_it_says_so_and_shows_the_trainings_that_were_kept(board):
    expect(board["no-kernel"]).to_contain_text("needs a running kernel", timeout=10_000)
    expect(board["start"]).to_be_disabled()
    shown = [board["map-shown"].get_attribute("data-values")]
    for number in (0, 1):
        board[f"result-{number}"].click()
        board.page.wait_for_timeout(150)
        shown.append(board["map-shown"].get_attribute("data-values"))
    assert len(set(shown)) == 3
    assert board.lines() == {}, "the training that is shown had no lines"
    assert all(len(json.loads(values)) == 3 and len(json.loads(values)[0]) == 5 for values in shown)
    # Lines that were trained by bring what came of it.
    board["preset"].select_option(label="every second")
    board.page.wait_for_timeout(150)
    assert board["map-shown"].get_attribute("data-values") == shown[0]
    expect(board["result-2"]).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, open_page, screenshot, scheme):
    page = open_page("file://", color_scheme=scheme).page
    page.goto((site / "01_layers.html").as_uri())
    board = Board(page)
    board["teacher-1"].click()
    page.wait_for_timeout(3000)
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate("axe.run('.kd-layer-map', { resultTypes: ['violations'], preload: false })")
    faults = [(f["id"], f["impact"], [n["html"][:200] for n in f["nodes"][:3]]) for f in found["violations"]]
    screenshot(board.root, f"page-layer-map-{scheme}")
    assert not faults, json.dumps(faults, indent=1)


def test_in_jupyterlab_it_trains_by_the_lines_and_the_map_and_the_scores_change(open_page, lab, screenshot):
    store(lab.folder / "layers.ipynb", MAKE, TRAINED)
    page = open_page(lab.address, viewport=TALL).page
    notebook = Notebook(page, lab, "layers.ipynb")
    notebook.run_all()
    board = Board(page)
    expect(board.root).to_have_attribute("data-kernel", "yes", timeout=30_000)
    board["teacher-3"].focus()
    for key in ("Enter", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(board["start"]).to_be_enabled()
    board["start"].click()
    expect(board["result-3"]).to_be_visible(timeout=60_000)
    expect(board.root).to_have_attribute("data-status", "ready", timeout=20_000)
    result = json.loads(notebook.run("import json; print(json.dumps(board.results[3]))"))
    assert dict(result["pairs"]) == board.lines()
    assert json.loads(board["map-shown"].get_attribute("data-values")) == result["similarity"]
    assert float(board["result-3"].get_attribute("data-accuracy")) == result["accuracy"]
    screenshot(board.root, "layer-map-in-lab")
    page.goto("about:blank")
