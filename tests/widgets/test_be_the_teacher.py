"""Be the teacher: the students learn as autograd says, here and in the browser, and the lesson shows what it should."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import synced
from hypothesis import given
from hypothesis import strategies as st

import kdtutor as kd
from kdtutor import objectives
from kdtutor.data.task import Split, Task
from kdtutor.errors import KDTutorError
from kdtutor.widgets.be_the_teacher import BeTheTeacher
from kdtutor.widgets.levels import levels_of, truths, views
from kdtutor.widgets.school import NOTHING, WIDTH, pack, rescaled, teach, unpack

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


@pytest.fixture(scope="module")
def task():
    return kd.load_task("supersense")


@pytest.fixture(scope="module")
def made(task):
    return BeTheTeacher(task, kd.load_teacher(task))


@pytest.fixture
def game(made):
    """The same widget for every test, as it was at first."""
    made.level = 0
    made.text = made.lessons[1]["text"]
    made.text = made.lessons[0]["text"]
    made.steps, made.temperature, made.learning_rate, made.problem, made.level = 20, 1.0, 1.0, "", 0
    return made


def in_the_browser(tmp_path, expression: str, state: dict):
    """The value of an expression over be_the_teacher.js and `state`, by node."""
    script = tmp_path / "game.mjs"
    script.write_text(
        f"{BeTheTeacher._esm}\nconst state = {json.dumps(state)};\n"
        f"console.log(JSON.stringify(({expression})(state), (_, v) => ArrayBuffer.isView(v) ? [...v] : v));\n"
    )
    return json.loads(subprocess.run(["node", script], capture_output=True, text=True, check=True).stdout)


SCHOOL = """(s) => {
  const lesson = s.lessons.find((l) => l.text === s.text), C = s.class_names.length;
  const pupils = school({ W: floats(s.start, C), x: floats(lesson.x)[0],
    related: lesson.related.map((r) => floats(r.x)[0]),
    others: { x: floats(s.others.x, s.others.labels.length), labels: s.others.labels },
    spoiled: s.level !== 3 ? null
      : { label: s.levels.find((l) => l.level === 3).mistake, steps: SPOILED, rate: s.learning_rate } });
  const u = { start: pupils.start, yours: pupils.lesson(s.target, s.steps, s.learning_rate, s.temperature),
    label: pupils.lesson(onehot(s.label, C), s.steps, s.learning_rate, 1) };
  return Object.fromEntries(Object.entries(u).map(([who, v]) => [who, [pupils.beliefs(v), pupils.score(v)]]));
}"""


# ------------------------------------------------------------------------------------------------ the steps


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_lesson_is_gradient_descent_on_the_courses_own_soft_loss(temperature):
    generator = torch.Generator().manual_seed(0)
    W0, x = torch.randn(6, 4, generator=generator).double(), torch.randn(4, generator=generator).double()
    target = torch.randn(6, generator=generator).double().softmax(-1)
    W = W0.clone().requires_grad_()
    for _ in range(7):
        loss = objectives.soft_targets((W @ x)[None], target.log()[None], temperature, reduction="mean")
        (gradient,) = torch.autograd.grad(loss, W)
        W = (W - 0.3 * gradient).detach().requires_grad_()
    torch.testing.assert_close(teach(W0, x, target, 7, 0.3, temperature), W.detach(), atol=1e-10, rtol=1e-8)


def test_with_a_label_it_is_gradient_descent_on_the_cross_entropy():
    W0, x = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double(),
        torch.tensor([1.0, -2, 0.5]).double(),
    )
    W = W0.clone().requires_grad_()
    for _ in range(5):
        (gradient,) = torch.autograd.grad(F.cross_entropy((W @ x)[None], torch.tensor([2])), W)
        W = (W - 0.7 * gradient).detach().requires_grad_()
    onehot = F.one_hot(torch.tensor(2), 5).double()
    torch.testing.assert_close(teach(W0, x, onehot, 5, 0.7), W.detach())


@needs_node
@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize(
    ("steps", "temperature", "rate"), [(0, 1, 1.0), (1, 1, 1.0), (20, 1, 1.0), (100, 4, 0.5), (7, 0.5, 2.0)]
)
def test_the_browsers_students_are_torchs(game, tmp_path, steps, temperature, rate, level):
    game.level = level
    game.steps, game.temperature, game.learning_rate = steps, temperature, rate
    game.target = game.lesson["teacher"]
    for who, (beliefs, score) in in_the_browser(tmp_path, SCHOOL, synced(game)).items():
        assert np.abs(np.array(beliefs) - game.beliefs(who).numpy()).max() < 1e-9, who
        assert score == pytest.approx(game.score(who), abs=1e-12)


def test_the_students_start_alike_and_take_as_many_steps(game):
    game.target = game.lesson["teacher"]
    game.steps = 0
    assert torch.equal(game.student("yours"), game.student("start")) and torch.equal(
        game.student("label"), game.student("start")
    )
    game.steps = 20
    game.target = {game.class_names[game.label]: 1.0}
    torch.testing.assert_close(game.student("yours"), game.student("label"))


def test_numbers_travel_as_float32():
    values = torch.randn(3, 5).double()
    assert torch.equal(unpack(pack(values), 3), values.float().double())


# ------------------------------------------------------------------------------------------------ dragging

distributions = st.lists(st.floats(0, 1), min_size=2, max_size=30).filter(lambda t: sum(t) > 1e-3)


@given(distributions, st.floats(0, 1), st.data())
def test_dragging_keeps_a_distribution_and_the_others_proportions(weights, p, data):
    t = np.array(weights) / sum(weights)
    place = data.draw(st.integers(0, len(t) - 1))
    moved = np.array(rescaled(t, [place], p))
    assert moved.min() >= 0 and moved.sum() == pytest.approx(1) and moved[place] == pytest.approx(p)
    rest, before = np.delete(moved, place), np.delete(t, place)
    if before.sum() > NOTHING:
        assert np.allclose(rest * before.sum(), before * rest.sum(), atol=1e-12)
    else:
        assert np.allclose(rest, (1 - p) / len(rest), atol=1e-9)


@needs_node
def test_the_browser_drags_as_python_does(tmp_path):
    cases = [
        ([0.7, 0.3, 0.0], [0], 0.2),
        ([1.0, 0, 0, 0], [0], 0.4),
        ([0.25] * 4, [1, 2], 0.9),
        ([1.0, 0, 0], [1, 2], 0.5),
        ([0.5, 0.5], [0], 0),
    ]
    got = in_the_browser(tmp_path, "(cases) => cases.map(([t, places, p]) => rescaled(t, places, p))", cases)
    for (t, places, p), mine in zip(cases, got, strict=True):
        assert mine == pytest.approx(rescaled(t, places, p), abs=1e-12)


def test_a_target_can_be_set_by_name_dragged_and_observed(game):
    seen = []

    def look(change):
        seen.append(change["new"])

    game.observe(look, "target")
    game.target = {"plant": 0.25, "animal": 0.75}
    game.drag("food", 0.2)
    named = dict(zip(game.class_names, game.target, strict=True))
    assert (named["food"], named["plant"], named["animal"]) == pytest.approx((0.2, 0.2, 0.6))
    assert len(seen) == 2 and seen[-1] == game.target
    game.unobserve(look, "target")
    assert "animal 60" in game.summary


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target", [0.5, 0.5], "targets"),
        ("target", {"plants": 1.0}, 'unknown class "plants"; there are: plant'),
        ("target", {"plant": 0.5}, "the sum 0.5, not 1"),
        ("target", [2.0, -1.0] + [0.0] * 23, "the lowest is -1"),
        ("target", [math.nan] + [0.0] * 24, "nan"),
        ("target", "plant", "targets"),
        ("label", 25, "the classes are 0 to 24"),
        ("label", "bird", 'unknown class "bird"'),
        ("temperature", 0, "a temperature is a number from 0.5 to 10"),
        ("temperature", -1, "a temperature is a number from 0.5 to 10"),
        ("temperature", math.nan, "a temperature is a number from 0.5 to 10"),
        ("steps", 101, "from 0 to 100"),
        ("steps", 2.5, "half a step"),
        ("learning_rate", 0, "a learning rate"),
        ("text", "  ", "the text is empty"),
        ("text", "🦜", "no piece that it knows"),
    ],
)
def test_a_bad_setting_is_refused_in_one_sentence_and_the_last_good_one_stays(game, name, value, message):
    before = synced(game)
    with pytest.raises(KDTutorError, match=message) as caught:
        setattr(game, name, value)
    assert "\n" not in str(caught.value)
    assert synced(game) == before
    with pytest.raises(KDTutorError):
        game.drag("plant", 1.5)


# ------------------------------------------------------------------------------------------------ the levels

REACHED = "(cases) => cases.map((asked) => reached(...asked))"


def test_each_level_is_lost_by_the_label_and_can_be_won(game, tmp_path):
    assert [level["level"] for level in game.levels] == [1, 2, 3]
    cases, won = [], []
    for level in game.levels:
        game.level = level["level"]
        assert game.text == level["text"] and game.target[game.label] == 1 and not game.reached
        second = int(np.argsort(game.lesson["teacher"])[-2])
        names = {game.class_names[game.label]: 0.6, game.class_names[second]: 0.4}
        for target in ({game.class_names[game.label]: 1.0}, names, dict.fromkeys(game.class_names, 1 / 25)):
            game.target = target
            before = (views(game.lesson) @ unpack(game.start, 25).T).softmax(-1)
            said = [before.tolist(), game.beliefs("yours").tolist(), game.target]
            cases.append([level, truths(game.lesson).tolist(), *said])
            won.append(game.reached)
    assert won == [False, True, False] * 3
    if shutil.which("node"):
        assert in_the_browser(tmp_path, REACHED, cases) == won


def test_in_the_third_level_both_students_begin_with_the_mistake(game):
    game.level = 3
    second = int(np.argsort(game.lesson["teacher"])[-2])
    assert int(game.beliefs("start")[0].argmax()) == second != game.label
    game.steps = 0
    assert torch.equal(game.student("yours"), game.student("start"))
    assert torch.equal(game.student("label"), game.student("start"))


def test_another_text_ends_the_level_and_an_unknown_level_is_refused(game):
    game.level = 2
    game.text = next(lesson["text"] for lesson in game.lessons if lesson["text"] != game.text)
    assert game.level == 0 and not game.reached
    with pytest.raises(KDTutorError, match="level = 7: with these lessons there are the levels 0, 1, 2, 3"):
        game.level = 7
    assert game.level == 0


def test_without_a_telling_lesson_there_is_no_level():
    lesson = {"text": "a", "label": 0, "x": pack(torch.ones(2)), "teacher": [1.0, 0.0], "related": []}
    assert levels_of([lesson], torch.zeros(2, 2).double()) == []


# ------------------------------------------------------------------------------------------------ what is learned


def test_the_lessons_are_chosen_as_is_said(game, task):
    teacher = game._teacher
    for lesson in game.lessons[:6]:
        place = task.texts("validation").index(lesson["text"])
        p = kd.models.logits_of(teacher, task.encode_texts([lesson["text"]])).double().softmax(-1)[0]
        assert int(p.argmax()) == lesson["label"] == int(task.targets("validation")[place])
        assert p.topk(2).values[1] >= 0.2
        torch.testing.assert_close(
            torch.tensor(lesson["teacher"], dtype=torch.float64), p, atol=1e-5, rtol=1e-4
        )


def test_the_related_texts_are_the_nearest_of_the_two_classes_and_one_that_is_unlike(game):
    school, lesson = game._school, game.lessons[0]
    x, (first, second) = unpack(lesson["x"])[0], np.argsort(lesson["teacher"])[::-1][:2]
    alike = school.x @ x
    alike[school.texts.index(lesson["text"])] = -2
    expected = []
    for c in (first, second):
        there = (school.labels == int(c)).nonzero()[:, 0]
        expected += there[alike[there].topk(2).indices].tolist()
    assert [near["text"] for near in lesson["related"][:4]] == [school.texts[i] for i in expected]
    assert abs(lesson["related"][4]["alike"]) == pytest.approx(float(alike.abs().min()))


def test_dark_knowledge_goes_over_to_related_texts_and_the_label_alone_harms_them(game):
    game.target = game.lesson["teacher"]
    yours, label, start = (game.beliefs(which) for which in ("yours", "label", "start"))
    truth = torch.tensor([game.lesson["label"], *(near["label"] for near in game.lesson["related"])])
    second = torch.tensor([3, 4]), truth[3:5]  # the two texts of the class that is the teacher's second guess
    assert (yours[second] > 1.5 * label[second]).all()
    assert ((yours.argmax(-1) == truth) & (label.argmax(-1) != truth))[3:5].any()
    assert (yours[5] - start[5]).abs().max() < 0.01 and (label[5] - start[5]).abs().max() < 0.01  # unrelated
    assert (yours[0] - torch.tensor(game.target)).abs().max() < 0.06  # the lesson itself is learned


def test_that_holds_on_average_and_the_price_is_said_too(game):
    means = game.compare()
    assert means["lessons"] >= 10
    second, same, others = "second guess's class", "same class", "right on other texts"
    assert means["yours"][second] > means["start"][second] + 0.05 > means["label"][second] + 0.1
    assert means["label"][same] > means["yours"][same] > means["start"][same]
    assert means["yours"][others] > means["label"][others]


# ------------------------------------------------------------------------------------------------ texts and tasks


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "a bird 🦜", "a שלום bird", "bird " * 10_000]
)
def test_any_text_that_is_typed_becomes_a_lesson(game, text):
    game._hear(game, {"kind": "text", "text": text}, [])
    assert game.problem == "" and game.text == text and game.lesson["text"] == text
    assert game.label == int(np.argmax(game.lesson["teacher"])) and len(game.lesson["related"]) == 5
    assert game.target[game.label] == 1
    synced(game)


def test_what_is_wrong_with_a_typed_text_is_said_and_the_last_good_one_stays(game):
    before = game.text
    game._hear(game, {"kind": "text", "text": " "}, [])
    assert game.problem == "the text is empty: give at least one word" and game.text == before
    game._hear(game, {"kind": "text", "text": "🦜"}, [])
    assert "no piece that it knows" in game.problem and game.text == before
    game._hear(game, {"kind": "text", "text": "a red fruit"}, [])
    assert game.problem == "" and game.text == "a red fruit"


def test_the_number_of_kept_lessons_has_a_limit_and_the_chosen_ones_stay(game):
    chosen = [lesson["text"] for lesson in game.lessons[:6]]
    for i in range(10):
        game.text = f"a bird and {'b' * i} the house"
    assert len(game.lessons) <= 12
    assert [lesson["text"] for lesson in game.lessons[:6]] == chosen


def many_classes(n: int) -> Task:
    words = kd.load_task("supersense").texts("test")[: 4 * n]
    labels = torch.arange(4 * n) % n
    split = Split((words,), labels)
    return Task(
        "made up",
        "classification",
        tuple(f"<b>class {i}</b>" for i in range(n)),
        {"train": split, "validation": split},
    )


def test_200_classes_are_shown_as_a_few_and_the_rest(tmp_path):
    task = many_classes(200)
    game = BeTheTeacher(
        task, kd.freeze(kd.small_bert(task, layers=1, width=32, seed=0)), text="a bird of prey", candidates=50
    )
    assert len(game.lesson["classes"]) == 4 and len(game.target) == 200
    game.drag("<b>class 7</b>", 0.5)
    assert len(json.dumps(synced(game))) < 300_000
    assert "196 others" in [label.get_text() for label in game.picture().axes[0].get_yticklabels()]


def test_two_classes_are_enough_and_one_is_not():
    task = many_classes(2)
    game = BeTheTeacher(task, kd.freeze(kd.small_bert(task, layers=1, width=32, seed=0)), text="a bird")
    assert game.lesson["classes"] and len(game.target) == 2
    game.picture()
    split = Split((["a", "b"],), torch.zeros(2, dtype=torch.long))
    with pytest.raises(KDTutorError, match="has one class only"):
        BeTheTeacher(
            Task("one", "classification", ("only",), {"train": split, "validation": split}),
            torch.nn.Linear(1, 1),
        )


def test_other_tasks_are_refused():
    with pytest.raises(KDTutorError, match='"valence" is a regression task'):
        BeTheTeacher(kd.load_task("valence"), torch.nn.Linear(1, 1))


def test_a_teacher_with_nan_in_it_is_refused(task):
    broken = kd.load_teacher(task)
    with torch.no_grad():
        broken.classifier.weight[3, 3] = float("nan")
    with pytest.raises(KDTutorError, match="not finite"):
        BeTheTeacher(task, broken, taught=40, candidates=20)


def test_an_unknown_setting_is_named(task, made):
    with pytest.raises(KDTutorError, match='unknown setting "step"; there are: steps'):
        BeTheTeacher(task, made._teacher, candidates=50, text="a bird", step=3)


# ------------------------------------------------------------------------------------------------ where nothing runs


def test_its_plain_picture_says_what_is_seen(game):
    game.target = game.lesson["teacher"]
    data, metadata = game._repr_mimebundle_()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= set(data)
    assert metadata["image/png"]["alt"] == data["text/plain"] == game.summary == repr(game)
    for words in (game.text, "your target is", "taught by the label"):
        assert words in game.summary


def test_the_state_of_an_exported_page_stays_small(game):
    assert len(json.dumps(synced(game))) < 250_000
    assert unpack(game.start, 25).shape == (25, WIDTH)
