"""What tests of the command line share: a little file of texts, a little BERT for them, and a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY

from kdtutor.data.load import load_task
from kdtutor.models.students import small_bert


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Whatever a command writes by default, it doesn't write here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with 60 labelled texts, mine.csv, and a little BERT for them, teacher/."""
    folder = tmp_path_factory.mktemp("corpus")
    good, bad = ("a warm and funny film", "great acting"), ("a dull mess", "what a waste of an evening")
    rows = [f"{(good, bad)[i % 2][i % 4 // 2]} number {i},{('good', 'bad')[i % 2]}" for i in range(60)]
    (folder / "mine.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    task = load_task(folder / "mine.csv", text="text", label="label", max_length=24)
    small_bert(task, layers=1, width=32, seed=1).save_pretrained(folder / "teacher")
    return folder


@pytest.fixture
def mine(corpus) -> list[str]:
    return ["--task", str(corpus / "mine.csv"), "--text", "text", "--label", "label", *TINY]
