"""Several processes share a study: each row is made once, and nothing is lost when one of them is killed."""

import json
import os
import subprocess
import sys

import pytest
from filelock import FileLock
from helpers import refusal

from kdtutor import models
from kdtutor.data.load import load_task
from kdtutor.errors import KDTutorError
from kdtutor.studies import runner
from kdtutor.studies.runner import Job, Ledger, digest_of, kept, settings_to_try, work
from kdtutor.studies.stored import read_file, unpacked

NAMES = [*map(str, range(12)), "first", "second"]
HEAD = {"study": "made up", "format": 2, "teacher": "t", "choosing": [], "runs": []}
HEAD |= {"configurations": {name: {} for name in NAMES}}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "results" / "made up.json"


def plan_of(made, rows=range(3)):
    """Jobs for these rows; `made` lists what was made, in order."""

    def plan(record):
        done = {row["configuration"] for row in record["runs"]}
        for i in rows:
            if i not in done:
                yield Job("runs", {"configuration": i}, lambda i=i: made.append(i) or {"twice": 2 * i})

    return plan


def test_jobs_are_done_in_order_and_written_one_by_one(file):
    made, said = [], []
    record = work(Ledger(file, HEAD, said.append), plan_of(made), 3, said.append)
    assert made == [0, 1, 2] and record == read_file(file)
    assert [row["twice"] for row in record["runs"]] == [0, 2, 4]
    assert all(row["seconds"] >= 0 for row in record["runs"])
    assert said[0].startswith("1 of 3: configuration 0")


def test_what_is_there_is_not_made_again(file):
    work(Ledger(file, HEAD, print), plan_of([], range(2)), 3, print)
    made = []
    work(Ledger(file, HEAD, print), plan_of(made), 3, print)
    assert made == [2]


def test_a_study_gone_on_with_elsewhere_names_every_machine_once(file):
    for place, rows in (("a laptop", 1), ("a GPU", 2), ("a GPU", 2), ("a laptop", 3)):
        record = work(Ledger(file, HEAD | {"hardware": place}, print), plan_of([], range(rows)), 3, print)
    assert record["hardware"] == "a laptop; then a GPU" and len(record["runs"]) == 3


def test_a_job_that_another_process_holds_is_left_to_it_until_it_lets_go(file, monkeypatch):
    ledger, made = Ledger(file, HEAD, print), []
    other = FileLock(ledger.claims / digest_of(["runs", {"configuration": 0}]), is_singleton=False)
    other.acquire()

    def pause(_):
        assert made == [1, 2]  # all that is not held
        other.release()  # as the system does when its holder is killed

    monkeypatch.setattr(runner.time, "sleep", pause)
    work(ledger, plan_of(made), 3, print)
    assert made == [1, 2, 0]


def test_a_job_that_another_process_has_just_done_is_not_done_again(file):
    ledger, made = Ledger(file, HEAD, print), []

    def plan(record):
        if not record["runs"]:
            ledger.add("runs", {"configuration": 0, "by": "another"})  # between our reading and our claim
        yield from plan_of(made, [0, 1])(record)

    record = work(ledger, plan, 2, print)
    assert made == [1] and record["runs"][0]["by"] == "another"


def test_what_starts_from_anothers_result_waits_for_it(file, monkeypatch):
    ledger, pauses = Ledger(file, HEAD, print), []

    def plan(record):
        if not record["runs"]:
            yield Job("runs", {"configuration": "second"})

    def pause(_):
        pauses.append(1)
        if len(pauses) == 2:
            ledger.add("runs", {"configuration": "first"})

    monkeypatch.setattr(runner.time, "sleep", pause)
    work(ledger, plan, 2, print)
    assert len(pauses) == 2


@pytest.mark.slow
def test_two_processes_make_every_row_once(file):
    code = f"""
import os, pathlib, time
from kdtutor.studies.runner import Job, Ledger, work
def plan(record):
    done = {{row["configuration"] for row in record["runs"]}}
    for i in range(12):
        if i not in done:
            yield Job("runs", {{"configuration": i}}, lambda: time.sleep(0.05) or {{"by": os.getpid()}})
work(Ledger(pathlib.Path({str(file)!r}), {HEAD!r}, print), plan, 12, print)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    rows = read_file(file)["runs"]
    assert sorted(row["configuration"] for row in rows) == list(range(12))
    assert not list(file.parent.glob(".*"))  # no claim is left behind


def test_rows_of_another_teacher_or_of_an_older_study_are_refused(file):
    Ledger(file, HEAD, print)
    assert "another teacher (t, now u)" in refusal(lambda: Ledger(file, HEAD | {"teacher": "u"}, print))
    file.write_text(json.dumps({name: HEAD[name] for name in HEAD if name != "format"}))
    assert "an older study" in refusal(lambda: Ledger(file, HEAD, print))
    file.write_text('{"runs": [')
    with pytest.raises(KDTutorError, match=r"can't be read .*--restart"):
        Ledger(file, HEAD, print)


def test_rows_of_a_configuration_that_changed_are_forgotten_and_said_to_be(file):
    head, said = HEAD | {"configurations": {"a": 1, "b": 1}}, []
    ledger = Ledger(file, head, said.append)
    for name in "ab":
        ledger.add("runs", {"configuration": name})
    Ledger(file, head | {"configurations": {"a": 1, "b": 2}}, said.append)
    assert said == ["changed since they ran, so forgotten: b"]
    assert [row["configuration"] for row in read_file(file)["runs"]] == ["a"]


# ----------------------------------------------------------------------- settings


SWEEPS = (("learning_rate", (1.0, 0.5, 2.0)), ("max_norm", (5.0, 1000.0)))


def tried(worth, sweeps=SWEEPS):
    """The settings in the order of trying, if `worth(settings)` is what validation says; and those chosen."""
    found = []
    while True:
        missing, chosen = settings_to_try(sweeps, found)
        if not missing:
            return [settings for settings, _ in found], chosen
        found += [(settings, worth(settings)) for settings in missing]


def test_every_rate_is_tried_first_and_then_every_bound_at_the_best_rate():
    order, chosen = tried(lambda s: -abs(s["learning_rate"] - 1) - s["max_norm"] / 1e6)
    assert [tuple(s.values()) for s in order] == [(1, 5), (0.5, 5), (2, 5), (1, 1000)]
    assert chosen == {"learning_rate": 1, "max_norm": 5}


def test_while_the_best_rate_is_the_last_one_more_is_tried():
    order, chosen = tried(lambda s: s["learning_rate"])
    assert [s["learning_rate"] for s in order[:4]] == [1, 0.5, 2, 4] and chosen["learning_rate"] == 4
    order, chosen = tried(lambda s: -s["learning_rate"])
    assert [s["learning_rate"] for s in order[:4]] == [1, 0.5, 2, 0.25] and chosen["learning_rate"] == 0.25


def test_the_largest_bound_is_never_passed_and_what_has_one_value_is_never_tried_beyond_it():
    order, chosen = tried(lambda s: s["max_norm"], (("steps", (7,)), ("max_norm", (5.0, 1000.0))))
    assert order == [{"steps": 7, "max_norm": 5}, {"steps": 7, "max_norm": 1000}] and chosen == order[1]


def test_a_number_of_steps_stays_whole():
    order, _ = tried(lambda s: -s["steps"], (("steps", (25, 10)),))
    assert [s["steps"] for s in order] == [25, 10, 5] and all(type(s["steps"]) is int for s in order)


# ----------------------------------------------------------------------- kept models, bits


def test_a_kept_model_is_made_once_and_told_from_others(tmp_path):
    task, made = load_task("sentiment"), []

    def make():
        made.append(1)
        return models.small_bert(task, layers=1, width=16, seed=0), {"clipped": 0.5}

    first, found = kept(tmp_path / "teacher", [1], make)
    assert kept(tmp_path / "teacher", [1], make) == (first, found) and made == [1]
    assert kept(tmp_path / "teacher", [2], make)[0] != first and made == [1, 1]
    assert models.load_model(first, task) and found == {"clipped": 0.5}


def test_bits_come_back_as_they_were():
    import torch

    from kdtutor.studies.stored import packed

    right = torch.tensor([True, False, True, True, False, False, True, False, True])
    assert unpacked(packed(right)).tolist() == right.tolist()
