"""The shipped checkpoints are what their cards say, and the course's teacher clears its bar."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from kdtutor import data, evaluation, models
from kdtutor.assets import asset_path, manifest

TEACHERS = {"supersense": "bert-supersense", "sentiment": "bert-sentiment"}


def card(name: str) -> dict:
    return json.loads(asset_path(f"models/{name}/card.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("task", TEACHERS)
def test_a_teacher_scores_on_the_whole_test_split_what_its_card_says(task):
    loaded, told = data.load_task(task), card(TEACHERS[task])
    teacher = models.load_teacher(loaded)
    logits = evaluation.predict(teacher, loaded, "test", batch_size=64)
    accuracy = evaluation.accuracy(logits, loaded.targets("test"))
    assert told["data"]["fingerprint"] == loaded.fingerprint
    assert told["scores"]["test"]["examples"] == len(logits)
    # Other processors round otherwise.
    assert accuracy == pytest.approx(told["scores"]["test"]["accuracy"], abs=0.001)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("task", TEACHERS)
def test_a_teacher_beats_counting_words_by_six_points(task):
    baselines = json.loads(asset_path("results/tfidf-baseline.json").read_text(encoding="utf-8"))["tasks"]
    assert baselines[task]["data_sha256"]["train"] == manifest()[f"data/{task}/train.parquet"]["sha256"]
    bar = baselines[task]["test"]["accuracy"]
    assert card(TEACHERS[task])["scores"]["test"]["accuracy"] - bar >= 0.06


@pytest.mark.slow
def test_the_teacher_that_writes_spells_what_its_card_says():
    """On 1,500 of the test words: an interval over these holds the error rate over all."""
    task, told = data.load_task("pronunciation"), card("bart-pronunciation")
    assert told["data"]["fingerprint"] == task.fingerprint
    teacher = models.load_teacher(task)
    assert models.generate(teacher, task, ["cat", "stop"]) == ["K AE T", "S T AA P"]
    some = task.subset(1500, split="test")
    found, whole = evaluation.written_scores(teacher, some), told["scores"]["test"]["error_rate"]
    assert abs(found["error_rate"] - whole) < 1.5 * found["error_rate_half_width"]
    exact = evaluation.token_scores(teacher, task, "test")
    assert exact["loss"] == pytest.approx(told["scores"]["test"]["loss"], rel=1e-3)


def test_the_teacher_that_writes_was_made_by_the_recipe_that_ships():
    """Its card's command is the recipe's first line, and each of the recipe's settings is what the run had."""
    told = card("bart-pronunciation")
    text = asset_path("recipes/bart-pronunciation.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# {told['command']}"
    recipe = {
        name: float(value) if name == "learning_rate" else value
        for name, value in yaml.safe_load(text).items()
    }
    assert recipe == {name: told["settings"].get(name) for name in recipe}
    assert told["steps"] == recipe["steps"]


@pytest.mark.parametrize("name", ["bert-glosses", "bart-pronunciation", *TEACHERS.values()])
def test_a_card_tells_how_its_checkpoint_is_made_again(name):
    told = card(name)
    assert told["command"].startswith(("kdtutor pretrain", "kdtutor finetune"))
    assert {"settings", "seed", "data", "scores", "steps", "seconds", "hardware", "versions"} <= told.keys()
