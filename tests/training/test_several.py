"""A student that learns from several teachers: each is asked for itself, and combined at each term's temperature."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import distance, make_run, make_task, model, refusal, same, sharp_teacher, weights

from kdtutor.evaluation.scores import predict
from kdtutor.models.ensemble import Ensemble
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import DecoupledKD, HardLabels, LogitsMSE, SoftTargets, blend
from kdtutor.training.plan import plan


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture
def teachers(task):
    return [sharp_teacher(task, seed) for seed in (1, 2, 3)]


def soft_loss(z_s, z_t, shares, temperature) -> float:
    """T² · KL(Σ w p_m ‖ p_S), by the definition, in float64; the mean over texts."""
    p_t = sum(w * (z.double() / temperature).softmax(-1) for w, z in zip(shares, z_t, strict=True))
    log_p_s = (z_s.double() / temperature).log_softmax(-1)
    return temperature**2 * float((p_t * (p_t.log() - log_p_s)).sum(-1).mean())


def test_every_term_meets_the_ensemble_at_its_own_temperature(task, teachers):
    objective = 1 * HardLabels() + 1 * SoftTargets(2) + 1 * SoftTargets(8) + 1 * LogitsMSE()
    student, ensemble = model(task), Ensemble(teachers, weights=[2, 1, 1])
    z_s = predict(student, task, "train")
    z_t = [predict(teacher, task, "train") for teacher in teachers]
    run = make_run(
        task, objective, student=student, teacher=ensemble, batch_size=44, steps=1, check_teacher=False
    )
    run.run()

    shares = [0.5, 0.25, 0.25]
    hard_term, at_two, at_eight, squared = (run.history[0][name] for name in run.term_names)
    assert at_two == pytest.approx(soft_loss(z_s, z_t, shares, 2), rel=1e-4)
    assert at_eight == pytest.approx(soft_loss(z_s, z_t, shares, 8), rel=1e-4)
    mean = sum(w * z.double() for w, z in zip(shares, z_t, strict=True))
    assert squared == pytest.approx(float((z_s - mean).square().mean()), rel=1e-4)
    labels = task.targets("train")
    hard = -float(z_s.double().log_softmax(-1)[torch.arange(len(labels)), labels].mean())
    assert hard_term == pytest.approx(hard, rel=1e-4)


def test_cached_or_asked_at_each_step_the_student_is_the_same(task, teachers, tmp_path):
    students = []
    for cache in (True, False, tmp_path):
        student = model(task)
        ensemble = Ensemble(teachers, weights="agreement")
        run = make_run(task, student=student, teacher=ensemble, cache=cache, check_teacher=False)
        run.run()
        students.append(weights(student))
    assert same(students[0], students[2])
    assert distance(students[0], students[1]) < 1e-5


def test_each_teacher_has_a_file_of_its_own_and_a_new_one_alone_is_asked(task, teachers, tmp_path):
    make_run(task, teacher=Ensemble(teachers[:2]), cache=tmp_path, check_teacher=False)
    first = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    run = make_run(task, teacher=Ensemble(teachers), cache=tmp_path, check_teacher=False)
    both = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    assert len(first) == 2
    assert len(both) == 3
    assert first.items() <= both.items()
    assert run.teacher_mode.startswith("3 teachers, their probabilities averaged: each asked once")


def test_weights_of_one_teacher_alone_are_that_teacher(task, teachers):
    students = [model(task), model(task)]
    make_run(task, student=students[0], teacher=teachers[1], check_teacher=False).run()
    alone = Ensemble(teachers, weights=[0, 1, 0])
    make_run(task, student=students[1], teacher=alone, check_teacher=False).run()
    assert distance(*(weights(student) for student in students)) < 1e-5


def test_mean_of_probabilities_and_of_logits_teach_differently(task, teachers):
    students = []
    for combine in ("probabilities", "logits"):
        students.append(model(task))
        teacher = Ensemble(teachers, combine=combine)
        make_run(task, student=students[-1], teacher=teacher, check_teacher=False).run()
    assert distance(*(weights(student) for student in students)) > 1e-4


def test_other_terms_on_logits_take_an_ensemble_too(task, teachers):
    run = make_run(task, DecoupledKD(), teacher=Ensemble(teachers), check_teacher=False)
    assert all(math.isfinite(row["loss"]) for row in run.run())


def test_terms_that_read_hidden_states_refuse_an_ensemble(task, teachers):
    said = refusal(make_run, task, CosineHidden(), teacher=Ensemble(teachers))
    assert said == "CosineHidden reads hidden states, and the teacher, an ensemble, has none"


def test_a_teacher_whose_classes_are_mixed_up_is_named(task, teachers):
    good, bad = (model(task, seed) for seed in (4, 5))
    for teacher in (good, bad):
        make_run(task, HardLabels(), student=teacher, epochs=40, learning_rate=3e-3, max_norm=100).run()
    with torch.no_grad():
        for parameter in bad.classifier.parameters():
            parameter.copy_(parameter[[1, 2, 0]])
    assert "teacher 2: the teacher is right on " in refusal(make_run, task, teacher=Ensemble([good, bad]))


def test_a_run_with_an_ensemble_resumes_and_refuses_other_weights(task, teachers, tmp_path):
    def run(shares):
        teacher = Ensemble(teachers, weights=shares)
        return make_run(task, teacher=teacher, folder=tmp_path, check_teacher=False, save_every=2)

    whole = run([2, 1, 1])
    for step in whole:
        if step.number == 2:
            break
    resumed = run([2, 1, 1])
    resumed.resume()
    assert resumed.done == 2
    assert "teacher" in refusal(run([1, 1, 1]).resume)


def test_the_plan_counts_every_teachers_answers(task, teachers):
    planned = plan(
        model(task), Ensemble(teachers), task, blend(), batch_size=8, measure=False, check_teacher=False
    )
    assert planned.memory["teacher's answers"] == 3 * 44 * 3 * 4
