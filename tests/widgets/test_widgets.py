"""The instruments' Python side, and the arithmetic that they do in the browser, which is held to torch in float64."""

import base64
import json
import math
import shutil
import struct
import subprocess

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("anywidget")
import traitlets
from helpers import refusal

import kdtutor as kd
from kdtutor.models.forward import logits_of
from kdtutor.models.students import small_bert
from kdtutor.widgets import base, reading
from kdtutor.widgets.explorer import TemperatureExplorer
from kdtutor.widgets.explorer_examples import telling_examples

NAMES = ("animal", "food", "plant", "time")
TEACHER, STUDENT = [3.0, 2.0, 1.0, -2.0], [0.5, 2.5, 0.0, -1.0]
MARKUP = '<img src=x onerror="alert(1)">'
NODE = shutil.which("node")


@pytest.fixture
def explorer() -> TemperatureExplorer:
    teacher = torch.tensor([TEACHER, [0.0, 0.0, 9.0, 0.0]])
    student = torch.tensor([STUDENT, [0.0, 1.0, 2.0, 3.0]])
    texts = ["a red fruit", "a green leaf"]
    return TemperatureExplorer.from_logits(teacher, student, NAMES, labels=[1, None], texts=texts)


@pytest.fixture(scope="module")
def task():
    return kd.load_task("sentiment", max_length=32).subset(40)


@pytest.fixture(scope="module")
def models(task):
    return [small_bert(task, layers=1, width=width, heads=2, seed=width) for width in (32, 16)]


@pytest.fixture
def reader(task, models) -> TemperatureExplorer:
    """An explorer whose models can read a new text."""
    return TemperatureExplorer(*models, task, examples=["a fine film", "a dull film"])


def by_definition(z_t, z_s, label, T, alpha, t_squared) -> dict:
    """The explorer's numbers in float64, written out with torch, gradients by autograd."""
    z_t = torch.tensor(z_t, dtype=torch.float64)
    z_s = torch.tensor(z_s, dtype=torch.float64, requires_grad=True)
    log_t, log_s = (z_t / T).log_softmax(-1), (z_s / T).log_softmax(-1)
    kl = F.kl_div(log_s, log_t, log_target=True, reduction="sum")
    soft = (T**2 if t_squared else 1) * kl
    hard = F.cross_entropy(z_s, torch.tensor(label)) if label is not None else 0 * z_s.sum()
    pull_hard, pull_soft = (
        torch.autograd.grad(term, z_s, retain_graph=True)[0].tolist()
        for term in (alpha * hard, (1 - alpha) * soft)
    )
    p_t, p_s = log_t.exp(), log_s.exp().detach()
    entropies = [float(-torch.special.xlogy(p, p).sum()) for p in (p_t, p_s)]
    return {
        "teacher": p_t.tolist(), "student": p_s.tolist(),
        "entropyTeacher": entropies[0], "entropyStudent": entropies[1],
        "kl": kl.item(), "hard": hard.item() if label is not None else None, "soft": soft.item(),
        "total": (alpha * hard + (1 - alpha) * soft).item(), "pullHard": pull_hard, "pullSoft": pull_soft,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- in the browser


def in_node(tmp_path, script: str, expression: str):
    """The value of a JavaScript expression behind common.js and an instrument's script, through JSON."""
    source = f"{base.static('common.js')}\n{base.static(script)}".replace("export default", "const widget =")
    (tmp_path / "run.mjs").write_text(
        f"{source}\nconsole.log(JSON.stringify({expression}));", encoding="utf-8"
    )
    ran = subprocess.run(
        [NODE, tmp_path / "run.mjs"], capture_output=True, text=True, encoding="utf-8", check=True
    )
    return json.loads(ran.stdout)


CASES = [
    (T, alpha, t_squared, label)
    for T in (0.1, 0.37, 1.0, 4.0, 20.0)
    for alpha in (0.0, 0.3, 1.0)
    for t_squared in (True, False)
    for label in (None, 0, 3)
]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_browsers_numbers_are_torchs(tmp_path):
    generator = torch.Generator().manual_seed(0)
    rows = [
        (TEACHER, STUDENT),
        ((300 * torch.randn(4, generator=generator)).tolist(), (300 * torch.randn(4, generator=generator)).tolist()),
        (torch.randn(200, generator=generator).tolist(), (5 * torch.randn(200, generator=generator)).tolist()),
        ([1e-9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ]  # fmt: skip
    asked = [[z_t, z_s, label, T, alpha, square] for z_t, z_s in rows for T, alpha, square, label in CASES]
    answers = in_node(tmp_path, "explorer.js", f"{json.dumps(asked)}.map((a) => explain(...a))")
    for (*inputs,), answer in zip(asked, answers, strict=True):
        expected = by_definition(*inputs)
        assert set(answer) == set(expected)
        for name, value in expected.items():
            close = value if value is None else pytest.approx(value, abs=1e-9, rel=1e-9)
            assert answer[name] == close, (name, inputs[2:])


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_browser_says_and_draws_what_python_says_and_draws(tmp_path):
    generator = torch.Generator().manual_seed(1)
    many = TemperatureExplorer.from_logits(
        3 * torch.randn(60, generator=generator), torch.randn(60, generator=generator), [f"c{i}" for i in range(60)],
        labels=[17],
    )  # fmt: skip
    few = TemperatureExplorer.from_logits(TEACHER, STUDENT, NAMES)
    calls, sentences, rows = [], [], []
    for explorer in (many, few):
        for T, alpha, square, order in (
            (0.1, 0, True, "teacher"),
            (1 / 3, 0.123, False, "class"),
            (20, 1, True, "teacher"),
        ):
            explorer.set_trait("temperature", T)
            explorer.alpha, explorer.t_squared, explorer.order = alpha, square, order
            calls.append(
                [
                    explorer.teacher_logits,
                    explorer.student_logits,
                    explorer.label,
                    T,
                    alpha,
                    square,
                    order,
                    explorer.class_names,
                ]
            )
            sentences.append(explorer.summary)
            rows.append(explorer.rows())
    run = """([zT, zS, y, T, a, q, order, names]) =>
      [sentence(explain(zT, zS, y, T, a, q), names, y, T, a, q), rowsOf(zT, zS, y, order, SHOWN)]"""
    answers = in_node(tmp_path, "explorer.js", f"{json.dumps(calls)}.map({run})")
    assert [answer[0] for answer in answers] == sentences
    assert [answer[1] for answer in answers] == rows
    assert len(rows[0]) == 8 and 17 in rows[0]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_numbers_are_written_for_people(tmp_path):
    expression = """[percent(0.123, 1), signed(-0.25), signed(-0.001), signed(0.5, 1), number(1.2345), number(0),
      number(2.3e-5), number(-1e-17), ticks(0, 1, 4), roundUp(0.21), roundUp(0.5), shorten("😀😀😀", 2)]"""
    assert in_node(tmp_path, "explorer.js", expression) == [
        "12.3\u00a0%", "−0.25", "0.00", "+0.5", "1.234", "0.000", "2.3·10⁻⁵", "0.000",
        [0, 0.25, 0.5, 0.75, 1], 0.5, 0.5, "😀…",
    ]  # fmt: skip


SCRIPTS = sorted(path.name for path in base.STATIC.glob("*.js"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_of_a_text_or_fetches_anything(name):
    source = base.static(name)
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                      "fetch(", "XMLHttpRequest", "import(", "\nimport ", "WebSocket"):  # fmt: skip
        assert forbidden not in source, f"{name} uses {forbidden}"
    addresses = [part for part in source.split() if "://" in part and "www.w3.org/2000/svg" not in part]
    assert not addresses, f"{name} names an address: {addresses}"


def test_no_style_fetches_anything():
    for path in base.STATIC.glob("*.css"):
        style = path.read_text(encoding="utf-8")
        assert "@import" not in style and "://" not in style and "url(" not in style, path.name


# ---------------------------------------------------------------------------------------------- what all share


class Dial(base.Instrument):
    _script = "explorer.js"
    angle = base.Number(90.0, 0, 360, "an angle").tag(sync=True)
    hand = base.OneOf("left", ("left", "right")).tag(sync=True)

    def picture(self):
        return kd.plots.temperature_curves(TEACHER, NAMES)


@given(st.floats())
def test_a_number_takes_what_lies_in_its_range_and_refuses_all_else(value):
    dial = Dial()
    if 0 <= value <= 360:
        dial.angle = value
        assert dial.angle == value
    else:
        with pytest.raises(traitlets.TraitError, match=r"^angle = .*: an angle is a number from 0 to 360$"):
            dial.angle = value
        assert dial.angle == 90


@pytest.mark.parametrize("value", [True, "7", None, [1], 1j])
def test_what_is_no_number_is_refused_by_one_sentence(value):
    assert refusal(lambda: Dial(angle=value)).endswith("an angle is a number from 0 to 360")


def test_numbers_of_torch_and_numpy_are_taken():
    dial = Dial()
    for value in (torch.tensor(30.0), torch.tensor(30), torch.tensor(30.0, dtype=torch.float64).numpy()):
        dial.angle = value
        assert dial.angle == 30.0 and type(dial.angle) is float


def test_a_word_that_is_not_offered_is_refused():
    assert refusal(lambda: Dial(hand="lft")) == 'unknown hand "lft"; there are: left, right'


def test_an_instrument_shows_a_live_view_a_picture_and_a_sentence_in_one_bundle(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **options: shown.append((args, options)))
    dial = Dial()
    dial._ipython_display_()
    [((data,), options)] = shown
    assert options["raw"]
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == dial.model_id
    png = base64.b64decode(data["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    about = options["metadata"]["image/png"]
    assert about["alt"] == data["text/plain"] == dial.picture().alt
    assert (width, height) == pytest.approx((1.6 * about["width"], 1.6 * about["height"]), abs=2)


def test_no_address_is_ever_shown(explorer):
    assert repr(Dial()) == "Dial"
    assert repr(explorer) == explorer.summary


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, math.nan, 0.0], "x must be finite, and the one of class 1 is nan"),
        (torch.tensor([1.0, -math.inf]), "x must be finite, and the one of class 1 is -inf"),
        ([], r"x have the shape \(0,\)"),
        (torch.zeros(2, 3), r"x have the shape \(2, 3\)"),
        (["a"], "x must be numbers"),
        (3.0, r"x have the shape \(\)"),
    ],
)
def test_rows_that_json_or_a_chart_can_not_hold_are_refused(values, reason):
    with pytest.raises(base.SettingError, match=f"^{reason}"):
        base.finite(values, "x")


def test_any_kind_of_tensor_becomes_plain_numbers():
    values = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16, requires_grad=True)
    assert base.finite(values, "x") == [1.5, -2.0]


# ---------------------------------------------------------------------------------------------- the explorer


def test_the_module_is_reached_from_kd_and_unknown_names_are_refused():
    assert kd.widgets.TemperatureExplorer is TemperatureExplorer
    with pytest.raises(AttributeError, match=r'unknown name in kdtutor\.widgets "Temperature"'):
        kd.widgets.Temperature  # noqa: B018


@pytest.mark.parametrize(("T", "alpha", "t_squared", "label"), CASES)
def test_pythons_numbers_and_gradients_are_torchs(explorer, T, alpha, t_squared, label):
    explorer.temperature, explorer.alpha, explorer.t_squared, explorer.label = T, alpha, t_squared, label
    expected = by_definition(TEACHER, STUDENT, label, T, alpha, t_squared)
    names = ("entropyTeacher", "entropyStudent", "kl", "hard", "soft", "total")
    wanted = [expected[name] for name in names]
    assert list(explorer.numbers().values()) == pytest.approx(wanted, abs=1e-9)
    pulls = explorer.gradients()
    assert pulls["hard"] == pytest.approx(expected["pullHard"], abs=1e-9)
    assert pulls["soft"] == pytest.approx(expected["pullSoft"], abs=1e-9)


def test_float32_logits_reach_the_browser_without_a_digit_lost(explorer):
    z = torch.randn(4)
    explorer.teacher_logits = z
    assert json.loads(json.dumps(explorer.get_state()["teacher_logits"])) == z.double().tolist()


def test_a_setting_is_observed_and_moves_the_sentence(explorer):
    heard = []
    explorer.observe(lambda change: heard.append(change["new"]), "temperature")
    before = explorer.summary
    explorer.temperature = 4
    assert heard == [4.0]
    assert explorer.summary != before and explorer.summary.startswith("At T = 4 ")


def test_text_example_and_label_are_one_state(explorer):
    assert (explorer.text, explorer.example, explorer.label) == ("a red fruit", 0, 1)
    explorer.example = 1
    assert (explorer.text, explorer.label, explorer.student_logits) == ("a green leaf", None, [0, 1, 2, 3])
    assert explorer.numbers()["hard"] is None and "there is no label" in explorer.summary
    explorer.label = "time"
    assert explorer.label == 3 and explorer.numbers()["hard"] == pytest.approx(0.4402, abs=1e-4)
    explorer.text = "a red fruit"
    assert (explorer.example, explorer.label, explorer.teacher_logits) == (0, 1, TEACHER)


def test_what_the_browser_sends_for_an_example_arrives_as_one_state(explorer):
    state = {name: explorer.examples[1][name] for name in ("text", "label", "notice")}
    logits = {f"{who}_logits": explorer.examples[1][who] for who in ("teacher", "student")}
    explorer.set_state({**logits, **state, "example": 1, "problem": ""})
    assert (explorer.text, explorer.example, explorer.student_logits) == ("a green leaf", 1, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("temperature", 0, "temperature = 0: a temperature is a number from 0.1 to 20"),
        ("temperature", -1, "temperature = -1: a temperature is a number from 0.1 to 20"),
        ("alpha", 1.01, "alpha = 1.01: α, the weight of the hard labels, is a number from 0 to 1"),
        ("order", "size", 'unknown order "size"; there are: class, teacher'),
        ("label", "fod", 'unknown class "fod"; there are: food, animal, plant, time'),
        ("label", 4, "label 4: the classes are 0 to 3"),
        ("text", " \n", "the text is empty: a few words at least are needed"),
        ("text", "another", "this explorer has no models to read a new text: pick one of its 2"),
        ("example", 2, "example = 2: there are 2, counted from 0"),
        ("teacher_logits", [1.0, 2.0],
         "teacher logits have the shape (2,); there must be 4 in a row, one for each class"),
        ("student_logits", [1.0, math.nan, 0.0, 0.0], "student logits must be finite, and the one of class 1 is nan"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_last_good_value_stays(explorer, name, value, reason):
    before = {**explorer.get_state()}
    assert refusal(lambda: setattr(explorer, name, value)) == reason
    assert explorer.get_state() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([[1.0, math.nan]], [[0.0, 0.0]], ("a", "b")), 'the teacher\'s logits of "example 0" must be finite'),
        (([[1.0, 2.0]], [[0.0, 0.0, 0.0]], ("a", "b")), 'the student\'s logits of "example 0" have the shape (3,)'),
        (([[1.0, 2.0]], [[0.0, 0.0]] * 2, ("a", "b")), "there are 1 rows of teacher logits, but 2 rows of student"),
        (([[1.0, 2.0]], [[0.0, 0.0]], ("a", "b"), [2]), "label 2: the classes are 0 to 1"),
        (([[1.0, 2.0]], [[0.0, 0.0]], ("a", "b"), [0, 1]), "there are 1 rows of teacher logits, but 2 labels"),
        (([[1.0, 2.0]] * 2, [[0.0, 0.0]] * 2, ("a", "b"), None, ["x", "x"]), "two of the examples have the same text"),
        (([[1.0, 2.0]], [[0.0, 0.0]], ("a", "b"), None, [" "]), "one of the texts is empty"),
        (([], [], ("a", "b")), 'the teacher\'s logits of "example 0" have the shape (0,)'),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), ("a", "b")),
         'the teacher\'s logits of "example 0" have the shape (2, 3)'),
    ],
)  # fmt: skip
def test_logits_that_can_not_be_shown_are_refused_by_one_sentence(arguments, reason):
    assert refusal(lambda: TemperatureExplorer.from_logits(*arguments)).startswith(reason)


def test_an_unknown_setting_is_refused():
    said = refusal(lambda: TemperatureExplorer.from_logits(TEACHER, STUDENT, NAMES, temprature=3))
    assert said.startswith('unknown setting of the explorer "temprature"; there are: temperature')


@pytest.mark.parametrize("classes", [1, 2, 200])
def test_any_number_of_classes_and_any_text_gives_a_picture(classes):
    names = [MARKUP, "$x_{2}$", *(f"class {i}" for i in range(198))][:classes]
    text = f"שלום 👩‍👩‍👧‍👦 {MARKUP} " + "long " * 10_000
    explorer = TemperatureExplorer.from_logits(
        torch.randn(classes), torch.randn(classes), names, labels=[0], texts=text, temperature=20, alpha=0
    )
    picture = explorer.picture()
    assert MARKUP in picture.alt and len(picture.alt) < 1000
    drawn = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert len(drawn) <= 12 and f"★ {MARKUP}" in drawn
    if classes == 200:
        assert drawn[-1] == "190 others"
        assert sum(bar.get_width() for bar in picture.axes[0].patches) == pytest.approx(2)
    assert json.dumps(explorer.get_state(), allow_nan=False)


# ---------------------------------------------------------------------------------------------- with models


def test_a_new_text_is_read_by_both_models_once(reader, task, models, monkeypatch):
    calls = []
    original = reader._ask_models
    monkeypatch.setattr(reader, "_ask_models", lambda text: calls.append(text) or original(text))
    for _ in range(2):
        reader.text = "what a surprise"
        for who, model in zip(("teacher", "student"), models, strict=True):
            wanted = logits_of(model, task.encode_texts(["what a surprise"]))[0].double().tolist()
            assert getattr(reader, f"{who}_logits") == wanted
        reader.example = 0
    assert calls == ["what a surprise"]


@pytest.mark.parametrize("text", [MARKUP, "👩‍👩‍👧‍👦", "שלום עולם", "\u202e abc", "$\\alpha$"])
def test_a_typed_text_is_data(reader, text):
    reader._hear(reader, {"kind": "text", "text": text}, [])
    assert (reader.text, reader.problem, reader.example, reader.label) == (text, "", None, None)
    assert text in reader.picture().alt or "\u202e" in text


def test_a_text_that_is_cut_says_so(reader):
    reader.text = "word " * 10_000
    assert reader.notice == "The models read the first 32 of its 10,002 tokens."
    reader.example = 0
    assert reader.notice == ""


def test_an_empty_typed_text_is_answered_in_the_page_and_the_last_good_one_stays(reader):
    reader._hear(reader, {"kind": "text", "text": "   "}, [])
    assert reader.problem == "the text is empty: a few words at least are needed"
    assert reader.text == "a fine film"
    reader.text = "a dull film"
    assert reader.problem == ""


@pytest.mark.parametrize("broken", ["teacher", "student"])
def test_a_model_that_answers_nan_or_fails_leaves_a_sentence_and_a_living_widget(
    reader, task, models, broken
):
    sick = small_bert(task, layers=1, width=16, heads=2)
    place = ("teacher", "student").index(broken)
    torch.nn.init.constant_(sick.classifier.bias, math.nan)
    reader._models = tuple(sick if i == place else model for i, model in enumerate(models))
    reader._hear(reader, {"kind": "text", "text": "anything"}, [])
    assert "not finite" in reader.problem and reader.text == "a fine film"
    reader._models = (None, None)
    reader._hear(reader, {"kind": "text", "text": "anything"}, [])
    assert reader.problem.startswith("the models could not read this text: ")
    reader._models = tuple(models)
    reader._hear(reader, {"kind": "text", "text": "anything"}, [])
    assert (reader.problem, reader.text) == ("", "anything")


def test_the_browser_is_answered_whatever_it_asks(reader, monkeypatch):
    sent = []
    monkeypatch.setattr(reader, "send", sent.append)
    for content in ({"kind": "ping"}, {"kind": "text", "text": ""}, {}, {"kind": "text"}):
        reader._hear(reader, content, [])
    pong, read = {"kind": "pong"}, {"kind": "read"}
    assert sent == [pong, read, pong, pong, read, pong]


def test_after_a_training_everything_is_read_again(reader, task, models):
    reader.text = "what a surprise"
    before = reader.student_logits
    with torch.no_grad():
        models[1].classifier.bias += torch.tensor([0.0, 1.0])
    try:
        reader.refresh()
    finally:
        with torch.no_grad():
            models[1].classifier.bias -= torch.tensor([0.0, 1.0])
    assert reader.student_logits == pytest.approx([before[0], before[1] + 1], abs=1e-5)
    assert reader.text == "what a surprise"
    typed = reader.student_logits
    reader.example = 1
    assert reader.student_logits == reader.examples[1]["student"] != typed


def test_examples_may_be_places_in_the_test_split_and_bring_their_labels(task, models):
    explorer = TemperatureExplorer(*models, task, examples=[3, 5], temperature=1)
    texts, labels = task.texts("test"), task.targets("test")
    assert [example["text"] for example in explorer.examples] == [texts[3], texts[5]]
    assert [example["label"] for example in explorer.examples] == labels[[3, 5]].tolist()


def test_the_default_examples_are_those_that_the_stated_criteria_choose(task, models):
    explorer = TemperatureExplorer(*models, task)
    assert all(example["why"] and example["text"] in task.texts("test") for example in explorer.examples)
    entropies = {}
    for i, example in enumerate(explorer.examples):
        explorer.example, explorer.temperature = i, 1
        entropies.setdefault(example["why"], []).append(explorer.numbers()["entropy_teacher"])
    assert min(entropies["the teacher is undecided"]) > max(entropies["the teacher is sure"])


def test_telling_examples_are_the_extremes():
    teacher = torch.tensor([[0.0, 0, 0], [9, 0, 0], [3, 2.9, 0], [5, 0, 0], [4, 1, 0]])
    student = torch.tensor([[0.0, 0, 0], [9, 0, 0], [3, 2.9, 0], [0, 5, 0], [4, 1, 0]])
    found = telling_examples(teacher, student, torch.tensor([0, 0, 0, 0, 1]), each=1)
    assert found == {
        0: "the teacher is undecided", 3: "the student is far from the teacher",
        4: "the teacher's second guess is the label", 1: "the teacher is sure",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        ([], "the explorer needs one example at least"),
        ([10**6], "example 1000000: the test split of sentiment"),
        ([-1], "example -1: the test split of sentiment"),
        (["fine", " "], "example 1 is an empty text"),
    ],
)
def test_examples_that_are_none_are_refused(task, models, examples, reason):
    assert refusal(lambda: TemperatureExplorer(*models, task, examples=examples)).startswith(reason)


def test_models_and_tasks_that_do_not_fit_are_refused(task, models):
    other = kd.load_task("supersense").subset(10)
    stranger = small_bert(other, layers=1, width=16, heads=2)
    assert refusal(lambda: TemperatureExplorer(models[0], stranger, task)).startswith(
        "the student has 25 outputs"
    )
    valence = kd.load_task("valence")
    said = refusal(lambda: TemperatureExplorer(*models, valence))
    assert said.startswith('the explorer shows probabilities of classes, and "valence" is a regression task')


# ------------------------------------------------------------------------------------------------ hostile messages


@pytest.mark.parametrize("label", [float("nan"), float("inf"), [], {}, 1.5, True, "tree", 4, -1, 10**400])
def test_a_label_that_is_none_is_refused_and_the_explorer_lives_on(explorer, label):
    said = refusal(setattr, explorer, "label", label)
    assert "label" in said or "class" in said
    assert explorer.label == 1
    explorer.label = "plant"
    assert explorer.label == 2


def test_what_python_says_no_page_can_change(explorer):
    before = explorer.class_names, explorer.examples, explorer.can_read
    explorer.set_state({"class_names": ["x"], "examples": [], "can_read": True, "alpha": 0.25})
    assert (explorer.class_names, explorer.examples, explorer.can_read) == before
    assert explorer.alpha == 0.25
    for state in (None, 3, [], "x"):
        explorer.set_state(state)


@pytest.mark.parametrize("content", [None, 3, "text", [], [["kind", "text"]], {}, {"kind": []}])
def test_a_message_that_is_no_question_is_let_pass(explorer, content):
    explorer._hear(explorer, content, [])
    assert explorer.text == "a red fruit"


# ---------------------------------------------------------------------------------------------- what can be read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a red fruit with a stone", ""), ("A", ""), ("un fruit rouge à noyau", ""),
        ("红色的水果", "5 of its 5 pieces are unknown"), ("a bird 🦜", "1 of its 3 pieces is unknown"),
        ("xqzt vfrt bnmk plokij", "Its words fall into bits"),
    ],
)  # fmt: skip
def test_a_text_that_the_models_can_not_read_is_told_from_its_pieces(text, said):
    sentence, pieces = reading.warning(kd.load_task("supersense"), text)
    assert sentence.startswith(said) and bool(sentence) == bool(said) == bool(pieces)
    assert "".join(piece["text"] for piece in pieces if not piece["known"]) in text.replace(" ", "")


def test_the_default_examples_are_of_everyday_words():
    task = kd.load_task("supersense")
    models = [small_bert(task, layers=1, width=16, heads=2) for _ in range(2)]
    for example in TemperatureExplorer(*models, task).examples:
        words = example["text"].split()
        assert 3 <= len(words) <= 8 and task.tokenizer.tokenize(example["text"]) == [w.lower() for w in words]
