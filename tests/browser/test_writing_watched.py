"""Watch them write, in a page without a kernel and in JupyterLab: it plays, and its numbers are torch's."""

from __future__ import annotations

import json
from pathlib import Path

import build_site as site_tool
import pytest
import torch
from conftest import PHONE, TALL
from playwright.sync_api import Locator, Page, expect
from servers import Notebook, store

import kdtutor as kd

MAKE = """import kdtutor as kd, torch
task = kd.load_task("pronunciation")
names = "teacher", "distilled", "hard"
models = {name: kd.small_seq2seq(task, layers=1, width=32, dropout=0.0, seed=seed) for seed, name in enumerate(names)}
for model in models.values():
    with torch.no_grad():
        model.get_output_embeddings().weight *= 4
board = kd.widgets.WatchThemWrite(models, task, ["exodus", "weight", "tunisia"], max_new_tokens=6)"""


class Board:
    """One view of the instrument."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".kd-writing").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def at(self, step: int) -> None:
        expect(self.root).to_have_attribute("data-step", str(step))

    def values(self, writer: int) -> list[float]:
        self.page.wait_for_timeout(150)
        found = self.root.locator(f'[data-kd^="token-{writer}-"]')
        return found.evaluate_all("(tokens) => tokens.map((token) => Number(token.dataset.value))")

    def set(self, name: str, text: str) -> None:
        self[f"{name}-box"].fill(text)
        self[f"{name}-box"].press("Enter")


@pytest.fixture(scope="module")
def python_side() -> kd.widgets.WatchThemWrite:
    names: dict = {}
    exec(MAKE, names)
    return names["board"]


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_writing.ipynb", "# 01 · Writing\n\n5 minutes.", f"{MAKE}\nboard")
    return build_site(folder)


@pytest.fixture
def board(site, open_page) -> Board:
    page = open_page("file://").page
    page.goto((site / "01_writing.html").as_uri())
    return Board(page)


@pytest.mark.parametrize("T, beta", [("1", "0"), ("2", "1"), ("0.5", "0.25")])
def test_the_numbers_of_the_page_are_those_of_the_objectives(board, python_side, T, beta):
    board.set("temperature", T)
    board.set("beta", beta)
    python_side.temperature, python_side.beta = float(T), float(beta)
    for number, (name, expected) in enumerate(python_side.numbers().items()):
        found = board.values(number)
        # Log-probabilities come in thousandths.
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=2e-3, rtol=2e-3)
        assert [
            token.split("\n")[0]
            for token in board.root.locator(f'[data-kd^="token-{number}-"]').all_inner_texts()
        ]
        mean = float(board[f"mean-{number}"].get_attribute("data-value"))
        assert mean == pytest.approx(sum(expected) / len(expected), abs=2e-3), name
    expect(board["summary"]).to_have_text(python_side.summary)


def test_it_writes_on_token_by_token_and_stops_at_the_end(board, screenshot):
    board.at(0)
    expect(board["token-1-1"]).to_be_hidden()
    board["next"].click()
    board.at(1)
    expect(board["token-1-1"]).to_be_visible()
    board["play"].click()
    expect(board.root).to_have_attribute("data-playing", "yes")
    board.at(5)
    expect(board.root).to_have_attribute("data-playing", "no", timeout=10_000)
    expect(board["next"]).to_be_disabled()
    board["token-2-3"].click()
    board.at(3)
    expect(board["token-2-3"]).to_have_attribute("aria-pressed", "true")
    expect(board["token-0-3"]).to_have_attribute("aria-pressed", "true")
    board["last"].click()
    screenshot(board.root, "page-writing")
    board["first"].click()
    board.at(0)


def test_the_alternatives_are_probabilities_and_change_with_t_but_what_is_written_does_not(board):
    def chart() -> dict[str, list[float]]:
        board.page.wait_for_timeout(150)
        return board["alternatives-1"].evaluate(
            """(chart) => Object.fromEntries([...chart.querySelectorAll("g[data-row]")].map((row) =>
                [row.dataset.row, row.dataset.values.split(" ").map(Number)]))"""
        )

    written = board["token-1-0"].inner_text().split("\n")[0]
    sharp, tokens = chart(), board.values(1)
    board.set("temperature", "5")
    flat = chart()
    assert written in sharp and written in flat
    assert all(0 <= p <= 1 for row in flat.values() for p in row)
    assert flat[written][1] < sharp[written][1], "a high temperature takes from the likeliest"
    assert board["token-1-0"].inner_text().split("\n")[0] == written
    assert board.values(1) != tokens


def test_by_keyboard_another_example_and_without_a_kernel_it_says_what_needs_one(board):
    board["example"].select_option(label="weight")
    board.at(0)
    expect(board["summary"]).to_contain_text("“weight”")
    board["play"].focus()
    board.page.keyboard.press("Tab")
    board.page.keyboard.press("Tab")
    expect(board["next"]).not_to_be_focused()  # the first two can't be pressed at the first token
    board["next"].focus()
    board.page.keyboard.press("Enter")
    board.at(1)
    board["text"].fill("kernel")
    board["text"].press("Enter")
    expect(board["status"]).to_contain_text("needs a running kernel", timeout=10_000)
    board["text"].fill("  ")
    board["write"].click()
    expect(board["problem"].first).to_contain_text("The text is empty")
    board["text"].fill("tunisia")
    board["write"].click()
    expect(board["summary"]).to_contain_text("“tunisia”")


def test_on_a_phone_nothing_sticks_out(site, open_page, screenshot):
    page = open_page("file://", viewport=PHONE, has_touch=True).page
    page.goto((site / "01_writing.html").as_uri())
    board = Board(page)
    board["last"].tap()
    board["token-1-2"].tap()
    board.at(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(board.root, "phone-writing")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, open_page, screenshot, scheme):
    page = open_page("file://", color_scheme=scheme).page
    page.goto((site / "01_writing.html").as_uri())
    board = Board(page)
    board["last"].click()
    page.wait_for_timeout(3000)
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate("axe.run('.kd-writing', { resultTypes: ['violations'], preload: false })")
    faults = [(f["id"], f["impact"], [n["html"][:200] for n in f["nodes"][:3]]) for f in found["violations"]]
    screenshot(board.root, f"page-writing-{scheme}")
    assert not faults, json.dumps(faults, indent=1)


def test_in_jupyterlab_they_write_to_a_text_of_ones_own(open_page, lab, screenshot):
    store(lab.folder / "writing.ipynb", MAKE, "board")
    page = open_page(lab.address, viewport=TALL).page
    notebook = Notebook(page, lab, "writing.ipynb")
    notebook.run_all()
    board = Board(page)
    board["text"].fill("kernel")
    board["write"].click()
    expect(board["summary"]).to_contain_text("“kernel”", timeout=30_000)
    expected = json.loads(notebook.run("import json; print(json.dumps(board.numbers()['hard']))"))
    assert board.values(2) == pytest.approx(expected, abs=2e-3)
    board.set("beta", "1")
    assert notebook.run("print(board.beta)") == "1.0"
    screenshot(board.root, "writing-in-lab")
    page.goto("about:blank")
