"""The command line: YAML and flags say the same, mistakes are named, a run leaves model, card and checkpoints."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from inspect import get_annotations
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TINY, make_task, sharp_teacher
from transformers import pipeline

import kdtutor
from kdtutor import cli, objectives
from kdtutor.assets import asset_path
from kdtutor.cli import main
from kdtutor.cli.commands import (
    COMMANDS,
    DataArguments,
    DistillArguments,
    EvaluateArguments,
    FinetuneArguments,
    PretrainArguments,
    flags_of,
    parse,
)
from kdtutor.data.load import load_task
from kdtutor.errors import KDTutorError
from kdtutor.models.forward import logits_of
from kdtutor.models.load import load_model
from kdtutor.models.save import save
from kdtutor.models.students import small_bert
from kdtutor.objectives.parse import parse_objective


def refused(capsys, *argv: str) -> str:
    """What is said about a command line that can't be run."""
    assert main([*argv]) == 1
    out, err = capsys.readouterr()
    assert "kdtutor: " not in out
    assert err.startswith("kdtutor: ")
    assert "Traceback" not in err
    return err


# ------------------------------------------------------------------------------------------------ fields


def test_a_yaml_file_and_flags_carry_the_same_fields(tmp_path):
    recipe = {
        "task": "sentiment",
        "objective": "0.5 * HardLabels() + 0.5 * SoftTargets(2)",
        "epochs": 1.5,
        "learning_rate": "8e-4",  # what YAML makes of 8e-4 without a dot: text
        "batch_size": 16,
        "steps": 7,
        "compile": True,
        "resume": False,
        "student": "small-bert",
        "layers": 2,
        "cache": "answers",
        "output": "-odd-",
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    flags = [f"--{name}={value}" for name, value in recipe.items()]
    from_file, from_flags = (
        parse(DistillArguments, [str(file)], "kdtutor"),
        parse(DistillArguments, flags, "kdtutor"),
    )
    assert from_file == from_flags
    assert (from_file.learning_rate, from_file.epochs, from_file.compile) == (8e-4, 1.5, True)
    assert parse(DistillArguments, [str(file), "--steps", "9", "--layers=1"], "kdtutor").steps == 9


def test_null_leaves_the_default_and_yes_and_no_are_booleans(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("steps: null\nmodel:\ncompile: no\nresume: yes\n# nothing else\n", encoding="utf-8")
    arguments = parse(FinetuneArguments, [str(file)], "kdtutor")
    assert (arguments.steps, arguments.model) == (None, "bert-glosses")
    assert (arguments.compile, arguments.resume) == (False, True)
    assert parse(FinetuneArguments, ["--compile", "--resume"], "kdtutor").resume


def test_hyphens_will_do_for_underscores():
    assert parse(PretrainArguments, ["--batch-size", "7"], "kdtutor").batch_size == 7


def test_fields_are_not_looked_for_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "program.args").write_text("--seed 7", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program")])
    assert parse(PretrainArguments, [], "kdtutor").seed == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: 1\n", 'unknown field "learning_rat"; there are: learning_rate, '),
        ("", "should hold `field: value` lines, and holds nothing"),
        ("# all of it commented\n", "should hold `field: value` lines, and holds nothing"),
        ("- task\n", "should hold `field: value` lines, and holds a list"),
        ("steps: [1, 2]\n", "steps takes one value, not a list"),
        ("task: {a: 1}\n", "task takes one value, not a dict"),
        ("task: 'open\n", "can't be read as YAML"),
        ("7: 8\n", 'unknown field "7"'),
        ("epochs: many\n", "epochs must be a number above 0, not 'many'"),
        ("batch_size: 2.5\n", "batch_size must be a whole number, 1 or more, not '2.5'"),
        ("compile: perhaps\n", "compile must be True or False, not 'perhaps'"),
        ("seed: 1.5\n", "seed must be a whole number from 0 to 2^63 - 1, not '1.5'"),
        ("seed: yes\n", "seed must be a whole number from 0 to 2^63 - 1, not 'True'"),
        ("seed: 2020-13-45\n", "can't be read as YAML"),
        ("dropout: 2\n", "dropout must be a fraction from 0 to below 1, not '2'"),
    ],
)
def test_a_yaml_file_that_makes_no_sense_is_named(tmp_path, capsys, text, said):
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    assert said in refused(capsys, "distill", str(file))


def test_a_yaml_file_that_is_not_there_or_no_text_is_named(tmp_path, capsys):
    assert "nowhere.yaml can't be read as YAML" in refused(capsys, "distill", "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml can't be read as YAML" in refused(capsys, "distill", str(tmp_path / "binary.yaml"))


def test_the_recipes_that_ship_are_good(capsys):
    recipes = sorted(Path(kdtutor.__file__).parent.glob("assets/recipes/*.yaml"))
    assert recipes
    for recipe in recipes:
        first = recipe.read_text(encoding="utf-8").splitlines()[0]
        assert first.endswith(f"kdtutor/assets/recipes/{recipe.name}")  # a command to be copied
        parse(COMMANDS[first.split()[-2]][0], [str(recipe)], "kdtutor")


# ------------------------------------------------------------------------------------------------ mistakes


def test_unknown_names_list_what_there_is_nearest_first(capsys, mine):
    assert 'unknown command "distil": did you mean distill? There are: distill, ' in refused(capsys, "distil")
    assert 'unknown field "batchsize": did you mean --batch_size? There are: batch_size, ' in refused(
        capsys, "distill", "--batchsize", "3"
    )
    for line, meant in (
        ("doctor --hub-timeut 3", "--hub-timeout"),
        ("study logits --proceses 2", "--processes"),
        ("class report folder --picure x", "--picture"),
    ):
        assert f": did you mean {meant}? There are: " in refused(capsys, *line.split())
    assert 'unknown field "zebra"; there are: ' in refused(capsys, "distill", "--zebra")
    assert 'unknown field "temprature": did you mean --temperature? ' in refused(
        capsys, "distill", "--temprature=4"
    )
    assert 'unknown task "supersens"; there are: supersense, ' in refused(
        capsys, "finetune", "--task", "supersens"
    )
    assert 'unknown term "SoftTarget"; there are: SoftTargets, ' in refused(
        capsys, "distill", "--task", "supersense", "--objective", "SoftTarget(2)"
    )
    assert "save_dtype must be float32 or float16, not 'float12'" in refused(
        capsys, "finetune", *mine, "--save_dtype", "float12", *small(mine)
    )
    assert "precision must be auto, bf16 or fp32, not 'fp23'" in refused(
        capsys, "finetune", *mine, "--precision", "fp23", *small(mine)
    )
    assert 'unknown split of mine "tets"; there are: test' in refused(
        capsys, "evaluate", *evaluating(mine), "--split", "tets"
    )


def small(mine: list[str]) -> list[str]:
    return ["--model", str(Path(mine[1]).parent / "teacher")]


def evaluating(mine: list[str]) -> list[str]:
    """Without the fields of training."""
    return [*mine[:6], "--max_length", "24", *small(mine)]


def test_a_yaml_file_behind_flags_is_told_where_it_belongs(capsys):
    said = refused(capsys, "distill", "--seed", "3", "recipe.yaml")
    assert "name the YAML file before the flags: kdtutor distill recipe.yaml" in said


def test_a_value_of_the_wrong_kind_is_one_sentence(capsys):
    assert refused(capsys, "distill", "--steps", "many") == (
        "kdtutor: steps must be a whole number, 1 or more, not 'many'\n"
    )
    assert "expected one argument" in refused(capsys, "distill", "--steps")


def test_what_the_loop_refuses_is_one_sentence_too(capsys, mine, corpus, tmp_path):
    common = [*mine, *small(mine), "--output", str(tmp_path / "run")]
    assert "learning_rate must be a number above 0" in refused(
        capsys, "finetune", *common, "--learning_rate", "-1"
    )
    assert "subset must be a whole number, 1 or more" in refused(capsys, "finetune", *common, "--subset", "0")
    said = "pretrain needs raw text, or texts to be written, but mine is a classification task"
    assert said in refused(capsys, "pretrain", *mine)
    (tmp_path / "file").write_text("in the way")
    said = refused(capsys, "finetune", *mine, *small(mine), "--output", str(tmp_path / "file"))
    assert "can't write to" in said
    said = refused(capsys, "evaluate", *evaluating(mine), "--output", str(tmp_path / "file" / "result.json"))
    assert "can't write to" in said


def test_ctrl_c_ends_with_130_and_a_hint(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "distill", (DistillArguments, interrupted))
    assert main(["distill", "--task", "supersense"]) == 130
    assert "--resume goes on from the newest checkpoint" in capsys.readouterr().err
    monkeypatch.setattr("kdtutor.cli.study.main", interrupted)
    assert main(["study", "logits"]) == 130
    assert "the same command goes on" in capsys.readouterr().err  # a study has no --resume


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize(
    ("formula", "printed"),
    [
        ("HardLabels()", "HardLabels()"),
        (
            "0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)",
            "0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)",
        ),
        (
            "5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()",
            "5 * SoftTargets(temperature=2) + 2 * MaskedLM() + CosineHidden()",
        ),
        ("blend(alpha=0.25, temperature=2)", "0.25 * HardLabels() + 0.75 * SoftTargets(temperature=2)"),
        ("2 * (HardLabels() + 3 * LogitsMSE())", "2 * HardLabels() + 6 * LogitsMSE()"),
        ("(1 - 0.5) * 2 * HardLabels() * 3", "3 * HardLabels()"),
        ("1 / 4 * SoftTargets(2 * 2)", "0.25 * SoftTargets(temperature=4)"),
        ("HiddenStates({1: 2, -1: -1})", "HiddenStates(layers={1: 2, -1: -1})"),
        ("HiddenStates(layers={0: 0})", "HiddenStates(layers={0: 0})"),
        ("  HardLabels()\n", "HardLabels()"),
    ],
)
def test_a_formula_is_read_as_python_would_read_it(formula, printed):
    assert repr(parse_objective(formula)) == printed


def test_every_term_can_be_named():
    for name, kind in vars(objectives).items():
        if isinstance(kind, type) and issubclass(kind, objectives.Term) and kind is not objectives.Term:
            assert type(parse_objective(f"{name}()")) is kind


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "3",
        "0.1 * 0.2",
        "HardLabels",
        "HardLabels() +",
        "HardLabels() HardLabels()",
        "HardLabels() - SoftTargets(2)",
        "HardLabels() ** 2",
        "HardLabels() * HardLabels()",
        "HardLabels() + 1",
        "HardLabels() / 0",
        "1 / 0 * HardLabels()",
        "-1 * HardLabels()",
        "1e999 * HardLabels()",
        "1" + "0" * 400 + " * HardLabels()",
        "SoftTargets(0)",
        "SoftTargets('4')",
        "SoftTargets(True)",
        "SoftTargets(temperatur=4)",
        "SoftTargets(*[4])",
        "SoftTargets(**{'temperature': 4})",
        "SoftTargets(HardLabels())",
        "blend(alpha=2)",
        "HiddenStates({1: print})",
        "HiddenStates({**{}})",
        "Objective([HardLabels()])",
        "Term()",
        "torch.load('x')",
        "__import__('os').system('touch pwned')",
        "(lambda: HardLabels())()",
        "[HardLabels() for _ in range(9)][0]",
        "HardLabels().__class__()",
        "'a' * 999999999999",
        "9 ** 9 ** 9 * HardLabels()",
        "(" * 300 + "HardLabels()" + ")" * 300,
        "+".join(["HardLabels()"] * 5000),
        "-" * 100_000 + "1",
        "HardLabels()\x00",
        "x := HardLabels()",
        "import os",
    ],
    ids=lambda formula: formula[:40],
)
def test_anything_but_a_formula_is_refused_and_never_run(formula, monkeypatch, tmp_path):
    for name in ("eval", "exec"):
        monkeypatch.setattr(f"builtins.{name}", lambda *_: pytest.fail("run as code"))
    with pytest.raises(KDTutorError):
        parse_objective(formula)
    assert not [*tmp_path.iterdir()]


# ------------------------------------------------------------------------------------------------ whole runs


def test_finetune_distill_and_evaluate_from_one_file_to_the_next(mine, corpus, tmp_path, capsys):
    teacher, student, result = tmp_path / "teacher", tmp_path / "student", tmp_path / "results" / "test.json"
    tuned = ["finetune", *mine, *small(mine), "--epochs", "4", "--learning_rate", "3e-3", "--dropout", "0.05"]
    assert main([*tuned, "--output", str(teacher)]) == 0
    out = capsys.readouterr().out
    assert (
        "50 examples, 16 steps on cpu; objective HardLabels(); teacher not used (no term needs a teacher)"
        in out
    )
    assert "step     16 of 16, epoch 4.00: loss " in out
    [is_trained] = [line for line in out.splitlines() if line.startswith("training ")]

    card = json.loads((teacher / "card.json").read_text(encoding="utf-8"))
    assert card["command"] == " ".join(["kdtutor", *tuned, "--output", str(teacher)])
    assert card["settings"]["learning_rate"] == 3e-3
    assert card["settings"]["objective"] == "HardLabels()"
    assert card["data"] == {"task": "mine", "fingerprint": card["data"]["fingerprint"], "train": 50}
    assert card["scores"].keys() == {"validation", "test"}
    assert card["scores"]["test"]["examples"] == 4
    found = card["diagnosis"]
    assert is_trained.startswith(f"training {found['training']['accuracy']:.1%} (loss ")
    assert is_trained.endswith(found["verdict"])
    assert found["texts"] == 50
    assert found["validation"]["accuracy"] == card["scores"]["validation"]["accuracy"]
    assert (card["seed"], card["steps"]) == (0, 16)
    assert card["tokens"] > 50 * 4 * 4
    assert card["seconds"] >= 0
    assert card["versions"].keys() == {"torch", "transformers", "accelerate", "kdtutor"}
    assert sorted(p.name for p in (teacher / "checkpoints").glob("[!.]*")) == [
        "checkpoint-0000012",
        "checkpoint-0000016",
    ]

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: {corpus / 'mine.csv'}\ntext: text\nlabel: label\nmax_length: 24\nbatch_size: 16\nprecision: fp32\n"
        f"teacher: {teacher}\nstudent: small-bert\nlayers: 1\nwidth: 32\nsteps: 3\nsave_dtype: float16\nsubset: 40\n"
        "objective: 0.2 * HardLabels() + 0.8 * SoftTargets(2)\n",
        encoding="utf-8",
    )
    distilled = ["distill", str(recipe), "--output", str(student), "--cache", str(tmp_path / "answers")]
    assert main(distilled) == 0
    assert "teacher asked once, answers cached in" in capsys.readouterr().out
    card = json.loads((student / "card.json").read_text(encoding="utf-8"))
    assert card["data"]["train"] == 40
    assert card["settings"]["objective"] == "0.2 * HardLabels() + 0.8 * SoftTargets(temperature=2)"
    from safetensors.torch import load_file

    assert {value.dtype for value in load_file(student / "model.safetensors").values()} == {torch.float16}
    [answer] = pipeline("text-classification", str(student))("a dull film")
    assert answer["label"] in {"good", "bad"}

    model = ["--model", str(student), "--teacher", str(teacher), "--output", str(result)]
    assert main(["evaluate", *evaluating(mine)[:-2], *model]) == 0
    assert "mine, test split, 4 texts" in capsys.readouterr().out
    measured = json.loads(result.read_text(encoding="utf-8"))
    assert measured["accuracy"] == card["scores"]["test"]["accuracy"]
    assert {"command", "retention", "latency_ms", "parameters"} <= measured.keys()


def test_a_run_that_was_mostly_clipped_says_so_once_at_its_end(mine, tmp_path, capsys, recwarn):
    flags = ["--max_norm", "1e-3", "--epochs", "8", "--output", str(tmp_path)]
    assert main(["finetune", *mine, *small(mine), *flags]) == 0
    out, err = capsys.readouterr()
    advice = "100% of the steps were clipped: raise max_norm, or lower the learning rate"
    assert (out + err).count("clipped") == out.count(advice) == 1
    assert not [warning for warning in recwarn if "clipped" in str(warning.message)]
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["diagnosis"]["clipped"] == 1


def test_distilling_into_half_the_layers(mine, corpus, tmp_path, capsys):
    common = [
        "distill",
        *mine,
        "--teacher",
        str(corpus / "teacher"),
        "--steps",
        "1",
        "--output",
        str(tmp_path),
    ]
    assert main(common) == 0
    model = load_model(tmp_path, load_task(corpus / "mine.csv", text="text", label="label", max_length=24))
    assert type(model).__name__ == "DistilBertForSequenceClassification"


def test_a_students_texts_are_the_pools_too_where_it_is_asked_for(tmp_path, capsys, monkeypatch):
    task = make_task()
    with_pool = replace(task, splits=task.splits | {"pool": task.split("test")})
    sharp_teacher(task).save_pretrained(tmp_path / "teacher")
    command = ["distill", "--task", "tiny", "--pool", *TINY, "--teacher", str(tmp_path / "teacher"), "--steps", "1",
               "--output", str(tmp_path / "student")]  # fmt: skip
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda name, **_: with_pool)
    assert main(command) == 0
    texts = len(task.split("train")) + len(task.split("test"))
    assert f"{texts} examples, 1 steps" in capsys.readouterr().out
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda name, **_: task)
    assert 'unknown split of tiny "pool"' in refused(capsys, *command)


def test_a_run_that_was_stopped_resumes_to_the_same_model(mine, tmp_path, capsys, monkeypatch):
    command = [
        "finetune",
        *mine,
        *small(mine),
        "--epochs",
        "2",
        "--save_every",
        "2",
        "--dropout",
        "0.1",
        "--output",
    ]
    assert main([*command, str(tmp_path / "straight"), "--resume"]) == 0
    assert "no checkpoint yet: beginning with the first step" in capsys.readouterr().out

    from kdtutor.training.distillation import Distillation

    step, calls = Distillation._train_step, []

    def stopped(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Distillation, "_train_step", stopped)
    assert main([*command, str(tmp_path / "stopped")]) == 130
    assert not (tmp_path / "stopped" / "card.json").exists()
    capsys.readouterr()
    monkeypatch.setattr(Distillation, "_train_step", step)
    assert "holds another run's checkpoint-0000002: resume() (or --resume)" in refused_run(
        capsys, command, tmp_path
    )
    assert main([*command, str(tmp_path / "stopped"), "--resume"]) == 0
    assert "going on after step 2" in capsys.readouterr().out
    straight, resumed = (tmp_path / name / "model.safetensors" for name in ("straight", "stopped"))
    assert straight.read_bytes() == resumed.read_bytes()


def refused_run(capsys, command: list[str], tmp_path: Path) -> str:
    assert main([*command, str(tmp_path / "stopped")]) == 1
    return capsys.readouterr().err


def test_pretraining_on_a_file_of_raw_text(corpus, tmp_path, capsys):
    raw = ["--task", str(corpus / "mine.csv"), "--text", "text"]
    new = ["--layers", "1", "--width", "32", "--masking", "0.3", "--epochs", "1", "--output", str(tmp_path)]
    assert main(["pretrain", *raw, *TINY, *new]) == 0
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert {"loss", "perplexity", "accuracy", "masked_tokens"} <= card["scores"]["test"].keys()
    capsys.readouterr()
    result = tmp_path / "result.json"
    evaluating = [*raw, "--max_length", "24", "--model", str(tmp_path), "--output", str(result)]
    assert main(["evaluate", *evaluating]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert json.loads(result.read_text(encoding="utf-8"))["loss"] > 0


def test_the_masked_lm_head_that_a_body_lacks_depends_on_the_seed_alone(corpus, tmp_path):
    body = small_bert(load_task(corpus / "mine.csv", text="text"), layers=1, width=32).bert
    body.save_pretrained(tmp_path / "body")
    raw = [
        "--task",
        str(corpus / "mine.csv"),
        "--text",
        "text",
        "--model",
        str(tmp_path / "body"),
        "--steps",
        "1",
    ]
    for run, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert main(["pretrain", *raw, *TINY, "--seed", str(seed), "--output", str(tmp_path / run)]) == 0
    one, again, other = (
        (tmp_path / run / "model.safetensors").read_bytes() for run in ("one", "again", "other")
    )
    assert one == again != other


# ------------------------------------------------------------------------------------------------ help


def test_without_a_command_it_says_what_it_can_do(capsys):
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    for command in [*COMMANDS, "search", "study", "class", "doctor"]:
        assert re.search(rf"^  {command} +[A-Z].*\.$", said, re.MULTILINE)


@pytest.mark.parametrize("command", ["pretrain", "finetune", "distill"])
@pytest.mark.parametrize("flags", [[], ["--epochs", "1"]])
def test_nothing_is_trained_on_a_task_that_nobody_named(command, flags, capsys):
    said = refused(capsys, command, *flags)
    assert f"kdtutor {command} of which task?" in said and "--task supersense" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_field(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    kind = COMMANDS[command][0]
    assert kind.__doc__ in said
    assert said.startswith(f"usage: kdtutor {command} [") and said.index(kind.__doc__) < 80
    if issubclass(kind, DataArguments):
        own = [name for name in flags_of(kind) if name in get_annotations(kind)]
        assert all(
            said.index(f" --{name} ") < said.index(" the data: ") < said.index(" --text ") for name in own
        )
    for field in flags_of(kind).values():
        assert f"--{field.name}" in said
        assert field.metadata["help"].split()[0] in said


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_letter_that_a_terminal_can_not_show_stops_nothing(encoding, tmp_path, monkeypatch):
    file = tmp_path / "評価.csv"
    file.write_text(
        "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40)), encoding="utf-8"
    )
    shown = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in shown.items():
        monkeypatch.setattr(sys, name, stream)
    mine = ["--task", str(file), "--text", "text", "--label", "label", "--model", str(tmp_path / "無")]
    assert main(["evaluate", *mine]) == 1
    for stream in shown.values():
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in shown.values())
    assert "\\u8a55\\u4fa1.csv: 40 rows" in out and "\\u7121" in err


def test_the_doctor_is_called_with_its_own_flags(monkeypatch):
    given = []
    monkeypatch.setattr("kdtutor.doctor.main", lambda rest: given.append(rest) or 1)
    assert main(["doctor", "--hub-timeout", "1"]) == 1
    assert given == [["--hub-timeout", "1"]]


def test_python_m_kdtutor_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "kdtutor", "evalute"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith('kdtutor: unknown command "evalute": did you mean evaluate?')


def test_evaluating_takes_no_field_of_training(capsys):
    assert 'unknown field "epochs"' in refused(capsys, "evaluate", "--epochs", "3")
    assert "epochs" not in {field.name for field in fields(EvaluateArguments)}


def test_the_tokenizer_that_lies_with_a_model_need_not_be_named(mine, tmp_path, capsys):
    from transformers import BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "film",
        "funny",
        "warm",
        "dull",
        "mess",
        "waste",
        "great",
    ]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "words")
    task = load_task(mine[1], text="text", label="label", max_length=24, tokenizer=str(tmp_path / "words"))
    save(small_bert(task, layers=2, width=32, seed=1), task, tmp_path / "teacher")

    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    common = [*mine, "--steps", "2", "--teacher", teacher, "--no_check_teacher"]
    assert main(["distill", *common, "--output", student]) == 0
    card = json.loads((tmp_path / "student" / "card.json").read_text(encoding="utf-8"))
    assert card["max_length"] == 24
    assert load_model(student, replace(task, tokenizer_name=student)).config.vocab_size == len(words)
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", student, "--teacher", teacher]) == 0
    # A student of another tokenizer learns from the same teacher.
    assert main(["distill", *common, "--student", "small-bert", "--tokenizer", str(asset_path("tokenizer")),
                 "--output", str(tmp_path / "other")]) == 0  # fmt: skip


def test_alpha_and_temperature_are_short_for_an_objective(capsys, mine, corpus, tmp_path):
    short = ["distill", *mine, "--teacher", str(corpus / "teacher"), "--steps", "1", "--no_check_teacher"]
    assert main([*short, "--alpha", "0.3", "--temperature", "2", "--output", str(tmp_path / "short")]) == 0
    assert "objective 0.3 * HardLabels() + 0.7 * SoftTargets(temperature=2)" in capsys.readouterr().out
    assert "give the one or the other" in refused(
        capsys, *short, "--alpha", "0.3", "--objective", "SoftTargets(2)"
    )
    assert "alpha must be a fraction from 0 to 1, not '2'" in refused(capsys, *short, "--alpha", "2")


def test_a_models_answers_are_written_and_fill_the_labels_that_are_missing(capsys, corpus, tmp_path):
    texts = ["a warm film", 'said "great", twice', "a dull mess"]
    rows = "".join(
        json.dumps({"text": t, "y": y}) + "\n" for t, y in zip(texts, ("good", None, None), strict=True)
    )
    (tmp_path / "new.jsonl").write_text(rows, encoding="utf-8")
    common = ["--task", str(tmp_path / "new.jsonl"), "--text", "text", "--model", str(corpus / "teacher"),
              "--max_length", "24"]  # fmt: skip
    assert main(["predict", *common, "--output", str(tmp_path / "answers.csv")]) == 0
    assert "3 texts answered by" in capsys.readouterr().out
    answered = read_csv(tmp_path / "answers.csv")
    assert [row["text"] for row in answered] == texts
    task = load_task(corpus / "mine.csv", text="text", label="label", max_length=24)
    logits = logits_of(load_model(corpus / "teacher", task), task.encode_texts(texts)).softmax(-1)
    assert [row["label"] for row in answered] == [task.labels[i] for i in logits.argmax(-1)]
    assert [float(row["probability"]) for row in answered] == pytest.approx(
        logits.amax(-1).tolist(), abs=1e-4
    )

    capsys.readouterr()
    assert main(["label", *common, "--label", "y", "--output", str(tmp_path / "full.csv")]) == 0
    assert "2 of 3 labels are by" in capsys.readouterr().out
    full = read_csv(tmp_path / "full.csv")
    assert [row["y"] for row in full] == ["good", *(row["label"] for row in answered[1:])]
    assert [row["label_by"] for row in full] == ["given", "teacher", "teacher"]

    (tmp_path / "new.jsonl").write_text(rows.replace("good", "odd"), encoding="utf-8")
    assert "has the label 'odd', which" in refused(capsys, "label", *common, "--label", "y")
    assert "it is no classifier" in refused(capsys, "predict", *common, "--model", "bert-glosses")


def test_a_model_reads_as_much_of_a_text_as_it_can_and_it_is_said_where_it_can_not(capsys, corpus, tmp_path):
    (tmp_path / "long.csv").write_text("text\nshort\n" + "word " * 300 + "\n", encoding="utf-8")
    common = [
        "predict",
        "--task",
        str(tmp_path / "long.csv"),
        "--text",
        "text",
        "--output",
        str(tmp_path / "o.csv"),
    ]
    assert main([*common, "--model", str(corpus / "teacher")]) == 0
    # It was made for texts of 24 tokens.
    assert "1 of 2 texts reach 24 tokens: what is beyond was not read" in capsys.readouterr().out
    assert main([*common, "--model", "bert-sentiment"]) == 0
    assert "1 of 2 texts reach 128 tokens" in capsys.readouterr().out
    assert main([*common, "--model", "bert-sentiment", "--max_length", "400"]) == 0
    assert "reach" not in capsys.readouterr().out


def read_csv(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]
