"""A teacher is measured before it teaches: mixed-up classes are refused, with the label map that would fit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers import make_task, model, refusal

from kdtutor.data.task import Split, Task
from kdtutor.evaluation.scores import measure, predict
from kdtutor.models.load import load_model, load_teacher
from kdtutor.models.outputs import read_label_map, written
from kdtutor.objectives.logits import HardLabels, SoftTargets
from kdtutor.training.distillation import Distillation
from kdtutor.training.teacher_check import _best_order, _check_classes, _check_labels, check_teacher

COLOURS = ("red", "green", "blue")


def coloured(n: int, labels=COLOURS, kind: str = "classification") -> Task:
    """Texts whose first word is their class, or whose number of words is their value."""
    texts = [f"{COLOURS[i % 3]} fish number {i} and" + " more" * (i % 7) for i in range(n)]
    targets = torch.arange(n) % 3 if kind == "classification" else torch.arange(n) % 7 / 7
    names = labels if kind == "classification" else ("value",)
    part = Split((texts,), targets)
    return Task("coloured", kind, names, {"train": part, "validation": part, "test": part}, max_length=16)


@pytest.fixture(scope="module")
def taught():
    """A teacher that knows its colours."""
    task = coloured(60)
    torch.manual_seed(0)
    teacher = model(task, seed=1, width=64)
    Distillation(
        teacher, None, task, HardLabels(), epochs=40, learning_rate=3e-3, warmup=0.3, precision="fp32"
    ).run()
    return teacher.eval()


def saved(teacher, folder, names) -> str:
    teacher = copy.deepcopy(teacher)
    teacher.config.id2label = dict(enumerate(names))
    teacher.config.label2id = {name: i for i, name in enumerate(names)}
    teacher.save_pretrained(folder)
    return str(folder)


def right(teacher, task) -> float:
    return measure(teacher, task, "test")["accuracy"]


def test_a_good_teacher_is_let_through(taught):
    task = coloured(60)
    assert right(taught, task) > 0.9
    check_teacher(taught, task)


def test_outputs_in_another_order_without_names_are_refused_with_the_map_that_fits(taught, tmp_path):
    task = coloured(60, labels=("blue", "green", "red"))
    task = replace(
        task, splits={name: replace(part, targets=2 - part.targets) for name, part in task.splits.items()}
    )
    path = saved(taught, tmp_path, ("LABEL_0", "LABEL_1", "LABEL_2"))
    teacher = load_teacher(task, path)
    said = refusal(Distillation, model(task), teacher, task, SoftTargets(2), steps=1)
    assert (
        "the teacher is right on " in said and "of 120 labelled texts (always the same class: 33.3%)" in said
    )
    assert "label_map='LABEL_0=red,LABEL_1=green,LABEL_2=blue'" in said
    assert "--no_check_teacher" in said
    fitting = load_teacher(task, path, "LABEL_0=red,LABEL_1=green,LABEL_2=blue")
    assert right(fitting, task) == right(taught, coloured(60))
    check_teacher(fitting, task)
    Distillation(model(task), teacher, task, SoftTargets(2), steps=1, check_teacher=False)


def test_the_same_names_in_another_order_are_matched_by_name(taught, tmp_path):
    path = saved(taught, tmp_path, ("Red", "GREEN", "blue"))
    task = coloured(60, labels=("green", "blue", "red"))
    task = replace(
        task,
        splits={name: replace(part, targets=(part.targets + 2) % 3) for name, part in task.splits.items()},
    )
    assert right(load_teacher(task, path), task) == right(taught, coloured(60))
    assert right(load_model(path, task), task) == right(taught, coloured(60))


def test_other_names_are_refused_with_the_line_to_type(taught, tmp_path):
    path, task = saved(taught, tmp_path, ("rouge", "vert", "bleu")), coloured(60)
    said = refusal(load_teacher, task, path)
    assert 'has the classes rouge, vert, bleu, but "coloured" has red, green, blue' in said
    assert "label_map='rouge=red,vert=green,bleu=blue' (--label_map 'rouge=red,vert=green,bleu=blue')" in said
    assert right(load_teacher(task, path, {"bleu": "blue", "vert": "green", "rouge": "red"}), task) > 0.9


def test_classes_that_differ_by_case_only_are_matched_by_their_very_names(taught, tmp_path):
    labels = ("good", "Good", "bad")
    path = saved(taught, tmp_path, labels)
    assert right(load_teacher(coloured(60, labels=labels), path), coloured(60, labels=labels)) > 0.9


def test_one_output_without_a_name_is_not_taken_for_all_of_them(taught, tmp_path):
    path = saved(taught, tmp_path, ("green", "LABEL_1", "LABEL_2"))
    assert "say which is which" in refusal(load_teacher, coloured(60), path)


@pytest.mark.parametrize(
    "label_map, said",
    [
        ("red", "label_map is"),
        ("{", "label_map is"),
        ("rot=red,LABEL_1=green,LABEL_2=blue", "unknown output of"),
        ("LABEL_0=reed,LABEL_1=green,LABEL_2=blue", 'unknown class of coloured "reed"; there are: red'),
        ("LABEL_0=red,LABEL_1=green", "once"),
        ("LABEL_0=red,LABEL_1=green,LABEL_2=green", "once"),
    ],
)
def test_a_label_map_that_leaves_a_class_out_or_names_an_unknown_one_is_refused(
    taught, tmp_path, label_map, said
):
    path = saved(taught, tmp_path, ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert said in refusal(load_teacher, coloured(60), path, label_map)


def test_a_label_map_is_read_as_it_is_written():
    for label_map in ({"NEGATIVE": "0", "POSITIVE": "1"}, {"a,b": "c=d", "it's": '"'}, {"{": " x "}):
        assert read_label_map(written(label_map)) == label_map
    assert written({"NEGATIVE": "0", "POSITIVE": "1"}) == "NEGATIVE=0,POSITIVE=1"


def test_a_teacher_far_below_chance_is_refused_though_no_order_is_better():
    task = make_task(rows=240)
    teacher = model(task)
    labels = torch.arange(240) % 3
    logits = torch.nn.functional.one_hot((labels + 1 + (torch.arange(240) // 3) % 2) % 3, 3).float()
    said = refusal(_check_classes, logits, labels, teacher, task)
    assert "the teacher is right on 0.0%" in said
    assert "chance" in said or "another order" in said


def test_chance_is_not_refused():
    task, labels = make_task(), torch.arange(240) % 3
    for seed in range(50):
        logits = torch.randn(240, 3, generator=torch.Generator().manual_seed(seed))
        _check_classes(logits, labels, model(task), task)


def test_an_order_gives_each_output_one_label():
    assert _best_order(torch.tensor([[0, 9, 1], [8, 0, 0], [2, 7, 3]])) == [1, 0, 2]
    assert sorted(_best_order(torch.zeros(5, 5, dtype=torch.long))) == [0, 1, 2, 3, 4]


def test_a_regression_that_ranks_the_other_way_round_is_refused():
    task = coloured(60, kind="regression")
    teacher = model(task)
    predicted = predict(teacher, task, "test")[:, 0]
    task = replace(
        task, splits={name: replace(part, targets=-predicted) for name, part in task.splits.items()}
    )
    assert "ranks 120 labelled texts the other way round (rank correlation -1.00)" in refusal(
        check_teacher, teacher, task
    )


def test_a_teacher_that_ships_is_not_asked_again(monkeypatch):
    task = coloured(60)
    monkeypatch.setattr("kdtutor.training.teacher_check.predict", lambda *_: pytest.fail("asked"))
    teacher = model(task)
    teacher.is_shipped = True
    check_teacher(teacher, task)
    assert load_teacher("sentiment").is_shipped


# ---------------------------------------------------------------------------------------------- several labels per text


def given(n: int, labels: int, seed: int = 0) -> torch.Tensor:
    """Several labels per text, rare ones and frequent ones."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, labels, generator=generator) < torch.linspace(0.1, 0.5, labels)).float()


def several(labels: int) -> Task:
    names = tuple(f"l{i}" for i in range(labels))
    part = Split((["a text"] * 8,), given(8, labels))
    return Task("several", "multi-label", names, {"train": part}, max_length=8)


def answers(targets: torch.Tensor, right: float, seed: int = 1) -> torch.Tensor:
    """Logits that agree with each label at this probability."""
    flipped = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) > right
    return torch.where(flipped, 1 - targets, targets) * 2 - 1


def test_several_labels_in_another_order_are_refused_with_the_map_that_fits():
    task, targets = several(5), given(256, 5)
    teacher = model(task)
    order = [3, 0, 4, 1, 2]
    said = refusal(_check_labels, answers(targets, 0.9)[:, order], targets, teacher, task)
    names = teacher.config.id2label
    line = ",".join(f"{names[i]}=l{label}" for i, label in enumerate(order))
    assert f"label_map='{line}') (--label_map '{line}')" in said
    assert "would be found by chance" in said and "times as many" in said
    _check_labels(answers(targets, 0.9), targets, teacher, task)
    _check_labels(answers(targets, 0.65), targets, teacher, task)


def test_a_teacher_that_says_yes_for_no_is_refused():
    task, targets = several(5), given(256, 5)
    said = refusal(_check_labels, answers(1 - targets, 0.9), targets, model(task), task)
    assert "says it yes for no" in said or "in another order" in said


def test_chance_is_not_refused_with_several_labels_either():
    for labels in (2, 5, 25):
        task = several(labels)
        teacher = model(task)
        for seed in range(30):
            targets = given(256, labels, seed)
            _check_labels(
                torch.randn(256, labels, generator=torch.Generator().manual_seed(seed)),
                targets,
                teacher,
                task,
            )
        _check_labels(torch.full((256, labels), -1.0), targets, teacher, task)
        _check_labels(torch.full((256, labels), 1.0), targets, teacher, task)


def test_a_multi_label_teacher_is_measured_before_it_teaches(monkeypatch):
    targets = given(60, 3)
    part = Split(([f"text {i}" for i in range(60)],), targets)
    task = Task(
        "several", "multi-label", ("a", "b", "c"), dict.fromkeys(("train", "validation", "test"), part)
    )
    monkeypatch.setattr(
        "kdtutor.training.teacher_check.predict",
        lambda teacher, asked, *_, **__: answers(asked.targets("asked"), 1.0)[:, [1, 2, 0]],
    )
    assert "label_map='" in refusal(check_teacher, model(task), task)
