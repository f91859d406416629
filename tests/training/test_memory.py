"""Memory stays flat while a CPU trains: few shapes of batches, and what is freed goes back to the system."""

from __future__ import annotations

import importlib

import pytest
import torch
from helpers import make_run, make_task, model, sharp_teacher, weights

from kdtutor import hardware
from kdtutor.data import tokens
from kdtutor.data.tokens import IGNORED, Encoded, round_up
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import MaskedLM, SoftTargets, blend
from kdtutor.training.batches import Batches

forward = importlib.import_module("kdtutor.models.forward")  # the package gives the function of that name


def ragged(lengths: list[int]) -> Encoded:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Encoded(
        torch.arange(1, int(offsets[-1]) + 1, dtype=torch.int32), offsets, torch.zeros(len(lengths))
    )


def test_sizes_are_few_and_at_most_an_eighth_above_what_is_needed():
    sizes = {round_up(count) for count in range(1, 513)}
    assert len(sizes) == 56
    assert all(count <= round_up(count) <= 1.125 * count for count in range(1, 5000))
    assert {round_up(size) for size in sizes} == sizes


def test_no_batch_is_padded_beyond_the_longest_text():
    encoded = ragged([3, 9, 17, 21])
    lengths = [encoded.batch(torch.tensor([i]), rounded=True)["input_ids"].shape[1] for i in range(4)]
    assert lengths == [3, 9, 18, 21]
    assert encoded.batch(torch.tensor([2]))["input_ids"].shape[1] == 17


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_have_few_lengths_and_what_pads_them_is_masked(accumulate):
    task = make_task("masked-lm")
    data = task.encode("train")
    batches = Batches(task, data, 8, accumulate=accumulate)
    for step in range(2 * batches.per_epoch):
        for part in batches[step]:
            length = part["input_ids"].shape[1]
            assert length in {data.round_length(n) for n in range(1, length + 1)}
            real = part["attention_mask"].bool()
            assert real.sum(1).equal(data.lengths[part["index"]])
            assert (part["input_ids"][~real] == data.pad).all()
            assert len(part["rows"]) == len(part["labels"]) == real.sum()
    assert (part["labels"] == IGNORED).any()


@pytest.mark.parametrize("kind", ["classification", "masked-lm"])
@pytest.mark.parametrize("chunked", [True, False])
def test_padding_changes_no_loss_and_no_gradient(kind, chunked, monkeypatch):
    task = make_task(kind)
    objective = 2 * SoftTargets(2) + CosineHidden() + MaskedLM() if kind == "masked-lm" else blend(0.3, 2)

    def trained(rounding):
        monkeypatch.setattr(tokens, "round_up", rounding)
        monkeypatch.setattr(forward, "round_up", rounding)
        student, teacher = model(task).double(), sharp_teacher(task).double()
        run = make_run(task, objective, student=student, teacher=teacher, chunked=chunked, cache=False)
        shapes = {tuple(part["input_ids"].shape) for step in range(len(run)) for part in run.batches[step]}
        return weights(student), run.run(), shapes

    padded, history, few = trained(lambda count: -(-count // 7) * 7)
    exact, expected, many = trained(lambda count: count)
    assert few != many
    for name in exact:
        torch.testing.assert_close(padded[name], exact[name], rtol=0, atol=1e-9)
    for row, other in zip(history, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"), [(2, 60, [2, 4, 5]), (50, 2, [3, 5]), (50, 60, [5])]
)
def test_what_is_freed_goes_back_to_the_system_every_so_many_steps_or_seconds_and_at_the_end(
    steps, seconds, expected, monkeypatch
):
    released, run = [], make_run(make_task(), steps=5)
    monkeypatch.setattr(hardware.FreedMemory, "EVERY_STEPS", steps)
    monkeypatch.setattr(hardware.FreedMemory, "EVERY_SECONDS", seconds)
    monkeypatch.setattr(hardware, "release_freed_memory", lambda: released.append(run.done))
    monkeypatch.setattr(hardware.time, "monotonic", lambda: 0.7 * run.done)
    run.run()
    assert released == [0, *expected]


def test_a_student_keeps_no_gradients_after_its_run():
    run = make_run(make_task(), steps=3)
    steps = iter(run)
    next(steps)
    assert any(parameter.grad is not None for parameter in run.parameters)
    for _ in steps:
        pass
    assert all(parameter.grad is None for parameter in run.parameters)
