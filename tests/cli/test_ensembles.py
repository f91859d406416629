"""`--teacher a --teacher b`: an ensemble on the command line and in a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import refusal

from kdtutor.cli import main
from kdtutor.cli.arguments import DistillArguments
from kdtutor.cli.commands import parse
from kdtutor.data.load import load_task
from kdtutor.models.ensemble import Ensemble
from kdtutor.models.load import load_teacher
from kdtutor.models.students import small_bert


@pytest.fixture(scope="module")
def other(corpus) -> str:
    task = load_task(corpus / "mine.csv", text="text", label="label", max_length=24)
    small_bert(task, layers=1, width=32, seed=2).save_pretrained(corpus / "other")
    return str(corpus / "other")


@pytest.fixture
def command(mine, corpus) -> list[str]:
    short = ["--no_check_teacher", "--output", "out", "--steps", "2"]
    return ["distill", *mine, "--teacher", str(corpus / "teacher"), *short]


def test_two_teachers_teach_together(command, corpus, other, capsys):
    assert main([*command, "--teacher", other, "--teacher_weights", "2,1", "--combine", "logits"]) == 0
    assert "teacher 2 teachers, their logits averaged: each asked once" in capsys.readouterr().out
    card = json.loads(Path("out/card.json").read_text(encoding="utf-8"))
    assert card["settings"]["teacher"] == [str(corpus / "teacher"), other]
    assert card["settings"]["teacher_weights"] == "2,1"
    assert "base_model" not in Path("out/README.md").read_text(encoding="utf-8")


def test_an_ensemble_is_what_a_student_is_compared_with(mine, corpus, other, capsys):
    both = ["--teacher", str(corpus / "teacher"), "--teacher", other]
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", other, *both, "--json"]) == 0
    assert "retention" in json.loads(capsys.readouterr().out)


def test_a_saved_ensemble_is_measured(mine, corpus, other, capsys):
    task = load_task(corpus / "mine.csv", text="text", label="label", max_length=24)
    Ensemble([load_teacher(task, name) for name in (corpus / "teacher", other)]).save_pretrained("both")
    capsys.readouterr()
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", "both", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["parameters"] == 2 * sum(p.numel() for p in load_teacher(task, other).parameters())


def test_a_recipe_lists_teachers_and_a_flag_replaces_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("teacher: [a, b]\nwidth: 64\n", encoding="utf-8")
    assert parse(DistillArguments, [str(recipe)], "kdtutor distill").teacher == ("a", "b")
    given = parse(DistillArguments, [str(recipe), "--teacher", "c"], "kdtutor distill")
    assert (given.teacher, given.width) == ("c", 64)
    recipe.write_text("width: [64, 32]\n", encoding="utf-8")
    said = refusal(parse, DistillArguments, [str(recipe)], "kdtutor distill")
    assert "width takes one value, not a list" in said


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--teacher_weights", "1,2"], "are for several teachers: --teacher a --teacher b"),
        (["--combine", "logits"], "are for several teachers: --teacher a --teacher b"),
        (["--teacher", "TEACHER"], "is named twice as a teacher"),
        (["--teacher", "OTHER", "--teacher_weights", "1,2,3"], "2 teachers want 2 weights, and there are 3"),
        (["--teacher", "OTHER", "--teacher_weights", "1,,2"], "--teacher_weights are numbers"),
        (["--teacher", "OTHER", "--teacher_weights", "votes"], 'unknown weighting of teachers "votes"'),
        (["--teacher", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_what_cannot_be_an_ensemble_is_one_sentence(command, corpus, other, flags, sentence, capsys):
    names = {"TEACHER": str(corpus / "teacher"), "OTHER": other}
    assert main([*command, *(names.get(flag, flag) for flag in flags)]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
