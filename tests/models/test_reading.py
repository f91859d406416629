"""How models read: with whose tokenizer, padded or not, and up to which length once they are saved."""

from __future__ import annotations

import json
import warnings
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from helpers import make_task, model, refusal
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    CanineTokenizer,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForSequenceClassification,
    pipeline,
)

from kdtutor.data.task import Task
from kdtutor.evaluation.scores import evaluate, predict
from kdtutor.models import reading
from kdtutor.models.depth import half_depth
from kdtutor.models.load import load_model, load_teacher
from kdtutor.models.reading import own_tokenizer, read_by
from kdtutor.models.save import save
from kdtutor.models.students import small_bert
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import SoftTargets
from kdtutor.training.distillation import Distillation

WORDS = sorted({word for text in make_task().texts("train") for word in text.split()})
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces(folder, words=WORDS) -> str:
    BertTokenizerFast(vocab={word: i for i, word in enumerate([*SPECIAL, *words])}).save_pretrained(folder)
    return str(folder)


def task_with(tokenizer, **changes) -> Task:
    return make_task(tokenizer_name=tokenizer, **changes)


@pytest.fixture
def forwards(tmp_path) -> str:
    return word_pieces(tmp_path / "forwards")


@pytest.fixture
def backwards(tmp_path) -> str:
    return word_pieces(tmp_path / "backwards", WORDS[::-1])


def teacher_reading(tokenizer: str, folder) -> str:
    """A random teacher, saved with its tokenizer."""
    task = task_with(tokenizer)
    save(model(task, seed=5), task, folder)
    return str(folder)


# ----------------------------------------------------------------------- tokenizers


def test_tokenizers_are_told_apart_by_what_they_do(forwards, backwards, tmp_path):
    task = task_with(forwards)
    assert own_tokenizer(word_pieces(tmp_path / "again"), task) is None
    assert own_tokenizer(backwards, task) == backwards
    assert own_tokenizer(tmp_path, task) is None  # no tokenizer lies there
    bare = tmp_path / "vocab"
    bare.mkdir()
    (bare / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS[::-1]]))
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert own_tokenizer(bare, task) == str(bare)


def test_a_teacher_of_classes_reads_with_its_own_tokenizer(forwards, backwards, tmp_path):
    path, task = teacher_reading(backwards, tmp_path / "teacher"), task_with(forwards)
    expected = predict(load_model(path, task_with(backwards)), task_with(backwards), "train")
    teacher = load_teacher(task, path)
    assert torch.equal(predict(teacher, task, "train"), expected)
    assert evaluate(teacher, task, latency=True).latency_ms > 0
    assert read_by(teacher, task).tokenizer_name == path
    for cache in (True, False):
        run = Distillation(model(task), teacher, task, SoftTargets(2), steps=2, batch_size=8, precision="fp32",
                           cache=cache, check_teacher=False, fast=False)  # fmt: skip
        batch = run.batches[0][0]
        asked = run.answers.outputs(batch, batch).logits
        torch.testing.assert_close(asked, expected[batch["index"]])
        run.run()
    said = refusal(Distillation, model(task), teacher, task, CosineHidden(), steps=1, check_teacher=False)
    assert "the teacher reads with a tokenizer of its own" in said and "hidden_states" in said


def test_a_teacher_of_the_first_course_is_named_as_such(forwards, backwards, tmp_path, monkeypatch):
    path = teacher_reading(backwards, tmp_path / "teacher")
    with warnings.catch_warnings(action="error"):
        load_teacher(task_with(forwards), path)
    pieces = "\n".join([*SPECIAL, *WORDS[::-1]])
    monkeypatch.setattr(reading, "FIRST_PIECES", sha256(pieces.encode()).hexdigest())
    for tokenizer in (forwards, backwards):  # its own, or the task's
        with pytest.warns(
            UserWarning, match=f"{path} .*none of today's teachers.* labels that .* pool hides"
        ):
            load_teacher(task_with(tokenizer), path)
    with warnings.catch_warnings(action="error"):
        load_teacher(task_with(forwards), teacher_reading(forwards, tmp_path / "another"))


def test_pieces_that_are_no_text_are_no_hindrance():
    """CANINE has every code point as a piece, halves of a surrogate pair among them."""
    task = SimpleNamespace(tokenizer=CanineTokenizer())
    with warnings.catch_warnings(action="error"):
        reading.warn_of_first_teachers(SimpleNamespace(), task, "canine")


def test_a_student_reads_as_its_task_does(forwards, backwards, tmp_path):
    path, task = teacher_reading(backwards, tmp_path / "teacher"), task_with(forwards)
    assert f'load_task(…, tokenizer="{path}") (--tokenizer {path})' in refusal(load_model, path, task)
    teacher = load_teacher(task, path)
    said = refusal(Distillation, half_depth(teacher, 1), teacher, task, SoftTargets(2), check_teacher=False)
    assert f"the student reads with the tokenizer of {path}" in said


def test_logits_over_the_vocabulary_need_one_vocabulary(forwards, backwards, tmp_path):
    task = task_with(backwards, kind="masked-lm")
    save(model(task), task, tmp_path / "teacher")
    said = refusal(load_teacher, task_with(forwards, kind="masked-lm"), str(tmp_path / "teacher"))
    assert "has another tokenizer" in said


def test_an_embedded_teacher_reads_with_the_courses_tokenizer(tmp_path):
    from kdtutor.data.load import load_task

    plain = load_task("sentiment", max_length=24).subset(8)
    other = load_task("sentiment", max_length=24, tokenizer=word_pieces(tmp_path / "small")).subset(8)
    expected = predict(load_teacher(plain), plain, "train")
    torch.testing.assert_close(predict(load_teacher(other), other, "train"), expected)


def test_a_tokenizer_without_a_fast_version_has_a_fingerprint(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    task = task_with(str(tmp_path))
    assert task.fingerprint == task_with(str(tmp_path)).fingerprint != make_task().fingerprint
    assert evaluate(small_bert(task, 1, 32), task, latency=False).examples == 12


def test_a_tokenizer_without_a_fast_version_loses_no_text_in_silence(tmp_path):
    from transformers import ByT5Tokenizer

    from kdtutor.data.load import load_task

    ByT5Tokenizer().save_pretrained(tmp_path)
    task = load_task([f"fish number {n}" for n in range(60)], tokenizer=str(tmp_path), max_length=8)
    assert "a ByT5Tokenizer has no fast version" in refusal(task.encode, "train")


def test_a_folder_without_the_words_of_its_tokenizer_is_refused(forwards, tmp_path):
    from kdtutor.data.tokens import load_tokenizer

    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}')
    said = refusal(load_tokenizer, str(tmp_path))
    assert "has no vocabulary, only 5 special tokens: is its tokenizer.json missing?" in said


def test_a_tokenizer_that_can_not_be_loaded_is_not_taken_for_none(forwards, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\nb\n")
    about = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "no such one"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    said = refusal(own_tokenizer, tmp_path, make_task())
    assert f"can't load the tokenizer in the folder {tmp_path}" in said and "--tokenizer" in said
    assert own_tokenizer(tmp_path, task_with(forwards)) is None  # which was named


# ----------------------------------------------------------------------- padding, decoders, attention


def without_pad(folder) -> str:
    vocabulary = {word: i for i, word in enumerate(["<end>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>").save_pretrained(
        folder
    )
    return str(folder)


SMALL = {"num_labels": 3, "vocab_size": len(WORDS) + 2}


def gpt2():
    return GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **SMALL))


def opt():
    """Its configuration knows a padding token that its tokenizer does not have."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    return OPTForSequenceClassification(OPTConfig(**size, word_embed_proj_dim=16, pad_token_id=1, **SMALL))


@pytest.mark.parametrize("make", [gpt2, opt])
def test_padding_changes_no_answer_of_a_decoder_without_a_padding_token(make, tmp_path):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "model")
    task = task_with(without_pad(tmp_path / "model"))
    decoder = load_model(tmp_path / "model", task).eval()
    together = predict(decoder, task, "test")
    alone = torch.cat([predict(decoder, task, "test", batch_size=1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    length = save(decoder, task, tmp_path / "saved")
    again = load_model(tmp_path / "saved", task_with(str(tmp_path / "saved")))
    torch.testing.assert_close(predict(again, task, "test"), together)
    assert length >= task.max_length


def test_a_model_whose_answers_depend_on_padding_is_refused(tmp_path, monkeypatch):
    task = task_with(without_pad(tmp_path / "model"))
    gpt2().save_pretrained(tmp_path / "model")
    monkeypatch.setattr("kdtutor.models.reading._difference", lambda *_: 0.5)
    said = refusal(load_model, tmp_path / "model", task)
    assert (
        "a GPT2ForSequenceClassification, answers otherwise when a text is padded (by 0.5, padding '<end>')"
        in said
    )


def test_attention_is_the_plain_one_where_there_is_no_fused_one(forwards, tmp_path):
    task = task_with(forwards)
    config = DebertaV2Config(
        vocab_size=len(task.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=3, max_position_embeddings=32,
    )  # fmt: skip
    DebertaV2ForSequenceClassification(config).save_pretrained(tmp_path / "deberta")
    assert type(load_model(tmp_path / "deberta", task)) is DebertaV2ForSequenceClassification


def test_an_encoder_decoder_is_refused_by_its_kind(forwards, tmp_path):
    task = task_with(forwards)
    config = T5Config(
        vocab_size=len(task.tokenizer), d_model=16, d_ff=16, num_layers=1, num_heads=2, num_labels=3
    )
    T5ForSequenceClassification(config).save_pretrained(tmp_path / "t5")
    assert "is a t5, an encoder–decoder" in refusal(load_model, tmp_path / "t5", task)


def test_a_pair_has_one_token_type_where_the_model_knows_no_second(forwards, tmp_path):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from kdtutor.data.load import load_task

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(
        vocab_size=len(WORDS) + 5, type_vocab_size=1, pad_token_id=0, max_position_embeddings=40, **size
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    rows = [{"a": f"fish {n}", "b": f"tree {n}", "y": "no" if n % 2 else "yes"} for n in range(40)]
    task = load_task(rows, text="a", pair="b", label="y", tokenizer=forwards, max_length=24, stratify=True)
    assert predict(load_model(tmp_path / "roberta", task), task, "test").shape == (4, 2)


def test_a_classifier_does_not_teach_a_task_without_labels(forwards, tmp_path):
    path = teacher_reading(forwards, tmp_path / "teacher")
    said = refusal(load_teacher, task_with(forwards, kind="masked-lm"), path)
    assert 'answers with classes, but "tiny" has no label column' in said and "cells may be empty" in said


# ----------------------------------------------------------------------- saved


def test_a_saved_model_cuts_a_text_of_any_length_to_what_it_can_read(forwards, tmp_path):
    task = task_with(forwards)
    task.encode("train")  # cuts texts
    student = small_bert(task, 1, 32)
    assert (
        save(student, task, tmp_path / "student") == task.max_length == student.config.max_position_embeddings
    )
    classify = pipeline("text-classification", str(tmp_path / "student"))
    [found] = classify("animal fish " * 2500, truncation=True)
    assert found["label"] in task.labels
    assert classify.tokenizer.model_max_length == 24
    assert json.loads((tmp_path / "student" / "tokenizer.json").read_text())["truncation"] is None
    about = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    assert "max_length" not in about and "truncation_strategy" not in about
    # What the task's own tokenizer says is left alone.
    assert task.tokenizer.model_max_length != 24
