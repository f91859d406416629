"""The grid of α and T in a tiny setting: what it compares, whose rate a cell has, and what the tables hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.errors import KDTutorError
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import grid, training
from kdtutor.studies.grid import HARD, SMOOTH, Plan, cell, configurations

PLAN = Plan(
    few=8,
    validation=20,
    steps=1,
    batch_size=4,
    student=(("width", 8), ("filters", 4)),
    alphas=(0.0, 0.5),
    middle=(0.5, 2.0),
    temperatures=(1.0, 2.0, 4.0),
    rates=(1e-3,),
    coarse=((0.5,), (1.0, 4.0), (1e-3, 2e-3)),
    seeds=(0, 1),
    coarse_seeds=(0,),
)


@pytest.fixture(scope="module")
def world():
    task = data.load_task("supersense")
    train = task.split("train").select(torch.arange(20))
    held_out = {name: task.split(name).select(torch.arange(30)) for name in ("validation", "test")}
    task = replace(task, splits={"train": train} | held_out)
    return task, models.freeze(models.small_bert(task, layers=1, width=16, seed=7))


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    folder, said, again = tmp_path_factory.mktemp("grid"), [], []
    with pytest.MonkeyPatch.context() as patch:
        # A random teacher is no better than chance, and would be refused.
        real = training.train
        patch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
        stored = grid.run(PLAN, folder / "x.json", folder / "work", *world, said.append)
        grid.run(PLAN, folder / "x.json", folder / "work", *world, again.append)
    return stored, json.loads((folder / "x.json").read_text(encoding="utf-8")), said, again, folder


def test_every_alpha_meets_every_temperature_and_each_reads_as_a_formula():
    made = configurations(Plan())
    assert len(made) == len({c.name for c in made}) == 2 + 5 * 5 + 2 + 18
    assert Plan().choosing_seed not in Plan().seeds and len(Plan().seeds) == 5
    for c in made:
        parse_objective(c.objective)
    assert "grid" in studies.STUDIES


def test_only_three_arms_choose_a_rate_on_validation_and_every_cell_has_that_of_the_middle(made):
    _, record, said, again, _ = made
    assert {row["configuration"] for row in record["choosing"]} == {HARD, SMOOTH, cell(0.5, 2.0)}
    assert all("test" not in row and row["seed"] == 5 for row in record["choosing"])
    assert len(record["runs"]) == 2 * (2 + 2 * 3 + 2) + 4
    assert len(said) == len(record["runs"]) + 3 and not again, "what is there is not made again"
    for row in record["runs"]:
        about = record["configurations"][row["configuration"]]
        assert row["steps"] == about["times"] and row["settings"]["learning_rate"] == (about["rate"] or 1e-3)
        assert ("right" in row["test"]) == (about["part"] == "landscape") and "right" not in row["validation"]


def test_the_tables_have_each_score_in_its_place(made):
    stored = made[0]
    table = grid.landscape(stored, "test")
    assert table.shape == (2, 3, 2)
    # 20 random ones of 30 validation texts, all of test
    assert all(
        score * 20 == pytest.approx(round(score * 20), abs=1e-4) for score in grid.landscape(stored).flat
    )
    assert table[1, 2].tolist() == stored.scores("α = 0.5, T = 4")
    coarse = grid.rates(stored, measure="loss")
    assert coarse.shape == (1, 2, 2, 1) and np.isfinite(coarse).all()
    assert coarse[0, 1, 0].tolist() == stored.scores("α = 0.5, T = 4, rate 0.001", "loss", "validation")


def test_a_file_of_another_plan_is_refused(made, world):
    folder = made[-1]
    other = replace(PLAN, steps=2)
    with pytest.raises(KDTutorError, match="another plan"):
        grid.run(other, folder / "x.json", folder / "work", *world, print)


def test_what_the_results_page_says_of_the_grid_is_what_it_found():
    shipped = studies.load("grid")
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    plan = shipped.record["plan"]
    cells = [grid.cell(alpha, t) for alpha in plan["alphas"] for t in plan["temperatures"]]
    best, middle = shipped.best(cells), grid.cell(*plan["middle"])
    assert f"| {best}, chosen on validation | {100 * shipped.mean(best).mean:.1f} % | |" in page
    for name, told in ((HARD, HARD), (SMOOTH, SMOOTH), (middle, f"{middle}, the middle of the grid")):
        gap = shipped.compare(best, name)
        minus = f"{100 * gap.difference:+.1f} ± {100 * gap.half_width:.1f}".replace("-", "−")
        assert f"| {told} | {100 * shipped.mean(name).mean:.1f} % | {minus} |" in page
