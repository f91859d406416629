"""Objectives beyond logits in the loop: in parts and processes, from a checkpoint, on the command line, live."""

from __future__ import annotations

import os

import pytest
import torch
from helpers import distance, make_run, make_task, model, processes, refusal, same, take, weights
from transformers import AutoModelForSequenceClassification

import kdtutor as kd
from kdtutor import cli
from kdtutor.models.forward import forward
from kdtutor.models.students import small_bert
from kdtutor.objectives.parse import parse_objective
from kdtutor.objectives.relation_formulas import relational_distance
from kdtutor.training import checkpoints
from kdtutor.training.batches import Batches

# Of a teacher of 2 layers × 48 with 4 heads, for a student of 1 layer × 32.
FORMULA = "HardLabels() + 2 * SoftTargets(4) + 10 * ValueRelations() + 1 * HiddenStates('every second')"
BETWEEN_TEXTS = (
    "HardLabels() + RelationalDistance() + 2 * RelationalAngle() + SimilarityPreserving(pooling='mean') + "
    "PearsonKD(1, 1, 4) + Contrastive(width=8)"
)


@pytest.fixture(scope="module")
def task():
    return make_task()


def teacher_of(task):
    teacher = small_bert(task, layers=2, width=48, heads=4, seed=9)
    with torch.no_grad():
        if not task.rules.per_token:
            teacher.classifier.weight *= 20
    return teacher


def run_of(task, formula=FORMULA, **settings):
    return make_run(task, parse_objective(formula), teacher=teacher_of(task), **settings)


# ------------------------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize("formula", [FORMULA, BETWEEN_TEXTS])
def test_a_loss_is_the_weighted_sum_of_its_terms_and_falls(task, formula):
    run = run_of(task, formula, epochs=8, max_norm=10.0)
    history = run.run()
    for row in history:
        total = sum(
            term.weight * row[name] for term, name in zip(run.objective.terms, run.term_names, strict=True)
        )
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    first, last = (sum(row["loss"] for row in part) for part in (history[:6], history[-6:]))
    assert last < 0.9 * first


def test_projections_learn_and_are_clipped_with_everything_else(task):
    run = run_of(task, "HiddenStates('every second') + Contrastive(width=8)")
    learned = [p for term in run.objective.terms for p in term.parameters()]
    assert [tuple(p.shape) for p in learned] == [(48, 32), (8, 32), (8, 48)]
    assert {id(p) for p in learned} <= {id(p) for p in run.parameters}
    before = weights(run.objective)
    take(run, 1)
    assert all(not torch.equal(value, before[name]) for name, value in weights(run.objective).items())


def test_only_what_is_read_is_computed_and_answers_that_a_cache_would_mix_up_are_asked_anew(task):
    for formula, needs, mode in (
        (FORMULA, {"logits", "values", "hidden_states"}, "hidden_states, values of every token would fill"),
        ("KeyRelations()", {"keys"}, "keys of every token would fill the memory"),
        ("RelationalAngle()", {"hidden_states"}, "hidden_states of every token would fill the memory"),
        ("PearsonKD()", {"logits"}, "asked once, answers cached in memory"),
        ("HardLabels() + DecoupledKD()", {"logits"}, "asked once, answers cached in memory"),
    ):
        run = run_of(task, formula)
        assert run.needs == needs and mode in run.teacher_mode


def test_a_cached_teacher_serves_what_depends_on_the_batch_with_the_rows_of_that_batch(task):
    # Small steps: large ones make of a difference in float32's last digit one in the loss's third.
    settings = {"learning_rate": 1e-4}
    cached, online = (run_of(task, "PearsonKD(1, 1, 4)", cache=cache, **settings) for cache in (True, False))
    cached.run(), online.run()
    losses = ([row["loss"] for row in run.history] for run in (cached, online))
    assert next(losses) == pytest.approx(next(losses), rel=1e-3)


# ------------------------------------------------------------------------------------------------ what a batch is


@pytest.mark.parametrize("pieces", [(1, 4), (2, 2), (4, 1)], ids=str)
def test_a_batch_has_the_same_parts_however_many_processes_share_them(task, pieces):
    world, accumulate = pieces
    data = task.encode("train")
    for step in (0, 3, 5):
        cut = [
            part["index"].tolist()
            for rank in range(world)
            for part in Batches(task, data, 8, rank=rank, world=world, accumulate=accumulate)[step]
        ]
        whole = Batches(task, data, 8).index(step).tolist()
        assert sorted(cut) == sorted(whole[n::4] for n in range(4))


def test_a_steps_relation_is_the_mean_over_its_micro_batches_of_the_definition(task):
    run = run_of(task, "RelationalDistance()", accumulate=2)
    student, teacher = run.student, run.teacher
    expected, n = [], 0
    for batch in run.batches[0]:
        vectors = [
            forward(m.eval(), batch, {"hidden_states"}).hidden_states[-1][:, 0].detach().double()
            for m in (student, teacher)
        ]
        expected.append(relational_distance(*vectors).item())
        n += len(batch["index"])
    [step] = take(run, 1)
    assert (len(expected), n) == (2, 8)
    assert step.loss == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_a_part_of_one_text_counts_for_no_relation():
    task = make_task(rows=19)  # batches of 8, 8 and 3: the last has parts of two and one
    run = run_of(task, "SimilarityPreserving()", accumulate=2)
    counts = []
    for step in range(3):
        micro_batches = run.batches[step]
        counts.append((sorted(len(b["index"]) for b in micro_batches), run._counts(micro_batches).item()))
    assert sorted(counts) == [([1, 2], 1.0), ([4, 4], 2.0), ([4, 4], 2.0)]
    assert all(row["loss"] > 0 for row in run.run())


@pytest.mark.parametrize(
    ("formula", "settings", "said"),
    [
        (
            "RelationalDistance()",
            {"batch_size": 1},
            "RelationalDistance compares the texts of a micro-batch and wants 3",
        ),
        (
            "RelationalAngle()",
            {"batch_size": 2},
            "wants 3 or more of them, but a batch of 2 in 1 parts has 2",
        ),
        (
            "Contrastive()",
            {"accumulate": 8},
            "a batch of 8 in 8 parts has 1: a larger batch_size, or a smaller accumul",
        ),
    ],
)
def test_batches_that_never_hold_a_relation_are_refused_before_the_first_step(task, formula, settings, said):
    assert said in refusal(run_of, task, formula, **settings)


def test_equal_texts_have_no_relation_and_break_nothing():
    task = make_task(rows=8)
    train = task.splits["train"]
    train.texts[0][:] = [train.texts[0][0]] * 8
    history = run_of(task, "HardLabels() + RelationalDistance() + RelationalAngle()", epochs=3).run()
    assert all(row["RelationalDistance"] == row["RelationalAngle"] == 0 for row in history)
    assert all(row["grad_norm"] < 100 for row in history)


SCRIPT = """
import torch
from test_features import *
torch.set_num_threads(1)
two_process_run({formula!r}, {folder!r}).run()
torch.distributed.destroy_process_group()
"""


def two_process_run(formula, folder=None, **settings):
    """With a last batch of 9 texts in four parts, three of two texts."""
    task = make_task(rows=41)
    student = model(task, seed=1 if int(os.environ.get("RANK", 0)) == 0 else None)
    settings = {"batch_size": 16, "accumulate": 2, "learning_rate": 1e-4, "folder": folder} | settings
    return run_of(task, formula, student=student, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("formula", [FORMULA, BETWEEN_TEXTS.replace("RelationalAngle", "RelationalDistance")])
def test_two_processes_give_what_one_gives_with_as_many_parts(tmp_path, formula):
    results = processes(2, SCRIPT.format(formula=formula, folder=str(tmp_path)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    alone = two_process_run(formula, accumulate=4)
    alone.run()
    newest = checkpoints.found(tmp_path)[-1]
    history = checkpoints.read(newest, "cpu").history
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in alone.history], abs=1e-4)
    two = AutoModelForSequenceClassification.from_pretrained(newest)
    assert distance(weights(two), weights(alone.student)) < 2e-5


# ------------------------------------------------------------------------------------------------ everywhere


@pytest.mark.parametrize("formula", [FORMULA, "HardLabels() + Contrastive(width=8) + CLSPatience({1: 1})"])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped_with_its_projections(task, tmp_path, formula):
    whole = run_of(task, formula, dropout=0.1)
    whole.run()
    take(run_of(task, formula, dropout=0.1, folder=tmp_path, save_every=3), 3)
    second = run_of(task, formula, dropout=0.1, folder=tmp_path, save_every=3).resume()
    assert second.done == 3
    second.run()
    assert distance(weights(whole.student), weights(second.student)) == 0
    assert weights(whole.objective) and same(weights(whole.objective), weights(second.objective))


def test_the_command_line_distils_with_them(task, tmp_path, monkeypatch, capsys):
    teacher_of(task).save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda *_, **__: task)
    flags = [
        f"--teacher={tmp_path / 'teacher'}",
        f"--output={tmp_path / 'out'}",
        "--steps=2",
        "--batch_size=8",
    ]
    cli.main(
        [
            "distill",
            "--task=tiny",
            f"--objective={FORMULA}",
            "--student=small-bert",
            *flags,
            "--layers=1",
            "--width=32",
        ]
    )
    assert (
        "10 * ValueRelations(layers='last') + HiddenStates(layers='every second')" in capsys.readouterr().out
    )


def test_the_live_widget_names_them_and_goes_back_to_their_first_projections(task):
    pytest.importorskip("anywidget")
    from kdtutor.widgets.live import LiveDistillation

    live = LiveDistillation(run_of(task, steps=4), twin=True)
    names = [loss["name"] for loss in live.plan["losses"]]
    assert names == [
        "student, hard labels",
        "student, soft targets (T²·KL)",
        "student, value relations",
        "student, hidden states",
        "twin, hard labels",
    ]
    before = weights(live.distillation.objective)
    live.run(2)
    assert not same(weights(live.distillation.objective), before)
    live.reset()
    assert same(weights(live.distillation.objective), before)


NAMES = """
    CLSPatience AttentionMaps AttentionRelations ValueRelations QueryRelations KeyRelations RelationalDistance
    RelationalAngle SimilarityPreserving DecoupledKD PearsonKD Contrastive
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_they_are_offered_by_their_names(name):
    assert issubclass(getattr(kd, name), kd.Term) and getattr(kd, name).__doc__


# ------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    "formula",
    [
        FORMULA,
        BETWEEN_TEXTS,
        "AttentionMaps('scores') + AttentionMaps() + DecoupledKD() + CLSPatience({1: 1})",
    ],
)
def test_on_a_gpu_a_step_is_that_of_a_cpu_and_waits_for_nothing(task, formula):
    losses = []
    for device in ("cpu", "cuda"):
        student, teacher = model(task), small_bert(task, layers=2, width=48, heads=1, seed=9)
        objective = parse_objective(formula).to(device)
        torch.manual_seed(0)
        objective.prepare(student, teacher)
        torch.manual_seed(0)
        for parameter in objective.parameters():
            parameter.data = torch.randn(parameter.shape).to(parameter.device) / 8
        objective.to(device), student.to(device), teacher.to(device)
        batch = Batches(task, task.encode("train"), 8)[0][0]
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.no_grad():
            answers = forward(teacher.eval(), batch, objective.needs)
        ours = forward(student, batch, objective.needs)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            loss = objective(ours, answers, batch)
            loss.backward()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        losses.append(loss.item())
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
