"""The training loop: what it computes, what it leaves alone, what it survives, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ROWS,
    WORDS,
    distance,
    make_run,
    make_task,
    model,
    processes,
    same,
    sharp_teacher,
    take,
    weights,
    without_time,
)
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError
from kdtutor.models.depth import half_depth
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.forward import forward
from kdtutor.models.students import small_bert
from kdtutor.objectives.hidden import CosineHidden, HiddenStates
from kdtutor.objectives.logits import HardLabels, LogitsMSE, MaskedLM, SoftTargets, blend
from kdtutor.objectives.rows import ObjectiveError
from kdtutor.training import checkpoints
from kdtutor.training.batches import Batches
from kdtutor.training.distillation import Distillation
from kdtutor.training.history import NonFiniteLoss


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task()


@pytest.fixture(scope="module")
def glosses() -> Task:
    return make_task("masked-lm")


# ------------------------------------------------------------------------------------------------ who learns


def test_the_student_learns_and_the_teacher_stays_as_it_was(task):
    teacher = sharp_teacher(task).train()
    before, run = weights(teacher), make_run(task, teacher=teacher, cache=False)
    untrained = weights(run.student)
    run.run()
    assert same(weights(teacher), before)
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    changed = {
        name for name, value in weights(run.student).items() if not torch.equal(value, untrained[name])
    }
    # The same for every key of a query, the last layer's key bias changes no weight of any token, and has no gradient.
    last = max(name for name in untrained if name.endswith("key.bias"))
    assert changed == set(untrained) - {last}
    assert run.student.training


def test_the_optimiser_holds_all_of_the_student_and_nothing_of_the_teacher(task):
    run = make_run(task)
    held = [id(p) for group in run.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in run.student.parameters())
    assert not set(held) & {id(p) for p in run.teacher.parameters()}


def test_a_teacher_put_into_train_mode_between_steps_still_answers_without_dropout(task):
    quiet, disturbed = make_run(task, cache=False), make_run(task, cache=False)
    quiet.run()
    for _ in disturbed:
        disturbed.teacher.train()
    assert same(weights(quiet.student), weights(disturbed.student))


def test_training_makes_the_loss_smaller():
    by_first_word = torch.arange(ROWS) * 7 % len(WORDS) % 3
    task = make_task(targets=by_first_word)
    history = make_run(task, HardLabels(), epochs=10, learning_rate=5e-3).run()
    assert sum(row["loss"] for row in history[-6:]) < 0.8 * sum(row["loss"] for row in history[:6])


def test_weight_decay_spares_biases_and_layer_norms(task):
    run = make_run(task, weight_decay=0.1)
    decayed = {
        id(p) for group in run.optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    for name, parameter in run.student.named_parameters():
        assert (id(parameter) in decayed) == (not name.endswith("bias") and "LayerNorm" not in name), name


# ------------------------------------------------------------------------------------------------ the cache


def test_a_cached_teacher_and_one_asked_at_every_step_train_the_same_student(task):
    cached, online = make_run(task), make_run(task, cache=False)
    cached.run(), online.run()
    assert cached.teacher_mode == "asked once, answers cached in memory, 0.5 kB"
    assert online.teacher_mode == "asked at every step (cache=False)"
    assert distance(weights(cached.student), weights(online.student)) < 1e-5
    assert [r["loss"] for r in cached.history] == pytest.approx([r["loss"] for r in online.history], abs=1e-5)


def test_answers_on_disk_are_used_again(task, tmp_path, monkeypatch):
    first = make_run(task, cache=tmp_path)
    [file] = tmp_path.glob("[!.]*")
    assert str(tmp_path) in first.teacher_mode
    monkeypatch.setattr(
        "kdtutor.training.teachers.logits_by_batch",
        lambda *_, **__: pytest.fail("the teacher was asked again"),
    )
    second = make_run(task, cache=str(tmp_path))
    assert torch.equal(first.answers.logits, second.answers.logits)
    assert [*tmp_path.glob("[!.]*")] == [file]


def test_answers_on_disk_belong_to_one_teacher_task_split_and_precision(task, tmp_path):
    told = "the answers that lie there already are another teacher's, or to other texts: not used"
    assert told not in make_run(task, cache=tmp_path).teacher_mode
    assert told in make_run(task, teacher=sharp_teacher(task, seed=10), cache=tmp_path).teacher_mode
    assert told not in make_run(task, cache=tmp_path).teacher_mode
    make_run(task.subset(20), cache=tmp_path)
    make_run(task, split="validation", cache=tmp_path)
    make_run(task, precision="bf16", cache=tmp_path)
    make_run(task, fast=False, cache=tmp_path)
    assert len([*tmp_path.glob("[!.]*")]) == 6


def test_answers_on_disk_that_are_not_what_was_written_are_named_and_never_used(task, tmp_path):
    make_run(task, cache=tmp_path)
    [file] = tmp_path.glob("[!.]*")
    whole = file.read_bytes()
    answers = np.load(file)
    assert np.array_equal(answers, make_run(task).answers.logits)

    def saved(array: np.ndarray) -> bytes:
        np.save(tmp_path / "other.npy", array)
        return (tmp_path / "other.npy").read_bytes() + whole[-32:]

    for damaged in (
        whole[:-40],
        whole[:-32],  # as it was before answers had a hash
        whole + b"more",
        bytes(len(whole)),
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 50)),
        saved(answers.astype(np.float64)),
        saved(answers.astype(np.int32)),
        saved(answers[:, :2]),
        saved(np.asfortranarray(answers)),
        saved(np.zeros_like(answers)),
    ):
        file.write_bytes(damaged)
        with pytest.raises(KDTutorError, match=f"{file.name} is damaged .*; delete it"):
            make_run(task, cache=tmp_path)
    file.write_bytes(whole)
    assert torch.equal(make_run(task, cache=tmp_path).answers.logits, torch.from_numpy(answers))


def test_without_amx_a_narrow_student_learns_in_float32_and_its_teacher_answers_in_bf16(
    task, glosses, monkeypatch
):
    for name, there in (("amx_tile", False), ("avx512_bf16", True)):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda there=there: there, raising=False)
    for run, which, expected in (
        (make_run(task, precision="auto"), "narrow", (False, True)),
        (make_run(task, precision="auto", student=small_bert(task, 1, 192, seed=0)), "wide", (True, True)),
        (make_run(task, precision="bf16"), "as asked", (True, True)),
        (make_run(task, precision="fp32"), "as asked", (False, False)),
        (make_run(glosses, MaskedLM() + SoftTargets(2), precision="auto"), "many logits", (True, True)),
    ):
        assert (run.bf16, run.answers.inference.bf16) == expected, which
    mixed = make_run(task, precision="auto", cache=False, steps=3)
    assert all(math.isfinite(row["loss"]) for row in mixed.run())


def test_the_teachers_mode_says_why(task, glosses, tmp_path):
    assert make_run(task, HardLabels()).teacher_mode == "not used (no term needs a teacher)"
    assert make_run(task, CosineHidden()).teacher_mode == (
        "asked at every step (hidden_states of every token would fill the memory)"
    )
    assert "masks are drawn anew" in make_run(glosses, SoftTargets(2)).teacher_mode
    with pytest.raises(KDTutorError, match=r"can't be cached in .*: masks are drawn anew"):
        make_run(glosses, SoftTargets(2), cache=tmp_path)


def test_a_fingerprint_survives_saving_and_loading_and_tells_weights_apart(task, tmp_path):
    teacher = sharp_teacher(task)
    before = fingerprint(teacher)
    teacher.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert fingerprint(teacher) == fingerprint(loaded) == before
    with torch.no_grad():
        loaded.classifier.bias[0] += 1e-6
    assert fingerprint(loaded) != before


# ------------------------------------------------------------------------------------------------ what it computes


def by_hand(task: Task, student, teacher, run: Distillation, rate: float) -> list[float]:
    """The loop as a learner writes it: hard labels × 0.3 + soft targets at T = 2 × 0.7."""
    student.train(), teacher.eval()
    matrices = [p for p in student.parameters() if p.ndim >= 2]
    vectors = [p for p in student.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    warm, losses = round(0.25 * run.total_steps), []
    for step in range(run.total_steps):
        chosen = run.batches.index(step).tolist()
        train = [task.texts("train")[i] for i in chosen]
        batch = task.tokenizer(train, padding=True, truncation=True, max_length=24, return_tensors="pt")
        logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        with torch.no_grad():
            answers = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        hard = F.cross_entropy(logits, task.targets("train")[chosen])
        soft = F.kl_div((logits / 2).log_softmax(-1), (answers / 2).softmax(-1), reduction="batchmean")
        loss = 0.3 * hard + 0.7 * 4 * soft
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        decay = (run.total_steps - step) / (run.total_steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / warm, decay, 1)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_loop_is_a_plain_pytorch_loop(task):
    run = make_run(task, epochs=2, warmup=0.25, learning_rate=1e-4)
    student = copy.deepcopy(run.student)
    losses = by_hand(task, student, run.teacher, run, 1e-4)
    run.run()
    assert [row["loss"] for row in run.history] == pytest.approx(losses, abs=1e-6)
    assert distance(weights(run.student), weights(student)) < 1e-6


@pytest.mark.parametrize("kind", ["classification", "masked-lm"])
def test_cutting_a_batch_into_uneven_parts_changes_nothing(kind):
    task = make_task(kind)
    objective = {
        "classification": HardLabels() + SoftTargets(3),
        "masked-lm": 2 * MaskedLM() + SoftTargets(2),
    }[kind]
    whole, cut = (make_run(task, objective, accumulate=n, epochs=2, learning_rate=1e-4) for n in (1, 3))
    whole.run(), cut.run()
    assert [row["loss"] for row in cut.history] == pytest.approx(
        [row["loss"] for row in whole.history], abs=2e-6
    )
    assert distance(weights(whole.student), weights(cut.student)) < 2e-6


def test_more_parts_than_examples_are_as_many_as_there_are_examples(task):
    run = make_run(task, accumulate=20, steps=6)
    assert {len(run.batches[step]) for step in range(6)} == {4, 8}
    run.run()


def test_an_unlabelled_example_counts_for_the_soft_targets_alone():
    targets = torch.arange(ROWS) * 5 % 3
    targets[::3] = IGNORED
    task = make_task(targets=targets)
    run = make_run(task, HardLabels() + SoftTargets(2), teacher=sharp_teacher(task))
    before = copy.deepcopy(run.student)
    [step] = take(run, 1)
    chosen = run.batches.index(0)
    labelled = targets[chosen] != IGNORED
    assert 0 < labelled.sum() < 8
    logits = forward(before, task.encode("train").batch(chosen)).logits
    hard = F.cross_entropy(logits[labelled], targets[chosen][labelled])
    answers = run.answers.logits[chosen]
    soft = 4 * F.kl_div((logits / 2).log_softmax(-1), (answers / 2).softmax(-1), reduction="batchmean")
    assert step.terms == pytest.approx({"HardLabels": hard.item(), "SoftTargets": soft.item()}, abs=1e-5)


def test_a_batch_without_any_label_trains_on_nothing_and_breaks_nothing():
    targets = torch.full((ROWS,), IGNORED)
    targets[0] = 1
    task = make_task(targets=targets)
    history = make_run(task, HardLabels()).run()
    assert sorted(row["loss"] for row in history)[:-1] == [0.0] * 5
    assert history[-1]["grad_norm"] >= 0


def test_distilberts_objective_trains_a_half_depth_student(glosses):
    teacher = small_bert(glosses, layers=2, width=32, seed=3)
    student = half_depth(teacher, seed=4)
    untrained = weights(student)
    objective = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()
    history = make_run(glosses, objective, student=student, teacher=teacher, epochs=2).run()
    assert len(history) == 12
    assert all(math.isfinite(row["loss"]) for row in history)
    total = 5 * history[0]["SoftTargets"] + 2 * history[0]["MaskedLM"] + history[0]["CosineHidden"]
    assert history[0]["loss"] == pytest.approx(total, rel=1e-5)
    assert not same(weights(student), untrained)


def test_masked_lm_alone_learns_to_fill_the_gaps(glosses):
    history = make_run(glosses, MaskedLM(), epochs=6, learning_rate=3e-3, masking=0.3).run()
    assert history[-1]["MaskedLM"] < 0.7 * history[0]["MaskedLM"]


def test_every_epoch_has_every_example_once_in_an_order_of_its_own(task):
    batches = Batches(task, task.encode("train"), batch_size=8)
    epochs = [torch.cat([batches.index(6 * epoch + i) for i in range(6)]) for epoch in range(2)]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [[*range(ROWS)]] * 2
    assert not torch.equal(*epochs)


def test_processes_share_a_batch_and_its_masks(glosses):
    encoded = glosses.encode("train")
    [whole] = Batches(glosses, encoded, 8)[3]
    parts = [Batches(glosses, encoded, 8, accumulate=2, rank=rank, world=2)[3] for rank in range(2)]
    pieces = [piece for part in parts for piece in part]
    assert len(pieces) == 4
    for piece in pieces:
        for row, index in enumerate(piece["index"]):
            [there] = (whole["index"] == index).nonzero()[:, 0].tolist()
            length = int(piece["attention_mask"][row].sum())
            assert torch.equal(piece["input_ids"][row, :length], whole["input_ids"][there, :length])
    assert sorted(i for p in pieces for i in p["index"].tolist()) == sorted(whole["index"].tolist())


def test_hidden_states_of_another_width_bring_a_projection_that_is_trained_clipped_and_saved(task, tmp_path):
    run = make_run(
        task, 100 * HiddenStates(), teacher=sharp_teacher(task, width=64), max_norm=0.5, folder=tmp_path
    )
    [projection] = run.objective.terms[0].projections
    before = projection.weight.detach().clone()
    for step in take(run, 3):
        assert run.history[step.number - 1]["grad_norm"] > 0.5
        gradients = [p.grad for p in [*run.student.parameters(), projection.weight] if p.grad is not None]
        assert torch.cat([g.flatten() for g in gradients]).norm() <= 0.5 + 1e-4
    assert not torch.equal(before, projection.weight)
    run.save()
    again = make_run(task, 100 * HiddenStates(), teacher=run.teacher, max_norm=0.5, folder=tmp_path).resume()
    assert torch.equal(again.objective.terms[0].projections[0].weight, projection.weight)
    again.folder = None
    run.run(), again.run()
    assert torch.equal(again.objective.terms[0].projections[0].weight, projection.weight)


def test_regression_learns_from_numbers_and_from_a_teachers_numbers():
    task = make_task("regression")
    history = make_run(task, HardLabels() + LogitsMSE(), epochs=3).run()
    assert history[-1]["loss"] < history[0]["loss"]


# ------------------------------------------------------------------------------------------------ the schedule


def test_the_rate_rises_to_the_peak_and_falls_but_is_never_zero(task):
    rates = [row["learning_rate"] for row in make_run(task, steps=20, warmup=0.2, learning_rate=1e-3).run()]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert max(rates) == pytest.approx(1e-3)
    assert rates[4:] == pytest.approx([1e-3 * (20 - step) / 16 for step in range(4, 20)])
    assert rates[-1] > 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_schedule_may_lack_the_warm_up_or_the_decay(task, warmup):
    rates = [row["learning_rate"] for row in make_run(task, steps=4, warmup=warmup, learning_rate=1e-3).run()]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3][:: -1 if warmup else 1])


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (2.0, 12), (0.5, 3), (0.01, 1)])
def test_epochs_may_be_a_fraction(task, epochs, steps):
    run = make_run(task, epochs=epochs)
    assert len(run) == run.total_steps == steps
    assert isinstance(run.total_steps, int)


def test_steps_go_round_the_data_as_often_as_needed(task):
    run = make_run(task, HardLabels(), steps=8)
    assert [round(step.epoch, 3) for step in run] == [round(n / 6, 3) for n in range(1, 9)]


# ------------------------------------------------------------------------------------------------ steering


def test_what_is_changed_between_steps_acts_on_the_next_one_and_is_in_the_history(task):
    goal = blend(alpha=0.5, temperature=2)
    run = make_run(task, goal, steps=4, warmup=0)
    steps = iter(run)
    next(steps)
    goal.alpha, goal.temperature = 0.25, 8
    run.learning_rate = 1e-4
    student = copy.deepcopy(run.student)
    next(steps)
    chosen = run.batches.index(1)
    logits, answers = forward(student, task.encode("train").batch(chosen)).logits, run.answers.logits[chosen]
    hard = F.cross_entropy(logits, task.targets("train")[chosen])
    soft = 64 * F.kl_div((logits / 8).log_softmax(-1), (answers / 8).softmax(-1), reduction="batchmean")
    first, second = run.history
    assert second["loss"] == pytest.approx((0.25 * hard + 0.75 * soft).item(), abs=1e-4)
    assert first["settings"] == [{"weight": 0.5}, {"weight": 0.5, "temperature": 2.0}]
    assert second["settings"] == [{"weight": 0.25}, {"weight": 0.75, "temperature": 8.0}]
    assert (first["learning_rate"], second["learning_rate"]) == pytest.approx((1e-3, 0.75e-4))


def test_a_term_of_weight_0_is_not_computed(task):
    class Costly(HardLabels):
        def forward(self, *_, **__):
            pytest.fail("computed")

    history = make_run(task, HardLabels() + 0 * Costly(), steps=2).run()
    assert history[0]["loss"] == history[0]["HardLabels"]


def test_a_sum_of_weights_0_is_refused_and_the_run_goes_on_once_one_is_not(task):
    goal = 1 * HardLabels()
    run = make_run(task, goal, steps=4)
    take(run, 1)
    before = weights(run.student)
    goal.weight = 0
    with pytest.raises(ObjectiveError, match="nothing to learn"):
        take(run, 1)
    assert same(weights(run.student), before)
    goal.weight = 1
    assert [step.number for step in run] == [2, 3, 4]


def test_breaking_off_and_iterating_again_goes_on(task):
    straight, broken = make_run(task, dropout=0.1, epochs=2), make_run(task, dropout=0.1, epochs=2)
    straight.run()
    for step in broken:
        if step.number == 4:
            break
    assert [step.number for step in broken] == [*range(5, 13)]
    assert same(weights(straight.student), weights(broken.student))
    assert [*broken] == []
    assert broken.run() == broken.history
    assert len(broken.history) == 12


@pytest.mark.parametrize("objective", [HardLabels(), HiddenStates()], ids=["no teacher", "projection"])
def test_the_callers_random_state_is_left_alone(task, objective):
    teacher = sharp_teacher(task, width=64)
    student = model(task, dropout=0.1)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    make_run(task, objective, student=student, teacher=teacher, steps=3).run()
    assert torch.equal(torch.rand(3), expected)


def test_random_draws_between_the_steps_change_nothing_and_the_seed_decides_all(task):
    def trained(seed: int, draw: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(torch.seed() if draw else 0)
        teacher = sharp_teacher(task, width=64)
        run = make_run(task, HardLabels() + HiddenStates(), teacher=teacher, dropout=0.1, seed=seed)
        for _ in run:
            if draw:
                torch.rand(7)
        return weights(run.student)

    once = trained(0)
    assert same(once, trained(0))
    assert same(once, trained(0, draw=True))
    assert not same(once, trained(1))


# ------------------------------------------------------------------------------------------------ what it tells


def test_the_history_has_a_row_for_each_step(task):
    run = make_run(task, HardLabels() + SoftTargets(1) + 0.5 * SoftTargets(4), epochs=1)
    losses = [step.loss for step in run]
    history = run.history
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in history] == losses
    assert history[-1]["epoch"] == 1
    assert sum(row["tokens"] for row in history) == int(task.encode("train").lengths.sum())
    assert all(row["seconds"] > 0 and row["grad_norm"] > 0 for row in history)
    for row in history:
        assert row["loss"] == pytest.approx(
            row["HardLabels"] + row["SoftTargets"] + 0.5 * row["SoftTargets2"], rel=1e-5
        )
    assert json.loads(json.dumps(history)) == history


def test_a_step_prints_without_an_address(task):
    [step] = take(make_run(task, HardLabels()), 1)
    assert repr(step) == f"Step(number=1, epoch={1 / 6}, total=6)"
    assert step.terms == {"HardLabels": step.loss}


def test_the_bar_is_shown_where_somebody_looks(task, capsys, monkeypatch):
    make_run(task, HardLabels(), steps=2).run()
    assert capsys.readouterr() == ("", "")  # stderr is no terminal here
    make_run(task, HardLabels(), steps=2, progress=True).run()
    out, err = capsys.readouterr()
    assert not out
    assert "0/2" in err
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel="there is one"))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    make_run(task, HardLabels(), steps=2).run()
    out, err = capsys.readouterr()
    assert "0/2" in out
    assert not err
    make_run(task, HardLabels(), steps=2, progress=False).run()
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------ NaN


class Breaks(HardLabels):
    """Hard labels that are NaN in some calls: from the seventh on, or in the seventh alone."""

    def __init__(self, calls=range(7, 10**6)):
        super().__init__()
        self.calls, self.called = calls, 0

    def forward(self, *arguments, **how):
        self.called += 1
        return super().forward(*arguments, **how) * (math.nan if self.called in self.calls else 1)


@pytest.mark.parametrize("calls", [range(7, 10**6), [7]], ids=["from step 7 on", "in step 7 alone"])
def test_nan_stops_the_run_within_ten_steps_with_the_weights_of_the_last_good_one(task, tmp_path, calls):
    objective = SoftTargets(2) + Breaks(calls)
    good = make_run(task, SoftTargets(2) + HardLabels(), epochs=5, dropout=0.1)
    take(good, 6)
    run = make_run(task, objective, epochs=5, dropout=0.1, folder=tmp_path, save_every=4)
    steps = []
    with pytest.raises(NonFiniteLoss) as error:
        steps.extend(run)
    assert run.done == len(run.history) == 6
    assert "step 7: the term Breaks is not finite" in str(error.value)
    assert "checkpoint-0000004 is whole" in str(error.value)
    assert same(weights(run.student), weights(good.student))
    for mine, theirs in zip(run.optimizer.state.values(), good.optimizer.state.values(), strict=True):
        assert same(mine, theirs)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["checkpoint-0000004"]


def test_nan_is_noticed_before_10_steps_if_the_run_ends_or_is_saved(task, tmp_path):
    with pytest.raises(NonFiniteLoss, match="step 2"):
        make_run(task, Breaks([2]), steps=3).run()
    run = make_run(task, Breaks([2]), steps=30)
    take(run, 4)
    with pytest.raises(NonFiniteLoss, match="step 2"):
        run.save(tmp_path)
    assert not [*tmp_path.glob("[!.]*")]


def test_a_run_goes_on_after_nan_once_its_cause_is_gone(task):
    run = make_run(task, Breaks([7]), epochs=3)
    with pytest.raises(NonFiniteLoss):
        run.run()
    good = make_run(task, HardLabels(), epochs=3)
    assert [step.number for step in run] == [*range(7, 19)]
    good.run()
    assert same(weights(run.student), weights(good.student))


def test_a_gradient_that_overflows_is_told_from_a_term_that_does(task):
    class Steep(HardLabels):
        def forward(self, student, teacher, batch, reduction="none"):
            return (
                super().forward(student, teacher, batch, reduction) + (student.logits * 0).sum().abs().sqrt()
            )

    before_first = model(task)
    run = make_run(task, Steep(), student=copy.deepcopy(before_first), steps=2)
    with pytest.raises(NonFiniteLoss, match=r"step 1: the gradient \(every term is finite\)"):
        run.run()
    assert same(weights(run.student), weights(before_first))


def test_fused_adamw_leaves_everything_alone_where_the_flag_is_set():
    """What the loop relies on, on this device and with this version of torch."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.1, fused=True)
    parameter.grad = torch.full((3,), math.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3))
    assert {name: float(value.sum()) for name, value in optimizer.state[parameter].items()} == {
        "step": 0,
        "exp_avg": 0,
        "exp_avg_sq": 0,
    }


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize(
    ("save_every", "kept", "stop"), [(None, [6], 6), (None, [6], 8), (4, [4, 8], 8), (1, [6, 7], 7)]
)
def test_a_resumed_run_is_bit_identical_to_one_that_was_never_stopped(task, tmp_path, save_every, kept, stop):
    settings = {"dropout": 0.1, "epochs": 3, "save_every": save_every}
    straight = make_run(task, **settings, folder=tmp_path / "straight")
    straight.run()
    take(make_run(task, **settings, folder=tmp_path / "stopped"), stop)
    assert [path.name for path in checkpoints.found(tmp_path / "stopped")] == [
        f"checkpoint-{n:07d}" for n in kept
    ]
    resumed = make_run(
        task, **settings, folder=tmp_path / "stopped", student=model(task, seed=77, dropout=0.1)
    )
    assert resumed.resume() is resumed
    assert resumed.done == kept[-1]
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student))
    assert without_time(resumed.history) == without_time(straight.history)
    assert [*resumed] == []


def test_resuming_works_for_masked_lm_and_tied_weights(glosses, tmp_path):
    objective = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()
    teacher = small_bert(glosses, layers=2, width=32, seed=3)

    def fresh() -> Distillation:
        student = half_depth(teacher, seed=4)
        return make_run(glosses, objective, student=student, teacher=teacher, folder=tmp_path, save_every=3)

    run = fresh()
    take(run, 3)
    resumed = fresh().resume()
    assert resumed.student.vocab_projector.weight is resumed.student.get_input_embeddings().weight
    run.run()
    checkpoints_left = checkpoints.found(tmp_path)
    assert [path.name for path in checkpoints_left] == ["checkpoint-0000003", "checkpoint-0000006"]
    resumed = fresh().resume()
    assert same(weights(resumed.student), weights(run.student))


def test_changes_made_during_the_run_survive(task, tmp_path):
    def fresh(goal) -> Distillation:
        return make_run(task, goal, epochs=3, dropout=0.1, folder=tmp_path)

    goal = blend(alpha=0.3, temperature=2)
    run = fresh(goal)
    take(run, 6)  # a checkpoint …
    goal.alpha, goal.temperature, run.learning_rate = 0.6, 5, 2e-4
    run.save()  # … written again
    again = blend(alpha=0.3, temperature=2)
    resumed = fresh(again).resume()
    assert (again.alpha, again.temperature, resumed.learning_rate) == (0.6, 5, 2e-4)
    run.run()
    resumed.folder = None
    resumed.run()
    assert same(weights(resumed.student), weights(run.student))
    assert without_time(resumed.history) == without_time(run.history)


def test_the_very_objective_that_was_changed_may_be_resumed_with(task, tmp_path):
    goal = blend(alpha=0.3, temperature=2)
    run = make_run(task, goal, epochs=2, folder=tmp_path)
    steps = iter(run)
    next(steps)
    goal.temperature = 5
    take(run, 5)
    steered = make_run(task, goal, epochs=2, folder=tmp_path).resume()
    assert steered.done == 6
    steered.run()
    anew = make_run(task, blend(alpha=0.3, temperature=2), epochs=2, folder=tmp_path).resume()
    assert (anew.done, anew.objective.temperature) == (12, 5), "the script as it was written, run again"
    with pytest.raises(KDTutorError, match="another objective"):
        make_run(task, blend(alpha=0.3, temperature=7), epochs=2, folder=tmp_path).resume()


def test_resuming_with_something_else_is_refused_and_the_difference_named(task, tmp_path):
    teacher = sharp_teacher(task)
    take(make_run(task, HardLabels() + SoftTargets(2), teacher=teacher, folder=tmp_path, epochs=2), 6)

    def resume(task=task, objective=None, teacher=teacher, **changes) -> None:
        objective = objective or HardLabels() + SoftTargets(2)
        make_run(task, objective, teacher=teacher, folder=tmp_path, **({"epochs": 2} | changes)).resume()

    resume()
    for culprit, changes in {
        "task": {"task": task.subset(40)},
        "teacher": {"teacher": sharp_teacher(task, seed=10)},
        "objective: .* SoftTargets.temperature=2., now HardLabels.. . SoftTargets.temperature=4": {
            "objective": HardLabels() + SoftTargets(4)
        },
        "objective": {"objective": SoftTargets(2) + HardLabels()},
        "student": {"student": model(task, width=64)},
        "batch_size: 8, now 4": {"batch_size": 4, "steps": 12},
        "accumulate: 1, now 2": {"accumulate": 2},
        "precision: fp32, now bf16": {"precision": "bf16"},
        "student's hidden_dropout_prob: 0.0, now 0.5": {"student": model(task, dropout=0.5)},
        "student's num_attention_heads: 1, now 2": {"student": small_bert(task, 1, 32, heads=2, seed=1)},
        "total_steps: 12, now 9; a resumed run may be longer, not shorter": {"steps": 9},
        "learning_rate": {"learning_rate": 1e-4},
        "seed: 0, now 1": {"seed": 1},
        "weight_decay": {"weight_decay": 0},
    }.items():
        with pytest.raises(KDTutorError, match=f"checkpoint-0000006 was made with another {culprit}"):
            resume(**changes)


@pytest.mark.parametrize("stopped_after", [7, 12])
def test_a_run_goes_on_to_more_epochs_at_the_rates_of_the_longer_run(task, tmp_path, stopped_after):
    settings = {"dropout": 0.1, "folder": tmp_path, "save_every": 1}
    short = make_run(task, epochs=2, **settings)
    take(short, stopped_after)
    longer = make_run(task, epochs=4, **settings).resume()
    assert longer.done == stopped_after
    assert [step.number for step in longer] == [*range(stopped_after + 1, 25)]
    rates = [row["learning_rate"] for row in longer.history]
    schedule, total = longer.settings.schedule, longer.total_steps
    assert rates[:stopped_after] == [1e-3 * schedule(step, 12) for step in range(stopped_after)]
    assert rates[stopped_after:] == [1e-3 * schedule(step, 24) for step in range(stopped_after, total)]
    tokens = [longer.batches.tokens(step) for step in range(24)]
    assert [row["tokens"] for row in longer.history] == tokens, "the texts go on where they stopped"
    assert make_run(task, epochs=4, **settings).resume().done == 24


def test_resuming_without_a_checkpoint_says_so(task, tmp_path):
    with pytest.raises(KDTutorError, match="no checkpoint in"):
        make_run(task, folder=tmp_path).resume()
    with pytest.raises(KDTutorError, match="no checkpoint in"):
        make_run(task).resume()
    with pytest.raises(KDTutorError, match="no folder to save to"):
        make_run(task).save()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("state.json", "truncated"),
        ("state.json", "gone"),
        ("state.json", "one bit"),
        ("history.jsonl", "truncated"),
        ("history.jsonl", "gone"),
        ("history.jsonl", "one bit"),
        ("model.safetensors", "truncated"),
        ("model.safetensors", "gone"),
        ("model.safetensors", "one bit"),
        ("optimizer.safetensors", "truncated"),
        ("optimizer.safetensors", "gone"),
        ("optimizer.safetensors", "one bit"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_of_it_is_used(task, tmp_path, file, damage):
    run = make_run(task, HardLabels(), folder=tmp_path, steps=1)
    run.run()
    path = tmp_path / "checkpoint-0000001" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= damage == "one bit"
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    student = model(task, seed=5)
    before = weights(student)
    with pytest.raises(KDTutorError, match=r"checkpoint-0000001 is damaged \(.*\); delete it"):
        make_run(task, HardLabels(), student=student, folder=tmp_path, steps=1).resume()
    assert same(weights(student), before)


def test_a_checkpoint_loads_with_from_pretrained_and_others_may_read_it(task, tmp_path):
    run = make_run(task, HardLabels(), steps=2)
    run.run()
    path = run.save(tmp_path)
    assert path == tmp_path / "checkpoint-0000002"
    assert same(weights(AutoModelForSequenceClassification.from_pretrained(path)), weights(run.student))
    assert not [p for p in path.rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_new_run_neither_deletes_nor_outlives_another_runs_checkpoints(task, tmp_path):
    make_run(task, HardLabels(), epochs=2, folder=tmp_path).run()
    before = sorted(path.name for path in tmp_path.glob("[!.]*"))
    with pytest.raises(KDTutorError, match="holds another run's checkpoint-0000012: resume"):
        make_run(task, HardLabels(), epochs=2, folder=tmp_path).run()
    run = make_run(task, HardLabels(), epochs=2)
    take(run, 3)
    with pytest.raises(KDTutorError, match="holds another run's"):
        run.save(tmp_path)
    assert (
        sorted(path.name for path in tmp_path.glob("[!.]*"))
        == before
        == ["checkpoint-0000006", "checkpoint-0000012"]
    )


def test_a_save_that_fails_leaves_the_checkpoint_before_it_whole(task, tmp_path, monkeypatch):
    run = make_run(task, HardLabels(), epochs=2, folder=tmp_path, save_every=2)
    take(run, 2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(
        KDTutorError, match=r"could not be written .*No space left.*checkpoint-0000002 is whole"
    ):
        run.run()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["checkpoint-0000002"]
    assert make_run(task, HardLabels(), epochs=2, folder=tmp_path, save_every=2).resume().done == 2


# ------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_work_is_refused_before_the_first_step(task, glosses):
    def refused(
        pattern: str, task: Task = task, objective=None, student=None, teacher=None, **settings
    ) -> None:
        objective = objective or HardLabels() + SoftTargets(2)
        student = student or model(task)
        with pytest.raises(KDTutorError, match=pattern):
            Distillation(student, teacher or sharp_teacher(task), task, objective, **settings)

    labels = torch.arange(ROWS) % 3
    labels[17] = 3
    refused("train example 17 has label 3, but tiny has classes 0 to 2", make_task(targets=labels))
    labels[17] = -1
    refused("train example 17 has label -1", make_task(targets=labels))
    numbers = torch.zeros(ROWS)
    numbers[5] = math.nan
    refused("train example 5 has label nan", make_task("regression", targets=numbers), HardLabels())
    refused("soft targets over one output", make_task("regression"))
    refused("the train split of tiny is empty", make_task(rows=0))
    refused('unknown split of tiny "tain"; there are: train', split="tain")
    refused("MaskedLM predicts masked tokens, but tiny is a classification task", objective=MaskedLM())
    refused("the objective is a str", objective="HardLabels()")
    refused("the student is a str", student="bert")
    refused("the student has no trainable parameter", student=model(task).requires_grad_(False))
    refused("the student's weights are torch.float16", student=model(task).half())
    refused(
        "CosineHidden compares hidden states of one width",
        objective=CosineHidden(),
        teacher=model(task, width=64),
    )
    refused("the student has no hidden states", objective=HiddenStates({3: 1}))

    teacher = model(task)
    with torch.no_grad():
        teacher.classifier.bias[1] = math.nan
    refused(r"train split of tiny, asked of the teacher: .* example \d+ are not finite", teacher=teacher)
    with pytest.raises(KDTutorError, match="needs a teacher, but teacher is None"):
        Distillation(model(task), None, task, SoftTargets(2))
    for T, alpha in ((0, 0.5), (-1, 0.5), (math.nan, 0.5), (2, 1.5), (2, -0.1)):
        with pytest.raises(ValueError, match=r"temperature|alpha"):
            blend(alpha=alpha, temperature=T)

    shared = model(task)
    shared.bert.embeddings.word_embeddings.weight = (
        teacher := model(task)
    ).bert.embeddings.word_embeddings.weight
    refused("share the tensor bert.embeddings.word_embeddings.weight", student=shared, teacher=teacher)
    refused("share the tensor", student=teacher, teacher=teacher)
    slice_of = model(task)
    slice_of.classifier.bias = torch.nn.Parameter(teacher.classifier.bias.data[:])
    refused("share the tensor classifier.bias", student=slice_of, teacher=teacher)

    other = make_task()
    four = Task("four", "classification", ("a", "b", "c", "d"), other.splits, max_length=24)
    refused("the teacher has 4 outputs", teacher=model(four))
    swapped = Task("swapped", "classification", ("food", "animal", "plant"), other.splits, max_length=24)
    refused('the teacher has the classes food, animal, plant, but "tiny" has animal', teacher=model(swapped))
    refused('the student has the classes food, animal, plant, but "tiny" has animal', student=model(swapped))
    config = copy.deepcopy(model(task).config)
    config.vocab_size = 500
    refused("the teacher knows 500 tokens", teacher=type(model(task))(config))


def test_classes_without_names_or_in_other_case_are_taken_to_be_the_tasks(task):
    teacher = sharp_teacher(task)
    for names in (("LABEL_0", "LABEL_1", "LABEL_2"), ("ANIMAL", "Food", "plant")):
        teacher.config.id2label = dict(enumerate(names))
        make_run(task, teacher=teacher)


@pytest.mark.parametrize(
    ("setting", "values"),
    {
        "epochs": [0, -1, math.nan, "2", None, True],
        "steps": [0, 2.5, "7"],
        "batch_size": [0, 7.5, None],
        "accumulate": [0, -2],
        "save_every": [0],
        "learning_rate": [0, -1e-3, math.nan, math.inf, 1e300, "5e-4"],
        "warmup": [-0.1, 500],
        "weight_decay": [-0.01, math.nan],
        "max_norm": [0, -1, math.nan],
        "masking": [0, 1, 15],
        "precision": ["fp16", "bf61"],
        "cache": [None, 3],
        "seed": [1.5, None, 2**70],
    }.items(),
)
def test_a_setting_that_makes_no_sense_is_named(task, setting, values):
    for value in values:
        with pytest.raises(KDTutorError, match=setting):
            make_run(task, HardLabels(), **{setting: value})


def test_a_learning_rate_that_makes_no_sense_is_refused_between_steps_too(task):
    run = make_run(task, HardLabels())
    with pytest.raises(KDTutorError, match="learning_rate must be a number above 0, at most 1000, not nan"):
        run.learning_rate = math.nan
    assert run.learning_rate == 1e-3


def test_a_folder_that_cannot_be_written_is_said_before_training(task, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    for folder in (file, file / "below"):
        with pytest.raises(KDTutorError, match=f"can't write to {folder}"):
            make_run(task, folder=folder)
        with pytest.raises(KDTutorError, match=f"can't write to {folder}"):
            make_run(task, cache=folder)
        with pytest.raises(KDTutorError, match=f"can't write to {folder}"):
            make_run(task).save(folder)


# ------------------------------------------------------------------------------------------------ two processes

SCRIPT = """
import sys
import torch
from test_distillation import *
torch.set_num_threads(1)
run = two_process_run({folder!r})
run.run()
torch.distributed.destroy_process_group()
"""


def two_process_run(folder=None) -> Distillation:
    """With uneven parts, a projection, and a last batch of one example, of which one process gets nothing."""
    task = make_task(rows=17)
    objective = HardLabels() + SoftTargets(2) + HiddenStates()
    # Each process draws its own student.
    teacher, student = sharp_teacher(task, width=64), model(task, seed=None)
    torch.manual_seed(5)
    if int(os.environ.get("RANK", 0)) == 0:
        student = model(task)
    return make_run(
        task,
        objective,
        teacher=teacher,
        student=student,
        epochs=2,
        accumulate=2,
        learning_rate=1e-4,
        folder=folder,
    )


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    results = processes(2, SCRIPT.format(folder=str(tmp_path)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    alone = two_process_run()
    alone.run()
    newest = checkpoints.found(tmp_path)[-1]
    two = AutoModelForSequenceClassification.from_pretrained(newest)
    assert distance(weights(two), weights(alone.student)) < 2e-6
    history = checkpoints.read(newest, "cpu").history
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in alone.history], abs=1e-5)
    assert [row["tokens"] for row in history] == [row["tokens"] for row in alone.history]
