"""What a model takes is measured of that model, in a process without PyTorch, and what is not known is not made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make_task, refusal, sharp_teacher, texts

from kdtutor.data.task import Split, Task
from kdtutor.deploy import costs as module
from kdtutor.deploy.costs import costs
from kdtutor.deploy.onnx import export
from kdtutor.deploy.pruning import prune_vocabulary
from kdtutor.deploy.session import OnnxModel
from kdtutor.evaluation import accuracy
from kdtutor.evaluation.statistics import share_interval

pytestmark = pytest.mark.slow  # exports models


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A task, and folders: a model exported, and the same with a vocabulary, and so a tokenizer, of its own."""
    task, folder = make_task(), tmp_path_factory.mktemp("exports")
    student = sharp_teacher(task).eval()
    small, pruned = prune_vocabulary(student, task, folder / "pieces")
    export(student, task, folder / "whole")
    export(small, pruned, folder / "pruned")
    return task, {"whole": folder / "whole", "pruned": folder / "pruned"}


@pytest.fixture(scope="module")
def found(made):
    """What both take, measured once for all tests: each measurement is a process."""
    task, folders = made
    return costs(folders, task, timed=3, rounds=2)


def test_each_model_reads_with_its_own_tokenizer_and_is_measured_by_its_own_answers(made, found):
    task, folders = made
    for name, folder in folders.items():
        cost, model = found[name], OnnxModel(folder)
        assert np.abs(cost.logits.numpy() - model.logits(task.texts("test"))).max() < 1e-5
        assert cost.score == accuracy(cost.logits, task.targets("test"))
        assert cost.interval == share_interval(cost.score, 12)
        assert cost.bytes == model.bytes
        assert 0 < cost.median_ms <= cost.p95_ms < 1000 * cost.cold_s
        assert cost.throughput > 0
    assert found["pruned"].bytes < found["whole"].bytes
    assert str(found).splitlines()[0].split()[:2] == ["MB", "accuracy"]
    assert str(found).endswith("12 test texts of tiny, 3 of them timed")


def test_there_is_no_pytorch_in_the_process_that_is_measured(found):
    # An import of PyTorch takes more than 200 MB.
    assert 10e6 < found["whole"].peak_memory < 170e6


def test_models_take_turns_and_all_texts_are_answered_once(monkeypatch, made):
    task, folders = made
    asked = []

    def measured(folder, rows, timed):
        asked.append((folder.name, len(rows)))
        n = len(asked)
        return {
            "logits": [[1.0, 0.0, 0.0]] * len(rows), "times": [n / 1000] * timed, "throughput": 10.0 * n,
            "joules": None if n < 3 else 0.5, "peak_memory": 1000 * n, "cold": float(n),
        }  # fmt: skip

    monkeypatch.setattr(module, "_measured", measured)
    found = costs(folders, task, timed=4, rounds=3)
    assert asked == [("whole", 12), ("pruned", 12), ("whole", 4), ("pruned", 4), ("whole", 4), ("pruned", 4)]
    whole = found["whole"]
    assert (whole.median_ms, whole.throughput, whole.peak_memory, whole.cold_s) == (3, 30, 5000, 3)
    assert whole.p95_ms == 5
    assert whole.joules is None and str(found).splitlines()[1].endswith("unknown")


def test_pairs_of_texts_are_pairs(tmp_path):
    def pairs(n: int, first: int) -> Split:
        return Split((texts(n, first), texts(n, first + 300)), torch.arange(n) % 2)

    splits = {name: pairs(6, i * 20) for i, name in enumerate(("train", "validation", "test"))}
    task = Task("pairs", "classification", ("no", "yes"), splits, max_length=24)
    export(sharp_teacher(task), task, tmp_path / "pairs")
    found = costs({"pairs": tmp_path / "pairs"}, task, timed=2, rounds=1)["pairs"]
    expected = OnnxModel(tmp_path / "pairs").logits([*zip(*task.split("test").texts, strict=True)])
    assert np.abs(found.logits.numpy() - expected).max() < 1e-5


def test_what_can_not_be_measured_is_said(made, tmp_path):
    task, folders = made
    assert "2 to 12 texts of tiny can be timed, not 13" in refusal(costs, folders, task, timed=13)
    assert "holds no exported model" in refusal(costs, {"x": tmp_path}, task, timed=2)
    for file in folders["whole"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    assert "gives no answer in a process of its own" in refusal(costs, {"x": tmp_path}, task, timed=2)
