"""On a GPU everything is as on a CPU: steps, resuming, chunks, measuring, exporting, and what is said when it is full.

python -m pytest -m gpu            # where there is none, each of them says NOT TESTED
"""

from __future__ import annotations

import pytest
import torch
from helpers import (
    distance,
    make_run,
    make_task,
    model,
    refusal,
    same,
    sharp_teacher,
    take,
    training_on,
    weights,
)

from kdtutor.deploy.pruning import head_importance, prune_heads
from kdtutor.deploy.session import OnnxModel
from kdtutor.evaluation.attacks import _gradient, attack
from kdtutor.evaluation.scores import evaluate, predict
from kdtutor.models.load import load_model
from kdtutor.models.save import save
from kdtutor.models.students import small_bert
from kdtutor.objectives import HardLabels, MaskedLM, parse_objective
from kdtutor.training.diagnosis import fit
from kdtutor.training.plan import plan

pytestmark = pytest.mark.gpu

CLASSES = "0.5 * HardLabels() + 0.5 * SoftTargets(2)"
TOKENS = "MaskedLM() + SoftTargets(2) + CosineHidden()"


@pytest.fixture(scope="module")
def task():
    return make_task()


def on_both(task, formula: str, **settings) -> tuple:
    """The same run on the CPU and on the GPU, to its end."""
    with training_on("cpu"):
        here = make_run(task, parse_objective(formula), **settings)
        here.run()
    there = make_run(task, parse_objective(formula), **settings)
    there.run()
    assert here.device.type == "cpu" != there.device.type
    assert next(there.student.parameters()).device.type == there.device.type
    return here, there


def losses(run) -> list[float]:
    return [row["loss"] for row in run.history]


@pytest.mark.parametrize("settings", [{}, {"cache": False}, {"accumulate": 2}, {"fast": False}], ids=str)
def test_a_run_is_that_of_a_cpu(task, settings):
    here, there = on_both(task, CLASSES, **settings)
    assert losses(there) == pytest.approx(losses(here), rel=1e-3)
    assert distance(weights(there.student.cpu()), weights(here.student)) < 1e-3


@pytest.mark.parametrize("chunked", [True, False])
def test_tokens_chunk_by_chunk_are_those_of_a_cpu(chunked):
    here, there = on_both(make_task("masked-lm"), TOKENS, chunked=chunked)
    assert losses(there) == pytest.approx(losses(here), rel=1e-3)


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
def test_models_that_write_are_those_of_a_cpu(kind):
    here, there = on_both(make_task(kind), "HardLabels()", steps=3)
    assert losses(there) == pytest.approx(losses(here), rel=1e-3)


def test_the_largest_logits_are_kept_as_on_a_cpu():
    here, there = on_both(make_task("masked-lm"), "MaskedLM() + SoftTargets(1)", cache="topk:8")
    assert losses(there) == pytest.approx(losses(here), rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_bit_identical(task, tmp_path, precision):
    settings = {"dropout": 0.1, "precision": precision, "epochs": 2}
    whole = make_run(task, **settings)
    whole.run()
    broken = make_run(task, folder=tmp_path, save_every=4, **settings)
    take(broken, 7)
    resumed = make_run(task, folder=tmp_path, save_every=4, **settings).resume()
    assert resumed.done == 4
    resumed.run()
    assert losses(resumed) == losses(whole)
    assert same(weights(resumed.student), weights(whole.student))


def test_the_callers_randomness_is_left_alone(task):
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    make_run(task, dropout=0.1, steps=2).run()
    assert torch.equal(torch.rand(3, device="cuda"), expected)


@pytest.mark.slow
def test_a_compiled_student_learns_what_a_plain_one_learns(task):
    plain, compiled = (make_run(task, parse_objective(CLASSES), compile=compile) for compile in (False, True))
    plain.run()
    compiled.run()
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)


def test_where_nothing_can_be_compiled_training_goes_on_without(task):
    def no_compiler(*_, **__):
        raise OSError("no compiler here")

    run = make_run(task, HardLabels(), compile=True)
    run.student.base_model.compile(backend=no_compiler)
    with pytest.warns(UserWarning, match="training goes on without it"):
        run.run()
    assert run.is_over


def test_without_memory_it_says_what_would_fit(task):
    total = torch.cuda.mem_get_info()[1]
    run = make_run(task, HardLabels(), batch_size=16, fast=False)

    def take_all(_, read):
        if len(read[0]) > 5:
            torch.empty(2 * total, dtype=torch.uint8, device="cuda")

    run.student.get_input_embeddings().register_forward_pre_hook(take_all)
    said = refusal(run.run)
    assert "step 1 found no memory for 16 texts" in said and "accumulate=" in said
    assert run.done == 0 and all(parameter.grad is None for parameter in run.parameters)


def test_a_plan_is_of_the_gpu(task):
    goal = parse_objective(CLASSES)
    known = plan(model(task), sharp_teacher(task), task, goal, steps=2, batch_size=8, precision="fp32")
    assert "(cuda)" in known.time and known.memory["student's weights"]


def test_a_model_on_the_gpu_is_measured_saved_and_exported_where_it_lies(task, tmp_path):
    run = make_run(task, HardLabels(), validate_every=3, keep_best=True)
    run.run()
    there = predict(run.student, task)
    assert there.device.type == "cpu"
    found = evaluate(run.student, task)
    assert fit(run.student, task, "validation").keys() >= {"accuracy", "loss"}
    save(run.student, task, tmp_path / "saved")
    torch.testing.assert_close(
        predict(load_model(tmp_path / "saved", task), task), there, rtol=1e-3, atol=1e-3
    )

    pytest.importorskip("onnxruntime", reason="NOT TESTED: the export from a GPU")
    from kdtutor.deploy.onnx import export

    made = export(run.student, task, tmp_path / "exported")
    assert made.difference < 1e-4
    assert next(run.student.parameters()).is_cuda, "the export brought the model elsewhere"
    answers = torch.as_tensor(OnnxModel(tmp_path / "exported").logits(task.texts("test")))
    torch.testing.assert_close(answers, there.float(), rtol=1e-3, atol=1e-3)
    assert 0 <= found.accuracy <= 1


def test_heads_are_weighed_and_words_attacked_where_the_model_lies(task):
    student = small_bert(task, layers=2, width=32, heads=4, dropout=0.0, seed=1)
    run = make_run(task, HardLabels(), student=student)
    run.run()
    heads, gradients, answers = [], [], []
    for device in (run.device, "cpu"):
        student.to(device)
        heads.append(head_importance(student, task, texts=16))
        answers.append(predict(prune_heads(student, heads[0], keep=2), task))
        gradients.append(_gradient(student, task, task.texts("test")[0], 0).cpu())
        attack(student, task, task.texts("test")[:3], predict(student, task).argmax(-1)[:3], "gradient")
    for here, there in (heads, answers, gradients):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


def test_a_masked_lm_on_the_gpu_is_measured_there():
    task = make_task("masked-lm")
    run = make_run(task, MaskedLM(), steps=2)
    run.run()
    found = fit(run.student, task, "validation")
    with training_on("cpu"):
        assert fit(run.student.cpu(), task, "validation")["loss"] == pytest.approx(found["loss"], rel=1e-3)
