"""The study of DistilBERT in a tiny setting: resumed, trusted, balanced; and its figures are those of its rows."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from scipy import stats
from transformers import PreTrainedModel

from kdtutor import data, models, studies
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.statistics import mean_and_interval
from kdtutor.studies import distilbert as study_distilbert
from kdtutor.studies.distilbert import (
    ARMS,
    CONTROL,
    DISTILLED,
    RANDOM,
    TASKS,
    TEACHER,
    TWICE,
    Plan,
    Results,
    Stage,
)
from kdtutor.studies.stored import SPLITS
from kdtutor.training.teachers import fingerprint

STAGE = Stage(texts=8, batch_size=4, rates=(1e-3, 2e-3))
PLAN = Plan(STAGE, STAGE, STAGE, STAGE, random_rates=(3e-3, 4e-3), beyond=0, seeds=(0, 1))
ROWS_A_SEED = 25  # 8 bodies; teacher, control and both distilled students on 3 tasks; 5 others on one


@pytest.fixture(scope="module")
def tasks():
    """Real texts, a few in every split."""
    counts = {"train": 16, "validation": 8, "test": 24}
    tasks = study_distilbert.load_tasks()
    for name in tasks:
        for split, count in counts.items():
            tasks[name] = tasks[name].subset(count, split=split)
    return tasks


@pytest.fixture(scope="module")
def teacher(tasks):
    return models.freeze(models.small_bert(tasks["glosses"], layers=2, width=16, heads=2, seed=7))


def run(tmp_path, tasks, teacher, plan=PLAN, **options):
    """What the study found, and the lines that were reported."""
    said = []
    file = tmp_path / "results" / "distilbert.json"
    return study_distilbert.run(
        plan, file, tmp_path / "work", tasks, teacher, report=said.append, **options
    ), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tasks, teacher):
    """The folder of a study that has run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, tasks, teacher)
    return folder


def record_of(folder):
    return json.loads((folder / "results" / "distilbert.json").read_text(encoding="utf-8"))


# ----------------------------------------------------------------------- what is run


def test_every_arm_is_measured_on_its_tasks_at_every_seed_seed_by_seed(finished, tasks, teacher):
    record = record_of(finished)
    assert record["command"] == "kdtutor study distilbert"
    assert record["teacher"] == fingerprint(teacher)
    assert all(task.fingerprint in record["data"] for task in tasks.values())
    assert [row["seed"] for row in record["runs"]] == [0] * ROWS_A_SEED + [1] * ROWS_A_SEED
    for seed in (0, 1):
        rows = {(row["configuration"], row["task"]) for row in record["runs"] if row["seed"] == seed}
        assert len(rows) == ROWS_A_SEED
        assert {name for name, task in rows if task == "glosses"} == ARMS.keys() - {TWICE}
        assert {name for name, task in rows if task == "supersense"} == ARMS.keys()
        for task in ("sentiment", "valence"):
            assert {name for name, other in rows if other == task} == {TEACHER, CONTROL, DISTILLED, TWICE}
    for row in record["runs"]:
        assert row["seconds"] >= 0
        assert study_distilbert.MEASURE[row["task"]] in row["test"].keys() & row["validation"].keys()
    assert {"spearman_movies", "spearman_products"} <= record["runs"][3]["test"].keys()
    assert [row["seed"] for row in record["speed"]] == [0, 1]


def test_the_arms_are_the_paper_s_ablation():
    from kdtutor.objectives.parse import parse_objective

    def terms(name):
        return [repr(term) for term in parse_objective(ARMS[name].pretraining).terms]

    full = terms(DISTILLED)
    assert full == ["5 * SoftTargets(temperature=2)", "2 * MaskedLM()", "CosineHidden()"]
    for left_out, name in enumerate(("without soft targets", "without masked LM", "without cosine")):
        assert terms(name) == full[:left_out] + full[left_out + 1 :]
    assert terms("random weights") == full and not ARMS["random weights"].copied
    assert terms(CONTROL) == ["MaskedLM()"] and ARMS["copied layers alone"].pretraining is None
    assert len(Plan().seeds) == 5 and Plan().choosing_seed not in Plan().seeds


def test_learning_rates_are_chosen_on_validation_at_a_seed_of_its_own(finished):
    record = record_of(finished)
    tried = {(row["configuration"], row["task"]) for row in record["choosing"]}
    assert tried == {
        (CONTROL, "glosses"),
        (RANDOM, "glosses"),
        *((who, task) for who in (CONTROL, TEACHER) for task in TASKS),
    }
    assert len(record["choosing"]) == len(tried) * len(STAGE.rates)
    for row in record["choosing"]:
        assert row["seed"] == PLAN.choosing_seed and "test" not in row
    for row in record["runs"]:
        if row["task"] == "glosses" and row["configuration"] in (TEACHER, "copied layers alone"):
            assert row["learning_rate"] is None
            continue
        own = {TEACHER, RANDOM} if row["task"] == "glosses" else {TEACHER}
        who = row["configuration"] if row["configuration"] in own else CONTROL
        found = {
            choice["learning_rate"]: choice["validation"]
            for choice in record["choosing"]
            if (choice["configuration"], choice["task"]) == (who, row["task"])
        }
        best = (
            min(found, key=lambda rate: found[rate]["loss"])
            if row["task"] == "glosses"
            else max(found, key=lambda rate: found[rate][study_distilbert.MEASURE[row["task"]]])
        )
        assert row["learning_rate"] == best


def test_the_lowest_masked_lm_loss_and_the_highest_score_are_chosen():
    def choosing(task, **validation):
        rows = [(0.1, 1.0), (0.2, 3.0), (0.3, 2.0)]
        return {
            "choosing": [
                {"configuration": CONTROL, "task": task, "learning_rate": rate, "validation": {name: value}}
                for rate, value in rows
                for name in validation
            ]
        }

    assert study_distilbert.chosen_rate(choosing("glosses", loss=0), CONTROL, "glosses") == 0.1
    assert study_distilbert.chosen_rate(choosing("valence", spearman=0), CONTROL, "valence") == 0.2


def test_beyond_the_planned_learning_rates_it_goes_on_while_the_best_is_the_last():
    def tried(worth, beyond=2):
        """The learning rates in the order of trying, if `worth(rate)` is the validation accuracy."""
        found = {}
        while rate := study_distilbert.rate_to_try((1e-3, 2e-3), found, beyond):
            found[rate] = worth(rate)
        return list(found)

    assert tried(lambda rate: -abs(rate - 2e-3)) == [1e-3, 2e-3, 4e-3]
    assert tried(lambda rate: -abs(rate - 1e-3)) == [1e-3, 2e-3, 5e-4]
    assert tried(lambda rate: rate) == [1e-3, 2e-3, 4e-3, 8e-3]
    assert tried(lambda rate: -rate) == [1e-3, 2e-3, 5e-4, 2.5e-4]
    assert tried(lambda rate: rate, beyond=0) == [1e-3, 2e-3]


class Training(NamedTuple):
    """What `Distillation` was called with, and the student's weights at that moment."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    task: data.Task
    formula: str
    settings: dict
    start: dict[str, torch.Tensor]

    @property
    def seed(self) -> int:
        return self.settings["seed"]


class Trainings:
    """Records every training of the study, in place of `Distillation`, and changes nothing about it."""

    def __init__(self, monkeypatch):
        self.calls = []
        make = study_distilbert.Distillation

        def recorded(student, teacher, task, objective, **settings):
            state = {name: value.clone() for name, value in student.state_dict().items()}
            self.calls.append(Training(student, teacher, task, repr(objective), settings, state))
            return make(student, teacher, task, objective, **settings)

        monkeypatch.setattr(study_distilbert, "Distillation", recorded)


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


def test_rivals_have_the_same_texts_steps_and_settings_and_start_as_the_arm_says(
    tmp_path, tasks, teacher, trainings
):
    run(tmp_path, tasks, teacher, replace(PLAN, seeds=(0,)))
    copied = models.half_depth(teacher, token_types="drop").state_dict()
    pretraining = [call for call in trainings.calls if call.task.kind == "masked-lm" and call.seed == 0]
    assert len(pretraining) == 6
    settings = [{**call.settings, "learning_rate": 0} for call in pretraining]
    assert settings == settings[:1] * 6
    assert (
        len({call.settings["learning_rate"] for call in pretraining[:5]}) == 1
    )  # "random weights" has its own
    assert len({call.task.fingerprint for call in pretraining}) == 1
    assert len(pretraining[0].task.split("train")) == STAGE.texts
    for call in pretraining:
        assert (call.teacher is None) == (call.formula == "MaskedLM()")
        assert call.student.config.dropout == call.student.config.attention_dropout == 0
        assert not any(m.p for m in call.student.modules() if isinstance(m, torch.nn.Dropout))
        assert call.student.config.n_layers == 1
    equal = [all(torch.equal(call.start[name], copied[name]) for name in copied) for call in pretraining]
    assert equal == [True] * 5 + [False]  # all but the last, "random weights"

    for name in TASKS:
        fine = [call for call in trainings.calls if call.task.kind != "masked-lm" and call.seed == 0]
        fine = [call for call in fine if call.task.name.startswith(name)]
        assert len(fine) == (9 if name == "supersense" else 4)
        assert len({call.task.fingerprint for call in fine}) == 1
        assert len({(call.settings["epochs"], call.settings["batch_size"]) for call in fine}) == 1
        taught = [call for call in fine if call.teacher is not None]
        assert len(taught) == 1
        soft = "LogitsMSE()" if name == "valence" else "SoftTargets(temperature=2)"
        assert taught[0].formula == f"0.5 * HardLabels() + 0.5 * {soft}"
        assert taught[0].teacher.config.num_hidden_layers == 2  # the teacher, fine-tuned on this task …
        folders = [
            path.parent for path in (tmp_path / "work" / "seed-0").glob(f"teacher-of-{name}-*/about.json")
        ]
        assert len(folders) == 1  # … at this seed
        expected = models.load_model(folders[0], tasks[name]).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in taught[0].teacher.state_dict().items())
        assert all(
            call.student.config.to_dict().get("attention_dropout", 0.1) == PLAN.dropout for call in fine
        )


def test_fine_tuning_starts_from_the_body_of_the_same_seed(tmp_path, tasks, teacher, trainings):
    run(tmp_path, tasks, teacher, replace(PLAN, seeds=(1,)))
    folder = next((tmp_path / "work" / "seed-1").glob("triple-loss-*"))
    body = models.load_model(folder, tasks["glosses"]).state_dict()
    starts = [
        call.start
        for call in trainings.calls
        if call.task.name.startswith("sentiment")
        and call.seed == 1
        and "distilbert.embeddings" in str(list(call.start))
    ]
    name = "distilbert.transformer.layer.0.ffn.lin1.weight"
    same = [torch.equal(start[name], body[name]) for start in starts]
    assert same == [True, True, False]  # distilled once, distilled again, masked LM alone
    heads = [start["classifier.weight"] for start in starts]
    assert all(torch.equal(head, heads[0]) for head in heads)


# ----------------------------------------------------------------------- stopping and going on


def test_what_is_stored_is_not_run_again(finished, tasks, teacher, trainings):
    before = record_of(finished)
    _, said = run(finished, tasks, teacher)
    assert said == [] and trainings.calls == []
    assert record_of(finished) == before


def test_a_run_that_is_killed_goes_on_to_the_same_end(finished, tmp_path, tasks, teacher, monkeypatch):
    write, times = study_distilbert.write, iter(range(25))

    def killed(file, record):
        if next(times, None) is None:
            raise KeyboardInterrupt
        write(file, record)

    monkeypatch.setattr(study_distilbert, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tasks, teacher)
    monkeypatch.undo()
    partial = record_of(tmp_path)
    assert 0 < len(partial["runs"]) < 2 * ROWS_A_SEED
    _, said = run(tmp_path, tasks, teacher)
    whole = record_of(tmp_path)
    assert whole["runs"][: len(partial["runs"])] == partial["runs"]
    assert len(said) == 2 * ROWS_A_SEED - len(partial["runs"])
    for rows, expected in zip(whole["runs"], record_of(finished)["runs"], strict=True):
        assert rows | {"seconds": 0} == expected | {"seconds": 0}


def test_a_lost_work_folder_is_made_again(finished, tmp_path, tasks, teacher):
    import shutil

    shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "work")
    file = tmp_path / "copy" / "results" / "distilbert.json"
    record = json.loads(file.read_text())
    lost = [row for row in record["runs"] if row["configuration"] == TWICE and row["task"] == "valence"]
    record["runs"] = [row for row in record["runs"] if row not in lost]
    file.write_text(json.dumps(record))
    _, said = run(tmp_path / "copy", tasks, teacher)
    assert len(said) == 2
    again = json.loads(file.read_text())["runs"][-2:]
    assert [row["test"] for row in again] == [row["test"] for row in lost]


def test_results_of_another_teacher_other_data_or_another_plan_are_refused(finished, tasks, teacher):
    before = record_of(finished)
    other = models.freeze(models.small_bert(tasks["glosses"], layers=2, width=16, heads=2, seed=8))
    with pytest.raises(KDTutorError, match=r"another teacher .* --restart"):
        run(finished, tasks, other)
    with pytest.raises(KDTutorError, match="another data"):
        run(finished, tasks | {"valence": tasks["valence"].subset(12)}, teacher)
    with pytest.raises(KDTutorError, match="another plan"):
        run(finished, tasks, teacher, replace(PLAN, dropout=0.2))
    assert record_of(finished) == before


def test_a_restart_trusts_nothing_that_was_kept(tmp_path, tasks, teacher, trainings):
    plan = replace(PLAN, seeds=(0,))
    run(tmp_path, tasks, teacher, plan)
    first, before = len(trainings.calls), record_of(tmp_path)
    run(tmp_path, tasks, teacher, plan, restart=True)
    assert len(trainings.calls) == 2 * first
    after = record_of(tmp_path)
    assert [row["test"] for row in after["runs"]] == [row["test"] for row in before["runs"]]


def test_a_folder_in_use_is_refused(tmp_path, tasks, teacher, monkeypatch):
    from filelock import Timeout

    from kdtutor.training import checkpoints

    def taken(self, *arguments, **options):
        raise Timeout("a lock")

    monkeypatch.setattr(checkpoints.FileLock, "acquire", taken)
    with pytest.raises(KDTutorError, match="is in use by"):
        run(tmp_path, tasks, teacher)


# ----------------------------------------------------------------------- reading what is stored


def made_up(seeds=3):
    """Results in which every figure can be foretold: score = base of the arm + seed / 100, half of it on valence."""
    bases = {name: 0.9 - 0.1 * place for place, name in enumerate(ARMS)}
    rows = [
        {
            "configuration": arm.name,
            "task": task,
            "seed": seed,
            "test": {
                study_distilbert.MEASURE[task]: (bases[arm.name] + seed / 100)
                * (0.5 if task == "valence" else 1),
                "perplexity": 100 * place,
            },
        }
        for seed in reversed(range(seeds))
        for place, arm in enumerate(ARMS.values())
        for task in arm.measured_on
    ]
    return {
        "study": "distilbert",
        "configurations": {arm.name: study_distilbert.as_stored(arm) for arm in ARMS.values()},
        "sizes": {"teacher": {"parameters": 200}, "student": {"parameters": 130}},
        "speed": [
            {"seed": seed, "milliseconds": {"teacher": 6.0 + seed, "student": 3.0}} for seed in range(seeds)
        ],
        "runs": rows,
    }


def test_scores_come_in_the_order_of_the_seeds_task_by_task():
    results = Results(made_up())
    assert results.seeds == [0, 1, 2]
    assert results.scores(TEACHER) == pytest.approx([0.9, 0.91, 0.92])
    assert results.scores(DISTILLED, task="valence") == pytest.approx([0.4, 0.405, 0.41])
    assert results.scores("without cosine", "perplexity", task="glosses") == [600] * 3
    assert results.mean(TEACHER, task="sentiment").mean == pytest.approx(0.91)
    assert results.compare(TEACHER, DISTILLED, task="macro").difference == pytest.approx(0.1 * 2.5 / 3)


def test_the_macro_average_weighs_every_task_alike_and_retention_is_its_share_of_the_teacher_s():
    results = Results(made_up())
    macro = results.scores(DISTILLED, task="macro")
    by_task = [results.scores(DISTILLED, task=task) for task in TASKS]
    assert macro == pytest.approx([statistics.mean(scores) for scores in zip(*by_task, strict=True)])
    teacher = results.scores(TEACHER, task="macro")
    assert results.retention(DISTILLED) == pytest.approx([m / t for m, t in zip(macro, teacher, strict=True)])
    assert results.retention(TEACHER, task="valence") == [1, 1, 1]
    assert results.size() == 0.65
    assert results.speed() == pytest.approx([2, 7 / 3, 8 / 3])


def test_only_complete_seeds_count_whatever_the_last_one_has():
    record = made_up()
    dropped = next(
        row for row in record["runs"] if row["seed"] == 1 and row["configuration"] == "random weights"
    )
    record["runs"].remove(dropped)
    results = Results(record)
    assert results.seeds == [0, 2]
    assert results.scores(TEACHER) == pytest.approx([0.9, 0.92])
    assert results.speed() == pytest.approx([2, 8 / 3])
    assert "over 2 seeds" in str(results)
    assert str(Results(record | {"runs": record["runs"][:5]})) == "no seed is complete yet"


def test_the_table_shows_every_arm_and_what_is_retained():
    table = str(Results(made_up()))
    assert all(name in table for name in ARMS)
    assert "parameters 0.650, speed 2.3333" in table


def test_what_was_not_measured_is_said():
    results = Results(made_up())
    with pytest.raises(KDTutorError, match="unknown configuration of distilbert"):
        results.scores("without anything")
    with pytest.raises(
        KDTutorError, match='"without cosine" was measured on glosses, supersense, not on valence'
    ):
        results.scores("without cosine", task="valence")
    with pytest.raises(KDTutorError, match="not on glosses"):
        results.scores(TWICE, task="glosses")


def test_stored_results_are_loaded_as_such(finished, monkeypatch):
    monkeypatch.setattr(studies, "results_file", lambda name: finished / "results" / f"{name}.json")
    results = studies.load("distilbert")
    assert isinstance(results, Results) and results.seeds == [0, 1]
    assert all(math.isfinite(value) for value in results.retention(DISTILLED))


def test_the_command_takes_a_plan_of_its_own_size_and_a_work_folder(
    tmp_path, tasks, teacher, monkeypatch, capsys
):
    from kdtutor.cli import main

    monkeypatch.setattr(study_distilbert, "Plan", lambda: replace(PLAN, seeds=(0,)))
    monkeypatch.setattr("kdtutor.cli.study._task", lambda given, name: tasks[name])
    teacher.save_pretrained(tmp_path / "teacher")
    file = tmp_path / "x.json"
    flags = ["--teacher", str(tmp_path / "teacher"), "--folder", str(tmp_path / "work")]
    assert main(["study", "distilbert", *flags]) == 1
    assert "need --output" in capsys.readouterr().err
    assert main(["study", "distilbert", "--output", str(file), *flags]) == 0
    assert "test scores over 1 seeds" in capsys.readouterr().out
    assert len(json.loads(file.read_text())["runs"]) == ROWS_A_SEED


def test_what_ships_is_complete_and_of_the_teacher_and_data_that_ship():
    results, tasks = studies.load("distilbert"), study_distilbert.load_tasks()
    record = results.record
    assert results.seeds == list(Plan().seeds)
    assert record["configurations"] == {name: study_distilbert.as_stored(arm) for name, arm in ARMS.items()}
    assert study_distilbert.as_stored(Plan()).items() <= record["plan"].items()
    assert record["teacher"] == fingerprint(models.load_teacher(tasks["glosses"]))
    assert record["data"] == ", ".join(f"{name} {task.fingerprint}" for name, task in tasks.items())


def test_what_the_pages_and_the_notebooks_say_of_the_study_is_what_it_found():
    results = studies.load("distilbert")
    root = Path(__file__).parents[2]
    control, full, fresh = "masked LM alone", "triple loss", "random weights"

    def share(who):
        kept = mean_and_interval(results.retention(who))
        return f"{100 * kept.mean:.1f} ± {100 * kept.half_width:.1f} %"

    def points(first, second, digits):
        pairs = zip(
            results.scores(first, task="glosses"), results.scores(second, task="glosses"), strict=True
        )
        found = mean_and_interval([100 * (a - b) for a, b in pairs])
        return f"{found.mean:.{digits}f} ± {found.half_width:.{digits}f}"

    speed = mean_and_interval(results.speed())
    retained, gained, start = [share(full), share(control)], points(full, control, 2), points(full, fresh, 1)
    told = {
        "docs/results.md": [
            *retained,
            gained,
            start,
            f"{speed.mean:.2f} ± {speed.half_width:.2f} times its speed",
        ],
        "notebooks/08_distilbert.ipynb": [gained, start],
        "notebooks/09_downstream.ipynb": retained,
    }
    for name, figures in told.items():
        text = (root / name).read_text(encoding="utf-8")
        assert [figure for figure in figures if figure not in text] == [], name


# ----------------------------------------------------------------------- regression, against SciPy


def test_the_rank_correlation_of_a_row_is_scipy_s(finished, tasks):
    row = next(
        row
        for row in record_of(finished)["runs"]
        if (row["configuration"], row["task"], row["seed"]) == (TEACHER, "valence", 0)
    )
    folder = next((finished / "work" / "seed-0").glob("teacher-of-valence-*"))
    model, valence = models.load_model(folder, tasks["valence"]).eval(), tasks["valence"]
    with torch.no_grad():
        predicted = [float(model(**data_of(valence, i)).logits) for i in range(len(valence.split("test")))]
    targets = valence.targets("test").double().numpy()
    assert row["test"]["spearman"] == pytest.approx(stats.spearmanr(predicted, targets).statistic, abs=1e-5)
    movies = [domain == "movies" for domain in valence.split("test").domains]
    inside = [p for p, m in zip(predicted, movies, strict=True) if m], targets[movies]
    assert row["test"]["spearman_movies"] == pytest.approx(stats.spearmanr(*inside).statistic, abs=1e-5)


def data_of(task, i):
    batch = task.encode("test").batch(torch.tensor([i]))
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_valence_has_ratings_of_two_domains_in_every_split():
    valence = data.load_task("valence")
    for split in SPLITS:
        assert set(valence.split(split).domains) == {"movies", "products"}
        targets = valence.targets(split)
        assert targets.dtype == torch.float32 and -4 <= targets.min() < 0 < targets.max() <= 4
