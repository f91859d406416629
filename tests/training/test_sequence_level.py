"""Sequence-level distillation: what the teacher writes is a task, which can be kept and learned from."""

from __future__ import annotations

import pytest
from helpers import make_task, refusal

import kdtutor as kd


@pytest.fixture(scope="module")
def words():
    return kd.load_task("pronunciation").subset(30)


@pytest.fixture(scope="module")
def teacher(words):
    model = kd.small_seq2seq(words, layers=1, width=32, dropout=0.0, seed=3)
    kd.Distillation(
        model, None, words, kd.HardLabels(), steps=60, learning_rate=3e-3, max_norm=1e9, progress=False
    ).run()
    return model


def test_the_training_texts_answers_are_the_teachers_and_all_else_stays(words, teacher):
    lessons = kd.written_by(teacher, words, beams=3, max_new_tokens=5)
    read, said = lessons.split("train").texts
    written = dict(
        zip(
            words.texts("train"),
            kd.generate(teacher, words, words.texts("train"), beams=3, max_new_tokens=5),
            strict=True,
        )
    )
    assert dict(zip(read, said, strict=True)) == {word: text for word, text in written.items() if text}
    assert lessons.split("test") is words.split("test")
    assert lessons.kind == "seq2seq" and "written by a teacher, 3 beams" in lessons.name


def test_a_causal_lm_goes_on_from_the_beginning_of_every_text():
    task = kd.load_task("glosses", kind="causal-lm", max_length=16).subset(12)
    model = kd.small_gpt2(task, layers=1, width=32, dropout=0.0, seed=3)
    lessons = kd.written_by(model, task, beams=2, prompt=3, max_new_tokens=4)
    for text, given in zip(lessons.texts("train"), task.texts("train"), strict=True):
        first = task.tokenizer(given)["input_ids"][:3]
        beginning = task.tokenizer.decode(first, skip_special_tokens=True)
        assert text.startswith(beginning) and len(text) > len(beginning)


def test_texts_without_an_answer_are_left_out_and_counted(words, teacher, monkeypatch):
    from kdtutor.training import sequence_level

    monkeypatch.setattr(sequence_level, "generate", lambda *_, **__: ["AH"] * 28 + [""] * 2)
    lessons = kd.written_by(teacher, words)
    assert len(lessons.split("train")) == 28
    assert "2 of 30 training texts are left out" in lessons.notes[-1]
    monkeypatch.setattr(sequence_level, "generate", lambda *_, **__: [""] * 30)
    assert "wrote nothing" in refusal(kd.written_by, teacher, words)


def test_kinds_that_write_nothing_are_refused():
    task = make_task()
    assert "causal-lm and seq2seq" in refusal(kd.written_by, kd.small_bert(task, layers=1, width=32), task)


def test_what_was_written_can_be_kept_and_is_the_same_task_again(words, teacher, tmp_path):
    lessons = kd.written_by(teacher, words, beams=1, max_new_tokens=5)
    folder = kd.save_task(lessons, tmp_path / "lessons")
    again = kd.load_task(folder)
    assert again.fingerprint == lessons.fingerprint
    assert (again.name, again.kind, again.max_length) == (lessons.name, lessons.kind, lessons.max_length)
    student = kd.small_seq2seq(again, layers=1, width=32, seed=1)
    kd.Distillation(student, None, again, kd.HardLabels(), steps=2, progress=False, max_norm=1e9).run()
    assert "exists already" in refusal(kd.save_task, lessons, folder)


@pytest.mark.parametrize("kind", ["classification", "regression", "masked-lm"])
def test_tasks_of_one_text_and_one_target_can_be_kept(kind, tmp_path):
    task = make_task(kind)
    again = kd.load_task(kd.save_task(task, tmp_path / "kept"), max_length=task.max_length)
    assert again.fingerprint == task.fingerprint
