"""Two students that teach each other: in turns, each from the other as it is now."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import make_task, model, refusal, same, weights

from kdtutor.evaluation.scores import predict
from kdtutor.models.static import static_student
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import HardLabels, SoftTargets
from kdtutor.training.mutual import in_turns, mutual_learning

RUN = {"batch_size": 8, "steps": 4, "learning_rate": 1e-2, "precision": "fp32", "progress": False}
GOAL = 1 * HardLabels() + 1 * SoftTargets(1)


@pytest.fixture
def task():
    return make_task()


def test_each_learns_from_the_other_as_it_is_at_that_moment(task):
    a, b = model(task, seed=1), model(task, seed=2)
    runs = mutual_learning(a, b, task, GOAL, **RUN | {"batch_size": 44})
    for steps in in_turns(*runs):
        before = [predict(each, task, "train").double() for each in (a, b)]
        if steps[0].number == 2:
            break

    # The third pair of steps, by the definition: first a from b, then b from a that has moved.
    turns = in_turns(*runs)
    next(turns)
    p_b, log_a = before[1].softmax(-1), before[0].log_softmax(-1)
    wanted = float((p_b * (p_b.log() - log_a)).sum(-1).mean())
    assert runs[0].history[2]["SoftTargets"] == pytest.approx(wanted, rel=1e-3)
    moved = predict(a, task, "train").double()
    assert (moved - before[0]).abs().max() > 1e-3
    p_a, log_b = moved.softmax(-1), before[1].log_softmax(-1)
    wanted = float((p_a * (p_a.log() - log_b)).sum(-1).mean())
    assert runs[1].history[2]["SoftTargets"] == pytest.approx(wanted, rel=1e-3)


def test_both_learn_to_the_end_and_stay_trainable(task):
    a, b = model(task, seed=1, dropout=0.1), static_student(task, width=16, seed=2)
    started = [weights(each) for each in (a, b)]
    runs = mutual_learning(a, b, task, GOAL, **RUN)
    seen = list(in_turns(*runs))
    assert [step.number for step, _ in seen] == [1, 2, 3, 4]
    assert all(run.is_over for run in runs)
    assert all(p.requires_grad for each in (a, b) for p in each.parameters())
    assert not any(same(weights(each), was) for each, was in zip((a, b), started, strict=True))
    assert all(math.isfinite(row["loss"]) for run in runs for row in run.history)


def test_the_peer_answers_without_dropout(task):
    a, b = model(task, seed=1), model(task, seed=2, dropout=0.5)
    runs = mutual_learning(a, b, task, GOAL, **RUN)
    b.train()
    batch = task.encode("train").batch(torch.arange(4))
    peer = runs[0].teacher
    asked = [peer(batch["input_ids"], batch["attention_mask"]).logits for _ in range(2)]
    assert torch.equal(*asked)
    assert b.training


def test_what_would_keep_an_answer_that_changes_is_refused(task):
    a, b = model(task, seed=1), model(task, seed=2)
    assert "its own peer" in refusal(mutual_learning, a, a, task, GOAL, **RUN)
    assert "change at every step" in refusal(mutual_learning, a, b, task, GOAL, cache=True, **RUN)
    assert "has none" in refusal(mutual_learning, a, b, task, CosineHidden(), **RUN)
