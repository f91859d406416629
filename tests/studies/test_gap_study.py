"""The study of a small student's teachers in a tiny setting: who teaches whom, and at which rate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import gap, training
from kdtutor.studies.gap import BERT, SOFT, Plan, configurations
from kdtutor.studies.runner import as_stored
from kdtutor.studies.stored import CONTROLS, HARD, SMOOTH

ROOT, FROM_BERT = Path(__file__).parents[2], "from BERT, pool"
PLAN = Plan(
    few=8,
    own=10,
    width=4,
    steps=2,
    batch_size=4,
    rates=(1e-3,),
    teachers=(
        ("bag", "static", 8, "all", 2, 1e-3),
        ("assistant", "cnn", 4, "pool", 2, 1e-3),
        ("brief", "cnn", 4, "own", 1, 1e-3),
        ("long", "cnn", 4, "own", 3, 1e-3),
    ),
    assistant="assistant",
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def world():
    task = data.load_task("supersense")
    parts = {"train": range(20), "pool": range(100, 115)}
    splits = {name: task.split("train").select(torch.tensor(rows)) for name, rows in parts.items()}
    held_out = {name: task.split(name).select(torch.arange(30)) for name in ("validation", "test")}
    return replace(task, splits=splits | held_out), models.freeze(models.small_bert(task, 1, 16, seed=7))


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    folder, said, again, asked = tmp_path_factory.mktemp("gap"), [], [], []
    with pytest.MonkeyPatch.context() as patch:
        real = training.train

        def watched(student, teacher, task, formula, **how):
            shape = "cnn" if "Convolutional" in type(student).__name__ else "static"
            what = (shape, student.config.embedding_size), teacher is world[1]
            asked.append((*what, len(task.split("train")), formula, how["steps"]))
            # A random teacher is no better than chance, and would be refused.
            return real(student, teacher, task, formula, **how, check_teacher=False)

        patch.setattr("kdtutor.studies.bench.train", watched)
        gap.run(PLAN, folder / "x.json", folder / "work", *world, said.append)
        gap.run(PLAN, folder / "x.json", folder / "work", *world, again.append)
    return json.loads((folder / "x.json").read_text(encoding="utf-8")), said, again, asked


def test_every_arm_reads_as_a_formula_and_the_pool_has_no_labels_that_a_student_sees(world, tmp_path):
    plan = Plan()
    made = configurations(plan)
    assert len(made) == len({c.name for c in made})
    assert len(plan.seeds) == 5 and plan.choosing_seed not in plan.seeds and "gap" in studies.STUDIES
    for c in made:
        if c.objective is not None:
            parse_objective(c.objective)
            assert c.texts != "pool" or c.objective == SOFT
    pool = gap.Gap(PLAN, *world, tmp_path).texts("pool").split("train")
    assert len(pool) == 8 + 15 and int(pool.labelled.sum()) == 8


def test_a_teacher_is_trained_once_at_each_seed_and_an_assistant_by_the_largest(made):
    *_, asked = made
    seeds = len(PLAN.seeds) + 1
    # (of which shape and width, taught by the BERT, texts, formula, steps)
    trained = {what: asked.count(what) for what in asked if what[0] != ("static", PLAN.width)}
    assert trained == {
        (("static", 8), False, 20, CONTROLS[HARD], 2): seeds,
        (("cnn", 4), True, 23, SOFT, 2): seeds,
        (("cnn", 4), False, 10, CONTROLS[HARD], 1): seeds,
        (("cnn", 4), False, 10, CONTROLS[HARD], 3): seeds,
    }


def test_each_arm_chooses_on_validation_and_what_is_longer_has_the_rate_of_the_shorter(made):
    record, said, again, _ = made
    arms = [c for c in configurations(PLAN) if c.objective]
    assert {row["configuration"] for row in record["choosing"]} == {c.like for c in arms}
    assert all("test" not in row and row["seed"] == 5 for row in record["choosing"])
    assert len(record["runs"]) == 2 * len(arms) + 2 * len(PLAN.teachers) + 1
    assert len(said) == len(record["runs"]) + len(record["choosing"]) and not again
    for row in record["runs"]:
        assert 0 <= row["test"]["accuracy"] <= 1 and "right" in row["test"]
        about = record["configurations"][row["configuration"]]
        if about["objective"]:
            assert row["steps"] == 2 * about["times"] and row["settings"] == {"learning_rate": 1e-3}
        assert ("train" in row) == (about["part"] == "teachers" and about["texts"] == "own")
    labels = {c.name: c.objective for c in arms if not c.teacher}
    assert labels == {
        f"from {arm}, {texts}": CONTROLS[arm] for texts in ("few", "own") for arm in (HARD, SMOOTH)
    }
    assert [row["seed"] for row in record["runs"] if row["configuration"] == BERT] == [None]


def test_a_seed_has_teachers_of_its_own_and_a_second_look_finds_the_same(made, world, tmp_path, monkeypatch):
    real = training.train
    monkeypatch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
    bench = gap.Gap(PLAN, *world, tmp_path)
    one, same, other = (bench.other("brief", seed).classifier.weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert bench.other(BERT, 3) is world[1]


# ------------------------------------------------------------------------------------------- what was found


@pytest.fixture(scope="module")
def stored():
    return studies.load("gap")


def signed(found) -> str:
    return f"{100 * found.difference:+.1f} ± {100 * found.half_width:.1f}".replace("-", "−")


def test_the_stored_runs_can_be_gone_on_with(stored):
    plan = {name: value for name, value in as_stored(Plan()).items() if name != "seeds"}
    assert stored.record["plan"] == plan
    assert stored.record["configurations"] == {c.name: as_stored(c) for c in configurations(Plan())}


def percent(stored, name: str, split: str = "test") -> str:
    return f"{100 * stored.mean(name, split=split).mean:.1f}"


def test_the_results_page_has_every_student_and_every_teacher(stored):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    told = {HARD: "labels", SMOOTH: "smoothed labels"}
    sizes = [c for c in configurations(Plan()) if c.part in ("sizes", "longer")]
    for c in sizes:
        name = (
            f"{told[c.name.split(', ')[0].removeprefix('from ')]}, few"
            if not c.teacher
            else c.name.removeprefix("from ")
        )
        gap = signed(stored.compare(c.name, FROM_BERT)) if c.name != FROM_BERT else ""
        row = f"| {name} | {percent(stored, c.teacher) if c.teacher else ''} | {percent(stored, c.name)} | {gap} |"
        assert row.replace("|  |", "| |") in page
    for teacher in (*told, BERT, *(row[0] for row in Plan().teachers if row[3] == "own")):
        own = percent(stored, f"from {teacher}, own")
        pool = percent(stored, f"from {teacher}, pool") if teacher not in told else ""
        test = percent(stored, teacher) if teacher not in told else ""
        heart = percent(stored, teacher, "train") if teacher.startswith("CNN") else ""
        row = f"| {told.get(teacher, teacher)} | {heart} | {test} | {own} | {pool} |"
        assert row.replace("|  |", "| |").replace("|  |", "| |") in page
    assert all(len(stored.rows(c.name)) == 5 for c in configurations(Plan()) if c.objective)


def apart(stored, first: str, second: str) -> str:
    return signed(stored.compare(first, second)).lstrip("+−")


@pytest.mark.parametrize("place", ["docs/results.md", "notebooks/07_shapes.ipynb"])
def test_the_pages_say_of_assistants_and_sizes_what_was_found(stored, place):
    text = " ".join((ROOT / place).read_text(encoding="utf-8").split())
    assisted = stored.compare(f"from {Plan().assistant}, pool", FROM_BERT)
    assert f"{apart(stored, f'from {Plan().assistant}, pool', FROM_BERT)} points from the teacher's" in text
    assert abs(assisted.difference) < assisted.half_width < 0.005, "and that is no gap"
    assert (
        f"{apart(stored, FROM_BERT, f'from {HARD}, few')} points ahead of the pupil of the 2,000 labels"
        in text
    )
    narrow, wide = "from CNN, 16, pool", "from CNN, 64, pool"
    up, down = stored.compare(wide, narrow), stored.compare(FROM_BERT, wide)
    assert up.difference > up.half_width and down.difference < -down.half_width, (
        "the best teacher lies between"
    )
    assert stored.mean("CNN, 16").mean < stored.mean("CNN, 64").mean < stored.mean(BERT).mean
    assert signed(up).lstrip("+") in text and signed(down).lstrip("−") in text


def test_the_results_page_says_of_longer_training_what_was_found(stored):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    more = [
        apart(stored, f"from CNN, 20 passes, {texts}", f"from CNN, 5 passes, {texts}")
        for texts in ("own", "pool")
    ]
    assert f"its pupils gain {more[0]} points on its own texts and {more[1]} on the pool" in page
    labels = stored.compare("from CNN, 20 passes, own", f"from {HARD}, own")
    assert f"({signed(labels)})" in page and abs(labels.difference) < labels.half_width
    assert f"by {apart(stored, 'from CNN, 20 passes, pool', 'CNN, 20 passes')}" in page


def test_notebook_07_tells_the_same_of_each_teacher(stored):
    text = " ".join((ROOT / "notebooks" / "07_shapes.ipynb").read_text(encoding="utf-8").split())

    def listed(*names: str) -> str:
        *first, last = (percent(stored, name) for name in names)
        return f"{', '.join(first)} and {last} %"

    sizes, passes = ("CNN, 16", "CNN, 64", BERT), tuple(f"CNN, {n} passes" for n in (2, 5, 20))
    assert f"They are right on {listed(*sizes)} of the test texts" in text
    assert f"have {listed(*(f'from {name}, pool' for name in sizes))}" in text
    assert f"It is then right on {listed(*passes)} of the test texts" in text
    assert f"Its pupils on the pool have {listed(*(f'from {name}, pool' for name in passes))}" in text
    assert f"they have {listed(*(f'from {name}, own' for name in passes))}" in text
    assert f"the labels themselves {percent(stored, f'from {HARD}, own')} %" in text
    assert (
        f"with twice the steps it is {apart(stored, FROM_BERT + ', longer', FROM_BERT)} points lower" in text
    )
    assert (
        f"That of the narrow assistant is {apart(stored, 'from assistant CNN, 16, pool', FROM_BERT)}" in text
    )
    better = 100 * stored.compare("from CNN, 64, pool", FROM_BERT).difference
    worse = 100 * stored.compare(BERT, "CNN, 64").difference
    assert (
        round(worse) == 6
        and f"six points worse than the BERT taught our smallest student {better:.1f} points" in text
    )


def test_the_results_page_names_the_students_whose_rate_lies_at_the_edge():
    stored, edge = studies.load("gap"), []
    for name in {row["configuration"]: None for row in stored.record["choosing"]}:
        rows = [row for row in stored.record["choosing"] if row["configuration"] == name]
        tried = [row["settings"]["learning_rate"] for row in rows]
        if stored.settings(name)["learning_rate"] in (min(tried), max(tried)):
            edge.append(name)
    assert sorted(edge) == [
        "from CNN, 2 passes, pool",
        "from label smoothing, few",
        "from label smoothing, own",
    ]
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    assert "Both students of smoothed labels took the smallest rate that was tried" in page
