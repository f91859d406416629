"""The slides that `make slides` makes, from a disk and without a network."""

from __future__ import annotations

from pathlib import Path

import build_site
import build_slides
import nbformat
import pytest
from conftest import skip_loudly
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import expect

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
PICTURE = new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": "one pixel"}})
CELLS = [
    new_markdown_cell("# 01 · Title\n\n5 minutes"),
    new_code_cell("# Only on Colab.\nimport os"),
    new_code_cell("# On Colab this installs.\nimport os", outputs=[PICTURE]),
    new_markdown_cell("## A part\n\nWith $T^2$ for \\$5."),
    new_code_cell("print(1)", outputs=[new_output("stream", name="stdout", text="1\n")]),
    new_code_cell("draw()", outputs=[PICTURE]),
    new_markdown_cell("The end of it.\n\n## Another\n\n" + "A line.\n\n" * 60),
    new_markdown_cell("<details>\n<summary>Hint</summary>\n\nA hint.\n\n</details>"),
]


def test_each_cell_has_its_place():
    kinds = [cell.metadata.slideshow.slide_type for cell in build_slides.cut(new_notebook(cells=CELLS)).cells]
    assert kinds == ["slide", "skip", "-", "slide", "-", "subslide", "subslide", "slide", "-"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory, pytestconfig) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    nbformat.write(new_notebook(cells=CELLS), folder / "01_title.ipynb")
    try:
        [page] = build_slides.build(folder / "made", [folder / "01_title.ipynb"])
    except build_site.SiteError as error:
        skip_loudly(pytestconfig, f"No slides were made: {error}")
    return page


def test_keys_lead_through_them_and_formulas_are_drawn(slides, open_page, screenshot):
    page = open_page("file://", viewport={"width": 1280, "height": 720}).page
    page.goto(slides.as_uri())
    shown = page.locator(".slides section section.present:visible")
    expect(shown).to_contain_text("01 · Title")
    expect(shown.locator("img")).to_have_attribute("alt", "one pixel")  # without the code that also sets up
    page.keyboard.press("ArrowRight")
    expect(shown).to_contain_text("A part")
    expect(shown).to_contain_text("for $5")
    expect(shown.locator("mjx-container")).to_have_count(1)
    expect(shown.locator(".jp-OutputArea-output")).to_have_text("1")
    screenshot(page, "slides")
    page.keyboard.press("ArrowDown")
    expect(shown.locator("img")).to_have_attribute("alt", "one pixel")
    assert "Colab" not in page.locator("body").inner_text()


def test_what_is_longer_than_a_slide_can_be_scrolled(slides, open_page):
    page = open_page("file://", viewport={"width": 1280, "height": 720}).page
    page.goto(f"{slides.as_uri()}#/2")
    shown = page.locator(".slides section section.present:visible")
    expect(shown).to_contain_text("Another")
    shown.evaluate("(slide) => slide.scrollTo(0, slide.scrollHeight)")
    expect(shown.locator("summary")).to_be_in_viewport()
