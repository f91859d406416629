"""A browser, servers and pages for the tests in this folder. Without a Chromium they are skipped, with a loud line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import build_site as site_tool
import chromium as chromiums
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
SKIPPED = pytest.StashKey[str]()
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 420, "height": 900}
TALL = {"width": 1280, "height": 1500}  # a whole instrument in JupyterLab
# What front ends say of themselves ('schema' is Notebook 7's); all else on the console is taken for a fault of ours.
NOT_OURS = re.compile(
    "strict mode: use allowUnionTypes|ResizeObserver loop|favicon|WebSocket|workspace|translation|reading 'schema'"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests come last: while Playwright runs, no other test could start an event loop."""
    here = Path(__file__).parent
    items.sort(key=lambda item: here in item.path.parents)
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if why := config.stash.get(SKIPPED, ""):
        terminalreporter.section("NOT ALL BROWSER TESTS RAN", sep="!", red=True)
        terminalreporter.line(why)


def skip_loudly(config: pytest.Config, why: str) -> None:
    config.stash[SKIPPED] = why
    pytest.skip(why)


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> Iterator:
    """One Chromium for all tests."""
    from playwright import sync_api

    path = chromiums.find()
    if path is None:
        skip_loudly(
            pytestconfig,
            "No Chromium was found: tools/chromium.py, a step of `make test`, sets one up.",
        )
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    sync_api.expect.set_options(timeout=20_000)  # ms; two cores may be busy with other things
    with sync_api.sync_playwright() as playwright:
        # Chromium can't make its sandbox for root.
        started = playwright.chromium.launch(executable_path=path, args=[*chromiums.FLAGS, "--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page, what went wrong in it, and what it asked from where it should not."""

    def __init__(self, browser, allowed: tuple[str, ...], **options) -> None:
        self.faults: list[str] = []
        self.fetched: list[str] = []
        self.context = browser.new_context(**{"viewport": WIDE, **options})
        self.context.route(re.compile(r"^(?!data:|blob:)"), lambda route: self._route(route, allowed))
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("pageerror", lambda error: self._fault(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self._fault(message.text))

    def _route(self, route, allowed: tuple[str, ...]) -> None:
        if route.request.url.startswith(allowed):
            route.continue_()
        else:
            self.fetched.append(route.request.url)
            route.abort()

    def _fault(self, text: str) -> None:
        if not NOT_OURS.search(text):
            self.faults.append(text)


@pytest.fixture(scope="module")
def open_page(browser) -> Iterator[Callable[..., Opened]]:
    """Opens pages: open_page("file://", "http://127.0.0.1:…", colour scheme and the like) lets it load from there only.

    At the end of the module no page may have had an error in its scripts, nor have asked the network for anything, but
    for one that was opened with `others=True`: the page of a front end that does so by itself.
    """
    pages: list[Opened] = []
    held: list[Opened] = []

    def make(*allowed: str, others: bool = False, **options) -> Opened:
        pages.append(Opened(browser, allowed, **options))
        if not others:
            held.append(pages[-1])
        return pages[-1]

    yield make
    for opened in pages:
        opened.context.close()
    assert not [fault for opened in held for fault in opened.faults]
    assert not [address for opened in held for address in opened.fetched]


@pytest.fixture(scope="session")
def screenshot() -> Callable:
    """screenshot(page or locator, name) keeps a picture for people in build/screenshots/, full_page=True of it all."""
    return lambda seen, name, **how: seen.screenshot(path=SCREENSHOTS / f"{name}.png", **how)


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory) -> Iterator:
    """A JupyterLab over an empty folder."""
    from servers import jupyter

    with jupyter(tmp_path_factory.mktemp("lab") / "notebooks", "jupyterlab") as server:
        yield server


@pytest.fixture(scope="session")
def build_site(browser, tmp_path_factory, pytestconfig) -> Callable[..., Path]:
    """build_site(folder of notebooks): the folder of their pages, as `make course` makes them; flags may follow."""
    try:
        site_tool.javascript()
    except site_tool.SiteError as error:
        skip_loudly(pytestconfig, f"No exported page was made: {error}")

    def build(notebooks: Path, *flags: str) -> Path:
        site = tmp_path_factory.mktemp("pages") / "site"
        # In a process of its own, since an event loop runs in this one.
        command = [sys.executable, str(ROOT / "tools/build_site.py"), str(site), str(notebooks), *flags]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return site

    return build
