"""The study of DistilBERT in a tiny setting: resumed, trusted, balanced; and its figures are those of its rows."""

import json
import math
import shutil
import statistics
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from scipy import stats
from transformers import PreTrainedModel

from kdtutor import data, models, studies
from kdtutor.errors import KDTutorError
from kdtutor.models.fingerprint import fingerprint
from kdtutor.studies import distilbert, distilbert_runs, training
from kdtutor.studies.distilbert import (
    ARMS,
    CONTROL,
    DISTILLED,
    RANDOM,
    START,
    TASKS,
    TEACHER,
    TWICE,
    WORDS,
    Plan,
    Results,
    Stage,
)
from kdtutor.studies.runner import as_stored
from kdtutor.studies.stored import MEASURED, packed, unpacked, write

pytestmark = pytest.mark.slow  # runs a whole study

STAGE = Stage(texts=8, batch_size=4, passes=2, rates=(1e-3,))
PLAN = Plan(STAGE, STAGE, STAGE, STAGE, random_rates=(3e-3,), choosing_texts=4, seeds=(0, 1))
ROWS_A_SEED = 25  # 8 bodies; teacher, control and both distilled students on 3 tasks; 5 others on one


@pytest.fixture(scope="module")
def tasks():
    """Real texts, a few in every split."""
    counts = {"train": 16, "validation": 8, "test": 24}
    tasks = {name: data.load_task(name) for name in ("glosses", *TASKS)}
    for name in tasks:
        for split, count in counts.items():
            tasks[name] = tasks[name].subset(count, split=split)
    return tasks


@pytest.fixture(scope="module")
def teacher(tasks):
    return models.freeze(models.small_bert(tasks["glosses"], layers=2, width=16, heads=2, seed=7))


def run(tmp_path, tasks, teacher, plan=PLAN):
    """What the study found, and the lines that were reported."""
    said = []
    file = tmp_path / "results" / "distilbert.json"
    return distilbert_runs.run(plan, file, tmp_path / "work", tasks, teacher, said.append), said


@pytest.fixture(scope="module")
def made(tmp_path_factory, tasks, teacher):
    """The folder of a study that has run to its end, and each training of it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        trainings = Trainings(patch)
        run(folder, tasks, teacher)
    return folder, trainings.calls


@pytest.fixture(scope="module")
def finished(made):
    return made[0]


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
        assert distilbert.MEASURE[row["task"]] in row["test"].keys() & row["validation"].keys()
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
    assert len(Plan().seeds) == 5 and len(Plan().choosing_seeds) > 1


def test_every_arm_tries_its_own_learning_rates_on_validation_at_seeds_of_their_own(finished):
    record = record_of(finished)
    tries = {(row["configuration"], row["task"], row["seed"]) for row in record["choosing"]}
    steps = {(arm.name, task) for arm in ARMS.values() for task in arm.measured_on}
    steps -= {(TEACHER, "glosses"), (START, "glosses")}  # which take none
    assert tries == {(*step, seed) for step in steps for seed in (5, 6)} and len(record["choosing"]) == len(
        tries
    )
    assert not {5, 6} & set(Plan().seeds)
    assert all("test" not in row for row in record["choosing"])
    for row in record["runs"]:
        rate = 3e-3 if (row["configuration"], row["task"]) == (RANDOM, "glosses") else 1e-3
        takes_steps = (row["configuration"], row["task"]) in steps
        assert row["learning_rate"] == (rate if takes_steps else None)


def test_the_lowest_masked_lm_loss_and_the_highest_score_are_chosen_over_both_seeds():
    def choosing(task, name):
        worth = {(0.1, 5): 1.0, (0.1, 6): 5.0, (0.2, 5): 2.5, (0.2, 6): 3.0, (0.3, 5): 6.0, (0.3, 6): 1.0}
        rows = [
            {"configuration": CONTROL, "task": task, "seed": s, "learning_rate": r, "validation": {name: v}}
            for (r, s), v in worth.items()
        ]
        return {"choosing": rows}

    assert distilbert.chosen_rate(choosing("glosses", "loss"), CONTROL, "glosses") == 0.2
    assert distilbert.chosen_rate(choosing("valence", "spearman"), CONTROL, "valence") == 0.3


def test_a_rate_beyond_the_better_of_two_is_tried_at_both_seeds(tmp_path, tasks, teacher):
    bench = distilbert_runs._Bench(
        replace(PLAN, valence=replace(STAGE, rates=(1e-3, 2e-3))), tasks, teacher, tmp_path
    )
    rows, order = [], []
    while True:
        bench.record = {"choosing": rows}
        jobs, chosen = bench._choosing(ARMS[CONTROL], "valence")
        if not jobs:
            break
        for job in jobs:
            order.append((job.row["learning_rate"], job.row["seed"]))
            rows.append(job.row | {"validation": {"spearman": job.row["learning_rate"]}})
    assert order == [(rate, seed) for rate in (1e-3, 2e-3, 4e-3) for seed in (5, 6)] and chosen == 4e-3


def test_the_room_of_each_task_is_what_the_teacher_has_ahead_of_the_control_on_validation(finished):
    record = record_of(finished)
    for row in record["room"]:
        best = [
            statistics.mean(
                r["validation"][distilbert.MEASURE[row["task"]]]
                for r in record["choosing"]
                if (r["configuration"], r["task"]) == (who, row["task"])
            )
            for who in (TEACHER, CONTROL)
        ]
        assert row["room"] == pytest.approx(best[0] - best[1], abs=1e-6)
    assert {row["task"] for row in record["room"]} == set(TASKS)


def test_counting_words_has_the_same_labels_on_every_task(finished):
    bars = {row["task"]: row for row in record_of(finished)["bars"]}
    assert bars.keys() == set(TASKS) and all(row["configuration"] == WORDS for row in bars.values())
    assert bars["valence"]["settings"]["model"] == "ridge" and "spearman" in bars["valence"]["test"]
    assert len(unpacked(bars["sentiment"]["test"]["right"])) == 24


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
        make = training.Distillation

        def recorded(student, teacher, task, objective, **settings):
            state = {name: value.clone() for name, value in student.state_dict().items()}
            self.calls.append(Training(student, teacher, task, repr(objective), settings, state))
            return make(student, teacher, task, objective, **settings)

        monkeypatch.setattr(training, "Distillation", recorded)


def test_rivals_have_the_same_texts_steps_and_settings_and_start_as_the_arm_says(made, tasks, teacher):
    folder, calls = made
    copied = models.half_depth(teacher).state_dict()
    pretraining = [call for call in calls if call.task.kind == "masked-lm" and call.seed == 0]
    assert len(pretraining) == 6
    settings = [{**call.settings, "learning_rate": 0} for call in pretraining]
    assert settings == settings[:1] * 6
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
        fine = [call for call in calls if call.task.kind != "masked-lm" and call.seed == 0]
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
            path.parent
            for path in (folder / "work" / "models").glob(f"teacher-of-{name}-seed-0-*/about.json")
        ]
        assert len(folders) == 1  # … at this seed
        expected = models.load_model(folders[0], tasks[name]).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in taught[0].teacher.state_dict().items())
        assert all(
            call.student.config.to_dict().get("attention_dropout", 0.1) == PLAN.dropout for call in fine
        )


def test_fine_tuning_starts_from_the_body_of_the_same_seed(made, tasks):
    folder, calls = made
    kept = next((folder / "work" / "models").glob("triple-loss-seed-1-*"))
    body = models.load_model(kept, tasks["glosses"]).state_dict()
    starts = [
        call.start
        for call in calls
        if call.task.name.startswith("sentiment")
        and call.seed == 1
        and "distilbert.embeddings" in str(list(call.start))
    ]
    name = "distilbert.transformer.layer.0.ffn.lin1.weight"
    same = [torch.equal(start[name], body[name]) for start in starts]
    assert same == [False, True, True]  # masked LM alone, distilled once, distilled again
    heads = [start["classifier.weight"] for start in starts]
    assert all(torch.equal(head, heads[0]) for head in heads)


# ----------------------------------------------------------------------- stopping and going on


def test_what_is_stored_is_not_run_again(finished, tasks, teacher, monkeypatch):
    trainings = Trainings(monkeypatch)
    before = record_of(finished)
    _, said = run(finished, tasks, teacher)
    assert said == [] and trainings.calls == []
    assert record_of(finished) == before


def test_a_lost_work_folder_is_made_again(finished, tmp_path, tasks, teacher):
    shutil.copytree(finished / "results", tmp_path / "results")
    record = record_of(tmp_path)
    lost = [row for row in record["runs"] if row["configuration"] == TWICE and row["task"] == "valence"]
    kept = [row for row in record["runs"] if row not in lost]
    write(tmp_path / "results" / "distilbert.json", record | {"runs": kept})
    _, said = run(tmp_path, tasks, teacher)
    assert len(said) == 2
    again = record_of(tmp_path)["runs"][-2:]
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


# ----------------------------------------------------------------------- reading what is stored


def made_up(seeds=3):
    """Results in which every figure can be foretold: score = base of the arm + seed / 100, half of it on valence."""
    right = packed(torch.tensor([True, False] * 10))
    bases = {name: 0.9 - 0.1 * place for place, name in enumerate(ARMS)}
    rows = [
        {
            "configuration": arm.name,
            "task": task,
            "seed": seed,
            "test": {
                distilbert.MEASURE[task]: (bases[arm.name] + seed / 100) * (0.5 if task == "valence" else 1),
                "perplexity": 100 * place,
                "loss": float(place),
                "right": right,
            },
        }
        for seed in reversed(range(seeds))
        for place, arm in enumerate(ARMS.values())
        for task in arm.measured_on
    ]
    return {
        "study": "distilbert",
        "configurations": {arm.name: as_stored(arm) for arm in ARMS.values()},
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


def test_accuracies_are_compared_over_seeds_and_texts_and_rank_correlations_over_seeds(finished):
    results = Results(record_of(finished))
    assert results.compare(DISTILLED, CONTROL).detail.startswith("2 seeds × 24 texts")
    assert results.compare(DISTILLED, WORDS, task="sentiment").detail.startswith("2 seeds × 24 texts")
    assert results.compare(DISTILLED, WORDS, task="valence").detail.startswith("2 seeds, interval")
    assert results.compare(DISTILLED, CONTROL, task="macro").detail.startswith("2 seeds, interval")
    assert results.compare(DISTILLED, CONTROL, "loss", task="glosses").detail.startswith("2 seeds, interval")
    expected = [a - b for a, b in zip(results.scores(DISTILLED), results.scores(CONTROL), strict=True)]
    assert results.compare(DISTILLED, CONTROL).difference == pytest.approx(
        statistics.mean(expected), abs=1e-6
    )


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

    arms = (TEACHER, CONTROL, START)
    monkeypatch.setitem(distilbert.PLANS, "distilbert", replace(PLAN, seeds=(0,), arms=arms))
    monkeypatch.setattr("kdtutor.cli.study._task", lambda given, name: tasks[name])
    teacher.save_pretrained(tmp_path / "teacher")
    file = tmp_path / "x.json"
    flags = ["--teacher", str(tmp_path / "teacher"), "--folder", str(tmp_path / "work")]
    assert main(["study", "distilbert", *flags]) == 1
    assert "need --output" in capsys.readouterr().err
    assert main(["study", "distilbert", "--output", str(file), *flags]) == 0
    assert "test scores over 1 seeds" in capsys.readouterr().out
    runs = [(row["configuration"], row["task"]) for row in json.loads(file.read_text())["runs"]]
    assert sorted(runs) == sorted((name, task) for name in arms for task in ARMS[name].measured_on)


# ----------------------------------------------------------------------- regression, against SciPy


def test_the_rank_correlation_of_a_row_is_scipy_s(finished, tasks):
    row = next(
        row
        for row in record_of(finished)["runs"]
        if (row["configuration"], row["task"], row["seed"]) == (TEACHER, "valence", 0)
    )
    folder = next((finished / "work" / "models").glob("teacher-of-valence-seed-0-*"))
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
    for split in MEASURED:
        assert set(valence.split(split).domains) == {"movies", "products"}
        targets = valence.targets(split)
        assert targets.dtype == torch.float32 and -4 <= targets.min() < 0 < targets.max() <= 4
