"""Attention and MiniLM's relations against definitions written from the papers, one head and one token at a time."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import make_run, make_task, take
from transformers import GPT2Config, GPT2ForSequenceClassification

import kdtutor as kd
from kdtutor.models.depth import half_depth
from kdtutor.models.forward import forward
from kdtutor.models.students import small_bert
from kdtutor.objectives import attention_kl, attention_mse, relation_scores
from kdtutor.objectives.parse import parse_objective
from kdtutor.objectives.rows import ObjectiveError

# Three texts of 5, 3 and 1 tokens.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
LENGTHS = (5, 3, 1)
BATCH = {"attention_mask": MASK, "labels": torch.tensor([0, 1, 0])}


def random(*shape, seed=0, scale=1.0, dtype=torch.float64):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * drawn).to(dtype)


# ------------------------------------------------------------------------------------------------ the definitions


def define_scores(a, b, heads, text, head, token, length):
    """What one token gives to each of its text's tokens, in one head, before the softmax."""
    a, b = a.numpy(), b.numpy()
    size = a.shape[-1] // heads
    part = slice(head * size, (head + 1) * size)
    return [
        math.fsum(x * y for x, y in zip(a[text, token, part], b[text, other, part], strict=True))
        / math.sqrt(size)
        for other in range(length)
    ]


def softmax(z):
    e = [math.exp(x - max(z)) for x in z]
    return [x / math.fsum(e) for x in e]


def define_kl(student, teacher, heads, lengths=LENGTHS):
    """For each token that counts the mean over heads of KL(A_T ‖ A_S); student, teacher: a relation's two sides."""
    losses = []
    for text, length in enumerate(lengths):
        for token in range(length):
            each = []
            for head in range(heads):
                q, p = (
                    softmax(define_scores(*sides, heads, text, head, token, length))
                    for sides in (student, teacher)
                )
                each.append(math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
            losses.append(math.fsum(each) / heads)
    return losses


def define_mse(student, teacher, heads, lengths=LENGTHS):
    losses = []
    for text, length in enumerate(lengths):
        for token in range(length):
            each = []
            for head in range(heads):
                s, t = (
                    define_scores(*sides, heads, text, head, token, length) for sides in (student, teacher)
                )
                each += [(x - y) ** 2 for x, y in zip(s, t, strict=True)]
            losses.append(math.fsum(each) / len(each))
    return losses


def sides(width, seed, scale=1.0):
    return random(3, 5, width, seed=seed, scale=scale), random(3, 5, width, seed=seed + 1, scale=scale)


def scores(a, b, heads):
    return relation_scores(a, b, heads, mask=MASK)


@pytest.fixture(params=["cpu", "as on a GPU"])
def device_way(request, monkeypatch):
    """Padded rows are left out on a CPU and zeroed on a GPU: run a test both ways, on any machine."""
    if request.param != "cpu":
        monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)


FORMULAS = {"kl": (attention_kl, define_kl), "scores": (attention_mse, define_mse)}
both = pytest.mark.parametrize("function, define", FORMULAS.values(), ids=FORMULAS)


# ------------------------------------------------------------------------------------------------ values


@both
@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_each_token_that_asks_has_the_loss_of_its_definition_whatever_the_widths(
    function, define, heads, scale, device_way
):
    student, teacher = sides(12, 1, scale), sides(24, 5, scale)
    expected = define(student, teacher, heads)
    values = scores(*student, heads), scores(*teacher, heads)
    np.testing.assert_allclose(
        function(*values, mask=MASK, reduction="none"), expected, rtol=1e-9, atol=1e-12
    )
    assert function(*values, mask=MASK).item() == pytest.approx(math.fsum(expected) / 9, rel=1e-9)
    assert function(*values, mask=MASK.bool(), reduction="sum").item() == pytest.approx(
        math.fsum(expected), rel=1e-9
    )


@both
@pytest.mark.parametrize("garbage", [0.0, 1e30, math.nan, math.inf])
def test_what_padding_holds_changes_neither_value_nor_gradient(function, define, garbage, device_way):
    student, teacher = sides(12, 1), sides(12, 5)
    results = []
    for content in (1.0, garbage):
        q, k, *others = (x.masked_fill(~MASK.bool()[..., None], content) for x in (*student, *teacher))
        q.requires_grad_(), k.requires_grad_()
        loss = function(scores(q, k, 2), scores(*others, 2), mask=MASK)
        results.append((loss, *torch.autograd.grad(loss, (q, k))))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    assert (results[1][1][~MASK.bool()] == 0).all()
    # Nor does padding that a longer text beside it brings.
    alone = function(*(relation_scores(*(x[1:2, :3] for x in pair), 2) for pair in (student, teacher)))
    longer = function(*(scores(*pair, 2)[1:2] for pair in (student, teacher)), mask=MASK[1:2])
    assert alone.item() == pytest.approx(longer.item(), rel=1e-12)


@both
def test_scores_that_hold_nan_at_padding_reach_no_gradient(function, define, device_way):
    s, t = random(3, 2, 5, 5, seed=1), random(3, 2, 5, 5, seed=2)
    asked = (MASK.bool()[:, None, :, None] & MASK.bool()[:, None, None]).expand_as(s)
    for values in (s, t):
        values[~asked] = math.nan
    s.requires_grad_()
    for reduction in ("mean", "sum"):
        loss = function(s, t, mask=MASK, reduction=reduction)
        [gradient] = torch.autograd.grad(loss, s)
        assert loss.isfinite() and gradient.isfinite().all() and (gradient[~asked] == 0).all()


@both
def test_a_student_that_agrees_has_loss_zero_and_no_gradient_and_the_teacher_never_has_one(function, define):
    s, t = random(3, 2, 5, 5).requires_grad_(), random(3, 2, 5, 5, seed=4).requires_grad_()
    same = function(s, s.detach(), mask=MASK)
    assert same.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(same, s)[0].abs().max() < 1e-15
    function(s, t, mask=MASK).backward()
    assert t.grad is None and s.grad.abs().sum() > 0


@both
def test_a_text_without_a_token_and_equal_tokens_are_defined(function, define, device_way):
    s = torch.zeros(2, 2, 3, 3, requires_grad=True)
    loss = function(s, torch.zeros(2, 2, 3, 3), mask=torch.tensor([[0, 0, 0], [1, 1, 0]]))
    loss.backward()
    assert loss.item() == 0 and (s.grad == 0).all()
    assert function(s, s, mask=torch.zeros(2, 3)).item() == 0


@both
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(function, define, half):
    s, t = (
        relation_scores(*(x.to(half) for x in pair), 2, mask=MASK) for pair in (sides(12, 1), sides(12, 5))
    )
    assert s.dtype == torch.float32
    assert function(s.to(half), t.to(half), mask=MASK).dtype == torch.float32
    assert function(s.to(half) * 1e3, t.to(half) * 1e3, mask=MASK).isfinite()


def test_the_kl_of_maps_is_that_of_scores():
    """Log-probabilities serve as scores: so a layer's own maps can be compared, too."""
    s, t = random(3, 2, 5, 5, seed=1), random(3, 2, 5, 5, seed=2)
    logs = (x.masked_fill(~MASK.bool()[:, None, None], -1e30).log_softmax(-1) for x in (s, t))
    assert attention_kl(*logs, mask=MASK).item() == pytest.approx(
        attention_kl(s, t, mask=MASK).item(), rel=1e-12
    )


def test_the_usual_mistakes_give_another_value():
    student, teacher = sides(12, 1), sides(12, 5)
    s, t = scores(*student, 2), scores(*teacher, 2)
    right = attention_kl(s, t, mask=MASK).item()
    wrong = {
        "padding asked": attention_kl(s, t),
        "arguments swapped": attention_kl(t, s, mask=MASK),
        "one head": attention_kl(scores(*student, 1), scores(*teacher, 1), mask=MASK),
        "no scaling": attention_kl(s * 6**0.5, t * 6**0.5, mask=MASK),
    }
    for mistake, value in wrong.items():
        assert abs(value.item() / right - 1) > 0.02, mistake


@both
def test_nothing_reads_a_value_back_from_the_device(function, define):
    q = torch.zeros(2, 3, 4, device="meta", requires_grad=True)
    mask = torch.ones(2, 3, device="meta")
    function(
        relation_scores(q, q, 2, mask=mask), torch.zeros(2, 2, 3, 3, device="meta"), mask=mask
    ).backward()


@both
def test_shapes_that_do_not_fit_are_named(function, define):
    with pytest.raises(
        ObjectiveError, match=r"attention scores do not fit together: \(3, 2, 5, 5\).*\(3, 4, 5, 5\)"
    ):
        function(torch.zeros(3, 2, 5, 5), torch.zeros(3, 4, 5, 5))
    with pytest.raises(ObjectiveError, match=r"mask has shape \(2, 5\).*\(3, 5\)"):
        function(torch.zeros(3, 2, 5, 5), torch.zeros(3, 2, 5, 5), mask=torch.ones(2, 5))
    with pytest.raises(ObjectiveError, match="a width of 12 can't be cut into 5 relation heads"):
        relation_scores(*sides(12, 1), 5)
    with pytest.raises(ObjectiveError, match="batchmean"):
        function(torch.zeros(3, 2, 5, 5), torch.zeros(3, 2, 5, 5), reduction="batchmean")


# ------------------------------------------------------------------------------------------------ the terms


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def models(task):
    """A student of 2 layers × 32 and a teacher of 4 layers × 48, in float64, with biases that are not 0."""
    student, teacher = (
        small_bert(task, layers=2, width=32, heads=4, seed=1),
        small_bert(task, layers=4, width=48, heads=6, seed=2),
    )
    for model in (student, teacher):
        for name, parameter in model.named_parameters():
            if "attention" in name:
                torch.nn.init.normal_(parameter, std=0.4)
    return student.double().eval(), teacher.double().eval()


def inputs(task):
    index = (task.encode("train").lengths < 9).nonzero()[:3, 0]
    return task.encode("train").batch(index) | {"labels": task.targets("train")[index]}


TERMS = [kd.AttentionRelations, kd.ValueRelations, kd.QueryRelations, kd.KeyRelations]


def asked_of_modules(model, batch, names, layer):
    """What the layer's own modules make of its input, by transformers' hidden states."""
    hidden = model(
        **{k: batch[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True
    ).hidden_states
    block = model.bert.encoder.layer[layer].attention.self
    return [getattr(block, name)(hidden[layer]).detach() for name in names]


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("fast", [True, False])
def test_a_relation_is_that_of_the_last_layers_cut_into_heads_of_both_widths(task, models, kind, fast):
    batch, (student, teacher) = inputs(task), models
    term = kind(heads=8)
    term.prepare(student, teacher)
    out = [forward(model, batch, term.needs, fast=fast) for model in models]
    names = {"queries": "query", "keys": "key", "values": "value"}
    a, b = (
        asked_of_modules(m, batch, [names[p] for p in term.parts], layer)
        for m, layer in ((student, 1), (teacher, 3))
    )
    expected = define_kl(a, b, 8, batch["attention_mask"].sum(1).tolist())
    np.testing.assert_allclose(term(*out, batch).detach(), expected, rtol=1e-9, atol=1e-13)
    assert term.count(batch) == len(expected) == batch["attention_mask"].sum()


def test_with_as_many_heads_they_are_transformers_own_maps_less_their_dropout(task):
    student, teacher = (small_bert(task, layers=1, width=32, heads=4, dropout=0.0, seed=s) for s in (1, 2))
    student.config.attention_probs_dropout_prob = 0.5
    student.bert.encoder.layer[0].attention.self.dropout.p = 0.5
    batch, maps = inputs(task), []
    for model in (student, teacher):
        eager = copy.deepcopy(model).eval()
        eager.set_attn_implementation("eager")
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        maps.append(eager(**given, output_attentions=True).attentions[0])
    # Each token's distribution in each head, (n, H, L); padding has none.
    q, p = (m.transpose(1, 2)[batch["attention_mask"].bool()].double() for m in maps)
    expected = (p * (p.clamp(min=1e-38) / q.clamp(min=1e-38)).log()).sum(-1).mean(1)
    for term in (kd.AttentionRelations(), kd.AttentionMaps("kl"), kd.AttentionMaps("kl", {1: 1})):
        term.prepare(student, teacher)
        out = forward(student.train(), batch, term.needs), forward(teacher.eval(), batch, term.needs)
        np.testing.assert_allclose(term(*out, batch).detach(), expected.detach(), rtol=1e-3, atol=1e-7)


def test_tinybert_scores_are_compared_head_by_head(task):
    student, teacher = (
        small_bert(task, layers=n, width=w, heads=4, seed=n).double().eval() for n, w in ((2, 32), (4, 64))
    )
    batch = inputs(task)
    term = kd.AttentionMaps("scores", "every second")
    term.prepare(student, teacher)
    out = [forward(model, batch, term.needs) for model in (student, teacher)]
    mask, expected = batch["attention_mask"], []
    for i, j in ((0, 1), (1, 3)):
        s, t = (asked_of_modules(m, batch, ["query", "key"], n) for m, n in ((student, i), (teacher, j)))
        expected.append(define_mse(s, t, 4, mask.sum(1).tolist()))
    np.testing.assert_allclose(term(*out, batch).detach(), np.mean(expected, axis=0), rtol=1e-9, atol=1e-13)


def test_relation_heads_are_the_teachers_or_the_next_fewer_that_divide_both_widths():
    def model(width, heads):
        return SimpleNamespace(config=SimpleNamespace(hidden_size=width, num_attention_heads=heads))

    for widths, heads, found in (((32, 32), 4, 4), ((128, 384), 6, 4), ((64, 384), 12, 8), ((7, 384), 12, 1)):
        assert kd.ValueRelations()._heads_for(model(widths[0], 2), model(widths[1], heads)) == found
    with pytest.raises(
        ObjectiveError, match="the student's width of 128 can't be cut into 12 relation heads"
    ):
        kd.ValueRelations(heads=12)._heads_for(model(128, 2), model(384, 6))


@pytest.mark.parametrize("heads", [0, -1, 2.0, True, "4"], ids=repr)
def test_heads_that_are_no_number_are_refused(heads):
    with pytest.raises(ObjectiveError, match="heads is a number of relation heads, 1 or more"):
        kd.ValueRelations(heads=heads)


def test_maps_of_unequal_heads_are_refused_and_the_way_on_is_named(models):
    with pytest.raises(
        ObjectiveError, match=r"student has 4 of them and the teacher 6: AttentionRelations\(\)"
    ):
        kd.AttentionMaps().prepare(*models)
    with pytest.raises(ObjectiveError, match=r"kind is .kl. or .scores., not 'probabilities'"):
        kd.AttentionMaps("probabilities")


def test_layers_count_from_one_and_one_that_is_not_there_is_named(models):
    kd.ValueRelations(layers={1: 4, 2: -1}).prepare(*models)
    for layers, said in (
        ({0: 1}, r"student has no layers \[0\], only 1 to 2"),
        ([1, 5], r"teacher has no layers \[5\], only 1 to 4"),
    ):
        with pytest.raises(ObjectiveError, match=said):
            kd.ValueRelations(layers=layers).prepare(*models)


def test_a_model_whose_attention_is_not_known_is_refused_before_training(task, models):
    class Lstm(torch.nn.Module):
        config = SimpleNamespace(model_type="lstm", hidden_size=32, num_hidden_layers=2)

    gpt2 = GPT2ForSequenceClassification(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4))
    for kind in (*TERMS, kd.AttentionMaps):
        for student, name in ((Lstm(), "Lstm"), (gpt2, "GPT2ForSequenceClassification")):
            with pytest.raises(
                ObjectiveError, match=rf"{kind.__name__} compares the .* student, a {name}, has none .*bert"
            ):
                kind().prepare(student, models[1])
        with pytest.raises(ObjectiveError, match=f"{kind.__name__} learns from a teacher, and there is none"):
            kind().prepare(models[0], None)


# ------------------------------------------------------------------------------------------------ in the loop


def test_they_train_a_distilbert_of_half_the_depth(task):
    teacher = small_bert(task, layers=4, width=32, heads=4, seed=3)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "attention.self" in name and name.endswith("weight"):
                parameter *= 10
    goal = (
        kd.HardLabels() + kd.AttentionMaps("scores") + kd.ValueRelations() + kd.AttentionMaps(layers=[2, 4])
    )
    run = make_run(
        task, goal, student=half_depth(teacher, seed=4), teacher=teacher, epochs=5, learning_rate=3e-3
    )
    assert run.needs == {"logits", "queries", "keys", "values"}
    assert run.teacher_needs == {"queries", "keys", "values"}
    assert (
        run.teacher_mode == "asked at every step (keys, queries, values of every token would fill the memory)"
    )
    # Nothing had to give way: no map of transformers' is asked for.
    assert run.student.config._attn_implementation == run.teacher.config._attn_implementation == "sdpa"
    with torch.no_grad():
        for parameter in run.student.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    history = run.run()
    for name in run.term_names[1:]:
        assert history[-1][name] < 0.9 * history[0][name], name


def test_masked_lm_students_learn_relations_too():
    task = make_task("masked-lm")
    teacher = small_bert(task, layers=4, width=48, heads=4, seed=3)
    goal = kd.MaskedLM() + 2 * kd.ValueRelations()
    run = make_run(task, goal, student=small_bert(task, layers=2, width=32, seed=1), teacher=teacher)
    [step] = take(run, 1)
    assert step.loss == pytest.approx(step.terms["MaskedLM"] + 2 * step.terms["ValueRelations"], rel=1e-5)


@pytest.mark.parametrize(
    ("formula", "printed"),
    [
        ("10 * ValueRelations()", "10 * ValueRelations(layers='last')"),
        ("KeyRelations(heads=8, layers={-1: 3})", "KeyRelations(heads=8, layers={-1: 3})"),
        ("AttentionMaps('scores', 'evenly')", "AttentionMaps(kind='scores', layers='evenly')"),
    ],
)
def test_their_formula_can_be_read_and_is_printed(formula, printed):
    assert repr(parse_objective(formula)) == printed == repr(parse_objective(printed))
