"""The study of what lies below the logits in a tiny setting: what it compares, what each arm chooses, what it costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import features, training
from kdtutor.studies.features import ARMS, LONGER, MAIN, Plan, configurations

PLAN = Plan(
    few=8,
    many=12,
    passes=2,
    batch_size=4,
    rates=(1e-3,),
    random_rates=(2e-3,),
    weights=(1.0,),
    layers=2,
    width=32,
    seeds=(0,),
)


@pytest.fixture(scope="module")
def task():
    task = data.load_task("supersense")
    train = {"train": task.split("train").select(torch.arange(20))}
    held_out = {name: task.split(name).select(torch.arange(30)) for name in ("validation", "test")}
    return replace(task, splits=train | held_out)


@pytest.fixture(scope="module")
def teacher(task):
    return models.freeze(models.small_bert(task, layers=3, width=32, seed=7))


@pytest.fixture(scope="module")
def made(task, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    # What is tested is which runs are made, not what words_alone finds.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "words_alone", lambda task: {"test": {"accuracy": 0.5}})
        # A random teacher is no better than chance, and would be refused.
        real = training.train
        patch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
        features.run(PLAN, folder / "x.json", folder / "work", task, teacher, lambda said: None)
    return json.loads((folder / "x.json").read_text(encoding="utf-8"))


def test_every_objective_reads_as_a_formula_and_the_controls_are_everywhere():
    made = configurations()
    trained = [c for c in made if c.objective is not None]
    assert len(made) == len({c.name for c in made}) and len(Plan().seeds) == 5
    assert len(trained) == len(ARMS) + 1 + 3 * len(MAIN) and Plan().choosing_seed not in Plan().seeds
    for c in trained:
        parse_objective(c.objective.format(weight=0.5))
    for student, texts in {(c.student, c.texts) for c in trained}:
        arms = {c.arm for c in trained if (c.student, c.texts) == (student, texts)}
        assert {"hard labels", "logits", LONGER} <= arms


def test_a_term_chooses_its_weight_as_well_as_its_rate(made):
    chosen = {row["configuration"]: row["settings"] for row in made["choosing"]}
    assert chosen["hidden states, copied, few"] == {"weight": 1.0, "learning_rate": 1e-3}
    assert chosen["hard labels, random, few"] == {"learning_rate": 2e-3}
    assert all("test" not in row and row["seed"] == 5 for row in made["choosing"])


def test_all_have_equal_steps_but_for_equal_time(made):
    steps = {row["configuration"]: row["steps"] for row in made["runs"] if "steps" in row}
    assert {steps[f"{arm}, copied, few"] for arm in ARMS} == {4}
    assert steps[f"{LONGER}, copied, few"] == round(4 * PLAN.longer) == 7
    assert steps["logits, random, many"] == 8
    assert len(made["runs"]) == len(configurations()) and "features" in studies.STUDIES


def test_a_copied_student_has_the_teachers_layers_and_a_random_one_has_not(task, teacher, tmp_path):
    bench = features.Features(PLAN, task, teacher, tmp_path)
    by_student = {c.student: c for c in bench.configurations}
    copied, random = (bench.student(by_student[name], seed=0) for name in ("copied", "random"))
    words = teacher.get_input_embeddings().weight
    assert torch.equal(copied.get_input_embeddings().weight, words)
    assert not torch.equal(random.get_input_embeddings().weight, words)
    assert all(module.p == 0 for module in copied.modules() if isinstance(module, torch.nn.Dropout))
