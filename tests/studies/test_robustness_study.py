"""The study of robustness in a tiny setting: what it compares, chooses, measures, and goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdtutor import data, evaluation, models, studies
from kdtutor.data.corruption import CORRUPTIONS
from kdtutor.data.tokens import IGNORED
from kdtutor.evaluation.statistics import paired_seeds_test
from kdtutor.models.fingerprint import fingerprint
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import robustness, training
from kdtutor.studies.robustness import ARMS, MISLED, NOISY, Plan, configurations

pytestmark = pytest.mark.slow  # runs a whole study

PLAN = Plan(
    few=8,
    steps=2,
    batch_size=4,
    rates=(1e-3,),
    student=("static", {"width": 8}),
    noise=(0.25,),
    strengths=(0.5,),
    attacked=4,
    foreign=6,
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def task():
    task = data.load_task("sentiment")
    splits = {name: task.split(name).select(torch.arange(20)) for name in ("train", "validation", "test")}
    return replace(task, splits=splits)


@pytest.fixture(scope="module")
def teacher(task):
    return models.freeze(models.small_bert(task, layers=1, width=16, seed=7))


@pytest.fixture(scope="module")
def made(task, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    with pytest.MonkeyPatch.context() as patch:
        # A random teacher is no better than chance, and would be refused.
        real = training.train
        patch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
        said, again = [], []
        robustness.run(PLAN, folder / "x.json", folder / "work", task, teacher, said.append)
        more = replace(PLAN, seeds=(0, 1, 2))
        robustness.run(more, folder / "x.json", folder / "work", task, teacher, again.append)
    return json.loads((folder / "x.json").read_text(encoding="utf-8")), said, again


def test_each_arm_reads_as_a_formula_and_noise_has_a_control():
    made = configurations(Plan())
    assert len(made) == len({c.name for c in made}) == 1 + len(ARMS) + 3 * (len(NOISY) + 2)
    assert len(Plan().seeds) == 5 and Plan().choosing_seed not in Plan().seeds
    for c in made[1:]:
        assert c.arm == MISLED or parse_objective(c.objective)
    assert "robustness" in studies.STUDIES


def test_each_arm_chooses_on_validation_alone_and_is_measured_at_every_seed(made):
    record, said, again = made
    arms, teachers = len(ARMS) + len(NOISY) + 1, 1 + 2
    assert all("test" not in row and row["seed"] == 5 for row in record["choosing"])
    # A misled teacher's student has its twin's rate.
    assert len(record["choosing"]) == arms - 1 and len(record["runs"]) == teachers + arms * 3
    assert len(said) == arms - 1 + teachers + arms * 2 and len(again) == arms, (
        "what is there is not made again"
    )


def test_everything_is_measured_of_every_model(made):
    for row in made[0]["runs"]:
        if MISLED in row["configuration"]:
            assert set(row["validation"]) <= set(row["test"]) and "broken" not in row
            continue
        assert set(row["broken"]) == set(CORRUPTIONS)
        assert set(row["attacks"]) == set(row["transfer"]) == {"synonyms", "gradient"}
        assert row["broken"]["case"] == [row["test"]["accuracy"]], "our tokenizer has no capitals"
        assert row["calibration"]["temperature"] > 0
        assert all(0 <= area <= 1 for area in row["foreign"].values())
        assert 0 <= row["products"] <= 1


def test_what_is_stored_is_what_the_model_does(task, teacher, made, tmp_path):
    [row] = [row for row in made[0]["runs"] if row["configuration"] == "teacher"]
    curve = evaluation.robustness_curve(teacher, task, "typo", [0.5])
    assert row["broken"]["typo"] == curve
    attacked = evaluation.attack(teacher, task, task.texts("test")[:4], task.targets("test")[:4])
    assert row["attacks"]["synonyms"] == evaluation.attack_rates(attacked)
    bench = robustness.Robustness(PLAN, task, teacher, tmp_path)
    assert len(bench.foreign()) == 6


def test_broken_copies_have_no_label_and_a_share_of_labels_is_wrong(task, tmp_path):
    bench = robustness.Robustness(PLAN, task, None, tmp_path)
    few, broken = bench.texts("few", 0.0), bench.texts("broken", 0.0)
    texts, targets = broken.texts("train"), broken.targets("train")
    assert texts[:8] == few.texts("train") and len(texts) == 16
    assert (targets[8:] == IGNORED).all() and texts[8:] != texts[:8]
    wrong = bench.texts("few", 0.25).targets("train")
    assert int((wrong != few.targets("train")).sum()) == 2
    assert bench.texts("many", 0.0).split("train").labelled.sum() == 8


def test_a_misled_teacher_learns_the_wrong_labels_and_teaches_every_second_student(task, teacher, tmp_path):
    bench = robustness.Robustness(PLAN, task, teacher, tmp_path)
    misled, student = configurations(PLAN)[-2:]
    assert (misled.objective, misled.noise, student.noise) == (None, 0.25, 0.25)
    found = [bench.misled(misled, seed) for seed in bench.seeds(misled)]
    assert len({folder for folder, _ in found}) == 2
    # 6 of 8 labels are the true ones: who repeats a label that is wrong is not right.
    assert all(about["steps"] == 6 and 0 <= about["told"] <= 1 for _, about in found)
    read = models.load_teacher(task, found[0][0])
    told = bench.texts("few", 0.25)
    share = evaluation.accuracy(evaluation.predict(read, told, "train"), told.targets("train"))
    assert share == pytest.approx(found[0][1]["told"])
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "kdtutor.studies.bench.train", lambda student, teacher, *a, **how: asked.append(teacher) or {}
        )
        for seed in (0, 1, 2):
            bench.trained(student, seed, {"learning_rate": 1e-3}, ("validation",))
    first, second, third = map(fingerprint, asked)
    assert first == third == fingerprint(read) != second


def test_what_the_results_page_says_of_robustness_is_what_it_found():
    shipped = studies.load("robustness")
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    measures = (
        lambda row: row["test"]["accuracy"],
        lambda row: row["test"]["accuracy"] - row["broken"]["typo"][-1],
        lambda row: row["test"]["accuracy"] - row["broken"]["drop"][-1],
        lambda row: row["attacks"]["synonyms"]["success"],
        lambda row: row["test"]["ece"],
        lambda row: row["foreign"]["entropy"],
    )
    assert shipped.record["plan"]["strengths"][-1] == 0.4

    def values(name, measure):
        return [measure(row) for row in shipped.rows(name).values()]

    def points(gap):
        return f"{100 * gap.difference:+.1f} ± {100 * gap.half_width:.1f}".replace("-", "−")

    for name in shipped.select(noise=0.0):
        assert len(shipped.rows(name)) == (1 if name == "teacher" else 5)
        means = [f"{100 * np.mean(values(name, measure)):.1f}" for measure in measures]
        assert f"| {name} | {' | '.join(means)} |" in page
    for name in ("soft targets", "soft targets, many texts"):
        gaps = [paired_seeds_test(values(name, m), values("hard labels", m)) for m in measures]
        assert f"| *{name}, minus hard labels* | {' | '.join(map(points, gaps))} |" in page
    abroad = lambda row: row["transfer"]["synonyms"], lambda row: row["products"]
    for name in ARMS:
        means = [f"{100 * np.mean(values(name, measure)):.1f}" for measure in abroad]
        assert f"| {name} | {' | '.join(means)} |" in page
    for name in ("soft targets, broken copies", "soft targets, many texts"):
        gaps = [paired_seeds_test(values(name, m), values("hard labels", m)) for m in abroad]
        assert f"| *{name}, minus hard labels* | {' | '.join(map(points, gaps))} |" in page
    assert all(found.difference > found.half_width for found in gaps)
    attacks = values("teacher", lambda row: row["attacks"]["synonyms"])[0]
    assert round(attacks["before"] * 100) - round(attacks["after"] * 100) == 26
    for percent in (10, 20, 40):
        arms = [
            f"{arm}, {percent}% wrong" for arm in ("hard labels", "label smoothing", "labels and teacher")
        ]
        means = [f"{100 * shipped.mean(arm).mean:.1f} %" for arm in arms]
        gaps = [points(shipped.compare(arms[2], arm)) for arm in arms[:2]]
        assert f"| {percent} % | {' | '.join([*means, *gaps])} |" in page

    # Teachers that were told the same wrong labels: the page, and notebook 10.
    lesson = next((Path(__file__).parents[2] / "notebooks").glob("10_*.ipynb")).read_text(encoding="utf-8")
    misled = "labels and misled teacher, 40% wrong"
    others = [f"{arm}, 40% wrong" for arm in ("hard labels", "label smoothing", "labels and teacher")]
    gaps, reached = (
        [shipped.compare(misled, arm) for arm in others],
        f"{100 * shipped.mean(misled).mean:.1f} %",
    )
    assert list(shipped.rows(misled)) == [0, 1, 2, 3, 4]
    assert f"| 40 % | {reached} | {' | '.join(map(points, gaps))} |" in page
    for percent in (10, 20):
        told_the_same = f"labels and misled teacher, {percent}% wrong"
        beside = [
            shipped.compare(told_the_same, f"{arm}, {percent}% wrong")
            for arm in ("hard labels", "label smoothing", "labels and teacher")
        ]
        reaches = f"{100 * shipped.mean(told_the_same).mean:.1f} %"
        assert f"| {percent} % | {reaches} | {' | '.join(map(points, beside))} |" in page
        assert points(beside[0]) in lesson
        assert (
            beside[0].difference > beside[0].half_width and abs(beside[2].difference) < beside[2].half_width
        )
    left, of = (100 * shipped.compare(arm, others[0]).difference for arm in (misled, others[2]))
    right = " and ".join(f"{100 * score:.1f} %" for score in shipped.scores(f"{MISLED}, 40% wrong"))
    for text in (page, lesson):
        assert right in text and f"Of {of:.1f} points {left:.1f} are left" in text
    assert f"{reached}, {points(gaps[0])} beside hard labels and {points(gaps[2])} beside" in lesson
    assert gaps[0].difference > gaps[0].half_width and -gaps[2].difference > gaps[2].half_width
    assert left < of / 2
    told = [f"{100 * row['told']:.0f}" for row in shipped.rows(f"{MISLED}, 40% wrong").values()]
    assert f"repeats only {' and '.join(told)} of a hundred labels" in lesson

    # What the page and notebook 10 say in words.
    def gap(name, place):
        return paired_seeds_test(values(name, measures[place]), values("hard labels", measures[place]))

    assert f"{shipped.core_hours:.1f} hours of one core" in page
    assert all(abs((found := gap("soft targets", i)).difference) < found.half_width for i in (0, 1, 2, 3))
    assert (ece := gap("soft targets", 4)).difference < -ece.half_width
    assert gap("label smoothing", 4).difference < ece.difference
    many = [gap("soft targets, many texts", place) for place in (0, 2, 3)]
    assert all(abs(found.difference) > found.half_width for found in many)
    assert many[0].difference > 0 and many[1].difference > 0 > many[2].difference
    for place in (1, 2):
        broken, whole = (
            values(arm, measures[place]) for arm in ("soft targets, broken copies", "soft targets")
        )
        assert abs((found := paired_seeds_test(broken, whole)).difference) < found.half_width
    for percent in (10, 20, 40):
        smoothed = shipped.compare(f"label smoothing, {percent}% wrong", f"hard labels, {percent}% wrong")
        assert smoothed.difference < smoothed.half_width
