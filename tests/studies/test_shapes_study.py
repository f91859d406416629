"""The study of students of another shape in a tiny setting: what it compares, chooses, measures, and goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import shapes, training
from kdtutor.studies.runner import as_stored
from kdtutor.studies.shapes import ARMS, LONGER, MAIN, PLANS, Plan, Reviews, configurations
from kdtutor.studies.stored import MEASURED

ROOT = Path(__file__).parents[2]
PLAN = Plan(
    few=8,
    copies=2,
    steps=2,
    batch_size=4,
    rates=(1e-3,),
    shapes=(("LSTM", "lstm", {"width": 8}), ("static", "static", {"width": 8})),
    sizes=(("LSTM, 2 × 4", "lstm", {"layers": 2, "width": 4}),),
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def task():
    task = data.load_task("supersense")
    parts = {"train": range(20), "pool": range(100, 115)}
    splits = {name: task.split("train").select(torch.tensor(rows)) for name, rows in parts.items()}
    held_out = {name: task.split(name).select(torch.arange(30)) for name in ("validation", "test")}
    return replace(task, splits=splits | held_out)


@pytest.fixture(scope="module")
def made(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    teacher = models.freeze(models.small_bert(task, layers=1, width=16, seed=7))
    # What is tested is which runs are made, not what words_alone finds.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "words_alone", lambda task: {"test": {"accuracy": 0.5}})
        # A random teacher is no better than chance, and would be refused.
        real = training.train
        patch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
        said = []
        shapes.run(PLAN, folder / "x.json", folder / "work", task, teacher, said.append)
        again = []
        shapes.run(
            replace(PLAN, seeds=(0, 1, 2)), folder / "x.json", folder / "work", task, teacher, again.append
        )
    return json.loads((folder / "x.json").read_text(encoding="utf-8")), said, again


def test_every_architecture_has_every_arm_and_each_reads_as_a_formula():
    made = configurations(Plan())
    assert len(made) == len({c.name for c in made}) == 2 + 5 * len(ARMS) + 4 * len(MAIN) + 5
    assert len(Plan().seeds) == 5 and Plan().choosing_seed not in Plan().seeds
    for c in made[2:]:
        parse_objective(c.objective)
    assert {name for _, name, _ in (*Plan().shapes, *Plan().sizes)} <= {*models.student_names()}


@pytest.mark.parametrize("wide, deep", [("LSTM", "LSTM, 4 × 64"), ("BERT", "BERT, 8 × 64")])
def test_wide_and_deep_cost_about_the_same(task, tmp_path, wide, deep):
    bench = shapes.Shapes(Plan(), task, models.freeze(models.small_bert(task, layers=1, width=128)), tmp_path)
    work = [models.sizes(bench.student(shape, 0), 20).multiply_adds for shape in (wide, deep)]
    assert work[0] == pytest.approx(work[1], rel=0.1)


def test_each_arm_chooses_on_validation_alone_and_is_measured_at_every_seed(made):
    record, said, again = made
    arms = 2 * len(ARMS) + len(MAIN) + 2
    assert all("test" not in row and row["seed"] == 5 for row in record["choosing"])
    assert len(record["choosing"]) == arms and len(record["runs"]) == 2 + arms * 3
    assert len(said) == arms + 2 + arms * 2 and len(again) == arms, "what is there is not made again"
    for row in record["runs"][2:]:
        assert row["settings"] == {"learning_rate": 1e-3}
        assert row["steps"] == (4 if "longer" in row["configuration"] else 2)
        assert 0 <= row["test"]["accuracy"] <= 1 and "right" in row["test"]
    assert "shapes" in studies.STUDIES


def test_a_seed_decides_the_student_and_all_begin_with_the_teachers_vectors(task, tmp_path):
    teacher = models.freeze(models.small_bert(task, layers=1, width=16, seed=7))
    bench = shapes.Shapes(PLAN, task, teacher, tmp_path)
    one, same, other = (bench.student("LSTM", seed) for seed in (0, 0, 1))
    assert torch.equal(one.encoder.embeddings.weight, models.token_vectors(teacher, task, 8))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_variants_and_the_pool_are_unlabelled(task, tmp_path):
    bench = shapes.Shapes(PLAN, task, None, tmp_path)
    few, variants, pool = (bench.texts(which).split("train") for which in ("few", "variants", "pool"))
    assert len(few) == 8 == int(variants.labelled.sum()) == int(pool.labelled.sum())
    assert len(variants) > 8 and len(pool) == 8 + 15


def test_reviews_have_the_same_arms_but_for_the_pool_and_the_rest_of_the_texts_has_no_labels(tmp_path):
    reviews, plan = data.load_task("sentiment"), PLANS["shapes-sentiment"]
    made = configurations(plan)[2:]
    assert {c.shape for c in made} == {"LSTM", "CNN", "static"} and len(made) == 3 * len(plan.arms)
    assert {*plan.arms} - {*ARMS} == {"soft targets, rest"} and LONGER not in {c.arm for c in made}
    bench = shapes.Shapes(plan, reviews, None, tmp_path)
    few, rest = (bench.texts(which).split("train") for which in ("few", "rest"))
    assert len(rest) == len(reviews.split("train")) and int(rest.labelled.sum()) == len(few) == 2000
    labelled = {text for text, known in zip(rest.texts[0], rest.labelled, strict=True) if known}
    assert labelled == {*few.texts[0]}, "what the student has labels of is the same in both"


def test_the_command_runs_a_plan_by_its_name_and_on_its_own_task(tmp_path, monkeypatch):
    from kdtutor.cli.study import main

    reviews = data.load_task("sentiment")
    for split, count in (("train", 16), ("validation", 10), ("test", 10)):
        reviews = reviews.subset(count, split=split)
    small = Reviews(few=8, copies=1, steps=1, rates=(1e-3,), shapes=PLAN.shapes[1:], seeds=(0,))
    monkeypatch.setitem(PLANS, small.study, small)
    monkeypatch.setattr("kdtutor.cli.study._task", lambda given, name: {"sentiment": reviews}[name])
    monkeypatch.setattr(shapes, "words_alone", lambda task: {split: {"accuracy": 0.5} for split in MEASURED})
    real = training.train
    monkeypatch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
    tiny = models.freeze(models.small_bert(reviews, layers=1, width=16, seed=7))
    monkeypatch.setattr("kdtutor.models.load_teacher", lambda task, name: tiny)

    file = tmp_path / "x.json"
    assert main(["shapes-sentiment", "--output", str(file), "--folder", str(tmp_path / "work")]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["command"] == "kdtutor study shapes-sentiment" and len(record["runs"]) == 2 + len(
        small.arms
    )
    assert all(row["steps"] == 1 for row in record["runs"] if row["seed"] is not None)


@pytest.fixture(scope="module")
def stored():
    return studies.load("shapes")


def test_the_stored_runs_can_be_gone_on_with(stored):
    plan = {name: value for name, value in as_stored(Plan()).items() if name != "seeds"}
    assert stored.record["plan"] == plan


def signed(found) -> str:
    return f"{100 * found.difference:+.1f} ± {100 * found.half_width:.1f}".replace("-", "−")


def behind(stored, first: str, second: str, arm: str) -> str:
    """By how much the first lacks the second, and the interval, as a page says it."""
    return signed(stored.compare(f"{second}, {arm}", f"{first}, {arm}")).removeprefix("+")


def test_the_results_page_has_what_the_study_found(stored):
    whole = [
        shape
        for shape in ("static", "LSTM", "GRU", "CNN", "BERT")
        if {f"{shape}, {arm}" for arm in ARMS} <= {*stored.select()}
        and all(len(stored.rows(f"{shape}, {arm}")) == 5 for arm in ARMS)
    ]
    assert {"static", "LSTM", "GRU", "CNN", "BERT"} <= {*whole}

    def gap(shape: str, a: str, b: str) -> str:
        return signed(stored.compare(f"{shape}, {a}", f"{shape}, {b}"))

    rows = {arm: [f"{100 * stored.mean(f'{shape}, {arm}').mean:.1f}" for shape in whole] for arm in ARMS}
    gaps = {
        "soft targets, minus hard labels": ("soft targets", "hard labels"),
        "soft targets, minus label smoothing": ("soft targets", "label smoothing"),
        "variants, minus none": ("soft targets, variants", "soft targets"),
        "pool, minus hard labels": ("soft targets, pool", "hard labels"),
    }
    rows |= {f"*{name}*": [gap(shape, *pair) for shape in whole] for name, pair in gaps.items()}
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"| | {' | '.join(whole)} |" in page
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_the_results_page_has_what_was_found_on_reviews():
    stored, plan = studies.load("shapes-sentiment"), PLANS["shapes-sentiment"]
    assert stored.record["plan"] == {
        name: value for name, value in as_stored(plan).items() if name != "seeds"
    }
    shapes, arms = ("static", "LSTM", "CNN"), [*plan.arms]
    assert all(len(stored.rows(f"{shape}, {arm}")) == 5 for shape in shapes for arm in arms)

    def gaps(a: str, b: str) -> list:
        return [stored.compare(f"{shape}, {a}", f"{shape}, {b}") for shape in shapes]

    hard, smooth, soft, variants, rest = arms
    rows = {arm: [f"{100 * stored.mean(f'{shape}, {arm}').mean:.1f}" for shape in shapes] for arm in arms}
    pairs = {
        "soft targets, minus hard labels": (soft, hard),
        "soft targets, minus label smoothing": (soft, smooth),
        "variants, minus none": (variants, soft),
        "rest, minus hard labels": (rest, hard),
    }
    rows |= {f"*{name}*": [signed(found) for found in gaps(*pair)] for name, pair in pairs.items()}
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in page
    bars = [f"{100 * stored.mean(name).mean:.1f} %" for name in ("teacher", "TF-IDF")]
    assert f"The teacher has {bars[0]}, TF-IDF with a linear model {bars[1]} from the same labels" in page
    assert f"{stored.core_hours:.1f} hours of one core" in page
    text = (ROOT / "notebooks" / "07_shapes.ipynb").read_text(encoding="utf-8")
    same, others, varied = (
        signed(gaps(*pair)[shapes.index("LSTM")]).removeprefix("+")
        for pair in ((soft, hard), (rest, hard), (variants, soft))
    )
    assert (
        f"gains {same} points from the answers to the same texts and {others} from those to the rest" in text
    )
    assert f"variants bring it {varied}" in text
    # "as much as each", "something where the order of words is read", "other texts bring most"
    beside = [stored.compare("TF-IDF", f"{shape}, {hard}") for shape in shapes]
    assert all(abs(found.difference) < found.half_width for found in beside)
    told = [found.difference > found.half_width for found in gaps(variants, soft)]
    assert told == [False, True, True]
    assert all(found.difference > found.half_width for found in gaps(rest, variants))


def test_the_results_page_has_every_size_that_is_complete(stored):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    sizes = {name: name for name, _, _ in Plan().sizes} | {"LSTM": "LSTM, 1 × 128", "BERT": "BERT, 2 × 128"}
    for name, shown in sizes.items():
        runs = [f"{name}, {arm}" for arm in MAIN]
        if min(len(stored.rows(run)) for run in runs) < 5:
            assert f"| {shown} |" not in page, "an incomplete row is not shown"
            continue
        cells = []
        for arm, run in zip(MAIN, runs, strict=True):
            first = f"{name[:4]}, {arm}"
            cells += [f"{100 * stored.mean(run).mean:.1f}"]
            cells += [signed(stored.compare(run, first)) if run != first else ""]
        assert f"| {shown} | {' | '.join(cells)} |" in page


@pytest.mark.parametrize("place", ["docs/results.md", "notebooks/07_shapes.ipynb"])
def test_what_is_said_of_sizes_and_of_the_transformer_is_what_was_found(stored, place):
    text = (ROOT / place).read_text(encoding="utf-8")
    said = [behind(stored, "BERT", "LSTM", arm) for arm in MAIN]
    assert all(gap in text for gap in said)
    said = [behind(stored, "LSTM, 4 × 64", "LSTM, 1 × 64", arm) for arm in MAIN]
    assert f"{said[0]} and {said[1]} points" in text
    assert behind(stored, "BERT, 1 × 64", "LSTM, 1 × 64", MAIN[1]) in text
    deep = [stored.compare(f"BERT, 8 × 64, {arm}", f"BERT, {arm}") for arm in MAIN]
    assert all(abs(found.difference) < found.half_width for found in deep), "no harm that could be told"
    assert all(signed(found) in text for found in deep)
    longer = {
        shape: stored.compare(f"{shape}, {LONGER}", f"{shape}, {MAIN[1]}")
        for shape in ("LSTM", "CNN", "static", "GRU", "BERT")
    }
    gained = [signed(found).lstrip("+−") for found in longer.values()]
    assert all(gap in text for gap in gained) and abs(longer["CNN"].difference) < 0.0005
    assert all(longer[shape].difference > longer[shape].half_width for shape in ("LSTM", "BERT")), "better"
    assert all(longer[shape].difference < -longer[shape].half_width for shape in ("static", "GRU")), "worse"
    said = [behind(stored, "LSTM", "GRU", arm) for arm in MAIN]
    assert f"{said[0]} points with the labels, {said[1]} with the pool, nothing to be told in between" in text
    between = [stored.compare(f"GRU, {arm}", f"LSTM, {arm}") for arm in ARMS if arm not in MAIN]
    assert all(abs(found.difference) < found.half_width for found in between)
    if place.endswith("ipynb"):
        said = [behind(stored, "LSTM, 4 × 64", "LSTM", arm) for arm in MAIN]
        assert f"{said[0]} points behind one wide one with the labels alone, {said[1]} with the pool" in text
        said = [behind(stored, "LSTM, 1 × 64", "LSTM", arm) for arm in MAIN]
        assert f"only {said[0]} and {said[1]} behind the wide one" in text
        words = signed(stored.compare("TF-IDF", "BERT, hard labels")).removeprefix("+")
        assert f"{words} below counting words" in text


def test_notebook_07_says_what_the_study_found(stored):
    text = (ROOT / "notebooks" / "07_shapes.ipynb").read_text(encoding="utf-8")
    shapes_there = ("LSTM", "CNN", "static", "BERT")

    def points(shape: str, a: str, b: str) -> tuple[float, float]:
        found = stored.compare(f"{shape}, {a}", f"{shape}, {b}")
        return 100 * found.difference, 100 * found.half_width

    def said(shape: str, a: str, b: str) -> str:
        return "{:.1f} ± {:.1f}".format(*points(shape, a, b)).replace("-", "−")

    assert f"{said('LSTM', 'soft targets, variants', 'soft targets')} points for the LSTM" in text
    smoothing = [said(shape, "soft targets", "label smoothing") for shape in shapes_there]
    assert (
        "{} points ahead for the LSTM, {} for the CNN, and {}, that is nothing, for the bag; the BERT's {} ".format(
            *smoothing
        )
        in text
    )
    pool = [points(shape, "soft targets, pool", "hard labels")[0] for shape in shapes_there]
    variants = [points(shape, "soft targets, variants", "hard labels")[0] for shape in shapes_there]
    assert f"{min(pool):.0f} to {max(pool):.0f} points over the labels alone" in text
    made = f"variants that it answers ({min(variants):.0f} to {max(variants):.0f})"
    assert f"({min(pool):.0f} to {max(pool):.0f} points here), or {made}" in text
    # "A third to two fifths" of the pool, a fifth, and a quarter.
    shares = [
        points(shape, "soft targets, variants", "soft targets")[0]
        / points(shape, "soft targets, pool", "soft targets")[0]
        for shape in shapes_there
    ]
    assert shares == pytest.approx([0.4, 0.33, 0.2, 0.25], abs=0.03)
    above = 100 * stored.compare("CNN, hard labels", "TF-IDF").difference
    assert f"the CNN is {above:.0f} points above TF-IDF" in text
