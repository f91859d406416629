"""Which layers learn from which, and the terms on hidden states, against definitions computed row by row in float64."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import make_run, make_task, take
from transformers import BertConfig, BertForSequenceClassification

import kdtutor as kd
from kdtutor.models.students import small_bert
from kdtutor.objectives import cls_patience, layer_pairs
from kdtutor.objectives.parse import parse_objective
from kdtutor.objectives.rows import ObjectiveError, unit


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def model(width=8, depth=2):
    return SimpleNamespace(config=SimpleNamespace(hidden_size=width, num_hidden_layers=depth))


def states(width, depth, seed, texts=3, length=4):
    layers = tuple(random(texts, length, width, seed=seed + i) for i in range(depth + 1))
    return SimpleNamespace(logits=None, hidden_states=layers)


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
BATCH = {"attention_mask": MASK, "labels": torch.tensor([0, 1, 0])}


# ------------------------------------------------------------------------------------------------ maps of layers


@pytest.mark.parametrize(
    ("layers", "depths", "pairs"),
    [
        ("last", (3, 6), {-1: -1}),
        ("first", (3, 6), {1: 1}),
        ("every second", (3, 6), {1: 2, 2: 4, 3: 6}),
        ("every second", (2, 6), {1: 2, 2: 4}),
        ("evenly", (3, 6), {1: 2, 2: 4, 3: 6}),
        ("evenly", (2, 6), {1: 3, 2: 6}),
        ("evenly", (4, 6), {1: 2, 2: 3, 3: 5, 4: 6}),
        ("evenly", (4, 2), {1: 1, 2: 1, 3: 2, 4: 2}),
        ("evenly", (5, 5), {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}),
        ([2, 4], (3, 6), {1: 2, 2: 4}),
        ([-1], (3, 6), {1: -1}),
        ({0: 0, -1: 5}, (3, 6), {0: 0, -1: 5}),
    ],
)
def test_a_map_of_layers_is_written_out_for_two_depths(layers, depths, pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer_pairs(layers, *depths) == pairs


@pytest.mark.parametrize("depths", [(m, n) for m in range(1, 13) for n in range(1, 13)])
def test_an_even_map_gives_every_layer_one_ends_at_the_last_and_never_crosses(depths):
    m, n = depths
    pairs = layer_pairs("evenly", m, n)
    assert [*pairs] == [*range(1, m + 1)] and pairs[m] == n
    assert [*pairs.values()] == sorted(pairs.values()) and min(pairs.values()) >= 1


@pytest.mark.parametrize("layers", [{3: 1, 1: 6}, [4, 2], {-1: 2, 1: 4}, {0: 1, 1: 0}])
def test_a_map_that_crosses_is_allowed_and_said(layers):
    with pytest.warns(
        UserWarning, match=r"the map of layers crosses: the student's layer \d learns from .*later"
    ):
        layer_pairs(layers, 3, 6)


@pytest.mark.parametrize(
    "layers", [{}, [], "", 3, 2.5, {1: 2.0}, {1.0: 2}, [1, "2"], [True], {1: None}, {1, 2}], ids=repr
)
def test_what_is_no_map_of_layers_is_refused_when_the_term_is_made(layers):
    with pytest.raises(
        ObjectiveError, match=r"layers maps the student's to the teacher's|unknown map of layers"
    ):
        kd.HiddenStates(layers)


def test_a_name_that_is_none_brings_up_the_names_that_are():
    with pytest.raises(ObjectiveError, match='unknown map of layers "every 2nd"; there are: every second'):
        kd.HiddenStates("every 2nd")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            "every second",
            r"every second.* of the teacher's 4 layers are 2, and the student has 3: \"evenly\"",
        ),
        ([1, 2, 3, 4], r"the student has no hidden states \[4\], only 0 \(embeddings\) to 3"),
        ([5], r"the teacher has no hidden states \[5\], only 0 \(embeddings\) to 4"),
        ({-5: 1}, r"the student has no hidden states \[-5\]"),
    ],
)
def test_a_layer_that_is_not_there_is_named_before_training(layers, said):
    with pytest.raises(ObjectiveError, match=said):
        kd.HiddenStates(layers).prepare(model(8, 3), model(8, 4))


def test_a_depth_that_no_configuration_tells_is_asked_for_by_name():
    nameless = SimpleNamespace(config=SimpleNamespace(hidden_size=8))
    kd.HiddenStates("last").prepare(nameless, model())
    for layers in ("every second", "evenly"):
        with pytest.raises(ObjectiveError, match="the student's config names no num_hidden_layers"):
            kd.HiddenStates(layers).prepare(nameless, model())


# ------------------------------------------------------------------------------------------------ hidden states


@pytest.mark.parametrize("layers", ["every second", [2, 4], {1: 2, 2: 4}])
def test_hidden_states_are_the_mean_over_pairs_width_and_tokens_that_count(layers):
    student, teacher = states(8, 2, seed=1), states(6, 4, seed=20)
    term = kd.HiddenStates(layers)
    term.prepare(model(8, 2), model(6, 4))
    term.double()
    losses = []
    for (i, j), w in zip([(1, 2), (2, 4)], term.projections, strict=True):
        w = w.weight.detach().numpy()
        for text, token in MASK.nonzero().tolist():
            difference = (
                w @ student.hidden_states[i][text, token].numpy()
                - teacher.hidden_states[j][text, token].numpy()
            )
            losses.append((difference**2).mean())
    assert len(losses) == 2 * 7 and term.count(BATCH) == 7
    assert term(student, teacher, BATCH, "mean").item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_a_projection_can_be_asked_for_and_forbidden():
    term = kd.HiddenStates("every second", projection=True)
    term.prepare(model(8, 2), model(8, 4))
    assert [p.weight.shape for p in term.projections] == [(8, 8)] * 2
    without = kd.HiddenStates(projection=False)
    without.prepare(model(8), model(8))
    assert not [*without.parameters()]
    with pytest.raises(
        ObjectiveError, match=r"without a projection HiddenStates .* student's is 8 and the teacher's 6"
    ):
        without.prepare(model(8), model(6))
    with pytest.raises(ObjectiveError, match="projection is True, False or None"):
        kd.HiddenStates(projection="linear")


@pytest.mark.parametrize(
    ("formula", "printed"),
    [
        ("HiddenStates('every second')", "HiddenStates(layers='every second')"),
        ('2 * HiddenStates("last", projection=True)', "2 * HiddenStates(layers='last', projection=True)"),
        ("HiddenStates([2, -1], projection=None)", "HiddenStates(layers=[2, -1])"),
        ("CLSPatience()", "CLSPatience(layers='evenly')"),
        ("CLSPatience({1: 2}, False)", "CLSPatience(layers={1: 2}, projection=False)"),
    ],
)
def test_a_formula_in_text_has_names_lists_and_switches(formula, printed):
    assert repr(parse_objective(formula)) == printed
    assert repr(parse_objective(printed)) == printed


# ------------------------------------------------------------------------------------------------ [CLS]


def define_patience(a, b):
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    a, b = a / math.sqrt(math.fsum(a * a)), b / math.sqrt(math.fsum(b * b))
    return math.fsum((a - b) ** 2)


def test_patience_is_the_squared_distance_of_normalised_cls_states_below_the_last_layer():
    student, teacher = states(8, 3, seed=1), states(8, 6, seed=20)
    term = kd.CLSPatience()
    term.prepare(model(8, 3), model(8, 6))
    assert term.pairs == {1: 2, 2: 4}  # 3: 6 is what the head reads
    expected = [
        np.mean(
            [
                define_patience(student.hidden_states[i][n, 0], teacher.hidden_states[j][n, 0])
                for i, j in ((1, 2), (2, 4))
            ]
        )
        for n in range(3)
    ]
    np.testing.assert_allclose(term(student, teacher, BATCH), expected, rtol=1e-12)
    assert term.count(BATCH) == 3
    assert term(student, teacher, BATCH, "mean").item() == pytest.approx(np.mean(expected))


def test_patience_between_unequal_widths_learns_a_projection_that_acts_before_the_norm():
    student, teacher = states(8, 2, seed=1), states(6, 4, seed=20)
    term = kd.CLSPatience({1: 2})
    term.prepare(model(8, 2), model(6, 4))
    term.double()
    w = term.projections[0].weight.detach()
    expected = [
        define_patience(w @ s, t)
        for s, t in zip(student.hidden_states[1][:, 0], teacher.hidden_states[2][:, 0], strict=True)
    ]
    loss = term(student, teacher, BATCH, "sum")
    assert loss.item() == pytest.approx(sum(expected))
    loss.backward()
    assert term.projections[0].weight.grad.abs().sum() > 0


def test_the_sum_over_the_width_is_not_the_mean():
    a, b = random(5, 768, seed=1), random(5, 768, seed=2)
    mean = (unit(a) - unit(b)).square().mean(-1).mean()
    assert cls_patience(a, b).item() == pytest.approx(768 * mean.item())


def test_only_the_first_token_reaches_patience():
    student, teacher = states(8, 2, seed=1), states(8, 4, seed=20)
    term = kd.CLSPatience({1: 2})
    term.prepare(model(8, 2), model(8, 4))
    before = term(student, teacher, BATCH, "mean")
    student.hidden_states[1][:, 1:] = math.nan
    assert torch.equal(term(student, teacher, BATCH, "mean"), before)


def test_a_zero_vector_has_no_direction_and_gets_no_gradient():
    a = torch.tensor([[0.0, 0, 0], [1, 2, 2], [1e-25, 0, 0]]).requires_grad_()
    loss = cls_patience(a, torch.tensor([[3.0, 0, 4], [0, 0, 0], [1, 0, 0]]), reduction="none")
    np.testing.assert_allclose(loss.detach(), [1, 1, 1], rtol=1e-6)
    loss.sum().backward()
    assert (a.grad == 0).all()
    lengths = torch.tensor([[3.0, 4.0], [0, 0]], dtype=torch.float64)
    np.testing.assert_allclose(unit(lengths), [[0.6, 0.8], [0, 0]])


def test_patience_of_a_student_of_one_layer_wants_its_pair_named():
    with pytest.raises(
        ObjectiveError, match=r"leaves the student's last layer out, and then none is left: .*\{1: 2\}"
    ):
        kd.CLSPatience().prepare(model(8, 1), model(8, 4))
    with pytest.raises(ObjectiveError, match="none is left"):
        kd.CLSPatience("last").prepare(model(8, 3), model(8, 6))
    kd.CLSPatience({1: 2}).prepare(model(8, 1), model(8, 4))


def test_states_that_do_not_fit_are_named():
    with pytest.raises(ObjectiveError, match=r"\[CLS\] states do not fit together: \(2, 4\) .* \(2, 5\)"):
        cls_patience(torch.zeros(2, 4), torch.zeros(2, 5))


# ------------------------------------------------------------------------------------------------ in the loop


def test_both_train_a_shallower_and_narrower_student():
    task = make_task()
    teacher = small_bert(task, layers=4, width=64, seed=3)
    student = small_bert(task, layers=2, width=32, seed=4)
    goal = kd.HardLabels() + kd.HiddenStates("every second") + kd.CLSPatience()
    run = make_run(task, goal, student=student, teacher=teacher, epochs=4)
    assert run.needs == {"logits", "hidden_states"} and run.teacher_needs == {"hidden_states"}
    history = run.run()
    for name in ("HiddenStates", "CLSPatience"):
        assert history[-1][name] < history[0][name]


def test_a_layer_that_a_model_has_not_is_refused_by_the_loop():
    task = make_task()
    config = BertConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    with pytest.raises(ObjectiveError, match=r"teacher has no hidden states \[3\]"):
        take(
            make_run(
                task,
                kd.HiddenStates([1, 3]),
                student=BertForSequenceClassification(config),
                teacher=BertForSequenceClassification(config),
            ),
            1,
        )
