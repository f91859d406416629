"""The chart of models, by mouse, keyboard, slider and finger, in a page without a kernel and in JupyterLab."""

from __future__ import annotations

import json
from pathlib import Path

import build_site as site_tool
import pytest
from conftest import PHONE, TALL
from playwright.sync_api import Locator, Page, expect
from servers import Notebook, store

MAKE = """import kdtutor as kd
from kdtutor.evaluation import Choice
models = [
    Choice("teacher", 0.88, 0.86, 0.9, 1000, 62_000_000, 15_600_000, 9.0, 300.0, "fifty thousand labels"),
    Choice("LSTM", 0.78, 0.75, 0.81, 1000, 3_200_000, 800_000, 0.6, 4000.0, "soft targets at <b>T = 2</b>"),
    Choice("CNN", 0.82, 0.79, 0.85, 1000, 3_400_000, 830_000, 0.3, 9000.0, "the same, 800 steps"),
    Choice("static", 0.75, 0.72, 0.78, 1000, 3_000_000, 770_000, 0.1, 30_000.0),
]
chart = kd.widgets.ModelChart(models)"""
TEACHER, LSTM, CNN, STATIC = range(4)


class Chart:
    """The chart on a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".kd-models").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def front(self) -> list[int]:
        self.page.wait_for_timeout(150)
        return [i for i in range(4) if self[f"point-{i}"].get_attribute("data-front") == "yes"]

    def choose(self, cost: str) -> None:
        self[f"cost-{cost}"].focus()
        self.page.keyboard.press("Space")
        expect(self.root).to_have_attribute("data-cost", cost)


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_chart.ipynb", "# 01 · A chart\n\n5 minutes.", f"{MAKE}\nchart")
    return build_site(folder)


@pytest.fixture
def chart(site, open_page) -> Chart:
    page = open_page("file://").page
    page.goto((site / "01_chart.html").as_uri())
    return Chart(page)


def test_who_points_at_a_mark_reads_its_recipe_and_all_its_numbers(chart, screenshot):
    assert chart.front() == [TEACHER, CNN, STATIC]
    chart["point-1"].hover()
    expect(chart["detail"]).to_have_attribute("data-chosen", "1")
    for part in ("LSTM", "dominated", "78.0", "75.0", "81.0", "1,000 texts", "3.2", "0.6", "4,000"):
        expect(chart["detail"]).to_contain_text(part)
    # What a person wrote is text, never HTML.
    expect(chart["detail"]).to_contain_text("Recipe: soft targets at <b>T = 2</b>")
    screenshot(chart.root, "page-models")
    chart["point-3"].hover()  # nobody wrote a recipe for this one
    expect(chart["detail"]).to_have_attribute("data-chosen", "3")
    assert chart["detail"].locator("p").count() == 3 and "null" not in chart["detail"].inner_text()


def test_the_axis_decides_who_is_dominated(chart):
    chart.choose("bytes")
    assert chart.front() == [TEACHER, LSTM, CNN, STATIC]
    chart.choose("throughput")
    assert chart.front() == [TEACHER, CNN, STATIC]
    chart["more"].click()
    expect(chart["row-1"]).to_have_attribute("data-front", "no")


def test_marks_are_walked_with_the_keyboard_in_the_order_of_the_axis(chart):
    chart["point-0"].focus()
    chart.page.keyboard.press("Home")
    for place in (STATIC, CNN, LSTM, TEACHER, TEACHER):
        expect(chart[f"point-{place}"]).to_be_focused()
        expect(chart["detail"]).to_have_attribute("data-chosen", str(place))
        chart.page.keyboard.press("ArrowRight")
    name = chart["point-2"].get_attribute("aria-label")
    assert name.startswith("CNN: 82.0") and name.endswith("on the Pareto front")


def test_a_budget_leaves_the_best_that_it_allows(chart, screenshot):
    chart["budget"].focus()
    for _ in range(40):
        chart.page.keyboard.press("ArrowLeft")
    expect(chart["point-2"]).to_have_attribute("data-best", "yes")
    expect(chart["summary"]).to_contain_text("CNN.")
    screenshot(chart.root, "page-models-budget")
    chart.page.keyboard.press("Home")
    expect(chart["summary"]).to_contain_text("No model is within the budget")
    # Of texts per second a budget is a least one: no limit lies at the other end.
    chart.choose("throughput")
    expect(chart["budget"]).to_have_attribute("aria-valuetext", "no limit")
    chart["budget"].focus()
    chart.page.keyboard.press("End")
    expect(chart["summary"]).to_contain_text("No model is within the budget")


def test_a_finger_is_enough_and_nothing_sticks_out(site, open_page, screenshot):
    page = open_page("file://", viewport=PHONE, has_touch=True).page
    page.goto((site / "01_chart.html").as_uri())
    chart = Chart(page)
    chart["point-3"].tap()
    expect(chart["detail"]).to_have_attribute("data-chosen", "3")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(chart.root, "phone-models")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, open_page, screenshot, scheme):
    page = open_page("file://", color_scheme=scheme).page
    page.goto((site / "01_chart.html").as_uri())
    chart = Chart(page)
    chart["more"].click()
    page.wait_for_timeout(500)
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate("axe.run('.kd-models', { resultTypes: ['violations'], preload: false })")
    faults = [(f["id"], f["impact"], [n["html"][:200] for n in f["nodes"][:3]]) for f in found["violations"]]
    screenshot(chart.root, f"page-models-{scheme}")
    assert not faults, json.dumps(faults, indent=1)


def test_in_jupyterlab_python_knows_what_is_chosen_and_moves_it(open_page, lab):
    store(lab.folder / "chart.ipynb", MAKE, "chart")
    page = open_page(lab.address, viewport=TALL).page
    notebook = Notebook(page, lab, "chart.ipynb")
    notebook.run_all()
    chart = Chart(page)
    chart["point-3"].click()
    assert notebook.run("import time; time.sleep(0.3)\nprint(chart.chosen)") == "3"
    notebook.run('chart.cost, chart.budget = "bytes", 3.3e6')
    expect(chart.root).to_have_attribute("data-cost", "bytes", timeout=20_000)
    expect(chart["point-1"]).to_have_attribute("data-best", "yes")
    page.goto("about:blank")
