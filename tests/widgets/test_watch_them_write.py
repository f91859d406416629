"""Watch them write: divergences are the objectives', along what each model itself wrote; bad input gets a sentence."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch
from helpers import make_task, model, refusal

pytest.importorskip("anywidget")
import kdtutor as kd
from kdtutor.widgets import WatchThemWrite
from kdtutor.widgets import watch_them_write as module

WORDS = ["exodus", "weight", "tunisia"]


@pytest.fixture(scope="module", params=["seq2seq", "causal-lm"])
def task(request):
    if request.param == "seq2seq":
        return kd.load_task("pronunciation")
    return kd.load_task("glosses", kind="causal-lm", max_length=24)


@pytest.fixture(scope="module")
def models(task):
    make = kd.small_seq2seq if task.rules.writes else kd.small_gpt2
    made = {
        name: make(task, layers=1, width=32, dropout=0.1, seed=i)
        for i, name in enumerate(("teacher", "a", "b"))
    }
    for one in made.values():
        with torch.no_grad():
            one.get_output_embeddings().weight *= 4
    return made


@pytest.fixture
def board(models, task):
    return WatchThemWrite(models, task, WORDS, max_new_tokens=5)


def logits_by_hand(task, model, text, ids):
    """The logits at the place of each written token, by transformers alone."""
    model.eval()
    read = task.tokenizer(text)["input_ids"]
    with torch.no_grad():
        if task.rules.writes:
            start = [model.config.decoder_start_token_id, *ids[:-1]]
            return model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([start])).logits[0]
        read = read[:-1]  # without the end of text
        return model(input_ids=torch.tensor([[*read, *ids]])).logits[0, len(read) - 1 : -1]


@pytest.mark.parametrize("T, beta", [(1, 0), (2, 1), (0.5, 0.3)])
def test_a_students_tokens_are_judged_after_its_own_text(board, models, task, T, beta):
    board.temperature, board.beta = T, beta
    tokenizer = task.tokenizer
    for name, found in board.numbers().items():
        ids = [tokenizer.convert_tokens_to_ids(t) if t != "end" else None for t in board.written()[name]]
        end = module.end_of_text(tokenizer)
        ids = [end if i is None else i for i in ids]
        own = logits_by_hand(task, models[name], WORDS[0], ids).double()
        # The likeliest each time: that is what it wrote.
        assert own.argmax(-1).tolist() == ids
        p = (logits_by_hand(task, models["teacher"], WORDS[0], ids).double() / T).softmax(-1)
        q = (own / T).softmax(-1)
        if name == "teacher":
            expected = -(q * q.log()).sum(-1)
        elif beta in (0, 1):
            expected = ((p * (p / q).log()) if beta == 0 else (q * (q / p).log())).sum(-1)
        else:
            m = beta * p + (1 - beta) * q
            expected = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
        if task.rules.writes:
            torch.testing.assert_close(torch.tensor(found), expected.float(), rtol=1e-4, atol=1e-5)
        # Of a large vocabulary the rarest tokens are taken for one: at T = 1 that can only bring the two nearer.
        elif T == 1 and name != "teacher":
            assert all(0 < f <= e * 1.001 for f, e in zip(found, expected.tolist(), strict=True))


def test_the_browser_gets_plain_json_and_log_probabilities_in_thousandths(board):
    state = {
        name: board.get_state()[name] for name in ("examples", "shown", "names", "step", "text", "summary")
    }
    json.dumps(state, allow_nan=False)
    assert [example["text"] for example in state["examples"]] == WORDS
    rows = board._known[WORDS[0]]["rows"]
    for writer, expected in zip(state["shown"]["writers"], rows, strict=True):
        for who, table in expected.items():
            sent = np.frombuffer(base64.b64decode(writer[who]), "<i2").reshape(table.shape) / 1000
            np.testing.assert_allclose(sent, table.clamp(min=-32), atol=6e-4)


def test_what_is_merged_of_a_large_vocabulary_adds_up_to_one(models, task):
    if task.rules.writes:
        pytest.skip("a small vocabulary is sent whole")
    board = WatchThemWrite(models, task, WORDS[:1], max_new_tokens=3)
    assert board.shown["pieces"][-1] == module.REST
    assert len(board.shown["pieces"]) == module.KEPT + 1
    for rows in board._known[WORDS[0]]["rows"]:
        for table in rows.values():
            torch.testing.assert_close(table.exp().sum(-1), torch.ones(len(table)), atol=1e-4, rtol=0)


def test_a_text_of_ones_own_is_written_to_and_an_example_comes_back(board):
    board.step = 2
    board.text = " another "
    assert (board.text, board.example, board.step) == ("another", None, 0)
    assert board.shown["text"] == "another" and "“another”" in board.summary
    board.example = 1
    assert board.text == WORDS[1] and board.shown["text"] == WORDS[1]
    board._hear(board, {"kind": "text", "text": "  "}, None)
    assert "empty" in board.problem and board.text == WORDS[1]


def test_what_does_not_fit_is_refused_and_the_last_good_value_stays(board, models, task):
    assert "a temperature is a number from 0.1 to 10" in refusal(setattr, board, "temperature", 0)
    assert "β is a number from 0 to 1" in refusal(setattr, board, "beta", 2)
    assert "there are 3, counted from 0" in refusal(setattr, board, "example", 3)
    assert (board.temperature, board.beta, board.example) == (1, 0, 0)
    assert "a teacher and a student are the fewest" in refusal(
        WatchThemWrite, {"teacher": models["teacher"]}, task
    )
    assert "all different" in refusal(WatchThemWrite, models, task, ["a", "a"])
    classes = make_task()
    assert "BertForSequenceClassification" in refusal(
        WatchThemWrite, {"t": model(classes), "s": model(classes)}, task
    )


def test_the_picture_says_what_each_student_wrote(board):
    picture = board.picture()
    for name in ("a", "b"):
        assert f"{name} writes {' '.join(board.written()[name])}" in picture.alt
    assert repr(board) == board.summary
