"""What a run survives: SIGKILL at any moment, Ctrl-C, a full disk, damage, a second run, a lost process.

The runs to be killed are forked from a server that has imported everything, so that each costs no start-up.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    PATIENCE,
    make_run,
    make_task,
    model,
    processes,
    same,
    take,
    weights,
    without_time,
)

from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import predict
from kdtutor.objectives.logits import HardLabels, blend
from kdtutor.training import asking, checkpoints, teachers
from kdtutor.training.distillation import Distillation
from kdtutor.training.processes import finish_first

TESTS = Path(__file__).parent
resource = pytest.importorskip("resource", reason="Windows has neither the limits nor the signals")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["test_surviving"])


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(autouse=True, scope="module")
def _one_thread_here_and_in_the_forks_and_a_path_for_them():
    """The last digits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before, path = os.environ.get("OMP_NUM_THREADS"), os.environ.get("PYTHONPATH")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), *filter(None, [path])])
    yield
    for name, value in {"OMP_NUM_THREADS": before, "PYTHONPATH": path}.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------ SIGKILL


def steered_run(folder, **changes) -> Distillation:
    """Dropout, a cached teacher, and a checkpoint at every second step."""
    goal = blend(alpha=0.3, temperature=2)
    settings = {
        "epochs": 6,
        "save_every": 2,
        "dropout": 0.1,
        "folder": folder,
        "cache": Path(folder, "answers"),
    }
    return make_run(make_task(), goal, **(settings | changes))


def steps_of(run: Distillation) -> None:
    """All steps, steered after some that are saved and after some that are not."""
    for step in run:
        if step.number in (9, 14):
            run.objective.temperature += 2
        if step.number in (19, 24):
            run.learning_rate /= 2


def slowly(seconds: float, function):
    def slow(*arguments, **settings):
        time.sleep(seconds)
        return function(*arguments, **settings)

    return slow


def victim(folder: str, moment: str, tell) -> None:
    """Start or go on, dawdling at the moment at which it is to be killed."""
    torch.set_num_threads(1)
    teachers.texts_at_once = lambda device: 4  # eleven batches; their shapes decide the last digits
    if moment == "asking the teacher":
        asking.FLUSH_EVERY = 0
        teachers.check_finite_logits = slowly(0.1, teachers.check_finite_logits)
    elif moment == "saving":
        os.fsync = slowly(0.02, os.fsync)
        checkpoints.save_file = slowly(0.02, checkpoints.save_file)
    else:
        torch.nn.utils.clip_grad_norm_ = slowly(0.05, torch.nn.utils.clip_grad_norm_)
    tell.send("begun")
    run = steered_run(folder)
    if checkpoints.found(Path(folder)):
        run.resume()
    tell.send(run.done)
    steps_of(run)
    tell.send("done")


def kill(folder: Path, moment: str, after: float) -> str | int:
    """Kill a run so many seconds after it began; returns the last thing it said."""
    mine, its = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=victim, args=(str(folder), moment, its))
    process.start()
    its.close()
    assert mine.poll(PATIENCE)
    said = mine.recv()
    if moment != "asking the teacher":
        assert mine.poll(PATIENCE)
        said = mine.recv()
    process.join(after)
    process.kill()
    process.join()
    while mine.poll():
        try:
            said = mine.recv()
        except EOFError:
            break
    return said


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "saving", "asking the teacher"])
def test_a_run_killed_again_and_again_ends_bit_identical(tmp_path, monkeypatch, moment):
    monkeypatch.setattr(teachers, "texts_at_once", lambda device: 4)  # as in the forks
    straight = steered_run(tmp_path / "straight")
    steps_of(straight)
    chance, folder, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(4):
        kills += kill(folder, moment, chance.uniform(0.0, 0.5)) != "done"
    assert kills >= 3, "it was too quick to be killed"
    resumed = steered_run(folder, student=model(make_task(), seed=77, dropout=0.1))
    if checkpoints.found(folder):
        resumed.resume()
        assert resumed.done or moment != "training"
    else:
        resumed = steered_run(folder)
    steps_of(resumed)
    assert same(weights(resumed.student), weights(straight.student))
    assert without_time(resumed.history) == without_time(straight.history)
    assert torch.equal(resumed.answers.logits, straight.answers.logits)
    left = {path.name for path in folder.iterdir() if not path.name.startswith((".lock", ".held"))}
    assert left == {"answers", "checkpoint-0000034", "checkpoint-0000036"}, "nothing half done is left"


# ------------------------------------------------------------------------------------------------ steering


LEAVING = {
    "going on": lambda run: None,
    "break": lambda run: None,
    "an exception": lambda run: 1 / 0,
    "Ctrl-C": lambda run: press_ctrl_c(),
}


@pytest.mark.parametrize("how", LEAVING)
def test_what_the_loops_body_changes_at_a_saved_step_is_in_its_checkpoint(task, tmp_path, how):
    settings = {"epochs": 2, "dropout": 0.1, "save_every": 2, "folder": tmp_path}
    run = make_run(task, **settings)
    with suppress(ZeroDivisionError, KeyboardInterrupt):
        for step in run:
            if step.number == 4:
                assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002"]
                run.objective.temperature, run.learning_rate = 5, 2e-4
                LEAVING[how](run)
                if how == "break":
                    break
            if step.number == 5:
                break
    resumed = make_run(task, **settings).resume()
    assert (resumed.done, resumed.objective.temperature, resumed.learning_rate) == (4, 5, 2e-4)
    resumed.folder = None
    resumed.run(), run.run()
    assert same(weights(resumed.student), weights(run.student))
    assert without_time(resumed.history) == without_time(run.history)


def test_what_is_changed_between_two_loops_is_in_the_checkpoint_before_the_next_step(task, tmp_path):
    run = make_run(task, epochs=2, save_every=2, folder=tmp_path)
    take(run, 2)
    run.objective.temperature = 5
    take(run, 1)
    resumed = make_run(task, epochs=2, save_every=2, folder=tmp_path).resume()
    assert (resumed.done, resumed.objective.temperature) == (2, 5)


def test_a_run_taken_step_by_step_saves_when_it_is_asked_for_the_next_one_or_closed(task, tmp_path):
    run = make_run(task, epochs=2, save_every=2, folder=tmp_path)
    steps = iter(run)
    next(steps), next(steps)
    assert not checkpoints.found(tmp_path)
    next(steps)
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002"]
    next(steps)
    steps.close()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002", "checkpoint-0000004"]


def test_a_killed_build_of_the_teachers_answers_goes_on_where_it_was(task, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "texts_at_once", lambda device: 4)
    monkeypatch.setattr(asking, "FLUSH_EVERY", 0)
    asked = []

    def dies_at_the_sixth(logits, index):
        asked.append(index)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(teachers, "check_finite_logits", dies_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            make_run(task, cache=tmp_path)
    count = len(make_run(task).batches.data)
    second = []
    real = teachers.check_finite_logits
    monkeypatch.setattr(teachers, "check_finite_logits", lambda z, i: second.append(i) or real(z, i))
    run = make_run(task, cache=tmp_path)
    assert sum(map(len, asked[:5])) + sum(map(len, second)) == count, "the first five were not asked again"
    assert torch.equal(run.answers.logits, make_run(task).answers.logits)


def test_a_killed_build_whose_mark_cannot_be_read_begins_anew(task, tmp_path):
    whole = make_run(task, cache=tmp_path)
    [file] = tmp_path.glob("teacher-*.npy")
    file.rename(file.with_suffix(".partial"))
    for mark in ("", "[]", '{"done": 1, "shape": [3, 3], "batches": 9}'):
        file.with_suffix(".partial.json").write_text(mark)
        assert torch.equal(make_run(task, cache=tmp_path).answers.logits, whole.answers.logits)
        file.rename(file.with_suffix(".partial"))


# ------------------------------------------------------------------------------------------------ Ctrl-C


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_waits_until_the_block_is_done_and_the_second_gets_through():
    reached = []
    with pytest.raises(KeyboardInterrupt), finish_first():
        press_ctrl_c()
        reached.append("the end")
    with pytest.raises(KeyboardInterrupt), finish_first():
        press_ctrl_c()
        press_ctrl_c()
        reached.append("never")
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_may_lie_in_blocks_and_other_threads_are_left_alone():
    reached = []
    with pytest.raises(KeyboardInterrupt), finish_first():
        with finish_first():
            press_ctrl_c()
        reached.append("the outer end")

    def elsewhere() -> None:
        with finish_first():
            reached.append("a thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert reached == ["the outer end", "a thread"]


@pytest.mark.parametrize("where", ["forward", "optimizer", "clip"])
def test_a_run_interrupted_within_a_step_goes_on_in_the_same_kernel_as_if_nothing_had_been(
    task, monkeypatch, where
):
    straight = make_run(task, dropout=0.1, epochs=2)
    straight.run()
    run = make_run(task, dropout=0.1, epochs=2)
    owner, name = {
        "forward": (sys.modules["kdtutor.training.distillation"], "forward"),
        "optimizer": (run.optimizer, "step"),
        "clip": (torch.nn.utils, "clip_grad_norm_"),
    }[where]
    real, calls = getattr(owner, name), []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) in (3, 6):
            press_ctrl_c()
        return real(*arguments, **settings)

    monkeypatch.setattr(owner, name, interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert 0 < run.done < run.total_steps
    run.run()
    assert same(weights(run.student), weights(straight.student))
    assert without_time(run.history) == without_time(straight.history)


@pytest.mark.parametrize(
    "where", ["a step", "the last step", "the loop's body", "a checkpoint", "the last checkpoint"]
)
def test_ctrl_c_skips_no_step_and_no_checkpoint(task, tmp_path, monkeypatch, where):
    settings = {"epochs": 2, "save_every": 2, "dropout": 0.1}
    straight = make_run(task, **settings)
    straight.run()
    run, seen, pressed = make_run(task, folder=tmp_path, **settings), [], []
    at = 12 if "last" in where else 4

    def interrupted(function):
        def presses(*arguments, **options):
            result = function(*arguments, **options)
            if run.done == (at - 1 if "step" in where else at) and not pressed:
                pressed.append(True)
                press_ctrl_c()
            return result

        return presses

    see = seen.append
    if "step" in where:
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted(torch.nn.utils.clip_grad_norm_))
    elif "checkpoint" in where:
        monkeypatch.setattr(checkpoints, "save_file", interrupted(checkpoints.save_file))
    else:
        see = interrupted(see)
    with pytest.raises(KeyboardInterrupt):
        for step in run:
            see(step.number)
    assert run.done == at
    assert checkpoints.found(tmp_path)[-1].name == f"checkpoint-{at:07d}"
    for step in run:
        see(step.number)
    assert seen == [*range(1, 13)]
    assert run.run() == run.history
    assert checkpoints.found(tmp_path)[-1].name == "checkpoint-0000012"
    assert same(weights(run.student), weights(straight.student))


def test_ctrl_c_twice_before_the_update_takes_that_step_again(task, monkeypatch):
    straight, run = make_run(task, dropout=0.1), make_run(task, dropout=0.1)
    straight.run()
    take(run, 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: [press_ctrl_c(), press_ctrl_c()])
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert run.done == len(run.history) == 3
    assert [step.number for step in run] == [4, 5, 6]
    assert same(weights(run.student), weights(straight.student))
    assert without_time(run.history) == without_time(straight.history)


def test_a_run_whose_update_was_torn_by_ctrl_c_is_not_gone_on_with_but_resumed(task, tmp_path, monkeypatch):
    settings = {"epochs": 2, "save_every": 2, "dropout": 0.1}
    straight = make_run(task, **settings)
    straight.run()
    run = make_run(task, folder=tmp_path, **settings)
    take(run, 3)

    def torn() -> None:
        type(run.optimizer).step(run.optimizer)
        press_ctrl_c(), press_ctrl_c()

    with monkeypatch.context() as patch:
        patch.setattr(run.optimizer, "step", torn)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert run.done == 3
    for going_on in (run.run, run.save):
        with pytest.raises(KDTutorError, match=r"step 4 was broken off .*resume\(\)"):
            going_on()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002"]
    assert run.resume().done == 2
    run.run()
    assert same(weights(run.student), weights(straight.student))
    assert without_time(run.history) == without_time(straight.history)


def test_a_run_interrupted_while_it_saves_or_is_evaluated_goes_on(task, tmp_path, monkeypatch):
    straight = make_run(task, HardLabels(), epochs=2)
    straight.run()
    run = make_run(task, HardLabels(), epochs=2, folder=tmp_path, save_every=2)
    real, saves = checkpoints.save_file, []

    def interrupted(*arguments):
        real(*arguments)
        saves.append(1)
        if len(saves) == 2:
            press_ctrl_c()

    monkeypatch.setattr(checkpoints, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002", "checkpoint-0000004"]
    monkeypatch.setattr(sys.modules["kdtutor.models.forward"], "forward", lambda *_, **__: press_ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        predict(run.student, task, "test")
    monkeypatch.undo()
    resumed = make_run(task, HardLabels(), epochs=2, folder=tmp_path, save_every=2).resume()
    run.run()
    resumed.folder = None
    resumed.run()
    assert same(weights(run.student), weights(straight.student))
    assert same(weights(resumed.student), weights(straight.student))


# ------------------------------------------------------------------------------------------------ disks and damage


def test_a_full_disk_leaves_the_checkpoint_before_it_whole_says_so_and_the_run_can_go_on(task, tmp_path):
    run = make_run(task, HardLabels(), epochs=2, folder=tmp_path, save_every=2)
    take(run, 2)
    first = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-0000002").iterdir()}
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a file can't grow: as on a full disk
    try:
        with pytest.raises(KDTutorError, match=r"checkpoint-0000004 could not be written .*0000002 is whole"):
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-0000002").iterdir()} == first
    assert not (tmp_path / ".partial").exists()
    run.run()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000010", "checkpoint-0000012"]


def test_a_damaged_newest_checkpoint_is_named_set_aside_and_the_one_before_it_used(task, tmp_path):
    settings = {"epochs": 2, "dropout": 0.1, "folder": tmp_path}
    straight = make_run(task, **settings)
    straight.run()
    newest = tmp_path / "checkpoint-0000012" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = make_run(task, **settings, student=model(task, seed=77, dropout=0.1))
    with pytest.warns(UserWarning, match=r"checkpoint-0000012 is damaged .*going on from checkpoint-0000006"):
        resumed.resume()
    assert resumed.done == 6
    assert (tmp_path / "damaged-checkpoint-0000012").is_dir()
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student))


def test_a_bit_that_flips_in_any_file_is_noticed(task, tmp_path):
    make_run(task, HardLabels(), folder=tmp_path, steps=3).run()
    [checkpoint] = checkpoints.found(tmp_path)
    chance = random.Random(0)
    for name in ("state.json", "history.jsonl", "optimizer.safetensors", "model.safetensors"):
        whole = (checkpoint / name).read_bytes()
        for _ in range(60 if name == "state.json" else 5):
            flipped = bytearray(whole)
            flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            (checkpoint / name).write_bytes(flipped)
            with pytest.raises(checkpoints.DamagedCheckpoint):
                checkpoints.read(checkpoint, "cpu")
        (checkpoint / name).write_bytes(whole)
    assert checkpoints.read(checkpoint, "cpu").about["done"] == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("done", 2), ("learning_rate", 0.5), ("objective", [{"weight": 2.0}]), ("history", [])],
)
def test_a_field_of_the_state_that_was_edited_is_noticed(task, tmp_path, field, value):
    make_run(task, HardLabels(), folder=tmp_path, steps=3).run()
    file = tmp_path / "checkpoint-0000003" / "state.json"
    state = json.loads(file.read_text())
    assert field in state
    file.write_text(json.dumps(state | {field: value}, indent=1) + "\n")
    with pytest.raises(KDTutorError, match="checkpoint-0000003 is damaged"):
        make_run(task, HardLabels(), folder=tmp_path, steps=3).resume()


@pytest.mark.parametrize("name", ["exp_avg.0", "exp_avg_sq.3", "step.1", "student"])
@pytest.mark.parametrize("how", ["shape", "type", "missing"])
def test_tensors_that_are_not_this_students_are_damage_and_never_reach_the_optimiser(
    task, tmp_path, name, how
):
    """With hashes that fit. Fused AdamW would read memory that is not the moments'."""
    run = make_run(task, HardLabels(), folder=tmp_path, steps=3)
    run.run()
    state = run.state()
    tensors = state.learned if name in state.learned else state.student
    key = name if name in tensors else next(iter(tensors))
    changed = {
        "shape": lambda x: x.flatten()[:1].repeat(2),
        "type": lambda x: x.double(),
        "missing": lambda x: None,
    }
    tensors[key] = changed[how](tensors[key])
    if tensors[key] is None:
        del tensors[key]
    with pytest.raises(KDTutorError, match="can't be restored: "):
        make_run(task, HardLabels(), steps=3).restore(state)
    if name in ("student",):
        return  # save_pretrained writes the model that there is
    shutil.rmtree(tmp_path / "checkpoint-0000003")
    checkpoints.write(tmp_path, run.student, state)
    with pytest.raises(KDTutorError, match="checkpoint-0000003 is damaged"):
        make_run(task, HardLabels(), folder=tmp_path, steps=3).resume()


@pytest.mark.parametrize(
    "name", ["state.json", "history.jsonl", "model.safetensors", "optimizer.safetensors"]
)
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged_nor_set_aside(
    task, tmp_path, monkeypatch, name
):
    run = make_run(task, HardLabels(), epochs=2, folder=tmp_path)
    run.run()
    real = io.open

    def closed(file, *arguments, **options):
        if str(file).endswith(f"0012/{name}"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", closed)
        patch.setattr("io.open", closed)
        with pytest.raises(KDTutorError, match=r"0000012 can't be read .*Permission denied") as error:
            run.resume()
    assert "damaged" not in str(error.value)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"checkpoint-0000006", "checkpoint-0000012"}
    assert run.resume().done == 12


@pytest.mark.parametrize("name", ["state.json", "model.safetensors"])
def test_a_pipe_in_a_files_place_does_not_hang(task, tmp_path, name):
    make_run(task, HardLabels(), folder=tmp_path, steps=1).run()
    (tmp_path / "checkpoint-0000001" / name).unlink()
    os.mkfifo(tmp_path / "checkpoint-0000001" / name)
    with pytest.raises(KDTutorError, match="checkpoint-0000001 is damaged"):
        make_run(task, HardLabels(), folder=tmp_path, steps=1).resume()


RECORDED = ("task", "student", "teacher", "objective", "learning_rate", "batch_size", "total_steps", "warmup",
            "weight_decay", "max_norm", "masking", "rare_words", "seed", "split")  # fmt: skip


def as_it_was_written_before(checkpoint: Path) -> None:
    """Give a checkpoint the form that it had while the history stood in state.json, without a checksum."""
    state = checkpoints.read(checkpoint, "cpu")
    hashes = json.loads((checkpoint / "state.json").read_text())["sha256"]
    old = state.about | {
        "history": state.history,
        "sha256": {name: hashes[name] for name in checkpoints.TENSORS},
    }
    old["belongs_to"] = {what: old["belongs_to"][what] for what in RECORDED}
    (checkpoint / "history.jsonl").unlink()
    (checkpoint / "state.json").write_text(json.dumps(old))


def test_a_checkpoint_of_before_histories_had_a_file_is_resumed(task, tmp_path):
    settings = {"epochs": 2, "dropout": 0.1, "folder": tmp_path}
    straight = make_run(task, epochs=2, dropout=0.1)
    straight.run()
    take(make_run(task, **settings), 6)
    as_it_was_written_before(tmp_path / "checkpoint-0000006")
    resumed = make_run(task, **settings).resume()
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student))
    assert without_time(resumed.history) == without_time(straight.history)
    again = make_run(task, **settings).resume()
    assert without_time(again.history) == without_time(straight.history)


def test_an_old_checkpoint_whose_history_is_cut_short_is_damaged(task, tmp_path):
    make_run(task, HardLabels(), folder=tmp_path, steps=3).run()
    as_it_was_written_before(tmp_path / "checkpoint-0000003")
    file = tmp_path / "checkpoint-0000003" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"history": state["history"][:2]}))
    with pytest.raises(KDTutorError, match=r"checkpoint-0000003 is damaged .*2 rows of history after step 3"):
        make_run(task, HardLabels(), folder=tmp_path, steps=3).resume()


# ------------------------------------------------------------------------------------------------ histories


def test_a_checkpoint_after_many_steps_writes_the_new_rows_alone(task, tmp_path, monkeypatch):
    run, many = make_run(task, HardLabels(), steps=20_010), 20_000
    take(run, 1)
    state = run.state()
    long = [state.history[0] | {"step": step} for step in range(1, many + 1)]
    run.restore(replace(state, about=state.about | {"done": many}, history=long))
    run.save(tmp_path)
    take(run, 2)
    written, real = [], json.dumps
    monkeypatch.setattr(checkpoints.json, "dumps", lambda *a, **k: written.append(a) or real(*a, **k))
    second = run.save(tmp_path)
    assert len(written) < 10
    assert (second / "state.json").stat().st_size < 10_000
    assert checkpoints.read(second, "cpu").history == run.history
    assert len(checkpoints.read(tmp_path / "checkpoint-0020000", "cpu").history) == many


@pytest.mark.parametrize("what", ["as it is", "no links", "half a row is left", "the one before is gone"])
def test_histories_that_grow_by_appending_stay_whole(task, tmp_path, monkeypatch, what):
    def fails(*_):
        raise OSError(95, "Operation not supported")

    settings = {"epochs": 3, "save_every": 2, "folder": tmp_path}
    run = make_run(task, HardLabels(), **settings)
    if what == "no links":
        monkeypatch.setattr(os, "link", fails)
    for step in run:
        newest = checkpoints.found(tmp_path)[-1:]
        if step.number % 2 and newest and what == "half a row is left":
            with open(newest[0] / "history.jsonl", "a") as file:
                file.write('{"step": ')
        if step.number % 2 and newest and what == "the one before is gone":
            shutil.rmtree(newest[0])
        for checkpoint in checkpoints.found(tmp_path):
            rows = checkpoints.read(checkpoint, "cpu").history
            assert rows == run.history[: len(rows)] and f"{len(rows):07d}" in checkpoint.name
    resumed = make_run(task, HardLabels(), **settings).resume()
    assert resumed.history == run.history and len(run.history) == 18


def test_a_checkpoint_that_was_moved_elsewhere_keeps_its_history_whatever_its_run_does(task, tmp_path):
    settings = {"epochs": 2, "save_every": 2, "folder": tmp_path / "run"}
    take(make_run(task, HardLabels(), **settings), 4)
    (tmp_path / "kept").mkdir()
    (tmp_path / "run/checkpoint-0000004").rename(tmp_path / "kept/checkpoint-0000004")
    again = make_run(task, HardLabels(), **settings).resume()
    assert again.done == 2
    again.run()
    assert len(checkpoints.read(tmp_path / "kept/checkpoint-0000004", "cpu").history) == 4
    assert make_run(task, HardLabels(), **settings).resume(tmp_path / "kept").done == 4


# ------------------------------------------------------------------------------------------------ states in memory


@pytest.mark.parametrize("other", [False, True], ids=["the run itself", "another run"])
def test_a_state_brings_a_run_back_bit_by_bit(task, other):
    settings = {"epochs": 2, "dropout": 0.1}
    run = make_run(task, **settings)
    start = run.state()
    take(run, 5)
    middle, rows = run.state(), without_time(run.history)
    run.objective.temperature, run.learning_rate = 5, 1e-4
    run.run()
    end, seen = weights(run.student), without_time(run.history)
    for _ in range(2):  # a state may be used again
        if other:
            run = make_run(task, **settings, student=model(task, seed=77, dropout=0.1))
        assert run.restore(middle) is run
        assert (run.done, run.objective.temperature, run.learning_rate) == (5, 2, 1e-3)
        assert without_time(run.history) == rows
        run.objective.temperature, run.learning_rate = 5, 1e-4
        run.run()
        assert same(weights(run.student), end)
        assert without_time(run.history) == seen
    run.restore(start)
    assert (run.done, run.history, len(run.optimizer.state)) == (0, [], 0)


def test_a_state_of_another_run_is_refused(task):
    state = make_run(task, HardLabels()).state()
    for changes in ({"seed": 1}, {"batch_size": 4, "steps": 6}, {"student": model(task, width=64)}):
        with pytest.raises(KDTutorError, match="this state was made with another"):
            make_run(task, HardLabels(), **changes).restore(state)


def test_a_checkpoint_that_was_being_replaced_when_the_process_died_is_put_back(task, tmp_path):
    run = make_run(task, HardLabels(), folder=tmp_path, steps=2)
    run.run()
    (tmp_path / "checkpoint-0000002").rename(tmp_path / ".replaced-0000002")
    (tmp_path / ".partial").mkdir()
    with checkpoints.held(tmp_path):
        assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002"]
    assert not (tmp_path / ".partial").exists()


def test_answers_too_large_for_the_memory_or_the_disk_are_refused_before_the_teacher_is_asked(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr(teachers, "logits_by_batch", lambda *_: pytest.fail("the teacher was asked"))
    monkeypatch.setattr(teachers, "memory", lambda: (2000, 1000))  # 44 texts × 3 classes × 4 bytes
    with pytest.raises(
        KDTutorError, match=r"0\.5 kB of memory, and 1\.0 kB are free: cache='a folder' keeps"
    ):
        make_run(task)
    monkeypatch.setattr(asking.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(KDTutorError, match=f"0.5 kB in {tmp_path}, and 0.1 kB are free"):
        make_run(task, cache=tmp_path)


def test_answers_on_disk_are_mapped_not_read(task, tmp_path):
    run = make_run(task, cache=tmp_path)
    [file] = tmp_path.glob("teacher-*.npy")
    mapped = np.load(file, mmap_mode="r")
    assert mapped.dtype == np.float32
    assert torch.equal(run.answers.logits, torch.from_numpy(np.array(mapped)))
    if sys.platform == "linux":
        assert file.name in Path("/proc/self/maps").read_text()


def test_the_history_has_the_peak_memory(task):
    history = make_run(task, HardLabels()).run()
    peaks = [row["peak_memory"] for row in history]
    assert peaks == sorted(peaks)
    assert 50e6 < peaks[-1] < 100e9


# ------------------------------------------------------------------------------------------------ two runs


def keep_folder(folder: str, tell) -> None:
    with checkpoints.held(Path(folder)):
        tell.send(os.getpid())
        time.sleep(PATIENCE)


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_and_a_dead_ones_hold_ends_with_it(task, tmp_path):
    mine, its = FORKS.Pipe(duplex=False)
    other = FORKS.Process(target=keep_folder, args=(str(tmp_path), its))
    other.start()
    try:
        assert mine.poll(PATIENCE)
        pid = mine.recv()
        run = make_run(task, HardLabels(), folder=tmp_path)
        with pytest.raises(KDTutorError, match=f"{tmp_path} is in use by process {pid} on"):
            run.run()
        assert run.done == 0
        with pytest.raises(KDTutorError, match="is in use by"):
            make_run(task, HardLabels()).save(tmp_path)
    finally:
        other.kill()
        other.join()
    run.run()


def test_a_run_broken_off_leaves_its_folder_to_the_next_one(task, tmp_path):
    take(make_run(task, HardLabels(), folder=tmp_path, epochs=2), 3)
    make_run(task, HardLabels(), folder=tmp_path).run()


# ------------------------------------------------------------------------------------------------ several processes

LOSES_A_PROCESS = """
import os, sys, signal
from test_surviving import *
torch.set_num_threads(1)
run = steered_run({folder!r}, save_every=1000)
for step in run:
    if step.number == 3 and run.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""

MAIN_FAILS = """
import os, sys
from test_surviving import *
torch.set_num_threads(1)
def full(*_): raise OSError(28, "No space left on device")
checkpoints.save_file = full
steered_run({folder!r}).run()
"""

SHARED_ANSWERS = """
import os, sys
from test_surviving import *
torch.set_num_threads(1)
teachers.texts_at_once = lambda device: 3
run = steered_run({folder!r})
torch.save(run.answers.logits.clone(), {folder!r} + "/seen-" + os.environ["RANK"])
"""


@pytest.mark.slow
def test_a_process_that_dies_takes_the_run_down_with_a_clear_message_instead_of_a_hang(tmp_path):
    first, second = processes(2, LOSES_A_PROCESS.format(folder=str(tmp_path)))
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert "process 0 waited for the others, and one is gone" in first.stderr


@pytest.mark.slow
def test_a_main_process_that_cannot_save_takes_the_others_with_it(tmp_path):
    first, second = processes(2, MAIN_FAILS.format(folder=str(tmp_path)))
    assert first.returncode == second.returncode == 1
    assert "checkpoint-0000002 could not be written" in first.stderr
    assert "No space left on device" in first.stderr
    assert "the main process could not go on; its message says why" in second.stderr


@pytest.mark.slow
def test_two_processes_ask_the_teacher_once_each_its_share_and_one_writes(tmp_path):
    (tmp_path / "answers").mkdir()
    results = processes(2, SHARED_ANSWERS.format(folder=str(tmp_path)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    alone = make_run(make_task(), blend(alpha=0.3, temperature=2)).answers.logits
    for rank in range(2):
        seen = torch.load(tmp_path / f"seen-{rank}", weights_only=True)
        torch.testing.assert_close(seen, alone, rtol=0, atol=1e-5)
    assert len([*(tmp_path / "answers").glob("teacher-*")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("joined", [True, False])
def test_torchrun_starts_two_processes_on_a_cpu_that_are_one_run_or_are_refused(tmp_path, joined):
    script = tmp_path / "script.py"
    script.write_text(
        "from test_surviving import *\nprint('of', make_run(make_task()).accelerator.num_processes)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment |= {"ACCELERATE_USE_CPU": "true"} if joined else {}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    # Two processes write at the same time, so their letters may be mixed.
    assert said.stdout.count("of") == said.stdout.count("2") == (2 if joined else 0), said.stderr
    assert ("2 processes were started, but each would be a run of its own" in said.stderr) is not joined


def test_a_state_tells_all_that_resuming_needs(task, tmp_path):
    run = make_run(task, folder=tmp_path, steps=2)
    run.run()
    state = json.loads((tmp_path / "checkpoint-0000002" / "state.json").read_text())
    assert state["done"] == 2
    assert set(state["belongs_to"]) >= {"task", "student", "teacher", "objective", "seed", "learning_rate"}
