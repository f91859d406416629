"""The study of students that write, in a tiny setting: what it compares, chooses, measures, and goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.students import small_seq2seq
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import sequences, training
from kdtutor.studies.sequences import ARMS, Plan, configurations, first_layers

PLAN = Plan(
    start_steps=2,
    steps=2,
    batch_size=4,
    beams=2,
    longest=5,
    measured=10,
    rates=(1e-3,),
    seeds=(0, 1),
    max_norm=1e6,
)


@pytest.fixture(scope="module")
def task():
    whole = data.load_task("pronunciation")
    rows = {"train": 40, "validation": 12, "test": 12}
    return replace(
        whole, splits={name: whole.split(name).select(torch.arange(n)) for name, n in rows.items()}
    )


@pytest.fixture(scope="module")
def teacher(task):
    return models.freeze(small_seq2seq(task, layers=2, width=32, dropout=0.0, seed=7))


@pytest.fixture(scope="module")
def made(task, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    with pytest.MonkeyPatch.context() as patch:
        # A random teacher is no better than chance, and would be refused; and it writes nothing.
        real = training.train
        patch.setattr("kdtutor.studies.bench.train", lambda *a, **how: real(*a, **how, check_teacher=False))
        patch.setattr(sequences, "written_by", lambda teacher, part, **_: part)
        said, again = [], []
        sequences.run(PLAN, folder / "x.json", folder / "work", task, teacher, said.append)
        longer = replace(PLAN, seeds=(0, 1, 2))
        sequences.run(longer, folder / "x.json", folder / "work", task, teacher, again.append)
    return json.loads((folder / "x.json").read_text(encoding="utf-8")), said, again


def test_each_arm_reads_as_a_formula_and_there_is_a_control_without_a_teacher():
    made = configurations(Plan())
    assert len(made) == len({c.name for c in made}) == 2 + len(ARMS)
    for c in made[2:]:
        assert parse_objective(c.objective).needs_teacher == (
            c.name not in ("hard labels", "label smoothing", "sequence-level")
        )
    assert len(Plan().seeds) == 5 and Plan().choosing_seed not in Plan().seeds
    assert "sequences" in studies.STUDIES


def test_each_arm_chooses_on_validation_alone_and_is_measured_at_every_seed(made):
    record, _, again = made
    assert all("test" not in row and row["seed"] == 5 for row in record["choosing"])
    assert len(record["choosing"]) == len(ARMS)
    assert len(record["runs"]) == 1 + 3 * (1 + len(ARMS))
    assert len(again) == 1 + len(ARMS), "what is there is not made again"
    for row in record["runs"]:
        assert {"accuracy", "error_rate", "loss", "perplexity"} <= {*row["test"]}
        assert row["test"]["error_rate"] >= 0 and 0 <= row["test"]["accuracy"] <= 1
        if row["configuration"] in ARMS:
            assert row["settings"] == {"learning_rate": 1e-3} and row["steps"] == 2


def test_all_arms_of_a_seed_begin_alike_with_the_teachers_first_layers(task, teacher, tmp_path):
    student = first_layers(teacher, task, 1)
    for name, value in student.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name]), name
    bench = sequences.Sequences(PLAN, task, teacher, tmp_path)
    one, same, other = (bench.start(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_no_word_of_the_start_comes_again_and_what_the_teacher_wrote_is_kept(task, tmp_path):
    teacher = models.freeze(small_seq2seq(task, layers=2, width=32, dropout=0.0, seed=7))
    asked = []

    def write(teacher, part, **how):
        asked.append(how)
        return replace(part, name="written")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "written_by", write)
        bench = sequences.Sequences(PLAN, task, teacher, tmp_path)
        first, second = (set(bench._part(0, number).texts("train")) for number in (0, 1))
        assert len(first) == len(second) == 8 and not first & second
        kept = [bench.words("teacher", 0) for _ in range(2)]
    assert asked == [{"beams": 2, "max_new_tokens": 5}], "asked once"
    assert kept[0].fingerprint == kept[1].fingerprint
    assert set(kept[0].texts("train")) == second == set(bench.words("data", 0).texts("train"))


CONTROLS = ("hard labels", "label smoothing")


@pytest.fixture(scope="module")
def shipped():
    return studies.load("sequences")


@pytest.fixture(scope="module")
def page():
    return (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def points(gap) -> str:
    return f"{100 * gap.difference:+.1f} ± {100 * gap.half_width:.1f}".replace("-", "−")


def test_the_shipped_study_is_of_the_shipped_teacher_and_has_every_seed(shipped):
    task = data.load_task("pronunciation")
    assert shipped.record["teacher"] == fingerprint(models.load_teacher(task))
    assert shipped.record["data"] == f"pronunciation {task.fingerprint}"
    assert [*shipped.record["configurations"]] == shipped.select() == [c.name for c in configurations(Plan())]
    for name in shipped.select():
        assert [*shipped.rows(name)] == ([None] if name == "teacher" else [*Plan().seeds])


def test_the_table_of_the_results_page_is_what_the_study_of_sequences_found(shipped, page):
    for name in shipped.select():
        errors, right, perplexity = (
            shipped.mean(name, measure).mean for measure in ("error_rate", "accuracy", "perplexity")
        )
        row = f"| {name} | {100 * errors:.1f} % | {100 * right:.1f} % | {perplexity:.2f} |"
        for control in CONTROLS:
            beside = name not in ("teacher", "start", control)
            row += f" {points(shipped.compare(name, control, 'error_rate'))} |" if beside else " |"
        assert row in page
    assert f"{shipped.core_hours:.1f} hours of one core). Errors are" in page


def test_what_page_and_notebook_say_of_sequences_in_words_is_so(shipped, page):
    hard, smooth = (
        {name: shipped.compare(name, control, "error_rate") for name in shipped.select()[4:]}
        for control in CONTROLS
    )

    def apart(gaps):
        return {
            name: gap.difference < 0 for name, gap in gaps.items() if abs(gap.difference) > gap.half_width
        }

    # True: fewer errors than the control.
    assert apart(hard) == {
        "word-level": True,
        "word-level, reverse KL": False,
        "word-level, JSD": False,
        "sequence-level": True,
    }
    assert apart(smooth) == {
        "word-level, reverse KL": False,
        "word-level, JSD": False,
        "sequence-level": True,
        "on-policy, half": False,
    }
    alike = shipped.compare("on-policy", "word-level, JSD", "error_rate")
    assert abs(alike.difference) < alike.half_width
    assert f"on-policy minus JSD: {points(alike)}" in page
    # Between two that were worse.
    for name in ARMS:
        tried = [
            row["settings"]["learning_rate"]
            for row in shipped.record["choosing"]
            if row["configuration"] == name
        ]
        assert min(tried) < shipped.settings(name)["learning_rate"] < max(tried)
    bar = shipped.mean("teacher", "error_rate").mean
    times = [shipped.mean(name, "error_rate").mean / bar for name in ARMS]
    assert f"{min(times):.1f} to {max(times):.1f} times their teacher's errors" in page
    read = (Plan().start_steps + Plan().steps) * Plan().batch_size
    assert round(read / 99_865, 2) == 0.83, "five words of six"
