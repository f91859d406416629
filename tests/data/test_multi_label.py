"""Several labels per text: read from lists or by a separator, learned, scored, and saved for a pipeline."""

from __future__ import annotations

import csv
import json
import math

import pyarrow as pa
import pytest
import torch
from helpers import make_run, model, refusal, sharp_teacher
from pyarrow import parquet
from sklearn.metrics import average_precision_score, f1_score
from transformers import pipeline

from kdtutor.cli import main
from kdtutor.data.load import load_task
from kdtutor.data.task import Split, Task
from kdtutor.evaluation import evaluate, macro_f1, mean_average_precision, micro_f1, predict
from kdtutor.models.load import check_fits, load_model
from kdtutor.models.save import save
from kdtutor.objectives import (
    BinarySoftTargets,
    HardLabels,
    LogitsMSE,
    SoftTargets,
    binary_soft_targets,
    blend,
    hard_labels,
)

SETS = [["food"], ["food", "staff"], [], ["price", "staff"]] * 20
TEXTS = [f"the soup number {n} was warm" for n in range(len(SETS))]
ROWS = [{"text": text, "label": labels} for text, labels in zip(TEXTS, SETS, strict=True)]
NAMES = ("food", "price", "staff")


def load(data, **options) -> Task:
    return load_task(data, **{"text": "text", "label": "label", "max_length": 24, "stratify": True} | options)


def sets_of(task: Task) -> dict[str, set[str]]:
    return {
        text: {name for name, given in zip(task.labels, target, strict=True) if given}
        for split in task.split_names
        for text, target in zip(task.texts(split), task.targets(split).tolist(), strict=True)
    }


EXPECTED = {text: {*labels} for text, labels in zip(TEXTS, SETS, strict=True)}


# ----------------------------------------------------------------------- read


def written_as(how: str, folder) -> tuple[object, dict]:
    """The same rows, and the options to read them."""
    path = folder / f"{how}.{ {'lines': 'jsonl', 'lists': 'parquet'}.get(how, 'csv') }".replace(" ", "")
    cells = {"separator": "; ".join, "python": repr}
    if how == "rows":
        return ROWS, {}
    if how == "lines":
        path.write_text("\n".join(map(json.dumps, ROWS)))
        return path, {}
    if how == "lists":
        parquet.write_table(pa.table({"text": TEXTS, "label": SETS}), path)
        return path, {}
    lines = [f'{text},"{cells[how](labels) or ";"}"' for text, labels in zip(TEXTS, SETS, strict=True)]
    path.write_text("\n".join(["text,label", *lines]))
    return path, {"separator": ";"} if how == "separator" else {"kind": "multi-label"}


@pytest.mark.parametrize("how", ["rows", "lines", "lists", "separator", "python"])
def test_several_labels_are_read_however_they_are_written(how, tmp_path):
    data, options = written_as(how, tmp_path)
    task = load(data, **options)
    assert (task.kind, task.labels) == ("multi-label", NAMES)
    assert task.targets("train").dtype == torch.float32
    assert sets_of(task) == EXPECTED
    said = "\n".join(task.notes)
    assert (
        "multi-label, " in said
        and "1.2 of 3 labels per text, 20 texts with none; food 40, price 20, staff 40" in said
    )


def test_names_of_a_list_of_class_labels_come_along(tmp_path):
    numbers = [[NAMES.index(label) for label in labels] for labels in SETS]
    about = {"info": {"features": {"label": {"feature": {"names": [*NAMES], "_type": "ClassLabel"}}}}}
    table = pa.table({"text": TEXTS, "label": numbers}).replace_schema_metadata(
        {"huggingface": json.dumps(about)}
    )
    parquet.write_table(table, tmp_path / "mine.parquet")
    assert sets_of(load(tmp_path / "mine.parquet")) == EXPECTED


def test_an_empty_cell_is_unlabelled_and_trained_on_by_what_needs_no_label(tmp_path):
    lines = [f"{text},{';'.join(labels) or ';'}" for text, labels in zip(TEXTS, SETS, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(["text,label", *lines, "a text without,", "another one,"]))
    task = load(tmp_path / "m.csv", separator=";")
    assert (~task.split("train").labelled).sum() == 2
    assert "2 rows have no label" in "\n".join(task.notes)
    assert make_run(task, HardLabels(), steps=1).run()
    run = make_run(task, 0.5 * HardLabels() + 0.5 * BinarySoftTargets(2), steps=2)
    assert all(math.isfinite(row["loss"]) for row in run.run())


def test_labels_that_can_not_be_learned_or_measured_are_named():
    rows = [{"text": f"fish {n}", "label": ["a"] if n % 2 else ["a", "b"]} for n in range(60)]
    parts = {
        "train": pa.Table.from_pylist(rows),
        "validation": pa.Table.from_pylist([{"text": "x y", "label": ["c", "a"]}]),
        "test": pa.Table.from_pylist([{"text": "z y", "label": ["a", "b"]}]),
    }
    said = "\n".join(load(parts).notes)
    assert "WARNING: no training text has the label c: it can't be learned" in said
    assert "WARNING: the validation part has no example of b" in said and "each class by itself" not in said


def test_what_is_no_list_of_labels_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("text,label\n" + "".join(f"{text},food\n" for text in TEXTS))
    said = refusal(load, tmp_path / "m.csv", kind="multi-label")
    assert "row 1: the label is no list: separator=\";\" (--separator ';')" in said
    assert "says the same of every text" in refusal(load, tmp_path / "m.csv", separator=";")
    assert 'has several labels per text: "multi-label"' in refusal(load, ROWS, kind="regression")


# ----------------------------------------------------------------------- formulas


def test_hard_labels_of_several_are_the_mean_binary_cross_entropy():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    y = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.float32)
    expected = []
    for row, labels in zip(z.tolist(), y.tolist(), strict=True):
        terms = [
            math.log1p(math.exp(-x)) if given else math.log1p(math.exp(x))
            for x, given in zip(row, labels, strict=True)
        ]
        expected.append(sum(terms) / 3)
    assert hard_labels(z, y, reduction="none").tolist() == pytest.approx(expected, rel=1e-12)
    hidden = y.clone()
    hidden[1] = -100
    assert hard_labels(z, hidden).item() == pytest.approx(sum(expected[:1] + expected[2:]) / 4, rel=1e-12)
    assert HardLabels().count({"labels": hidden}) == 4


@pytest.mark.parametrize("T", [0.5, 1, 4, 100])
def test_binary_soft_targets_are_the_kl_of_each_label_by_itself(T):
    draw = torch.Generator().manual_seed(1)
    z_s, z_t = torch.randn(2, 4, 3, generator=draw, dtype=torch.float64) * 3

    def sigma(x):
        return 1 / (1 + math.exp(-x / T))

    expected = []
    for mine, theirs in zip(z_s.tolist(), z_t.tolist(), strict=True):
        kl = 0
        for q, p in zip(map(sigma, mine), map(sigma, theirs), strict=True):
            kl += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        expected.append(T**2 * kl / 3)
    assert binary_soft_targets(z_s, z_t, T, reduction="none").tolist() == pytest.approx(expected, rel=1e-8)

    z_s.requires_grad_()
    binary_soft_targets(z_s, z_t, T, reduction="sum").backward()
    wanted = T * ((z_s / T).sigmoid() - (z_t / T).sigmoid()) / 3
    torch.testing.assert_close(z_s.grad, wanted.detach(), rtol=1e-6, atol=1e-10)


def test_a_softmax_over_labels_that_do_not_exclude_each_other_is_refused():
    task = load(ROWS)
    for objective in (SoftTargets(2), blend(0.5, 2), SoftTargets(2) + BinarySoftTargets(2)):
        said = refusal(make_run, task, objective)
        assert "SoftTargets takes one class per text for right" in said and "BinarySoftTargets(T)" in said
    assert make_run(task, LogitsMSE(), steps=1).run()


# ----------------------------------------------------------------------- scores


def test_scores_are_those_of_their_definitions():
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 4, generator=draw) * 2).round()  # many are equal
    logits[logits == 0] = 1
    labels = (torch.rand(50, 4, generator=draw) < 0.3).float()
    y, guess = labels.numpy(), (logits > 0).numpy()
    assert micro_f1(logits, labels) == pytest.approx(f1_score(y, guess, average="micro"))
    assert macro_f1(logits, labels) == pytest.approx(f1_score(y, guess, average="macro"))
    assert mean_average_precision(logits, labels) == pytest.approx(average_precision_score(y, logits.numpy()))
    labels[:, 2] = 0  # a label that no text has
    rest = [0, 1, 3]
    expected = average_precision_score(labels.numpy()[:, rest], logits.numpy()[:, rest])
    assert mean_average_precision(logits, labels) == pytest.approx(expected)
    labels[7] = -100
    assert "example 7 is unlabelled" in refusal(micro_f1, logits, labels)


# ----------------------------------------------------------------------- trained, saved, asked


def test_it_is_learned_cached_or_not_and_loaded_by_a_pipeline(tmp_path):
    task = load(ROWS)
    teacher = sharp_teacher(task)
    goal = 0.5 * HardLabels() + 0.5 * BinarySoftTargets(2)
    cached, asked = (make_run(task, goal, teacher=teacher, epochs=2, cache=cache) for cache in (True, False))
    losses = [[row["loss"] for row in run.run()] for run in (cached, asked)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
    result = evaluate(cached.student, task, latency=False)
    assert [*result.scores] == ["micro_f1", "macro_f1", "mean_average_precision"]

    save(cached.student, task, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "multi_label_classification"
    again = load_model(tmp_path, task)
    check_fits(again, task)
    classify = pipeline("text-classification", str(tmp_path), device="cpu", top_k=None)
    [found] = classify(task.texts("test")[:1])
    probabilities = predict(cached.student, task)[0].sigmoid().tolist()
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(
        dict(zip(NAMES, probabilities, strict=True)), abs=1e-5
    )


def test_outputs_are_matched_by_their_names(tmp_path):
    task = load(ROWS)
    other = load([{"text": row["text"], "label": [name[::-1] for name in row["label"]]} for row in ROWS])
    save(model(other), other, tmp_path)
    assert "say which is which" in refusal(load_model, tmp_path, task)


def test_the_command_line_distils_it_by_default_and_predicts_with_it(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    common = ["--task", str(path), "--text", "text", "--label", "label", "--max_length", "24", "--stratify"]
    train = ["--precision", "fp32", "--steps", "2"]
    task = load(path)
    save(sharp_teacher(task), task, tmp_path / "teacher")
    student = ["--student", "small-bert", "--layers", "1", "--width", "32", "--temperature", "2"]
    out = tmp_path / "out"
    main(["distill", "--teacher", str(tmp_path / "teacher"), *student, *common, *train, "--output", str(out)])
    assert "objective 0.1 * HardLabels() + 0.9 * BinarySoftTargets(temperature=2)" in capsys.readouterr().out
    answers = tmp_path / "answers.csv"
    asked = ["--task", str(path), "--text", "text", "--model", str(out), "--max_length", "24"]
    main(["predict", *asked, "--output", str(answers)])
    head, *rows = answers.read_text().splitlines()
    assert head == "text,labels,probabilities" and len(rows) == len(ROWS)
    logits = predict(load_model(out, task), task, "train")
    expected = ";".join(name for name, z in zip(NAMES, logits[0].tolist(), strict=True) if z > 0)
    assert f"{task.texts('train')[0]},{expected}," in answers.read_text()


def undecided_teacher():
    """A teacher that says yes to each label for half of the texts."""
    task = load(ROWS)
    teacher = sharp_teacher(task)
    with torch.no_grad():
        teacher.classifier.bias -= predict(teacher, task, "train").median(0).values
    return teacher, task


def labelled(tmp_path, *more, code: int = 0) -> list[list[str]]:
    """Let a teacher fill in labels of tmp_path/few.jsonl or few.csv: rows of the file that it writes."""
    save(*undecided_teacher(), tmp_path / "teacher")
    [file] = tmp_path.glob("few.*")
    filled = tmp_path / "filled.csv"
    asked = [
        "--task",
        str(file),
        "--text",
        "text",
        "--model",
        str(tmp_path / "teacher"),
        "--max_length",
        "24",
    ]
    assert main(["label", *asked, "--output", str(filled), *more]) == code
    return [*csv.reader(filled.open())] if filled.is_file() else []


@pytest.mark.parametrize("how", ["lines", "separator", "python"])
def test_a_teacher_fills_in_several_labels_and_leaves_given_ones(how, tmp_path, capsys):
    given = [["staff", "food"], [], *[None] * 18]
    if how == "lines":
        rows = [{"text": text, "label": labels} for text, labels in zip(TEXTS, given, strict=False)]
        (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        cells = ["staff | food", "|"] if how == "separator" else ["['staff', 'food']", "[]"]
        lines = [f'{text},"{cell}"' for text, cell in zip(TEXTS, cells + [""] * 18, strict=False)]
        (tmp_path / "few.csv").write_text("\n".join(["text,label", *lines]))

    head, *rows = labelled(tmp_path, "--separator", "|")
    asked = Task("few", "multi-label", NAMES, {"train": Split((TEXTS[2:20],), None)}, max_length=24)
    logits = predict(undecided_teacher()[0], asked, "train")
    expected = [
        "|".join(n for n, z in zip(NAMES, row, strict=True) if z > 0) or "|" for row in logits.tolist()
    ]
    assert "18 of 20 labels are by" in capsys.readouterr().out
    assert (
        head == ["text", "label", "label_by"] and [row[2] for row in rows] == ["given"] * 2 + ["teacher"] * 18
    )
    assert [row[1] for row in rows] == ["food|staff", "|", *expected] and len({*expected}) > 1
    assert len(load_task([row[:2] for row in rows], separator="|").labels) > 1
    said = refusal(load_task, tmp_path / "filled.csv", text="text", label="label", separator="|")
    assert "20 different texts and 2 labels that are no teacher's (without its column label_by" in said


def test_a_label_that_the_teacher_does_not_know_is_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "few.csv").write_text("text,label\nthe soup was warm,food;music\nthe soup was cold,\n")
    assert labelled(tmp_path, code=1) == []
    assert "has the label 'music', which" in capsys.readouterr().err


def test_a_separator_that_is_part_of_a_label_is_refused(tmp_path, capsys):
    (tmp_path / "few.csv").write_text("text,label\nthe soup was warm,food\nthe soup was cold,\n")
    assert labelled(tmp_path, "--separator", "oo", code=1) == []
    assert "the label 'food' has --separator 'oo' in its name" in capsys.readouterr().err


def test_a_teacher_fills_in_a_column_for_each_label(tmp_path, capsys):
    given = ["1,0,1", "0,0,0", *[",,"] * 18]
    lines = [f"{text},{cells}" for text, cells in zip(TEXTS, given, strict=False)]
    (tmp_path / "few.csv").write_text("\n".join(["text,food,price,staff", *lines]))
    head, *rows = labelled(tmp_path, "--label", "staff,food,price")
    asked = Task("few", "multi-label", NAMES, {"train": Split((TEXTS[2:20],), None)}, max_length=24)
    marks = [
        dict(zip(NAMES, row, strict=True)) for row in predict(undecided_teacher()[0], asked, "train") > 0
    ]
    expected = [[str(int(row[name])) for name in ("staff", "food", "price")] for row in marks]
    assert head == ["text", "staff", "food", "price", "label_by"]
    assert [row[1:] for row in rows] == [
        ["1", "1", "0", "given"], ["0", "0", "0", "given"], *([*marks, "teacher"] for marks in expected)
    ]  # fmt: skip
    assert "18 of 20 labels are by" in capsys.readouterr().out
    filled = [dict(zip(head[:4], row[:4], strict=True)) for row in rows]
    assert load_task(filled, text="text", label=("staff", "food", "price")).kind == "multi-label"

    assert labelled(tmp_path, "--label", "food,price", "--output", str(tmp_path / "no.csv"), code=1)
    assert "knows 'food', 'price', 'staff': it fills no columns 'food', 'price'" in capsys.readouterr().err
