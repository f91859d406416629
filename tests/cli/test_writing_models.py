"""The commands for models that write: trained, distilled, measured, and asked."""

from __future__ import annotations

import csv
import json

import pytest
from helpers import TINY, texts

from kdtutor.cli import main

SMALL = ["--layers", "1", "--width", "32", "--steps", "3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = [{"read": text, "write": " ".join(reversed(text.split()))} for text in texts(80, 0)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "raw.csv").write_text("\n".join(["text", *texts(80, 0)]), encoding="utf-8")
    (folder / "ask.csv").write_text("word\na small furry\nfish\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("data", "students", "scores"),
    [
        (["raw.csv", "--text", "text", "--kind", "causal-lm"], ["lstm-lm", "small-gpt2"], {"perplexity", "tokens"}),
        (["pairs.jsonl", "--text", "read", "--label", "write", "--kind", "seq2seq"], ["half-depth"],
         {"error_rate", "error_rate_half_width", "exact", "perplexity"}),
    ],
)  # fmt: skip
def test_a_model_is_trained_distilled_measured_and_asked(data, students, scores, files, tmp_path, capsys):
    task = ["--task", str(files / data[0]), *data[1:], *TINY]
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / students[-1])
    assert main(["pretrain", *task, *SMALL, "--output", teacher]) == 0
    for name in students:
        sizes = ["--steps", "3"] if name == "half-depth" else SMALL
        distill = [
            "distill",
            "--teacher",
            teacher,
            "--student",
            name,
            *task,
            *sizes,
            "--output",
            str(tmp_path / name),
        ]
        assert main(distill) == 0, capsys.readouterr().err
    card = json.loads((tmp_path / students[-1] / "card.json").read_text(encoding="utf-8"))
    assert scores <= card["scores"]["test"].keys()
    assert "objective 0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)" in capsys.readouterr().out

    measured = [word for word in task if word not in ("--batch_size", "16", "--precision", "fp32")]
    assert main(["evaluate", "--model", student, *measured]) == 0
    assert "perplexity" in capsys.readouterr().out
    asked = ["predict", "--model", student, "--task", str(files / "ask.csv"), "--text", "word"]
    assert main([*asked, "--output", str(tmp_path / "answers.csv")]) == 0
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as answers:
        rows = list(csv.DictReader(answers))
    assert [row["word"] for row in rows] == ["a small furry", "fish"]
    assert rows[0].keys() == {"word", "written"}
    assert main([*asked, "--pair", "word"]) == 1
