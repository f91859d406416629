"""Weights divided among two processes: what one process gives, saved whole, gone on with, planned, or refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from helpers import distance, make_run, make_task, model, processes, refusal, sharp_teacher, take, weights
from transformers import AutoModelForSequenceClassification

from kdtutor import cli
from kdtutor.models.depth import half_depth
from kdtutor.models.students import make_student, small_bert
from kdtutor.objectives.hidden import CosineHidden, HiddenStates
from kdtutor.objectives.logits import HardLabels, LogitsMSE, MaskedLM, SoftTargets
from kdtutor.training import checkpoints
from kdtutor.training.batches import Batches
from kdtutor.training.control import control_of
from kdtutor.training.distillation import Distillation
from kdtutor.training.memory import what_would_fit
from kdtutor.training.on_policy import OnPolicy
from kdtutor.training.plan import plan
from kdtutor.training.processes import Launch, check_sharded, read_launch
from kdtutor.training.settings import Settings
from kdtutor.training.sharding import check_launch, root_and_layers

TESTS = Path(__file__).parent


def uneven(folder=None, **changes) -> Distillation:
    """A projection, clipped steps, a head of one row, and a last batch of one text, of which one process gets none."""
    task = make_task("regression", rows=17)
    student, teacher = model(task), sharp_teacher(task, width=64)
    objective = HardLabels() + LogitsMSE() + HiddenStates()
    settings = {"epochs": 2, "accumulate": 2, "learning_rate": 1e-4, "max_norm": 2.8, "folder": folder}
    return make_run(task, objective, teacher=teacher, student=student, **(settings | changes))


def masked(chunked: bool) -> Distillation:
    """DistilBERT's own way, with a matrix of logits that is tied to the embeddings."""
    task = make_task("masked-lm", rows=17)
    teacher = small_bert(task, layers=2, width=32, dropout=0.0, seed=3)
    objective = 5 * SoftTargets(2) + 2 * MaskedLM() + CosineHidden()
    student = half_depth(teacher, seed=4)
    return make_run(task, objective, teacher=teacher, student=student, chunked=chunked, learning_rate=1e-4)


def of_kind(kind: str) -> Distillation:
    return make_run(make_task(kind, rows=17), HardLabels() + SoftTargets(2))


def recurrent() -> Distillation:
    task = make_task(rows=17)
    teacher = sharp_teacher(task)
    return make_run(
        task, teacher=teacher, student=make_student("lstm", teacher, task, width=8, dropout=0.0, seed=1)
    )


RUNS = {
    "uneven": uneven,
    "measured": lambda: uneven(validate_every=2, keep_best=True, steps=5),
    "classification": lambda: make_run(make_task(rows=17), cache=False, accumulate=3),
    "masked, chunked": lambda: masked(True),
    "masked, plain": lambda: masked(False),
    "causal": lambda: of_kind("causal-lm"),
    "seq2seq": lambda: of_kind("seq2seq"),
    "recurrent": recurrent,
}

SCRIPT = """
import os, sys
os.environ |= {{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}}
from test_sharding import *
torch.set_num_threads(1)
both(Path({folder!r}))
torch.distributed.destroy_process_group()
"""


def both(folder: Path) -> None:
    """What each of the two processes does."""
    found = {}
    for name, begin in RUNS.items():
        run = begin()
        held = sum(p.to_local().nbytes for p in run.student.parameters())
        run.run()
        moments = [value for state in run.optimizer.state.values() for value in state.values() if value.ndim]
        moments = sum(value.to_local().nbytes for value in moments if hasattr(value, "to_local"))
        found[name] = {
            "history": run.history,
            "weights": weights(run.whole()),
            "held": held,
            "moments": moments,
        }

    # Saved after three steps, and gone on with by another run, and from what it was in memory.
    run = uneven(folder / "run", save_every=3)
    take(run, 3)
    state = run.state()
    if run.accelerator.is_main_process:
        shutil.copytree(folder / "run", folder / "after three")
    run.accelerator.wait_for_everyone()
    run.run()
    back = run.restore(state)
    back.folder = None
    goes_on = {name: uneven().resume(folder / name) for name in ("after three", "alone")}
    for name, each in {"restored": back, **goes_on}.items():
        assert each.done == 3
        each.run()
        found[name] = {"history": each.history, "weights": weights(each.whole())}

    found["trained"] = run.diagnose().to_dict()
    control = control_of(uneven())
    found["control"] = {"history": control.run(), "weights": weights(control.whole())}
    found["half"] = in_bf16().run()
    found["refused"] = refusal(make_run, make_task("regression"), HardLabels(), student=run.student)
    torch.save(found, folder / f"found-{run.accelerator.process_index}")


def in_bf16() -> Distillation:
    return make_run(make_task(rows=17), cache=False, precision="bf16", learning_rate=1e-4)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("two")
    take(uneven(folder / "alone", save_every=3), 3)
    results = processes(2, SCRIPT.format(folder=str(folder)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    return folder, [torch.load(folder / f"found-{rank}", weights_only=False) for rank in range(2)]


def assert_same(found: dict, alone: Distillation) -> None:
    """The same numbers, but for the order in which they are summed; a norm of many has five digits in float32."""
    for measured in ("loss", "grad_norm", *alone.term_names):
        theirs = [row[measured] for row in alone.history]
        mine = [row[measured] for row in found["history"]]
        assert mine == pytest.approx(theirs, rel=1e-4 if measured == "grad_norm" else 1e-5, abs=1e-6), (
            measured
        )
    assert distance(found["weights"], weights(alone.student)) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_that_divide_the_weights_give_what_one_gives(two, name):
    alone = RUNS[name]()
    alone.run()
    own = sum(p.nbytes for p in alone.student.parameters())
    for found in two[1]:
        assert_same(found[name], alone)
        # Rows are divided, so that a process may have one more of each weight.
        assert 0.4 * own < found[name]["held"] < 0.6 * own
        assert found[name]["moments"] <= 2 * found[name]["held"]
    if name == "uneven":
        assert 0 < alone.clipped < 1, "the clipping must be felt, and not be all that is felt"
    if name == "measured":
        for row, other in zip(two[1][0][name]["history"], alone.history, strict=True):
            assert row.get("validation") == pytest.approx(other.get("validation"), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["after three", "alone", "restored", "control"])
def test_a_run_goes_on_with_its_parts_from_what_two_or_one_have_kept_and_has_a_control(two, how):
    alone = control_of(uneven()) if how == "control" else uneven()
    alone.run()
    for found in two[1]:
        assert_same(found[how], alone)


@pytest.mark.slow
def test_in_bf16_it_is_the_same_within_its_digits_and_a_divided_student_is_not_divided_again(two):
    alone = in_bf16().run()
    for found in two[1]:
        for measured in ("loss", "grad_norm"):
            theirs = [row[measured] for row in alone]
            assert [row[measured] for row in found["half"]] == pytest.approx(theirs, rel=0.03)
        assert (
            "the student's weights are divided by an earlier run: take that run's whole()" in found["refused"]
        )


@pytest.mark.slow
def test_a_checkpoint_is_whole_and_one_process_goes_on_from_it(two):
    alone = uneven()
    alone.run()
    kept = checkpoints.found(two[0] / "after three")[-1]
    assert kept.name == "checkpoint-0000003"
    resumed = uneven().resume(kept.parent)
    resumed.run()
    assert_same({"history": resumed.history, "weights": weights(resumed.student)}, alone)
    newest = AutoModelForSequenceClassification.from_pretrained(checkpoints.found(two[0] / "run")[-1])
    assert distance(weights(newest), weights(alone.student)) < 2e-6
    trained = alone.diagnose().to_dict()
    for part in ("training", "validation"):
        assert two[1][0]["trained"][part] == pytest.approx(trained[part], abs=1e-5)


# ------------------------------------------------------------------------------------------------ batches


def test_a_process_without_a_text_takes_part_in_what_the_first_one_computes():
    task = make_task(rows=17)
    data = task.encode("train")
    for accumulate in (1, 2, 3):
        parts = [Batches(task, data, 8, accumulate=accumulate, rank=rank, world=3) for rank in range(3)]
        for step in range(parts[0].per_epoch):
            counts = {len(part[step]) + len(part.missing(step)) for part in parts}
            assert counts == {len(parts[0][step])}
            for part in parts:
                for batch in part.missing(step):
                    assert batch["index"].equal(parts[0][step][-1]["index"])
    assert any(part.missing(2) for part in parts), "the last batch has one text"


# ------------------------------------------------------------------------------------------------ plans


def test_a_plan_with_fsdp_divides_what_is_kept_and_counts_what_is_sent():
    task = make_task(rows=64)
    student = small_bert(task, 3, 32)
    own = 4 * sum(p.numel() for p in student.parameters())
    root, layers = root_and_layers(student)
    assert len(layers) == 3 and len({*layers}) == 1 and root + sum(layers) == own
    settings = {"batch_size": 64, "accumulate": 2, "steps": 3, "precision": "fp32", "measure": False}

    def planned(count: int, sharded: bool):
        launch = Launch(count, "cpu", False, sharded)
        return plan(student, None, task, HardLabels(), launch=launch, **settings)

    made, plain = planned(8, True), planned(8, False)
    assert (
        made.memory["student's weights"]
        == math.ceil(own / 8)
        == math.ceil(plain.memory["student's weights"] / 8)
    )
    assert made.memory["gradients"] == 4 * math.ceil(own / 4 / 8)
    assert made.memory["AdamW's moments"] == 2 * made.memory["gradients"]
    assert made.memory["gathered weights"] == root + 3 * layers[0]
    assert "gathered weights" not in plain.memory
    assert made.network == 2 * (2 * root + 3 * sum(layers)) * 7 // 8
    assert f"\ngathered weights{'':<8}" not in str(plain) and "  gathered weights" in str(made)


@pytest.mark.parametrize("missing", ["nothing", "half of it", "all"])
def test_a_plan_says_where_the_memory_ends_and_whether_fsdp_would_help(monkeypatch, missing):
    task = make_task(rows=8)
    student = small_bert(task, 24, 64)
    settings = {"batch_size": 8, "steps": 1, "precision": "fp32", "measure": False}

    def planned(sharded: bool):
        launch = Launch(4, "cpu", False, sharded)
        return plan(student, None, task, HardLabels(), launch=launch, **settings)

    whole, divided = (sum(planned(sharded).memory.values()) for sharded in (False, True))
    assert divided < whole
    there = {"nothing": whole, "half of it": (whole + divided) // 2, "all": divided // 2}[missing]
    monkeypatch.setattr("kdtutor.training.plan.room", lambda device: 4 * there)
    said = planned(False).room
    assert said in str(planned(False))
    assert ("too little" in said) == (missing != "nothing")
    assert ("4 processes among which FSDP divides the weights (fsdp_version: 2)" in said) == (
        missing == "half of it"
    )
    assert ("FSDP would not help" in said) == (missing == "all")


FILE = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: {count}
mixed_precision: 'no'
use_cpu: true
fsdp_config:
  fsdp_version: {version}
  fsdp_offload_params: {offload}
  fsdp_reshard_after_forward: true
"""


@pytest.mark.parametrize(
    ("count", "version", "offload", "said"),
    [
        (2, 2, "false", None),
        (2, 1, "false", "version 2 of FSDP alone"),
        (1, 2, "false", "there is only one: launch two or more"),
        (2, 2, "true", "fsdp_offload_params (FSDP_OFFLOAD_PARAMS) must be false"),
    ],
)
def test_a_configuration_with_fsdp_is_read_or_named(tmp_path, count, version, offload, said):
    file = tmp_path / "fsdp.yaml"
    file.write_text(FILE.format(count=count, version=version, offload=offload), encoding="utf-8")
    if said is None:
        assert read_launch(file) == Launch(2, "cpu", False, sharded=True)
    else:
        message = refusal(read_launch, file)
        assert said in message and "fsdp.yaml" in message


def test_a_dry_run_for_a_launch_with_fsdp_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fsdp.yaml").write_text(FILE.format(count=4, version=2, offload="false"), encoding="utf-8")
    shape = ["--student", "small-bert", "--layers", "2", "--width", "32", "--precision", "fp32"]
    few = ["--task", "supersense", "--subset", "40", "--steps", "2", "--batch_size", "8"]
    assert cli.main(["distill", *few, *shape, "--dry-run", "--launch", "fsdp.yaml"]) == 0
    said = capsys.readouterr().out
    assert "2 of 8 texts: 4 × 1 × 2 texts" in said and "\n  gathered weights " in said
    assert "\nnetwork " in said and "tokens a second, measured on" in said
    assert [path.name for path in Path().iterdir()] == ["fsdp.yaml"]


# ------------------------------------------------------------------------------------------------ refusals


def test_what_fsdp_does_elsewhere_and_not_here_is_refused_by_name(monkeypatch):
    given = {"fsdp_version": "2", "fsdp_activation_checkpointing": "true"}
    assert "activation_checkpointing" in refusal(check_sharded, given.get, 2)
    check_launch(Settings(compile=True), 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "--fsdp_version 2" in refusal(make_run, make_task(), HardLabels())
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert "there is only one" in refusal(make_run, make_task(), HardLabels())
    check_launch(Settings(), 2)
    assert "compile" in refusal(check_launch, Settings(compile=True), 2)
    assert "on_policy" in refusal(check_launch, Settings(on_policy=OnPolicy()), 2)
    assert "--launch FILE" in refusal(plan, model(make_task()), None, make_task(), HardLabels())


def test_where_a_divided_run_finds_no_memory_no_process_tries_alone_what_would_fit():
    run = make_run(make_task(), HardLabels())
    run.sharded = object()
    said = str(what_would_fit(run, RuntimeError("out of memory")))
    assert "found no memory for 8 texts" in said and "--accumulate), more processes" in said
