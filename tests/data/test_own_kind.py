"""Kinds of task that the package does not know, defined here and nowhere else: several labels per text, a last word."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean

import pytest
import torch
from helpers import make_run, make_task, model, refusal, same, sharp_teacher, texts, weights

from kdtutor import evaluation, objectives
from kdtutor.cli import main
from kdtutor.data.kinds import KINDS, Kind, MaskedLM
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import IGNORED
from kdtutor.evaluation import evaluate
from kdtutor.objectives.logits import LogitsMSE, SoftTargets
from kdtutor.objectives.terms import Term
from kdtutor.training.plan import plan
from kdtutor.widgets.live import LiveDistillation


class Tagged(Kind):
    """Any number of labels for each text. Targets: 0 or 1 for each label, float32 (N, C)."""

    problem_type = "multi_label_classification"
    hard = "BinaryLabels()"
    scores = ("right_labels",)
    score_name = "share of right labels"

    def wrong(self, targets, outputs):
        return ((targets != 0) & (targets != 1)).any(1)

    def expected(self, outputs):
        return "needs 0 or 1 for each label"

    def text_of(self, target, names):
        return " and ".join(name for name, given in zip(names, target, strict=True) if given)


class BinaryLabels(Term):
    """Cross-entropy of each label by itself."""

    needs_teacher = False

    def forward(self, student, teacher, batch, reduction="none"):
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            student.logits, batch["labels"], reduction="none"
        ).mean(-1)
        return losses if reduction == "none" else getattr(losses, reduction)()


def right_labels(logits, targets) -> float:
    return float(((logits > 0) == targets.bool()).float().mean())


@pytest.fixture
def task(monkeypatch) -> Task:
    monkeypatch.setitem(KINDS, "tagged", Tagged())
    monkeypatch.setitem(evaluation.SCORES, "right_labels", right_labels)
    monkeypatch.setattr(objectives, "BinaryLabels", BinaryLabels, raising=False)

    def split(n: int, first: int) -> Split:
        number = torch.arange(first, first + n)
        return Split(
            (texts(n, first),), torch.stack([number % 2, number % 3 == 0, number % 5 == 0], 1).float()
        )

    splits = {"train": split(44, 0), "validation": split(12, 500), "test": split(12, 700)}
    return Task("tiny", "tagged", ("animal", "food", "plant"), splits, max_length=24)


def test_it_trains_with_a_cached_teacher_and_one_asked_at_every_step(task):
    objective = 0.5 * BinaryLabels() + 0.5 * LogitsMSE()
    cached, asked = (
        make_run(task, objective, epochs=8, learning_rate=3e-3, cache=cache) for cache in (True, False)
    )
    for run in (cached, asked):
        run.run()
    assert "cached in memory" in cached.teacher_mode
    losses, an_epoch = [row["loss"] for row in asked.history], len(asked) // 8
    assert mean(losses[-an_epoch:]) < mean(losses[:an_epoch])
    assert cached.history[-1]["loss"] == pytest.approx(asked.history[-1]["loss"], rel=1e-4)


def test_cutting_a_batch_changes_nothing(task):
    whole, cut = (make_run(task, BinaryLabels(), accumulate=n, steps=3) for n in (1, 3))
    assert [row["loss"] for row in whole.run()] == pytest.approx([row["loss"] for row in cut.run()], rel=1e-5)


def test_it_is_evaluated_by_its_own_score(task):
    student = model(task)
    result = evaluate(student, task, teacher=sharp_teacher(task))
    assert result.score == result.right_labels
    assert result.right_labels == right_labels(evaluation.predict(student, task), task.targets("test"))
    assert result.retention > 0
    assert "right labels" in str(result)


def test_targets_that_it_can_not_have_are_named_before_the_first_step(task):
    task.targets("train")[7, 2] = 2
    message = refusal(make_run, task, BinaryLabels())
    assert message == "train example 7 has label 1, 0, 2, but tiny needs 0 or 1 for each label"


def test_a_checkpoint_is_resumed_and_the_model_knows_its_kind(task, tmp_path):
    run = make_run(task, BinaryLabels(), steps=4, folder=tmp_path / "run", save_every=2)
    whole = make_run(task, BinaryLabels(), steps=4)
    whole.run()
    for step in run:
        if step.number == 2:
            break
    again = make_run(task, BinaryLabels(), steps=4, folder=tmp_path / "run", save_every=2).resume()
    again.run()
    assert same(weights(again.student), weights(whole.student))
    assert again.student.config.problem_type == "multi_label_classification"


def test_it_is_planned(task):
    planned = plan(model(task), sharp_teacher(task), task, 0.5 * BinaryLabels() + 0.5 * LogitsMSE(), steps=2)
    assert planned.memory["teacher's answers"] == 4 * 44 * 3
    assert planned.seconds > 0


def test_a_live_run_has_a_twin_that_learns_from_its_labels_alone(task):
    run = make_run(task, 0.5 * BinaryLabels() + 0.5 * LogitsMSE(), steps=2)
    live = LiveDistillation(run, probe=0)
    assert live.plan["twin"] == "hard labels alone"
    assert repr(live.twin.objective) == "BinaryLabels()"
    assert live.plan["score"] == "validation share of right labels"
    assert live.plan["probe"]["truth"] == "plant"
    assert live.now["snapshot"]["names"] == ["animal", "food", "plant"]


def test_the_command_line_trains_it_by_a_formula_and_evaluates_it(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda name, **_: task)
    sharp_teacher(task).save_pretrained(tmp_path / "teacher")
    common = ["--task", "tiny", "--output", str(tmp_path / "out"), "--precision", "fp32", "--steps", "2"]
    formula = "0.5 * BinaryLabels() + 0.5 * LogitsMSE()"
    student = ["--student", "small-bert", "--layers", "1", "--width", "32"]
    main(["distill", "--teacher", str(tmp_path / "teacher"), "--objective", formula, *student, *common])
    card = json.loads((tmp_path / "out" / "card.json").read_text(encoding="utf-8"))
    assert 0 < card["scores"]["test"]["right_labels"] < 1
    main(["finetune", "--model", str(tmp_path / "out"), *common])
    assert "objective BinaryLabels()" in capsys.readouterr().out
    main(["evaluate", "--model", str(tmp_path / "out"), "--task", "tiny"])
    assert "right labels" in capsys.readouterr().out


class LastWord(MaskedLM):
    """The last token of each text, hidden."""

    def with_labels(self, batch, tokenizer, masking, generator, weights=None):
        rows, last = torch.arange(len(batch["index"])), batch["attention_mask"].sum(1) - 2  # before [SEP]
        ids, labels = batch["input_ids"].clone(), torch.full_like(batch["input_ids"], IGNORED)
        labels[rows, last], ids[rows, last] = ids[rows, last], tokenizer.mask_token_id
        return {**batch, "input_ids": ids, "labels": labels}


def test_a_kind_whose_labels_are_tokens_trains_by_chunks_and_is_measured(monkeypatch):
    monkeypatch.setitem(KINDS, "last-word", LastWord())
    task = replace(make_task("masked-lm"), kind="last-word")
    objective = objectives.MaskedLM() + SoftTargets(2)
    chunked, plain = (make_run(task, objective, chunked=chunked, steps=3) for chunked in (True, False))
    assert chunked.chunked
    losses = [[row["loss"] for row in run.run()] for run in (chunked, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    result = evaluate(chunked.student, task, latency=False)
    assert result.masked_tokens == len(task.split("test"))
    assert 0 <= result.score == result.accuracy <= 1
