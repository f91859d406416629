"""What is exported answers as PyTorch does, for any batch and length; what can't be exported is said in a sentence."""

from __future__ import annotations

import json
import shutil
import site
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_task, model, refusal, sharp_teacher, texts

import kdtutor
from kdtutor.data.load import load_task
from kdtutor.data.task import Split, Task
from kdtutor.deploy.cold import cold_start
from kdtutor.deploy.onnx import export
from kdtutor.deploy.session import OnnxModel
from kdtutor.models import load_model, load_teacher
from kdtutor.models.forward import logits_of
from kdtutor.models.recurrent import gru_student, lstm_student
from kdtutor.models.save import save
from kdtutor.models.static import static_student


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A task, a model of it, and what its export says."""
    task = make_task()
    student = sharp_teacher(task).eval()
    folder = tmp_path_factory.mktemp("exports") / "student"
    return task, student, export(student, task, folder)


def torch_logits(student, task: Task, rows) -> np.ndarray:
    return logits_of(student, task.encode_texts(rows), fast=False).numpy()


def test_one_text_and_many_of_all_lengths_get_pytorchs_logits(made):
    task, student, said = made
    exported, rows = OnnxModel(said.folder), [*texts(9, 40), "", "animal " * 400]
    assert np.abs(exported.logits(rows) - torch_logits(student, task, rows)).max() < 1e-5
    assert np.abs(exported.logits(rows[:1]) - torch_logits(student, task, rows[:1])).max() < 1e-5
    assert said.difference < 1e-5
    assert said.agreement == 1


def test_the_folder_says_what_it_is(made):
    task, _, said = made
    exported = OnnxModel(said.folder)
    assert exported.labels == task.labels
    assert exported.inputs == ("input_ids", "attention_mask")
    assert exported.max_length == said.max_length == 24
    about = json.loads((exported.folder / "export.json").read_text(encoding="utf-8"))
    assert about["opset"] == 18
    assert about["bytes"] == (exported.folder / "model.onnx").stat().st_size
    assert about["versions"].keys() >= {"torch", "onnx", "onnxruntime"}


def test_whoever_gets_the_folder_learns_nothing_of_the_machine_that_made_it(made):
    folder = Path(made[2].folder)
    here = {str(Path(kdtutor.__file__).parent), str(folder), *site.getsitepackages()}
    for file in folder.iterdir():
        assert not [place for place in here if place.encode() in file.read_bytes()]


def test_the_tokens_are_those_of_the_task(made):
    task, _, said = made
    rows = ["Ünïcode, 3.14 & UPPER case; a-b_c!", "<b>bold</b> 🦦", "x " * 100]
    ids = OnnxModel(said.folder).encode(rows)["input_ids"]
    encoded = task.encode_texts(rows)
    assert (ids == encoded.batch(torch.arange(3))["input_ids"].numpy()).all()


def test_a_pair_of_texts_keeps_its_types(tmp_path):
    def pairs(n: int, first: int) -> Split:
        return Split((texts(n, first), texts(n, first + 300)), torch.arange(n) % 2)

    splits = {name: pairs(12, i * 20) for i, name in enumerate(("train", "validation", "test"))}
    task = Task("pairs", "classification", ("no", "yes"), splits, max_length=24)
    said = export(sharp_teacher(task), task, tmp_path / "pairs")
    assert OnnxModel(said.folder).inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert said.difference < 1e-5


@pytest.mark.parametrize("precision", ["float16", "int8", "int8-static"])
def test_fewer_bits_are_fewer_bytes_and_other_logits(made, tmp_path, precision):
    task, student, float32 = made
    graph = Path(float32.folder) / "model.onnx"
    said = export(student, task, tmp_path / precision, precision, graph=graph)
    # This student is a table of tokens above all; a scale for each piece stands beside its int8 numbers.
    assert said.bytes < (0.55 if precision == "float16" else 0.45) * float32.bytes
    assert 0 < said.difference < 1
    assert said.agreement > 0.5


@pytest.mark.slow
def test_our_teacher_answers_real_texts_in_float16_as_in_float32(tmp_path):
    task = load_task("sentiment")
    teacher = load_teacher(task)
    said = export(teacher, task, tmp_path / "half", "float16", texts=128)
    assert said.bytes < 0.55 * 4 * teacher.num_parameters()
    assert 1e-5 < said.difference < 0.05
    assert said.agreement >= 127 / 128 and abs(said.score - said.torch_score) <= 1 / 128


def test_numbers_have_no_agreement(tmp_path):
    task = make_task("regression")
    said = export(static_student(task, width=8, seed=1), task, tmp_path / "numbers")
    assert said.agreement is None
    assert said.difference < 1e-5


@pytest.mark.parametrize(
    ("make", "pooling"), [(lstm_student, "max"), pytest.param(gru_student, "last", marks=pytest.mark.slow)]
)
def test_a_recurrent_student_reads_texts_of_all_lengths_as_in_pytorch(tmp_path, make, pooling):
    task = make_task()
    student = make(task, width=16, layers=2, pooling=pooling, seed=1).eval()
    with torch.no_grad():
        for weight in student.parameters():
            weight *= 3  # so that one gate in another's place is seen
    layers = [type(module) for module in student.modules()]
    said = export(student, task, tmp_path / "student")
    exported, rows = OnnxModel(said.folder), [*texts(9, 40), "", "animal", "animal " * 20]
    for some in (rows, rows[:1], rows[-2:-1]):
        found, expected = exported.logits(some), torch_logits(student, task, some)
        assert np.abs(found - expected).max() < 1e-5
    assert np.ptp(found) > 0.1
    assert [type(module) for module in student.modules()] == layers


def test_an_operation_that_onnx_lacks_is_named_and_nothing_is_left(tmp_path):
    task = make_task()
    student = static_student(task, seed=1)
    student.classifier.register_forward_hook(lambda module, inputs, logits: logits.sort(stable=True).values)
    said = refusal(export, student, task, tmp_path / "sorted")
    assert said.endswith("can't be exported: ONNX has no operation for aten.sort")
    assert not [*tmp_path.iterdir()]


def test_a_graph_that_answers_otherwise_is_refused_and_the_old_one_stays(made, tmp_path, monkeypatch):
    task, _, said = made
    folder = tmp_path / "student"
    shutil.copytree(said.folder, folder)
    before = (folder / "model.onnx").read_bytes()
    run = OnnxModel.run
    monkeypatch.setattr(OnnxModel, "run", lambda self, batch: run(self, batch) + 2e-4)
    said = refusal(export, model(task, seed=2), task, folder)
    assert "answers otherwise than in PyTorch" in said
    assert (folder / "model.onnx").read_bytes() == before


def test_what_can_not_be_exported_is_said(tmp_path, monkeypatch):
    masked = make_task("masked-lm")
    assert "answers a text as a whole" in refusal(export, model(masked), masked, tmp_path / "x")
    task = make_task()
    assert "float32, float16, int8 or int8-static" in refusal(
        export, model(task), task, tmp_path / "x", "int4"
    )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = refusal(export, model(task), task, tmp_path / "x")
    assert said.endswith("needs onnxscript, which the extra `deploy` has: python -m pip install onnxscript")


def test_a_folder_without_its_tokenizer_is_refused(made, tmp_path):
    _, _, said = made
    for name in ("model.onnx", "config.json", "export.json"):
        (tmp_path / name).write_bytes((OnnxModel(said.folder).folder / name).read_bytes())
    assert "it lacks tokenizer.json; kdtutor export MODEL" in refusal(OnnxModel, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "can't be read as an exported model" in refusal(OnnxModel, tmp_path)


def test_an_exported_folder_is_no_model_to_train(made):
    task, _, said = made
    assert "but model.onnx, which OnnxModel reads and nothing trains" in refusal(
        load_model, said.folder, task
    )


@pytest.mark.slow
def test_a_cold_start_without_pytorch_takes_less_memory(made, tmp_path):
    task, student, said = made
    save(student, task, tmp_path / "saved")
    exported, saved = (cold_start(folder) for folder in (said.folder, tmp_path / "saved"))
    assert 10e6 < exported.peak_memory < saved.peak_memory
    assert exported.seconds > 0
    assert "holds no model" in refusal(cold_start, tmp_path)
