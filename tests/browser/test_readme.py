"""The README as a stranger meets it: on two screens of a laptop."""

from __future__ import annotations

import re

from conftest import ROOT
from markdown_it import MarkdownIt

#: GitHub's page at 1280 px: a column of 830, its sizes and distances. The condensed face is about as wide as its fonts.
STYLE = """
body { margin: 0; font: 16px/1.5 "Segoe UI", "Noto Sans", Helvetica, Arial, "DejaVu Sans Condensed", sans-serif; }
article { width: 830px; padding: 32px; }
h1, h2 { margin: 24px 0 16px; padding-bottom: .3em; border-bottom: 1px solid; font-weight: 600; line-height: 1.25; }
h1 { margin-top: 0; font-size: 2em; }
h2 { font-size: 1.5em; }
p, ul, pre, table { margin: 0 0 16px; }
ul { padding-left: 2em; }
li + li { margin-top: .25em; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
td, th { padding: 6px 13px; border: 1px solid; }
code { font-size: 85%; padding: .2em .4em; }
pre { padding: 16px; font-size: 85%; line-height: 1.45; }
pre code { padding: 0; font-size: 100%; }
"""
BADGE = '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"/>'
SCREENS, SCREEN = 2, {"width": 1280, "height": 720}


def test_two_screens_show_all_of_it(open_page, screenshot, tmp_path):
    text = MarkdownIt("commonmark").enable("table").render((ROOT / "README.md").read_text(encoding="utf-8"))
    head = f"<meta charset='utf-8'><base href='{ROOT.as_uri()}/'><style>{STYLE}</style>"
    (tmp_path / "readme.html").write_text(f"<!doctype html>{head}<article>{text}</article>", encoding="utf-8")
    page = open_page("file://", others=True, viewport=SCREEN).page
    page.route(re.compile("^https:"), lambda badge: badge.fulfill(content_type="image/svg+xml", body=BADGE))
    page.goto((tmp_path / "readme.html").as_uri())
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth)")
    screenshot(page.locator("article"), "readme")
    assert page.locator("article").bounding_box()["height"] <= SCREENS * SCREEN["height"]
    # On the first: what it is, the moving picture, what it bought.
    for shown in (page.locator("img").last, page.locator("li").first):
        box = shown.bounding_box()
        assert box["y"] + box["height"] <= SCREEN["height"]
    assert page.locator("table").evaluate("(table) => table.scrollWidth <= table.clientWidth")
