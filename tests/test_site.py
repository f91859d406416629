"""The pages that `make course` makes: complete, readable without Python, and loading nothing from the network."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import build_site
import nbformat
import pytest
from build_site import COURSE, SiteError, build, for_the_page
from execute_notebooks import WIDGET_STATE, WIDGET_VIEW

pytestmark = pytest.mark.slow

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
LOCK = json.loads((COURSE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
MARKUP = "</script><script>alert(1)</SCRIPT><!--"


def made(name: str, *cells, live: dict | None = None) -> nbformat.NotebookNode:
    """A stored notebook: a title, then each cell, a text or an output."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}\n\n5 minutes")])
    for cell in cells:
        if isinstance(cell, str):
            notebook.cells.append(nbformat.v4.new_markdown_cell(cell))
        else:
            notebook.cells.append(nbformat.v4.new_code_cell("show()", outputs=[cell], execution_count=1))
    if live:
        notebook.metadata["widgets"] = {WIDGET_STATE: {"version_major": 2, "version_minor": 0, "state": live}}
    return notebook


def shown(data: dict, **metadata) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data, metadata={"image/png": metadata})


def model(module: str, name: str = "AnyModel", **state) -> dict:
    return {"model_name": name, "model_module": module, "model_module_version": "1", "state": state}


class Page(HTMLParser):
    """What a page loads, its pictures, links, and the scripts of its widgets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.pictures, self.links, self.scripts, self._kind = [], [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        have = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video") and have.get("src"):
            self.loaded.append(have["src"])
        if tag == "link" and have.get("rel") not in ("next", "prev", "canonical", "index", "search"):
            self.loaded.append(have["href"])
        if tag == "img":
            self.pictures.append(have)
        if tag == "a":
            self.links.append(have.get("href"))
        self._kind = have.get("type") if tag == "script" else None

    def handle_endtag(self, tag):
        self._kind = None

    def handle_data(self, data):
        if self._kind:
            self.scripts.setdefault(self._kind, []).append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A site of two stored notebooks."""
    folder = tmp_path_factory.mktemp("site")
    view = {WIDGET_VIEW: {"model_id": "a1", "version_major": 2, "version_minor": 0}, "image/png": PIXEL}
    first = made(
        "01 · First",
        "[second](02_second.ipynb) and [its part](02_second.ipynb#a-part), $x^2$ for \\$5\n\n$$\\sum_i p_i$$",
        "<details>\n<summary><b>Hint</b></summary>\n\nA *hint*.\n\n</details>",
        shown({"image/png": PIXEL, "text/plain": "Picture"}, alt='half of "it" & more', width=4),
        shown(view, alt="what it looks like"),
        shown({"text/plain": "Not attempted yet. Put your code in place of the ... and run the cell again."}),
        live={
            "a1": model("anywidget", text=MARKUP, layout="IPY_MODEL_b2"),
            "b2": model("@jupyter-widgets/base"),
        },
    )
    first.cells[-1].source = "folder = 3\n!{python} -m kdtutor --output {folder}/teacher"
    nbformat.write(first, folder / "01_first.ipynb")
    nbformat.write(
        made("02 · Second\n\nYou should know [the\nfirst](01_first.ipynb): all of it.", "## A part\n\ntext"),
        folder / "02_second.ipynb",
    )
    try:
        build(folder / "out", sorted(folder.glob("*.ipynb")), execute=False)
    except SiteError as error:
        if "npm" in str(error):
            pytest.skip(f"no JavaScript for the pages: {error}")
        raise
    return folder / "out"


def page(site: Path, name: str) -> Page:
    return Page((site / f"{name}.html").read_text(encoding="utf-8"))


def test_the_pages_of_docs_are_in_the_site_and_their_links_lead_there_or_to_the_public_repository(site):
    for source in (Path(build_site.ROOT) / "docs").glob("*.md"):
        text = (site / f"{source.stem}.html").read_text(encoding="utf-8")
        assert source.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") in text
        assert 'href="../' not in text
    links = "[a](../notebooks/04_temperature.ipynb#x) [b](../notebooks/05_logits.ipynb) [c](../Makefile)"
    here, there = "[a](04_temperature.ipynb#x)", "https://github.com/kdtutor/kdtutor/blob/main/"
    expected = f"{here} [b]({there}notebooks/05_logits.ipynb) [c]({there}Makefile)"
    assert build_site.for_the_site(links, ["04_temperature"]) == expected


def test_each_page_loads_only_files_that_lie_beside_it(site):
    for path in site.glob("*.html"):
        for address in page(site, path.stem).loaded:
            assert not re.match(r"(?:[a-z]+:)?//", address), f"{path.name} loads {address}"
            assert (site / address.partition("?")[0]).is_file(), f"{path.name} loads {address}"


def test_no_style_sheet_and_no_script_of_ours_loads_anything_from_the_network(site):
    for path in [*site.rglob("*.css"), *COURSE.rglob("*.js"), *(site / "_static").glob("*.js")]:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"(?:url\(|@import|import\(|from|fetch\()\s*[\"']?(?:https?:)?//", text), path


def test_an_exercise_leads_to_where_it_can_be_solved(site):
    text = (site / "01_first.html").read_text(encoding="utf-8")
    assert "run the cell again" not in text and "open this notebook live" in text
    [live] = [link for link in page(site, "01_first").links if link and link.startswith("https://colab.")]
    assert live.endswith("/notebooks/01_first.ipynb")


def test_the_first_page_has_a_card_for_who_shares_it_and_a_map_with_what_to_know(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    card = dict(re.findall(r'<meta content="([^"]*)" (?:property|name)="((?:og|twitter):\w+)"', text))
    card = {name: value for value, name in card.items()}
    assert {"og:title", "og:description", "og:type", "og:image", "twitter:card"} == {*card}
    assert card["og:image"].startswith("https://github.com/") and card["og:image"].endswith(".png")
    assert (Path(build_site.ROOT) / card["og:image"].partition("/raw/main/")[2]).is_file()
    cells = re.findall(r"<td><p>(.*?)</p></td>", text, re.DOTALL)
    assert any(
        '<a class="reference internal" href="01_first.html">' in cell and ">the first<" in cell
        for cell in cells
    )


def test_the_map_says_of_each_notebook_what_it_is_about_and_how_long_it_takes():
    for path in build_site.NOTEBOOKS.glob("[0-9]*.ipynb"):
        line = build_site.row(nbformat.read(path, as_version=4), path.stem)
        _, title, about, _, minutes, _ = re.split(r"(?<!\\)\|", line)
        assert f"({path.name})" in title and len(about.split()) > 3, line
        assert "$" not in line, "a formula would load MathJax, and the first page is light"
        assert re.fullmatch(r" \d+(–\d+)? ", minutes), line


def test_pictures_have_their_alt_texts(site):
    [picture, plain] = page(site, "01_first").pictures
    assert (picture["alt"], picture["width"]) == ('half of "it" & more', "4")
    assert (site / picture["src"]).read_bytes() == base64.b64decode(PIXEL)
    assert plain["alt"] == "what it looks like"


def test_links_lead_from_page_to_page(site):
    assert {"02_second.html", "02_second.html#a-part"} <= set(page(site, "01_first").links)
    assert {"01_first.html", "02_second.html"} <= set(page(site, "index").links)


def test_a_link_to_nowhere_fails(tmp_path, capfd, site):
    nbformat.write(made("03", "[lost](04_lost.ipynb)"), tmp_path / "03.ipynb")
    with pytest.raises(SiteError, match="warnings above"):
        build(tmp_path / "out", [tmp_path / "03.ipynb"], execute=False)
    assert "04_lost.ipynb" in capfd.readouterr().err


def test_formulas_are_marked_for_mathjax_and_a_dollar_stays_a_dollar(site):
    text = (site / "01_first.html").read_text(encoding="utf-8")
    assert r"\(x^2\)" in text and r"\[\sum_i p_i\]" in re.sub(r"\s*(\\[\[\]])\s*", r"\1", text)
    assert "for $5" in text


def test_what_is_folded_is_closed_and_its_text_is_formatted(site):
    text = (site / "01_first.html").read_text(encoding="utf-8")
    assert "<details>" in text and "<details open" not in text
    assert "A <em>hint</em>." in text


def test_an_instrument_has_its_view_and_its_state_and_no_text_in_them_ends_the_script(site):
    scripts = page(site, "01_first").scripts
    [view] = scripts[WIDGET_VIEW]
    assert json.loads(view)["model_id"] == "a1"
    [state] = scripts[WIDGET_STATE]
    assert "<" not in state
    assert json.loads(state)["state"]["a1"]["state"]["text"] == MARKUP
    assert set(json.loads(state)["state"]) == {"a1", "b2"}


def test_only_a_page_with_widgets_loads_their_front_end(site):
    assert any(
        a.endswith("embed-amd.js") for a in (re.sub(r"\?.*", "", a) for a in page(site, "01_first").loaded)
    )
    assert not any("widgets/" in address for address in page(site, "02_second").loaded)


def test_the_line_that_a_progress_bar_cleared_leaves_no_empty_box(tmp_path):
    told = [nbformat.v4.new_output("stream", text=text) for text in (" " * 80 + "\r", "done\n")]
    notebook = for_the_page(made("x", *told), tmp_path)
    assert [[output.text for output in cell.outputs] for cell in notebook.cells[1:]] == [[], ["done\n"]]


def test_what_needs_python_shows_its_last_picture_and_says_so(tmp_path):
    state = {
        "box": model("@jupyter-widgets/controls", "VBoxModel", children=["IPY_MODEL_out"]),
        "out": model(
            "@jupyter-widgets/output",
            "OutputModel",
            outputs=[dict(shown({"image/png": PIXEL}, alt="the last one"), output_type="display_data")],
        ),
    }
    notebook = for_the_page(made("x", shown({WIDGET_VIEW: {"model_id": "box"}}), live=state), tmp_path)
    [picture, note] = [output.data["text/html"] for output in notebook.cells[1].outputs]
    assert 'alt="the last one"' in picture
    assert "need Python" in note
    assert WIDGET_VIEW not in nbformat.writes(notebook)


def test_the_javascript_is_pinned_by_version_and_hash_and_names_no_address():
    wanted = LOCK[""]
    for name, number in {**wanted["dependencies"], **wanted.get("devDependencies", {})}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", number), f"{name} {number}"
        assert LOCK[f"node_modules/{name}"]["version"] == number
    for name, package in LOCK.items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_the_front_ends_match_the_python_packages():
    assert LOCK["node_modules/anywidget"]["version"] == version("anywidget")
    # html-manager 1 is the one for the protocol of ipywidgets 8.
    assert LOCK["node_modules/@jupyter-widgets/html-manager"]["version"].startswith("1.")
    assert version("ipywidgets").startswith("8.")


def test_a_notebook_that_is_not_there_is_named(capsys):
    assert build_site.main(["build/nothing", "no/such.ipynb"]) == 1
    assert capsys.readouterr().err.strip() == "there is no notebook no/such.ipynb"


def test_without_npm_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(build_site, "BUILD", tmp_path)
    monkeypatch.setattr(build_site, "NODE", str(tmp_path / "no-such-wheel"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SiteError, match=r"comes from npm: install Node\.js"):
        build_site.javascript()
