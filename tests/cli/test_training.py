"""What a training command says while it runs and at its end: losses, validation, the scores, as text or as JSON."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from kdtutor.cli import main


@pytest.fixture
def distilled(mine, corpus) -> list[str]:
    return ["distill", *mine, "--teacher", str(corpus / "teacher"), "--no_check_teacher", "--output", "out"]


def card(folder: str = "out") -> dict:
    return json.loads(Path(folder, "card.json").read_text(encoding="utf-8"))


def test_the_log_has_the_loss_of_every_term(distilled, mine, capsys):
    assert main([*distilled, "--steps", "2", "--objective", "HardLabels() + 2 * SoftTargets(3)"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step      1 of 2")]
    rows = Path("out/checkpoints/checkpoint-0000002/history.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(rows[0])
    terms = f"(HardLabels {row['HardLabels']:.4f}, SoftTargets {row['SoftTargets']:.4f})"
    assert f"loss {row['loss']:.4f} {terms}, " in line


def test_a_run_ends_in_the_table_that_evaluate_prints(distilled, mine, capsys):
    assert main([*distilled, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    for split in ("validation", "test"):
        scores = card()["scores"][split]
        assert (
            f"mine, {split} split, {scores['examples']} texts\n  accuracy            {scores['accuracy']:.2%}"
            in out
        )
    assert "warning: all 6 validation texts get the same answer, " in out
    assert card()["diagnosis"]["warning"] in out


def test_json_is_all_that_stdout_holds_if_it_is_asked_for(distilled, mine, capsys):
    assert main([*distilled, "--steps", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == card()
    assert "step      2 of 2" in err
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == card()["scores"]["test"]["accuracy"]


def test_json_holds_what_a_terminal_may_lack_as_json_writes_it(distilled, capsys):
    assert main([*distilled[:-1], "出😀", "--steps", "1", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out) == card("出😀")


def test_validation_is_told_and_the_best_student_saved(distilled, mine, capsys, monkeypatch):
    found = iter([0.2, 0.9, 0.4, 0.3, 0.1])
    monkeypatch.setattr("kdtutor.training.validation.fit", lambda *_: {"accuracy": next(found), "loss": 0.5})
    watched = ["--validate_every", "2", "--steps", "20", "--keep_best", "--patience", "2"]
    assert main([*distilled, *watched]) == 0
    out = capsys.readouterr().out
    assert "validation after step 4: accuracy 0.9000, loss 0.5000; the best so far\n" in out
    assert "validation after step 6: accuracy 0.4000, loss 0.5000\n" in out
    assert "ended early: 2 measurements on validation in a row were no better\n" in out
    assert "the weights are those after step 4, the best on validation\n" in out
    assert (card()["steps"], card()["best_step"]) == (8, 4)


def test_a_finished_run_goes_on_to_more_steps(distilled, capsys):
    assert main([*distilled, "--steps", "3"]) == 0
    capsys.readouterr()
    assert main([*distilled, "--steps", "5", "--resume"]) == 0
    out = capsys.readouterr().out
    assert "going on after step 3" in out
    assert "step      5 of 5" in out
    assert card()["steps"] == 5


# ------------------------------------------------------------------------------------------------ trackers


class Noted(GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, told, ended = "noted", False, [], False
    tracker = None

    def __init__(self, run_name: str, **_) -> None:
        super().__init__()

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(values)

    def log(self, values: dict, step: int | None = None, **_) -> None:
        self.told.append({"step": step} | values)

    def finish(self) -> None:
        type(self).ended = True


def test_a_tracker_gets_settings_losses_and_what_validation_says(distilled, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "noted", Noted)
    assert main([*distilled, "--steps", "2", "--validate_every", "2", "--report_to", "noted"]) == 0
    settings, first, last, validation = Noted.told
    assert (settings["learning_rate"], settings["validate_every"]) == (5e-4, 2)
    assert first.keys() == {"step", "loss", "HardLabels", "SoftTargets", "learning_rate"}
    assert (first["step"], last["step"], validation["step"]) == (1, 2, 2)
    assert validation["validation/accuracy"] == card()["scores"]["validation"]["accuracy"]
    assert Noted.ended


def test_what_tensorboard_is_told_its_own_reader_reads(distilled):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="NOT TESTED: TensorBoard"
    )
    assert main([*distilled, "--steps", "2", "--validate_every", "2", "--report_to", "tensorboard"]) == 0
    rows = Path("out/checkpoints/checkpoint-0000002/history.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(row) for row in rows]
    read = reading.EventAccumulator("out/kdtutor").Reload()
    for name in ("loss", "HardLabels", "SoftTargets", "learning_rate"):
        told = read.Scalars(name)
        assert [each.step for each in told] == [1, 2]
        values = [row[name] for row in rows]
        if name != "learning_rate":  # of losses the mean over the last steps
            values[1] = sum(values) / 2
        assert [each.value for each in told] == pytest.approx(values)
    [accuracy] = read.Scalars("validation/accuracy")
    assert (accuracy.step, accuracy.value) == (
        2, pytest.approx(card()["scores"]["validation"]["accuracy"])
    )  # fmt: skip


def test_a_tracker_that_is_unknown_or_not_installed_is_one_sentence(distilled, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    for name, said in (
        ("tensorbord", '--report_to: unknown tracker "tensorbord"; there are: tensorboard, '),
        ("tensorboard", "--report_to tensorboard needs the package tensorboard, which is not installed"),
    ):
        assert main([*distilled, "--steps", "2", "--report_to", name]) == 1
        assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the control


def test_the_control_is_the_run_on_labels_alone_and_the_difference_is_told(distilled, mine, corpus, capsys):
    # A student far enough from chance that the two differ.
    run = [*distilled, "--steps", "12", "--learning_rate", "3e-3", "--dropout", "0.1", "--student", "small-bert",
           "--layers", "1", "--width", "32"]  # fmt: skip
    assert main([*run, "--objective", "SoftTargets(2)", "--control"]) == 0
    out = capsys.readouterr().out
    assert main([*run, "--objective", "HardLabels()", "--output", "alone"]) == 0
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in ("out", "out/control", "alone")]
    assert weights[0] != weights[1] == weights[2]

    control = card()["control"]
    assert (control["objective"], control["steps"]) == ("HardLabels()", 12)
    assert control["scores"] == card("out/control")["scores"] == card("alone")["scores"]
    for split, value in control["difference"].items():
        mine, theirs = card()["scores"][split]["accuracy"], control["scores"][split]["accuracy"]
        assert value == mine - theirs
        assert f"{split:<12}accuracy {mine:.4f} and {theirs:.4f}: difference {value:+.4f}" in out
    assert 0 <= control["p_value"] <= 1

    capsys.readouterr()
    assert main([*run, "--objective", "SoftTargets(2)", "--control", "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["control"] == control


@pytest.mark.parametrize(
    "flags, said",
    [
        (
            ["--objective", "HardLabels()"],
            "nothing to compare with: the student itself learns from hard labels",
        ),
        (["--patience", "2"], "after equal steps: leave --patience out"),
    ],
)
def test_a_control_that_says_nothing_is_refused_before_any_step(distilled, flags, said, capsys):
    assert main([*distilled, "--control", *flags]) == 1
    assert said in capsys.readouterr().err
    assert not [*Path("out/checkpoints").glob("checkpoint-*")]


def test_rare_classes_may_weigh_more_and_the_score_that_sees_them_judges(mine, corpus, distilled, capsys):
    judged = ["--class_weights", "balanced", "--metric", "macro_f1", "--keep_best", "--steps", "2"]
    assert main(["finetune", *mine, "--model", str(corpus / "teacher"), *judged, "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert "objective HardLabels(class_weights='balanced')" in out
    assert f"test split, {card()['scores']['test']['examples']} texts\n  macro f1  " in out
    assert "macro_f1" in card()["settings"]["metric"]
    assert main([*distilled, "--class_weights", "1,2,3", "--dry_run"]) == 1
    assert "HardLabels(class_weights=[1.0, 2.0, 3.0]) has 3 class weights for" in capsys.readouterr().err
    assert main([*distilled, "--class_weights", "1,x", "--dry_run"]) == 1
    assert "'x' is no number" in capsys.readouterr().err
    assert main([*distilled, "--class_weights", "balanced", "--objective", "HardLabels()"]) == 1
    assert "are short for an --objective" in capsys.readouterr().err
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", "out", "--metric", "f1"]) == 1
    assert 'unknown metric of a classification task "f1"; there are: ' in capsys.readouterr().err


def test_a_student_of_another_shape_learns_from_variants_of_the_texts_too(distilled, mine, capsys):
    shape = ["--student", "lstm", "--width", "8", "--vectors", "random", "--augment", "2", "--steps", "2"]
    assert main([*distilled, *shape, "--json"]) == 0
    made = json.loads(Path("out/config.json").read_text(encoding="utf-8"))
    assert (made["model_type"], made["hidden_size"]) == ("kdtutor-recurrent", 8)
    assert card()["data"]["train"] > 60 and "variants, seed 0]" in card()["data"]["task"]
    capsys.readouterr()
    assert main(["evaluate", *mine[:6], "--max_length", "24", "--model", "out", "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["parameters"] == 12_000 * 8 + 4 * 4 * (8 + 4 + 2) * 2 + 8 * 2 + 2
    )


def test_a_model_has_a_card_for_the_hub(distilled, capsys, monkeypatch):
    pushed = []

    class Hub:
        endpoint = "https://hub.example"

        def create_repo(self, name, exist_ok):
            if "/" in name and not name.startswith("me/"):
                raise PermissionError("403: not\nyours")
            return SimpleNamespace(repo_id=name if "/" in name else f"me/{name}")

        def upload_folder(self, *, folder_path, ignore_patterns, **about):
            files = {str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()}
            pushed.append(
                (about["repo_id"], {f for f in files if not any(fnmatch(f, p) for p in ignore_patterns)})
            )

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main([*distilled, "--steps", "1"]) == 0
    assert not pushed and "pushed" not in capsys.readouterr().out
    assert main([*distilled, "--steps", "1", "--resume", "--push_to_hub"]) == 0
    assert "pushed to https://hub.example/me/out" in capsys.readouterr().out
    [(name, files)] = pushed
    assert name == "me/out"
    assert {"README.md", "card.json", "config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not any("checkpoint" in file for file in files)

    text = Path("out/README.md").read_text(encoding="utf-8")
    _, about, body = text.split("---\n", 2)
    assert yaml.safe_load(about) == {
        "library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["kdtutor", "distill"],
    }  # fmt: skip
    assert f"| test | accuracy | {card()['scores']['test']['accuracy']:.4f} |" in body
    assert card()["command"] in body and "--resume" not in card()["command"]
    assert "`blend(" in body or "HardLabels()" in body

    # Refused there: what was made is not lost.
    assert main([*distilled, "--steps", "1", "--resume", "--push_to_hub", "--hub_model_id", "you/x"]) == 1
    assert "out is saved, but was not pushed to the Hub as you/x (PermissionError: 403: not yours)" in (
        capsys.readouterr().err
    )


def test_the_plan_counts_the_best_weights_that_are_kept(distilled, capsys):
    for flags, is_kept in (([], False), (["--keep_best"], True)):
        assert main([*distilled, "--dry_run", *flags]) == 0
        assert ("best weights" in capsys.readouterr().out) is is_kept


def test_texts_that_are_cut_are_counted(distilled, mine, capsys):
    assert main([*distilled, "--steps", "1", "--max_length", "6"]) == 0
    texts = card()["data"]["train"]
    assert f"{texts} of {texts} training texts reach 6 tokens (--max_length): what is beyond is not read" in (
        capsys.readouterr().out
    )
    assert main([*distilled, "--steps", "1", "--output", "longer"]) == 0
    assert "reach" not in capsys.readouterr().out


def test_a_small_bert_has_the_heads_that_are_asked_for(distilled, capsys):
    shape = [*distilled, "--student", "small-bert", "--layers", "1", "--width", "32", "--steps", "1"]
    assert main([*shape, "--heads", "4"]) == 0
    assert json.loads(Path("out/config.json").read_text(encoding="utf-8"))["num_attention_heads"] == 4
    assert main([*shape, "--heads", "5", "--dry_run"]) == 1
    assert "heads" in capsys.readouterr().err
