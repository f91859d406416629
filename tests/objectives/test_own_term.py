"""Objectives that are defined here, in a test: they go through loop, chunks, parser, plan, live twin and checkpoint."""

from __future__ import annotations

import pytest
import torch
from helpers import distance, make_run, make_task, model, sharp_teacher, weights

from kdtutor import cli
from kdtutor.models.students import small_bert
from kdtutor.objectives.formulas import kl_divergence
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import HardLabels, MaskedLM
from kdtutor.objectives.parse import parse_objective
from kdtutor.objectives.terms import Term
from kdtutor.training import vocabulary
from kdtutor.training.plan import plan
from kdtutor.widgets.live import LiveDistillation


class BackwardKL(Term):
    """KL(p_S ‖ p_T), on logits, with the one setting that terms may have."""

    label = "backward KL"

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, student, teacher, batch, reduction="none"):
        return kl_divergence(student.logits, teacher.logits, self.temperature, reduction=reduction)


class FirstVector(Term):
    """Squared distance of the last hidden states of [CLS], one value per text."""

    needs = frozenset({"hidden_states"})

    def forward(self, student, teacher, batch, reduction="none"):
        h_s, h_t = (outputs.hidden_states[-1][:, 0] for outputs in (student, teacher))
        losses = (h_s - h_t).square().mean(-1)
        return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()

    def count(self, batch):
        return torch.tensor(len(batch["attention_mask"]))


FORMULA = "0.5 * BackwardKL(2) + 0.3 * FirstVector() + 0.2 * {hard}()"


@pytest.fixture(params=["classification", "masked-lm"])
def task(request):
    return make_task(request.param)


def own_run(task, **settings):
    hard = "MaskedLM" if task.kind == "masked-lm" else "HardLabels"
    return make_run(task, parse_objective(FORMULA.format(hard=hard)), **settings)


def test_a_formula_in_text_may_name_them():
    objective = parse_objective("BackwardKL(temperature=2) + 3 * FirstVector()")
    assert [type(term) for term in objective.terms] == [BackwardKL, FirstVector]
    assert (objective.terms[0].temperature, objective.terms[1].weight) == (2, 3)


def test_the_packages_own_term_is_meant_where_somebody_defined_another_of_its_name():
    class SoftTargets(Term):
        pass

    [term] = parse_objective("SoftTargets(2)").terms
    assert type(term) is not SoftTargets


def test_a_label_is_the_terms_own_or_its_name_in_words():
    assert (BackwardKL.label, FirstVector.label) == ("backward KL", "first vector")
    assert (HardLabels.label, MaskedLM.label, CosineHidden.label) == (
        "hard labels",
        "masked LM",
        "cosine of hidden states",
    )


def test_they_train_a_student_by_chunks_as_by_the_plain_path(task, monkeypatch):
    monkeypatch.setattr(vocabulary, "FEWEST", 16)
    monkeypatch.setitem(vocabulary.CHUNK_BYTES, "cpu", 1)
    runs = [own_run(task, chunked=chunked, learning_rate=1e-4) for chunked in (True, False)]
    assert [run.chunked for run in runs] == [task.kind == "masked-lm", False]
    losses = [[row["loss"] for row in run.run()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert set(runs[0].term_names) > {"BackwardKL", "FirstVector"}
    assert losses[0][-1] < losses[0][0]


def test_a_plan_counts_them(task):
    teacher = sharp_teacher(task)
    objective = own_run(task).objective
    planned = plan(model(task), teacher, task, objective, batch_size=8, epochs=1, measure=False)
    assert planned.steps == 6
    assert planned.memory["teacher's weights"] > 0


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(task, tmp_path):
    whole = own_run(task, dropout=0.1)
    whole.objective.terms[0].temperature = 3
    whole.run()
    first = own_run(task, dropout=0.1, folder=tmp_path, save_every=2)
    first.objective.terms[0].temperature = 3
    for step in first:
        if step.number == 3:
            break
    second = own_run(task, dropout=0.1, folder=tmp_path, save_every=2)
    second.resume()
    assert second.objective.terms[0].temperature == 3
    second.run()
    assert distance(weights(whole.student), weights(second.student)) == 0


def test_the_live_widget_names_them_and_runs_a_twin_beside_them():
    task = make_task()
    live = LiveDistillation(own_run(task), twin=True)
    names = [loss["name"] for loss in live.plan["losses"]]
    assert names == [
        "student, backward KL",
        "student, first vector",
        "student, hard labels",
        "twin, hard labels",
    ]


def test_the_command_line_trains_with_them(tmp_path, monkeypatch, capsys):
    task = make_task("masked-lm")
    small_bert(task, layers=2, width=32, seed=1).save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda *_, **__: task)
    objective = "--objective=" + FORMULA.format(hard="MaskedLM")
    flags = [
        f"--teacher={tmp_path / 'teacher'}",
        f"--output={tmp_path / 'out'}",
        "--steps=2",
        "--batch_size=8",
    ]
    cli.main(["distill", "--task=tiny", objective, *flags])
    assert "BackwardKL(" in capsys.readouterr().out
