"""The review's hostile inputs, as a table: what is given, and the one sentence that must be said of it."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import make_run, make_task, model, refusal, take

import kdtutor as kd
from kdtutor import assets, cli
from kdtutor.errors import LISTED, KDTutorError
from kdtutor.files import write_atomically
from kdtutor.models.save import save
from kdtutor.objectives.logits import HardLabels, SoftTargets, blend
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies import stored
from kdtutor.training.teachers import Cached

# ------------------------------------------------------------------------------------------------ YAML and flags

YAML = {
    "a date that is none": ("seed: 2020-13-45", "can't be read as YAML: month must be in 1..12"),
    "a number without digits": ("seed: 0x_", "can't be read as YAML"),
    "a tag that does not fit": ("seed: !!int x", "can't be read as YAML"),
    "a thousand lists": ("seed: " + "[" * 1000 + "]" * 1000, "can't be read as YAML"),
    "5,000 digits": ("seed: " + "9" * 5000, "can't be read as YAML"),
    "a name with a NUL": ('output: "a\\0b"', "output must be the name of a folder"),
    "nothing": ("", "should hold `field: value` lines, and holds nothing"),
    "comments only": ("# epochs: 3\n", "should hold `field: value` lines, and holds nothing"),
    "a field twice": ("seed: 1\nepochs: 2\nseed: 2", "gives seed twice"),
    "a list": ("- seed", "should hold `field: value` lines, and holds a list"),
    "a key that is a list": ("? [a]\n: b", "can't be read as YAML: while constructing a mapping in"),
    "a key that is no text": ("true: 3", 'unknown field "True"'),
    "itself": ("seed: &a [*a]", "seed takes one value, not a list"),
}


@pytest.mark.parametrize("case", YAML)
def test_a_recipe_that_can_not_be_meant_trains_nothing(case, tmp_path, capsys):
    text, said = YAML[case]
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    assert cli.main(["finetune", str(file)]) == 1
    heard = capsys.readouterr().err
    assert heard.startswith("kdtutor: ") and said in heard
    assert heard.count("\n") == 1 and len(heard) < 2000


FLAGS = {
    "one column twice": (["--text", "label", "--label", "label"], "text and label are the same column"),
    "a large seed": (["--seed", str(2**70)], "seed must be a whole number from 0 to 2^63 - 1"),
    "no teacher": (["--teacher", ""], "teacher must be a text, not ''"),
    "an exponent for a number": (["--cache", "topk:²"], "topk keeps a whole number of logits"),
    "no layers": (["--layers", "0"], "layers must be a whole number, 1 or more"),
    "a NUL": (["--output", "a\0b"], "output must be the name of a folder"),
    "a metric of another kind": (["--metric", "spearman"], "unknown metric"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_flag_that_can_not_be_meant_is_one_sentence(case, tmp_path, capsys):
    flags, said = FLAGS[case]
    rows = "".join(f"words number {n},{n % 2}\n" for n in range(80))
    (tmp_path / "mine.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    own = ["--task", str(tmp_path / "mine.csv"), "--text", "text", "--label", "label"]
    if case == "a metric of another kind":
        own = ["--task", "sentiment", "--subset", "8"]
    assert cli.main(["distill", *own, "--dry_run", *flags]) == 1
    heard = capsys.readouterr().err
    assert heard.startswith("kdtutor: ") and said in heard


# ------------------------------------------------------------------------------------------------ formulas

FORMULAS = {
    "SoftTargets(temperature=2, temperature=4)": "takes each argument once",
    "SoftTargets(**{})": "takes each argument once",
    "HiddenStates({0: 1, 0: 2})": "names a key twice",
    "HiddenStates({0: 0.5})": "layers maps the student's to the teacher's",
    "SoftTargets(1e300)": "temperature must be a finite number above 0",
    "1e300 * 1e300 * HardLabels()": "weight must be a finite number",
    "SoftTargets(True)": "temperature must be a finite number above 0",
    "True * HardLabels()": "is no number, term or sum",
    "x" * 1_000_000: "is no number, term or sum",
    "+".join(["HardLabels()"] * 30_000): "HardLabels()+HardLabels()",
}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula[:40])
def test_a_formula_that_can_not_be_meant_is_one_short_sentence(formula):
    said = refusal(parse_objective, formula)
    assert FORMULAS[formula] in said
    assert len(said) < 600


# ------------------------------------------------------------------------------------------------ what beginners type


def test_names_will_do_where_a_model_is_meant_and_else_one_sentence_says_what():
    few = kd.load_task("sentiment").subset(8, split="test")
    by_name = kd.evaluate("bert-sentiment", few, latency=False, teacher="bert-sentiment")
    assert (by_name.retention, by_name.examples) == (1.0, 8)
    assert "the teacher is a str, not a model of transformers" in refusal(kd.half_depth, "bert-sentiment")
    assert "not of a str" in refusal(kd.sizes, "bert-sentiment")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"layers": 100_000}, "layers must be a whole number from 1 to 1000"),
        ({"layers": 1.5}, "layers must be a whole number"),
        ({"width": 0}, "width must be a whole number, 1 or more"),
        ({"heads": -1}, "heads must be a whole number, 1 or more"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_a_size_that_no_model_has_is_refused_at_once(given, said):
    assert said in refusal(kd.small_bert, make_task(), **given)


@pytest.mark.parametrize("make", [kd.lstm_student, kd.gru_student, kd.cnn_student, kd.static_student])
def test_a_seed_that_is_none_is_refused_by_students_of_every_shape(make):
    for seed in ("x", -1, 1.5):
        assert "seed must be a whole number from 0" in refusal(make, make_task(), seed=seed)


def test_a_seed_that_is_none_is_refused_by_half_depth():
    teacher = kd.small_bert(make_task(), layers=2, width=32)
    assert "seed must be a whole number from 0" in refusal(kd.half_depth, teacher, seed="x")


def test_names_that_no_folder_can_have_are_unknown_models():
    for name in ("x" * 300, "~nobody/x", "a\0b"):
        said = refusal(kd.load_model, name, make_task())
        assert "can't load the model" in said
        assert len(said) < 1000


def test_the_home_of_somebody_unknown_is_a_folder_that_is_not_there(tmp_path, capsys):
    assert "there is no file ~nobody-here/x.csv" in refusal(kd.load_task, "~nobody-here/x.csv")
    assert (
        cli.main(["predict", "--task", "~nobody-here/x.csv", "--output", str(tmp_path / "answers.csv")]) == 1
    )
    assert "there is no file ~nobody-here/x.csv" in capsys.readouterr().err


def test_of_very_many_names_the_nearest_are_listed():
    rows = [{f"c{n}": "a" for n in range(41_000, 44_000)}]
    said = refusal(kd.load_task, rows, text="c41234567" * 1000)
    assert "c41234" in said
    assert f" and {3_000 - LISTED:,} more" in said
    assert len(said) < 2000


# ------------------------------------------------------------------------------------------------ a full disk


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_the_very_end_is_one_sentence(tmp_path, monkeypatch):
    task = make_task()
    with monkeypatch.context() as patched:
        patched.setattr("transformers.PreTrainedModel.save_pretrained", full)
        assert "the model can't be saved in" in refusal(save, model(task), task, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(Cached, "_asked", lambda *_: iter([(torch.arange(1), torch.zeros(1, 3))]))
        patched.setattr("kdtutor.training.asking.sign", full)
        said = refusal(make_run, task, blend(), cache=tmp_path / "answers")
        assert "the teacher's answers can't be written to" in said and "No space left" in said
        said = refusal(
            make_run, make_task("masked-lm"), SoftTargets(2), cache=kd.TopK(4, tmp_path / "answers")
        )
        assert "the teacher's answers can't be written to" in said and "No space left" in said


def test_a_file_that_a_command_can_not_write_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full_at(file, folder):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("kdtutor.cli.study.forget", full_at)
    assert cli.main(["study", "gap", "--restart", "--output", str(tmp_path / "x.json")]) == 1
    assert capsys.readouterr().err == f"kdtutor: {tmp_path / 'x.json'}: No space left on device\n"


@pytest.mark.parametrize("where", ["kdtutor.cli.training", "kdtutor.cli.commands"])
def test_what_a_command_writes_last_is_written_whole_or_not_at_all(where):
    assert __import__(where, fromlist=["x"]).write_atomically is write_atomically


# ------------------------------------------------------------------------------------------------ files that ship

SHAPES = [
    "[]",
    "3",
    "null",
    '"x"',
    '{"files": []}',
    '{"files": {"a": 1}}',
    '{"files": {"a": {}}}',
    "{}",
    "[" * 5000,
]


@pytest.mark.parametrize("text", SHAPES, ids=lambda text: text[:20])
def test_a_manifest_of_another_shape_is_damage(text, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    assert "cannot be read" in refusal(assets.manifest.__wrapped__)


@pytest.mark.parametrize(
    "text",
    [*SHAPES, '{"study": "x", "runs": 3, "configurations": {}}', '{"study": "x", "runs": [1], "configurations": {}}',
     '{"study": "x", "runs": [{"configuration": "y"}], "configurations": {}}'],
    ids=lambda text: text[:45],
)  # fmt: skip
def test_a_study_of_another_shape_is_damage(text, tmp_path):
    file = tmp_path / "study.json"
    file.write_text(text, encoding="utf-8")
    assert "can't be read" in refusal(stored.read_file, file)


def test_a_study_is_read_as_it_is(tmp_path):
    record = {"study": "x", "runs": [{"configuration": "y", "seed": 1}], "configurations": {"y": {}}}
    (tmp_path / "study.json").write_text(json.dumps(record), encoding="utf-8")
    assert stored.read_file(tmp_path / "study.json") == record


# ------------------------------------------------------------------------------------------------ a steered run


def test_a_run_that_was_steered_and_resumed_is_resumed_again_by_the_script_that_began_it(tmp_path):
    task = make_task()

    def script():
        goal = blend(alpha=0.5, temperature=2)
        return goal, make_run(task, goal, steps=9, folder=tmp_path, save_every=1)

    goal, run = script()
    take(run, 2)
    goal.temperature = 4.0
    take(run, 1)
    run.save()
    for done in (4, 5):
        goal, run = script()
        run.resume()
        assert (run.done, goal.temperature) == (done - 1, 4.0)
        take(run, 1)
        run.save()
    other = make_run(task, blend(alpha=0.5, temperature=3), steps=9)
    assert "made with another objective" in refusal(other.resume, tmp_path)


def test_the_loss_of_a_model_that_gives_no_numbers_is_no_number_that_is_printed():
    task = make_task("masked-lm")
    broken = model(task)
    with torch.no_grad():
        broken.cls.predictions.bias.fill_(float("nan"))
    assert "are not finite" in refusal(kd.evaluate, broken, task, latency=False)
    with torch.no_grad():
        broken.cls.predictions.bias.fill_(0)
        broken.cls.predictions.bias[5] = 2000.0
    assert kd.evaluate(broken, task, latency=False).perplexity == float("inf")


def test_a_teacher_whose_body_lacks_a_pooler_is_refused_not_given_a_random_one(tmp_path):
    task = make_task()
    save(model(task), task, tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if ".pooler." not in name},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert "it has no trained bert.pooler" in refusal(kd.load_teacher, task, str(tmp_path))


def test_a_recipe_with_fields_is_read(tmp_path):
    with pytest.raises(KDTutorError, match="unknown field"):
        (tmp_path / "r.yaml").write_text("sed: 1\n", encoding="utf-8")
        cli.commands.parse(cli.commands.FinetuneArguments, [str(tmp_path / "r.yaml")], "kdtutor finetune")
    assert HardLabels() is not None
