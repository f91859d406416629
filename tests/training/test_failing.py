"""A step that fails for want of memory says what would fit; one that can't be compiled is taken without."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers import distance, make_run, make_task, refusal, same, weights

from kdtutor.objectives import HardLabels, MaskedLM, RelationalDistance
from kdtutor.training import memory
from kdtutor.training.memory import MemoryFull, longest, memory_of
from kdtutor.training.processes import Launch

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def task():
    return make_task()


def full_above(run, texts: int, error: RuntimeError = FULL) -> None:
    """Let the run's forward passes find no memory for more than so many texts."""

    def refuse(_, read):
        if len(read[0]) > texts:
            raise error

    run.student.get_input_embeddings().register_forward_pre_hook(refuse)


def give(monkeypatch, run, texts: float) -> int:
    """Let there be as much memory as so many texts need by estimate; returns how much that is."""
    held = memory_of(run, Launch(1, "cpu", False), longest(run.batches))
    free = int(sum(held(int(texts)).values()) + 1)
    monkeypatch.setattr(memory, "room", lambda device: free)
    return free


@pytest.mark.parametrize(
    "error", [FULL, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_without_memory_it_says_what_would_fit_and_that_does_fit(task, monkeypatch, error):
    run = make_run(task, HardLabels(), batch_size=16, fast=False)
    before = weights(run.student)
    full_above(run, 5, error)
    give(monkeypatch, run, 5)
    said = refusal(run.run)
    assert "step 1 found no memory for 16 texts of at most" in said
    assert "accumulate=4 (--accumulate 4) takes the same step 4 texts at a time" in said
    assert same(weights(run.student), before) and run.done == 0
    assert all(parameter.grad is None for parameter in run.parameters)

    smaller = make_run(task, HardLabels(), batch_size=16, accumulate=4, fast=False)
    full_above(smaller, 5)
    assert smaller.batches.micro_batch == 4
    assert len(smaller.run()) == smaller.total_steps


def test_where_nothing_fits_or_texts_must_be_compared_it_names_other_ways(task, monkeypatch):
    run = make_run(task, HardLabels(), batch_size=16, fast=False)
    full_above(run, 5)
    monkeypatch.setattr(memory, "room", lambda device: 1000)
    assert "Fewer at once would not fit either: take a smaller batch_size or max_length" in refusal(run.run)

    run = make_run(task, RelationalDistance(), batch_size=8, fast=False)
    full_above(run, 5)
    give(monkeypatch, run, 2)
    assert "Fewer at once would not fit either" in refusal(run.run)

    run = make_run(task, HardLabels(), fast=False)
    full_above(run, 0)
    assert "Not even one text finds room" in refusal(run.run)


def test_logits_all_at_once_are_named_where_they_need_not_be():
    task = make_task("masked-lm")
    for chunked in (True, False):
        run = make_run(task, MaskedLM(), chunked=chunked, fast=False)
        full_above(run, 5)
        assert ("chunked=True" in refusal(run.run)) is not chunked


def test_a_later_step_without_memory_leaves_what_was_learned(task):
    run, whole = (make_run(task, HardLabels(), fast=False) for _ in range(2))
    hook = None

    def refuse(*_):
        raise FULL

    with pytest.raises(MemoryFull, match="step 4 found no memory"):
        for step in run:
            if step.number == 3:
                hook = run.student.register_forward_pre_hook(refuse)
    hook.remove()
    run.run()
    whole.run()
    assert same(weights(run.student), weights(whole.student))


def test_what_is_not_about_memory_is_left_as_it_is(task):
    run = make_run(task, HardLabels(), compile=False, fast=False)
    full_above(run, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        run.run()


def test_where_nothing_can_be_compiled_training_goes_on_without_and_says_so_once(task):
    def no_compiler(*_, **__):
        raise OSError("no compiler here")

    plain = make_run(task, HardLabels(), dropout=0.1)
    plain.run()
    run = make_run(task, HardLabels(), dropout=0.1, compile=True)
    run.student.base_model.compile(backend=no_compiler)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.run()
    told = [str(each.message) for each in said if "torch.compile" in str(each.message)]
    assert len(told) == 1
    assert told[0] == "torch.compile failed, training goes on without it: OSError: no compiler here"
    assert distance(weights(run.student), weights(plain.student)) == 0


def test_what_cant_be_compiled_later_is_trained_without_from_there_on(task):
    def no_more(*_, **__):
        raise OSError("no room for another kernel")

    plain = make_run(task, HardLabels(), dropout=0.1, fast=False)
    plain.run()
    run = make_run(task, HardLabels(), dropout=0.1, fast=False, compile=True)
    run.student.base_model.compile(backend="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in run:
            # as if a batch of another shape wanted a kernel of its own
            if step.number == 3:
                run.student.base_model.compile(backend=no_more)
    told = [str(each.message) for each in said if "torch.compile" in str(each.message)]
    assert told == ["torch.compile failed, training goes on without it: OSError: no room for another kernel"]
    assert run.done == run.total_steps > 3
    assert distance(weights(run.student), weights(plain.student)) < 1e-6
