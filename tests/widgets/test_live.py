"""Live distillation: the same training as without a widget, steered, paused, reset, watched and interrupted."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
import os
import signal
import threading
import time
from importlib.metadata import version

import pytest
import torch
from helpers import SENTENCE, make_run, make_task, model, same, sharp_teacher, weights, without_time
from traitlets import TraitError

from kdtutor import evaluation
from kdtutor.data.task import Split
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import HardLabels, LogitsMSE, MaskedLM, SoftTargets, UniformTargets

pytest.importorskip("anywidget")
from kdtutor.widgets.live import LiveDistillation
from kdtutor.widgets.live_parts import make_twin
from kdtutor.widgets.live_shown import POINTS

STEPS = 12


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def teacher(task):
    return sharp_teacher(task)


@pytest.fixture(autouse=True)
def nobody_trains():
    yield
    if (live := LiveDistillation.in_training()) is not None:
        live.pause()


@pytest.fixture
def make(task, teacher):
    """A live run; its settings go to the Distillation, `live` to the instrument."""

    def make(objective=None, *, live=None, task=task, teacher=teacher, **settings):
        settings = {"steps": STEPS, "progress": False} | settings
        return LiveDistillation(make_run(task, objective, teacher=teacher, **settings), **(live or {}))

    return make


def alone(task, teacher, objective=None, **settings):
    """The same run without a widget, and its twin."""
    settings = {"steps": STEPS, "progress": False} | settings
    run = make_run(task, objective, teacher=teacher, **settings)
    return run, make_twin(run, True)[0]


def sent(live: LiveDistillation) -> list[dict]:
    """What goes to the front end from now on: the state of each message."""
    messages = []
    if version("ipywidgets").startswith("7."):
        pytest.skip("ipywidgets 7 sends nothing where no kernel runs")
    live._send = lambda message, buffers=None: messages.append(json.loads(json.dumps(message)))
    return messages


def press(live: LiveDistillation, action: str) -> None:
    live._handle_custom_msg({"do": action}, [])


# ------------------------------------------------------------------------------------ the same training


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_student_and_twin_are_bit_identical_to_runs_without_a_widget(task, teacher, make, dropout):
    run, twin = alone(task, teacher, dropout=dropout)
    live = make(dropout=dropout, live={"every": 3, "validation": 5})
    assert same(weights(live.twin.student), weights(live.distillation.student))  # the same initial weights
    torch.manual_seed(1)  # other draws in between change nothing
    live.run(5)
    torch.rand(7)
    live.run()
    run.run(), twin.run()
    assert same(weights(live.distillation.student), weights(run.student))
    assert same(weights(live.twin.student), weights(twin.student))
    assert without_time(live.distillation.history) == without_time(run.history)
    assert without_time(live.twin.history) == without_time(twin.history)
    assert live.status == "finished"


def test_in_the_background_too_and_other_tasks_progress(task, teacher, make):
    run, twin = alone(task, teacher)
    live, seen = make(), []

    async def other():
        while live.status == "training":
            seen.append(live.distillation.done)
            await asyncio.sleep(0)

    async def main():
        live.start()
        await asyncio.gather(other(), live.finished())

    asyncio.run(main())
    assert set(range(1, STEPS)) <= set(seen)  # the other task ran after each and every step
    run.run(), twin.run()
    assert same(weights(live.distillation.student), weights(run.student))
    assert same(weights(live.twin.student), weights(twin.student))


def test_the_twin_sees_the_same_batches_at_the_same_rates(make):
    live = make()
    live.run(4)
    live.learning_rate = 5e-3
    live.run()
    for column in ("tokens", "learning_rate", "epoch"):
        mine, twins = ([row[column] for row in run.history] for run in (live.distillation, live.twin))
        assert mine == twins
    assert [type(term) for term in live.twin.objective.terms] == [HardLabels]


def test_the_teacher_is_not_asked_again(make, teacher):
    live, asked = make(), []
    hook = teacher.register_forward_hook(lambda *_: asked.append(1))
    live.run()
    live.reset()
    live.run(2)
    hook.remove()
    assert not asked


# ------------------------------------------------------------------------------------ steering


def test_settings_act_on_the_very_next_step_and_stand_in_the_history(make):
    live = make()
    live.run(3)
    live.temperature, live.alpha, live.learning_rate = 4, 0.75, 2e-3
    rate = 2e-3 * live.distillation.settings.schedule(3, live.distillation.total_steps)
    live.step()
    before, after = live.distillation.history[2:4]
    assert before["settings"] == [{"weight": 0.3}, {"weight": 0.7, "temperature": 2.0}]
    assert after["settings"] == [{"weight": 0.75}, {"weight": 0.25, "temperature": 4.0}]
    assert after["learning_rate"] == live.twin.history[3]["learning_rate"] == rate > before["learning_rate"]


def test_steering_is_what_steering_by_hand_is(task, teacher, make):
    run, _ = alone(task, teacher)
    live = make()
    live.run(5)
    live.temperature = 4
    live.run()
    for step in run:
        if step.number == 5:
            run.objective.temperature = 4
    assert same(weights(live.distillation.student), weights(run.student))


def test_with_alpha_1_the_student_is_its_twin(make):
    live = make(dropout=0.1)
    live.alpha = 1
    live.run()
    assert same(weights(live.distillation.student), weights(live.twin.student))


def test_a_slider_moves_the_objective_and_the_objective_moves_the_slider(make):
    live = make()
    live.set_state({"temperature": 8.0})  # as the browser does it
    assert live.distillation.objective.temperature == 8
    live.distillation.objective.alpha = 0.9
    live.step()
    assert live.alpha == 0.9
    heard = []
    live.observe(lambda change: heard.append(change["new"]), "temperature")
    live.temperature = 3
    assert heard == [3]


def test_weights_where_the_objective_is_no_blend(make):
    live = make(2 * SoftTargets(3) + 1 * HardLabels() + LogitsMSE())
    assert live.alpha is None and live.weights == [2, 1, 1] and live.temperature == 3
    live.weights = [0, 1, 0.5]
    live.step()
    assert [term["weight"] for term in live.distillation.history[0]["settings"]] == [0, 1, 0.5]
    assert live.curves["losses"][0][1] is None  # not computed, so not drawn as 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0), ("temperature", -1), ("temperature", math.nan), ("temperature", "4"), ("temperature", None),
        ("alpha", 1.5), ("alpha", None), ("learning_rate", 0), ("learning_rate", math.inf), ("weights", [1, 1]),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_and_the_good_one_stays(make, name, value):
    live = make()
    before = getattr(live, name)
    with pytest.raises(TraitError, match=name):
        setattr(live, name, value)
    assert getattr(live, name) == before
    live.step()


@pytest.mark.parametrize("value", [[0, 0], [1], [1, -1], [1, math.nan], [1, "x"]])
def test_bad_weights_are_refused(make, value):
    live = make(SoftTargets(2) + HardLabels())
    with pytest.raises(TraitError, match="weights"):
        live.weights = value
    assert live.weights == [1, 1]


def test_a_message_from_another_thread_waits_for_the_step_in_hand(make):
    live, during = make(), []

    def slide():
        live.temperature = 7

    def in_the_middle(*_):
        if live.distillation.done == 2 and live.distillation.student.training and not during:
            thread = threading.Thread(target=slide)  # JupyterLab's subshells handle messages so
            thread.start()
            thread.join()
            during.append(live.distillation.objective.temperature)

    async def main():
        live.start()
        await live.finished()

    live.distillation.student.register_forward_pre_hook(in_the_middle)
    asyncio.run(main())
    temperatures = [row["settings"][1]["temperature"] for row in live.distillation.history]
    assert during == [2] and temperatures == [2, 2, 2] + [7] * (STEPS - 3)


# ------------------------------------------------------------------------------------ start, pause, reset


def test_start_pause_step_by_buttons(make):
    live = make(steps=50)

    async def main():
        press(live, "start")
        while live.distillation.done < 3:
            await asyncio.sleep(0)
        press(live, "pause")
        assert live.status == "paused"
        reached = live.distillation.done
        for _ in range(50):
            await asyncio.sleep(0)
        assert live.distillation.done == live.twin.done == reached
        press(live, "step")
        assert (live.status, live.distillation.done, live.twin.done) == ("paused", reached + 1, reached + 1)
        press(live, "start")
        press(live, "start")  # a second press changes nothing
        live.stop()
        live.start()  # and the task that was stopped does not come back beside the new one
        await asyncio.sleep(0)
        assert live.distillation.done <= reached + 2
        press(live, "reset")
        assert (live.status, live.distillation.done) == ("ready", 0)

    asyncio.run(main())


@pytest.mark.parametrize("objective", [None, HardLabels() + CosineHidden()])
def test_reset_begins_anew_and_the_same_again(make, objective):
    live = make(objective, dropout=0.1)
    initial, settings = weights(live.distillation.student), live.distillation.objective.settings()
    live.run()
    first, row = weights(live.distillation.student), without_time(live.distillation.history)
    twin = weights(live.twin.student)
    live.learning_rate = 0.5
    if live.alpha is not None:
        live.alpha = 1.0
    live.reset()
    assert same(weights(live.distillation.student), initial) and same(weights(live.twin.student), initial)
    assert live.distillation.objective.settings() == settings and live.learning_rate == 1e-3
    assert (live.distillation.done, live.twin.done, live.distillation.history) == (0, 0, [])
    assert live.curves["losses"] == [] and len(live.curves["scores"]) == 1
    live.run()
    assert same(weights(live.distillation.student), first) and same(weights(live.twin.student), twin)
    assert without_time(live.distillation.history) == row


def test_reset_brings_learned_projections_back(task, make):
    from kdtutor.objectives.hidden import HiddenStates

    live = make(HardLabels() + HiddenStates(), teacher=sharp_teacher(task, width=64))
    before = weights(live.distillation.objective)
    live.run(3)
    assert not same(weights(live.distillation.objective), before)
    live.reset()
    assert same(weights(live.distillation.objective), before)


def test_a_run_that_has_begun_can_be_watched_and_reset_to_there(task, teacher):
    run = make_run(task, teacher=teacher, steps=STEPS, progress=False)
    for step in run:
        if step.number == 4:
            break
    with pytest.raises(KDTutorError, match="has taken 4 of 12 steps"):
        LiveDistillation(run)
    live = LiveDistillation(run, twin=False)
    live.run()
    end = weights(run.student)
    live.reset()
    assert run.done == 4 and len(run.history) == 4
    live.run()
    assert same(weights(run.student), end)


def test_a_second_live_run_is_refused_and_the_first_goes_on(make):
    first, second = make(live={"name": "the first one"}), make()

    async def main():
        first.start()
        await asyncio.sleep(0)
        for action in (second.start, second.step, second.run):
            with pytest.raises(KDTutorError, match="the first one is training"):
                action()
        press(second, "start")
        assert "the first one is training" in second.problem and second.status == "ready"
        assert LiveDistillation.in_training() is first
        await first.finished()
        second.start()
        assert second.problem == ""
        await second.finished()

    asyncio.run(main())
    assert (first.status, second.status) == ("finished", "finished")


def test_asked_for_what_cannot_be(make):
    live = make()
    with pytest.raises(KDTutorError, match=r"live\.run\(\)"):
        live.start()  # no event loop here
    with pytest.raises(KDTutorError, match="not started"):
        asyncio.run(live.finished())
    with pytest.raises(KDTutorError, match="steps must be"):
        live.run(0)
    live.run()
    with pytest.raises(KDTutorError, match=r"all 12 steps are done: live\.reset\(\)"):
        live.step()
    live._handle_custom_msg({"do": "format the disk"}, [])
    live._handle_custom_msg("nonsense", [])


def test_an_event_loop_that_ends_leaves_the_run_paused(make):
    live = make(steps=1000)

    async def main():
        live.start()
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert live.status == "paused" and 0 < live.distillation.done < 1000
    live.step()


def test_checkpoints_are_written_and_the_folder_is_free_between(make, tmp_path):
    live = make(folder=tmp_path, save_every=5)
    live.run(6)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0000005"]
    assert live.twin.folder is None
    with pytest.raises(KDTutorError, match="checkpoints"):
        live.reset()
    live.run()
    assert live.status == "finished"


# ------------------------------------------------------------------------------------ what goes wrong


def alike(*_):
    """A hook for the other of two runs: who hooks into a model gets transformers' own forward pass, rounded its way."""


def test_a_loss_that_is_not_finite_ends_in_one_sentence_and_the_run_can_go_on(make):
    live = make(learning_rate=1e-3)
    live.run(3)
    before = weights(live.distillation.student)
    hook = live.distillation.student.register_forward_hook(
        lambda *a: setattr(a[2], "logits", a[2].logits * math.nan)
    )

    async def main():
        live.start()
        with pytest.raises(KDTutorError, match="not finite"):
            await live.finished()

    asyncio.run(main())
    assert live.status == "paused" and "step 4" in live.problem and isinstance(live.error, FloatingPointError)
    assert same(weights(live.distillation.student), before) and live.distillation.done == live.twin.done == 3
    assert [row[0] for row in live.curves["losses"]] == [1, 2, 3]
    hook.remove()
    live.run()
    assert (live.status, live.problem, live.error) == ("finished", "", None)


def test_any_other_error_too_even_in_the_twin(make):
    live, live_alone = make(), make()
    live_alone.twin.student.register_forward_pre_hook(alike)
    live_alone.run()

    def fails(*_):
        if live.twin.done == 4 and live.twin.student.training:
            raise RuntimeError("a kernel that is missing\nand a long traceback")

    hook = live.twin.student.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError):
        live.run()
    assert live.status == "paused" and live.problem == "RuntimeError: a kernel that is missing"
    assert (live.distillation.done, live.twin.done) == (5, 4)
    hook.remove()
    live.twin.student.register_forward_pre_hook(alike)
    live.run()  # the twin catches up first
    assert live.distillation.done == live.twin.done == STEPS
    assert same(weights(live.twin.student), weights(live_alone.twin.student))
    assert same(weights(live.distillation.student), weights(live_alone.distillation.student))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("in_step", [True, False], ids=["in a step", "in a picture"])
@pytest.mark.parametrize(
    "before", [signal.SIG_IGN, signal.default_int_handler], ids=["between cells", "in a script"]
)
def test_an_interrupt_pauses_after_the_step_in_hand(make, before, in_step, monkeypatch):
    monkeypatch.setattr("kdtutor.widgets.live.PICTURES", math.inf)  # one after each step
    live, live_alone, pressed = make(), make(), []
    live_alone.distillation.student.register_forward_pre_hook(alike)
    live_alone.run()

    def interrupt(*_):
        if live.distillation.done == 2 and live.distillation.student.training is in_step and not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    live.distillation.student.register_forward_pre_hook(interrupt)
    handler = signal.signal(signal.SIGINT, before)
    try:
        if before is signal.default_int_handler:
            with pytest.raises(KeyboardInterrupt):
                live.run()
        else:

            async def main():
                live.start()
                await live.finished()

            loop = asyncio.new_event_loop()  # asyncio.run would install a handler of its own
            loop.run_until_complete(main())
            loop.close()
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, handler)
    assert live.status == "paused" and live.distillation.done == live.twin.done == 2 + in_step
    live.run()
    assert same(weights(live.distillation.student), weights(live_alone.distillation.student))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_update_torn_by_a_second_interrupt_is_said_and_reset_begins_anew(make, monkeypatch):
    live = make(dropout=0.1)
    live.run()
    first = weights(live.distillation.student)
    live.reset()
    live.run(2)

    def torn() -> None:
        signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(live.distillation.optimizer, "step", torn)
        with pytest.raises(KeyboardInterrupt):
            live.run()
    assert live.status == "paused" and live.distillation.done == 2
    press(live, "step")
    assert live.status == "paused" and "step 3 was broken off within its update" in live.problem
    press(live, "reset")
    assert (live.status, live.problem) == ("ready", "")
    live.run()
    assert same(weights(live.distillation.student), first)


def test_cancelling_the_cell_that_waits_pauses(make):
    live = make(steps=1000)

    async def main():
        live.start()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(live.finished(), 0.05)
        assert live.status == "paused"

    asyncio.run(main())


# ------------------------------------------------------------------------------------ what is sent and shown


def test_increments_add_up_to_the_state(make, monkeypatch):
    monkeypatch.setattr("kdtutor.widgets.live.POINTS", 30)
    monkeypatch.setattr("kdtutor.widgets.live_shown.POINTS", 30)
    monkeypatch.setattr("kdtutor.widgets.live_shown.SNAPSHOTS", 20)
    live = make(steps=80, live={"every": 20, "validation": 4})
    shown = {name: list(rows) for name, rows in live.curves.items()}
    messages = sent(live)
    live.run()
    pictures = [m["state"]["now"] for m in messages if "now" in m.get("state", {})]
    for now in pictures:
        for name, rows in now["fresh"].items():
            shown[name] += rows
        assert {name: len(rows) for name, rows in shown.items()} == now["lengths"]
    assert shown == json.loads(json.dumps(live.curves))
    assert sum("curves" in m.get("state", {}) for m in messages) == 1  # whole at the end, and only then
    assert messages[-1]["state"].keys() == {"curves"}
    assert len(live.curves["losses"]) == math.ceil(80 / 3) and len(live.curves["snapshots"]) <= 20 + 2
    for rows in live.curves.values():
        assert (rows[-1]["step"] if isinstance(rows[-1], dict) else rows[-1][0]) == 80
    assert max(len(json.dumps(now)) for now in pictures) < 10_000


def test_what_a_slow_teacher_takes_does_not_decide_how_often_its_quick_student_is_measured(make, monkeypatch):
    clock, measure = itertools.count(), evaluation.measure

    def slow_if_frozen(model, *args, **settings):
        for _ in range(0 if next(model.parameters()).requires_grad else 1000):
            next(clock)
        return measure(model, *args, **settings)

    monkeypatch.setattr(evaluation, "measure", slow_if_frozen)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("kdtutor.widgets.live_shown.VALIDATION_SHARE", 0.5)
    live = make(steps=40, live={"validation": 5})
    live.run()
    assert live.plan["goal"] is not None and len(live.curves["scores"]) > 3


def test_a_point_of_the_losses_is_the_mean_of_its_steps(make):
    live = make(steps=2 * POINTS + 1, live={"validation": 2})
    live.run(7)
    width = 3
    history, twins = live.distillation.history, live.twin.history
    for row in live.curves["losses"]:
        part = slice(row[0] - width, row[0])
        for value, rows, name in zip(
            row[1:], (history, history, twins), ("HardLabels", "SoftTargets", "HardLabels"), strict=True
        ):
            assert value == pytest.approx(sum(r[name] for r in rows[part]) / width, rel=1e-4)


def test_a_view_that_opens_later_gets_everything(make):
    live = make()
    live.run(5)
    messages = sent(live)
    press(live, "whole")
    assert messages[0]["content"] == {"heard": "whole"}
    assert messages[1]["state"]["curves"] == json.loads(json.dumps(live.curves))
    assert live.get_state("curves")["curves"]["losses"][-1][0] == 5  # what a reloaded page asks for


def test_nothing_that_json_lacks_is_sent(make):
    live = make(SoftTargets(2) + HardLabels())
    messages = sent(live)
    live.weights = [1, 0]
    live.run()
    json.dumps(messages, allow_nan=False)
    json.dumps({name: getattr(live, name) for name in ("plan", "curves", "now")}, allow_nan=False)


def test_the_scores_are_those_of_the_models(make, task):
    from kdtutor.evaluation.scores import accuracy, predict

    live = make(live={"every": 4, "validation": 12})
    live.run()
    assert [row[0] for row in live.curves["scores"]] == [0, 4, 8, 12]
    for model_, score in ((live.distillation.student, 1), (live.twin.student, 2)):
        right = accuracy(predict(model_, task, "validation"), task.targets("validation"))
        assert live.curves["scores"][-1][score] == pytest.approx(right, abs=1e-5)
    assert "12 of 12 validation texts" in live.plan["notes"][0]


def test_the_probe_shows_the_models_distributions_and_their_distance(make, task, teacher):
    from kdtutor.models.forward import logits_of
    from kdtutor.objectives.formulas import kl_divergence

    live = make(live={"probe": SENTENCE})
    live.run(4)
    encoded = task.encode_texts(SENTENCE)
    z = {
        "teacher": logits_of(teacher, encoded),
        "student": logits_of(live.distillation.student, encoded),
        "twin": logits_of(live.twin.student, encoded),
    }
    snapshot = live.now["snapshot"]
    for who, values in zip(live.plan["probe"]["who"], snapshot["values"], strict=True):
        p = dict(zip(task.labels, z[who].softmax(-1)[0].tolist(), strict=True))
        assert values == pytest.approx([p[name] for name in snapshot["names"]], abs=1e-4)
    for who, distance in zip(("student", "twin"), snapshot["distance"], strict=True):
        assert distance == pytest.approx(float(kl_divergence(z["teacher"], z[who])), rel=1e-3, abs=1e-6)


def test_many_classes_are_summed_up(task):
    labels = tuple(f"<img src=x onerror=alert({i})> 😀" for i in range(200))
    split = Split((["a furry animal", "eats fish", "red fruit", "lives near water"] * 4,), torch.arange(16))
    many = make_task()
    many = type(many)(
        "many", "classification", labels, {"train": split, "validation": split, "test": split}, max_length=24
    )
    live = LiveDistillation(
        make_run(many, teacher=sharp_teacher(many), steps=2, batch_size=4),
        probe="الماء near 😀 " + "word " * 10_000,
    )
    live.run()
    snapshot = live.now["snapshot"]
    assert len(snapshot["names"]) <= 10 and snapshot["names"][-1].endswith(" others")
    assert all(sum(values) == pytest.approx(1, abs=2e-3) for values in snapshot["values"])
    assert len(live.plan["probe"]["text"]) <= 300 and any(
        "first 24 tokens" in note for note in live.plan["notes"]
    )
    assert live.picture().alt


def test_the_picture_says_what_it_shows(make):
    live = make(live={"name": "x"})
    picture = live.picture()
    assert "not started, step 0 of 12" in picture.alt and "0x" not in repr(live)
    live.run()
    picture = live.picture()
    assert "finished, step 12 of 12" in picture.alt and "validation accuracy" in picture.alt == live.summary
    bundle, metadata = live._repr_mimebundle_()
    assert {"image/png", "text/plain"} <= bundle.keys() and metadata["image/png"]["alt"] == picture.alt


@pytest.mark.parametrize(
    ("student", "twin", "said"),
    [
        (
            0.60,
            0.40,
            "60.0\u00a0%, the twin's 40.0\u00a0%: the student is 20.0 points ahead; the teacher's is",
        ),
        (0.42, 0.40, "2.0 points ahead, which may be chance: on 300 texts it takes 8 to be sure; the"),
        (0.30, 0.40, "10.0 points behind; the teacher's is"),
        (0.40, 0.40, "the student is level, which may be chance"),
    ],
)
def test_the_end_says_in_one_sentence_what_happened(make, student, twin, said):
    live = make()
    live.run()
    live.curves["scores"][-1][1:], live._score.texts = [student, twin], 300
    assert said in repr(live) and repr(live).startswith(
        "Live distillation, finished, step 12 of 12: validation"
    )


def test_the_goal_is_the_teachers_score_on_the_same_texts(make, task, teacher):
    from kdtutor.evaluation.scores import accuracy, predict

    right = accuracy(predict(teacher, task, "validation"), task.targets("validation"))
    live = make(live={"validation": len(task.split("validation"))})
    assert live.plan["goal"] == pytest.approx(right, abs=1e-5)


# ------------------------------------------------------------------------------------ other tasks, other twins


def test_without_a_teacher_there_is_no_twin_of_the_same_kind(task, make):
    live = make(HardLabels(), teacher=None)
    assert live.twin is None and any("There is no twin" in note for note in live.plan["notes"])
    assert live.plan["probe"]["who"] == ["student"] and live.temperature is None
    live.run()
    assert live.status == "finished" and live.picture().alt
    smoothing = make(0.9 * HardLabels() + 0.1 * UniformTargets(), teacher=None)
    assert smoothing.twin is not None
    smoothing.run(2)


def test_regression(make):
    numbers = make_task("regression")
    live = make(HardLabels() + LogitsMSE(), task=numbers, teacher=sharp_teacher(numbers), live={"every": 6})
    live.run()
    assert "correlation" in live.plan["score"] and live.plan["probe"]["kind"] == "value"
    assert len(live.now["snapshot"]["values"]) == 3 and live.picture().alt


def test_masked_lm_with_and_without_a_teacher(make):
    glosses = make_task("masked-lm")
    teacher = model(glosses, seed=9)
    live = make(
        5 * SoftTargets(2) + 2 * MaskedLM() + CosineHidden(), task=glosses, teacher=teacher, live={"every": 6}
    )
    run, twin = alone(glosses, teacher, 5 * SoftTargets(2) + 2 * MaskedLM() + CosineHidden())
    live.run(), run.run(), twin.run()
    assert same(weights(live.distillation.student), weights(run.student))
    assert same(weights(live.twin.student), weights(twin.student))
    assert "[MASK]" in live.plan["probe"]["text"] and live.now["snapshot"]["names"][-1].endswith("others")
    pretraining = make(MaskedLM(), task=glosses, teacher=None, live={"probe": "a small [MASK] animal"})
    pretraining.run(2)
    assert pretraining.picture().alt


@pytest.mark.parametrize("settings", [{"rare_words": 0.7}, {"cache": "topk:5"}, {"masking": 0.3}], ids=str)
def test_the_twin_reads_the_very_same_masked_texts(settings):
    glosses = make_task("masked-lm")
    run, twin = alone(
        glosses, model(glosses, seed=9), 3 * SoftTargets(2) + 2 * MaskedLM(), epochs=2, **settings
    )
    for step in range(STEPS):
        [mine], [theirs] = run.batches[step], twin.batches[step]
        for name in ("index", "input_ids", "attention_mask"):
            assert torch.equal(mine[name], theirs[name])
        assert mine["labels"][mine["labels"] != IGNORED].tolist() == theirs["labels"].tolist()


def test_a_transfer_set_whose_texts_are_mostly_unlabelled(make, task):
    live = make(task=task.transfer(labelled=6))
    live.run()
    assert live.status == "finished" and live.twin.done == STEPS


def test_no_label_at_all_means_no_twin(task, teacher, make):
    none = make_task(targets=torch.full((44,), -100))
    live = make(SoftTargets(2), task=none)
    assert live.twin is None and any("no training text has a label" in note for note in live.plan["notes"])
    live.run(2)


def test_an_own_twin(task, teacher, make):
    own = make_run(task, LogitsMSE(), teacher=teacher, steps=STEPS, progress=False)
    live = make(live={"twin": own})
    live.run(3)
    assert own.done == 3 and "LogitsMSE" in live.plan["twin"]


def test_a_twin_with_other_texts_says_how_many(task, make):
    fewer = make_run(task.subset(8), HardLabels(), steps=STEPS, progress=False)
    live = make(live={"twin": fewer})
    all_texts = len(live.distillation.task.split("train"))
    assert live.plan["twin"] == f"hard labels alone, 8 texts instead of {all_texts}"


def test_what_cannot_be_shown_is_refused_in_one_sentence(task, teacher, make):
    run = make_run(task, teacher=teacher, steps=STEPS)
    for wrong, sentence in [
        ({"probe": ""}, "the probe text is empty"),
        ({"probe": 99}, "examples 0 to 11"),
        ({"probe": 1.5}, "probe must be a text"),
        ({"validation": 0}, "validation must be"),
        ({"every": 0}, "every must be"),
        ({"twin": "yes"}, "twin must be"),
        ({"twin": make_run(task, teacher=teacher, steps=STEPS + 1)}, "total_steps is 12, the twin's 13"),
        ({"twin": make_run(task, teacher=teacher, steps=STEPS, student=run.student)}, "the very student"),
        ({"twin": make_run(task, teacher=teacher, steps=STEPS, learning_rate=1)}, "learning_rate"),
    ]:
        with pytest.raises(KDTutorError, match=sentence):
            LiveDistillation(run, **wrong)
    with pytest.raises(KDTutorError, match="leave patience out"):
        LiveDistillation(make_run(task, teacher=teacher, steps=STEPS, patience=2))
    with pytest.raises(KDTutorError, match="not a BertForSequenceClassification"):
        LiveDistillation(teacher)
    run.run()
    with pytest.raises(KDTutorError, match="all 12 steps of this run are done"):
        LiveDistillation(run)
    sick = copy.deepcopy(teacher)
    sick.classifier.weight.data.fill_(math.nan)
    with pytest.raises(KDTutorError, match="the teacher's answer to the probe text"):
        LiveDistillation(make_run(task, teacher=sick, steps=STEPS, cache=False))


@pytest.mark.parametrize(
    "content", [None, 3, "start", [], {}, {"do": []}, {"do": {}}, {"do": None}, {"do": "fly"}]
)
def test_a_message_that_is_no_button_is_let_pass(make, content):
    live = make()
    live._message(live, content, [])
    assert (live.status, live.problem) == ("ready", "")


def test_plan_curves_and_status_are_pythons_to_say(make):
    live = make()
    before = live.plan, live.curves, live.now
    live.set_state({"plan": {}, "curves": {"x": 1}, "now": {}, "status": "finished", "learning_rate": 2e-3})
    assert (live.plan, live.curves, live.now, live.status) == (*before, "ready")
    assert live.learning_rate == 2e-3
