"""The lean encoder against transformers' own: hidden states, gradients, where dropout acts, and when it stands back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

from kdtutor.models import lean
from kdtutor.models.depth import half_depth
from kdtutor.models.forward import forward

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_labels": 5,
}


def bert(kind=BertForSequenceClassification, **changes) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(intermediate_size=64, max_position_embeddings=70, **SIZES | changes)
    model = kind(config)
    for name, parameter in model.named_parameters():  # biases that are 0 would hide mistakes
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return model.double()


def distilbert(kind=BertForSequenceClassification) -> nn.Module:
    return half_depth(bert(kind), seed=0).double()


def batch_of(length: int, pairs: bool = False) -> dict[str, torch.Tensor]:
    """Four texts of unequal lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (4, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([length, 3, length - 1, 5])[:, None]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    return batch | ({"token_type_ids": (torch.arange(length) > 3).long() * mask} if pairs else {})


def results(model: nn.Module, batch: dict, lean_one: bool, needs=frozenset({"logits"})):
    """Logits, hidden states, gradients by name, and operations in matrix products."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        if lean_one:
            assert lean.can_encode(model)
            out = forward(model, batch, needs)
        else:
            out = model(**batch, output_hidden_states=True)
        out.logits.sin().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return out.logits, out.hidden_states, gradients, counter.get_total_flops()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [7, 64], ids=["short", "long"])  # long: the fused attention
@pytest.mark.parametrize("make", [bert, distilbert])
def test_same_logits_and_gradients_for_less_work(make, length, attention):
    model, batch = make().eval(), batch_of(length, pairs=make is bert)
    model.set_attn_implementation(attention)
    mine, _, my_gradients, less = results(model, batch, lean_one=True)
    theirs, _, their_gradients, more = results(model, batch, lean_one=False)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    left_out = their_gradients.keys() - my_gradients.keys()
    # The last keys' bias adds the same to every score. Its gradient is 0, which transformers computes with rounding.
    assert len(left_out) == 1 and their_gradients[left_out.pop()].abs().max() < 1e-12
    for name, gradient in my_gradients.items():
        assert (gradient - their_gradients[name]).abs().max() < 1e-11, name
    assert less < 0.8 * more, less / more


@pytest.mark.parametrize("make", [bert, distilbert])
def test_same_hidden_states(make):
    model, batch = make().eval(), batch_of(9)
    mine = results(model, batch, lean_one=True, needs=frozenset({"logits", "hidden_states"}))
    theirs = results(model, batch, lean_one=False)
    assert len(mine[1]) == len(theirs[1])
    real = batch["attention_mask"].bool()
    for a, b in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=0, atol=1e-12)
    assert mine[2].keys() == theirs[2].keys()  # all of the last layer is computed


@pytest.mark.parametrize("make", [bert, distilbert])
def test_same_masked_lm_logits(make):
    model, batch = make(BertForMaskedLM).eval(), batch_of(9)
    rows = torch.tensor([0, 4, 10])
    assert lean.can_encode(model)
    expected = model(**batch).logits.flatten(0, 1)[rows]
    torch.testing.assert_close(forward(model, batch, rows=rows).logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [7, 64])
@pytest.mark.parametrize("make", [bert, distilbert])
def test_dropout_acts_where_transformers_has_it(make, length, monkeypatch):
    """Here dropout multiplies by its own probability, so one that is missing or at a wrong place changes the result."""
    model = make().train()
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.Dropout)):
        module.p = 0.5 + 0.03 * i
    monkeypatch.setattr(F, "dropout", lambda x, p, training=True, inplace=False: x * p if training else x)
    model.set_attn_implementation("eager")  # whose dropout is F.dropout
    batch = batch_of(length)
    mine = forward(model, batch).logits
    torch.testing.assert_close(mine, model(**batch).logits, rtol=0, atol=1e-12)
    model.eval()
    assert not torch.allclose(mine, forward(model, batch).logits)


def test_under_bf16_as_near_to_float32_as_transformers_own():
    model, batch = bert().float().eval(), batch_of(20)
    exact = model(**batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = forward(model, batch).logits, model(**batch).logits
    assert mine.dtype == theirs.dtype
    assert (mine - exact).abs().max() < 2 * (theirs - exact).abs().max() + 1e-3


def test_elsewhere_than_on_a_cpu_shapes_hold():
    model = bert().to("meta").train()
    batch = {name: value.to("meta") for name, value in batch_of(9).items()}
    states = lean.encode(model.base_model, **batch, first_only=True)
    assert [tuple(state.shape) for state in states] == [(4, 9, 32)] * 3 + [(4, 1, 32)]


class Adapter(nn.Module):
    """What LoRA puts in a matrix's place."""

    def __init__(self, inner: nn.Linear):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def _hooked(model):
    model.bert.encoder.layer[0].output.register_forward_hook(lambda module, x, y: 2 * y)


def _adapted(model):
    attention = model.bert.encoder.layer[1].attention.self
    attention.query = Adapter(attention.query)


def _parametrized(model):
    nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[0].intermediate.dense)


def _checkpointing(model):
    model.gradient_checkpointing_enable()


def _compiled(model):
    model.base_model.compile(backend="eager")


@pytest.mark.parametrize("change", [_hooked, _adapted, _parametrized, _checkpointing, _compiled])
def test_who_changed_the_model_gets_what_the_changed_model_gives(change):
    model, batch = bert().eval(), batch_of(7)
    assert lean.can_encode(model)
    change(model)
    assert not lean.can_encode(model)
    torch.testing.assert_close(forward(model, batch).logits, model(**batch).logits, rtol=0, atol=1e-12)


def test_other_models_are_left_alone():
    config = RobertaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    assert not lean.can_encode(Roberta(config))
    assert not lean.can_encode(bert(is_decoder=True))
    assert not lean.can_encode(nn.Linear(2, 2))


# ------------------------------------------------------------------------------------------------ queries, keys, values


@pytest.mark.parametrize("make", [bert, distilbert])
@pytest.mark.parametrize("length", [6, 60])
def test_queries_keys_and_values_are_those_of_transformers_modules_with_the_same_gradients(make, length):
    model, batch, needs = make().eval(), batch_of(length), frozenset({"logits", "queries", "keys", "values"})
    found = []
    for fast in (True, False):
        model.zero_grad()
        out = forward(model, batch, needs, fast=fast)
        parts = [*out.queries, *out.keys, *out.values]
        assert len(parts) == 3 * model.config.num_hidden_layers and parts[0].shape == (4, length, 32)
        sum(part.sin().sum() for part in parts).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((out.logits, parts, gradients))
    (logits, parts, gradients), (other_logits, other_parts, other_gradients) = found
    torch.testing.assert_close(logits, other_logits)
    torch.testing.assert_close(parts, other_parts)
    torch.testing.assert_close(gradients, other_gradients)
