"""Work that shares its cores: when OpenMP's threads may spin, and that nothing is left behind."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import make_run, make_task, same, weights

import kdtutor as kd
from kdtutor import neighbours
from kdtutor.hardware import own_and_idle
from kdtutor.neighbours import Neighbours, beside_neighbours


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads in a process that has not looked around yet."""
    monkeypatch.setattr(neighbours, "_here", type(neighbours.__dict__["_here"])())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch, two_threads):
    """A machine of two processors whose clock and whose free cores a test sets."""

    class Machine:
        clock, used = 100.0, 40.0

        def passes(self, seconds: float, cores: float) -> None:
            self.clock += seconds
            self.used += seconds * cores

    machine = Machine()
    monkeypatch.setattr(neighbours.sys, "platform", "linux")
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: machine.clock)
    monkeypatch.setattr(neighbours, "own_and_idle", lambda: machine.used)
    monkeypatch.setattr(neighbours, "processors", lambda: 2)
    monkeypatch.setattr(neighbours, "_here", type(neighbours._here)())
    return machine


def sleeping_pools() -> int:
    return sum(thread.name == "kdtutor: sleeping pool" for thread in threading.enumerate())


def test_a_loop_that_is_left_standing_ends_silently_when_python_does(two_threads, monkeypatch):
    found, here = Neighbours(torch.device("cpu")).__enter__(), neighbours._here
    monkeypatch.setattr(neighbours, "_here", None)  # as modules' names are by then
    found.__exit__()
    here.leave()
    assert sleeping_pools() == 0


def test_threads_spin_once_the_cores_were_the_runs_own_and_no_longer_when_a_neighbour_comes(machine):
    with Neighbours(torch.device("cpu")) as found:
        assert sleeping_pools() == 1  # nobody knows yet
        machine.passes(0.5, cores=2)
        found.look()
        assert sleeping_pools() == 1  # too early to tell
        machine.passes(0.6, cores=1.9)
        found.look()
        assert sleeping_pools() == 0
        machine.passes(1.1, cores=1.33)  # a neighbour takes its third
        found.look()
        found.look()
        assert sleeping_pools() == 1
        machine.passes(1.1, cores=2)
        found.look()
        assert sleeping_pools() == 0
        machine.passes(1.1, cores=1)
        found.look()
    assert sleeping_pools() == 0


def test_a_container_with_less_than_its_machine_never_counts_as_alone(machine, monkeypatch):
    monkeypatch.setattr(neighbours, "processors", lambda: 1)
    with Neighbours(torch.device("cpu")) as found:
        machine.passes(2, cores=2)  # the machine idles, but these cores are not for this process
        found.look()
        assert sleeping_pools() == 1


def test_one_thread_waits_for_nobody(two_threads):
    torch.set_num_threads(1)
    with Neighbours(torch.device("cpu")) as found:
        found.look()
        assert sleeping_pools() == 0


def test_the_first_loop_knows_what_was_seen_since_this_process_began(machine):
    machine.passes(3, cores=2)
    with Neighbours(torch.device("cpu")):
        assert sleeping_pools() == 0
    machine.passes(3, cores=1.3)
    with Neighbours(torch.device("cpu")):
        assert sleeping_pools() == 1


def test_a_run_yields_while_it_runs_and_leaves_no_thread_behind_nor_any_trace_in_its_weights(
    two_threads, monkeypatch
):
    monkeypatch.setattr(neighbours._here, "look", lambda threads: None)  # nothing is known
    task = make_task()
    plain, run = make_run(task, steps=4), make_run(task, steps=4)
    during = {step.number: sleeping_pools() for step in run}
    assert during[1] == 1
    assert sleeping_pools() == 0
    for _ in plain:
        break
    assert sleeping_pools() == 0
    plain.run()
    assert same(weights(run.student), weights(plain.student))


def test_what_was_seen_outlasts_a_loop_and_loops_within_loops_share_one_pool(machine):
    cpu = torch.device("cpu")
    with Neighbours(cpu) as outer, Neighbours(cpu) as inner:
        assert sleeping_pools() == 1
        machine.passes(1.1, cores=2)
        inner.look()
        assert sleeping_pools() == 0
        machine.passes(1.1, cores=1)
        outer.look()
        assert sleeping_pools() == 1
    machine.passes(0.5, cores=2)
    pools = [sleeping_pools() for _ in beside_neighbours(range(2), cpu)]
    assert pools == [1, 1]  # too early to look again: the neighbour is taken to be there
    machine.passes(1.1, cores=2)
    pools = [sleeping_pools() for _ in beside_neighbours(range(2), cpu)]
    assert pools == [0, 0]
    assert sleeping_pools() == 0


@pytest.mark.parametrize("work", ["predict", "latency_ms", "token_scores", "layer_similarity"])
def test_measuring_a_model_yields_as_training_does(two_threads, monkeypatch, work):
    seen = []
    monkeypatch.setattr(Neighbours, "look", lambda self: seen.append(sleeping_pools()))
    task = make_task(kind="masked-lm") if work == "token_scores" else make_task()
    model = kd.small_bert(task, layers=1, width=16, heads=2, seed=0)
    if work == "predict":
        kd.predict(model, task)
    elif work == "layer_similarity":
        kd.evaluation.layer_similarity(model, model, task)
    else:
        getattr(kd.evaluation, work)(model, task)
    assert set(seen[1:]) == {1} and sleeping_pools() == 0


def test_what_a_process_used_and_could_have_used_grows_with_time():
    before = own_and_idle()
    sum(range(10**6))
    assert own_and_idle() > before
