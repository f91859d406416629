"""The temperature explorer in JupyterLab: dragged, typed into and steered from Python, and equal to torch's numbers."""

from __future__ import annotations

import pytest
from conftest import TALL
from playwright.sync_api import expect
from seen import CLASSES, MAKE, TEXTS, Explorer, bars_from_torch, from_torch
from servers import Notebook, store

MARKUP = "<img src=x onerror=\"window.hacked='text'\"><script>window.hacked=1</script>"
READER = f"""task = kd.load_task("supersense").subset(40)
teacher, student = (kd.small_bert(task, layers=1, width=width) for width in (32, 16))
reader = kd.widgets.TemperatureExplorer(teacher, student, task, examples=["a red fruit", {MARKUP!r}])
reader"""


@pytest.fixture(scope="module")
def notebook(open_page, lab) -> Notebook:
    """A notebook with an explorer in two views, and one whose models can read."""
    store(lab.folder / "explorer.ipynb", MAKE + "\nexplorer", "explorer", READER)
    opened = Notebook(open_page(lab.address, viewport=TALL).page, lab, "explorer.ipynb")
    opened.run_all()
    expect(opened.page.locator(".kd-explorer")).to_have_count(3, timeout=60_000)
    return opened


def view(notebook: Notebook, number: int) -> Explorer:
    return Explorer(notebook.page, notebook.page.locator(".kd-explorer").nth(number))


@pytest.fixture
def explorer(notebook) -> Explorer:
    """The first view, with known settings."""
    notebook.run(
        "explorer.example, explorer.temperature, explorer.alpha, explorer.t_squared = 0, 2, 0.5, True"
    )
    first = view(notebook, 0)
    expect(first.T).to_have_attribute("aria-valuetext", "2")
    return first


@pytest.mark.parametrize(
    ("T", "alpha", "example", "t_squared"),
    [(1, 0, 0, True), (0.1, 0.3, 0, True), (20, 1, 0, False), (4, 0.25, 1, True)],
)
def test_the_numbers_on_the_screen_are_torchs(notebook, explorer, T, alpha, example, t_squared):
    notebook.run(f"explorer.example, explorer.temperature, explorer.alpha = {example}, {T}, {alpha}")
    notebook.run(f"explorer.t_squared = {t_squared}")
    expect(explorer.T).to_have_attribute("data-value", f"{T}")
    assert explorer.numbers() == pytest.approx(from_torch(T, alpha, example, t_squared), abs=1e-6)


def test_the_bars_are_torchs_and_its_autograds(notebook, explorer):
    notebook.run("explorer.temperature, explorer.alpha = 3, 0.2")
    expect(explorer.T).to_have_attribute("data-value", "3")
    for chart, bars in bars_from_torch(3, 0.2).items():
        shown = explorer.bars(chart)
        assert set(shown) == set(CLASSES)
        for name, values in bars.items():
            assert shown[name] == pytest.approx(values, abs=1e-6), f"{chart} of {name}"


def test_dragging_with_the_mouse_moves_the_picture_and_python(notebook, explorer, screenshot):
    notebook.page.evaluate(
        """() => {
            const slider = document.querySelector('[data-kd="temperature"]');
            window.seen = [];
            const keep = new MutationObserver(() => window.seen.push(+slider.dataset.value));
            keep.observe(slider, { attributeFilter: ["data-value"] });
        }"""
    )
    explorer.drag(explorer.T, 0.9)
    explorer.drag(explorer.alpha, 0.1)
    explorer.settle()
    T, alpha = explorer.value("temperature"), explorer.value("alpha")
    assert T > 8 and alpha < 0.2
    assert explorer.numbers() == pytest.approx(from_torch(T, alpha), abs=1e-6)
    said = notebook.run("import time; time.sleep(0.3)\nprint(explorer.temperature, explorer.alpha)")
    assert [float(x) for x in said.split()] == pytest.approx([T, alpha], abs=1e-12)
    seen = notebook.page.evaluate("window.seen")
    assert len(seen) > 5 and seen == sorted(seen)  # no late answer of Python's ever moved it back
    explorer.root.scroll_into_view_if_needed()
    screenshot(notebook.page, "explorer-in-jupyterlab")


def test_each_slider_works_by_keyboard(notebook, explorer):
    for slider, name, ends in ((explorer.T, "temperature", (0.1, 20)), (explorer.alpha, "alpha", (0, 1))):
        slider.focus()
        before = explorer.value(name)
        notebook.page.keyboard.press("ArrowRight")
        assert explorer.value(name) > before
        notebook.page.keyboard.press("ArrowLeft")
        notebook.page.keyboard.press("ArrowLeft")
        assert explorer.value(name) < before
        for key, end in zip(("Home", "End"), ends, strict=True):
            notebook.page.keyboard.press(key)
            assert explorer.value(name) == end
        expect(slider).to_be_focused()  # the notebook did not take the keys
    assert explorer.numbers() == pytest.approx(from_torch(20, 1), abs=1e-6)


def test_a_cell_moves_the_picture(notebook, explorer):
    notebook.run("explorer.temperature = 4")
    expect(explorer.T).to_have_attribute("aria-valuetext", "4")
    assert explorer.numbers() == pytest.approx(from_torch(4, 0.5), abs=1e-6)


def test_observe_hears_of_a_drag(notebook, explorer):
    notebook.run("heard = []\nexplorer.observe(lambda change: heard.append(change['new']), 'temperature')")
    explorer.drag(explorer.T, 0.2)
    explorer.settle()
    said = notebook.run("import time; time.sleep(0.3)\nprint(heard[-1], len(heard))")
    last, times = said.split()
    assert float(last) == explorer.value("temperature") < 1
    assert int(times) >= 1


def test_two_views_stay_in_sync(notebook, explorer):
    second = view(notebook, 1)
    explorer.drag(explorer.T, 0.7)
    explorer.settle()
    expect(second.T).to_have_attribute("data-value", explorer.T.get_attribute("data-value"))
    second.alpha.focus()
    notebook.page.keyboard.press("Home")
    expect(explorer.alpha).to_have_attribute("data-value", "0")
    assert explorer.numbers() == second.numbers()


def test_a_picked_example_brings_its_logits_and_label(notebook, explorer):
    explorer.part("example").select_option(index=2)
    expect(explorer.part("text")).to_have_value(TEXTS[1])
    assert explorer.numbers() == pytest.approx(from_torch(2, 0.5, example=1), abs=1e-6)
    assert "loss-hard" not in explorer.numbers()
    assert (
        notebook.run("import time; time.sleep(0.3)\nprint(explorer.text, explorer.label)")
        == f"{TEXTS[1]} None"
    )


@pytest.mark.parametrize("typed", ["0", "−1", "-1", "21", "NaN", "", "warm"])
def test_a_temperature_that_is_none_is_answered_by_a_sentence_and_the_last_one_stays(explorer, typed):
    explorer.type("temperature", typed)
    explorer.says(r"^Temperature T is a number from 0\.1 to 20, .*it stays at 2\.$")
    assert explorer.value("temperature") == 2
    explorer.type("temperature", "3,5")
    assert explorer.value("temperature") == 3.5
    assert explorer.root.locator('[role="alert"]:visible').count() == 0


def test_a_typed_text_is_read_by_both_models_once(notebook, screenshot):
    notebook.run("asked = []\noriginal = reader._ask_models\n"
                 "reader._ask_models = lambda text: asked.append(text) or original(text)")  # fmt: skip
    reader = view(notebook, 2)
    reader.part("text").fill("a small bird of the night")
    reader.part("read").click()
    expect(reader.part("status")).to_be_empty(timeout=20_000)
    reader.drag(reader.T, 0.8)
    reader.settle()
    T = reader.value("temperature")
    said = notebook.run("import time; time.sleep(0.3)\nfrom kdtutor import objectives\nimport torch\n"
                        "z = task.encode_texts(['a small bird of the night'])\n"
                        "from kdtutor.models import logits_of\n"
                        "z_t, z_s = (logits_of(m, z).double() for m in (teacher, student))\n"
                        f"p, q = (torch.log_softmax(z / {T}, -1) for z in (z_t, z_s))\n"
                        "print(len(asked), float((p.exp() * (p - q)).sum()))")  # fmt: skip
    times, kl = said.split()
    assert int(times) == 1
    assert reader.numbers()["kl"] == pytest.approx(float(kl), abs=1e-6)


@pytest.mark.parametrize(
    "typed",
    [MARKUP, "🍎🍐 \u200d👩‍👩‍👧 🧪", "تفاحة حمراء على الشجرة", "word " * 10_000],
    ids=["markup", "emoji", "right to left", "10,000 words"],
)
def test_any_text_gives_a_picture_and_is_shown_as_text(notebook, screenshot, typed):
    reader = view(notebook, 2)
    reader.part("text").fill(typed)
    reader.part("read").click()
    reader.page.wait_for_function(
        "(text) => document.querySelectorAll('.kd-explorer textarea')[2].value === text", arg=typed
    )
    expect(reader.part("status")).to_be_empty(timeout=20_000)
    assert notebook.run("print(reader.text == " + repr(typed) + ")") == "True"
    assert set(reader.numbers()) >= {"kl", "loss-total"}
    assert notebook.page.locator(".kd-explorer :is(img, script)").count() == 0
    assert notebook.page.evaluate("window.hacked") is None
    if typed.startswith("word"):
        expect(reader.part("notice")).to_contain_text("first")
    screenshot(reader.root, f"explorer-text-{len(typed)}")


def test_a_text_that_nobody_can_read_says_so_beside_the_bars_piece_by_piece(notebook, screenshot):
    reader = view(notebook, 2)
    reader.part("text").fill("红色的水果")
    reader.part("read").click()
    expect(reader.part("notice")).to_contain_text("5 of its 5 pieces are unknown", timeout=20_000)
    assert reader.part("pieces").locator("code").all_text_contents() == list("红色的水果")
    screenshot(reader.root, "explorer-unreadable")
    reader.part("text").fill("a red fruit")
    reader.part("read").click()
    expect(reader.part("notice")).to_be_empty(timeout=20_000)
    expect(reader.part("pieces")).to_be_hidden()


def test_buttons_keep_their_look_in_jupyterlab(notebook):
    style = "(b) => { const s = getComputedStyle(b); return [s.borderTopLeftRadius, s.fontWeight]; }"
    assert view(notebook, 2).part("read").evaluate(style) == ["7px", "600"]


@pytest.mark.parametrize("typed", ["", "  \n "])
def test_an_empty_text_is_answered_by_a_sentence(notebook, typed):
    reader = view(notebook, 2)
    before = notebook.run("reader.text")
    reader.part("text").fill(typed)
    reader.part("read").click()
    reader.says("^The text is empty")
    assert notebook.run("reader.text") == before


def written(explorer) -> list[list[str]]:
    """What each row of the probabilities ought to say, a text for each model."""
    return [
        [f"{100 * p:.1f}\N{NO-BREAK SPACE}%" for p in row] for row in explorer.bars("probabilities").values()
    ]


def test_class_names_with_markup_one_class_and_two_hundred_give_a_picture(notebook, screenshot):
    notebook.run(
        f"""import random
names = ["<b onclick=hack()>bold</b>", {MARKUP!r}, "تفاح", "🍎"]
E = kd.widgets.TemperatureExplorer.from_logits
rows = [random.Random(0).gauss(0, 2) for _ in range(200)]
many = E(rows, rows[::-1], [f"class {{i}}" for i in range(200)])
odd = [E([1., 2, 3, 4], [4., 3, 2, 1], names), E([3.], [1.], ["only"]), many]
from IPython.display import display
for one in odd:
    display(one)""",
        keep=True,
    )
    expect(notebook.page.locator(".kd-explorer")).to_have_count(6, timeout=30_000)
    marked, single, many = (view(notebook, number) for number in (3, 4, 5))
    assert MARKUP in marked.bars("probabilities")
    assert single.bars("probabilities") == {"only": [1, 1]}
    assert single.numbers()["kl"] == pytest.approx(0, abs=1e-12)
    assert len(many.bars("probabilities")) < 200
    screenshot(marked.root, "explorer-markup")
    screenshot(many.root, "explorer-200-classes")
    many.part("more").locator("summary").click()
    many.part("all-classes").check()
    assert len(many.bars("probabilities")) == 200
    assert sum(bars[0] for bars in many.bars("probabilities").values()) == pytest.approx(1)
    columns = many.part("probabilities").locator(".kd-column").all_text_contents()
    assert [column.split("\n") for column in columns] == [*map(list, zip(*written(many), strict=True))]
    beside_bars = marked.part("probabilities").locator("svg.kd-above text").all_text_contents()
    assert beside_bars == [text for row in written(marked) for text in row]
    assert notebook.page.locator(".kd-explorer :is(img, script, b)").count() == 0
    assert notebook.page.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("E([float('nan'), 1.], [1., 2.], ['a', 'b'])", "must be finite"),
        ("E([1., 2.], [1., 2., 3.], ['a', 'b'])", "one for each class"),
        ("setattr(explorer, 'temperature', 0)", "a temperature is a number from 0.1 to 20"),
        ("setattr(explorer, 'temperature', -1)", "a temperature is a number from 0.1 to 20"),
    ],
)
def test_what_python_refuses_is_named_in_one_sentence(notebook, explorer, made, sentence):
    said = notebook.run(f"E = kd.widgets.TemperatureExplorer.from_logits\n{made}")
    assert said.startswith("SettingError: ")
    assert sentence in said
    assert explorer.value("temperature") == 2


def test_closing_a_view_leaves_the_other_alive(notebook, explorer):
    notebook.page.evaluate("""async () => {
        const { content } = window.jupyterapp.shell.currentWidget;
        content.activeCellIndex = 1;
        await window.jupyterapp.commands.execute("notebook:clear-cell-output");
    }""")
    explorer.drag(explorer.T, 0.5)
    explorer.settle()
    assert explorer.numbers() == pytest.approx(from_torch(explorer.value("temperature"), 0.5), abs=1e-6)


def test_a_slider_and_all_that_it_moves_fit_on_a_projector(notebook):
    explorer = view(notebook, 0)
    boxes = [
        explorer.part(name).bounding_box() for name in ("temperature", "loss", "probabilities", "gradients")
    ]
    assert max(box["y"] + box["height"] for box in boxes) - boxes[0]["y"] <= 560


def test_a_restarted_kernel_is_recognised_and_the_sliders_go_on(
    notebook, explorer
):  # the last one: nothing is left
    notebook.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    expect(explorer.part("status")).to_contain_text("Python was restarted", timeout=20_000)
    expect(explorer.part("status")).to_contain_text("run the cell above again")
    explorer.drag(explorer.T, 0.8)
    explorer.settle()
    assert explorer.numbers() == pytest.approx(from_torch(explorer.value("temperature"), 0.5), abs=1e-6)
