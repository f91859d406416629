"""Each setting is said once: Python, flags, YAML, plan, the live twin and resume take what its field says."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields

import pytest
import torch
import yaml
from helpers import make_run, make_task, model, refusal, sharp_teacher, take, weights

import kdtutor as kd
from kdtutor.cli.commands import COMMANDS, parse
from kdtutor.objectives.logits import HardLabels, MaskedLM, SoftTargets
from kdtutor.objectives.terms import Objective
from kdtutor.training.plan import plan
from kdtutor.training.settings import Settings, TopK

OTHER = {  # a value of each setting that is not its default
    "epochs": 2.0, "steps": 5, "batch_size": 11, "accumulate": 2, "learning_rate": 2e-3, "warmup": 0.5,
    "weight_decay": 0.5, "max_norm": 0.1, "masking": 0.3, "rare_words": 0.7, "seed": 3, "split": "validation",
    "save_every": 4, "cache": "topk:5", "precision": "bf16", "compile": True, "chunked": False, "fast": False,
    "progress": False, "check_teacher": False, "validate_every": 2, "keep_best": True, "metric": "loss", "patience": 3,
    "sampling": "balanced", "on_policy": kd.OnPolicy(0.5),
}  # fmt: skip
WRONG = {
    float: [True, "x", None, math.nan, math.inf, -1.0, 10**5000],
    int: [True, "x", 1.5, -1, math.nan, 2**70],
    bool: ["x", 0.5, 2],
    str: ["", 7, None],
}
FIELDS = {f.name: f for f in fields(Settings)}
# What a masked LM can have; of `sampling` see test_imbalance.py, of `on_policy` test_on_policy.py.
MASKED = [name for name in FIELDS if name not in ("sampling", "on_policy")]


@pytest.fixture(scope="module")
def glosses():
    return make_task("masked-lm")


def masked_run(glosses, objective=None, **settings):
    """A masked-LM run; with the cache of the k largest logits only where it can be had."""
    objective = objective or SoftTargets(2) + MaskedLM()
    return make_run(glosses, objective, teacher=model(glosses, seed=9), **({"steps": 4} | settings))


def value_of(name: str, tmp_path):
    return tmp_path / "elsewhere" if name == "folder" else OTHER[name]


def possible_with(name: str) -> dict:
    return {"steps": None} if name == "epochs" else {}


@pytest.mark.parametrize("name", MASKED)
def test_python_and_plan_take_a_setting_and_show_its_default(name, glosses, tmp_path):
    value = value_of(name, tmp_path)
    run = masked_run(glosses, **({name: value} | possible_with(name)))
    assert str(getattr(run.settings, name)) == str(value) != str(FIELDS[name].default)
    for function in (kd.Distillation, plan):
        assert inspect.signature(function).parameters[name].default == FIELDS[name].default
    assert f"{name}: {FIELDS[name].metadata['help']}" in " ".join(kd.Distillation.__doc__.split())
    student, teacher = model(glosses), model(glosses, seed=9)
    objective = SoftTargets(2) + MaskedLM()
    assert plan(student, teacher, glosses, objective, measure=False, **{name: value}).steps > 0


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("command", ["pretrain", "finetune", "distill"])
def test_flags_and_yaml_take_a_setting_where_its_command_has_it(command, name, tmp_path):
    kind, value = COMMANDS[command][0], value_of(name, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({name: str(value)}), encoding="utf-8")
    for arguments in ([f"--{name}={value}"], [str(tmp_path / "recipe.yaml")]):
        if command in FIELDS[name].metadata["commands"]:
            assert str(getattr(parse(kind, arguments, "kdtutor"), name)) == str(value)
        else:
            assert f'unknown field "{name}"' in refusal(parse, kind, arguments, "kdtutor")


def test_the_largest_logits_are_kept_in_a_folder_named_behind_a_colon(tmp_path):
    for text, folder in (("topk:16:answers", "answers"), (r"topk:16:C:\answers", r"C:\answers")):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"cache": text}), encoding="utf-8")
        for arguments in ([f"--cache={text}"], ["--cache", text], [str(tmp_path / "recipe.yaml")]):
            read = parse(COMMANDS["distill"][0], arguments, "kdtutor").cache
            assert read == TopK(16, folder) == Settings.of({"cache": text}).cache
            assert str(read) == text
    for wrong in ("", 3, "a\0b"):
        assert "topk's folder must be the name of a folder, not " in refusal(TopK, 16, wrong)


def test_how_a_student_writes_is_read_from_a_flag_and_never_run(tmp_path):
    def read(text):
        return parse(COMMANDS["distill"][0], [f"--on_policy={text}"], "kdtutor").on_policy

    assert read("0.5") == kd.OnPolicy(0.5) and read("1") == kd.OnPolicy(1.0)
    assert read("OnPolicy(0.3, temperature=None, prompt=2)") == kd.OnPolicy(0.3, None, 2)
    for wrong in (
        "x",
        "",
        "0.5;",
        "OnPolicy",
        "OnPolicy(share=",
        "OnPolicy(rate=1)",
        "OnPolicy(print())",
        "(" * 10000,
    ):
        said = refusal(read, wrong)
        assert said.startswith(
            "on_policy must be OnPolicy(share=0.5, …) or None, as a flag also a share, not "
        ), said
    assert refusal(read, "0").startswith("share must be a fraction above 0, at most 1, not 0")
    assert "temperature must be" in refusal(read, "OnPolicy(temperature=-1)")


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "on_policy"])
def test_what_a_setting_may_not_be_is_one_sentence_with_all_that_is_needed(name, tmp_path):
    check, default = FIELDS[name].metadata["check"], FIELDS[name].default
    annotation = FIELDS[name].type
    kind = next(k for k in (bool, float, int, str) if k.__name__ in annotation)
    wrong = [v for v in WRONG[kind] if v is not None or "None" not in annotation]
    wrong = [v for v in wrong if (name, v) not in {("cache", "x"), ("max_norm", math.inf)}]
    counts = ("steps", "batch_size", "accumulate", "save_every", "validate_every", "patience")
    wrong = [v for v in wrong if not (name in counts and v == 2**70)]
    assert wrong
    for value in wrong:
        said = refusal(Settings.of, {name: value})
        assert said.startswith(f"{name} must be {check.allowed}, not ")
        assert said.endswith(repr(value)) if value != 10**5000 else "an int of that size" in said
        assert len(said) < 200
    assert getattr(Settings(), name) == default


def test_a_misspelt_setting_gets_the_nearest_name(glosses):
    assert 'unknown setting "epoch"; there are: epochs, ' in refusal(masked_run, glosses, epoch=3)
    student = model(glosses)
    assert 'unknown setting "batchsize"; there are: batch_size, ' in refusal(
        plan, student, None, glosses, MaskedLM(), batchsize=3
    )


@pytest.fixture(scope="module")
def saved(glosses, tmp_path_factory):
    """A folder with the checkpoint of a run's second step."""
    run = masked_run(glosses, folder=tmp_path_factory.mktemp("saved"))
    take(run, 2)
    return run.save().parent


@pytest.mark.parametrize("name", MASKED)
def test_a_resumed_run_must_have_the_settings_that_decide_its_weights(name, glosses, saved, tmp_path):
    run = masked_run(glosses, **({name: value_of(name, tmp_path)} | possible_with(name)))
    if FIELDS[name].metadata["resume"]:
        assert f"made with another {name}: " in refusal(run.resume, saved)
    else:
        assert run.resume(saved).done == 2


def test_a_checkpoint_of_before_a_setting_was_recorded_is_resumed(glosses, tmp_path):
    run = masked_run(glosses, folder=tmp_path)
    for name in ("accumulate", "precision", "fast", "cache"):
        del run._belongs_to[name]
    take(run, 2)
    run.save()
    assert masked_run(glosses).resume(tmp_path).done == 2
    assert "another cache: None, now topk:5" in refusal(masked_run(glosses, cache="topk:5").resume, tmp_path)


def test_a_twin_has_the_settings_that_are_shared(glosses, tmp_path):
    pytest.importorskip("anywidget")
    from kdtutor.widgets.live_parts import make_twin

    for name in MASKED:
        field = FIELDS[name]
        run = masked_run(glosses, **({name: value_of(name, tmp_path)} | possible_with(name)))
        twin = make_twin(run, True)[0]
        assert twin.total_steps == run.total_steps
        if field.metadata["twin"]:
            assert getattr(twin.settings, name) == getattr(run.settings, name)
    assert (twin.folder, twin.progress) == (None, False)


def test_without_a_teacher_the_cache_of_the_largest_logits_still_fixes_the_masks(glosses):
    run = masked_run(glosses, MaskedLM(), cache=TopK(5), steps=12)
    assert "not used (no term needs a teacher)" in run.teacher_mode
    passes = [{}, {}]
    for step in range(12):
        for batch in run.batches[step]:
            rows = zip(batch["index"], batch["input_ids"], batch["attention_mask"], strict=True)
            passes[step // 6] |= {int(index): ids[real.bool()].tolist() for index, ids, real in rows}
    assert passes[0] == passes[1]


# ------------------------------------------------------------------------------------------------ fast


def test_fast_false_is_the_plain_model_everywhere(monkeypatch, tmp_path):
    task = make_task()
    expected = make_run(task, HardLabels() + SoftTargets(2))
    expected.run()

    def never(*_, **__):
        raise AssertionError("run in fewer operations")

    monkeypatch.setattr("kdtutor.models.lean.encode", never)
    for cache in (True, False, tmp_path):
        run = make_run(task, HardLabels() + SoftTargets(2), fast=False, cache=cache)
        run.run()
        for name, value in weights(run.student).items():
            assert torch.allclose(value, expected.student.state_dict()[name], atol=1e-5), name
    assert kd.evaluate(run.student, task).throughput > 0  # what is timed is what transformers runs
    glosses = make_task("masked-lm")
    masked_run(glosses, fast=False, cache="topk:5", steps=1).run()
    assert plan(model(task), sharp_teacher(task), task, HardLabels(), fast=False, measure=False).steps
    with pytest.raises(AssertionError, match="fewer operations"):
        make_run(task, HardLabels()).run()


# ------------------------------------------------------------------------------------------------ what beginners type


def test_a_task_and_a_teacher_may_be_names():
    task = kd.load_task("sentiment").subset(16)
    student = kd.small_bert(task, 1, 32, seed=0)
    by_name = kd.Distillation(student, "bert-sentiment", task, SoftTargets(2), steps=1)
    assert by_name.teacher.config.num_labels == 2
    whole = kd.Distillation(student, None, "sentiment", HardLabels(), steps=1)
    assert whole.task.name == "sentiment"


def test_models_that_cannot_be_trained_here_are_one_sentence(glosses):
    task = make_task()
    with torch.device("meta"):
        nowhere = model(task)
    for student, said in (
        (torch.nn.Linear(2, 3), "the student is a Linear, not a model of transformers"),
        (nowhere, "the student's weights are on the meta device"),
    ):
        assert said in refusal(kd.Distillation, student, None, task, HardLabels())
    assert "the teacher is a Linear" in refusal(
        kd.Distillation, model(task), torch.nn.Linear(2, 3), task, SoftTargets(2)
    )
    assert "the task is a int" in refusal(kd.Distillation, model(task), None, 7, HardLabels())
    for objective in (HardLabels, "HardLabels()"):
        assert "the objective is a" in refusal(kd.Distillation, model(task), None, task, objective)


@pytest.mark.parametrize("probability", [2, -0.1, math.nan, "x", True, 1])
def test_a_dropout_that_makes_no_sense_is_refused(probability):
    task = make_task()
    said = "dropout must be a fraction from 0 to below 1"
    assert said in refusal(kd.small_bert, task, dropout=probability)
    assert said in refusal(kd.models.set_dropout, model(task), probability)


def test_true_is_no_number_in_an_objective():
    for call in (lambda: SoftTargets(True), lambda: kd.blend(alpha=True, temperature=2)):
        assert "must be" in refusal(call)
    term = HardLabels()
    assert "weight must be" in refusal(setattr, term, "weight", True)
    assert Objective([term]).terms[0].weight == 1
