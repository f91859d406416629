"""The layer map: it trains by the lines alone, always from the same student, and bad lines get a sentence."""

from __future__ import annotations

import asyncio
import json
import warnings

import pytest
import torch
from helpers import make_task, model, refusal, same, sharp_teacher, weights

pytest.importorskip("anywidget")
import kdtutor as kd
from kdtutor import evaluation
from kdtutor.widgets import LayerMap

RUN = {"steps": 6, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-3, "progress": False}


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def teacher(task):
    return kd.models.freeze(kd.small_bert(task, layers=3, width=48, heads=2, dropout=0.0, seed=9))


@pytest.fixture
def board(task, teacher):
    return LayerMap(
        kd.small_bert(task, layers=2, width=32, dropout=0.0, seed=1), teacher, task, texts=12, **RUN
    )


def test_it_begins_with_the_student_as_it_is_and_an_even_map(board, task, teacher):
    assert board.pairs == [[1, 2], [2, 3]]
    [first] = board.results
    assert (first["name"], first["pairs"], first["steps"]) == ("before training", [], 0)
    expected = evaluation.layer_similarity(board.student, teacher, task, texts=12)
    torch.testing.assert_close(torch.tensor(first["similarity"]), expected, atol=1e-3, rtol=0)
    z_s, z_t = (kd.predict(m, task, "validation") for m in (board.student, teacher))
    assert first["kl"] == pytest.approx(float(kd.objectives.kl_divergence(z_t, z_s)), rel=1e-3)
    assert first["accuracy"] == pytest.approx(evaluation.accuracy(z_s, task.targets("validation")), rel=1e-4)


def test_a_training_is_that_of_the_objective_with_the_lines_and_leaves_the_student_as_it_was(
    board, task, teacher
):
    before = weights(board.student)
    found = board.run({1: 3, 2: 1})
    assert same(before, weights(board.student))
    student = kd.small_bert(task, layers=2, width=32, dropout=0.0, seed=1)
    goal = kd.SoftTargets(2) + 1 * kd.HiddenStates({1: 3, 2: 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the map crosses
        run = kd.Distillation(student, teacher, task, goal, **RUN)
    run.run()
    expected = evaluation.layer_similarity(student, teacher, task, texts=12)
    torch.testing.assert_close(torch.tensor(found["similarity"]), expected, atol=1e-3, rtol=0)
    assert found["name"] == "1 ← 3, 2 ← 1 (crossing)"
    assert board.pairs == [[1, 3], [2, 1]]


def test_the_same_map_again_gives_the_same_student_and_no_lines_mean_logits_alone(board):
    first, second = board.run("evenly"), board.run("evenly")
    assert first == second
    assert first["name"] == "evenly"
    alone = board.run({})
    assert alone["name"] == "logits alone" and alone["pairs"] == []
    assert alone["similarity"] != first["similarity"]
    assert [result["name"] for result in board.results] == [
        "before training",
        "evenly",
        "evenly",
        "logits alone",
    ]
    assert board.shown == 3


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([[1, 4]], "student's layer, teacher's"),
        ([[3, 1]], "student's layer, teacher's"),
        ([[-1, 1]], "student's layer, teacher's"),
        ([1, 2], "student's layer, teacher's"),
        ([[1, 1], [1, 2]], "learns from one of the teacher"),
    ],
)
def test_lines_that_lead_nowhere_are_refused_and_the_last_good_ones_stay(board, pairs, sentence):
    assert sentence in refusal(setattr, board, "pairs", pairs)
    assert board.pairs == [[1, 2], [2, 3]]


def test_what_does_not_fit_is_refused(board, task, teacher):
    regression = make_task("regression")
    assert "scores classes" in refusal(LayerMap, model(regression), sharp_teacher(regression), regression)
    assert "evenly" in refusal(board.run, "evnly")
    assert "results 0 to 0" in refusal(setattr, board, "shown", 1)


def test_the_browser_gets_plain_json_and_the_picture_says_what_is_shown(board):
    board.run("evenly")
    state = {
        name: board.get_state()[name] for name in ("pairs", "plan", "results", "now", "shown", "summary")
    }
    json.dumps(state, allow_nan=False)
    assert state["plan"]["presets"]["last"] == [[2, 3]]
    picture = board.picture()
    assert "before training: accuracy" in picture.alt and "evenly: accuracy" in picture.alt
    assert repr(board) == board.summary
    assert " at 0x" not in repr(board)


def test_it_trains_in_the_background_gives_way_and_can_be_stopped(board):
    async def session():
        board._message(None, {"do": "start"}, None)
        turns, seen = 0, set()
        while board.status == "training" or not turns:
            await asyncio.sleep(0)
            turns += 1
            seen.add(board.now.get("steps"))
        assert turns > 12 and len(seen) > 2
        assert len(board.results) == 2
        board.start()
        await asyncio.sleep(0)
        board._message(None, {"do": "stop"}, None)
        await board.finished()

    asyncio.run(session())
    assert board.status == "ready" and board.now == {}
    assert len(board.results) == 2, "nothing is kept of a training that was stopped"


def test_without_an_event_loop_start_says_what_to_do_and_a_failed_training_is_a_sentence(board):
    assert "board.run()" in refusal(board.start)
    board._message(None, {"do": "start"}, None)
    assert "event loop" in board.problem

    async def fails():
        board.settings["batch_size"] = 0
        board.start()
        await board.finished()

    asyncio.run(fails())
    assert "batch_size" in board.problem and board.status == "ready"
