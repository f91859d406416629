"""Other front ends than JupyterLab, each where it is installed: pip install notebook voila."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from conftest import TALL
from playwright.sync_api import expect
from seen import MAKE, Explorer, from_torch
from servers import Notebook, jupyter, store


def installed(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; to test it as well: pip install {package}")


def test_notebook_7(open_page, tmp_path, screenshot):
    installed("notebook")
    store(tmp_path / "notebooks" / "explorer.ipynb", MAKE + "\nexplorer")
    with jupyter(tmp_path / "notebooks", "notebook") as server:
        page = open_page(server.address, viewport=TALL).page
        notebook = Notebook(page, server, "explorer.ipynb", "notebooks")
        notebook.run_all()
        explorer = Explorer(page, page.locator(".kd-explorer"))
        explorer.drag(explorer.T, 0.9)
        explorer.settle()
        T = explorer.value("temperature")
        assert T > 8
        assert explorer.numbers() == pytest.approx(from_torch(T, 0.5), abs=1e-6)
        assert float(notebook.run("import time; time.sleep(0.3)\nprint(explorer.temperature)")) == T
        notebook.run("explorer.temperature = 4")
        expect(explorer.T).to_have_attribute("aria-valuetext", "4")
        explorer.T.focus()
        page.keyboard.press("End")
        expect(explorer.T).to_have_attribute("data-value", "20")
        screenshot(page, "explorer-in-notebook-7")
        page.goto("about:blank")


def test_voila(open_page, tmp_path, screenshot):
    installed("voila")
    # What Python hears comes back on the page: Voilà shows outputs only.
    heard = (
        "from ipywidgets import HTML\nsaid = HTML()\n"
        "hear = lambda change: setattr(said, 'value', f'<b id=heard>{change[\"new\"]}</b>')\n"
        "explorer.observe(hear, 'temperature')\nsaid"
    )
    store(tmp_path / "notebooks" / "explorer.ipynb", MAKE + "\nexplorer", heard)
    with jupyter(tmp_path / "notebooks", "voila") as server:
        page = open_page(server.address, viewport=TALL, others=True).page
        page.goto(f"{server.address}/voila/render/explorer.ipynb", wait_until="commit")
        expect(page.locator(".kd-explorer")).to_have_count(1, timeout=120_000)
        explorer = Explorer(page, page.locator(".kd-explorer"))
        explorer.drag(explorer.T, 0.9)
        explorer.settle()
        T = explorer.value("temperature")
        assert T > 8
        assert explorer.numbers() == pytest.approx(from_torch(T, 0.5), abs=1e-6)
        expect(page.locator("#heard")).to_have_text(f"{T}", timeout=20_000)
        screenshot(page, "explorer-in-voila")
        page.goto("about:blank")
