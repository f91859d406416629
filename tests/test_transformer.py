"""The teaching Transformer: equal to torch's and to transformers' models, to 1e-5 in float32."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn

from kdtutor import models
from kdtutor.assets import asset_path
from kdtutor.data.load import load_task
from kdtutor.errors import KDTutorError
from kdtutor.transformer import (
    Bert,
    Config,
    Decoder,
    DecoderLayer,
    Embeddings,
    Encoder,
    EncoderLayer,
    MultiHeadAttention,
    Transformer,
    attention,
    causal_mask,
    from_torch,
    padding_mask,
    positions,
)

SHIPPED = asset_path("models")
IDS = torch.tensor([[2, 7, 9, 4, 3], [2, 8, 3, 0, 0]])  # the second text has two tokens of padding
REAL = IDS != 0


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ attention


def masks() -> dict:
    some = torch.rand(2, 3, 5, 5) > 0.4
    return {
        "none": None,
        "causal": causal_mask(5),
        "padding": padding_mask(IDS),
        "both": causal_mask(5) & padding_mask(IDS),
        "one for each head": some | torch.eye(5, dtype=torch.bool),
        "rows that may look at nothing": some & (torch.arange(5) != 2)[:, None],
    }


@pytest.mark.parametrize("name", masks())
def test_attention_is_torch_s(name):
    query, key, value = torch.randn(3, 2, 3, 5, 8).unbind()
    mask = masks()[name]
    output, weights = attention(query, key, value, mask)
    assert_close(output, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
    assert_close(weights @ value, output)


def test_causal_attention_is_torch_s_is_causal():
    query, key, value = torch.randn(3, 2, 3, 5, 8).unbind()
    ours, _ = attention(query, key, value, causal_mask(5))
    assert_close(ours, F.scaled_dot_product_attention(query, key, value, is_causal=True))


def test_queries_keys_and_values_may_differ_in_number_and_width():
    query, key, value = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 3)
    output, weights = attention(query, key, value)
    assert output.shape == (2, 4, 3)
    assert weights.shape == (2, 4, 6)
    assert_close(output, F.scaled_dot_product_attention(query, key, value))


def test_weights_are_distributions_over_what_may_be_looked_at():
    _, weights = attention(*torch.randn(3, 2, 1, 5, 8), padding_mask(IDS))
    assert_close(weights.sum(-1), torch.ones(2, 1, 5))
    assert (weights[1, :, :, 3:] == 0).all()
    assert (weights >= 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_query_that_may_look_at_nothing_gets_zeros_and_clean_gradients():
    query, key, value = torch.randn(3, 2, 4, requires_grad=True).unbind()
    mask = torch.tensor([[True, True], [False, False]])
    with torch.autograd.detect_anomaly(check_nan=True):
        output, weights = attention(query, key, value, mask)
        output.sum().backward()
    assert (output[1] == 0).all() and (weights[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_masked_row_is_finite_in_half_precision(dtype):
    output, _ = attention(*torch.randn(3, 2, 4, dtype=dtype), torch.tensor([[True, False], [False, False]]))
    assert output.isfinite().all() and output.dtype == dtype


def test_dropout_hits_the_product_but_not_the_weights_returned():
    query, key, value = torch.randn(3, 64, 8).unbind()
    output, weights = attention(query, key, value, dropout=0.5)
    assert_close(weights.sum(-1), torch.ones(64))
    assert not torch.allclose(output, weights @ value)


def test_causal_and_padding_masks_say_who_may_look_where():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert padding_mask(torch.tensor([[5, 6, 1]]), pad=1).tolist() == [[[[True, True, False]]]]


def test_masks_that_do_not_fit_are_refused():
    query = torch.randn(2, 3, 5, 8)
    with pytest.raises(KDTutorError, match=r"the mask is torch\.int64; it must be torch\.bool"):
        attention(query, query, query, REAL.long())
    for shape in [(2, 5), (5, 4), (2, 3, 5, 5, 1), (3, 3, 5, 5)]:
        with pytest.raises(KDTutorError, match=r"does not fit scores of shape \(2, 3, 5, 5\)"):
            attention(query, query, query, torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_multi_head_attention_is_torch_s_with_every_head_s_weights(cross):
    ours, theirs = MultiHeadAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    matrices = [ours.query, ours.key, ours.value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight for m in matrices]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in matrices]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 4 if cross else 5, 12)
    memory = torch.randn(2, 5, 12) if cross else x
    expected = theirs(x, memory, memory, key_padding_mask=~REAL, average_attn_weights=False)
    for mine, right in zip(ours(x, memory if cross else None, padding_mask(IDS)), expected, strict=True):
        assert_close(mine, right)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(KDTutorError, match="width 10 is not divisible by 4 heads"):
        MultiHeadAttention(10, 4)


# ------------------------------------------------------------------------------------------------ torch.nn.Transformer


# A speed-up of torch's that is not used here.
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_and_decoder_are_torch_s_with_masks_and_padding(norm_first, activation):
    options = {
        "norm_first": norm_first,
        "activation": activation,
        "batch_first": True,
        "layer_norm_eps": 1e-4,
    }
    theirs = nn.Transformer(12, 3, 2, 2, 20, **options).eval()
    for parameter in theirs.parameters():  # biases and norms start as 0 and 1, which would hide a mix-up
        nn.init.normal_(parameter, std=0.3)
    encoder, decoder = from_torch(theirs)
    source, target = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    target_real = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = theirs(
        source,
        target,
        tgt_mask=~causal_mask(4),
        src_key_padding_mask=~REAL,
        memory_key_padding_mask=~REAL,
        tgt_key_padding_mask=~target_real,
    )
    memory = encoder(source, padding_mask(IDS)).last_hidden_state
    mask = causal_mask(4) & target_real[:, None, None, :]
    output = decoder(target, memory, mask, padding_mask(IDS))
    assert_close(output.last_hidden_state, expected)
    assert [a.shape for a in output.attentions] == [(2, 3, 4, 4)] * 2
    assert [a.shape for a in output.cross_attentions] == [(2, 3, 4, 5)] * 2


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_encoder_layers_are_torch_s_one_by_one():
    theirs = nn.Transformer(12, 3, 3, 1, 20, batch_first=True).eval()
    encoder, _ = from_torch(theirs)
    x = torch.randn(2, 5, 12)
    hidden_states = encoder(x).hidden_states
    assert len(hidden_states) == 4
    for hidden, layer in zip(hidden_states, [nn.Identity(), *theirs.encoder.layers], strict=True):
        x = layer(x)
        assert_close(hidden, x)


# ------------------------------------------------------------------------------------------------ encoder–decoder


def test_positions_are_the_paper_s_sinusoids():
    table = positions(50, 16)
    for place, i in [(0, 0), (3, 2), (49, 7)]:
        angle = torch.tensor(place / 10000 ** (2 * i / 16))
        assert_close(table[place, 2 * i], angle.sin())
        assert_close(table[place, 2 * i + 1], angle.cos())
    assert positions(5, 7).shape == (5, 7)


def test_embeddings_and_positions_weigh_alike():
    embeddings = Embeddings(1000, 64).eval()
    tokens = embeddings(torch.arange(100)[None]) - embeddings.positions[:100]
    assert tokens.square().mean().item() == pytest.approx(1, abs=0.1)
    assert embeddings.positions.square().mean().item() == pytest.approx(0.5)


@pytest.fixture
def translator():
    return Transformer(vocabulary=20, width=16, heads=2, layers=2, max_length=12).eval()


def test_the_output_layer_is_the_embedding_table_and_nothing_else(translator):
    output = translator(IDS, IDS)
    assert output.logits.shape == (2, 5, 20)
    assert_close(output.logits, output.last_hidden_state @ translator.source.tokens.weight.T)
    assert translator.source is translator.target


def test_source_and_target_may_have_a_vocabulary_each():
    model = Transformer(20, width=16, heads=2, layers=1, target_vocabulary=7)
    assert model(IDS, IDS % 7).logits.shape == (2, 5, 7)


def test_no_logit_depends_on_a_later_target_token_or_on_padding(translator):
    later, padded = IDS.clone(), torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], 1)
    later[:, 3:] = 5
    right = translator(IDS, IDS).logits
    assert_close(translator(IDS, later).logits[:, :3], right[:, :3])
    assert not torch.allclose(translator(IDS, later).logits[0, 3:], right[0, 3:])
    assert_close(translator(padded, padded).logits[:, :5], right)


def test_greedy_generation_takes_the_likeliest_token_each_time(translator):
    chosen = translator.generate(IDS, start=2, end=3, max_length=6)
    target = torch.cat([torch.full((2, 1), 2), chosen], 1)
    logits = translator(IDS, target).logits[:, :-1]
    logits[..., 0] = -torch.inf
    for row, expected in zip(chosen.tolist(), logits.argmax(-1).tolist(), strict=True):
        length = row.index(3) + 1 if 3 in row else len(row)
        assert row[:length] == expected[:length]
        assert not any(row[length:])


def test_generation_stops_at_the_end_and_fills_up_with_padding(translator, monkeypatch):
    script = {0: [4, 3, 9, 9], 1: [5, 6, 3, 9]}  # what each text would say; 3 ends it

    def decode(target, memory, source):
        logits = torch.zeros(2, target.shape[1], 20)
        for text, says in script.items():
            logits[text, -1, says[target.shape[1] - 1]] = 1
        return type("Output", (), {"logits": logits})

    monkeypatch.setattr(translator, "decode", decode)
    translator.train()
    assert translator.generate(IDS, start=2, end=3).tolist() == [[4, 3, 0], [5, 6, 3]]
    assert translator.training


def test_it_learns_to_copy():
    model = Transformer(vocabulary=8, width=32, heads=2, layers=1, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        words = torch.randint(3, 8, (32, 4))
        target = F.pad(words, (1, 0), value=1)  # start
        logits = model(words, target).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), words.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    words = torch.randint(3, 8, (64, 4))
    right = (model.generate(words, start=1, end=2, max_length=4) == words).float().mean()
    assert right > 0.95


@pytest.mark.parametrize("norm_first", [False, True])
def test_every_parameter_gets_a_gradient(norm_first):
    model = Transformer(20, width=16, heads=2, layers=2, norm_first=norm_first)
    model(IDS, IDS).logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    # A bias of the keys adds the same to all of a query's scores, which softmax does not see.
    assert not [n for n, g in gradients.items() if g is None or (not g.any() and not n.endswith("key.bias"))]


def test_a_text_longer_than_the_positions_is_refused(translator):
    with pytest.raises(KDTutorError, match="13 tokens are too many for this model, which has 12 positions"):
        translator(torch.ones(1, 13, dtype=torch.long), IDS)


def test_stacks_take_layers_of_the_reader_s_own():
    layers = [EncoderLayer(8, 2, 16), EncoderLayer(8, 4, 32, norm_first=True)]
    memory = Encoder(layers)(torch.randn(2, 5, 8)).last_hidden_state
    assert Decoder([DecoderLayer(8, 2, 16)])(torch.randn(2, 3, 8), memory).last_hidden_state.shape == (
        2,
        3,
        8,
    )


# ------------------------------------------------------------------------------------------------ BERT, DistilBERT

SMALL = {"vocab_size": 30, "pad_token_id": 0, "max_position_embeddings": 16, "attn_implementation": "eager"}
BERT = transformers.BertConfig(
    **SMALL, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20,
    layer_norm_eps=1e-3, num_labels=4,
)  # fmt: skip
DISTILBERT = transformers.DistilBertConfig(
    **SMALL, dim=12, n_layers=3, n_heads=3, hidden_dim=20, num_labels=4
)
KINDS = {
    kind.__name__: (kind, config)
    for config, kinds in [
        (BERT, ["BertModel", "BertForSequenceClassification", "BertForMaskedLM"]),
        (DISTILBERT, ["DistilBertModel", "DistilBertForSequenceClassification", "DistilBertForMaskedLM"]),
    ]
    for kind in (getattr(transformers, name) for name in kinds)
}


def random_model(name: str) -> nn.Module:
    kind, config = KINDS[name]
    model = kind(config).eval()
    for parameter in model.parameters():  # see above: defaults would hide a mix-up
        nn.init.normal_(parameter, std=0.3)
    return model


def assert_same(ours: Bert, theirs: nn.Module, ids=IDS, mask=None, **inputs):
    mask = mask if mask is not None else ids != 0
    theirs.set_attn_implementation("eager")
    expected = theirs(ids, mask.long(), output_hidden_states=True, output_attentions=True, **inputs)
    output = ours(ids, mask.long(), **inputs)
    assert len(output.hidden_states) == len(expected.hidden_states)
    assert len(output.attentions) == len(expected.attentions)
    for mine, right in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert_close(mine[mask], right[mask])
    for mine, right in zip(output.attentions, expected.attentions, strict=True):
        assert_close(mine, right)
    if getattr(expected, "logits", None) is not None:
        right = mask if expected.logits.dim() == 3 else slice(None)
        assert_close(output.logits[right], expected.logits[right])
    else:
        assert output.logits is None
    if getattr(expected, "pooler_output", None) is not None:
        assert_close(ours.pooled(output.last_hidden_state), expected.pooler_output)


@pytest.mark.parametrize("name", KINDS)
def test_bert_is_transformers_layer_by_layer(name):
    theirs = random_model(name)
    assert_same(Bert.from_pretrained(theirs), theirs)


def test_token_types_are_transformers():
    theirs = random_model("BertForSequenceClassification")
    assert_same(Bert.from_pretrained(theirs), theirs, token_type_ids=(IDS > 5).long())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_load_as_they_were_saved(name, dtype, tmp_path):
    theirs = random_model(name).to(dtype)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = Bert.from_pretrained(load_file(tmp_path / "model.safetensors"), config)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same(ours, theirs.float())


def test_the_names_of_2018_are_understood():
    theirs = random_model("BertForMaskedLM")
    weights = theirs.state_dict() | {"bert.embeddings.position_ids": torch.arange(16)[None]}
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in itertools.product(old, list(weights)):
        if name.endswith(new):
            weights[name.replace(new, old[new])] = weights.pop(name)
    assert_same(Bert.from_pretrained(weights, BERT), theirs)


@pytest.mark.parametrize("name", ["bert-supersense", "bert-glosses", "half-depth student"])
def test_the_course_s_models_load_and_give_the_same_logits(name):
    task = load_task("glosses" if name == "bert-glosses" else "supersense")
    texts = ["a bird that is roasted and eaten on feast days", "the time of harvest"]
    batch = load_task("supersense").encode_texts(texts).batch(torch.arange(2))
    theirs = models.load_teacher(task)
    ours = Bert.from_pretrained(theirs)
    if name == "half-depth student":
        theirs = models.half_depth(theirs, seed=0).eval()
        ours = Bert.from_pretrained(theirs.state_dict(), theirs.config)
    else:
        file = load_file(SHIPPED / name / "model.safetensors")
        from_file = Bert.from_pretrained(file, json.loads((SHIPPED / name / "config.json").read_text()))
        torch.testing.assert_close(from_file.state_dict(), ours.state_dict(), atol=0, rtol=0)
    assert ours.config.layers == (3 if name == "half-depth student" else 6)
    with torch.no_grad():
        assert_same(ours, theirs, batch["input_ids"], batch["attention_mask"].bool())


def test_it_has_the_size_of_the_published_models():
    with torch.device("meta"):
        bert = Bert(Config())
        distilbert = Bert(Config(layers=6, token_types=0, pooler=None))
    assert sum(p.numel() for p in bert.parameters()) == 109_482_240
    assert sum(p.numel() for p in distilbert.parameters()) == 66_362_880


def test_weights_are_copied_not_shared_and_it_is_in_eval_mode():
    theirs = random_model("BertModel")
    ours = Bert.from_pretrained(theirs)
    assert not ours.training
    addresses = {p.data_ptr() for p in theirs.parameters()}
    assert not addresses & {p.data_ptr() for p in ours.parameters()}


def test_in_train_mode_dropout_makes_noise_and_every_parameter_can_learn():
    model = Bert(Config(30, 12, 2, 3, 20, 16, classes=4))
    assert not torch.equal(model(IDS).logits, model(IDS).logits)
    model(IDS, REAL, token_type_ids=IDS % 2).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_course_s_own_bert_answers_where_a_transformers_model_does():
    theirs = random_model("BertForSequenceClassification")
    output = models.forward(Bert.from_pretrained(theirs), {"input_ids": IDS, "attention_mask": REAL.long()})
    assert_close(output.logits, theirs(IDS, REAL.long()).logits)


# ------------------------------------------------------------------------------------------------ bad weights


@pytest.fixture
def weights():
    return random_model("BertForSequenceClassification").state_dict()


def test_a_missing_parameter_is_named(weights):
    del weights["bert.encoder.layer.1.output.dense.bias"]
    with pytest.raises(KDTutorError, match=r"missing: encoder\.layer\.1\.output\.dense\.bias$"):
        Bert.from_pretrained(weights, BERT)


def test_a_missing_pooler_is_named(weights):
    with pytest.raises(KDTutorError, match=r"missing: pooler\.dense\.bias, pooler\.dense\.weight$"):
        Bert.from_pretrained({k: v for k, v in weights.items() if "pooler" not in k}, BERT)


def test_an_unknown_parameter_is_named(weights):
    weights["cls.seq_relationship.weight"] = torch.zeros(2, 12)
    with pytest.raises(KDTutorError, match=r"unknown: cls\.seq_relationship\.weight$"):
        Bert.from_pretrained(weights, BERT)


def test_a_parameter_of_another_shape_is_named(weights):
    weights["classifier.bias"] = torch.zeros(5)
    with pytest.raises(KDTutorError, match=r"of another shape: classifier\.bias$"):
        Bert.from_pretrained(weights, BERT)


def test_an_output_layer_that_is_not_tied_to_the_embeddings_is_refused():
    weights = random_model("BertForMaskedLM").state_dict()
    weights["cls.predictions.decoder.weight"] = torch.zeros(30, 12)
    with pytest.raises(KDTutorError, match=r"unknown: cls\.predictions\.decoder\.weight$"):
        Bert.from_pretrained(weights, BERT)


def test_other_architectures_and_activations_are_refused(weights):
    with pytest.raises(KDTutorError, match="this is a roberta; Bert reads bert and distilbert"):
        Bert.from_pretrained(weights, transformers.RobertaConfig())
    with pytest.raises(KDTutorError, match="not a decoder or relu"):
        Bert.from_pretrained(weights, BERT.to_dict() | {"hidden_act": "relu"})
    with pytest.raises(KDTutorError, match="a state dict and its config"):
        Bert.from_pretrained(weights)
    with pytest.raises(KDTutorError, match="takes a transformers model, or a state dict and its config"):
        Bert.from_pretrained(nn.Linear(2, 2))


def test_bad_input_to_bert_is_refused():
    model = Bert(Config(30, 12, 1, 3, 20, max_length=16))
    with pytest.raises(KDTutorError, match=r"\(2, 4\), but the ids \(2, 5\)"):
        model(IDS, torch.ones(2, 4))
    with pytest.raises(KDTutorError, match="17 tokens are too many"):
        model(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(KDTutorError, match="a classifier needs a pooler"):
        Bert(Config(classes=3, pooler=None))
