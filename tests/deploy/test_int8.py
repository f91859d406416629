"""Quantisation as its formula says, in PyTorch, and felt in training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import make_run, make_task, model, refusal, sharp_teacher, take
from torch import nn

from kdtutor.deploy.aware import fake_quantize, quantization_aware, settled
from kdtutor.deploy.int8 import quantize, quantize_torch
from kdtutor.deploy.onnx import export
from kdtutor.deploy.pruning import prune_heads
from kdtutor.models.forward import logits_of
from kdtutor.models.save import save
from kdtutor.objectives import SoftTargets


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_rounded_to_a_grid_around_zero(bits):
    x = numbers(5, 7)
    q = quantize(x, bits, axis=0)
    for row, given in zip(range(5), x.double().numpy(), strict=True):
        most = 2 ** (bits - 1) - 1
        scale = np.abs(given).max() / most
        expected = np.round(given / scale)
        assert (q.values[row].numpy() == expected).all()
        assert np.allclose(q.dequantize()[row].numpy(), expected * scale, atol=1e-6)
    # No number is further from its grid point than half a step.
    assert ((q.dequantize() - x).abs() <= q.scale / 2 + 1e-6).all()


def test_activations_are_rounded_over_their_range_and_zero_stays_zero():
    x = torch.tensor([0.0, 0.5, 1.0, 6.0, -0.2])
    q = quantize(x, symmetric=False)
    scale = 6.2 / 255
    zero = round(0.2 / scale)
    assert q.values.tolist() == [round(v / scale) + zero for v in x.tolist()]
    assert q.dequantize()[0] == 0
    # A tensor far from 0 still has 0 on its grid.
    assert quantize(torch.tensor([5.0, 6.0]), symmetric=False).dequantize().max() == pytest.approx(
        6, abs=0.02
    )


def test_one_outlier_takes_the_grid_of_a_whole_tensor_but_only_of_its_own_row():
    x = numbers(16, 32)
    x[0, 0] = 100
    per_tensor, per_row = (quantize(x, axis=axis).dequantize() - x for axis in (None, 0))
    assert per_tensor[1:].abs().mean() > 10 * per_row[1:].abs().mean()


def test_what_can_not_be_quantised_is_said():
    assert "from 2 to 8, not 16" in refusal(quantize, numbers(3), 16)
    assert "not finite" in refusal(quantize, torch.tensor([1.0, torch.inf]))


def test_zeros_stay_zeros():
    assert quantize(torch.zeros(3, 4), axis=0).dequantize().abs().max() == 0


def test_the_gradient_goes_straight_through_the_rounding():
    x = numbers(4, 4).requires_grad_()
    weights = numbers(4, 4)
    rounded = fake_quantize(x, bits=3, axis=0)
    assert rounded.detach().equal(quantize(x.detach(), 3, 0).dequantize())
    (rounded * weights).sum().backward()
    assert torch.allclose(x.grad, weights)


def test_a_quantised_student_answers_alike_and_is_not_trained():
    task = make_task()
    student = sharp_teacher(task).eval()
    small = quantize_torch(student)
    a, b = (logits_of(m, task.encode("test")) for m in (student, small))
    assert 0 < (a - b).abs().max() < 0.3
    assert "the student is quantised, and whole numbers have no gradient" in refusal(
        make_run, task, student=small
    )


def test_what_is_quantised_already_is_refused_by_all_that_wants_float32(tmp_path):
    task = make_task()
    small = quantize_torch(model(task).eval())
    for call, *given in (
        (quantization_aware, small),
        (prune_heads, small, torch.ones(1, 2), 1),
        (save, small, task, tmp_path),
        (export, small, task, tmp_path / "x"),
    ):
        said = refusal(call, *given)
        assert said.startswith("the model is quantised, and whole numbers ") and "float32" in said
    assert "settled(model)" in refusal(export, quantization_aware(model(task)), task, tmp_path / "x")
    assert not [*tmp_path.iterdir()]


def test_training_moves_what_is_behind_the_rounding_and_leaves_weights_on_the_grid():
    task = make_task()
    teacher = sharp_teacher(task)
    student = quantization_aware(copy.deepcopy(teacher), bits=3)
    run = make_run(task, SoftTargets(2), student=student, teacher=teacher, learning_rate=1e-3)
    before = student.classifier.weight.detach().clone()
    assert take(run, 3)[-1].loss > 0
    assert not student.classifier.weight.equal(before)

    seen = logits_of(student, task.encode("test"))
    plain = settled(student)
    for module in plain.modules():
        if isinstance(module, nn.Linear):
            assert torch.allclose(
                quantize(module.weight.detach(), 3, 0).dequantize(), module.weight, atol=1e-6
            )
    # Activations were rounded to 8 bits: the only difference.
    assert (logits_of(plain, task.encode("test")) - seen).abs().max() < 0.2
    assert plain.state_dict().keys() == model(task).state_dict().keys()


def test_a_student_is_made_aware_once():
    student = quantization_aware(model(make_task()))
    assert "already" in refusal(quantization_aware, student)
