"""A stored study can be stopped, resumed and trusted: its runs belong together, or it says why not."""

import json
import os
from dataclasses import replace

import pytest
import torch

from kdtutor import data, models, studies
from kdtutor.cli import main
from kdtutor.errors import KDTutorError
from kdtutor.studies import logits
from kdtutor.studies import stored as files
from kdtutor.studies.logits import Configuration, Study
from kdtutor.studies.stored import Stored

TINY = {"examples": 8, "layers": 1, "width": 32, "steps": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def task():
    """Real definitions, a handful in every split."""
    task = data.load_task("supersense")
    few = torch.arange(16)
    return replace(task, splits={name: split.select(few) for name, split in task.splits.items()})


@pytest.fixture(scope="module")
def teacher(task):
    return models.freeze(models.small_bert(task, layers=1, width=32, seed=7))


@pytest.fixture
def tiny():
    return Study(
        "tiny",
        "supersense",
        (
            Configuration("hard labels", "HardLabels()", **TINY),
            Configuration("teacher", "0.1 * HardLabels() + 0.9 * SoftTargets(2)", **TINY),
        ),
        seeds=(0, 1),
    )


@pytest.fixture
def file(tmp_path):
    return tmp_path / "results" / "tiny.json"


def run(tiny, file, task, teacher, **options):
    """The stored result, and the lines that were reported."""
    said = []
    return logits.run(tiny, file, task, teacher, report=said.append, **options), said


def test_every_configuration_is_trained_at_every_seed_and_measured(tiny, file, task, teacher):
    stored, said = run(tiny, file, task, teacher)
    record = json.loads(file.read_text())
    assert stored.record == record
    runs = {(row["configuration"], row["seed"]) for row in record["runs"]}
    assert runs == {("hard labels", 0), ("teacher", 0), ("hard labels", 1), ("teacher", 1)}
    assert record["command"] == "kdtutor study tiny" and len(said) == 4
    assert record["configurations"]["teacher"]["objective"] == tiny.configurations[1].objective
    for row in record["runs"]:
        assert row["seconds"] >= 0
        for split in ("validation", "test"):
            assert set(row[split]) == {"accuracy", "macro_f1", "ece"}


def test_what_is_stored_is_not_run_again(tiny, file, task, teacher):
    run(replace(tiny, seeds=(0,)), file, task, teacher)
    first = json.loads(file.read_text())["runs"]
    stored, said = run(tiny, file, task, teacher)
    assert len(said) == 2 and all("seed 1" in line for line in said)
    assert stored.record["runs"][:2] == first


def test_a_run_that_is_killed_leaves_the_finished_ones(tiny, file, task, teacher, monkeypatch):
    def full_disk(source, target):
        if target == file and len(json.loads(source.read_text())["runs"]) == 2:
            raise OSError("no space left")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(KDTutorError, match="no space"):
        run(tiny, file, task, teacher)
    assert len(json.loads(file.read_text())["runs"]) == 1
    monkeypatch.undo()
    _, said = run(tiny, file, task, teacher)
    assert len(said) == 3


def test_the_same_seed_gives_the_same_student(tiny, file, task, teacher):
    first, _ = run(tiny, file, task, teacher)
    again, _ = run(tiny, file, task, teacher, restart=True)
    for split in ("validation", "test"):
        assert first.scores("teacher", split=split) == again.scores("teacher", split=split)


def test_results_of_another_teacher_or_other_data_are_refused(tiny, file, task, teacher):
    run(replace(tiny, seeds=(0,)), file, task, teacher)
    other = models.freeze(models.small_bert(task, layers=1, width=32, seed=8))
    with pytest.raises(KDTutorError, match=r"another teacher .* --restart"):
        run(tiny, file, task, other)
    fewer = task.subset(12)
    with pytest.raises(KDTutorError, match="another data"):
        run(tiny, file, fewer, teacher)
    stored, _ = run(replace(tiny, seeds=(0,)), file, task, other, restart=True)
    assert len(stored.record["runs"]) == 2


def test_a_configuration_that_changed_is_run_anew_and_said_to_be(tiny, file, task, teacher):
    tiny = replace(tiny, seeds=(0,))
    run(tiny, file, task, teacher)
    hard, soft = tiny.configurations
    changed = replace(tiny, configurations=(hard, replace(soft, objective="SoftTargets(4)")))
    _, said = run(changed, file, task, teacher)
    assert said[0] == "changed since they ran, so forgotten: teacher" and len(said) == 2
    assert "teacher, seed 0" in said[1]


def test_a_damaged_file_is_refused(tiny, file, task, teacher):
    file.parent.mkdir()
    file.write_text('{"runs": [')
    with pytest.raises(KDTutorError, match=r"tiny\.json can't be read .*--restart"):
        run(tiny, file, task, teacher)


def test_labels_are_hidden_and_texts_left_out_as_the_configuration_says(task):
    transfer = Configuration("transfer", "SoftTargets(2)", examples=12, labelled=5)
    targets = logits._task(task, transfer).targets("train")
    assert len(targets) == 12 and (targets != -100).sum() == 5
    alone = logits._task(task, replace(transfer, unlabelled=False))
    assert alone.targets("train").tolist() == targets[targets != -100].tolist()
    assert logits._task(task, Configuration("all", "HardLabels()", examples=16)) is task


# ----------------------------------------------------------------------- reading what is stored


def stored(**validation):
    """Two seeds each; test scores are validation scores backwards."""
    rows = [
        {
            "configuration": name,
            "seed": seed,
            "validation": {"accuracy": value},
            "test": {"accuracy": 1 - value},
        }
        for name, values in validation.items()
        for seed, value in reversed(list(enumerate(values)))
    ]
    return Stored({"study": "made up", "configurations": dict.fromkeys(validation), "runs": rows})


def test_scores_come_in_the_order_of_the_seeds():
    assert stored(a=[0.25, 0.5]).scores("a", split="validation") == [0.25, 0.5]


def test_the_best_configuration_is_chosen_on_validation():
    assert stored(a=[0.25, 0.5], b=[0.5, 0.75]).best(("a", "b")) == "b"


def test_differences_are_paired_over_the_seeds():
    test = stored(a=[0.25, 0.5], b=[0.5, 0.75]).compare("a", "b", split="validation")
    assert test.difference == -0.25 and "2 seeds" in test.detail


def test_rows_are_written_one_a_line_whatever_lists_there_are(tmp_path):
    record = {"study": "made up", "runs": [{"seed": 0}, {"seed": 1}], "choosing": [], "speed": [{"ms": 1.5}]}
    files.write(tmp_path / "x.json", record)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == record
    assert '\n    {"seed": 0},\n    {"seed": 1}\n' in text and text.count("\n") == 11


def test_the_stored_file_is_written_as_it_stands(tmp_path):
    stored = studies.results_file("logits")
    files.write(tmp_path / "x.json", json.loads(stored.read_text(encoding="utf-8")))
    assert (tmp_path / "x.json").read_text() == stored.read_text(encoding="utf-8")


def test_unknown_names_list_what_there_is():
    with pytest.raises(KDTutorError, match='"hard"; there are: hard labels'):
        stored(**{"hard labels": [0.5]}).scores("hard")
    with pytest.raises(KDTutorError, match="kdtutor study nothing"):
        studies.load("nothing")


def test_the_command_names_the_studies(capsys):
    assert main(["study", "logit"]) == 1
    assert 'unknown study "logit"; there are: logits, distilbert' in capsys.readouterr().err


def test_another_teacher_needs_a_file_of_its_own(capsys, tmp_path):
    assert main(["study", "logits", "--teacher", str(tmp_path)]) == 1
    assert "--teacher needs --output" in capsys.readouterr().err
    assert main(["study", "logits", "--teacher", str(tmp_path), "--output", str(tmp_path / "x.json")]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_the_study_with_a_teacher_of_three_passes_differs_only_where_there_is_a_teacher():
    five, three = studies.load("logits"), studies.load("logits-three-passes")
    assert five.record["teacher"] != three.record["teacher"]
    assert five.record["configurations"] == three.record["configurations"]
    for name, what in five.record["configurations"].items():
        alone = "Soft" not in what["objective"] and "MSE" not in what["objective"]
        assert (five.scores(name) == three.scores(name)) == alone


def test_every_study_has_one_name_a_configuration_and_readable_objectives():
    from kdtutor.objectives.parse import parse_objective

    made = logits.logits_study()
    assert made.name == "logits" and len(made.seeds) >= 5
    assert len({c.name for c in made.configurations}) == len(made.configurations)
    assert len({c.steps for c in made.configurations}) == 1, "equal steps"
    for configuration in made.configurations:
        parse_objective(configuration.objective)


def test_stored_results_are_complete_and_of_the_teacher_that_ships():
    from dataclasses import asdict

    from kdtutor.training.teachers import fingerprint

    made, record = logits.logits_study(), studies.load("logits").record
    task = data.load_task(made.task)
    assert record["configurations"] == {c.name: asdict(c) for c in made.configurations}
    assert len(record["runs"]) == len(made.configurations) * len(made.seeds)
    assert record["data"] == f"{task.name} {task.fingerprint}"
    assert record["teacher"] == fingerprint(models.load_teacher(task))
