"""The exported pages in a browser: no kernel, no network, only files; for everyone, in light and dark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import build_site as site_tool
import pytest
import torch
from conftest import PHONE
from instruments import GAME, RUN, SETUP, VIEWER
from playwright.sync_api import expect
from seen import MAKE, Explorer, bars_from_torch, from_torch
from servers import store

from kdtutor.plots.style import IN_THE_DARK

MARKUP = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"
ODD = f"odd = kd.widgets.TemperatureExplorer.from_logits([1., 2.], [2., 1.], [{MARKUP!r}, 'b'], texts=[{MARKUP!r}])"
#: what is wider than a phone: printed, returned, and below a figure
WIDE = (
    "print('word ' * 60, 'x' * 300)\nimport kdtutor as kd\n"
    "display(kd.plots.distributions([0.7, 0.2, 0.1], None, ['a', 'b', 'c']))\n{'key ' * 30: 'value ' * 30}"
)
#: columns, wider than the page in the size of other outputs
TABLE = "for name in ('teacher', 'student'):\n    print(f'{name:<70}{1:>12}{2:>12}{3:>12}')"
#: a formula in a line, wider than a phone, too
LONG = " + ".join(f"a_{{{i}}}" for i in range(10, 24))
#: five classes more than the slider draws
LOGITS, NAMES = [5.0, 4.0, 0.5, 0.2, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0], [*"abcdefghijk"]
CELLS = [
    "# 01 · The instruments\n\n5 minutes. With $T^2$ and [the other page](02_other.ipynb).",
    f"{MAKE}\nexplorer",
    "explorer",
    f"{SETUP}\n{RUN}\nlive.run(12)\nlive",
    f"{VIEWER}\nviewer",
    f"{GAME}\ngame",
    f"{ODD}\nodd",
    f"kd.widgets.TemperatureSlider({LOGITS}, {NAMES}, 'a sour fruit')",
    "from ipywidgets import interact\n\n\n@interact(x=(0, 5))\ndef twice(x=2):\n    print(2 * x)",
]


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_instruments.ipynb", *CELLS)
    store(folder / "02_other.ipynb", f"# 02 · Other\n\n1 minute. As long as ${LONG}$ is.", WIDE, TABLE)
    return build_site(folder)


@pytest.fixture
def page(site, open_page):
    opened = open_page("file://")
    opened.page.goto((site / "01_instruments.html").as_uri())
    expect(opened.page.locator(".kd-explorer")).to_have_count(3)
    return opened.page


def view(page, number: int = 0) -> Explorer:
    return Explorer(page, page.locator(".kd-explorer").nth(number))


def test_the_first_page_softens_the_teachers_answer(site, open_page):
    page = open_page("file://").page
    page.goto((site / "index.html").as_uri())
    answer = json.loads(page.locator("#kd-landing").get_attribute("data-answer"))
    logits, names = torch.tensor(answer["logits"], dtype=torch.float64), answer["names"]
    slider, rows = page.get_by_label("Temperature"), page.locator("#kd-landing li")
    for _ in range(30):
        slider.press("ArrowRight")
    p = (logits / 4).softmax(-1)
    assert slider.input_value() == "4" and rows.count() == 7
    best = int(p.argmax())
    assert rows.first.inner_text().split("\n") == [names[best], f"{100 * p[best]:.1f} %"]
    assert rows.last.inner_text().split("\n") == ["19 others", f"{100 * (1 - p.topk(6).values.sum()):.1f} %"]


def test_sliders_move_the_picture_without_a_kernel_and_the_numbers_are_torchs(page, screenshot):
    explorer = view(page)
    assert explorer.numbers() == pytest.approx(from_torch(2, 0.5), abs=1e-6)
    explorer.drag(explorer.T, 0.8)
    explorer.alpha.focus()
    page.keyboard.press("ArrowRight")
    explorer.settle()
    T, alpha = explorer.value("temperature"), explorer.value("alpha")
    assert T > 5 and alpha == pytest.approx(0.51)
    assert explorer.numbers() == pytest.approx(from_torch(T, alpha), abs=1e-6)
    for chart, bars in bars_from_torch(T, alpha).items():
        shown = explorer.bars(chart)
        for name, values in bars.items():
            assert shown[name] == pytest.approx(values, abs=1e-6)
    screenshot(page, "page-explorer")
    second = view(page, 1)
    assert second.numbers() == explorer.numbers()
    explorer.part("example").select_option(index=2)
    assert explorer.numbers() == pytest.approx(from_torch(T, alpha, example=1), abs=1e-6)


SEEN = """(node) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    return top >= 0 && node.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}"""


def extent(*parts) -> float:
    """Px from the top of the first part to the bottom of the last."""
    boxes = [part.bounding_box() for part in parts]
    return max(box["y"] + box["height"] for box in boxes) - min(box["y"] for box in boxes)


def test_a_slider_and_all_that_it_moves_are_seen_together(site, open_page, screenshot):
    page = open_page("file://", viewport={"width": 1280, "height": 720}).page
    page.goto((site / "01_instruments.html").as_uri())
    expect(page.locator(".kd-explorer")).to_have_count(3)
    explorer = view(page)
    explorer.root.evaluate("(root) => root.scrollIntoView({ block: 'start' })")
    moved = [explorer.part(name) for name in ("temperature", "kl", "loss", "probabilities", "gradients")]
    assert extent(*moved) <= 560
    assert all(part.evaluate(SEEN) for part in moved)
    screenshot(page, "page-explorer-720")


def test_the_game_and_the_viewer_show_cause_and_effect_together(page):
    game, viewer = page.locator(".kd-teacher-game"), page.locator(".kd-attention")
    assert extent(*(game.locator(f'[data-kd="{name}"]') for name in ("goal", "preset-label", "steps"))) <= 560
    assert game.locator('[data-kd="target-rest"]').count() == 1
    for line in game.locator(".kd-btt-line").all():  # each text stands beside a bar
        assert line.locator("xpath=ancestor::*[contains(@class, 'kd-btt-row')]//input").count() == 1
    assert (
        extent(*(viewer.locator(f'[data-kd="teacher-{name}"]') for name in ("layer", "tokens", "sum"))) <= 560
    )
    tops = [viewer.locator(f'[data-kd="{who}-tokens"]').bounding_box()["y"] for who in ("teacher", "student")]
    assert tops[0] == pytest.approx(tops[1], abs=0.5)
    viewer.locator('[data-kd="teacher-whole"] summary').click()
    scales = viewer.locator(".kd-att-under .kd-note").all_text_contents()
    assert len(scales) == 2 and scales[0] == scales[1]
    expect(viewer.locator('[data-kd="student-map"]')).to_be_visible()


def test_a_recorded_run_is_played_by_one_button_and_drawn_towards_the_teacher(page, screenshot):
    live = page.locator(".kd-live")
    chart, at = live.locator('[data-kd="chart-score"]'), live.locator('[data-kd="replay"]')
    expect(chart).to_contain_text("100")
    expect(chart).to_contain_text("the teacher: ")
    shown = [at, *(live.locator(f'[data-kd="chart-{name}"]') for name in ("score", "losses", "probe"))]
    assert extent(*shown) <= 560
    whole = int(chart.get_attribute("data-points"))
    live.locator('[data-kd="play"]').click()
    page.wait_for_function("document.querySelector('.kd-live [data-kd=replay]').dataset.value < 12")
    assert int(chart.get_attribute("data-points")) <= whole
    live.locator('[data-kd="play"]').click()  # stops it
    stood = at.get_attribute("data-value")
    page.wait_for_timeout(300)
    assert at.get_attribute("data-value") == stood


def test_on_a_phone_the_sliders_stay_in_sight(site, open_page, screenshot):
    page = open_page("file://", viewport={"width": 400, "height": 800}).page
    page.goto((site / "01_instruments.html").as_uri())
    expect(page.locator(".kd-explorer")).to_have_count(3)
    explorer = view(page)
    for chart in ("probabilities", "gradients"):
        explorer.part(chart).evaluate("(chart) => chart.scrollIntoView({ block: 'end' })")
        page.wait_for_timeout(100)
        screenshot(page, f"phone-explorer-{chart}")
        assert all(explorer.part(name).evaluate(SEEN) for name in ("temperature", "alpha", chart))


def test_a_link_carries_the_state_and_the_address_follows(site, open_page):
    page = open_page("file://").page
    page.goto(f"{(site / '01_instruments.html').as_uri()}#T=4&alpha=0.1&text=one+who+looks+on")
    expect(page.locator(".kd-explorer")).to_have_count(3)
    explorer = view(page)
    expect(explorer.T).to_have_attribute("data-value", "4")
    assert explorer.numbers() == pytest.approx(from_torch(4, 0.1, example=1), abs=1e-6)
    assert view(page, 2).part("temperature").get_attribute("data-value") == "2"  # it has no such text
    explorer.type("temperature", "8")
    page.wait_for_function("location.hash.includes('T=8&alpha=0.1&text=one+who')")


@pytest.mark.parametrize("broken", ["#T=warm&alpha=7", "#T=0&text=nobody+knows+it", "#setup"])
def test_a_link_that_says_nothing_good_changes_nothing(site, open_page, broken):
    page = open_page("file://").page
    page.goto(f"{(site / '01_instruments.html').as_uri()}{broken}")
    expect(page.locator(".kd-explorer")).to_have_count(3)
    assert view(page).numbers() == pytest.approx(from_torch(2, 0.5), abs=1e-6)


def test_a_word_lights_its_part_of_the_picture(page):
    explorer = view(page)
    bars = explorer.part("gradients").locator("path.kd-bar")  # hard, soft
    word = explorer.root.get_by_role("button", name="soft loss")
    word.focus()
    expect(bars.nth(0)).to_have_class(re.compile("kd-dim"))
    expect(bars.nth(1)).not_to_have_class(re.compile("kd-dim"))
    word.blur()
    expect(bars.nth(0)).not_to_have_class(re.compile("kd-dim"))


def test_bars_glide_after_a_choice_and_follow_a_drag_at_once(page):
    explorer = view(page)
    bar = explorer.part("probabilities").locator("path.kd-bar").first
    glides = "(bar) => getComputedStyle(bar).transitionProperty.includes('d,')"
    # In one call: on a busy machine the glide would be over before the next.
    assert explorer.part("example").evaluate(
        f"""(list) => {{
            list.selectedIndex = 2;
            list.dispatchEvent(new Event("change"));
            return ({glides})(document.querySelector(".kd-explorer [data-kd=probabilities] path.kd-bar"));
        }}"""
    )
    box = explorer.T.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=3)
    assert not bar.evaluate(glides)
    page.mouse.up()


@pytest.mark.parametrize("typed", ["0", "−1"])
def test_a_bad_temperature_is_answered_in_a_page_too(page, typed):
    explorer = view(page)
    explorer.type("temperature", typed)
    explorer.says("^Temperature T is a number from 0.1 to 20")
    assert explorer.value("temperature") == 2


def test_a_typed_text_says_that_it_needs_python(page):
    explorer = view(page)
    explorer.part("text").fill("another text")
    explorer.part("read").click()
    said = explorer.root.locator('[role="alert"]:visible, [role="status"]')
    expect(said.filter(has_text="text")).not_to_have_count(0)


def test_the_other_instruments_are_alive_too(page, screenshot):
    live = page.locator(".kd-live")
    expect(live.locator('[data-kd="at"]')).to_have_attribute("data-value", "12")
    expect(live.locator('[data-kd="no-kernel"]')).to_contain_text("needs a running kernel", timeout=10_000)
    expect(live.locator('[data-kd="start"]')).to_be_hidden()  # no dead controls
    replay = live.locator('[data-kd="replay"]')
    replay.focus()
    page.keyboard.press("Home")
    expect(replay).to_have_attribute("data-value", "0")
    viewer = page.locator(".kd-attention")
    viewer.locator('[data-kd="teacher-token-1"]').focus()
    page.keyboard.press("ArrowDown")
    expect(viewer.locator('[data-kd="teacher-token-2"]')).to_have_attribute("aria-selected", "true")
    game = page.locator(".kd-teacher-game")
    before = game.locator('[data-kd="beliefs-0"]').get_attribute("data-yours")
    bar = game.locator("input[data-kd^='target-']").first
    bar.focus()
    page.keyboard.press("Home")
    expect(game.locator('[data-kd="beliefs-0"]')).not_to_have_attribute("data-yours", before)
    assert sum(
        json.loads(game.locator('[data-kd="beliefs-0"]').get_attribute("data-yours"))
    ) == pytest.approx(1)
    for name in ("live", "attention", "teacher-game"):
        screenshot(page.locator(f".kd-{name}"), f"page-{name}")


def test_markup_that_somebody_typed_is_shown_as_text(page):
    assert MARKUP in view(page, 2).bars("probabilities")
    assert page.locator(".kd :is(img, script)").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_plain_picture_hides_behind_the_widget_and_shows_without_scripts(
    page, site, open_page, screenshot
):
    plain = page.locator(".kd-plain img")
    assert plain.count() == 7
    for picture in plain.all():
        expect(picture).to_be_hidden()
    bare = open_page("file://", java_script_enabled=False).page
    bare.goto((site / "01_instruments.html").as_uri())
    for picture in bare.locator(".kd-plain img").all():
        expect(picture).to_be_visible()
        assert len(picture.get_attribute("alt").split()) > 5
    screenshot(bare, "page-without-scripts")


@pytest.mark.parametrize(
    ("scheme", "expected"), [("light", "none"), ("dark", "invert(0.9) hue-rotate(180deg)")]
)
def test_figures_drawn_on_white_are_dark_in_the_dark_theme(site, open_page, scheme, expected):
    page = open_page("file://", color_scheme=scheme, java_script_enabled=False).page
    page.goto((site / "01_instruments.html").as_uri())
    picture = page.locator(".kd-plain img").first
    assert picture.evaluate("(image) => getComputedStyle(image).filter") == expected


@pytest.mark.parametrize(
    ("page_of", "dark"),
    [
        ("<html theme='dark'><body>", True),  # Colab's frame around an output
        ("<html theme='light'><body>", False),
        ("<html><body class='vscode-dark'>", True),
        ("<html><body class='vscode-light'>", False),
    ],
)
def test_a_figure_brings_its_dark_theme_to_colab_and_vs_code(open_page, page_of, dark):
    page = open_page().page
    page.set_content(f"{page_of}<style>{IN_THE_DARK}</style><img width='10'><img class='others'>")
    filters = page.evaluate("[...document.images].map((image) => getComputedStyle(image).filter)")
    assert filters == ["invert(0.9) hue-rotate(180deg)" if dark else "none", "none"]


def test_what_needs_python_says_so_and_formulas_are_drawn(page):
    expect(page.locator(".kd-needs-python")).to_have_count(1)
    expect(page.locator("article")).to_contain_text("4")
    expect(page.locator("mjx-container")).to_have_count(1)
    assert "$" not in page.locator("article p").first.inner_text()


def test_it_works_from_a_server_too_and_leads_to_the_next_page(site, open_page):
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        page = open_page(address).page
        page.goto(f"{address}/index.html")
        page.locator("article").get_by_role("link", name="01 · The instruments").click()
        explorer = view(page)
        explorer.drag(explorer.T, 0.2)
        explorer.settle()
        T = explorer.value("temperature")
        assert explorer.numbers() == pytest.approx(from_torch(T, 0.5), abs=1e-6)
        page.get_by_role("link", name="the other page").click()
        expect(page.locator("h1")).to_contain_text("02 · Other")
        page.close()
        server.shutdown()


def test_search_results_show_no_source_of_a_formula(site, open_page):
    page = open_page("file://").page
    page.goto((site / "search.html").as_uri())
    formula = '<span class="math notranslate">\\(T^2\\)</span>'
    text = page.evaluate(
        "(html) => Search.htmlToText(html)", f'<div role="main"><p>here {formula} it is</p></div>'
    )
    assert text == "here … it is"


SIZES = {320: 800, 400: 800, 1280: 720, 1920: 1080}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["index", "01_instruments"])
def test_a_page_fits_every_screen_and_does_not_jump(site, open_page, screenshot, name, width, scheme):
    opened = open_page("file://", color_scheme=scheme, viewport={"width": width, "height": SIZES[width]}).page
    opened.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach((e) => "
        "{ if (!e.hadRecentInput) window.shift += e.value; })).observe({ type: 'layout-shift', buffered: true });"
    )
    opened.goto((site / f"{name}.html").as_uri())
    expect(opened.locator(".kd-output:not(:has(.widget-subarea .kd))")).to_have_count(0)
    if name == "index":  # the first page's instrument: seen at once, with a way to drag and bars that differ
        box = opened.get_by_label("Temperature").bounding_box()
        assert box["width"] > 150 and box["y"] + box["height"] < SIZES[width]
        assert opened.locator("#kd-landing .kd-bar").first.bounding_box()["width"] > 70
    opened.wait_for_timeout(500)
    screenshot(opened, f"page-{name}-{width}-{scheme}")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    # The place of an instrument is kept (site.css) until it stands where its picture was.
    assert opened.evaluate("window.shift") <= 0.1


def test_the_first_slider_softens_an_answer_on_an_axis_that_stays(page, screenshot):
    root = page.locator(".kd-softener")
    box, chart = (root.locator(f'[data-kd="{name}"]') for name in ("temperature-box", "probabilities"))
    values = """(chart) => Object.fromEntries([...chart.querySelectorAll("g[data-row]")].map((row) =>
        [row.dataset.row, Number(row.dataset.values)]))"""
    ticks = "(c) => [...c.querySelectorAll('text.kd-quiet')].map((t) => t.textContent).filter((text) => text)"
    axis = chart.evaluate(ticks)
    assert (axis[0], axis[-1]) == ("0\N{NO-BREAK SPACE}%", "100\N{NO-BREAK SPACE}%")
    for T in (0.5, 4, 20):
        box.fill(str(T))
        box.press("Enter")
        expect(root.locator('[data-kd="summary"]')).to_contain_text(f"At T = {T:g} ")
        expected = (torch.tensor(LOGITS, dtype=torch.float64) / T).softmax(-1).tolist()
        shown = chart.evaluate(values)
        assert shown.pop("5 others") == pytest.approx(sum(expected[6:]))
        assert shown == pytest.approx(dict(zip(NAMES[:6], expected[:6], strict=True)))
        assert chart.evaluate(ticks) == axis
    screenshot(root, "page-first-slider")


def test_the_first_page_is_light(site):
    loaded = re.findall(
        r'(?:src|href)="([^":#?]+\.(?:css|js|png|jpg|svg|gif|woff2?))[?"]', (site / "index.html").read_text()
    )
    files = [site / "index.html", *{site / name for name in loaded}]
    assert len(files) > 4
    assert sum(file.stat().st_size for file in files) < 400_000, sorted(
        (f.stat().st_size, f.name) for f in files
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "01_instruments"])
def test_axe_finds_nothing_serious(site, open_page, screenshot, scheme, name):
    opened = open_page("file://", color_scheme=scheme).page
    opened.goto((site / f"{name}.html").as_uri())
    if name != "index":
        expect(opened.locator(".kd-explorer")).to_have_count(3)
        expect(opened.locator(".kd-explorer").first).to_have_attribute("data-theme", scheme)
    opened.wait_for_timeout(500)
    opened.add_script_tag(path=site_tool.javascript() / "axe-core" / "axe.min.js")
    found = opened.evaluate("axe.run(document, { resultTypes: ['violations'], preload: false })")
    serious = [
        (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"][:3]], fault["help"])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    screenshot(opened, f"page-{name}-{scheme}")
    assert not serious, json.dumps(serious, indent=1)


def test_a_phone_shows_everything_without_scrolling_sideways(site, open_page, screenshot):
    opened = open_page("file://", viewport=PHONE).page
    opened.goto((site / "01_instruments.html").as_uri())
    expect(opened.locator(".kd-explorer")).to_have_count(3)
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for name in ("explorer", "live", "attention", "teacher-game"):
        box = opened.locator(f".kd-{name}").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"], name
        screenshot(opened.locator(f".kd-{name}").first, f"phone-{name}")


def test_what_is_set_in_columns_keeps_its_lines(site, open_page, screenshot):
    page = open_page("file://", viewport={"width": 1280, "height": 800}).page
    page.goto((site / "02_other.html").as_uri())
    table, other = page.locator("pre.kd-laid-out"), page.locator("div.cell_output pre").first
    of = {"size": "parseFloat(getComputedStyle(pre).fontSize)", "beyond": "pre.scrollWidth - pre.clientWidth"}
    size, beyond = (table.evaluate(f"(pre) => {how}") for how in of.values())
    assert beyond <= 1 and 11 < size < other.evaluate(f"(pre) => {of['size']}")
    assert table.evaluate("(pre) => pre.clientHeight < 5 * parseFloat(getComputedStyle(pre).lineHeight)")
    screenshot(table, "columns-at-1280")
    page.set_viewport_size({"width": 390, "height": 800})
    expect(table).to_have_attribute("tabindex", "0")  # so that the keyboard can scroll it
    assert table.evaluate(f"(pre) => {of['beyond']}") > 100


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_output_is_cut_at_the_right(site, open_page, width, screenshot):
    opened = open_page("file://", viewport={"width": width, "height": 800}).page
    opened.goto((site / "02_other.html").as_uri())
    outputs = opened.locator("div.cell_output :is(pre:not(.kd-laid-out), p, img)")
    assert outputs.count() >= 4
    for output in outputs.all():
        assert output.evaluate("(shown) => shown.scrollWidth - shown.clientWidth") <= 1
        box = output.bounding_box()
        assert box["x"] + box["width"] <= width
    screenshot(opened, f"outputs-at-{width}")
    formula = opened.locator("span.math:has(mjx-container)")
    box = formula.bounding_box()
    assert box["x"] + box["width"] <= width
    scrolls = formula.evaluate("(shown) => shown.scrollWidth > shown.clientWidth + 1 && shown.tabIndex === 0")
    assert scrolls == (width < 1000)


def test_a_printed_page_has_no_link_to_skip_to_and_cuts_no_line(site, open_page):
    opened = open_page("file://").page
    opened.goto((site / "02_other.html").as_uri())
    expect(opened.locator(".skip-to-content")).to_have_count(1)
    opened.emulate_media(media="print")
    assert opened.locator(".skip-to-content").evaluate("(link) => getComputedStyle(link).display") == "none"
    wrapped = "(shown) => getComputedStyle(shown).whiteSpace"
    assert {code.evaluate(wrapped) for code in opened.locator("article pre").all()} == {"pre-wrap"}


def test_nothing_moves_for_who_asked_for_less_motion(site, open_page):
    opened = open_page("file://", reduced_motion="reduce").page
    opened.goto((site / "01_instruments.html").as_uri())
    expect(opened.locator(".kd-explorer")).to_have_count(3)
    moving = opened.evaluate(
        """[...document.querySelectorAll(".kd, .kd *")].filter((e) => {
            const style = getComputedStyle(e);
            const takes = (text) => text.split(",").some((time) => parseFloat(time) > 0.01);
            const animated = style.animationName !== "none" && takes(style.animationDuration);
            return animated || takes(style.transitionDuration);
        }).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert moving == []
