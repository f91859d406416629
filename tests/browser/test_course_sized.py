"""Every instrument with as much in it as in the course, from a phone to a projector: cause and effect in one view."""

from __future__ import annotations

import re
from pathlib import Path

import build_site as site_tool
import pytest
from playwright.sync_api import Page, expect
from servers import store

import kdtutor as kd

#: 25 classes, the teachers that ship, texts and layers of the notebooks; the students hardly trained, to be quick
CELLS = [
    "# 01 · As large as in the course\n\n5 minutes.",
    """import kdtutor as kd
from kdtutor.evaluation import Choice

task = kd.load_task("supersense")
teacher = kd.load_teacher(task)
student = kd.half_depth(teacher, seed=0)
text = "a bird that is roasted and eaten at thanksgiving"
kd.widgets.TemperatureSlider(kd.models.logits_of(teacher, task.encode_texts([text]))[0], task.labels, text)""",
    "kd.widgets.TemperatureExplorer(teacher, student, task, examples=range(8))",
    """viewer = kd.widgets.AttentionViewer(teacher, student, task=task, text=text)
viewer.token = 6
viewer""",
    """game = kd.widgets.BeTheTeacher(task, teacher, candidates=300)
game.text = game.lessons[1]["text"]
game""",
    """small = task.subset(640)
how = {"learning_rate": 1e-3, "max_norm": 10, "seed": 0, "steps": 40, "batch_size": 16}
pair = [kd.small_bert(task, layers=2, width=128, dropout=0.0, seed=0) for _ in range(2)]
run = kd.Distillation(pair[0], teacher, small, kd.blend(alpha=0.1, temperature=1), **how)
twin = kd.Distillation(pair[1], None, small, kd.HardLabels(), **how)
live = kd.widgets.LiveDistillation(run, twin=twin, probe=text, validation=100, every=4)
live.run()
live""",
    """how = {"steps": 4, "batch_size": 8, "learning_rate": 3e-4, "max_norm": 20, "texts": 40}
board = kd.widgets.LayerMap(student, teacher, small, kd.SoftTargets(1), **how)
board.run({}), board.run("every second")
board.beside = 1
board""",
    """rows = {  # accuracy, ms, parameters, texts per second
    "teacher": (0.885, 9.1, 15_600_000, 300),
    "LSTM, labels alone": (0.55, 0.61, 1_200_000, 9000),
    "LSTM": (0.78, 0.62, 1_200_000, 9000),
    "CNN": (0.79, 0.31, 1_300_000, 20_000),
    "static": (0.75, 0.1, 1_100_000, 90_000),
    "BERT, 1 × 64": (0.61, 0.4, 600_000, 20_000),
}
recipe = "the teacher's vectors, its answers to 17,000 texts at T = 2, 800 steps of 64, rate 0.01"
models = [
    Choice(name, a, a - 0.01, a + 0.01, 2000, 4 * size, size, ms, rate, recipe)
    for name, (a, ms, size, rate) in rows.items()
]
kd.widgets.ModelChart(models, chosen=3)""",
    """bags = {f"{name} student": kd.static_student(task, width=32, seed=2) for name in ("distilled", "hard")}
kd.widgets.NoiseDial({"teacher": teacher, **bags}, task, strength=0.3)""",
    'kd.widgets.BeatTheOptimiser(kd.studies.load("grid"), budget=8)',
    """spelling = kd.load_task("pronunciation")
writers = {name: kd.load_teacher(spelling) for name in ("teacher", "distilled", "hard")}
kd.widgets.WatchThemWrite(writers, spelling, ["xylophone", "weight", "mozart", "thoughtless"])""",
]
#: by instrument, as site.css calls it: the px (560 at most) in which lie what is moved, and all that it moves
TOGETHER = {
    "TemperatureSlider": (340, ["temperature", "probabilities", "summary"]),
    "TemperatureExplorer": (500, ["temperature", "alpha", "kl", "loss", "probabilities", "gradients"]),
    "AttentionViewer": (
        415,
        ["teacher-layer", "student-layer", "teacher-tokens", "teacher-sum", "student-sum"],
    ),
    "BeTheTeacher": (465, ["goal", "preset-label", "target-rest", "steps"]),
    "LiveDistillation": (530, ["replay", "chart-score", "chart-losses", "chart-probe"]),
    "LayerMap": (510, ["teacher-0", "student-3", "map-shown", "result-2", "start"]),
    "ModelChart": (490, ["cost", "budget", "detail", "summary", "more"]),
    "NoiseDial": (525, ["strength", "broken", "answer-2", "probabilities", "curve"]),
    "BeatTheOptimiser": (380, ["alpha", "temperature", "cell-0-0", "cell-4-4", "random", "summary"]),
    "WatchThemWrite": (560, ["temperature", "beta", "token-1-0", "alternatives-2", "here-2", "mean-2"]),
}
SIZES = {320: 800, 400: 800, 1280: 720, 1920: 1080}
DRAWN = (
    "[...document.querySelectorAll('.kd-output')].every((one) => one.querySelector('.widget-subarea .kd'))"
)
#: until no height of the page has changed for half a second
STILL = """async () => {
    for (let quiet = 0, last = 0; quiet < 5; quiet++) {
        await new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100));
        if (document.documentElement.scrollHeight !== last) quiet = 0;
        last = document.documentElement.scrollHeight;
    }
}"""
#: what of an instrument can't be read or moved: texts beyond its edge, values that are cut, sliders without a way
FAULTS = """(root) => {
    const edge = root.getBoundingClientRect(), faults = [];
    const seen = (node) => node.checkVisibility({ visibilityProperty: true }) && node.getBoundingClientRect().width > 1;
    const words = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (words.nextNode()) {
        const node = words.currentNode, parent = node.parentElement;
        const elsewhere = parent.closest("option, .kd-hidden-text, .kd-models-scroll");
        if (!node.data.trim() || !seen(parent) || elsewhere) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        const box = (parent.closest("svg text") ?? range).getBoundingClientRect(); // a text in a chart may be squeezed
        if (box.right > edge.right + 1 || box.left < edge.left - 1) faults.push(`beyond the edge: ${node.data.trim()}`);
    }
    for (const value of root.querySelectorAll(".kd-tile-value, .kd-value, .kd-att-value")) {
        if (!seen(value)) continue;
        if (value.scrollWidth > value.clientWidth + 1 && getComputedStyle(value).display !== "inline")
            faults.push(`cut: ${value.textContent}`);
        if (value.getClientRects().length > 1) faults.push(`in two lines: ${value.textContent}`);
    }
    for (const slider of root.querySelectorAll("input[type=range]"))
        if (seen(slider) && slider.getBoundingClientRect().width < 72)
            faults.push(`short: ${slider.dataset.kd}, ${Math.round(slider.getBoundingClientRect().width)} px`);
    return [...new Set(faults)];
}"""
SEEN = """(node) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    return top >= 0 && node.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}"""


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "notebooks"
    store(folder / "01_sized.ipynb", *CELLS)
    return build_site(folder)


@pytest.fixture(scope="module")
def opened(site, open_page):
    """opened(width, scheme): the page at this width, once all instruments stand."""
    pages: dict[tuple[int, str], Page] = {}

    def at(width: int, scheme: str = "light") -> Page:
        if (width, scheme) not in pages:
            for old in pages.values():
                old.close()
            pages.clear()
            screen = {"width": width, "height": SIZES[width]}
            page = open_page("file://", viewport=screen, color_scheme=scheme).page
            page.goto((site / "01_sized.html").as_uri())
            page.wait_for_function(DRAWN, timeout=120_000)
            page.evaluate(STILL)
            pages[width, scheme] = page
        return pages[width, scheme]

    return at


def output(page: Page, kind: str):
    return page.locator(f'.kd-output[data-kind="{kind}"]')


def test_each_instrument_of_the_course_is_here():
    named = set(re.findall(r'data-kind="(\w+)"', (site_tool.COURSE / "static/site.css").read_text()))
    assert named == set(TOGETHER)
    assert named == set(dir(kd.widgets)) - {"Instrument"}


@pytest.mark.parametrize("kind", TOGETHER)
def test_a_projector_shows_what_is_moved_with_all_that_it_moves(opened, kind):
    """Each has a limit of its own, a few per cent above what it takes, so that it grows no higher again."""
    page, (limit, names) = opened(1280), TOGETHER[kind]
    whole = output(page, kind)
    parts = [whole.locator(f'[data-kd="{name}"]') for name in names]
    boxes = [part.bounding_box() for part in parts]
    top, foot = min(box["y"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    assert foot - top <= limit <= 560
    page.evaluate("(y) => scrollBy({ top: y, behavior: 'instant' })", top - 20)
    page.wait_for_timeout(200)
    assert [name for name, part in zip(names, parts, strict=True) if not part.evaluate(SEEN)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_nothing_is_cut_at_any_width_in_light_and_dark(opened, screenshot, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    faults = {}
    for kind in TOGETHER:
        instrument = output(page, kind).locator(".kd").first
        expect(instrument).to_have_attribute("data-theme", scheme)
        screenshot(instrument, f"sized-{kind}-{width}-{scheme}")
        if found := instrument.evaluate(FAULTS):
            faults[kind] = found
    assert faults == {}


@pytest.mark.parametrize(("width", "kept"), [(400, "--narrow"), (1280, "--wide")])
def test_the_place_that_site_css_keeps_for_an_instrument_is_about_as_high_as_it_is(opened, width, kept):
    page, other = opened(width), {}
    for kind in TOGETHER:
        place = "(output, name) => parseFloat(getComputedStyle(output).getPropertyValue(name))"
        px, height = output(page, kind).evaluate(place, kept), output(page, kind).bounding_box()["height"]
        if abs(height - px) > 0.08 * height:
            other[kind] = (px, round(height))
    assert other == {}
