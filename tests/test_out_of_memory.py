"""Memory that runs out outside a training step: fewer texts at once where that helps, or else one sentence."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from helpers import TINY, make_run, make_task, refusal
from helpers import model as make_model

from kdtutor.cli import main
from kdtutor.data.load import load_task
from kdtutor.evaluation.scores import predict
from kdtutor.evaluation.tokens import token_scores
from kdtutor.hardware import MemoryFull, is_full, within_memory
from kdtutor.models import generate, load_model
from kdtutor.objectives import SoftTargets

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def full_above(model, texts: int) -> list[int]:
    """Let the model find no memory for more than so many texts; returns how many it read, call by call."""
    read = []

    def refuse(_, inputs):
        if len(inputs[0]) > texts:
            raise FULL
        read.append(len(inputs[0]))

    model.get_input_embeddings().register_forward_pre_hook(refuse)
    return read


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (FULL, True),
        (MemoryError(), True),
        (pa.lib.ArrowMemoryError("malloc of size 9 failed"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("disk full"), False),
    ],
)
def test_what_says_that_there_is_no_memory_is_told_from_other_errors(error, is_one):
    assert is_full(error) is is_one
    with pytest.raises(MemoryFull if is_one else type(error)), within_memory("it", "Take less"):
        raise error


@pytest.mark.parametrize("fast", [True, False])
def test_an_evaluation_asks_fewer_texts_at_once_and_scores_the_same(fast):
    task = make_task(rows=32)
    model = make_model(task)
    whole = predict(model, task, "train", fast=fast)
    read = full_above(model, 5)
    assert torch.allclose(predict(model, task, "train", fast=fast), whole, atol=1e-6)
    assert sum(read) == 32 and max(read) <= 5


def test_losses_of_tokens_are_the_same_with_fewer_texts_at_once():
    for kind in ("masked-lm", "causal-lm"):
        task = make_task(kind, rows=32)
        model = make_model(task)
        whole = token_scores(model, task, "train", fast=False)
        full_above(model, 5)
        found = token_scores(model, task, "train", fast=False)
        assert found == pytest.approx(whole, rel=1e-4)


def test_what_is_written_is_the_same_with_fewer_texts_at_once():
    task = make_task("causal-lm", rows=32)
    model, texts = make_model(task), [f"a film number {n}" for n in range(12)]
    whole = generate(model, task, texts, max_new_tokens=3)
    full_above(model, 5)
    assert generate(model, task, texts, max_new_tokens=3) == whole


def test_a_teacher_is_asked_for_fewer_texts_at_once_and_answers_the_same(tmp_path):
    for kind, caches in {"classification": (True, str(tmp_path)), "masked-lm": ("topk:4",)}.items():
        task = make_task(kind, rows=32)
        for cache in caches:
            runs = [make_run(task, SoftTargets(2), cache=cache, fast=False) for _ in range(2)]
            full_above(runs[1].teacher, 5)
            for run in runs:
                next(iter(run))
            first, second = (run.history[0]["loss"] for run in runs)
            assert second == pytest.approx(first, rel=1e-4)


def test_where_one_text_finds_no_room_it_is_said_what_takes_less():
    task = make_task(rows=8)
    model = make_model(task)
    full_above(model, 0)
    said = refusal(predict, model, task, "train")
    assert "one text of" in said and "are there for this process" in said and "--max_length" in said


def test_a_model_and_a_file_that_find_no_room_are_one_sentence(tmp_path, monkeypatch):
    task = make_task(rows=8)
    make_model(task).save_pretrained(tmp_path / "model")

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr("kdtutor.models.load._from_pretrained", full)
    said = refusal(load_model, tmp_path / "model", task)
    assert "on disk) found no memory" in said and "a smaller model" in said

    def none(*_, **__):
        raise pa.lib.ArrowMemoryError("malloc of size 99 failed")

    (tmp_path / "mine.csv").write_text("text,label\na b,c\n")
    monkeypatch.setattr("kdtutor.data.files._parse_csv", none)
    said = refusal(load_task, tmp_path / "mine.csv", text="text", label="label")
    assert "mine.csv found no memory" in said and "would fit" in said and "\n" not in said


def test_an_export_that_finds_no_room_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from kdtutor.deploy.onnx import export

    def full(*_, **__):
        raise MemoryError

    task = make_task(rows=8)
    monkeypatch.setattr("torch.onnx.export", full)
    said = refusal(export, make_model(task), task, tmp_path / "exported")
    assert "export found no memory" in said and not (tmp_path / "exported").exists()


def test_whatever_else_finds_no_room_is_one_sentence_on_the_command_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("kdtutor.data.task.Task.encode", full)
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(80))
    )
    command = ["finetune", "--task", str(tmp_path / "mine.csv"), "--text", "text", "--label", "label", *TINY]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "kdtutor finetune found no memory" in said and "Traceback" not in said


def test_a_limit_that_the_shell_sets_is_the_memory_that_there_is():
    resource = pytest.importorskip("resource")
    assert resource.RLIMIT_AS is not None
    code = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "from kdtutor.hardware import memory\nprint(*memory())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    total, free = map(int, said.split())
    assert total <= 2**32 and free < total
