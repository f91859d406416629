"""A student in a browser page, without a network: its tokens and scores are Python's, whatever somebody types."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import build_site as site_tool
import numpy as np
import pytest
import torch
from conftest import ROOT, skip_loudly
from playwright.sync_api import expect
from servers import Notebook, store

import kdtutor as kd
from kdtutor.deploy.browser import LocalPage, browser_page, fetch_runtime
from kdtutor.errors import KDTutorError

TEXTS = ("a sour fruit of a tree that grows in warm countries", "one who looks on")
MARGIN = {"float32": 1e-4, "int8": 0.5}  # of a logit: processors round the sums of int8 products differently
MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=2</script>"
ODD = [
    "",
    " \t\r\n",
    "[CLS] a [MASK] b[SEP] [cls]",
    "x" * 100,
    "x" * 101,
    "a " * 50_000,
    "x" * 100_000,
    "Ünïcödé naïve café e\u0301 Σίσυφος ΑΣ İstanbul ẞ",
    "中文 and 日本語 한국어",
    "👩‍👩‍👧 😀 text 🏳️‍🌈",
    MARKUP,
    "a\x00b\x07c\td\ne\u200bf\ufeffg\ufffdh\x85i",
    "don't — “quoted” … 1,000.5 %",
    "constructor toString __proto__ hasOwnProperty",
]
TOKENS = """async ([texts]) => {
    const { makeTokenizer } = await import("./wordpiece.js");
    const { tokenizer, max_length } = (await (await fetch("page.json")).json()).models[0];
    window.tokenize ??= makeTokenizer(await (await fetch(tokenizer)).json(), max_length);
    return texts.map((text) => window.tokenize(text).ids);
}"""
SCORES = """async ([texts, which]) => {
    const { loadModel, loadRuntime } = await import("./student.js");
    const page = await (await fetch("page.json")).json(), here = new URL(".", location.href);
    window.runtime ??= await loadRuntime(here, page.runtime);
    window.models ??= [];
    const answerTo = (window.models[which] ??= await loadModel(window.runtime, page.models[which]));
    const found = [];
    for (const text of texts) found.push((await answerTo(text)).logits);
    return found;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of plain files, without a header of its own."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """Two small models with large logits: a float32 one as the student, an int8 one as the teacher."""
    from kdtutor.deploy.onnx import export

    folder, task = tmp_path_factory.mktemp("exports"), kd.load_task("supersense")
    made = {}
    for name, precision, seed in (("student", "float32", 0), ("teacher", "int8", 1)):
        model = kd.small_bert(task, layers=2, width=32, seed=seed).eval()
        with torch.no_grad():
            model.classifier.weight *= 40
        export(model, task, folder / name, precision=precision, texts=32)
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def folder(exports, tmp_path_factory, pytestconfig) -> Path:
    """The page's files: student, teacher, and what computes."""
    kept, folder = ROOT / "build" / "onnxruntime-web", tmp_path_factory.mktemp("page")
    try:
        fetch_runtime(kept, *site_tool.npm())
    except (KDTutorError, site_tool.SiteError) as error:
        skip_loudly(pytestconfig, f"No page with a student was made: {error}")
    for file in kept.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    browser_page(exports["student"], folder, teacher=exports["teacher"], texts=[*TEXTS, MARKUP])
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture
def page(address, open_page):
    opened = open_page(address).page
    opened.goto(f"{address}index.html")
    expect(opened.locator(".kd-load").first).to_be_visible()
    return opened


def loaded(page, both: bool = True):
    page.locator(".kd-browser > .kd-load").click()
    expect(page.locator(".kd-rows li")).to_have_count(6)
    if both:
        page.locator(".kd-room > .kd-load").click()
        expect(page.locator(".kd-rows li:first-child .kd-bar")).to_have_count(2)
    return page


def typed(page, text: str) -> list[list[float]]:
    """The logits that the page shows of a text, model by model."""
    page.locator(".kd-text").fill(text)
    expect(page.locator(".kd-browser")).to_have_attribute("data-answered", text)
    return json.loads(page.locator(".kd-browser").get_attribute("data-logits"))


def strange(count: int) -> list[str]:
    """Texts of characters from everywhere in Unicode, seeded."""
    draw, made = random.Random(0), []
    for _ in range(count):
        codes = (
            draw.choice(
                [draw.randrange(32, 127), draw.randrange(0xA0, 0xD800), draw.randrange(0xE000, 0x110000)]
            )
            for _ in range(draw.randrange(1, 60))
        )
        made.append(" ".join("".join(map(chr, codes)).split("q")))
    return made


def test_tokens_are_pythons_on_every_test_text_and_on_odd_ones(page):
    task = kd.load_task("supersense")
    texts = [*task.texts("test"), *kd.load_task("sentiment").texts("test"), *ODD, *strange(2000)]
    expected = task.tokenizer(texts, truncation=True, max_length=task.max_length)["input_ids"]
    assert len(texts) > 11_000
    found = page.evaluate(TOKENS, [texts])
    assert [texts[i] for i in range(len(texts)) if found[i] != expected[i]] == []


def test_every_character_in_use_is_read_as_in_python(page):
    task = kd.load_task("supersense")
    for start in (*range(0, 0x20000, 0x8000), 0xE0000):  # between them lie Chinese, and what nobody uses
        codes = [code for code in range(start, start + 0x8000) if not 0xD800 <= code < 0xE000]
        texts = [f"a{chr(code)}b" for code in codes]
        expected = task.tokenizer(texts)["input_ids"] if texts else []
        found = page.evaluate(TOKENS, [texts])
        assert [hex(code) for code, f, e in zip(codes, found, expected, strict=True) if f != e] == []


def test_broken_surrogates_are_left_out(page):
    broken = page.evaluate(TOKENS.replace("texts.map(", '["a\\ud800b", "\\udc00", "ab", ""].map('), [[]])
    assert broken[0] == broken[2] and broken[1] == broken[3]


@pytest.mark.parametrize(("which", "name"), [(0, "student"), (1, "teacher")])
def test_scores_are_those_of_onnxruntime_in_python_on_every_test_text(page, exports, which, name):
    from kdtutor.deploy.session import OnnxModel

    model = OnnxModel(exports[name], threads=1)
    texts = [*kd.load_task("supersense").texts("test"), *ODD]
    # One by one, as in the page: int8 activations are scaled for a batch as a whole.
    expected = np.concatenate([model.logits([text]) for text in texts])
    found = np.array(page.evaluate(SCORES, [texts, which]))
    assert expected.std() > 0.5
    assert np.abs(found - expected).max() < MARGIN[model.about["precision"]]


def test_the_page_says_what_it_loads_before_it_does(page, open_page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    button = page.locator(".kd-browser > .kd-load")
    expect(button).to_contain_text("Load the student (")
    expect(button).to_contain_text("14.2 MB")
    assert not [address for address in asked if address.endswith((".onnx", ".wasm"))]
    loaded(page, both=False)
    assert [address.rsplit("/")[-1] for address in asked if address.endswith(".onnx")] == ["student.onnx"]
    expect(page.locator(".kd-room > .kd-load")).to_contain_text("Load the teacher (")


def test_both_answers_and_their_milliseconds_are_shown(page):
    loaded(page)
    logits = torch.tensor(typed(page, "a bird"), dtype=torch.float64)
    p = logits.softmax(-1)
    order = p.amax(0).argsort(descending=True)
    first = page.locator(".kd-rows li").first.inner_text().split()
    task = kd.load_task("supersense")
    assert first[0] == task.labels[order[0]]
    assert [float(number) for number in first[1::2]] == pytest.approx(
        [100 * float(one[order[0]]) for one in p], abs=0.051
    )
    kl = float((p[1] * (p[1] / p[0]).log()).sum())
    said = page.locator(".kd-said")
    expect(said).to_contain_text(f"is {kl:.2f} nats")
    expect(said).to_contain_text(" ms, teacher ")


@pytest.mark.parametrize("text", ["", MARKUP, "x" * 100_000, "a " * 50_000, "👩‍👩‍👧 \x00 中文"])
def test_hostile_texts_are_data_and_get_an_answer(page, text):
    loaded(page)
    assert all(np.isfinite(one).all() for one in typed(page, text))
    assert page.locator(".kd-browser :is(img, script)").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if len(text) > 50_000 and " " in text:
        expect(page.locator(".kd-pieces")).to_contain_text("only its first 126 pieces are read")
    if "中" in text:
        expect(page.locator(".kd-pieces")).to_contain_text("believe none of these numbers")


def test_a_text_typed_while_the_last_one_is_answered_is_the_one_that_counts(page):
    loaded(page)
    page.evaluate(
        """() => {
            const box = document.querySelector(".kd-text");
            for (let i = 0; i < 50; i++) { box.value = `text ${i}`; box.dispatchEvent(new Event("input")); }
        }"""
    )
    expect(page.locator(".kd-browser")).to_have_attribute("data-answered", "text 49")


def test_two_hundred_answers_take_no_more_memory(page):
    loaded(page)
    texts = kd.load_task("supersense").texts("test")[:200]
    session = page.context.new_cdp_session(page)

    def used() -> tuple[float, float]:
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")
        # What lies behind arrays counts too: WebAssembly's memory is one.
        return heap["usedSize"] + heap.get("backingStorageSize", 0), page.locator("*").count()

    def answer() -> None:
        for text in texts:
            typed(page, text)

    answer()
    before = used()
    answer()
    after = used()
    assert after[0] < before[0] + 1_000_000
    assert after[1] <= before[1] + 4  # of a text in few pieces, a line more or less


def test_a_file_that_does_not_come_is_named_and_can_be_asked_for_again(page):
    page.route("**/student.onnx", lambda route: route.fulfill(status=200, body=b"half of it"))
    page.locator(".kd-browser > .kd-load").click()
    expect(page.get_by_role("status")).to_contain_text("student.onnx has 10 bytes of ")
    page.unroute("**/student.onnx")
    loaded(page, both=False)


def test_from_a_disk_one_sentence_says_what_to_do(address, open_page, tmp_path, exports):
    from kdtutor.deploy.browser import STATIC, fragment

    (tmp_path / "index.html").write_text(
        (STATIC / "index.html").read_text(encoding="utf-8").replace("<!-- the student -->", fragment("."))
    )
    (tmp_path / "page.css").write_text("")
    opened = open_page("file://").page
    opened.goto((tmp_path / "index.html").as_uri())
    expect(opened.locator(".kd-browser")).to_contain_text("python -m http.server")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 1280, 1920])
def test_the_page_fits_and_axe_finds_nothing_serious(address, open_page, screenshot, width, scheme):
    page = open_page(address, viewport={"width": width, "height": 720}, color_scheme=scheme).page
    page.goto(f"{address}index.html")
    loaded(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_timeout(200)
    screenshot(page, f"student-{width}-{scheme}")
    page.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'], preload: false })")
    assert [fault["id"] for fault in found["violations"] if fault["impact"] in ("serious", "critical")] == []


def test_a_notebook_shows_the_page_while_it_is_served_and_a_sentence_ever_after(open_page, tmp_path):
    (tmp_path / "index.html").write_text("<h1>the student</h1>", encoding="utf-8")
    alive, over = LocalPage(tmp_path / "index.html"), LocalPage(tmp_path / "index.html")
    over.close()
    cells = [f'<div class="cell">{shown._repr_html_()}</div>' for shown in (alive, over)]
    (tmp_path / "notebook.html").write_text("".join(cells), encoding="utf-8")
    notebook = alive.address.replace("index.html", "notebook.html")
    # The second address answers no more, which the browser notes as an error.
    page = open_page(alive.address.removesuffix("index.html"), over.address, others=True).page
    page.goto(notebook)
    expect(page.locator(".cell").nth(1)).to_contain_text("while this kernel runs", use_inner_text=True)
    expect(page.locator(".cell").nth(0)).to_have_text("", use_inner_text=True)
    assert [frame.url for frame in page.frames] == [notebook, alive.address]
    assert page.frames[1].inner_text("h1") == "the student"
    alive.close()


def test_in_jupyterlab_the_student_answers_below_the_cell_and_later_a_sentence_stands_there(
    folder, lab, open_page, screenshot
):
    make = f"from kdtutor.deploy.browser import LocalPage\npage = LocalPage({str(folder / 'index.html')!r})\npage"
    store(lab.folder / "student.ipynb", make)
    # The page has a port of its own.
    opened = open_page("http://127.0.0.1:", others=True)
    page = opened.page
    notebook = Notebook(page, lab, "student.ipynb")
    notebook.run_all()
    shown = page.locator(".jp-OutputArea-output object")
    expect(shown).to_be_visible()
    address = notebook.run("print(page.address)")
    inside = next(frame for frame in page.frames if frame.url == address)

    loaded(inside)
    logits = typed(inside, "a bird")
    assert len(logits) == 2 and np.isfinite(logits).all()
    box = shown.bounding_box()
    assert box["width"] > 400 and box["height"] > 400
    assert inside.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown.scroll_into_view_if_needed()
    screenshot(page, "student-in-jupyterlab")
    assert not opened.fetched

    # Kept, and opened again after the kernel has gone.
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    notebook.run("page.close()")
    page.goto("about:blank")
    Notebook(page, lab, "student.ipynb")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text(
        "while this kernel runs", use_inner_text=True
    )
