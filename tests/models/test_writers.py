"""Students that write: LSTM and GRU language models, halves of a GPT-2 and of encoder–decoders, models of others."""

from __future__ import annotations

import pytest
import torch
from helpers import make_run, make_task, refusal, same, weights
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    OPTConfig,
    PegasusConfig,
    T5Config,
)

from kdtutor.data.tokens import end_of_text, load_tokenizer
from kdtutor.models import forward, half_depth, load_model, load_teacher, make_student, save, sizes
from kdtutor.models.families import TWO_STACKS
from kdtutor.models.forward import unembedding
from kdtutor.models.recurrent_lm import gru_lm, lstm_lm
from kdtutor.models.students import small_gpt2, small_seq2seq
from kdtutor.models.writing import generate
from kdtutor.objectives.logits import HardLabels, SoftTargets

GOAL = 0.5 * HardLabels() + 0.5 * SoftTargets(2)
TEXTS = ["a small furry", "fish", "the sweet red fruit of tree"]


@pytest.mark.parametrize("make", [lstm_lm, gru_lm])
def test_a_recurrent_language_model_learns_writes_and_is_loaded(make, tmp_path):
    task = make_task("causal-lm")
    teacher = small_gpt2(task, 1, 48, dropout=0.0, seed=2)
    plain, chunked = (
        make_run(task, GOAL, student=make(task, width=32, dropout=0.0, seed=1), teacher=teacher, steps=12,
                 chunked=chunked, learning_rate=1e-2)
        for chunked in (False, True)
    )  # fmt: skip
    losses = [[row["loss"] for row in run.run()] for run in (plain, chunked)]
    assert chunked.chunked
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.5

    student = plain.student
    assert student.lm_head.weight is student.reader.embeddings.weight
    assert generate(student, task, TEXTS, max_new_tokens=4) == [
        generate(student, task, text, max_new_tokens=4)[0] for text in TEXTS
    ]
    save.save(student, task, tmp_path)
    again = load_model(tmp_path, task)
    assert same(weights(again), weights(student))
    assert again.lm_head.weight is again.reader.embeddings.weight


def test_it_reads_a_text_from_its_first_token_on_wherever_the_padding_stands():
    task = make_task("causal-lm")
    student = lstm_lm(task, width=16, dropout=0.0, seed=0).eval()
    ids, pad = torch.tensor([[5, 6, 7]]), torch.zeros(1, 2, dtype=torch.long)
    with torch.no_grad():
        alone = student(ids).logits[0]
        for padded, first in ((torch.cat([pad, ids], 1), 2), (torch.cat([ids, pad], 1), 0)):
            found = student(padded, attention_mask=(padded != 0).long()).logits[0, first : first + 3]
            assert torch.allclose(found, alone, atol=1e-6)
        other = student(torch.tensor([[5, 6, 9]])).logits[0]
    assert torch.equal(other[:2], alone[:2])


def test_they_are_made_by_name_and_refused_elsewhere():
    task = make_task("causal-lm")
    assert make_student("gru-lm", None, task, width=16).config.cell == "gru"
    assert make_student("small-gpt2", None, task, layers=1, width=32).config.n_layer == 1
    assert make_student("small-seq2seq", None, make_task("seq2seq"), width=32).config.decoder_layers == 2
    assert "predicts next tokens" in refusal(lstm_lm, make_task("masked-lm"))


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
def test_half_of_a_model_that_writes_has_its_first_and_its_last_layer(kind):
    task = make_task(kind)
    make = {"causal-lm": small_gpt2, "seq2seq": small_seq2seq}[kind]
    teacher = make(task, layers=4, width=32, dropout=0.0, seed=0)
    student, whole = half_depth(teacher), half_depth(teacher, depth=4)
    stacks = {"causal-lm": ["h"], "seq2seq": ["encoder.layers", "decoder.layers"]}[kind]
    for place in stacks:
        old, new = (model.base_model.get_submodule(place) for model in (teacher, student))
        assert len(new) == 2
        assert same(weights(new[0]), weights(old[0]))
        assert same(weights(new[1]), weights(old[3]))
    batch = task.encode("test").batch(torch.arange(3))
    with torch.no_grad():
        assert torch.equal(forward(whole.eval(), batch).logits, forward(teacher.eval(), batch).logits)
    assert make_run(task, GOAL, student=student, teacher=teacher, steps=2).run()


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIDES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
OTHERS = {
    "llama": lambda **c: LlamaConfig(**SIZE, **c),
    "gpt_neox": lambda **c: GPTNeoXConfig(**SIZE, **c),
    "opt": lambda **c: OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
                                 word_embed_proj_dim=32, **c),
    "bart": lambda **c: BartConfig(**SIDES, **c),
    "marian": lambda **c: MarianConfig(**SIDES, **c),
    "mbart": lambda **c: MBartConfig(**SIDES, **c),
    "pegasus": lambda **c: PegasusConfig(**SIDES, **c),
    "t5": lambda **c: T5Config(d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, **c),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*OTHERS])
def test_models_of_others_are_loaded_halved_and_distilled(kind, tmp_path):
    writes = kind in TWO_STACKS
    task = make_task("seq2seq" if writes else "causal-lm")
    special = {"bos_token_id": task.tokenizer.cls_token_id, "eos_token_id": end_of_text(task.tokenizer)}
    if writes:
        special |= {"decoder_start_token_id": task.tokenizer.cls_token_id, "forced_eos_token_id": None}
    config = OTHERS[kind](
        vocab_size=len(task.tokenizer), pad_token_id=0, max_position_embeddings=40, **special
    )
    auto = AutoModelForSeq2SeqLM if writes else AutoModelForCausalLM
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)

    teacher = load_teacher(task, tmp_path)
    batch = task.rules.with_labels(task.encode("test").batch(torch.arange(4)), task.tokenizer, 0, None)
    rows = task.rules.counted(batch, "valid").flatten().nonzero()[:, 0]
    with torch.no_grad():
        whole = forward(teacher, batch).logits.flatten(0, 1)[rows]
        if unembedding(teacher) is not None:
            found = forward(teacher, batch, frozenset({"features"}), rows)
            assert torch.allclose(found.unembedding(found.features)[: len(rows)], whole, atol=1e-5)
    student = half_depth(teacher)
    assert sizes(student).multiply_adds < sizes(teacher).multiply_adds
    run = make_run(task, GOAL, student=student, teacher=teacher, steps=2)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.run())
    assert len(generate(student, task, TEXTS, max_new_tokens=3)) == 3
    save.save(student, task, tmp_path / "student")
    assert same(weights(load_model(tmp_path / "student", task)), weights(student))


def test_a_tokenizer_that_can_not_pad_is_refused_with_the_remedy(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"fish": 0, "fruit": 1}))
    ).save_pretrained(tmp_path)
    said = refusal(load_tokenizer, tmp_path)
    assert "has no token that pads a text" in said
    assert 'tokenizer.add_special_tokens({"pad_token": "[PAD]"})' in said


def test_a_tokenizer_without_an_end_can_not_write(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "fish": 1, "fruit": 2}, unk_token="fish"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(tmp_path)
    task = make_task("seq2seq", tokenizer_name=str(tmp_path))
    assert "has no token that ends a text" in refusal(small_seq2seq, task)
    assert "has no token that ends a text" in refusal(task.encode, "train")
