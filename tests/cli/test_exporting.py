"""kdtutor export: a model by its name, the task that it was trained on read from its card."""

from __future__ import annotations

import json

import pytest

from kdtutor.cli import main
from kdtutor.data.load import load_task
from kdtutor.deploy.session import OnnxModel
from kdtutor.models.students import small_bert


def test_a_model_is_exported_for_the_task_on_its_card(mine, corpus, tmp_path, capsys):
    train = ["finetune", *mine, "--model", str(corpus / "teacher"), "--steps", "2", "--output", "student"]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["export", "student", "--output", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["precision"], said["task"], said["folder"]) == ("float32", "mine", "out")
    assert said["difference"] < 1e-5
    assert OnnxModel(tmp_path / "out").labels == ("bad", "good")


@pytest.mark.slow
def test_it_is_pruned_first_and_measured_where_that_is_asked_for(corpus, tmp_path, capsys):
    task = load_task(corpus / "mine.csv", text="text", label="label", max_length=24)
    small_bert(task, layers=1, width=32, heads=2, seed=1).save_pretrained(tmp_path / "two-heads")
    read = ["--task", str(corpus / "mine.csv"), "--text=text", "--label=label", "--max_length=24"]
    sizes = []
    for more in ([], ["--heads=1"], ["--used_pieces", "--costs", "--precision=int8"]):
        assert main(["export", "two-heads", *read, "--output", "out", "--texts=4", *more]) == 0
        sizes.append((OnnxModel("out").bytes, OnnxModel("out").tokenizer.get_vocab_size()))
    (whole, pieces), (cut, same), (small, fewer) = sizes
    # Query, key and value of a head, and what mixes it: 4 matrices of 16 × 32, three biases; graphs differ a bit.
    assert whole - cut == pytest.approx(4 * (4 * 16 * 32 + 3 * 16), abs=1000)
    assert same == pieces > 10 * fewer
    assert small < 0.2 * whole
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].split()[:2] == ["MB", "accuracy"] and table[1].startswith("out")
    assert table[2].startswith("4 validation texts of mine") and table[2].endswith("4 of them timed")


def test_what_is_missing_is_said(corpus, capsys):
    assert main(["export", str(corpus / "teacher")]) == 1
    assert "does not say what it was trained on: --task" in capsys.readouterr().err
    assert main(["export", "bert-sentiment", "--precision", "int4"]) == 1
    assert "precision must be float32, float16, int8 or int8-static" in capsys.readouterr().err
