"""The study of distilling logits in a tiny setting: what it compares, chooses and measures, and what its file says."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import refusal

from kdtutor import data, evaluation, models, studies
from kdtutor.assets import ROOT
from kdtutor.cli import main
from kdtutor.models.fingerprint import fingerprint
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import logits, logits_runs, stored
from kdtutor.studies.logits import HARD, SMOOTH, TEACHER, WORDS, Plan, configurations
from kdtutor.studies.stored import Stored, unpacked
from kdtutor.studies.training import train

# As small as it gets: what is chosen from has one value each.
PLAN = Plan(
    examples=12,
    few=6,
    passes=(2, 1),
    steps=(2,),
    read_passes=(1,),
    others=(("weak", 8, 1),),
    watched=8,
    small=(1, 16),
    read=1,
    batch_size=4,
    rates=(1e-3,),
    bounds=(5.0,),
    read_rates=(1e-3,),
    seeds=(0,),
)
WHOLE = Plan()


@pytest.fixture(scope="module")
def task():
    """Real definitions, a handful in every split, some of them as a pool."""
    task = data.load_task("supersense")
    parts = {"train": range(40), "pool": range(100, 130)}
    splits = {name: task.split("train").select(torch.tensor(rows)) for name, rows in parts.items()}
    held_out = {name: task.split(name).select(torch.arange(60)) for name in ("validation", "test")}
    return replace(task, splits=splits | held_out)


@pytest.fixture(scope="module")
def teacher(task):
    """Fine-tuned until it answers with several classes."""
    model = models.small_bert(task, layers=1, width=32, dropout=0.0, seed=7)
    train(
        model,
        None,
        task.with_pool(labels=True),
        "HardLabels()",
        epochs=40,
        learning_rate=5e-3,
        batch_size=8,
        max_norm=100.0,
    )
    return models.freeze(model)


@pytest.fixture(scope="module")
def body(task):
    glosses = data.load_task("glosses")
    return models.freeze(models.small_bert(glosses, layers=2, width=16, heads=2, dropout=0.1, seed=8))


def run(folder, task, teacher, body, plan=PLAN):
    """The stored result, and the lines that were reported."""
    said = []
    return logits_runs.run(plan, folder / "x.json", folder / "work", task, teacher, body, said.append), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory, task, teacher, body):
    folder = tmp_path_factory.mktemp("finished")
    run(folder, task, teacher, body)
    return folder


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "x.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory, task, teacher, body):
    return logits_runs._Bench(PLAN, task, teacher, body, tmp_path_factory.mktemp("bench"))


# ----------------------------------------------------------------------- what is compared


def test_every_configuration_has_a_name_of_its_own_and_a_readable_objective():
    made = configurations(WHOLE)
    assert len({c.name for c in made}) == len(made) and len(WHOLE.seeds) >= 5
    assert WHOLE.choosing_seed not in WHOLE.seeds
    for configuration in made:
        if configuration.objective:
            parse_objective(configuration.objective)


def test_rivals_choose_from_the_same_settings():
    """One set of texts, one student, one length: one budget, whatever is learned from."""
    rivals = {}
    for c in configurations(WHOLE):
        if c.objective and not c.settings_of:
            rivals.setdefault((c.part, c.student, c.passes), set()).add(c.sweeps)
    assert len(rivals) == 10 and all(len(sweeps) == 1 for sweeps in rivals.values())
    lengths = {c.passes: dict(c.sweeps)["steps"] for c in configurations(WHOLE) if c.part == "patience"}
    assert lengths == {passes: (313 * passes,) for passes in (1, 2, 5, 10, 20)}


def test_whoever_takes_over_a_choice_has_the_same_objective_student_and_length():
    made = {c.name: c for c in configurations(WHOLE)}
    taken = [(c, made[c.settings_of]) for c in made.values() if c.settings_of]
    assert taken
    for c, other in taken:
        assert (c.arm, c.student, c.passes, other.settings_of) == (other.arm, other.student, other.passes, "")


def test_no_arm_reads_the_pools_labels_but_the_one_that_says_so(bench):
    for c in configurations(WHOLE):
        if c.part in ("pool", "well-read", "teachers") and c.texts == "pool" and c.arm not in (HARD, SMOOTH):
            assert c.labels in ("hidden", "argmax") and "+" not in c.objective
    assert not bench.texts("pool", "hidden").split("train").labelled.any()
    both = bench.texts("few and pool", "hidden").split("train")
    assert len(both) == PLAN.few + 30 and both.labelled.sum() == PLAN.few


def test_the_teachers_argmax_stands_where_the_true_label_is_hidden(bench, task, teacher):
    own = bench.texts("own", "argmax")
    assert torch.equal(own.targets("train"), evaluation.predict(teacher, own, "train").argmax(-1))
    both, true = bench.texts("few and pool", "argmax"), bench.texts("few and pool", "true")
    assert both.texts("train") == true.texts("train") and both.split("train").labelled.all()
    few = bench.texts("few and pool", "hidden").split("train").labelled
    assert torch.equal(both.targets("train")[few], true.targets("train")[few])
    asked = evaluation.predict(teacher, both, "train").argmax(-1)
    assert torch.equal(both.targets("train")[~few], asked[~few])


# ----------------------------------------------------------------------- what is measured


def test_every_configuration_is_measured_at_every_seed_and_the_file_says_of_what(record, task, teacher, body):
    seeds = {(c.name, seed) for c in configurations(PLAN) for seed in (PLAN.seeds if c.objective else [None])}
    assert {(row["configuration"], row["seed"]) for row in record["runs"]} == seeds
    assert (record["teacher"], record["body"]) == (fingerprint(teacher), fingerprint(body))
    assert task.fingerprint in record["data"] and record["command"] == "kdtutor study logits"
    assert all(row["seconds"] >= 0 for kind in ("room", "choosing", "runs") for row in record[kind])
    chosen = {row["configuration"] for row in record["choosing"]}
    assert chosen == {c.name for c in configurations(PLAN) if c.sweeps and not c.settings_of}
    assert all(row["seed"] == 5 and "test" not in row for row in record["choosing"])


def test_the_room_is_written_down_before_any_student_is(record):
    (room,) = record["room"]
    stored = Stored(record)
    assert room["teacher"] == stored.scores("teacher", split="validation")[0]
    tried = [r["validation"]["accuracy"] for r in record["choosing"] if r["configuration"] == room["control"]]
    assert room["room"] == pytest.approx(room["teacher"] - max(tried), abs=1e-6)


def test_a_row_has_its_curve_its_clipped_steps_and_the_texts_that_were_right(record):
    row = Stored(record).rows("soft targets, T = 2, 2 passes")[0]
    assert row["settings"] == {"steps": 6, "learning_rate": 1e-3, "max_norm": 5}
    assert row["steps"] == 6 and row["precision"] == "fp32" and 0 <= row["clipped"] <= 1
    assert [point["passes"] for point in row["curve"]] == [2]
    assert set(row["curve"][0]["train"]) == {"accuracy", "loss"} == set(row["curve"][0]["validation"])
    assert set(row["validation"]) == {"accuracy", "macro_f1", "ece", "loss"}
    right = unpacked(row["test"]["right"])
    assert len(right) == 60 and right.mean() == pytest.approx(row["test"]["accuracy"], abs=1e-6)


def test_the_teacher_is_measured_on_what_it_knows_and_on_what_it_does_not(record, task, teacher):
    row = Stored(record).rows("teacher")[None]
    p = evaluation.predict(teacher, task.train_on("pool").subset(12), "train").softmax(-1)
    assert row["pool"]["top"] == pytest.approx(float(p.amax(-1).mean()), abs=1e-5)
    assert row["pool"]["entropy"] == pytest.approx(float(torch.special.entr(p).sum(-1).mean()), abs=1e-5)
    assert {"train", "pool", "validation", "test"} < row.keys()


def test_the_linear_model_has_the_labels_that_students_have(record):
    words = [c for c in configurations(PLAN) if c.arm == WORDS]
    assert {(c.texts, c.labels) for c in words} >= {("own", "true"), ("few", "true"), ("pool", "argmax")}
    for c in words:
        row = Stored(record).rows(c.name)[None]
        assert {"model", "strength"} == row["settings"].keys() and row["test"]["loss"] > 0


def test_it_goes_on_where_it_was_stopped(finished, tmp_path, task, teacher, body, record):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    lost = [row for row in record["runs"] if ", weak teacher 1" in row["configuration"]]
    kept = [row for row in record["runs"] if row not in lost]
    stored.write(tmp_path / "x.json", record | {"runs": kept})
    shutil.rmtree(tmp_path / "work")
    again, said = run(tmp_path, task, teacher, body)
    assert len(said) == len(lost) == 2
    assert [row["test"] for row in again.record["runs"][-2:]] == [row["test"] for row in lost]


def test_results_of_another_teacher_body_or_data_are_refused(finished, task, teacher, body):
    other = models.freeze(models.small_bert(task, layers=1, width=16, seed=9))
    assert "another teacher" in refusal(lambda: run(finished, task, other, body))
    assert "another body" in refusal(lambda: run(finished, task, teacher, other))
    fewer = task.subset(30, split="validation")
    assert "another data" in refusal(lambda: run(finished, fewer, teacher, body))


def test_an_older_study_is_named_as_such(tmp_path, task, teacher, body):
    (tmp_path / "x.json").write_text('{"study": "logits", "runs": []}')
    assert "x.json holds an older study" in refusal(lambda: run(tmp_path, task, teacher, body))


# ----------------------------------------------------------------------- the command


def given_to_run(monkeypatch):
    calls = []
    made = Stored({"study": "logits", "configurations": {}, "runs": []})
    monkeypatch.setattr(logits_runs, "run", lambda *given: calls.append(given) or made)
    return calls


def test_the_command_takes_teacher_body_and_data_from_folders(tmp_path, task, teacher, body, monkeypatch):
    for name, model in {"teacher": teacher, "body": body}.items():
        model.save_pretrained(tmp_path / name)
    task.tokenizer.save_pretrained(tmp_path / "teacher")
    calls, file = given_to_run(monkeypatch), tmp_path / "x.json"
    where = {
        "teacher": tmp_path / "teacher",
        "body": tmp_path / "body",
        "data": ROOT / "data",
        "output": file,
    }
    flags = [part for name, place in where.items() for part in (f"--{name}", str(place))]
    assert main(["study", "logits", *flags, "--folder", str(tmp_path)]) == 0
    ((plan, output, folder, read, *both, _),) = calls
    assert (plan, output, folder) == (Plan(), file, tmp_path)
    assert [fingerprint(model) for model in both] == [fingerprint(teacher), fingerprint(body)]
    assert read.texts("test") == data.load_task("supersense").texts("test")
    assert read.tokenizer_name == str(tmp_path / "teacher")


def test_what_belongs_to_other_models_needs_a_file_of_its_own(capsys, tmp_path):
    for flag in ("--teacher", "--body", "--data"):
        assert main(["study", "logits", flag, str(tmp_path)]) == 1
        assert "need --output" in capsys.readouterr().err


def test_several_processes_run_the_same_command_in_one_thread_each(tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, command, env):
            started.append((command[3:], env["OMP_NUM_THREADS"]))

        def wait(self):
            return len(started) - 1

        def terminate(self):
            pass

    monkeypatch.setattr("subprocess.Popen", Process)
    (tmp_path / "x.json").write_text("old")
    flags = ["logits", "--output", str(tmp_path / "x.json"), "--folder", str(tmp_path)]
    assert main(["study", *flags, "--restart", "--processes", "2"]) == 1  # as one of them did
    assert not (tmp_path / "x.json").exists()
    assert len(started) == 2 and started[0] == started[1]
    assert "--restart" not in started[0][0] and started[0][1] == "1"
    assert started[0][0][-2:] == ["--processes", "1"]


def test_the_command_names_the_studies(capsys):
    assert main(["study", "logit"]) == 1
    said = capsys.readouterr().err
    assert 'unknown study "logit"; there are: logits, ' in said and all(
        name in said for name in studies.STUDIES
    )


# ----------------------------------------------------------------------- reading what is stored


def stored_of(**validation):
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
    return Stored({"study": "made up", "configurations": {n: {} for n in validation}, "runs": rows})


def test_scores_come_in_the_order_of_the_seeds():
    assert stored_of(a=[0.25, 0.5]).scores("a", split="validation") == [0.25, 0.5]


def test_the_best_configuration_is_chosen_on_validation():
    assert stored_of(a=[0.25, 0.5], b=[0.5, 0.75]).best(("a", "b")) == "b"


def test_differences_are_paired_over_the_seeds_that_both_have():
    test = stored_of(a=[0.25, 0.5], b=[0.5, 0.75, 0.1]).compare("a", "b", split="validation")
    assert test.difference == -0.25 and "2 seeds" in test.detail


def test_a_seed_that_one_of_them_lacks_is_left_out_wherever_it_stands():
    made = stored_of(a=[0.25, 0.5, 0.5], b=[0.5, 0.75, 0.75])
    made.record["runs"] = [r for r in made.record["runs"] if (r["configuration"], r["seed"]) != ("b", 0)]
    test = made.compare("a", "b", split="validation")
    assert test.difference == -0.25 and "2 seeds" in test.detail


def test_where_the_file_says_which_texts_were_right_the_interval_is_over_seeds_and_texts(record):
    first, second = "soft targets, T = 1, 2 passes", "hard labels, 2 passes"
    rows = [dict(row) for name in (first, second) for row in Stored(record).rows(name).values()]
    rows += [row | {"seed": 1} for row in rows]
    both = Stored(record | {"runs": [*rows, Stored(record).rows("teacher")[None]]})
    test = both.compare(first, second)
    assert test.detail.startswith("2 seeds × 60 texts")
    gaps = [a - b for a, b in zip(both.scores(first), both.scores(second), strict=True)]
    assert test.difference == pytest.approx(sum(gaps) / 2, abs=1e-6)
    assert both.compare(first, "teacher").detail.startswith("2 seeds × 60 texts")  # which has no seed
    assert both.compare(first, second, "loss").detail.startswith("2 seeds, interval")


def test_a_curve_has_one_value_per_seed_and_point(record):
    ((passes, values),) = Stored(record).curve("hard labels, 1 pass", "loss", "train")
    assert passes == 1 and len(values) == 1 and values[0] > 0


def test_the_lengths_of_an_arm_come_in_order_each_at_the_end_of_its_own_schedule(record):
    found = logits.lengths(Stored(record), HARD)
    expected = [(passes, Stored(record).scores(logits.name_of(HARD, passes))) for passes in (1, 2)]
    assert found == expected


def test_the_table_has_a_line_for_each_configuration_with_its_difference(record):
    runs = record["runs"] + [row | {"seed": 1} for row in record["runs"] if row["seed"] == 0]
    names = ["teacher", "TF-IDF, own, true labels", "hard labels, 2 passes", "soft targets, T = 1, 2 passes"]
    head, *lines = logits.table(Stored(record | {"runs": runs}), names, against=names[2]).splitlines()
    assert [line[:44].strip() for line in lines] == names
    assert ["±" in line for line in lines] == [True, True, False, True] and "difference" in head
    test = Stored(record | {"runs": runs}).compare(names[3], names[2])
    assert f"{100 * test.difference:+.1f} ± {100 * test.half_width:.1f}" in lines[3]


def test_configurations_are_selected_by_what_they_are(record):
    names = Stored(record).select(part="patience", passes=1)
    assert len(names) == 5 and "soft targets, T = 4, 1 pass" in names


def test_rows_are_written_one_a_line_whatever_lists_there_are(tmp_path):
    record = {"study": "made up", "runs": [{"seed": 0}, {"seed": 1}], "choosing": [], "speed": [{"ms": 1.5}]}
    stored.write(tmp_path / "x.json", record)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == record
    assert '\n    {"seed": 0},\n    {"seed": 1}\n' in text and text.count("\n") == 11


def test_the_stored_file_is_written_as_it_stands(tmp_path):
    file = studies.results_file("logits")
    stored.write(tmp_path / "x.json", json.loads(file.read_text(encoding="utf-8")))
    assert (tmp_path / "x.json").read_text() == file.read_text(encoding="utf-8")


def test_unknown_names_list_what_there_is():
    assert '"hard"; there are: hard labels' in refusal(
        lambda: stored_of(**{"hard labels": [0.5]}).scores("hard")
    )
    assert "kdtutor study nothing" in refusal(lambda: studies.load("nothing"))


def test_what_ships_has_all_seeds_and_is_of_the_teacher_that_ships():
    """The file grows arm by arm: no notebook may show one with fewer seeds than its neighbour."""
    shipped, task = studies.load("logits"), data.load_task("supersense")
    assert {passes for passes, _ in logits.lengths(shipped, "hard labels")} >= {1, 2, 10}
    for name in shipped.select():
        assert list(shipped.rows(name)) in ([None], [0, 1, 2, 3, 4])
    assert shipped.record["data"] == f"supersense {task.fingerprint}"
    assert shipped.record["teacher"] == fingerprint(models.load_teacher(task))


@pytest.mark.slow
def test_a_row_that_ships_is_what_todays_code_makes(tmp_path):
    """One row is taken out and made again: to the last bit on the machine that made it, nearly so on another."""
    name = "hard labels, 1 pass"
    record = json.loads(studies.results_file("logits").read_text(encoding="utf-8"))
    (old,) = (row for row in record["runs"] if (row["configuration"], row["seed"]) == (name, 0))
    stored.write(tmp_path / "x.json", record | {"runs": [row for row in record["runs"] if row is not old]})

    class Enough(Exception):
        pass

    def report(said):
        raise Enough(said)

    task, glosses = data.load_task("supersense"), data.load_task("glosses")
    with pytest.raises(Enough, match=f"{name}; seed 0"):
        teachers = models.load_teacher(task), models.load_teacher(glosses)
        logits_runs.run(Plan(), tmp_path / "x.json", tmp_path / "work", task, *teachers, report)
    new = Stored(json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))).rows(name)[0]
    assert new["settings"] == old["settings"] and new["steps"] == old["steps"]
    assert new["test"]["loss"] == pytest.approx(old["test"]["loss"], abs=0.05)
    assert new["test"]["accuracy"] == pytest.approx(old["test"]["accuracy"], abs=0.03)


def points(shipped: Stored, first: str, second: str, form: str = "{:.1f}") -> str:
    """The difference and its interval as pages write it."""
    found = shipped.compare(first, second)
    return f"{form.format(100 * found.difference)} ± {100 * found.half_width:.1f}".replace("-", "−")


def test_what_the_pages_say_of_the_study_is_what_it_found():
    shipped = studies.load("logits")
    readme, results = (
        (ROOT.parents[1] / page).read_text(encoding="utf-8") for page in ("README.md", "docs/results.md")
    )
    arms = (HARD, SMOOTH, logits.soft(1), logits.soft(4))
    for passes in (1, 2, 5, 10, 20):
        row = [shipped.mean(logits.name_of(arm, passes)).mean for arm in arms]
        assert f"| {passes} | {' | '.join(f'{100 * score:.1f} %' for score in row)} |" in results

    gap = partial(points, shipped)
    last, gained = {arm: logits.name_of(arm, 20) for arm in arms}, {}
    for arm in (HARD, *arms[2:]):
        gained[arm] = gap(last[arm], logits.name_of(arm, 5))
        more = shipped.compare(last[arm], logits.name_of(arm, 5))
        assert (more.difference > more.half_width) == (arm != HARD)
    says = "hard labels gain {} points, T = 1 gains {} and T = 4 gains {}:".format(*gained.values())
    assert says in results
    fifth = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb")).read_text(encoding="utf-8")
    assert "the control gains {} points, and".format(*gained.values()) in fifth
    assert "$T = 1$ gains {1} and $T = 4$ {2}.".format(*gained.values()) in fifth
    over = [gap(last[arms[3]], last[arm]) for arm in arms[:3]]
    assert (
        "T = 4 is {} points over hard labels, {} over label smoothing and {} over T = 1".format(*over)
        in results
    )

    softened = [*map(logits.soft, (1, 2, 4, 8)), "logit MSE"]
    hard = logits.name_of(HARD, 10)
    gains = {}
    for arm in (SMOOTH, logits.ARGMAX, *softened):
        name = logits.name_of(arm, 10)
        gains[arm] = gap(name, hard)
        assert f"| {arm} | {100 * shipped.mean(name).mean:.1f} % | +{gains[arm]} |" in results

    best = shipped.best([logits.name_of(arm, 10) for arm in softened])
    assert best == logits.name_of("logit MSE", 10)
    more = gap(best, logits.name_of(SMOOTH, 10))
    assert f"{gains['logit MSE']} points over hard labels and {more} over label smoothing" in results
    assert f"at T = 4 it gains {over[0]} points over labels alone" in " ".join(readme.split())
    early = shipped.compare(logits.name_of(arms[3], 2), logits.name_of(HARD, 2))
    assert f"{-100 * early.difference:.1f} ± {100 * early.half_width:.1f}\n*behind* hard labels" in results


def test_what_the_pages_say_of_few_labels_is_what_the_study_found():
    shipped = studies.load("logits")
    pages = (ROOT.parents[1] / page for page in ("README.md", "docs/results.md"))
    readme, results = (page.read_text(encoding="utf-8") for page in pages)
    readme = " ".join(readme.split())

    alone, pool, truth = f"{HARD}, few", f"{logits.soft(4)}, few and pool", f"{HARD}, few and pool"
    score = {name: f"{100 * shipped.mean(name).mean:.1f}" for name in (alone, pool, truth)}
    assert f"from {score[alone]} to {score[pool]} %" in readme and f"true labels ({score[truth]} %)" in readme
    gap, signed = partial(points, shipped), "{:+.1f}"
    smooth, argmax = f"{SMOOTH}, few", f"{logits.ARGMAX}, few and pool"
    for name in (smooth, f"{logits.soft(4)}, few", pool, argmax, truth):
        assert f"{100 * shipped.mean(name).mean:.1f} % | {gap(name, alone, signed)} |" in results
    over = shipped.compare(pool, truth)
    assert f"are worth {100 * over.difference:.1f} ± {100 * over.half_width:.1f} points *more*" in results

    fifth = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb")).read_text(encoding="utf-8")
    level, beside = gap(argmax, truth, signed), gap(pool, argmax)
    assert f"worth what the truth is ({level})" in results and f"is worth another {beside}." in results
    assert f"level with the truth ({level})" in fifth and f"the other {beside} points" in fifth
    assert f"nothing: {gap(smooth, alone, signed)})" in fifth
    assert abs(shipped.compare(argmax, truth).difference) < shipped.compare(argmax, truth).half_width
    assert f"our small student makes {score[alone]} %" in fifth
    assert (
        f"fifteen thousand texts {score[pool]} %, and of the true labels of all of them {score[truth]} %"
        in fifth
    )
    assert (
        f"nearly 24 points over the same 2,000 labels alone, and {100 * over.difference:.1f} points over"
        in fifth
    )
    assert 23.5 <= 100 * shipped.compare(pool, alone).difference < 24

    rows = ("few, true labels", "few and pool, argmax labels", "few and pool, true labels")
    few, taught, true = (f"{100 * shipped.mean(f'{WORDS}, {row}').mean:.1f}" for row in rows)
    lesson = next((ROOT.parents[1] / "notebooks").glob("00_*.ipynb")).read_text(encoding="utf-8")
    assert all(f"from {few} to {taught} %" in page for page in (readme, lesson))
    for score in (
        f"{few} % from the 2,000 labels",
        f"{taught} % with the teacher's",
        f"{true} % with its true labels",
    ):
        assert score in " ".join(results.split())


def test_what_the_pages_say_of_the_pool_is_what_the_study_found():
    shipped = studies.load("logits")
    results = (ROOT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    place = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb"))
    cells = json.loads(place.read_text(encoding="utf-8"))["cells"]
    (fifth,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "29fcfe36")

    gap, signed = partial(points, shipped), "{:+.1f}"
    arms = HARD, SMOOTH, logits.ARGMAX, logits.soft(1), logits.soft(4)
    own = {arm: logits.name_of(arm, 10) for arm in arms}
    pool = {arm: logits.name_of(arm, 10, "pool") for arm in arms}
    for arm in arms:
        over = "" if arm == HARD else gap(pool[arm], pool[HARD], signed) + " "
        row = f"| {100 * shipped.mean(pool[arm]).mean:.1f} % | {over}| {gap(pool[arm], own[arm], signed)} |"
        assert f"| {arm} {row}" in results
        assert shipped.record["configurations"][pool[arm]]["passes"] == 10
    softest, argmax = pool[logits.soft(4)], pool[logits.ARGMAX]
    assert f"are worth {gap(softest, pool[HARD])} points more than the truth" in results
    assert f"and {gap(softest, pool[SMOOTH])} more than the truth smoothed" in results
    assert f"is worth {gap(argmax, pool[HARD])} more than the truth" in results
    assert f"another {gap(softest, argmax)}." in results
    known = [next(iter(shipped.rows("teacher").values()))[texts]["accuracy"] for texts in ("pool", "train")]
    assert (
        "right on {:.1f} % of the pool, on {:.1f} % of its own".format(*(100 * k for k in known)) in results
    )
    words = shipped.mean(f"{WORDS}, pool, true labels").mean
    assert f"has {100 * words:.1f} % from these true labels" in results
    assert words > max(shipped.mean(name).mean for name in pool.values())

    said = f"end at {100 * shipped.mean(softest).mean:.1f} %, {gap(softest, own[logits.soft(4)])} points from"
    assert said in fifth
    assert f"at $T = 1$ {gap(pool[logits.soft(1)], own[logits.soft(1)])}." in fifth
    assert f"worth {gap(softest, pool[HARD])} points more than the true labels" in fifth
    for arm in (logits.soft(1), logits.soft(4)):
        found = shipped.compare(pool[arm], own[arm])
        assert abs(found.difference) < found.half_width, "no harm that could be told"


def test_what_the_pages_say_of_students_that_have_read_is_what_the_study_found():
    shipped = studies.load("logits")
    results = (ROOT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    fifth = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb")).read_text(encoding="utf-8")
    gap, signed, taught = partial(points, shipped), "{:+.1f}", logits.soft(4)
    places = (1, "well-read"), (3, "well-read"), (3, "well-read", "pool")
    named = {arm: [logits.name_of(arm, *place) for place in places] for arm in (HARD, SMOOTH, taught)}
    score = {name: f"{100 * shipped.mean(name).mean:.1f} %" for names in named.values() for name in names}
    for arm in (SMOOTH, taught):
        cells = [
            f"{score[name]} ({gap(name, hard, signed)})"
            for name, hard in zip(named[arm], named[HARD], strict=True)
        ]
        assert f"| {arm} | {' | '.join(cells)} |" in results
    assert f"| {HARD} | {' | '.join(score[name] for name in named[HARD])} |" in results
    once, own, pool = named[taught]
    adds, takes = gap(own, named[HARD][1]), gap(named[HARD][0], once)
    assert f"adds {adds} points then, {gap(own, named[SMOOTH][1])} more than smoothing" in results
    assert f"takes {takes} away" in results and f"its own texts ({gap(pool, own, signed)})" in results
    assert f"{score[named[HARD][1]]} from the same labels in three passes" in fifth
    assert f"{adds} points at $T = 4$, and" in fifth and f"is {takes} *behind*" in fifth
    words = shipped.mean(f"{WORDS}, own, true labels").mean
    assert min(shipped.mean(names[1]).mean for names in named.values()) > words + 0.08


def test_what_the_pages_say_of_other_teachers_is_what_the_study_found():
    shipped, taught = studies.load("logits"), logits.soft(4)
    results = (ROOT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    fifth = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb")).read_text(encoding="utf-8")
    gap = partial(points, shipped, form="{:+.1f}")
    todays = [logits.name_of(taught, 10), logits.name_of(taught, 10, "pool")]
    over, beyond, truth, score = {}, {}, {}, {}
    for who in (TEACHER, *(f"{kind} teacher {n}" for kind in ("weak", "over-trained") for n in (1, 2))):
        row = next(iter(shipped.rows(who).values()))
        right = [f"{100 * row[texts]['accuracy']:.1f} %" for texts in ("train", "pool", "test")]
        theirs = [logits.name_of(taught, 10, *[who] * (who != TEACHER), *at) for at in ((), ("pool",))]
        means = score[who] = [f"{100 * shipped.mean(student).mean:.1f}" for student in theirs]
        cells = [f"{mean} %" for mean in means]
        if who != TEACHER:
            cells = [
                f"{mean} ({gap(*pair)})"
                for mean, pair in zip(cells, zip(theirs, todays, strict=True), strict=True)
            ]
        name = "today's" if who == TEACHER else who.replace(" teacher", "")
        assert f"| {name} | {' | '.join(right)} | {' | '.join(cells)} |" in results
        over[who], beyond[who] = gap(theirs[0], logits.name_of(HARD, 10)), gap(*reversed(theirs))
        truth[who] = gap(theirs[1], logits.name_of(HARD, 10, "pool"))

    todays, weak, other, trained, retrained = over
    assert f"no better there than hard labels ({over[trained]}; {over[retrained]})" in results
    assert f"{beyond[trained]} and {beyond[retrained]} over its own texts" in results
    assert f"no difference that could be told ({beyond[todays]})" in results
    assert f"own texts*: {over[weak]} and {over[other]} over hard labels" in results
    assert f"would make them ({truth[weak]}; {truth[other]})" in results
    assert f"as ours does: {score[weak][0]} and {score[other][0]} %" in fifth
    assert f"nothing there over hard labels, {score[trained][0]} and {score[retrained][0]} %" in fifth


def test_what_the_pages_say_of_logit_mse_at_each_length_is_what_the_study_found():
    shipped = studies.load("logits")
    results = (ROOT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    fifth = next((ROOT.parents[1] / "notebooks").glob("05_*.ipynb")).read_text(encoding="utf-8")
    gap, ahead = partial(points, shipped, form="{:+.1f}"), {}
    for passes in (1, 2, 5, 10, 20):
        mse, *others = (logits.name_of(arm, passes) for arm in ("logit MSE", HARD, logits.soft(4)))
        ahead[passes] = gap(mse, others[0])
        gaps = f"{ahead[passes]} | {gap(mse, others[1])}"
        assert f"| {passes} | {100 * shipped.mean(mse).mean:.1f} % | {gaps} |" in results
    two, ten, twenty = (ahead[passes].lstrip("+−") for passes in (2, 10, 20))
    assert (
        f"{two} points *behind* hard labels after two passes, {ten} ahead after ten, {twenty} after"
        in results
    )
    assert f"{two} points behind hard labels after two passes, {ten} ahead after ten, {twenty} after" in fifth
