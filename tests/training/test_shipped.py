"""Answers that ship: found by what the teacher read, and never taken for another teacher's or another text's."""

from types import SimpleNamespace

import pytest
import torch
from helpers import make_run, make_task, model, sharp_teacher

from kdtutor.assets import AssetError
from kdtutor.objectives.logits import SoftTargets
from kdtutor.training import shipped
from kdtutor.training.plan import plan


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Answers of a teacher to the training texts, as if they had shipped: random ones, which nobody would compute."""
    task = make_task()
    teacher, texts = sharp_teacher(task), task.encode("train")
    logits = torch.randn(len(texts), 3, generator=torch.Generator().manual_seed(0)).half().float()
    shipped.write(tmp_path / "answers" / "tiny.safetensors", teacher, texts, logits)
    monkeypatch.setattr(shipped, "manifest", lambda: {"answers/tiny.safetensors": {}, "data/x.parquet": {}})
    monkeypatch.setattr(shipped, "verified", lambda name: tmp_path / name)
    return SimpleNamespace(task=task, teacher=teacher, logits=logits, folder=tmp_path / "answers")


def test_answers_that_ship_are_used_and_the_mode_says_so(files):
    run = make_run(files.task, teacher=files.teacher)
    assert torch.equal(run.answers.logits, files.logits)
    assert run.teacher_mode == "not asked, its answers ship with the course"


def test_a_part_of_the_texts_finds_its_own_answers(files):
    part = files.task.subset(20, seed=3)
    where = [files.task.split("train").texts[0].index(text) for text in part.split("train").texts[0]]
    assert where != list(range(20))
    assert torch.equal(shipped.find(files.teacher, part.encode("train")), files.logits[where])


def test_another_teacher_another_text_and_another_cut_have_to_be_asked(files):
    changed = sharp_teacher(files.task)
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-3
    assert shipped.find(changed, files.task.encode("train")) is None
    assert shipped.find(sharp_teacher(files.task), files.task.encode("train")) is not None
    assert shipped.find(sharp_teacher(files.task), files.task.encode("test")) is None
    assert shipped.find(sharp_teacher(files.task), make_task(max_length=5).encode("train")) is None


def test_a_folder_for_the_cache_or_none_at_all_asks_the_teacher_itself(files, tmp_path):
    for cache in (tmp_path / "mine", False):
        assert "ship" not in make_run(files.task, teacher=files.teacher, cache=cache).teacher_mode


def test_a_plan_counts_no_asking_of_a_teacher_whose_answers_ship(files, tmp_path):
    planned = [
        plan(model(files.task), files.teacher, files.task, SoftTargets(2), cache=cache)
        for cache in (True, tmp_path / "mine")
    ]
    known, asked = (each.time for each in planned)
    assert "none of it asking the teacher, whose answers ship with the course" in known
    assert "s of it asking the teacher" in asked
    assert all(each.memory["teacher's answers"] == files.logits.nbytes for each in planned)


def test_a_file_that_holds_no_answers_is_named(files, tmp_path, monkeypatch):
    damaged = files.folder / "damaged.safetensors"
    damaged.write_bytes((files.folder / "tiny.safetensors").read_bytes()[:-1])
    monkeypatch.setattr(shipped, "manifest", lambda: {"answers/damaged.safetensors": {}})
    with pytest.raises(AssetError, match=r"damaged\.safetensors holds no teacher's answers"):
        shipped.find(files.teacher, files.task.encode("train"))
