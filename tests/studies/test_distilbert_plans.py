"""The two plans beside the study of DistilBERT: what they share with it, what they take from it, and the corpus."""

import json
from dataclasses import replace

import pytest

from kdtutor import data, models, studies
from kdtutor.studies import distilbert, distilbert_runs
from kdtutor.studies.distilbert import CONTROL, DISTILLED, PLANS, START, TASKS, TEACHER, Plan, Results, Stage
from kdtutor.studies.runner import as_stored

pytestmark = pytest.mark.slow  # runs a whole study

STAGE = Stage(texts=8, batch_size=4, passes=1, rates=(1e-3,))
PLAN = Plan(STAGE, STAGE, STAGE, STAGE, choosing_texts=4, seeds=(0,))
COUNTS = {"train": 10, "validation": 8, "test": 24}


@pytest.fixture(scope="module")
def tasks():
    found = {name: data.load_task(name) for name in ("glosses", *TASKS)}
    for name in found:
        for split, count in COUNTS.items():
            found[name] = found[name].subset(
                count + 20 * (name == "glosses" and split == "train"), split=split
            )
    return found


@pytest.fixture(scope="module")
def teacher(tasks):
    return models.freeze(models.small_bert(tasks["glosses"], layers=2, width=16, heads=2, seed=7))


def test_every_plan_is_a_study_and_measures_texts_as_the_first_does():
    assert PLANS.keys() == {name for name in studies.STUDIES if name.startswith("distilbert")}
    first = PLANS["distilbert"]
    assert first == Plan()
    for plan in PLANS.values():
        assert plan.seeds == first.seeds and plan.choosing_seeds == first.choosing_seeds
        assert [getattr(plan, name) for name in TASKS] == [getattr(first, name) for name in TASKS]
        assert (plan.glosses.validation, plan.glosses.test) == (first.glosses.validation, first.glosses.test)
        assert {DISTILLED, CONTROL} <= {*plan.arms}
    # The reviews stand in the place of definitions: as many texts, as many steps.
    assert replace(PLANS["distilbert-reviews"], arms=first.arms, corpus=("glosses",), tuned_by="") == first


def test_a_corpus_has_each_training_text_of_its_other_tasks_once_and_other_lines_for_the_rest(tasks):
    lines, reviews = tasks["glosses"].texts("train"), tasks["valence"].texts("train")
    # As in life: what the tasks ask about is among the lines.
    mixed = data.Split(([*lines, *reviews[:6]],), None)
    glosses = replace(tasks["glosses"], splits=tasks["glosses"].splits | {"train": mixed})
    plan = replace(PLAN, glosses=replace(STAGE, texts=38), corpus=("glosses", "valence"))
    corpus = distilbert_runs._corpus(plan, tasks | {"glosses": glosses})
    texts = corpus.texts("train")
    assert len(texts) == len({*texts}) == 38 and corpus.split("train").targets is None
    assert {*texts[28:]} == {*reviews} and {*texts[:28]} <= {*lines}
    assert corpus.texts("test") == tasks["glosses"].subset(24, split="test").texts("test")


def test_the_corpus_with_reviews_has_none_that_is_measured_and_its_shares_are_those_that_are_told():
    tasks = {name: data.load_task(name) for name in ("glosses", *TASKS)}
    reviews = {*tasks["valence"].texts("train")}
    share = {}
    for name in ("distilbert", "distilbert-reviews"):
        texts = distilbert_runs._corpus(PLANS[name], tasks).texts("train")
        assert len(texts) == 40_000
        share[name] = sum(text in reviews for text in texts) / len(texts)
        measured = {
            text for task in TASKS for part in ("validation", "test") for text in tasks[task].texts(part)
        }
        assert not measured & {*texts}
    assert share["distilbert"] == pytest.approx(0.10, abs=0.01)
    assert share["distilbert-reviews"] == pytest.approx(0.29, abs=0.01)


def test_a_plan_tuned_by_another_takes_its_rates_and_tries_only_what_differs(
    tmp_path, tasks, teacher, monkeypatch
):
    arms = (DISTILLED, CONTROL)
    tuner = replace(PLAN, arms=(*arms, TEACHER, START))
    first = distilbert_runs.run(
        tuner, tmp_path / "first.json", tmp_path / "work", tasks, teacher, lambda _: None
    )
    monkeypatch.setattr(distilbert_runs, "load", lambda name: first)
    monkeypatch.setitem(PLANS, "distilbert", tuner)
    same = replace(PLAN, arms=arms, glosses=replace(STAGE, texts=25), corpus=("glosses", "valence"))
    for plan, tries in ((replace(same, glosses=STAGE, corpus=("glosses",)), set()), (same, {"glosses"})):
        plan, said = replace(plan, tuned_by="distilbert"), []
        found = distilbert_runs.run(
            plan, tmp_path / f"{len(tries)}.json", tmp_path / "work", tasks, teacher, said.append
        )
        assert found.seeds == [0] and {*found.configurations} == {*arms}
        tried = [line for line in said if line.startswith("choosing")]
        assert len(tried) == 2 * len(arms) * len(tries) and all("glosses" in line for line in tried)
        assert found.record["room"] == []
        assert "retained" not in str(found), "there is no teacher to retain anything of"


def test_the_longer_study_that_ships_has_its_plan_and_belongs_to_the_same_teacher_and_texts():
    longer, first = studies.load("distilbert-longer"), studies.load("distilbert")
    assert isinstance(longer, Results) and longer.seeds == first.seeds == [0, 1, 2, 3, 4]
    plan = as_stored(PLANS["distilbert-longer"])
    assert longer.record["plan"] == {name: value for name, value in plan.items() if name != "seeds"}
    for what in ("teacher", "data", "versions"):
        assert longer.record[what] == first.record[what]
    # What is not pre-trained longer is the same run.
    for arm, task in ((TEACHER, "sentiment"), (START, "supersense")):
        assert longer.scores(arm, task=task) == first.scores(arm, task=task)
    assert (
        max(row["clipped"] for row in longer.record["runs"] if row["task"] == "glosses" and "clipped" in row)
        == 0
    )


def test_the_command_makes_the_plan_of_its_name(tmp_path, tasks, teacher, monkeypatch, capsys):
    from kdtutor.cli import main

    plan = replace(PLAN, arms=(START,))
    monkeypatch.setitem(distilbert.PLANS, "distilbert-longer", plan)
    monkeypatch.setattr("kdtutor.cli.study._task", lambda given, name: tasks[name])
    teacher.save_pretrained(tmp_path / "teacher")
    file = tmp_path / "x.json"
    where = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--folder",
        str(tmp_path / "work"),
        "--output",
        str(file),
    ]
    assert main(["study", "distilbert-longer", *where]) == 0
    record = json.loads(file.read_text())
    assert record["command"] == "kdtutor study distilbert-longer" and len(record["runs"]) == 2
    capsys.readouterr()
