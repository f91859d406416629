"""Experiments judge numbers: what was predicted, what was measured, and why."""

from __future__ import annotations

import pytest
import torch
from notebook_exercises import SECTIONS, solution

import kdtutor as kd
from kdtutor.exercises import Check, load_exercises
from kdtutor.exercises.definitions import Experiment
from kdtutor.exercises.predicting import judge

EXPERIMENTS = {name: each for name, each in load_exercises().items() if isinstance(each, Experiment)}
experiments = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))


def right_reason(experiment: Experiment) -> str:
    return next(letter for letter, wrong in experiment.reasons.items() if wrong is None)


@experiments
def test_it_stands_in_its_notebook_with_a_stub_a_hint_and_a_solution_that_solves_it(experiment):
    title, code, folded, imports = SECTIONS[experiment.number]
    assert title == experiment.title
    assert code.rstrip().endswith(f"check.{experiment.name}(prediction, measured, because)")
    assert "<summary><b>Hint</b></summary>" in folded
    torch.manual_seed(0)
    scope = {}
    exec(imports, scope)
    exec(solution(folded), scope)
    verdict = judge(experiment, scope["prediction"], scope["measured"], scope["because"])
    assert verdict.solved
    assert "You predicted it." in str(verdict)


@experiments
def test_the_cell_as_it_stands_asks_for_a_prediction_first(experiment):
    _, code, _, imports = SECTIONS[experiment.number]
    scope = {"check": Check()}
    exec(imports, scope)
    exec(code, scope)
    verdict = judge(experiment, scope["prediction"], scope["measured"], scope["because"])
    assert (verdict.kind, "First write down what you expect." in str(verdict)) == ("not attempted", True)
    noted = judge(experiment, list(experiment.beliefs[0].numbers))
    assert (noted.kind, noted.mistakes) == ("not attempted", ())
    assert experiment.beliefs[0].name not in str(noted), "nothing is given away before it is measured"


@experiments
@pytest.mark.parametrize("off", [0.93, 1.0, 1.06])
def test_a_prediction_shows_the_misconception_that_it_follows_from(experiment, off):
    for belief in experiment.beliefs:
        guess = [off * value for value in belief.numbers]
        verdict = judge(experiment, guess, experiment.numbers, right_reason(experiment))
        assert verdict.solved, "a wrong prediction is no failure"
        assert verdict.mistakes == (belief.name,), verdict
        assert belief.hint in " ".join(str(verdict).split())


@experiments
def test_a_slip_of_the_measurement_is_named(experiment):
    for slip in experiment.slips:
        verdict = judge(experiment, experiment.numbers, slip.numbers, right_reason(experiment))
        assert (verdict.solved, verdict.mistakes) == (False, (slip.name,)), verdict


def test_whoever_halves_the_parameters_for_the_work_is_told_with_the_courses_own_vocabulary():
    def parameters(layers: int, width: int) -> int:
        return kd.sizes(kd.small_bert("supersense", layers=layers, width=width, seed=0)).parameters

    whole, halves = parameters(6, 256), EXPERIMENTS["halves"]
    shares = (parameters(3, 256) / whole, parameters(6, 128) / whole, 1.0)
    assert judge(halves, halves.numbers, shares, "c").mistakes == ("parameters counted",)
    assert judge(halves, shares, halves.numbers, "c").mistakes == ("parameters for work",)


@experiments
def test_a_wrong_reason_is_named_and_a_missing_one_is_asked_for(experiment):
    for letter, wrong in experiment.reasons.items():
        verdict = judge(experiment, experiment.numbers, experiment.numbers, letter.upper())
        assert verdict.solved == (wrong is None)
        assert verdict.mistakes == ((wrong.name,) if wrong else ())
    assert judge(experiment, experiment.numbers, experiment.numbers).kind == "no reason yet"
    assert judge(experiment, experiment.numbers, experiment.numbers, "z").kind == "wrong type"


@experiments
def test_every_mistake_has_a_name_of_its_own_and_a_sentence(experiment):
    names = [mistake.name for mistake in (*experiment.beliefs, *filter(None, experiment.reasons.values()))]
    assert len(set(names)) == len(names)
    assert len(experiment.beliefs) >= 2
    assert all(
        mistake.hint[0].isupper() and mistake.hint.endswith((".", "?")) for mistake in experiment.mistakes
    )
    assert all(
        len(each.numbers) == len(experiment.settings) for each in (*experiment.beliefs, *experiment.slips)
    )


ODDS = EXPERIMENTS["odds"]


@pytest.mark.parametrize(
    ("prediction", "sentence"),
    [
        (4, "3 numbers are expected: for T = 0.5, T = 2, T = 4"),
        ([1, 2], "is a list of 2, and 3 numbers are expected"),
        (["a", 2, 3], "should hold 3 plain numbers"),
        ([1, float("nan"), 3], "a number is not finite"),
        (torch.ones(2), "3 numbers are expected"),
    ],
)
def test_what_is_no_row_of_numbers_is_said(prediction, sentence):
    verdict = judge(ODDS, prediction, (256, 4, 2), "b")
    assert (verdict.kind, sentence in " ".join(str(verdict).split())) == ("wrong type", True), verdict


def test_numbers_may_come_in_a_tensor_and_an_unknown_difference_is_placed():
    assert judge(ODDS, torch.tensor([256, 4, 2]), torch.tensor([256.0, 4.0, 2.0]), " B ").solved
    assert "For T = 4 you measured 7" in str(judge(ODDS, (256, 4, 2), (256, 4, 7), "b"))
    far_off = judge(ODDS, (1, 1, 1), (256, 4, 2), "b")
    assert (far_off.solved, far_off.mistakes) == (True, ())
    assert "You expected 1 for T = 0.5" in str(far_off)


def test_check_notes_an_experiment_and_what_its_prediction_showed():
    check = Check()
    check.odds((32, 8, 4), (256, 4, 2), "a")
    check.odds(prediction=(32, 8, 4), measured=(256, 4, 2), because="b")
    record = check._progress.records["odds"]
    assert (record["solved"], record["attempts"]) == (True, 2)
    assert record["mistakes"] == {"odds divided by T": 2, "T divides the probabilities": 1}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((1 / 256, 1 / 4, 1 / 2), "You measured the rarer class"),
        ((512, 8, 4), "always 2 times what is asked for"),
        ((256 / 257, 4 / 5, 2 / 3), "parts of the whole"),
        ((255, 3, 1), "by how much more"),
        ((256, 5, 3), "for T = 2 you measured 5, for T = 4 you measured 3, and that cannot be"),
    ],
)
def test_what_was_measured_in_place_of_what_is_asked_for_is_said(measured, words):
    assert words.lower() in " ".join(str(judge(ODDS, (256, 4, 2), measured, "b")).lower().split())


def test_a_prediction_that_is_only_near_to_that_of_a_belief_is_called_so():
    blind = load_exercises()["blind_spots"]
    assert "is near to what follows" in " ".join(str(judge(blind, (1, 1, 0.9), (1, 1, 0.3445), "b")).split())
    assert "is what follows" in " ".join(str(judge(blind, (1, 1, 1), (1, 1, 0.3445), "b")).split())


@pytest.mark.parametrize(
    ("exercise", "measured", "words"),
    [
        ("blind_spots", (1, 1, 0.3445**0.5), "What you measured is their roots."),
        ("blind_spots", (1, 1, 0.5755), "In what you measured: the variance times 10."),
        ("perplexity", (4, 4, 4), "In what you measured: the text decides."),
        ("halves", (0.5, 0.269, 0.25), "In what you measured: all of attention is quadratic"),
        ("token_weights", (1, 0.2, 59), "In some of what you measured: the ratio turned round."),
    ],
)
def test_what_is_written_down_as_measured_is_called_by_the_nearest_name(exercise, measured, words):
    experiment = load_exercises()[exercise]
    verdict = judge(experiment, experiment.numbers, measured, right_reason(experiment))
    assert not verdict.solved
    assert words in " ".join(str(verdict).split())
