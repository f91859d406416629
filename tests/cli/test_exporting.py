"""kdtutor export: a model by its name, the task that it was trained on read from its card."""

from __future__ import annotations

import json

from kdtutor.cli import main
from kdtutor.deploy.session import OnnxModel


def test_a_model_is_exported_for_the_task_on_its_card(mine, corpus, tmp_path, capsys):
    train = ["finetune", *mine, "--model", str(corpus / "teacher"), "--steps", "2", "--output", "student"]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["export", "student", "--output", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["precision"], said["task"], said["folder"]) == ("float32", "mine", "out")
    assert said["difference"] < 1e-5
    assert OnnxModel(tmp_path / "out").labels == ("bad", "good")


def test_what_is_missing_is_said(corpus, capsys):
    assert main(["export", str(corpus / "teacher")]) == 1
    assert "does not say what it was trained on: --task" in capsys.readouterr().err
    assert main(["export", "bert-sentiment", "--precision", "int4"]) == 1
    assert "precision must be float32, float16, int8 or int8-static" in capsys.readouterr().err
