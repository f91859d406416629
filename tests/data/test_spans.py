"""Equal spans: both tokenizers' tokens end there, none is shorter, and probabilities of texts can be compared."""

from __future__ import annotations

import pytest
import torch
from helpers import refusal
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import kdtutor as kd
from kdtutor.data.spans import equal_spans

TEXTS = ["a small furry animal", "unbelievable!", "naïve café 🙂 ends", "x"]


@pytest.fixture(scope="module")
def pieces():
    return kd.load_tokenizer()


@pytest.fixture(scope="module")
def by_bytes():
    """A byte-level BPE of few merges: it cuts words elsewhere, and an emoji into four tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS * 5, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def offsets(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.parametrize("text", TEXTS)
def test_spans_are_the_shortest_that_are_whole_tokens_of_both(pieces, by_bytes, text):
    spans = equal_spans(text, pieces, by_bytes)
    ends = [[end for _, end in offsets(tokenizer, text)] for tokenizer in (pieces, by_bytes)]
    common = sorted(set(ends[0]) & set(ends[1]))
    assert [span.end for span in spans] == common
    assert [span.start for span in spans] == [0, *common[:-1]]
    for which, found in zip(("first", "second"), ends, strict=True):
        parts = [getattr(span, which) for span in spans]
        # Every token is in one span, in order, and the span ends where its last token does.
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(found)))
        assert all(part.stop > part.start for part in parts)
        assert [found[part.stop - 1] for part in parts] == common


def test_an_example_by_hand():
    def words(*tokens):
        raw = Tokenizer(models.WordPiece({t: i for i, t in enumerate(("[UNK]", *tokens))}, unk_token="[UNK]"))
        return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")

    first, second = words("un", "##believ", "##able"), words("unbe", "##liev", "##able")
    spans = equal_spans("unbelievable", first, second)
    assert [(span.start, span.end, span.is_one_token) for span in spans] == [(0, 8, False), (8, 12, True)]
    assert [(span.first, span.second) for span in spans] == [
        (slice(0, 2), slice(0, 2)),
        (slice(2, 3), slice(2, 3)),
    ]
    # The same text, two chains: a span's log-probability is the sum of its tokens'.
    log_p = torch.tensor([0.5, 0.25, 0.1]).log()
    assert log_p[spans[0].first].sum().exp().item() == pytest.approx(0.125)


def test_equal_tokenizers_have_a_span_for_every_token(pieces):
    text = TEXTS[0]
    spans = equal_spans(text, pieces, pieces)
    assert len(spans) == len(pieces.tokenize(text)) and all(span.is_one_token for span in spans)


def test_a_tokenizer_that_knows_no_places_is_refused(pieces):
    class Slow:
        is_fast = False

    assert "a Slow doesn't tell where" in refusal(equal_spans, "a", Slow(), pieces)
    assert equal_spans("", pieces, pieces) == []
