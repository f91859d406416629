"""One body with several heads: what is learned through one, all have."""

from __future__ import annotations

import pytest
import torch
from helpers import make_task, model, refusal, same, weights

import kdtutor as kd
from kdtutor.models.static import static_student
from kdtutor.objectives.logits import HardLabels
from kdtutor.training.distillation import Distillation
from kdtutor.training.mutual import in_turns


@pytest.fixture
def tasks():
    return make_task(), make_task("regression", name="valued"), make_task(name="again")


@pytest.mark.parametrize("make", [model, static_student])
def test_three_heads_share_one_body_and_each_keeps_its_own_head(tasks, make):
    students = [make(task, seed=seed) for seed, task in enumerate(tasks)]
    heads = [weights(student.classifier) for student in students]
    body = kd.share_body(*students)
    assert all(getattr(student, student.base_model_prefix) is body for student in students)
    assert all(same(weights(s.classifier), head) for s, head in zip(students, heads, strict=True))
    # Weights are counted once: one body and three heads.
    counted = len({id(p) for student in students for p in student.parameters()})
    head = len(list(students[0].classifier.parameters()))
    assert counted == len(list(body.parameters())) + 3 * head


def test_a_step_through_any_head_is_a_step_of_the_body_of_all(tasks):
    students = [static_student(task, width=8, seed=seed) for seed, task in enumerate(tasks)]
    body = kd.share_body(*students)
    how = {"steps": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "progress": False}
    runs = [Distillation(s, None, t, HardLabels(), **how) for s, t in zip(students, tasks, strict=True)]
    read = tasks[0].encode_texts(["a small furry animal"]).batch(torch.tensor([0]))
    read = {name: read[name] for name in ("input_ids", "attention_mask")}
    for run in runs:
        before, heads = weights(body), [weights(s.classifier) for s in students]
        next(iter(run))
        assert not same(weights(body), before)
        still = [same(weights(s.classifier), head) for s, head in zip(students, heads, strict=True)]
        assert still == [run is not each for each in runs]
    assert [[step.number for step in steps] for steps in in_turns(*runs)] == [[2, 2, 2]]
    features = [
        student.eval().encoder(read["input_ids"], read["attention_mask"].bool())[0] for student in students
    ]
    assert all(torch.equal(features[0], each) for each in features)


def test_each_head_is_saved_with_the_body_and_answers_the_same_when_it_is_loaded(tasks, tmp_path):
    students = [static_student(task, width=8, seed=seed) for seed, task in enumerate(tasks)]
    kd.share_body(*students)
    for student, task in zip(students, tasks, strict=True):
        student.save_pretrained(tmp_path / task.name)
        loaded = type(student).from_pretrained(tmp_path / task.name)
        assert torch.equal(kd.predict(loaded, task, "test"), kd.predict(student, task, "test"))
        assert loaded.encoder is not student.encoder


def test_bodies_that_do_not_fit_are_refused_and_nothing_is_changed(tasks):
    a, b, c = (static_student(task, width=8, seed=0) for task in tasks)
    wide, bert = static_student(tasks[1], width=16), model(tasks[1])
    own = b.encoder
    assert "embeddings.weight is" in refusal(kd.share_body, a, b, wide)
    assert "a Static, its own a BertModel" in refusal(kd.share_body, a, b, bert)
    assert "twice" in refusal(kd.share_body, a, b, c, b)
    assert "a Linear has no body" in refusal(kd.share_body, torch.nn.Linear(2, 2), a)
    assert b.encoder is own
