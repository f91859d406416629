"""A student architecture that is defined here, in a test: registered, it is made wherever a student is named."""

from __future__ import annotations

import pytest
from helpers import make_run, make_task, model, refusal, sharp_teacher
from transformers import BertConfig, BertForSequenceClassification

from kdtutor import cli
from kdtutor.models.students import _REGISTER, make_student, register, student_names
from kdtutor.objectives.logits import SoftTargets


@pytest.fixture
def narrow(monkeypatch):
    """A BERT whose feed-forward part is narrower than its width."""
    monkeypatch.setattr("kdtutor.models.students._REGISTER", dict(_REGISTER))

    @register("narrow-bert")
    def make(teacher, task, width=16, seed=None):
        config = BertConfig(
            vocab_size=len(task.tokenizer),
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=width // 2,
            max_position_embeddings=task.max_length,
            num_labels=task.num_labels,
            id2label=teacher.config.id2label,
            label2id=teacher.config.label2id,
        )
        return BertForSequenceClassification(config)

    return make


def test_a_registered_student_is_made_by_its_name_and_trained(narrow):
    task = make_task()
    teacher = sharp_teacher(task)
    student = make_student("narrow-bert", teacher, task, seed=0, width=32, layers=None)
    assert student.config.intermediate_size == 16
    assert "narrow-bert" in student_names()
    assert len(make_run(task, SoftTargets(2), student=student, teacher=teacher).run()) == 6


def test_the_command_line_makes_it_too_and_passes_its_options_on(narrow, tmp_path, monkeypatch, capsys):
    task = make_task()
    model(task).save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda *_, **__: task)
    arguments = [
        "distill",
        "--task=tiny",
        f"--teacher={tmp_path / 'teacher'}",
        "--student=narrow-bert",
        "--width=8",
    ]
    cli.main([*arguments, f"--output={tmp_path / 'out'}", "--steps=2", "--batch_size=8", "--dry_run"])
    assert "2 of 8 texts" in capsys.readouterr().out
    cli.main([*arguments, f"--output={tmp_path / 'out'}", "--steps=2", "--batch_size=8"])
    with pytest.raises(SystemExit):
        cli.main(["distill", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    listed = told.partition("one of half-depth, small-bert, ")[2].partition(", or a folder or Hub name")[0]
    assert {"cnn", "lstm", "static", "narrow-bert"} <= {*listed.split(", ")}
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (saved.config.hidden_size, saved.config.intermediate_size) == (8, 4)


def test_a_misspelt_student_and_an_option_it_does_not_have_are_named(narrow):
    task = make_task()
    teacher = sharp_teacher(task)
    said = refusal(make_student, "narow-bert", teacher, task)
    assert said.startswith('unknown student "narow-bert"; there are: narrow-bert, small-bert, half-depth, ')
    said = refusal(make_student, "narrow-bert", teacher, task, layers=2)
    assert said == "the student narrow-bert has no option layers; those it has: width, seed"
    said = refusal(make_student, "half-depth", teacher, task, width=64)
    assert said == "the student half-depth has no option width; those it has: layers, token_types, seed"


def test_a_student_by_its_name_is_what_its_own_function_makes():
    from kdtutor.models.students import half_depth, small_bert

    task = make_task()
    teacher = small_bert(task, layers=4, width=32, seed=1)
    for made, expected in (
        (make_student("half-depth", teacher, task, seed=3), half_depth(teacher, seed=3)),
        (make_student("small-bert", teacher, task, seed=3, width=32), small_bert(task, width=32, seed=3)),
    ):
        assert type(made) is type(expected)
        for a, b in zip(made.parameters(), expected.parameters(), strict=True):
            assert a.equal(b)
