"""Student architectures that are defined here, in a test: loop, chunks, command line, plan, live twin and checkpoint
take them as they are."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import pytest
import torch
from helpers import distance, make_run, make_task, model, refusal, sharp_teacher, weights
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from kdtutor import cli
from kdtutor.data.task import Task
from kdtutor.models.load import label_config, load_model
from kdtutor.models.shapes import ShapeConfig, ShapeModel, masked_mean
from kdtutor.models.students import _REGISTER, make_student, register, student_names
from kdtutor.objectives.parse import parse_objective
from kdtutor.training import vocabulary
from kdtutor.training.plan import plan
from kdtutor.widgets.live import LiveDistillation


class WindowConfig(ShapeConfig):
    model_type = "test-window"
    hidden_size: int = 32


class Window(nn.Module):
    """What a token and its two neighbours say: a student of no family that the package knows."""

    def __init__(self, config: WindowConfig):
        super().__init__()
        self.features = config.hidden_size
        self.embeddings = nn.Embedding(config.vocab_size, self.features)
        self.near = nn.Conv1d(self.features, self.features, 3, padding=1)

    def states(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L), (B, L) → vectors of the tokens, and of their windows, (B, L, D) each."""
        tokens = self.embeddings(input_ids) * mask[..., None]
        return tokens, self.near(tokens.mT).mT.relu()

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states = self.states(input_ids, mask)
        return masked_mean(states[-1], mask), states


class WindowForSequenceClassification(ShapeModel):
    config_class = WindowConfig
    body = Window
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "hidden_states"})


class Reader(Window):
    """The same, called as transformers calls a language model's body."""

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        states = self.states(input_ids, attention_mask.bool())
        return BaseModelOutput(states[-1], states if output_hidden_states else None)


class WindowForMaskedLM(PreTrainedModel):
    config_class = WindowConfig
    base_model_prefix = "reader"
    plain_head: ClassVar[bool] = True

    def __init__(self, config: WindowConfig):
        super().__init__(config)
        self.reader = Reader(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Embedding, nn.Linear, nn.Conv1d)):
            module.reset_parameters()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        out = self.reader(input_ids, attention_mask, output_hidden_states)
        return MaskedLMOutput(logits=self.lm_head(out.last_hidden_state), hidden_states=out.hidden_states)


AutoConfig.register("test-window", WindowConfig)
AutoModelForSequenceClassification.register(WindowConfig, WindowForSequenceClassification)
AutoModelForMaskedLM.register(WindowConfig, WindowForMaskedLM)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """A BERT whose feed-forward part is narrower than its width, and the window, under a name each."""
    monkeypatch.setattr("kdtutor.models.students._REGISTER", dict(_REGISTER))

    @register("narrow-bert")
    def narrow_bert(teacher, task, width=16, seed=None):
        torch.manual_seed(seed or 0)
        config = BertConfig(
            vocab_size=len(task.tokenizer),
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=width // 2,
            max_position_embeddings=task.max_length,
            **label_config(task),
        )
        return BertForSequenceClassification(config)

    @register("window")
    def window(teacher, task, width=32, seed=None):
        torch.manual_seed(seed or 0)
        config = WindowConfig(vocab_size=len(task.tokenizer), hidden_size=width, **label_config(task))
        kind = WindowForMaskedLM if task.rules.masks else WindowForSequenceClassification
        return kind(config).train()


class Case(NamedTuple):
    name: str
    task: Task
    formula: str

    @property
    def teacher(self) -> PreTrainedModel:
        return sharp_teacher(self.task)

    def run(self, **settings):
        student = make_student(self.name, self.teacher, self.task, seed=0, width=32)
        objective = parse_objective(self.formula)
        return make_run(self.task, objective, student=student, teacher=self.teacher, **settings)


CASES = {
    "narrow-bert": ("narrow-bert", "classification", "0.5 * HardLabels() + 0.5 * SoftTargets(2)"),
    "window": ("window", "classification", "0.5 * HardLabels() + SoftTargets(2) + CosineHidden()"),
    "window that fills in": ("window", "masked-lm", "MaskedLM() + SoftTargets(2) + CosineHidden()"),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    name, kind, formula = CASES[request.param]
    return Case(name, make_task(kind), formula)


def test_it_is_made_by_its_name_and_learns(case):
    rows = case.run(epochs=3, learning_rate=3e-3).run()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert case.name in student_names()


def test_its_losses_are_the_same_by_chunks_where_its_head_is_one_matrix(case, monkeypatch):
    monkeypatch.setattr(vocabulary, "FEWEST", 16)
    monkeypatch.setitem(vocabulary.CHUNK_BYTES, "cpu", 1)
    runs = [case.run(chunked=chunked, learning_rate=1e-4) for chunked in (True, False)]
    assert [run.chunked for run in runs] == [case.task.kind == "masked-lm", False]
    losses = [[row["loss"] for row in run.run()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_head_of_which_nothing_is_known_is_run_whole(monkeypatch):
    monkeypatch.setattr(WindowForMaskedLM, "plain_head", False)
    run = Case("window", make_task("masked-lm"), "MaskedLM() + SoftTargets(2)").run()
    assert not run.chunked
    assert len(run.run()) == 6


def test_it_is_planned(case):
    run = case.run()
    planned = plan(run.student, case.teacher, case.task, run.objective, batch_size=8, epochs=1)
    assert planned.steps == 6 and planned.seconds > 0
    parameters = sum(p.numel() for p in run.student.parameters())
    assert planned.memory["student's weights"] == 4 * parameters


def test_a_live_run_has_a_twin_of_its_kind(case):
    live = LiveDistillation(case.run(), twin=True)
    student, twin = live.distillation.student, live.twin.student
    assert type(twin) is type(student) and twin is not student
    assert distance(weights(twin), weights(student)) == 0
    live.run(1)
    assert live.distillation.done == live.twin.done == 1
    assert distance(weights(twin), weights(student)) > 0


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped_and_the_student_is_read_again(case, tmp_path):
    whole = case.run()
    whole.run()
    first = case.run(folder=tmp_path / "run", save_every=2)
    for step in first:
        if step.number == 3:
            break
    second = case.run(folder=tmp_path / "run", save_every=2).resume()
    assert second.done == 2
    second.run()
    assert distance(weights(whole.student), weights(second.student)) == 0

    second.student.save_pretrained(tmp_path / "student")
    read = load_model(tmp_path / "student", case.task)
    assert type(read) is type(second.student)
    assert distance(weights(read), weights(second.student)) == 0


def test_the_command_line_makes_trains_and_measures_it(case, tmp_path, monkeypatch, capsys):
    model(case.task).save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr("kdtutor.data.load.load_task", lambda *_, **__: case.task)
    distill = ["distill", "--task=tiny", f"--teacher={tmp_path / 'teacher'}", f"--student={case.name}"]
    distill += ["--width=32", f"--objective={case.formula}", f"--output={tmp_path / 'out'}"]
    distill += ["--steps=2", "--batch_size=8"]
    cli.main([*distill, "--dry_run"])
    assert "2 of 8 texts" in capsys.readouterr().out
    cli.main(distill)
    assert "SoftTargets(" in capsys.readouterr().out
    assert load_model(tmp_path / "out", case.task).config.hidden_size == 32
    cli.main(["evaluate", "--task=tiny", f"--model={tmp_path / 'out'}"])
    assert "parameters" in capsys.readouterr().out


def test_the_command_lines_help_lists_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["distill", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    listed = told.partition("one of half-depth, small-bert, ")[2].partition(", or a folder or Hub name")[0]
    assert {"cnn", "lstm", "static", "narrow-bert", "window"} <= {*listed.split(", ")}


def test_a_misspelt_student_and_an_option_it_does_not_have_are_named():
    task = make_task()
    teacher = sharp_teacher(task)
    said = refusal(make_student, "narow-bert", teacher, task)
    assert said.startswith('unknown student "narow-bert"; there are: narrow-bert, small-bert, half-depth, ')
    said = refusal(make_student, "narrow-bert", teacher, task, layers=2)
    assert said == "the student narrow-bert has no option layers; those it has: width, seed"
    said = refusal(make_student, "half-depth", teacher, task, width=64)
    assert said == "the student half-depth has no option width; those it has: layers, token_types, seed"


def test_a_student_by_its_name_is_what_its_own_function_makes():
    from kdtutor.models.students import half_depth, small_bert

    task = make_task()
    teacher = small_bert(task, layers=4, width=32, seed=1)
    for made, expected in (
        (make_student("half-depth", teacher, task, seed=3), half_depth(teacher, seed=3)),
        (make_student("small-bert", teacher, task, seed=3, width=32), small_bert(task, width=32, seed=3)),
    ):
        assert type(made) is type(expected)
        for a, b in zip(made.parameters(), expected.parameters(), strict=True):
            assert a.equal(b)
