"""The commands for models that write: trained, distilled, measured, and asked."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest
import torch
from helpers import TINY, make_task, model, texts

import kdtutor as kd
from kdtutor.cli import main
from kdtutor.data.tokens import end_of_text
from kdtutor.models.save import save
from kdtutor.training.asking import Inference

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
            *(["--cache=topk:4", "--objective=SoftTargets(4)"] if name == "lstm-lm" else []),
        ]
        assert main(distill) == 0, capsys.readouterr().err
        card = json.loads((tmp_path / name / "card.json").read_text(encoding="utf-8"))
        assert card["settings"]["cache"] == ("topk:4" if name == "lstm-lm" else True)
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


@pytest.mark.slow
def test_a_second_command_takes_the_largest_logits_from_the_folder_and_says_what_is_left_out(
    files, tmp_path, capsys, monkeypatch
):
    task = ["--task", str(files / "raw.csv"), "--text", "text", "--kind", "causal-lm", *TINY]
    assert main(["pretrain", *task, *SMALL, "--output", str(tmp_path / "teacher")]) == 0
    folder, said = tmp_path / "answers", []
    distill = ["distill", "--teacher", str(tmp_path / "teacher"), "--student", "lstm-lm", *task, *SMALL]
    distill += ["--objective=SoftTargets(4)", f"--cache=topk:4:{folder}"]
    for name in ("first", "second"):
        capsys.readouterr()
        assert main([*distill, "--output", str(tmp_path / name)]) == 0
        said += re.findall(
            r"cached in (.*), .* MB: (.*) of its probability .* is left out", capsys.readouterr().out
        )
        card = json.loads((tmp_path / name / "card.json").read_text(encoding="utf-8"))
        assert card["settings"]["cache"] == f"topk:4:{folder}"
        monkeypatch.setattr(Inference, "outputs", lambda *_: pytest.fail("the teacher was asked again"))
    assert said == [said[0]] * 2 and said[0][0] == str(folder)
    [file] = folder.glob("teacher-*.npy")
    file.write_bytes(file.read_bytes()[:-1])
    assert main([*distill, "--output", str(tmp_path / "third")]) == 1
    assert f"{file} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
def test_a_student_that_writes_for_itself_is_a_flag_a_recipe_and_resumed(kind, files, tmp_path, capsys):
    task = {"task": str(files / "raw.csv"), "text": "text"}
    if kind == "seq2seq":
        task = {"task": str(files / "pairs.jsonl"), "text": "read", "label": "write"}
    made = "half-depth" if kind == "seq2seq" else "small-gpt2"
    task |= {"kind": kind, "max_length": 24, "batch_size": 16, "precision": "fp32"}
    said = [f"--{name}={value}" for name, value in task.items()]
    assert (
        main(["pretrain", *said, "--layers=2", "--width=32", "--steps=1", f"--output={tmp_path / 't'}"]) == 0
    )
    task["check_teacher"] = False
    how = {"on_policy": "OnPolicy(share=0.5, prompt=2, max_new_tokens=4)", "objective": "GeneralisedJSD(0.5)"}
    recipe = task | how | {"teacher": str(tmp_path / "t"), "student": made, "save_every": 1}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")

    def distill(*more):
        status = main(["distill", str(tmp_path / "recipe.yaml"), *more])
        return status, capsys.readouterr()

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert distill("--steps=4", f"--output={whole}")[0] == 0
    card = json.loads((whole / "card.json").read_text(encoding="utf-8"))
    assert card["settings"]["on_policy"] == str(kd.OnPolicy(0.5, prompt=2, max_new_tokens=4))
    assert "steps" in distill("--steps=4", "--dry_run", f"--output={tmp_path / 'none'}")[1].out

    # As if killed after its third step, and resumed: the same weights, to the bit. With another share it is refused.
    shutil.copytree(whole / "checkpoints", broken / "checkpoints")
    kept = sorted(folder for folder in (broken / "checkpoints").iterdir() if folder.is_dir())
    assert len(kept) == 2
    shutil.rmtree(kept[-1])
    status, told = distill("--steps=4", "--resume", f"--output={broken}", "--on_policy=0.6")
    assert status == 1 and "on_policy" in told.err
    status, told = distill("--steps=4", "--resume", f"--output={broken}")
    assert status == 0 and "going on after step 3" in told.out
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, broken)]
    assert weights[0] == weights[1]


def test_an_answer_that_is_empty_is_counted_and_a_text_longer_than_the_model_stops_all(tmp_path, capsys):
    task = make_task("seq2seq")
    writer = model(task)
    with torch.no_grad():
        writer.final_logits_bias[0, end_of_text(task.tokenizer)] = 20.0
    save(writer, task, tmp_path / "silent")
    ask = ["predict", "--model=silent", "--task=ask.csv", "--text=text", "--output=answers.csv"]
    (tmp_path / "ask.csv").write_text("text\nfish\na small furry\n", encoding="utf-8")
    assert main(ask) == 0
    assert "2 texts answered by silent, 2 of them with nothing, written to" in capsys.readouterr().out
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").split() == [
        "text,written", "fish,", "a", "small", "furry,"
    ]  # fmt: skip

    (tmp_path / "answers.csv").unlink()
    (tmp_path / "ask.csv").write_text(f"text\nfish\n{'fish ' * 100}\n", encoding="utf-8")
    assert main(ask) == 1
    said = capsys.readouterr().err.strip()
    assert "text 1 has 102 tokens, but the model reads 24 at most: 'fish fish" in said and "\n" not in said
    assert not (tmp_path / "answers.csv").exists()


def test_who_can_not_write_for_itself_is_told_so_before_anything_is_made(tmp_path, capsys):
    output = f"--output={tmp_path / 'x'}"
    for flags, sentence in (
        (["--task=sentiment", "--on_policy=0.5"], "nothing is written in sentiment"),
        (["--task=pronunciation", "--on_policy=2"], "share must be a fraction above 0, at most 1, not 2.0"),
        (["--task=pronunciation", "--on_policy=0.5", "--objective=HardLabels()"], "as if they were right"),
        (["--task=pronunciation", "--on_policy=0.5", "--cache=topk:4"], "leave cache alone"),
    ):
        assert main(["distill", *flags, output]) == 1
        said = capsys.readouterr().err.strip()
        assert sentence in said and "\n" not in said
    assert not [*tmp_path.iterdir()]
