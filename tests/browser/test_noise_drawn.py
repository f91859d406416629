"""The noise dial, by mouse and keyboard: in a page without a kernel, and in JupyterLab, where a text can be typed."""

from __future__ import annotations

import json
from pathlib import Path

import build_site as site_tool
import pytest
from conftest import PHONE, TALL
from playwright.sync_api import Locator, Page, expect
from servers import Notebook, store

from kdtutor.data.corruption import corrupt

MAKE = """import kdtutor as kd, torch
task = kd.load_task("supersense").subset(320)
names = ("hard student", "soft student")
students = {name: kd.static_student(task, width=32, seed=seed) for seed, name in enumerate(names)}
teacher = kd.static_student(task, width=32, seed=9)
with torch.no_grad():
    for model in (teacher, *students.values()):
        model.classifier.weight *= 20
text = "a small furry animal that lives near water and eats fish"
dial = kd.widgets.NoiseDial({"teacher": teacher, **students}, task, examples=[text, 0])
dial"""
TEXT = "a small furry animal that lives near water and eats fish"


class Dial:
    """A noise dial on a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".kd-noise").first
        expect(self.root).to_be_visible(timeout=30_000)

    def __getitem__(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_noise.ipynb", "# 01 · Noise\n\n5 minutes.", MAKE)
    return build_site(folder)


@pytest.fixture
def dial(site, open_page) -> Dial:
    page = open_page("file://").page
    page.goto((site / "01_noise.html").as_uri())
    return Dial(page)


def test_the_dial_breaks_the_text_without_a_kernel(dial, screenshot):
    expect(dial["broken"]).to_have_text(TEXT)
    assert dial["broken"].locator("mark").count() == 0
    dial["strength"].focus()
    for _ in range(6):
        dial.page.keyboard.press("ArrowRight")
    expect(dial["broken"]).to_have_text(corrupt([TEXT], "typo", 0.6)[0])
    assert dial["broken"].locator("mark").count() > 0
    expect(dial["summary"]).to_contain_text("Typing errors, 60")
    screenshot(dial.root, "page-noise-dial")
    dial["kind-synonym"].check()
    expect(dial["broken"]).to_have_text(corrupt([TEXT], "synonym", 0.6)[0])


def test_another_example_is_picked_and_its_class_is_starred(dial):
    dial["example"].select_option(index=2)
    expect(dial["broken"]).not_to_have_text(TEXT)
    expect(dial["probabilities"]).to_contain_text("★")


def test_the_button_turns_to_a_flip(dial):
    steps = [dial[f"answer-{m}"].get_attribute("data-value") for m in range(3)]
    found = [int(step) for step in steps if step]
    assert found, "no model changes its mind: the test wants another text"
    answers = [dial[f"answer-{m}"].inner_text().split()[0] for m in range(3)]
    dial["flip"].click()
    dial.page.wait_for_timeout(200)
    assert float(dial["strength"].get_attribute("data-value")) == min(found) / 10
    assert [dial[f"answer-{m}"].inner_text().split()[0] for m in range(3)] != answers


def test_without_a_kernel_a_typed_text_is_answered_by_a_sentence(dial):
    dial["text"].fill("a red fruit")
    dial["read"].click()
    expect(dial["status"]).to_contain_text("needs a running kernel", timeout=10_000)
    dial["text"].fill("   ")
    dial["read"].click()
    expect(dial.root.get_by_role("alert").first).to_have_text("The text is empty: type a few words.")


def test_it_fits_a_phone(site, open_page, screenshot):
    page = open_page("file://", viewport=PHONE, has_touch=True).page
    page.goto((site / "01_noise.html").as_uri())
    dial = Dial(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(dial.root, "phone-noise-dial")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, open_page, screenshot, scheme):
    page = open_page("file://", color_scheme=scheme).page
    page.goto((site / "01_noise.html").as_uri())
    dial = Dial(page)
    dial["strength"].focus()
    page.keyboard.press("End")
    page.wait_for_timeout(500)
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate("axe.run('.kd-noise', { resultTypes: ['violations'], preload: false })")
    faults = [(f["id"], f["impact"], [n["html"][:200] for n in f["nodes"][:3]]) for f in found["violations"]]
    screenshot(dial.root, f"page-noise-dial-{scheme}")
    assert not faults, json.dumps(faults, indent=1)


def test_in_jupyterlab_a_typed_text_is_read_and_never_becomes_html(open_page, lab):
    store(lab.folder / "noise.ipynb", MAKE)
    page = open_page(lab.address, viewport=TALL).page
    notebook = Notebook(page, lab, "noise.ipynb")
    notebook.run_all()
    dial = Dial(page)
    typed = "<img src=x onerror=alert(1)> fruit of a tree"
    dial["text"].fill(typed)
    dial["read"].click()
    expect(dial["broken"]).to_have_text(typed, timeout=30_000)
    assert dial.root.locator("img").count() == 0
    assert notebook.run("print(dial.example, dial.text)").strip() == f"None {typed}"
    page.goto("about:blank")
