"""What learners wrote is handed out again: in this notebook, in a later one, and inside a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kdtutor.exercises import Check, load_exercises
from kdtutor.exercises.parts import with_your_parts
from kdtutor.transformer import Bert, Config


def softmax_with_temperature(logits, temperature):
    return F.softmax(logits / temperature, -1)


def test_until_it_is_solved_the_courses_own_answer_is_handed_out_and_this_is_said(capsys):
    answer = Check().answer("softmax_with_temperature")
    assert answer is load_exercises()["softmax_with_temperature"].reference
    assert "not solved yet, so this is the course's own" in capsys.readouterr().out


def test_a_right_answer_is_handed_out_in_this_session_and_after_a_restart(tmp_path, capsys):
    kept = tmp_path / ".kdtutor-solved.json"
    check = Check(kept)
    check.softmax_with_temperature(lambda z, t: z)
    check.softmax_with_temperature(softmax_with_temperature)
    assert check.answer("softmax_with_temperature") is softmax_with_temperature
    later = Check(kept).answer("softmax_with_temperature")
    assert later.__module__ != "kdtutor.exercises.n00_start"
    torch.testing.assert_close(later(torch.ones(1, 2), 2.0), torch.full((1, 2), 0.5))
    assert capsys.readouterr().out.count("your own") == 2
    assert "def " not in kept.read_text(), "what an instructor may see has no source in it"


def test_an_answer_that_was_kept_and_no_longer_works_is_not_handed_out(tmp_path, capsys):
    kept = tmp_path / ".kdtutor-solved.json"
    Check(kept).softmax_with_temperature(softmax_with_temperature)
    beside = tmp_path / ".kdtutor-solved-answers.json"
    for damaged in (beside.read_text().replace("-1", "0"), "{", "[]"):
        beside.write_text(damaged)
        Check(kept).answer("softmax_with_temperature")
        assert "the course's own" in capsys.readouterr().out


def test_a_models_layers_run_with_other_parts_and_give_the_same_logits_also_for_padded_texts():
    torch.manual_seed(0)
    sizes = {"vocabulary": 20, "width": 8, "layers": 2, "heads": 2, "inner": 16, "max_length": 9}
    bert = Bert(Config(**sizes, classes=3)).eval()
    ids = torch.randint(1, 20, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    with torch.no_grad():
        torch.testing.assert_close(with_your_parts(bert)(ids, mask).logits, bert(ids, mask).logits)
        wrong = with_your_parts(bert, attention=lambda q, k, v, seen: v)
        assert not torch.allclose(wrong(ids, mask).logits, bert(ids, mask).logits)
