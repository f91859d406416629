"""Teachers and students: the layer copy is exact, pipelines load the results, costs are counted, misfits refused."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import refusal
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    pipeline,
)

from kdtutor import models
from kdtutor.data.load import load_task
from kdtutor.data.task import Task
from kdtutor.models.depth import half_depth, layer_choice
from kdtutor.models.forward import forward, logits_of
from kdtutor.models.load import check_fits, freeze, load_model, load_teacher
from kdtutor.models.sizes import sizes
from kdtutor.models.students import set_dropout, small_bert


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("sentiment", max_length=32).subset(40)


@pytest.fixture(scope="module")
def raw_text(task) -> Task:
    """The same texts without labels."""
    splits = {name: replace(part, targets=None) for name, part in task.splits.items()}
    return replace(task, name="raw", kind="masked-lm", labels=(), splits=splits)


def tiny(task, layers=2, width=32, seed=0, **options):
    return small_bert(task, layers, width, heads=2, seed=seed, **options)


# ----------------------------------------------------------------------- which layers, and that they are copied


def test_the_layer_choice_is_distilberts_at_any_depth():
    assert layer_choice(12, 6) == [0, 2, 4, 7, 9, 11]
    assert layer_choice(6, 3) == [0, 2, 5]
    assert layer_choice(12, 1) == [0]
    assert layer_choice(4, 4) == [0, 1, 2, 3]
    for n in range(1, 40):
        for m in range(2, n + 1):
            chosen = layer_choice(n, m)
            assert chosen == sorted(set(chosen))  # every layer at most once, in order
            assert (len(chosen), chosen[0], chosen[-1]) == (m, 0, n - 1)


@pytest.mark.parametrize("depth", [0, -1, 5])
def test_a_depth_that_can_not_be_cut_is_refused(task, depth):
    assert f"a student of {depth} layers can't be cut from a teacher of 4" in refusal(
        half_depth, tiny(task, 4), depth
    )


@pytest.mark.parametrize("depth", [None, 1, 3, 4])
def test_a_student_holds_copies_of_the_chosen_layers(task, depth):
    teacher = tiny(task, layers=4)
    student = half_depth(teacher, depth)
    chosen = layer_choice(4, depth or 2)
    assert student.config.n_layers == len(chosen)
    for new, old in enumerate(chosen):
        mine, theirs = student.distilbert.transformer.layer[new], teacher.bert.encoder.layer[old]
        assert torch.equal(mine.attention.k_lin.weight, theirs.attention.self.key.weight)
        assert torch.equal(mine.ffn.lin2.bias, theirs.output.dense.bias)
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    addresses = {p.data_ptr() for p in teacher.parameters()}
    assert not any(p.data_ptr() in addresses for p in student.parameters())
    with torch.no_grad():
        before = teacher.bert.embeddings.word_embeddings.weight.clone()
        for p in student.parameters():
            p.zero_()
        assert torch.equal(teacher.bert.embeddings.word_embeddings.weight, before)


def test_a_student_of_a_frozen_teacher_is_trainable_and_has_its_labels(task):
    student = half_depth(freeze(tiny(task)))
    assert type(student) is DistilBertForSequenceClassification
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    assert student.config.id2label == {0: "negative", 1: "positive"}
    check_fits(student, task)


def test_the_fresh_part_of_a_student_is_decided_by_its_seed_alone(task):
    teacher = tiny(task)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = half_depth(teacher, seed=5), half_depth(teacher, seed=5), half_depth(teacher, seed=6)
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers are not used up
    assert torch.equal(a.pre_classifier.weight, b.pre_classifier.weight)
    assert not torch.equal(a.pre_classifier.weight, c.pre_classifier.weight)


def trained(model):
    """Its parameters as after training, not 0 and 1 as new biases and norms."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return model.eval()


def answers(model, batch):
    with torch.no_grad():
        return forward(model.eval(), batch, frozenset({"logits", "hidden_states"}))


def test_all_layers_copied_give_the_teachers_answers_for_single_texts(raw_text):
    """The vector of the first token type, the same for every token, lies in the positions."""
    teacher = trained(tiny(raw_text, layers=3))
    student = half_depth(teacher, depth=3)
    assert type(student) is DistilBertForMaskedLM
    assert student.vocab_projector.weight is student.distilbert.embeddings.word_embeddings.weight
    batch = raw_text.encode("train").batch(torch.arange(8))
    theirs, mine = answers(teacher, batch), answers(student, batch)
    real = batch["attention_mask"].bool()
    assert len(mine.hidden_states) == len(theirs.hidden_states) == 4
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.logits[real], theirs.logits[real], rtol=1e-5, atol=1e-4)


def test_token_types_may_be_dropped_as_in_distilbert(raw_text):
    teacher = trained(tiny(raw_text, layers=3))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = half_depth(teacher, depth=3, token_types="drop")
    places = "embeddings.position_embeddings.weight"
    assert torch.equal(student.distilbert.state_dict()[places], teacher.bert.state_dict()[places])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    with torch.no_grad():
        teacher.bert.embeddings.token_type_embeddings.weight.zero_()
    batch = raw_text.encode("train").batch(torch.arange(8))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        answers(student, batch).logits[real], answers(teacher, batch).logits[real], rtol=1e-5, atol=1e-4
    )
    assert 'unknown token_types "folds"; there are: fold, drop' in refusal(
        half_depth, teacher, token_types="folds"
    )


def masked_lm(task, **changes):
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(task.tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            **changes,
        )
    )


def test_an_untied_last_matrix_is_copied_with_its_own_bias_and_stays_untied(raw_text, tmp_path):
    teacher = trained(masked_lm(raw_text, tie_word_embeddings=False))
    student = half_depth(teacher, depth=2)
    assert student.vocab_projector.weight is not student.distilbert.embeddings.word_embeddings.weight
    batch = raw_text.encode("train").batch(torch.arange(8))
    real = batch["attention_mask"].bool()
    expected = answers(teacher, batch).logits[real]
    torch.testing.assert_close(answers(student, batch).logits[real], expected, rtol=1e-5, atol=1e-4)
    student.save_pretrained(tmp_path)
    again = DistilBertForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(answers(again, batch).logits[real], expected, rtol=1e-5, atol=1e-4)


def test_a_student_has_its_teachers_dropout(task, raw_text):
    for teacher in (
        tiny(task),
        half_depth(tiny(task)),
        masked_lm(raw_text, attention_probs_dropout_prob=0.3),
    ):
        set_dropout(teacher, 0.0)
        teacher.config.update({"attention_probs_dropout_prob": 0.3, "attention_dropout": 0.3})
        config = half_depth(teacher, 1).config
        assert (config.dropout, config.attention_dropout, config.seq_classif_dropout) == (0, 0.3, 0)


def test_a_distilbert_may_be_halved_again(task):
    teacher = half_depth(tiny(task, layers=4), depth=4, seed=0)
    student = half_depth(teacher)
    assert student.config.n_layers == 2
    assert torch.equal(student.pre_classifier.weight, teacher.pre_classifier.weight)
    theirs, mine = teacher.state_dict(), student.state_dict()
    last = "distilbert.transformer.layer.{}.sa_layer_norm.weight"
    assert torch.equal(mine[last.format(1)], theirs[last.format(3)])
    same_depth = half_depth(teacher, depth=4)
    encoded = task.encode("train")
    torch.testing.assert_close(logits_of(same_depth, encoded), logits_of(teacher, encoded))


# ----------------------------------------------------------------------- pipelines


def test_a_saved_student_is_loaded_by_the_text_classification_pipeline(task, tmp_path):
    student = half_depth(tiny(task)).eval()
    student.save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)
    texts = task.texts("train")[:3]
    classify = pipeline("text-classification", str(tmp_path), device="cpu", top_k=None)
    assert type(classify.model) is DistilBertForSequenceClassification
    expected = logits_of(student, task.encode_texts(texts)).softmax(-1)
    for scores, row in zip(classify(texts), expected, strict=True):
        found = {entry["label"]: entry["score"] for entry in scores}
        assert found == pytest.approx(dict(zip(task.labels, row.tolist(), strict=True)), abs=1e-5)
    torch.testing.assert_close(
        logits_of(load_model(tmp_path, task), task.encode_texts(texts)).softmax(-1), expected
    )


def test_a_saved_masked_lm_student_is_loaded_by_the_fill_mask_pipeline(raw_text, tmp_path):
    student = half_depth(tiny(raw_text)).eval()
    student.save_pretrained(tmp_path)
    raw_text.tokenizer.save_pretrained(tmp_path)
    fill = pipeline("fill-mask", str(tmp_path), device="cpu")
    assert type(fill.model) is DistilBertForMaskedLM
    guesses = fill("a very [MASK] film")
    assert len(guesses) == 5
    batch = raw_text.encode_texts(["a very [MASK] film"]).batch(torch.tensor([0]))
    position = batch["input_ids"][0].tolist().index(raw_text.tokenizer.mask_token_id)
    with torch.no_grad():
        best = forward(student, batch).logits[0, position].argmax()
    assert guesses[0]["token"] == int(best)


# ----------------------------------------------------------------------- forward


def electra(task):
    """A masked LM whose head is not among those that can be run alone."""
    size = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    return ElectraForMaskedLM(
        ElectraConfig(vocab_size=task.tokenizer.vocab_size, num_attention_heads=2, **size)
    )


@pytest.mark.parametrize(
    "make", [tiny, lambda task: half_depth(tiny(task)), electra], ids=["BERT", "DistilBERT", "another"]
)
def test_logits_of_selected_rows_are_rows_of_all_logits(raw_text, make):
    model = make(raw_text).eval()
    batch = raw_text.encode("train").batch(torch.arange(6))
    rows = torch.tensor([5, 0, 17])
    needs = frozenset({"logits", "hidden_states"})
    with torch.no_grad():
        full, some = forward(model, batch, needs), forward(model, batch, needs, rows=rows)
    assert some.logits.shape == (3, raw_text.tokenizer.vocab_size)
    torch.testing.assert_close(some.logits, full.logits.flatten(0, 1)[rows])
    assert len(some.hidden_states) == len(full.hidden_states)
    with torch.no_grad():
        plain = forward(model, batch)
    assert (plain.hidden_states, plain.attentions) == (None, None)  # what nobody needs is not kept


def test_logits_come_in_the_order_of_the_texts_and_the_mode_is_restored(task):
    model = tiny(task, dropout=0.5).train()
    encoded = task.encode("train")
    logits = logits_of(model, encoded, batch_size=7)
    assert model.training
    with torch.no_grad():
        for i in (0, 13, 39):
            alone = forward(model.eval(), encoded.batch(torch.tensor([i]))).logits[0]
            torch.testing.assert_close(logits[i], alone, rtol=1e-4, atol=1e-5)
    assert logits.dtype == torch.float32
    logits_of(model, encoded)
    assert not model.training


def test_logits_that_are_not_finite_are_refused_naming_the_example(task):
    model, encoded = tiny(task), task.encode("train")
    token = int(encoded.ids[encoded.offsets[23] + 1])
    first = next(i for i in range(40) if token in encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]])
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[token] = float("nan")
    assert f"example {first} are not finite" in refusal(logits_of, model, encoded, batch_size=8)
    assert model.training
    assert "the split is empty" in refusal(logits_of, model, task.encode_texts([]))


def test_pairs_reach_a_bert_with_their_token_types(task):
    model = tiny(task).eval()
    batch = task.encode("train").batch(torch.arange(2))
    ones = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    with torch.no_grad():
        assert not torch.allclose(forward(model, batch).logits, forward(model, ones).logits)
        forward(half_depth(model), ones)  # a DistilBERT has no token types: they are left out


def test_a_frozen_model_neither_drops_out_nor_learns(task):
    model = tiny(task)
    forward(model, task.encode("train").batch(torch.arange(2))).logits.sum().backward()
    assert freeze(model) is model
    assert not model.training
    # Gradients take as much memory as the weights.
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


# ----------------------------------------------------------------------- sizes


def test_bert_base_and_distilbert_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        bert, distilbert = BertModel(BertConfig()), DistilBertModel(DistilBertConfig())
    for model, parameters in ((bert, 109_482_240), (distilbert, 66_362_880)):
        model.to_empty(device="cpu")
        for buffer in model.buffers():  # positions
            buffer.zero_()
        size = sizes(model, length=1)
        assert (size.parameters, size.bytes) == (parameters, 4 * parameters)


@pytest.mark.parametrize("length", [7, 32])
def test_multiply_adds_are_those_counted_by_hand(task, raw_text, length):
    width, layers, vocabulary = 32, 2, task.tokenizer.vocab_size
    # Query, key, value, output; the feed-forward's two.
    projections = 4 * width * width + 2 * width * 4 * width
    attention = 2 * length * width  # scores, and the weighted sum of values
    encoder = layers * length * (projections + attention)
    size = sizes(tiny(task), length)
    assert size.multiply_adds == encoder + width * width + width * 2  # pooler and classifier read one token
    assert size.length == length
    student = half_depth(tiny(task, layers=4))
    assert sizes(student, length).multiply_adds == encoder + width * width + width * 2
    size = sizes(tiny(raw_text), length)
    assert size.multiply_adds == encoder + length * (width * width + width * vocabulary)


def test_sizes_leave_the_model_as_it_was_and_count_shared_weights_once(raw_text):
    model = tiny(raw_text)
    size = sizes(model, length=1000)
    assert model.training
    assert size.length == 32  # all the positions there are
    assert size.parameters == sum(p.numel() for p in model.parameters())
    untied = size.parameters + model.bert.embeddings.word_embeddings.weight.numel()
    assert sum(v.numel() for k, v in model.state_dict().items() if "position_ids" not in k) >= untied
    assert "parameters" in str(size)


# ----------------------------------------------------------------------- new models


def test_a_small_bert_fits_its_task_and_depends_on_its_seed_alone(task, raw_text):
    model = small_bert(task, layers=1, width=64, seed=3)
    assert type(model) is BertForSequenceClassification
    assert model.config.num_attention_heads == 2
    check_fits(model, task)
    torch.rand(3)
    again = small_bert(task, layers=1, width=64, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert type(small_bert(raw_text, 1, 32)) is BertForMaskedLM
    assert "3 heads" in refusal(small_bert, task, 1, 32, heads=3)
    assert "layers must be a whole number from 1 to 1000, not 0" in refusal(small_bert, task, 0, 32)


def test_a_regression_has_one_output():
    valence = load_task("valence").subset(8)
    model = small_bert(valence, 1, 32)
    assert model.classifier.out_features == 1
    assert model.config.problem_type == "regression"
    assert logits_of(model, valence.encode("train")).shape == (8, 1)
    check_fits(half_depth(model), valence)


# ----------------------------------------------------------------------- loading, and what is refused


def save(model, folder, **changes) -> str:
    """The model in a folder, its config.json changed."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_a_half_precision_checkpoint_is_loaded_in_float32(task, tmp_path):
    model = tiny(task)
    values = model.classifier.weight.detach().half().float()
    loaded = load_model(save(model.half(), tmp_path / "fp16"), task)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.classifier.weight, values)


def test_the_shipped_teacher_is_frozen_and_fits_its_task():
    supersense = load_task("supersense")
    teacher = load_teacher(supersense)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert tuple(teacher.config.id2label.values()) == supersense.labels
    assert load_teacher(supersense.subset(10).transfer(5)).config.num_labels == 25


def test_loading_prints_nothing(task, tmp_path, capfd):
    path = save(tiny(task), tmp_path / "quiet")
    capfd.readouterr()
    load_model(path, task)
    assert capfd.readouterr() == ("", "")


def test_a_task_without_a_teacher_says_how_to_make_one(tmp_path):
    valence = load_task("valence")
    message = refusal(load_teacher, valence)
    assert 'no teacher ships for "valence" (there are for supersense, sentiment' in message
    assert "kdtutor finetune" in message


@pytest.mark.parametrize("task", ["supersense", "valence"])
def test_an_empty_name_of_a_teacher_is_not_the_one_that_ships(task):
    assert "the teacher's name is empty" in refusal(load_teacher, load_task(task), "")


def test_a_masked_lm_may_be_fine_tuned_but_does_not_teach_a_classification(task, raw_text, tmp_path):
    path = save(tiny(raw_text), tmp_path / "lm")
    model = load_model(path, task)
    assert type(model) is BertForSequenceClassification
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert "it has no trained classifier.bias" in refusal(load_teacher, task, path)
    assert type(load_teacher(raw_text, path)) is BertForMaskedLM


def test_a_checkpoint_of_another_build_is_not_filled_with_random_weights(task, tmp_path):
    path = save(tiny(task, layers=2), tmp_path / "cut", num_hidden_layers=3)
    assert "16 parameters are missing, such as bert.encoder.layer.2" in refusal(load_model, path, task)


def test_models_with_other_classes_are_refused(task, tmp_path):
    path = save(tiny(task), tmp_path / "model")
    three = replace(task, name="three", labels=("a", "b", "c"))
    assert 'has 2 outputs, but "three" has 3: a, b, c' in refusal(load_model, path, three)
    swapped = replace(task, name="swapped", labels=("positive", "negative"))
    encoded = task.encode("train")
    turned = logits_of(load_model(path, task), encoded).flip(1)
    torch.testing.assert_close(logits_of(load_model(path, swapped), encoded), turned)
    message = refusal(check_fits, tiny(task), swapped)
    assert 'has the classes negative, positive, but "swapped" has positive, negative' in message
    load_model(path, replace(task, labels=("Negative", "POSITIVE")))  # spelling is no other class
    unnamed = save(tiny(task), tmp_path / "unnamed", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert load_model(unnamed, task).config.id2label == {0: "negative", 1: "positive"}
    half_named = save(tiny(task), tmp_path / "half", id2label={"0": "positive", "1": "LABEL_1"})
    assert "has the classes positive, LABEL_1" in refusal(load_model, half_named, task)


def test_a_teacher_without_the_pooler_that_its_head_reads_does_not_teach(task, tmp_path):
    from safetensors.torch import load_file, save_file

    path = save(tiny(task), tmp_path / "headless")
    file = Path(path, "model.safetensors")
    kept = {name: value for name, value in load_file(file).items() if ".pooler." not in name}
    save_file(kept, file, {"format": "pt"})
    assert "it has no trained bert.pooler.dense.bias" in refusal(load_teacher, task, path)
    assert load_model(path, task).config.num_labels == 2  # but it may be fine-tuned


def test_a_task_may_be_named_wherever_a_model_is_asked_for_one(tmp_path):
    teacher = load_teacher("sentiment")
    assert teacher.config.id2label == {0: "negative", 1: "positive"}
    assert load_model("bert-glosses", "sentiment").config.num_labels == 2
    assert small_bert("sentiment", layers=1, width=32).config.num_labels == 2
    assert 'unknown task "sentimant"; there are: sentiment' in refusal(load_teacher, "sentimant")
    assert "the task is a float, not a Task or the name of one" in refusal(load_teacher, 0.5)


def test_a_module_that_is_no_model_of_transformers_is_named(task):
    message = refusal(check_fits, torch.nn.Linear(2, 2), task, "the student")
    assert message == "the student is a Linear, not a model of transformers: its configuration is missing"


def test_models_with_another_vocabulary_or_too_few_positions_are_refused(task, tmp_path):
    other = BertForSequenceClassification(
        BertConfig(
            vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
        )
    )
    message = refusal(load_model, save(other, tmp_path / "other"), task)
    assert 'knows 100 tokens, but the tokenizer of "sentiment' in message
    assert f"has {len(task.tokenizer)}" in message
    short = save(tiny(task), tmp_path / "short")
    message = refusal(load_model, short, replace(task, max_length=64))
    assert "has 32 positions" in message
    assert "allows 64 tokens" in message


def test_a_model_of_another_kind_is_refused(task, raw_text):
    assert "is a BertForMaskedLM" in refusal(check_fits, tiny(raw_text), task)
    assert "is a BertForSequenceClassification" in refusal(check_fits, tiny(task), raw_text)


def test_an_unknown_model_is_answered_with_those_there_are_and_how_to_go_on(task):
    start = time.monotonic()
    message = refusal(load_model, "bert-supersens", task)
    assert time.monotonic() - start < 15
    assert message.startswith('unknown model "bert-supersens"; there are: bert-supersense')
    assert "tried: a folder of that name, the local cache, " in message
    assert "to go on offline" in message
    assert refusal(load_model, "someone/bert", task).startswith('can\'t load the model "someone/bert" (tried')


def test_a_truncated_checkpoint_is_named(task, tmp_path):
    path = Path(save(tiny(task), tmp_path / "cut"))
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    said = refusal(load_model, path, task)
    assert f"{path / 'model.safetensors'} is no whole safetensors file (Error while deserializing" in said
    (path / "config.json").write_text("{")
    assert f"can't load the model in the folder {path}" in refusal(load_model, path, task)


class Hostile:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("decoy", [False, True], ids=["pickle alone", "beside a file that only looks safe"])
def test_a_pickled_checkpoint_is_never_opened(task, tmp_path, decoy):
    path, trace = tmp_path / "evil", tmp_path / "trace"
    save(tiny(task), path)
    os.remove(path / "model.safetensors")
    (path / "pytest_model.bin").write_bytes(b"")
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Hostile(trace)}))
    if decoy:
        (path / "other.safetensors").write_bytes(b"")
    message = refusal(load_model, path, task)
    assert str(path) in message
    assert "safetensors" in message
    assert not trace.exists()
    pickle.loads((path / "pytorch_model.bin").read_bytes())
    assert trace.exists()  # the trap itself works


@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "own architecture"])
def test_code_that_comes_with_a_checkpoint_is_never_run(task, tmp_path, monkeypatch, known):
    trace = tmp_path / "trace"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    remote = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"}
    changes = {"auto_map": remote} | ({} if known else {"model_type": "evil"})
    path = save(tiny(task), tmp_path / "evil", **changes)
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    if known:
        assert type(load_model(path, task)) is BertForSequenceClassification
    else:
        assert f"can't load the model in the folder {path} (ValueError" in refusal(load_model, path, task)
    assert not trace.exists()


def test_transformers_itself_takes_the_student_for_one_of_its_own(task, tmp_path):
    path = save(half_depth(tiny(task)), tmp_path / "student")
    assert AutoConfig.from_pretrained(path).architectures == ["DistilBertForSequenceClassification"]
    model, report = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert type(model) is DistilBertForSequenceClassification
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert (Path(path) / "model.safetensors").is_file()
    assert models.shipped() == sorted(models.shipped())


def test_dropout_is_set_everywhere_and_saved(tmp_path):
    task = load_task("sentiment").subset(8)
    for model in (small_bert(task, 1, 32, dropout=0.1), half_depth(small_bert(task, 2, 32))):
        assert set_dropout(model, 0.25) is model
        modules = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        assert modules and all(module.p == 0.25 for module in modules)
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert {value for name, value in saved.items() if "dropout" in name and name != "qa_dropout"} - {
            None
        } == {0.25}
