"""Distilling at pre-training: the vocabulary's losses chunk by chunk, masks, several processes, plans, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from test_distillation import distance, make_run, make_task, weights
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from kdtutor import vocabulary
from kdtutor.batches import Batches
from kdtutor.data import IGNORED, mask_tokens, rarity
from kdtutor.errors import KDTutorError
from kdtutor.models import Outputs, forward, half_depth, projection, small_bert
from kdtutor.objectives import (
    CosineHidden,
    HardLabels,
    LogitsMSE,
    MaskedLM,
    SoftCrossEntropy,
    SoftTargets,
    UniformTargets,
)

TRIPLE = 5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()


@pytest.fixture(scope="module")
def glosses():
    return make_task("masked-lm")


@pytest.fixture(scope="module")
def teacher(glosses):
    return small_bert(glosses, layers=2, width=32, seed=3)


def triple_run(glosses, teacher, objective=TRIPLE, **settings):
    student = settings.pop("student", None) or half_depth(teacher, seed=4)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = settings.get("dropout", 0.0)
    settings.pop("dropout", None)
    student.config.attention_dropout = student.config.dropout = 0.0
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
        return Outputs(None, features=features.requires_grad_(), projection=last)

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
    total, values = vocabulary.losses(objective.terms, factors, student, teacher, labels, rows=7)
    inputs = [student.features, student.projection.weight, student.projection.bias]
    gradients = torch.autograd.grad(total, inputs)
    assert not values.requires_grad

    z_s, z_t = (o.projection(o.features) for o in (student, teacher))
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
    assert teacher.features.grad is None and teacher.projection.weight.grad is None


def test_what_goes_backward_is_scaled_and_the_chunk_does_not_matter():
    student, teacher, labels = two_heads(20)
    factors = torch.tensor([5.0, 2.0, 1.0])

    def gradient(rows: int, factor: float) -> Tensor:
        total, _ = vocabulary.losses(TRIPLE.terms, factors, student, teacher, labels, rows)
        return torch.autograd.grad(factor * total, student.projection.weight)[0]

    once = gradient(7, 1.0)
    for rows in (1, 19, 20, 1000):
        torch.testing.assert_close(gradient(rows, 1.0), once, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(7, -0.25), -0.25 * once, rtol=1e-12, atol=1e-12)


def test_terms_of_weight_0_are_left_out_and_a_frozen_matrix_gets_no_gradient():
    student, teacher, labels = two_heads(20)
    student.projection.requires_grad_(False)
    objective = SoftTargets(2) + 0 * MaskedLM()
    total, values = vocabulary.losses(objective.terms, torch.ones(2), student, teacher, labels)
    total.backward()
    assert values[1] == 0 < values[0]
    assert student.features.grad.abs().sum() > 0
    assert student.projection.weight.grad is None


@pytest.mark.parametrize("factor", [1, 1000])
def test_float32_is_as_exact_as_the_plain_losses_at_any_temperature(factor):
    """Against float64; at high temperatures a naive KL would be nothing but rounding."""
    student, teacher, labels = two_heads(20, dtype=torch.float32)
    wide = [
        Outputs(None, features=o.features.double(), projection=copy.deepcopy(o.projection).double())
        for o in (student, teacher)
    ]
    objective = SoftTargets(2 * factor) + LogitsMSE()
    total, _ = vocabulary.losses(objective.terms, torch.ones(2), student, teacher, labels)
    exact, _ = vocabulary.losses(objective.terms, torch.ones(2), *wide, labels)
    z_s, z_t = (o.projection(o.features) for o in (student, teacher))
    plain = sum(t(Outputs(z_s), Outputs(z_t), {"labels": labels}, "sum") for t in objective.terms)
    assert abs(total - exact) <= max(2 * abs(plain - exact), 1e-5 * abs(exact))


# ------------------------------------------------------------------------------------------------ in the loop


def roberta(task, seed: int = 5) -> RobertaForMaskedLM:
    torch.manual_seed(seed)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=len(task.tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
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
    torch.testing.assert_close(out.projection(out.features), logits)
    assert projection(model) is model.get_output_embeddings()
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


def test_other_terms_other_heads_and_other_tasks_take_the_plain_path(glosses, teacher):
    class Sharper(SoftTargets):
        pass

    for objective in (Sharper(2), MaskedLM() + Sharper(2)):
        assert not triple_run(glosses, teacher, objective).chunked
    assert not make_run(make_task(), HardLabels()).chunked
    untied = small_bert(glosses, layers=1, width=32, seed=4)
    untied.config.model_type = "of another kind"
    assert not vocabulary.reads_rows(MaskedLM(), untied, None)
    assert not vocabulary.reads_rows(CosineHidden(), teacher, teacher)
    assert vocabulary.reads_rows(MaskedLM(), teacher, None)
    assert vocabulary.reads_rows(TRIPLE, teacher, teacher)


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
