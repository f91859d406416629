"""kdtutor search: what may be searched, what a trial is, what is kept of the best one, and what it survives."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from helpers import PATIENCE

from kdtutor.cli import main, search
from kdtutor.studies.search import NAME
from kdtutor.training.distillation import Distillation

SPACE = {"learning_rate": {"low": "1e-4", "high": "1e-2", "log": True}}
FORKS = multiprocessing.get_context("forkserver")  # no start-up for each
FORKS.set_forkserver_preload(["test_search"])
FORMULA = "{alpha} * HardLabels() + (1 - {alpha}) * SoftTargets({temperature})"


@pytest.fixture(autouse=True, scope="module")
def _a_path_for_the_forks():
    here, path = Path(__file__).parent, os.environ.get("PYTHONPATH")
    parts = [str(here), str(here.parent), str(here.parents[1]), *filter(None, [path])]
    os.environ["PYTHONPATH"] = os.pathsep.join(parts)
    yield
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path


@pytest.fixture
def recipe(corpus):
    """Write a recipe of a tiny run, with these fields."""

    def write(space: object, **given) -> str:
        fields = {
            "task": str(corpus / "mine.csv"),
            "text": "text",
            "label": "label",
            "max_length": 24,
            "precision": "fp32",
            "batch_size": 16,
            "teacher": str(corpus / "teacher"),
            "check_teacher": False,
            "student": "static",
            "width": 8,
            "steps": 2,
        }
        what = fields | given | ({} if space is None else {"search": space})
        Path("recipe.yaml").write_text(yaml.safe_dump(what, sort_keys=False), encoding="utf-8")
        return "recipe.yaml"

    return write


def trials(file: str = "runs/search/study.db") -> list:
    return optuna.load_study(study_name=NAME, storage=f"sqlite:///{file}").get_trials()


def card() -> dict:
    return json.loads(Path("runs/search/search.json").read_text(encoding="utf-8"))


def refusal(capsys, *argv: str) -> str:
    assert main(["search", *argv]) == 1
    return capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ a whole search


def test_the_best_recipe_is_written_runs_and_is_measured_on_test_once(recipe, capsys):
    space = SPACE | {"alpha": {"low": 0, "high": 1}, "temperature": [1, 4]}
    assert main(["search", recipe(space, objective=FORMULA), "--trials", "3", "--pruner", "none"]) == 0
    told = capsys.readouterr().out
    found = card()
    assert found["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    best = max(trials(), key=lambda trial: trial.values[0])
    winner = found["winner"]
    assert winner["trial"] == best.number and winner["validation"] == best.values[0]
    assert winner["optimism"] == pytest.approx(winner["validation"] - winner["test"])
    assert "measured once" in told

    # The winner trained again is the trial's student, and distill makes it of the recipe.
    scores = json.loads(Path("runs/search/best/card.json").read_text(encoding="utf-8"))["scores"]
    assert scores["validation"]["accuracy"] == best.values[0]
    written = yaml.safe_load(Path("runs/search/best.yaml").read_text(encoding="utf-8"))
    assert written["learning_rate"] == best.params["learning_rate"] and "search" not in written
    alpha, temperature = best.params["alpha"], best.params["temperature"]
    assert written["objective"] == (
        f"{alpha:.6g} * HardLabels() + (1 - {alpha:.6g}) * SoftTargets({temperature:.6g})"
    )
    assert main(["distill", "runs/search/best.yaml", "--output", "again"]) == 0
    again = json.loads(Path("again/card.json").read_text(encoding="utf-8"))["scores"]
    assert again["test"]["accuracy"] == winner["test"]

    # The same command makes nothing again.
    before = Path("runs/search/search.json").stat().st_mtime_ns
    assert main(["search", "recipe.yaml", "--trials", "3", "--pruner", "none"]) == 0
    assert len(trials()) == 3 and Path("runs/search/search.json").stat().st_mtime_ns == before


def test_more_trials_are_asked_for_and_no_point_is_proposed_twice(recipe):
    assert main(["search", recipe(SPACE), "--trials", "2", "--sampler", "random"]) == 0
    assert main(["search", "recipe.yaml", "--trials", "4", "--sampler", "random"]) == 0
    assert len({trial.params["learning_rate"] for trial in trials()}) == 4 == len(trials())
    assert card()["trials"]["complete"] == 4


def test_a_grid_has_every_point_once_and_no_more(recipe):
    space = {
        "batch_size": {"low": 8, "high": 16, "points": 2},
        "learning_rate": SPACE["learning_rate"] | {"points": 3},
    }
    assert main(["search", recipe(space), "--sampler", "grid", "--trials", "99"]) == 0
    points = sorted((trial.params["batch_size"], trial.params["learning_rate"]) for trial in trials())
    assert points == [(size, rate) for size in (8, 16) for rate in (1e-4, 1e-3, 1e-2)]


def test_a_choice_may_set_several_fields_and_the_costs_have_a_front(recipe):
    shapes = [{"student": "static", "width": 4}, {"student": "small-bert", "width": 32, "layers": 1}]
    space = {"shape": shapes, "objective": ["HardLabels()", "SoftTargets(2)"]}
    argv = [recipe(space, width=None), "--sampler", "grid", "--cost", "multiply_adds"]
    assert main(["search", *argv]) == 0
    made = {trial.params["shape"]: trial.values[1] for trial in trials()}
    assert made["student static, width 4"] < made["student small-bert, width 32, layers 1"]
    assert len(trials()) == 4
    front = card()["front"]
    assert front[0]["values"][0] == max(trial.values[0] for trial in trials())
    assert len([*Path("runs/search").glob("*.yaml")]) == len(front)


def test_what_needs_more_than_the_budget_is_not_trained(recipe, capsys):
    shapes = [{"student": "static", "width": 4}, {"student": "small-bert", "width": 32, "layers": 1}]
    argv = [recipe({"shape": shapes}, width=None), "--sampler", "grid", "--budget", "2000"]
    assert main(["search", *argv]) == 0
    assert card()["trials"] == {"complete": 1, "pruned": 1, "failed": 0}
    assert "multiply-adds, over the budget" in capsys.readouterr().out


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_looks_bad_on_the_way_is_given_up(recipe, monkeypatch, pruner):
    # A score that falls with the rate: after a while a high rate is below the median.
    looked = []

    def fit(student, *_):
        looked.append(student)
        return {"accuracy": 1 / len(looked), "loss": 0.5}

    monkeypatch.setattr("kdtutor.training.validation.fit", fit)
    argv = [recipe(SPACE, steps=6), "--trials", "9", "--pruner", pruner]
    assert main(["search", *argv, "--batch_size", "16"]) == 0
    pruned = [trial for trial in trials() if trial.state.name == "PRUNED"]
    assert pruned and all(trial.user_attrs["why"].startswith("given up after") for trial in pruned)
    assert card()["trials"]["pruned"] == len(pruned) < 9


def test_a_student_that_diverges_is_given_up_and_the_search_goes_on(recipe):
    rates = {"learning_rate": [1e-3, 999.0]}
    argv = [recipe(rates, student="small-bert", width=32, layers=1, steps=20, max_norm=1e9)]
    assert main(["search", *argv, "--sampler", "grid", "--weight_decay", "500"]) == 0
    whys = {trial.params["learning_rate"]: trial.user_attrs.get("why") for trial in trials()}
    assert whys[999.0] == "diverged"


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "space, sentence",
    [
        (None, "the search space is empty"),
        ({}, "the search space is empty"),
        ({"learnin_rate": [1, 2]}, 'unknown field "learnin_rate"; there are: learning_rate'),
        ({"learning_rate": []}, "learning_rate has no choice"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-4}}, "learning_rate must rise from low to high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "learning_rate must be a number above 0"),
        ({"learning_rate": {"low": 1e-4, "hihg": 1}}, 'unknown part of a range "hihg"; there are: high'),
        ({"learning_rate": {"low": -1, "high": 1}}, "learning_rate must be a number above 0"),
        ({"learning_rate": 3}, "needs a list of choices"),
        ({"student": {"low": 1, "high": 2}}, "student has no numbers"),
        ({"seed": [0, 1, 2]}, "seed can't be searched: the best of several seeds was lucky"),
        ({"task": ["a", "b"]}, "task can't be searched"),
        ({"a": [{"width": 4}], "width": [4, 8]}, "search varies width twice"),
        ({"a": [{"widht": 4}]}, 'unknown field "widht"; there are: width'),
        (
            {"objective": ["{alpha} * HardLabels()"]},
            "the objective has {alpha}, and search says nothing of it",
        ),
        ({"objective": ["HardLables()"]}, 'unknown term "HardLables"; there are: HardLabels'),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_loaded(
    recipe, capsys, space, sentence
):
    assert sentence in refusal(capsys, recipe(space))
    assert not Path("runs").exists()


def test_the_test_split_is_no_target_and_the_reason_is_said(recipe, capsys):
    said = refusal(capsys, recipe(SPACE), "--target", "test")
    assert "the test split can't be what is searched by" in said and "chosen for its luck" in said
    assert not Path("runs").exists()


def test_a_grid_of_ranges_wants_to_know_how_many_points(recipe, capsys):
    assert "how many values of learning_rate" in refusal(capsys, recipe(SPACE), "--sampler", "grid")


def test_a_study_of_another_task_space_or_version_is_refused_by_name(recipe, capsys, corpus, tmp_path):
    assert main(["search", recipe(SPACE), "--trials", "1"]) == 0
    other = tmp_path / "other.csv"
    other.write_text(
        (corpus / "mine.csv").read_text(encoding="utf-8").replace("dull", "drab"), encoding="utf-8"
    )
    assert "is a study with another task" in refusal(capsys, recipe(SPACE, task=str(other)), "--trials", "2")
    wider = {"learning_rate": [1e-3, 1e-4]}
    assert "is a study with another space" in refusal(capsys, recipe(wider), "--trials", "2")
    assert "is a study with another recipe" in refusal(capsys, recipe(SPACE, steps=3), "--trials", "2")

    study = optuna.load_study(study_name=NAME, storage="sqlite:///runs/search/study.db")
    study.set_user_attr("about", study.user_attrs["about"] | {"format": 0})
    assert "is a study with another format (0, now 1)" in refusal(capsys, recipe(SPACE), "--trials", "2")
    assert len(trials()) == 1, "nothing was lost"


def test_a_file_that_is_no_study_is_refused(recipe, capsys):
    Path("mine.db").write_text("no database at all, but long enough to be read as one", encoding="utf-8")
    assert "mine.db is no study" in refusal(capsys, recipe(SPACE), "--study", "mine.db")
    assert Path("mine.db").read_text(encoding="utf-8").startswith("no database")


def test_without_optuna_one_sentence_says_how_to_get_it(recipe, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'kdtutor[search]'" in refusal(capsys, recipe(SPACE))


def test_with_a_cost_nothing_is_pruned(recipe, capsys):
    argv = [recipe(SPACE), "--cost", "latency", "--pruner", "median"]
    assert "with a cost nothing is pruned" in refusal(capsys, *argv)


# ------------------------------------------------------------------------------------------------ killed


def victim(folder: str, argv: list[str], tell) -> None:
    """Search, tell of every trial, and dawdle where trials are begun and trained, so that it is killed there."""
    os.chdir(folder)
    real = search._tell

    def told(*arguments) -> None:
        real(*arguments)
        tell.send("a trial")

    search._tell = told
    for module, name in ((optuna.study.Study, "ask"), (Distillation, "_train_step")):
        setattr(module, name, slowly(getattr(module, name)))
    tell.send("begun")
    main(["search", *argv])


def slowly(function):
    def slow(*arguments, **settings):
        time.sleep(0.02)
        result = function(*arguments, **settings)
        time.sleep(0.02)
        return result

    return slow


def kill(argv: list[str], after: int, delay: float) -> None:
    """Kill a search so many trials and seconds after it began."""
    mine, its = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=victim, args=(os.getcwd(), argv, its))
    process.start()
    its.close()
    for _ in range(after + 1):
        assert mine.poll(PATIENCE), "it does not go on"
        mine.recv()
    process.join(delay)
    assert process.is_alive(), "it was over before it was killed"
    process.kill()
    process.join()


def held_to(count: int) -> None:
    """Every point of the grid has one end, each failed trial was made once more, and the card counts them."""
    found = trials()
    ended = [trial for trial in found if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(ended) == count and {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED", "FAIL"}
    assert len({str(trial.params) for trial in ended}) == count
    again = [trial.user_attrs["again"] for trial in found if "again" in trial.user_attrs]
    assert len(again) == len({*again})
    assert {*again} <= {trial.number for trial in found if trial.state.name == "FAIL"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_killed_ten_times_no_trial_is_lost_or_counted_twice(recipe):
    """Each time a random moment after a random number of trials; 30 are more than all ten can get done."""
    space = {"learning_rate": SPACE["learning_rate"] | {"points": 30}}
    argv = [recipe(space, steps=10), "--sampler", "grid", "--pruner", "none", "--trials", "30"]
    chance = random.Random(0)
    for _ in range(10):
        kill(argv, chance.randint(0, 2), chance.uniform(0, 0.5))
    assert [trial for trial in trials() if trial.state.name == "FAIL"]
    assert main(["search", *argv]) == 0
    held_to(30)
    assert card()["trials"]["complete"] == 30


def test_a_trial_whose_process_died_is_failed_and_made_again(recipe):
    """As SIGKILL leaves it: begun, with and without its values, and nobody holds its lock."""
    argv = [recipe({"learning_rate": [1e-3, 1e-2]}), "--sampler", "grid", "--pruner", "none"]
    assert main(["search", *argv, "--trials", "1"]) == 0
    study = optuna.load_study(study_name=NAME, storage="sqlite:///runs/search/study.db")
    study.enqueue_trial({"learning_rate": 1e-2})
    lost = study.ask()  # killed before a value was written down
    assert main(["search", *argv, "--trials", "2"]) == 0
    found = trials()
    assert found[lost.number].state.name == "FAIL"
    assert [t.params["learning_rate"] for t in found if t.state.name == "COMPLETE"] == [1e-3, 1e-2]
    [again] = [trial for trial in found if "again" in trial.user_attrs]
    assert again.user_attrs["again"] == lost.number


@pytest.mark.slow
def test_two_processes_share_a_study(recipe):
    space = {"learning_rate": SPACE["learning_rate"] | {"points": 8}}
    argv = [recipe(space), "--sampler", "grid", "--pruner", "none"]
    assert main(["search", *argv, "--processes", "2"]) == 0
    held_to(8)
    assert not [trial for trial in trials() if trial.state.name == "FAIL"]
