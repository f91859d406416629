"""Models of others that write, with tokenizers of their own: from the Hub's files to transformers' again."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers import texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

import kdtutor as kd
from kdtutor.cli import main

READ = ["--text=text", "--kind=causal-lm", "--max_length=40"]
HOW = [*READ, "--batch_size=16", "--precision=fp32", "--learning_rate=3e-3"]
PROMPTS = ["a small furry", "fish or the", "near"]
PARTS = {"train": (0, 100), "validation": (100, 130), "test": (130, 160)}
SPECIAL = {  # GPT-2 has nothing to pad with, and one token for start and end; Llama puts its start before each text
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE that is learned on the spot, with the special tokens that such models have."""
    special = SPECIAL[kind]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*dict.fromkeys(special.values())],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(texts(100, 0), trainer)
    if kind == "llama":
        start = [("<s>", made.token_to_id("<s>"))]
        made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=start)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """A folder as the Hub has them."""
    folder = tmp_path_factory.mktemp("hub") / "reviews"
    folder.mkdir()
    for part, (first, last) in PARTS.items():
        table = pyarrow.table({"text": texts(last - first, first)})
        pyarrow.parquet.write_table(table, folder / f"{part}-00000-of-00001.parquet")
    return str(folder)


def continued(folder: str) -> list[str]:
    """What transformers alone makes of the prompts, each by itself."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
        found.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found


@pytest.mark.parametrize("kind", [*SPECIAL])
def test_from_a_folder_of_the_hub_to_a_student_that_transformers_lets_write(kind, data, tmp_path, capsys):
    tokenizer, sizes = tokenizer_of(kind), {"bos_token_id": 0, "vocab_size": 302}
    sizes["eos_token_id"] = tokenizer.eos_token_id
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **sizes)
    if kind == "llama":
        config = LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, **sizes,
        )  # fmt: skip
    torch.manual_seed(0)
    others, teacher, student, pupil, kept = (str(tmp_path / name) for name in "otspk")
    AutoModelForCausalLM.from_config(config).save_pretrained(others)
    tokenizer.save_pretrained(others)

    def run(command: str, *flags: str) -> dict:
        assert main([command, *HOW, *flags]) == 0, capsys.readouterr().err
        return json.loads((tmp_path / flags[-1] / "card.json").read_text(encoding="utf-8"))

    run("pretrain", f"--task={data}", f"--model={others}", "--steps=60", "--output", teacher)
    own_words = [
        "--on_policy=OnPolicy(share=0.5, prompt=2, max_new_tokens=6)",
        "--objective=GeneralisedJSD(0.5)",
    ]
    halved = [f"--teacher={teacher}", "--student=half-depth"]
    card = run("distill", f"--task={data}", *halved, *own_words, "--steps=40", "--output", student)
    # Every token but the first is predicted, and the end of each text, whatever it is padded with.
    task = kd.load_task(data, text="text", kind="causal-lm", max_length=40, tokenizer=student)
    ids = [tokenizer(text)["input_ids"] for text in task.texts("test")]
    assert card["scores"]["test"]["tokens"] == sum(map(len, ids))
    assert card["scores"]["test"]["perplexity"] < 60

    # The teacher's own texts, kept as a task, and another student that learns from them.
    lessons = kd.written_by(kd.load_teacher(task, teacher), task, beams=2, prompt=2, max_new_tokens=6)
    kd.save_task(lessons, kept)
    run("distill", f"--task={kept}", *halved, "--objective=HardLabels()", "--steps=20", "--output", pupil)

    for folder in (teacher, student, pupil):
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
        written = kd.generate(kd.load_model(folder, task), task, PROMPTS, max_new_tokens=8)
        assert written == continued(folder)
        assert any(written)


@pytest.mark.parametrize("kind", [*SPECIAL])
def test_a_text_ends_with_its_end_unless_it_was_cut(kind, data, tmp_path):
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(tmp_path)
    task = kd.load_task(data, text="text", kind="causal-lm", max_length=12, tokenizer=tmp_path)
    # Of your own data a long text gives several pieces: here it is cut.
    encoded, lengths = replace(task, splits_long=False).encode("train"), set()
    for text, ids in zip(task.texts("train"), encoded.ids.split(encoded.lengths.tolist()), strict=True):
        whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        assert ids.tolist() == whole[:12]
        lengths.add(len(whole) > 12)
    assert lengths == {True, False}


WORDS = {
    "the": "le",
    "a": "un",
    "cat": "chat",
    "dog": "chien",
    "sees": "voit",
    "eats": "mange",
    "bread": "pain",
}


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> str:
    """A folder as the Hub has opus_books: one part, of translations by language."""
    folder = tmp_path_factory.mktemp("hub") / "opus_books" / "en-fr"
    folder.mkdir(parents=True)
    pieces = torch.randint(len(WORDS), (160, 5), generator=torch.Generator().manual_seed(0)).tolist()
    english = [" ".join([*WORDS][i] for i in row) for row in pieces]
    french = [" ".join(WORDS[word] for word in text.split()) for text in english]
    rows = [{"en": en, "fr": fr} for en, fr in zip(english, french, strict=True)]
    table = pyarrow.table({"id": [str(n) for n in range(len(rows))], "translation": rows})
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def t5(tmp_path) -> str:
    """A T5 as it is saved: it starts with its padding, its tokenizer ends each text, and its table is rounded up."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *WORDS.values()])},
                                      unk_token="<unk>"))  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=64, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return str(tmp_path / "t5")


@pytest.mark.slow
def test_a_folder_of_translations_gives_a_student_that_transformers_lets_translate(
    books, t5, tmp_path, capsys, monkeypatch
):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    columns = ["--text=translation.en", "--label=translation.fr", "--kind=seq2seq", "--max_length=12"]
    how = [*columns, "--batch_size=16", "--precision=fp32", "--learning_rate=1e-2", "--max_norm=10"]
    teacher, student, kept, pupil = (str(tmp_path / name) for name in "tskp")

    def run(command: str, *flags: str) -> dict:
        assert main([command, *how, *flags]) == 0, capsys.readouterr().err
        return json.loads((tmp_path / flags[-1] / "card.json").read_text(encoding="utf-8"))["scores"]["test"]

    scores = run("pretrain", f"--task={books}", f"--model={t5}", "--steps=200", "--output", teacher)
    # Whoever knows which words there are, and that there are five, has 7 ** (5 / 6) = 5.06.
    assert scores["perplexity"] < 4.8
    assert scores["error_rate_half_width"] > 0
    halved = [f"--teacher={teacher}", "--student=half-depth"]
    own_words = ["--on_policy=0.5", "--objective=GeneralisedJSD(0.5)"]
    distilled = run("distill", f"--task={books}", *halved, *own_words, "--steps=60", "--output", student)
    assert distilled["perplexity"] < 12  # of 64 tokens
    # What the teacher wrote, kept as a task, and another student of it.
    task = kd.load_task(books, text="translation.en", label="translation.fr", kind="seq2seq", max_length=12,
                        tokenizer=student)  # fmt: skip
    kd.save_task(kd.written_by(kd.load_teacher(task, teacher), task, beams=2), kept)
    run("distill", f"--task={kept}", *halved, "--objective=HardLabels()", "--steps=20", "--output", pupil)

    assert main(["evaluate", f"--task={books}", *columns, f"--model={student}"]) == 0
    assert "error rate" in capsys.readouterr().out
    (tmp_path / "ask.csv").write_text("text\nthe dog eats\na cat sees the bread\n", encoding="utf-8")
    asked = ["predict", f"--model={student}", f"--task={tmp_path / 'ask.csv'}", "--text=text"]
    assert main([*asked, f"--output={tmp_path / 'answers.csv'}"]) == 0
    lines = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()[1:]
    reads, writes = AutoTokenizer.from_pretrained(student), AutoModelForSeq2SeqLM.from_pretrained(student)
    for line in lines:
        text, _, written = line.partition(",")
        ids = writes.generate(
            **reads(text, return_tensors="pt", return_token_type_ids=False), max_new_tokens=12
        )
        assert written == reads.decode(ids[0], skip_special_tokens=True)
