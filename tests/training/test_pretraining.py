"""Distilling at pre-training: the vocabulary's losses chunk by chunk, masks, several processes, plans, refusals."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from helpers import (
    PATIENCE,
    ROWS,
    WORDS,
    distance,
    make_run,
    make_task,
    model,
    processes,
    same,
    take,
    weights,
)
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from kdtutor import cli
from kdtutor.assets import asset_path
from kdtutor.data.load import load_task
from kdtutor.data.masking import mask_tokens, rarity
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import IGNORED
from kdtutor.errors import KDTutorError
from kdtutor.hardware import format_bytes
from kdtutor.models.depth import half_depth
from kdtutor.models.forward import Outputs, forward, unembedding
from kdtutor.models.load import load_model
from kdtutor.models.students import set_dropout, small_bert
from kdtutor.objectives.hidden import CosineHidden, HiddenStates
from kdtutor.objectives.logits import (
    HardLabels,
    LogitsMSE,
    MaskedLM,
    SoftCrossEntropy,
    SoftTargets,
    UniformTargets,
)
from kdtutor.training import checkpoints, vocabulary
from kdtutor.training.asking import Inference
from kdtutor.training.batches import Batches
from kdtutor.training.distillation import Distillation
from kdtutor.training.plan import plan
from kdtutor.training.processes import Launch, read_launch
from kdtutor.training.settings import TopK
from kdtutor.training.top_logits import TopLogits

TRIPLE = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()


@pytest.fixture(scope="module")
def glosses():
    return make_task("masked-lm")


@pytest.fixture(scope="module")
def teacher(glosses):
    return small_bert(glosses, layers=2, width=32, seed=3)


def triple_run(glosses, teacher, objective=TRIPLE, **settings):
    student = settings.pop("student", None) or half_depth(teacher, seed=4)
    set_dropout(student, settings.pop("dropout", 0.0))
    return make_run(glosses, objective, student=student, teacher=copy.deepcopy(teacher), **settings)


# ------------------------------------------------------------------------------------------------ chunk by chunk


def two_heads(n: int, V: int = 61, dtype=torch.float64) -> tuple[Outputs, Outputs, Tensor]:
    """Random features and matrices of a student (width 8) and a teacher (width 12), and labels, a third real."""
    draw = torch.Generator().manual_seed(n)

    def one(width: int) -> Outputs:
        last = torch.nn.Linear(width, V, dtype=dtype)
        with torch.no_grad():
            last.weight.copy_(torch.randn(V, width, generator=draw))
            last.bias.copy_(torch.randn(V, generator=draw))
        features = torch.randn(n, width, generator=draw, dtype=dtype)
        return Outputs(None, features=features.requires_grad_(), unembedding=last)

    labels = torch.randint(V, (n,), generator=draw)
    labels[torch.rand(n, generator=draw) < 0.67] = IGNORED
    return one(8), one(12), labels


def defined(name: str, z_s: Tensor, z_t: Tensor, labels: Tensor, T: float) -> Tensor:
    """Each loss, summed over its tokens, written from its definition, probability by probability."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t, y in zip(z_s, z_t, labels.tolist(), strict=True):
        p_s, p_t = (torch.exp(z / T) / torch.exp(z / T).sum() for z in (s, t))
        if name == "SoftTargets":
            total = total + T**2 * (p_t * (p_t / p_s).log()).sum()
        elif name == "SoftCrossEntropy":
            total = total - T**2 * (p_t * p_s.log()).sum()
        elif name == "LogitsMSE":
            total = total + ((s - t) ** 2).sum() / len(s)
        elif name == "UniformTargets":
            total = total - (torch.exp(s) / torch.exp(s).sum()).log().sum() / len(s)
        elif y != IGNORED:
            total = total - (torch.exp(s[y]) / torch.exp(s).sum()).log()
    return total


ALL_TERMS = (
    3 * SoftTargets(2)
    + 0.5 * SoftCrossEntropy(3)
    + 0.7 * LogitsMSE()
    + 0.2 * UniformTargets()
    + 2 * MaskedLM()
    + 0.3 * HardLabels()
)


@pytest.mark.parametrize("n", [0, 1, 7, 20, 21])
@pytest.mark.parametrize(
    "objective", [*(2 * term for term in ALL_TERMS.terms), ALL_TERMS, TRIPLE], ids=lambda o: repr(o)[:40]
)
def test_losses_and_gradients_by_chunks_are_those_of_the_definitions(objective, n):
    student, teacher, labels = two_heads(n)
    factors = torch.tensor([t.weight / (i + 3) for i, t in enumerate(objective.terms)], dtype=torch.float64)
    total, values = vocabulary.losses(objective.terms, factors, student, teacher, labels, chunk_size=7)
    inputs = [student.features, student.unembedding.weight, student.unembedding.bias]
    gradients = torch.autograd.grad(total, inputs)
    assert not values.requires_grad

    z_s, z_t = (o.unembedding(o.features) for o in (student, teacher))
    expected = [
        defined(type(t).__name__, z_s, z_t.detach(), labels, getattr(t, "temperature", 1.0))
        if "logits" in t.needs
        else torch.zeros((), dtype=torch.float64)
        for t in objective.terms
    ]
    wanted = sum(f * loss for f, loss in zip(factors, expected, strict=True)) + 0 * z_s.sum()
    torch.testing.assert_close(total, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values.double(), torch.stack(expected).detach(), rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert teacher.features.grad is None and teacher.unembedding.weight.grad is None


def test_rows_beyond_the_labels_are_padding_that_nobody_sees():
    student, teacher, labels = two_heads(20)
    goal, factors = SoftTargets(2) + 2 * MaskedLM(), torch.ones(2)
    found = []
    for n in (20, 17):
        rows = [Outputs(None, features=o.features[:n].detach().requires_grad_(), unembedding=o.unembedding)
                for o in (student, teacher)]  # fmt: skip
        total, values = vocabulary.losses(goal.terms, factors, *rows, labels[:17], chunk_size=7)
        inputs = [rows[0].features, student.unembedding.weight, student.unembedding.bias]
        first, *others = torch.autograd.grad(total, inputs)
        assert not first[17:].any()
        found.append((values, first[:17], *others))
    for padded, plain in zip(*found, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-12)


def test_what_goes_backward_is_scaled_and_the_chunk_does_not_matter():
    student, teacher, labels = two_heads(20)
    factors = torch.tensor([5.0, 2.0, 1.0])

    def gradient(rows: int, factor: float) -> Tensor:
        total, _ = vocabulary.losses(TRIPLE.terms, factors, student, teacher, labels, rows)
        return torch.autograd.grad(factor * total, student.unembedding.weight)[0]

    once = gradient(7, 1.0)
    for rows in (1, 19, 20, 1000):
        torch.testing.assert_close(gradient(rows, 1.0), once, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(7, -0.25), -0.25 * once, rtol=1e-12, atol=1e-12)


def test_a_term_is_not_asked_about_a_chunk_of_which_it_counts_no_row(monkeypatch):
    """Of three chunks the first has labels. Nor is what a gradient's memory held before taken for one."""
    student, teacher, labels = two_heads(20)
    labels[:7], labels[7:] = torch.arange(7), IGNORED
    asked = []

    class Seen(MaskedLM):
        def forward(self, student, *rest, **how):
            asked.append(len(student.logits))
            return super().forward(student, *rest, **how)

    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, math.nan))
    for objective in (2 * Seen(), SoftTargets(2) + 2 * Seen()):
        factors = torch.ones(len(objective.terms))
        total, _ = vocabulary.losses(objective.terms, factors, student, teacher, labels, chunk_size=7)
        gradient = torch.autograd.grad(total, student.features)[0]
        assert gradient[:7].any(1).all() and gradient.isfinite().all()
        assert gradient[7:].any() == (len(objective.terms) == 2)
        assert asked == [7]
        asked.clear()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_has_the_rows_with_a_label_first_each_with_its_own(glosses, accumulate):
    data = glosses.encode("train")
    for part in Batches(glosses, data, 8, accumulate=accumulate)[0]:
        labelled = part["labels"] != IGNORED
        masked = int(labelled.sum())
        assert 0 < masked < len(labelled) and labelled[:masked].all()
        text, column = (
            part["rows"] // part["input_ids"].shape[1],
            part["rows"] % part["input_ids"].shape[1],
        )
        unmasked = data.batch(part["index"])["input_ids"]
        assert unmasked[text, column][:masked].equal(part["labels"][:masked])
        assert part["rows"].unique().equal(part["attention_mask"].flatten().nonzero()[:, 0])


def test_terms_of_weight_0_are_left_out_and_a_frozen_matrix_gets_no_gradient():
    student, teacher, labels = two_heads(20)
    student.unembedding.requires_grad_(False)
    objective = SoftTargets(2) + 0 * MaskedLM()
    total, values = vocabulary.losses(objective.terms, torch.ones(2), student, teacher, labels)
    total.backward()
    assert values[1] == 0 < values[0]
    assert student.features.grad.abs().sum() > 0
    assert student.unembedding.weight.grad is None


@pytest.mark.parametrize("factor", [1, 1000])
def test_float32_is_as_exact_as_the_plain_losses_at_any_temperature(factor):
    """Against float64; at high temperatures a naive KL would be nothing but rounding."""
    student, teacher, labels = two_heads(20, dtype=torch.float32)
    wide = [
        Outputs(None, features=o.features.double(), unembedding=copy.deepcopy(o.unembedding).double())
        for o in (student, teacher)
    ]
    objective = SoftTargets(2 * factor) + LogitsMSE()
    total, _ = vocabulary.losses(objective.terms, torch.ones(2), student, teacher, labels)
    exact, _ = vocabulary.losses(objective.terms, torch.ones(2), *wide, labels)
    z_s, z_t = (o.unembedding(o.features) for o in (student, teacher))
    plain = sum(t(Outputs(z_s), Outputs(z_t), {"labels": labels}, "sum") for t in objective.terms)
    assert abs(total - exact) <= max(2 * abs(plain - exact), 1e-5 * abs(exact))


# ------------------------------------------------------------------------------------------------ in the loop


def roberta(task, seed: int = 5, positions: int = 64) -> RobertaForMaskedLM:
    torch.manual_seed(seed)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=len(task.tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=positions,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            type_vocab_size=2,
        )
    )


STUDENTS = {
    "DistilBERT": lambda task, teacher: half_depth(teacher, seed=4),
    "BERT": lambda task, teacher: small_bert(task, layers=1, width=32, dropout=0.0, seed=4),
    "RoBERTa": lambda task, teacher: roberta(task),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_heads_features_and_projection_give_its_logits(glosses, teacher, kind):
    model = STUDENTS[kind](glosses, teacher).eval()
    batch, rows = glosses.encode("train").batch(torch.arange(4)), torch.tensor([0, 3, 5])
    logits = forward(model, batch, rows=rows).logits
    out = forward(model, batch, {"features", "hidden_states"}, rows)
    assert out.logits is None and len(out.hidden_states) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(out.unembedding(out.features), logits)
    assert unembedding(model) is model.get_output_embeddings()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**inputs).logits.flatten(0, 1)[rows], logits)


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_by_chunks_is_training_with_plain_logits(glosses, teacher, kind, accumulate, monkeypatch):
    monkeypatch.setattr(vocabulary, "FEWEST", 16)
    monkeypatch.setitem(vocabulary.CHUNK_BYTES, "cpu", 1)
    torch.manual_seed(0)
    student = STUDENTS[kind](glosses, teacher)
    settings = {"accumulate": accumulate, "epochs": 2, "learning_rate": 1e-4}
    runs = [
        triple_run(glosses, teacher, student=copy.deepcopy(student), chunked=chunked, **settings)
        for chunked in (True, False)
    ]
    assert [run.chunked for run in runs] == [True, False]
    for run in runs:
        run.run()
    assert [row["loss"] for row in runs[0].history] == pytest.approx(
        [row["loss"] for row in runs[1].history], abs=1e-5
    )
    for name in runs[0].term_names:
        assert [row[name] for row in runs[0].history] == pytest.approx(
            [row[name] for row in runs[1].history], abs=1e-5
        )
    # AdamW divides by a gradient's size, so that rounding counts where a gradient is 0: of the rate, not of the weight
    assert distance(weights(runs[0].student), weights(runs[1].student)) < 0.02 * 1e-4 * 12


def test_tied_embeddings_get_both_gradients(glosses, teacher):
    gradients = []
    for chunked in (True, False):
        run = triple_run(glosses, teacher, chunked=chunked)
        next(iter(run))
        assert run.student.vocab_projector.weight is run.student.get_input_embeddings().weight
        gradients.append(run.student.vocab_projector.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().sum() > 0


def test_weights_and_temperatures_may_change_between_steps(glosses, teacher):
    losses = []
    for chunked in (True, False):
        goal = copy.deepcopy(TRIPLE)
        run = triple_run(glosses, teacher, goal, chunked=chunked)
        for step in run:
            if step.number == 2:
                goal.terms[0].temperature, goal.terms[1].weight = 5, 0
            if step.number == 4:
                goal.terms[0].weight, goal.terms[1].weight = 0, 3
        losses.append([[row[name] for name in ("loss", *run.term_names)] for row in run.history])
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert losses[0][2][2] == 0 < losses[0][4][2]


def test_bf16_gives_what_plain_logits_in_bf16_give(glosses, teacher):
    runs = [
        triple_run(glosses, teacher, chunked=c, precision="bf16", learning_rate=1e-4) for c in (True, False)
    ]
    for run in runs:
        run.run()
    assert [row["loss"] for row in runs[0].history] == pytest.approx(
        [row["loss"] for row in runs[1].history], rel=5e-3
    )
    norms = [[row["grad_norm"] for row in run.history] for run in runs]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


class Sharper(SoftTargets):
    """A term of a learner's own: soft targets of a teacher that is twice as sure."""

    def forward(self, student, teacher, batch, reduction="none"):
        return super().forward(student, Outputs(2 * teacher.logits), batch, reduction)


class Shifted(LogitsMSE):
    """One that learns along: a constant for each token of the vocabulary."""

    def prepare(self, student, teacher):
        self.shift = torch.nn.Parameter(torch.zeros(student.config.vocab_size))

    def forward(self, student, teacher, batch, reduction="none"):
        return super().forward(Outputs(student.logits + self.shift), teacher, batch, reduction)


class Relations(SoftTargets):
    """One that compares tokens with each other: their mean is taken away first."""

    def forward(self, student, teacher, batch, reduction="none"):
        return super().forward(Outputs(student.logits - student.logits.mean(0)), teacher, batch, reduction)


class Miscounted(SoftTargets):
    """One that says it counts the tokens with a label, and takes all."""

    def count(self, batch):
        return MaskedLM().count(batch)


class BothNeeded(SoftTargets):
    """One that reads logits and hidden states."""

    needs = frozenset({"logits", "hidden_states"})

    def forward(self, student, teacher, batch, reduction="none"):
        assert len(student.hidden_states) == len(teacher.hidden_states) == 3
        return super().forward(student, teacher, batch, reduction)


@pytest.mark.parametrize("kind", [Sharper, Shifted])
def test_a_term_that_the_package_has_never_seen_is_chunked_like_any_other(
    glosses, teacher, kind, monkeypatch
):
    monkeypatch.setattr(vocabulary, "FEWEST", 16)
    monkeypatch.setitem(vocabulary.CHUNK_BYTES, "cpu", 1)
    runs = [
        triple_run(glosses, teacher, (kind() + 2 * MaskedLM()), chunked=chunked, learning_rate=1e-4)
        for chunked in (True, False)
    ]
    assert [run.chunked for run in runs] == [True, False]
    losses = [[row["loss"] for row in run.run()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for mine, theirs in zip(*(run.objective.parameters() for run in runs), strict=True):
        assert mine.abs().sum() > 0
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02 * 1e-4 * 6)


def test_terms_that_need_more_than_each_row_other_heads_and_other_tasks_take_the_plain_path(glosses, teacher):
    for objective in (Relations(2), MaskedLM() + Relations(2), MaskedLM() + Miscounted(2)):
        assert not triple_run(glosses, teacher, objective).chunked
    both = triple_run(glosses, teacher, BothNeeded(2), student=copy.deepcopy(teacher))
    assert not both.chunked
    both.run()
    assert not make_run(make_task(), HardLabels()).chunked
    untied = small_bert(glosses, layers=1, width=32, seed=4)
    untied.config.model_type = "of another kind"
    assert not vocabulary.can_chunk(MaskedLM(), untied, None)
    assert not vocabulary.can_chunk(CosineHidden(), teacher, teacher)
    assert vocabulary.can_chunk(MaskedLM(), teacher, None)
    assert vocabulary.can_chunk(TRIPLE, teacher, teacher)


# ------------------------------------------------------------------------------------------------ memory


def allocations(action) -> tuple[int, int]:
    """(the most bytes that were allocated at once while `action` ran, the largest single one): torch's own events."""
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profiler:
        action()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events
    held = peak = largest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak, largest = max(peak, held), max(largest, event.nbytes())
    return peak, largest


def test_the_memory_meter_sees_what_is_allocated_and_given_back():
    def action():
        for _ in range(3):
            torch.empty(1_000_000)
        a, b = torch.empty(1_000_000), torch.empty(500_000)
        del a, b

    peak, largest = allocations(action)
    assert 6_000_000 <= peak < 6_100_000
    assert largest == 4_000_000


def test_two_tables_of_logits_never_exist_at_once():
    """BERT's vocabulary, 1,500 tokens: a table of float32 logits takes 183 MB, and the plain path holds several."""
    V, length, texts = 30_522, 100, 15
    config = BertConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64
    )
    torch.manual_seed(0)
    teacher, student = BertForMaskedLM(config), BertForMaskedLM(config)
    labels = torch.where(torch.rand(texts * length) < 0.15, torch.randint(V, (texts * length,)), IGNORED)
    batch = {
        "input_ids": torch.randint(V, (texts, length)),
        "attention_mask": torch.ones(texts, length).long(),
    }
    rows, goal, factors = (
        torch.arange(texts * length),
        5 * SoftTargets(2) + 2 * MaskedLM(),
        torch.tensor([5.0, 2.0]),
    )

    def by_chunks():
        outputs = forward(student, batch, {"features"}, rows)
        with torch.no_grad():
            theirs = forward(teacher, batch, {"features"}, rows)
        vocabulary.losses(goal.terms, factors, outputs, theirs, labels)[0].backward()

    def plain():
        outputs = forward(student, batch, {"logits"}, rows)
        with torch.no_grad():
            theirs = forward(teacher, batch, {"logits"}, rows)
        (sum(t.weight * t(outputs, theirs, {"labels": labels}, "sum") for t in goal.terms)).backward()

    student.zero_grad(set_to_none=True)
    peak, largest = allocations(by_chunks)
    student.zero_grad(set_to_none=True)
    plain_peak, _ = allocations(plain)
    table = 4 * V * texts * length
    assert largest < table / 10
    assert peak < table / 2, f"{peak / 1e6:.0f} MB, a table of logits takes {table / 1e6:.0f} MB"
    assert plain_peak > 4 * table  # so that the meter would notice


# ------------------------------------------------------------------------------------------------ masks


def drawn(task, weights: Tensor | None, probability: float, times: int) -> tuple[Tensor, list[dict]]:
    """How often each token of the vocabulary was masked, and the masked batches."""
    batch = task.encode("train").batch(torch.arange(12))
    counts, batches = torch.zeros(len(task.tokenizer)), []
    for i in range(times):
        draw = torch.Generator().manual_seed(i)
        masked = mask_tokens(batch, task.tokenizer, probability, draw, weights)
        counts += torch.bincount(masked["labels"][masked["labels"] != IGNORED], minlength=len(counts))
        batches.append({"before": batch["input_ids"]} | masked)
    return counts, batches


def test_rare_words_are_masked_more_often_by_the_power_of_their_count(glosses):
    """Drawing one token a time, so that each draw is exactly in proportion to count^−0.7."""
    encoded = glosses.encode("train")
    weights = rarity(encoded, len(glosses.tokenizer), 0.7)
    batch = encoded.batch(torch.arange(12))
    special = torch.isin(batch["input_ids"], torch.tensor(glosses.tokenizer.all_special_ids))
    real = batch["input_ids"][~special].tolist()
    everywhere = [int(i) for i in encoded.ids]
    chance: dict[int, float] = {}
    for token in real:
        chance[token] = chance.get(token, 0) + everywhere.count(token) ** -0.7
    total = sum(chance.values())
    times = 4000
    counts, _ = drawn(glosses, weights, 1e-6, times)  # rounded up to one token
    assert counts.sum() == times
    assert max(chance.values()) > 2 * min(chance.values())
    for token, share in chance.items():
        expected = times * share / total
        assert abs(float(counts[token]) - expected) < 4.5 * expected**0.5, token
    assert counts.sum() == sum(float(counts[token]) for token in chance), "specials and padding never"


@pytest.mark.parametrize("exponent", [0, 0.7])
def test_either_way_so_many_are_masked_and_80_10_10(glosses, exponent):
    weights = rarity(glosses.encode("train"), len(glosses.tokenizer), exponent) if exponent else None
    counts, batches = drawn(glosses, weights, 0.3, 600)
    specials = torch.tensor(glosses.tokenizer.all_special_ids)
    real = int((~torch.isin(batches[0]["before"], specials)).sum())
    assert counts[specials].sum() == 0
    masked = int(counts.sum())
    if exponent:
        assert masked == 600 * -int(-0.3 * real // 1), "a fixed number, rounded up"
    assert masked / (600 * real) == pytest.approx(0.3, abs=0.02)
    chosen = [b["labels"] != IGNORED for b in batches]
    for before, after, where in ((b["before"], b, c) for b, c in zip(batches, chosen, strict=True)):
        assert torch.equal(after["labels"][where], before[where])
        assert torch.equal(after["input_ids"][~where], before[~where])
    mask = sum(
        int((b["input_ids"][c] == glosses.tokenizer.mask_token_id).sum())
        for b, c in zip(batches, chosen, strict=True)
    )
    kept = sum(int((b["input_ids"] == b["before"])[c].sum()) for b, c in zip(batches, chosen, strict=True))
    assert mask / masked == pytest.approx(0.8, abs=0.015)
    assert kept / masked == pytest.approx(0.1, abs=0.015)


def test_a_batch_of_nothing_but_specials_has_nothing_to_mask(glosses):
    weights = rarity(glosses.encode("train"), len(glosses.tokenizer))
    batch = glosses.encode_texts(["", ""]).batch(torch.arange(2))
    masked = mask_tokens(batch, glosses.tokenizer, 0.15, torch.Generator().manual_seed(0), weights)
    assert torch.equal(masked["input_ids"], batch["input_ids"])
    assert (masked["labels"] == IGNORED).all()


def test_rare_words_depend_on_seed_and_step_alone_however_a_batch_is_shared(glosses):
    encoded = glosses.encode("train")
    [whole] = Batches(glosses, encoded, 8, rare_words=0.7)[3]
    [again] = Batches(glosses, encoded, 8, rare_words=0.7)[3]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    [plain] = Batches(glosses, encoded, 8)[3]
    assert not torch.equal(plain["input_ids"], whole["input_ids"])
    for world in (2, 4):
        parts = [
            Batches(glosses, encoded, 8, rank=r, world=world, accumulate=2, rare_words=0.7)[3]
            for r in range(world)
        ]
        seen = 0
        for piece in (piece for part in parts for piece in part):
            for row, index in enumerate(piece["index"]):
                [there] = (whole["index"] == index).nonzero()[:, 0].tolist()
                length = int(piece["attention_mask"][row].sum())
                assert torch.equal(piece["input_ids"][row, :length], whole["input_ids"][there, :length])
                seen += 1
        assert seen == 8


def test_rare_words_belong_to_a_run_and_to_masked_lm(glosses, teacher, tmp_path):
    triple_run(glosses, teacher, rare_words=0.7, folder=tmp_path).run()
    with pytest.raises(KDTutorError, match=r"another rare_words: 0\.7, now 0\.0"):
        triple_run(glosses, teacher, folder=tmp_path).resume()
    with pytest.raises(
        KDTutorError, match="rare_words says which tokens to mask, but tiny is a classification"
    ):
        make_run(make_task(), HardLabels(), rare_words=0.7)
    for wrong in (-0.1, float("nan"), "0.7", True):
        with pytest.raises(KDTutorError, match="rare_words must be an exponent, 0 or more"):
            triple_run(glosses, teacher, rare_words=wrong)


# ------------------------------------------------------------------------------------------------ several processes

SHARED = """
import sys
from test_pretraining import *
torch.set_num_threads(1)
{what}({folder!r})
torch.distributed.destroy_process_group()
"""


def call_in(world: int, what: str, folder) -> list[subprocess.CompletedProcess]:
    """Call `what` of this file in so many processes, and wait until all have ended."""
    return processes(world, SHARED.format(what=what, folder=str(folder)))


def shared_run(folder=None, **settings) -> Distillation:
    """DistilBERT's objective on 9 steps; every third batch has one text, so that most processes have none."""
    task = make_task("masked-lm", rows=17)
    teacher = small_bert(task, layers=2, width=32, seed=3)
    settings = {"epochs": 3, "learning_rate": 1e-4, "rare_words": 0.7, "accumulate": 2} | settings
    return triple_run(task, teacher, folder=folder, save_every=6, **settings)


def straight_and_stopped(folder: str) -> None:
    """One run to its end, and one that stops after 6 steps."""
    shared_run(Path(folder, "straight")).run()
    take(shared_run(Path(folder, "stopped")), 6)


def straight_and_resumed(folder: str) -> None:
    """One run to its end, one that is stopped and resumed, and one that resumes what other processes began."""
    straight = shared_run()
    straight.run()
    take(shared_run(Path(folder, "mine")), 6)
    resumed = shared_run(Path(folder, "mine")).resume()
    assert resumed.done == 6
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student)), "with as many processes, bit for bit"
    others = shared_run(Path(folder, "stopped")).resume()
    assert others.done == 6
    others.run()


@pytest.mark.slow
def test_two_and_four_processes_give_what_one_gives_and_resume_each_others_checkpoints(tmp_path):
    for world, what in ((4, "straight_and_stopped"), (2, "straight_and_resumed")):
        results = call_in(world, what, tmp_path)
        assert [result.returncode for result in results] == [0] * world, results[0].stderr
    alone = shared_run()
    alone.run()

    def at(name: str) -> tuple[dict, list[dict]]:
        newest = checkpoints.found(tmp_path / name)[-1]
        assert newest.name == "checkpoint-0000009"
        model = DistilBertForMaskedLM.from_pretrained(newest)
        return weights(model), checkpoints.read(newest, "cpu").history

    for name in ("straight", "mine", "stopped"):  # by four; by two; by four, then two
        theirs, history = at(name)
        assert [row["loss"] for row in history] == pytest.approx([r["loss"] for r in alone.history], abs=2e-5)
        assert [row["tokens"] for row in history] == [row["tokens"] for row in alone.history]
        # a hundredth of what 9 steps at this rate can move a weight; AdamW enlarges rounding where a gradient is 0
        assert distance(theirs, weights(alone.student)) < 0.01 * 9e-4
    for old in checkpoints.found(tmp_path / "straight")[1:]:
        shutil.rmtree(old)
    resumed = shared_run(tmp_path / "straight").resume()  # what four began
    assert resumed.done == 6
    resumed.run()
    assert distance(weights(resumed.student), weights(alone.student)) < 0.01 * 9e-4


def test_accumulated_gradients_are_those_of_the_large_batch(glosses, teacher):
    gradients = []
    for accumulate in (1, 2, 5):
        run = triple_run(glosses, teacher, accumulate=accumulate, batch_size=16, max_norm=1e9)
        take(run, 1)
        assert len(run.batches[0]) == accumulate
        gradients.append({name: p.grad.clone() for name, p in run.student.named_parameters()})
    for others in gradients[1:]:
        for name, gradient in others.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=2e-6)


def dies_in_the_middle(folder: str) -> None:
    run = shared_run(folder)
    for step in run:
        if step.number == 7 and run.accelerator.process_index == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_process_that_dies_in_the_middle_is_a_clear_error_on_every_other_and_nothing_is_lost(tmp_path):
    results = call_in(4, "dies_in_the_middle", tmp_path)
    assert results[2].returncode == -signal.SIGKILL
    for rank in (0, 1, 3):
        assert results[rank].returncode == 1
        assert f"process {rank} waited for the others, and one is gone" in results[rank].stderr
        assert "--resume" in results[rank].stderr
    assert shared_run(tmp_path).resume().done == 6


def write_corpus(folder: Path) -> Path:
    """Raw text in three files, as `--task` takes it."""
    folder.mkdir()
    for name, part in make_task("masked-lm", rows=40).splits.items():
        lines = [json.dumps({"text": text}) for text in part.texts[0]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A `distill` command line with a small teacher and a small corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    task = load_task(write_corpus(folder / "texts"), text="text", max_length=24)
    small_bert(task, layers=2, width=32, dropout=0.0, seed=3).save_pretrained(folder / "teacher")
    return [
        *("distill", "--task", str(folder / "texts"), "--text", "text", "--max_length", "24"),
        *("--teacher", str(folder / "teacher"), "--objective", repr(TRIPLE), "--dropout", "0"),
        *("--rare_words", "0.7", "--batch_size", "8", "--steps", "6", "--save_every", "3"),
        *("--learning_rate", "1e-4", "--precision", "fp32"),
    ]


DIVIDED = ("--use_fsdp", "--fsdp_version", "2")


def accelerate_launch(world: int, kind: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess:
    """What starts processes for so many GPUs, on CPUs: with --cpu, accelerate starts one only, or asks MPI for more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [
        *kind,
        "--num_processes",
        str(world),
        "--num_machines",
        "1",
        "--main_process_port",
        port,
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launcher, "-m", "kdtutor", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("--multi_gpu",), DIVIDED], ids=["replicated", "divided"])
def test_accelerate_launch_distils_as_one_process_does(command, tmp_path, kind):
    done = accelerate_launch(2, kind, *command, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("divided among 2 processes (FSDP)" in done.stdout) == (kind is DIVIDED)
    assert cli.main([*command, "--output", str(tmp_path / "one")]) == 0
    one, two = (DistilBertForMaskedLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert distance(weights(one), weights(two)) < 0.01 * 6e-4
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("one", "two")]
    assert cards[0]["tokens"] == cards[1]["tokens"]
    assert cards[0]["settings"]["rare_words"] == 0.7
    assert cards[0]["scores"]["test"]["loss"] == pytest.approx(cards[1]["scores"]["test"]["loss"], abs=1e-4)
    assert done.stdout.count("saved to") == 1, "one process speaks and writes"


# ------------------------------------------------------------------------------------------------ plans


def even_task(kind: str = "masked-lm", rows: int = 64, words: int = 60) -> Task:
    """Texts of one length, so that the largest micro-batch is every micro-batch."""
    texts = [" ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(words)) for i in range(rows)]
    split = Split((texts,), None if kind == "masked-lm" else torch.arange(rows) % 3)
    labels = () if kind == "masked-lm" else ("animal", "food", "plant")
    return Task("even", kind, labels, dict.fromkeys(("train", "validation", "test"), split), max_length=64)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (TRIPLE, {}),
        (TRIPLE, {"batch_size": 8}),
        (TRIPLE, {"accumulate": 4}),
        (TRIPLE, {"chunked": False, "batch_size": 8}),
        (MaskedLM(), {}),
        (HardLabels() + SoftTargets(2), {}),
    ],
    ids=["triple", "small batch", "accumulated", "plain logits", "pretrain", "classification"],
)
def test_the_memory_estimate_is_held_to_what_two_steps_take(objective, settings):
    """Between 5 % under and 35 % over what torch had allocated at the most."""
    masked = any(isinstance(term, MaskedLM) for term in objective.terms)
    task = even_task("masked-lm" if masked else "classification")
    teacher = small_bert(task, layers=2, width=128, seed=1, dropout=0) if objective.needs_teacher else None
    student = half_depth(teacher, seed=2) if teacher else small_bert(task, layers=2, width=128, seed=2)
    settings = {"batch_size": 32, "precision": "fp32"} | settings
    before = weights(student)
    planned = plan(student, teacher, task, objective, measure=False, **settings)
    assert same(weights(student), before)
    steps = iter(Distillation(student, teacher, task, objective, progress=False, **settings))
    peak, _ = allocations(lambda: (next(steps), next(steps)))
    models = [student, teacher] if teacher else [student]
    measured = peak + 4 * sum(p.numel() for model in models for p in model.parameters())
    assert 0.95 * measured < sum(planned.memory.values()) < 1.35 * measured
    assert planned.memory["AdamW's moments"] == 2 * planned.memory["student's weights"]


def test_a_plan_counts_what_the_run_will_do_and_leaves_everything_as_it_was(glosses, teacher):
    student = half_depth(teacher, seed=4)
    before, state = weights(student), torch.get_rng_state()
    settings = {"epochs": 1.5, "batch_size": 8, "accumulate": 2, "learning_rate": 1e-3, "precision": "fp32"}
    planned = plan(student, teacher, glosses, TRIPLE, **settings)
    assert same(weights(student), before) and student.training
    assert torch.equal(torch.get_rng_state(), state)
    run = Distillation(student, teacher, glosses, TRIPLE, **settings)
    history = run.run()
    assert planned.steps == len(history) == 9
    assert planned.tokens == sum(row["tokens"] for row in history)
    assert planned.micro_batch == max(len(part["index"]) for step in range(9) for part in run.batches[step])
    assert planned.length == int(run.batches.data.lengths.max())
    assert planned.seconds == pytest.approx(planned.tokens / planned.tokens_per_second)
    assert "tokens a second, measured on 3 steps of 4 texts (cpu)" in planned.time or run.device.type != "cpu"


def test_a_plan_for_1_8_and_64_devices_counts_the_network_and_draws_out_what_one_was_measured_to_take():
    task = make_task(rows=64)
    student = small_bert(task, 1, 32)
    gradients = 4 * sum(p.numel() for p in student.parameters())
    device = Accelerator().device.type
    settings = {"batch_size": 64, "steps": 3, "precision": "fp32", "bandwidth": 0.5}
    for count, sent in ((1, 0), (8, 2 * 7 * gradients // 8), (64, 2 * 63 * gradients // 64)):
        made = plan(student, None, task, HardLabels(), launch=Launch(count, device, False), **settings)
        assert (made.network, made.micro_batch) == (sent, 64 // count)
        assert made.seconds == pytest.approx(made.tokens / made.tokens_per_second + 3 * sent / 0.5e9)
        assert (f"by 1 of {count} processes" in made.time) == ("network" in str(made)) == (count > 1)
    assert (
        f"{format_bytes(sent)} per process and step, {1000 * sent / 0.5e9:.1f} ms at 0.5 GB a second"
        in str(made)
    )
    with pytest.raises(KDTutorError, match="bandwidth"):
        plan(student, None, task, HardLabels(), bandwidth=0)


def test_a_plan_for_a_cached_teacher_counts_its_answers_and_the_asking(tmp_path):
    task = make_task()
    planned = plan(small_bert(task, 1, 32), small_bert(task, 1, 32), task, HardLabels() + SoftTargets(2))
    assert planned.memory["teacher's answers"] == 4 * 44 * 3
    assert "of it asking the teacher" in planned.time
    online = plan(
        small_bert(task, 1, 32), small_bert(task, 1, 32), task, SoftTargets(2), cache=False, measure=False
    )
    assert "teacher's answers" not in online.memory
    assert online.time == "not measured"


def test_a_plan_for_the_k_largest_counts_what_they_take_and_writes_nothing(glosses, teacher, tmp_path):
    planned = plan(half_depth(teacher), teacher, glosses, SOFT_AND_HARD, cache="topk:5", precision="fp32")
    run = triple_run(glosses, teacher, SOFT_AND_HARD, cache="topk:5", steps=1)
    kept = run.answers
    assert planned.memory["teacher's answers"] == kept.log_p.nbytes + kept.tokens.nbytes
    assert "of it asking the teacher" in planned.time
    on_disk = plan(half_depth(teacher), teacher, glosses, SOFT_AND_HARD, cache=TopK(5, tmp_path / "answers"))
    assert on_disk.memory["teacher's answers"] == kept.total * (5 + 5 + 1) * 4
    assert "of it asking the teacher" in on_disk.time
    assert not [*tmp_path.iterdir()]
    with pytest.raises(KDTutorError, match="CosineHidden needs more"):
        plan(half_depth(teacher), teacher, glosses, TRIPLE, cache="topk:5")


@pytest.mark.parametrize("command", ["pretrain", "finetune", "distill"])
def test_a_dry_run_prints_the_plan_and_writes_nothing(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = "sentiment" if command == "finetune" else "glosses"
    arguments = ["--task", task, "--subset", "40", "--steps", "3", "--batch_size", "4", "--dry-run"]
    if command == "pretrain":
        arguments += ["--layers", "1", "--width", "32"]
    if command == "distill":
        config = asset_path("models/bert-glosses/config.json").read_text(encoding="utf-8")
        width = json.loads(config)["hidden_size"]  # CosineHidden compares vectors of equal size
        arguments += [
            "--student",
            "small-bert",
            "--layers",
            "1",
            "--width",
            str(width),
            "--objective",
            repr(TRIPLE),
        ]
    assert cli.main([command, *arguments]) == 0
    said = capsys.readouterr().out
    for line in ("steps", "tokens", "memory", "  student's weights", "  activations", "time"):
        assert f"\n{line} " in said, line
    assert "3 of 4 texts" in said
    assert ("teacher's weights" in said) == (command == "distill")
    assert not [*tmp_path.iterdir()]


SCALE = asset_path("recipes/scale")
LAUNCHES = {"one-gpu": (1, 128), "eight-gpus": (8, 128), "four-nodes": (32, 128)}  # processes, micro-batch


def test_every_configuration_is_known_here():
    assert {path.stem for path in SCALE.iterdir()} == {*LAUNCHES, "distilbert-base"}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_configuration_is_read_by_accelerate_and_its_command_runs_dry(name, tmp_path, capsys, monkeypatch):
    """With a small teacher and corpus of ours in the place of the Hub's."""
    first = (SCALE / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split()
    inner = first.index("kdtutor")
    outer = launch_command_parser().parse_args([*first[2:inner], "kdtutor"])
    assert outer.module and outer.config_file == f"{name}.yaml"
    read = load_config_from_file(str(SCALE / outer.config_file))
    assert (read.num_processes, read.mixed_precision, read.use_cpu) == (LAUNCHES[name][0], "bf16", False)
    assert read.num_processes == read.num_machines * (8 if read.num_processes > 1 else 1)

    rows = 4096  # one whole step
    task = make_task("masked-lm", rows=rows)
    texts = tmp_path / "texts"
    texts.mkdir()
    for split, part in task.splits.items():
        lines = [json.dumps({"text": text}) for text in part.texts[0]]
        (texts / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task.tokenizer.save_pretrained(tmp_path / "tokenizer")
    big = load_task(texts, text="text", max_length=128)
    small_bert(big, layers=2, width=32, seed=3).save_pretrained(tmp_path / "teacher")
    ours = ["--task", str(texts), "--teacher", str(tmp_path / "teacher")]
    ours += ["--tokenizer", str(tmp_path / "tokenizer")]
    monkeypatch.chdir(SCALE)
    assert cli.main([*first[inner + 1 :], *ours, "--dry-run", "--launch", f"{name}.yaml"]) == 0
    said = capsys.readouterr().out
    processes, micro = LAUNCHES[name]
    assert "3 of 4,096 texts" in said
    assert f" × {micro} texts of at most" in said
    assert (f"{processes} × " in said) == (processes > 1)
    assert ("gradients on their way" in said) == (processes > 1)
    if not torch.cuda.is_available():
        assert "not estimated: meant for cuda, and this machine has none" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no launch configuration"),
        ("num_processes: eight", "is no configuration of accelerate|num_processes"),
        ("nonsense: 1\nnum_processes: 1\nuse_cpu: true\nmixed_precision: bf16", "is no configuration"),
        ("distributed_type: 'NO'\nnum_processes: 1\nuse_cpu: true\nmixed_precision: fp16", "bf16 or no"),
        (
            "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 16\nuse_cpu: false\n"
            "mixed_precision: bf16",
            "main_process_ip",
        ),
    ],
)
def test_a_launch_configuration_that_cannot_work_is_named(content, message, tmp_path):
    file = tmp_path / "launch.yaml"
    if content is not None:
        file.write_text(f"compute_environment: LOCAL_MACHINE\n{content}\n", encoding="utf-8")
    with pytest.raises(KDTutorError, match=message) as error:
        read_launch(file)
    assert "launch.yaml" in str(error.value)


# ------------------------------------------------------------------------------------------------ refusals


def refusals(folder: Path) -> dict[str, tuple[str, Callable]]:
    """What can't work, by name: a pattern of what is said, and how to provoke it."""
    task = make_task("masked-lm", rows=17)
    teacher = small_bert(task, layers=2, width=32, seed=3)

    def wider_vocabulary() -> None:
        student = half_depth(teacher)
        student.resize_token_embeddings(len(task.tokenizer) + 64)
        triple_run(task, teacher, student=student)

    def resumed(**changes) -> None:
        shared_run(folder, **changes).resume()

    def resumed_with(task=task, teacher=teacher, objective=TRIPLE, **changes) -> None:
        settings = {"epochs": 3, "learning_rate": 1e-4, "rare_words": 0.7, "accumulate": 2} | changes
        triple_run(task, teacher, objective, folder=folder, save_every=6, **settings).resume()

    other, known = make_task("masked-lm", rows=16), len(task.tokenizer)
    return {
        "vocabularies": (
            f"the student's vocabulary has {known + 64} tokens and the teacher's {known}: their logits",
            wider_vocabulary,
        ),
        "layer map": (
            r"the student has no hidden states \[2\], only 0 \(embeddings\) to 1",
            lambda: triple_run(task, teacher, MaskedLM() + HiddenStates({2: 2})),
        ),
        "teacher's layer": (
            r"the teacher has no hidden states \[7\], only 0 \(embeddings\) to 2",
            lambda: triple_run(task, teacher, HiddenStates({1: 7})),
        ),
        "depth": ("a student of 3 layers can't be cut from a teacher of 2", lambda: half_depth(teacher, 3)),
        "heads": (
            "width 32 is not divisible by 5 heads",
            lambda: small_bert(task, layers=1, width=32, heads=5),
        ),
        "positions": (
            'the student has 16 positions, but "tiny" allows 24 tokens per text',
            lambda: triple_run(task, teacher, student=small_bert(replace(task, max_length=16), 1, 32)),
        ),
        "roberta's positions": (
            'the student has 23 positions, but "tiny" allows 24 tokens per text',
            lambda: triple_run(task, teacher, MaskedLM(), student=roberta(task, positions=24)),
        ),
        "width": (
            "CosineHidden compares hidden states of one width",
            lambda: triple_run(task, teacher, student=small_bert(task, 1, 64)),
        ),
        "another objective": (
            "another objective: 5 .*, now 4 ",
            lambda: resumed_with(objective=4 * SoftTargets(2) + 2 * MaskedLM() + CosineHidden()),
        ),
        "another kind of task": (
            'the student is a DistilBertForMaskedLM, but "tiny" is a classification task',
            lambda: resumed_with(make_task(rows=17), objective=HardLabels()),
        ),
        "another task": (
            r"another task: tiny \w+, now other",
            lambda: resumed_with(make_task("masked-lm", rows=17, name="other")),
        ),
        "other data": (r"another task: tiny \w+, now tiny \w+", lambda: resumed_with(other, steps=9)),
        "another teacher": (
            "another teacher",
            lambda: resumed_with(teacher=small_bert(task, layers=2, width=32, seed=8)),
        ),
        "another architecture": (
            "another student: DistilBertForMaskedLM, .*, now BertForMaskedLM",
            lambda: resumed_with(student=small_bert(task, 1, 32)),
        ),
        "other masks": (r"another masking: 0\.15, now 0\.3", lambda: resumed(masking=0.3)),
    }


def refuse_all(folder: str) -> None:
    """Write what this process was told, one message for each refusal."""
    said = {}
    for name, (_, provoke) in refusals(Path(folder)).items():
        try:
            provoke()
            said[name] = "nothing"
        except KDTutorError as error:
            said[name] = str(error)
    Path(folder, f"said-{os.environ['RANK']}").write_text(json.dumps(said))


def test_what_cannot_work_is_refused_and_named(tmp_path):
    take(shared_run(tmp_path), 6)
    before = (tmp_path / "checkpoint-0000006" / "state.json").read_bytes()
    for name, (pattern, provoke) in refusals(tmp_path).items():
        with pytest.raises(KDTutorError, match=pattern):
            provoke()
            pytest.fail(f"{name} was not refused")
    assert (tmp_path / "checkpoint-0000006" / "state.json").read_bytes() == before
    assert shared_run(tmp_path).resume().done == 6, "nothing is lost"


@pytest.mark.slow
def test_every_process_is_told(tmp_path):
    take(shared_run(tmp_path), 6)
    results = call_in(2, "refuse_all", tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    said = [json.loads((tmp_path / f"said-{rank}").read_text()) for rank in range(2)]
    for name, (pattern, _) in refusals(tmp_path).items():
        for rank in range(2):
            assert re.search(pattern, said[rank][name]), (name, rank, said[rank][name])


def test_a_checkpoint_with_another_tokenizer_another_architecture_or_impossible_heads_is_refused(
    glosses, tmp_path
):
    small_bert(glosses, 1, 32, seed=1).save_pretrained(tmp_path / "model")
    glosses.tokenizer.save_pretrained(tmp_path / "model")
    load_model(tmp_path / "model", glosses)

    file = tmp_path / "model" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary_of_it = content["model"]["vocab"]
    a, b = list(vocabulary_of_it)[100:102]
    vocabulary_of_it[a], vocabulary_of_it[b] = vocabulary_of_it[b], vocabulary_of_it[a]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(KDTutorError, match='model has another tokenizer than "tiny": load_task'):
        load_model(tmp_path / "model", glosses)
    glosses.tokenizer.save_pretrained(tmp_path / "model")

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for changes, message in (
        ({"model_type": "distilbert"}, "is no DistilBertForMaskedLM: .* parameters are missing"),
        ({"model_type": "gpt2"}, "model"),
        ({"num_attention_heads": 5}, "attention heads"),
        (
            {"num_hidden_layers": 3},
            "is no BertForMaskedLM: .* parameters are missing, such as bert.encoder.layer.1",
        ),
    ):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(KDTutorError, match=message):
            load_model(tmp_path / "model", glosses)


# ------------------------------------------------------------------------------------------------ the k largest

SOFT_AND_HARD = 3 * SoftTargets(2) + 2 * MaskedLM()


def test_with_all_logits_kept_the_cached_teacher_is_the_teacher(glosses, teacher):
    """k = V, and an online run with the same fixed masks: they differ by the rounding of float16 alone."""
    kept = triple_run(glosses, teacher, SOFT_AND_HARD, cache=TopK(len(glosses.tokenizer)), epochs=2)
    online = triple_run(glosses, teacher, SOFT_AND_HARD, epochs=2)
    online.batches.fix_masks()
    kept.run(), online.run()
    assert "0.00% of its probability at temperature 2 is left out; masks are fixed" in kept.teacher_mode
    assert [r["loss"] for r in kept.history] == pytest.approx([r["loss"] for r in online.history], rel=1e-3)
    assert [r["MaskedLM"] for r in kept.history] == pytest.approx(
        [r["MaskedLM"] for r in online.history], rel=1e-3
    )


def test_the_k_largest_are_scaled_up_to_one_and_what_is_left_out_is_said(glosses, teacher):
    run = triple_run(glosses, teacher, SOFT_AND_HARD, cache="topk:5", steps=1)
    student = copy.deepcopy(run.student)
    [batch] = run.batches[0]
    rows = batch["rows"]
    with torch.no_grad():
        z_t = forward(run.teacher, batch, rows=rows).logits.double()
        z_s = forward(student, batch, rows=rows).logits.double()
    best = z_t.topk(5)
    p_t = (best.values / 2).softmax(-1)
    log_p_s = (z_s / 2).log_softmax(-1).gather(-1, best.indices)
    expected = 4 * (p_t * (p_t.log() - log_p_s)).sum(-1).mean()
    run.run()
    assert run.history[0]["SoftTargets"] == pytest.approx(float(expected), rel=1e-3)
    said = float(re.search(r"([\d.]+)% of its probability", run.teacher_mode)[1]) / 100
    left, tokens = 0.0, 0
    for index in torch.arange(len(run.batches.data)).split(8):
        part = run.batches.labelled(index)
        rows = part["attention_mask"].flatten().nonzero()[:, 0]
        with torch.no_grad():
            p = (forward(run.teacher, part, rows=rows).logits.double() / 2).softmax(-1)
        left, tokens = left + float((1 - p.topk(5).values.sum(-1)).sum()), tokens + len(rows)
    assert said == pytest.approx(left / tokens, abs=1e-4)
    assert 0.1 < said < 1


def test_fixed_masks_are_the_same_every_epoch_and_drawn_anew_ones_are_not(glosses, teacher):
    fixed = triple_run(glosses, teacher, SOFT_AND_HARD, cache="topk:5", rare_words=0.7, batch_size=44)
    anew = triple_run(glosses, teacher, SOFT_AND_HARD, batch_size=44)

    def seen(run, step: int) -> dict[int, list[int]]:
        [batch] = run.batches[step]
        rows = zip(batch["index"].tolist(), batch["input_ids"], batch["attention_mask"], strict=True)
        return {index: ids[mask.bool()].tolist() for index, ids, mask in rows}

    assert seen(fixed, 0) == seen(fixed, 1)
    assert seen(anew, 0) != seen(anew, 1)


def test_a_cached_run_resumes_bit_identical_and_not_with_another_cache(glosses, teacher, tmp_path):
    settings = {"cache": "topk:5", "epochs": 2}
    straight = triple_run(glosses, teacher, SOFT_AND_HARD, **settings)
    straight.run()
    take(triple_run(glosses, teacher, SOFT_AND_HARD, folder=tmp_path, **settings), 6)
    settings["cache"] = TopK(5, tmp_path / "answers")  # the same logits, kept elsewhere
    resumed = triple_run(glosses, teacher, SOFT_AND_HARD, folder=tmp_path, **settings).resume()
    for other in ("topk:6", f"topk:6:{tmp_path / 'answers'}", True):
        with pytest.raises(KDTutorError, match="another cache: topk:5, now"):
            triple_run(glosses, teacher, SOFT_AND_HARD, folder=tmp_path, epochs=2, cache=other).resume()
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student))


def kept_run(kind: str = "masked-lm", objective=None, **settings):
    """A run of a task whose tokens have logits, with a teacher that is always the same."""
    task = settings.pop("task", None) or make_task(kind)
    teacher = model(task, seed=settings.pop("teacher", 9))
    return make_run(task, objective or SoftTargets(2), teacher=teacher, **settings)


def losses(run) -> list[float]:
    return [row["loss"] for row in run.run()]


@pytest.mark.parametrize("kind", ["masked-lm", "causal-lm", "seq2seq"])
def test_the_k_largest_on_disk_are_asked_for_once_and_teach_to_the_digit_what_those_in_memory_do(
    kind, tmp_path, monkeypatch
):
    in_memory, first = kept_run(kind, cache="topk:5"), kept_run(kind, cache=TopK(5, tmp_path))
    monkeypatch.setattr(Inference, "outputs", lambda *_: pytest.fail("the teacher was asked again"))
    second = kept_run(kind, cache=f"topk:5:{tmp_path}")
    assert losses(in_memory) == losses(first) == losses(second)
    assert same(weights(in_memory.student), weights(second.student))
    assert first.teacher_mode == second.teacher_mode
    where, told = second.teacher_mode.split(" MB: ")
    assert f"tokens cached in {tmp_path}, " in where
    assert re.match(r"[\d.]+% of its probability at temperature 2 is left out", told)
    assert told == in_memory.teacher_mode.split(" MB: ")[1]
    assert len([*tmp_path.glob("[!.]*")]) == 1


def test_the_k_largest_on_disk_belong_to_one_teacher_text_mask_precision_k_and_temperature(tmp_path):
    base = TopK(5, tmp_path)
    for other in (
        {},
        {"epochs": 2, "batch_size": 4, "learning_rate": 0.1},  # of these the teacher's answers know nothing
        {"teacher": 10},
        {"task": make_task("masked-lm").subset(20)},
        {"split": "validation"},
        {"precision": "bf16"},
        {"fast": False},
        {"seed": 1},
        {"masking": 0.3},
        {"rare_words": 0.7},
        {"cache": TopK(6, tmp_path)},
        {"objective": SoftTargets(3)},  # of which more is left out
    ):
        kept_run(**{"cache": base} | other)
    assert len([*tmp_path.glob("[!.]*")]) == 11
    # Without masks the seed changes nothing of what the teacher reads.
    for seed in (0, 1):
        kept_run("causal-lm", cache=base, seed=seed)
    assert len([*tmp_path.glob("[!.]*")]) == 12


def test_the_k_largest_on_disk_that_are_not_what_was_written_are_named_and_never_used(tmp_path):
    kept_run(cache=TopK(6, tmp_path))
    [of_six] = tmp_path.glob("[!.]*")
    kept_run(cache=TopK(5, tmp_path))
    [file] = {*tmp_path.glob("[!.]*")} - {of_six}
    whole = file.read_bytes()
    changed = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 1999))
    for damaged in (whole[:-40], whole[:-32], b"", bytes(len(whole)), of_six.read_bytes(), *changed):
        file.write_bytes(damaged)
        with pytest.raises(KDTutorError, match=f"{file.name} is damaged .*; delete it"):
            kept_run(cache=TopK(5, tmp_path))
    file.unlink()
    kept_run(cache=TopK(5, tmp_path))
    assert file.read_bytes() == whole


def test_a_killed_build_of_the_k_largest_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("kdtutor.training.top_logits.ASKED_AT_ONCE", 8)
    monkeypatch.setattr("kdtutor.training.asking.FLUSH_EVERY", 0)
    asked, real = [], TopLogits._largest

    def dies_at_the_fourth(answers, index):
        asked.append(index)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(answers, index)

    monkeypatch.setattr(TopLogits, "_largest", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        kept_run(cache=TopK(5, tmp_path))
    assert not [*tmp_path.glob("teacher-*.npy")]
    run = kept_run(cache=TopK(5, tmp_path))
    assert torch.equal(torch.cat(asked[:3] + asked[4:]), torch.arange(ROWS)), (
        "the first three were not asked again"
    )
    in_memory = kept_run(cache=TopK(5))
    assert torch.equal(run.answers.log_p, in_memory.answers.log_p.float())
    assert torch.equal(run.answers.tokens, in_memory.answers.tokens.float())
    assert run.teacher_mode.split(" MB: ")[1] == in_memory.teacher_mode.split(" MB: ")[1]


def test_logits_that_are_not_finite_are_not_kept_on_disk(tmp_path):
    task = make_task("masked-lm")
    broken = model(task, seed=9)
    with torch.no_grad():
        broken.get_output_embeddings().bias[7] = float("nan")
    with pytest.raises(KDTutorError, match="the teacher's logits are not finite"):
        make_run(task, SoftTargets(2), teacher=broken, cache=TopK(5, tmp_path))
    assert not [*tmp_path.glob("teacher-*.npy")]


SHARED_LARGEST = """
from test_pretraining import *
torch.set_num_threads(1)
monkeypatch = pytest.MonkeyPatch()
monkeypatch.setattr("kdtutor.training.top_logits.ASKED_AT_ONCE", 4)
run = kept_run(cache=TopK(5, {folder!r} + "/answers"))
torch.save([run.answers.log_p.clone(), run.answers.tokens.clone()], {folder!r} + "/seen-" + os.environ["RANK"])
"""


@pytest.mark.slow
def test_two_processes_share_the_k_largest_on_disk_and_one_writes(tmp_path):
    results = processes(2, SHARED_LARGEST.format(folder=str(tmp_path)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    alone = kept_run(cache=TopK(5)).answers
    for rank in range(2):
        log_p, tokens = torch.load(tmp_path / f"seen-{rank}", weights_only=True)
        torch.testing.assert_close(log_p, alone.log_p.float(), rtol=0, atol=2e-3)
        assert (tokens == alone.tokens).float().mean() > 0.99
    assert len([*(tmp_path / "answers").glob("teacher-*")]) == 1


def test_where_the_k_largest_cannot_stand_in_they_are_refused_with_the_reason(glosses, teacher, monkeypatch):
    known = len(glosses.tokenizer)
    for objective, settings, reason in (
        (TRIPLE, {}, "CosineHidden needs more of the teacher than probabilities"),
        (LogitsMSE() + MaskedLM(), {}, "LogitsMSE needs more of the teacher"),
        (SOFT_AND_HARD, {"chunked": False}, "chunked=True alone"),
        (SOFT_AND_HARD, {"cache": f"topk:{known + 1}"}, f"the vocabulary has {known} tokens only"),
        (SOFT_AND_HARD, {"cache": "topk:0"}, "a whole number of logits, 1 or more"),
        (SOFT_AND_HARD, {"cache": "topk:5:"}, "topk's folder must be the name of a folder, not ''"),
        (SOFT_AND_HARD, {"cache": "topk:many"}, "a whole number of logits, 1 or more, not 'many'"),
    ):
        with pytest.raises(KDTutorError, match=reason):
            triple_run(glosses, teacher, objective, **({"cache": "topk:5"} | settings))
    with pytest.raises(KDTutorError, match="tiny is a classification task: cache=True keeps all"):
        make_run(make_task(), cache="topk:5")
    monkeypatch.setattr("kdtutor.training.top_logits.memory", lambda: (2000, 1000))
    with pytest.raises(KDTutorError, match=r"take 0\.0 GB, and 0\.0 GB are free: take fewer"):
        triple_run(glosses, teacher, SOFT_AND_HARD, cache="topk:5")
