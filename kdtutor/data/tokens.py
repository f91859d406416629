"""Texts as token ids, kept *ragged* (one flat array and offsets): a batch is padded only to its own longest text."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from kdtutor.assets import asset_path, verified
from kdtutor.data.hub import hub_access, unavailable
from kdtutor.errors import KDTutorError

IGNORED = -100  # the label of an unlabelled example: hard-label losses skip it


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts without padding: text i is `ids[offsets[i]:offsets[i + 1]]`.

    ids: int32 (total,). offsets: int64 (N + 1,). labels: (N,), or None for raw text. types: int8 (total,), 1 in the
    second text of a pair, or None. written: the texts that are to be written, where there are such.
    """

    ids: Tensor
    offsets: Tensor
    labels: Tensor | None
    types: Tensor | None = None
    pad: int = 0
    written: Encoded | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    @cached_property
    def token_counts(self) -> Tensor:
        """Count the tokens of each example, read and written ones: (N,)."""
        return self.lengths if self.written is None else self.lengths + self.written.lengths

    def round_length(self, length: int) -> int:
        """Give the length to pad a batch to whose longest text has `length` tokens: one of few."""
        return min(round_up(length), int(self.lengths.max()))

    def batch(self, index: Tensor, rounded: bool = False) -> dict[str, Tensor]:
        """Return the texts `index` (B,), padded on the right to the longest (L), `rounded` to one of few lengths.

        Returns input_ids, attention_mask (and token_type_ids, of pairs): int64 (B, L); labels and index: (B,). Of texts
        to be written also target_ids and target_mask, int64 (B, M).
        """
        lengths = self.lengths[index]
        longest = int(lengths.max())
        column = torch.arange(self.round_length(longest) if rounded else longest)  # (L,)
        mask = column < lengths[:, None]  # (B, L)
        where = (self.offsets[index][:, None] + column)[mask]
        batch = {"input_ids": torch.full(mask.shape, self.pad), "attention_mask": mask.long(), "index": index}
        batch["input_ids"][mask] = self.ids[where].long()
        if self.types is not None:
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
            batch["token_type_ids"][mask] = self.types[where].long()
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        if self.written is not None:
            written = self.written.batch(index, rounded)
            batch |= {"target_ids": written["input_ids"], "target_mask": written["attention_mask"]}
        return batch


def round_up(count: int) -> int:
    """Give the next of few sizes: eight from a power of two to the next, such as 16, 18, 20, … 32, 36, 40.

    On a CPU each new shape costs time (a kernel is compiled for it) and memory (which stays taken).
    """
    step = max(1, (1 << (count - 1).bit_length()) // 16) if count > 1 else 1
    return -(-count // step) * step


def length_bucketed_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Cut texts into random batches of similar length, so that little of a batch is padding; each occurs once.

    Shuffles, sorts within equal pools of about 50 batches by length, cuts, and shuffles the batches: near-random order,
    near-zero padding. Without a generator: the longest first, for evaluation. Returns index tensors of `batch_size`
    each, but for one that may be short.
    """
    if generator is None:
        return list(lengths.argsort(descending=True, stable=True).split(batch_size))
    order = torch.randperm(len(lengths), generator=generator)
    batches = math.ceil(len(order) / batch_size)
    in_a_pool = math.ceil(batches / max(1, round(batches / 50)))
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in order.split(in_a_pool * batch_size)]
    batches = [batch for pool in pools for batch in pool.split(batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def load_tokenizer(name: str | os.PathLike | None = None):
    """Load the course's WordPiece tokenizer (12,000 pieces), or any other by name or folder."""
    if name is None:
        return _course_tokenizer()
    from transformers import AutoTokenizer

    try:
        with hub_access(name):
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    # No network, an unknown name, a damaged file: a different type for each.
    except Exception as error:
        raise KDTutorError(unavailable("tokenizer", name, error)) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        only = f"only {len(tokenizer)} special tokens"
        raise KDTutorError(f"the tokenizer {name} has no vocabulary, {only}: is its tokenizer.json missing?")
    if tokenizer.pad_token_id is None:  # as of most decoders
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise KDTutorError(
            f"the tokenizer {name} has no token that pads a text, and none that could stand in for it: "
            'tokenizer.add_special_tokens({"pad_token": "[PAD]"}), save_pretrained(…), and where a model has too few '
            "tokens then, model.resize_token_embeddings(len(tokenizer))"
        )
    return tokenizer


@cache
def _course_tokenizer():
    from transformers import AutoTokenizer

    for file in ("tokenizer.json", "tokenizer_config.json"):
        verified(f"tokenizer/{file}")
    return AutoTokenizer.from_pretrained(asset_path("tokenizer"))


def tokenize(
    tokenizer, texts: tuple[Sequence[str], ...], max_length: int, split_long: bool = False
) -> Encoded:
    """Tokenize columns of texts; one that is too long is cut, or `split_long` into several rows."""
    if not len(texts[0]):
        return Encoded(torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), None)
    if split_long and not tokenizer.is_fast:
        raise KDTutorError(
            f"a {type(tokenizer).__name__} has no fast version, and only such cut a long text into pieces: what "
            f"is beyond {max_length} tokens would be lost; cut the texts in the file, or take another tokenizer"
        )
    encoding = tokenizer(
        *map(list, texts),
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=split_long,
        return_attention_mask=False,
    )
    offsets = torch.tensor([0, *map(len, encoding["input_ids"])]).cumsum(0)

    def flat(name, dtype):
        ids = np.fromiter(chain.from_iterable(encoding[name]), dtype, count=int(offsets[-1]))
        return torch.from_numpy(ids)

    types = flat("token_type_ids", np.int8) if len(texts) > 1 and "token_type_ids" in encoding else None
    return Encoded(flat("input_ids", np.int32), offsets, None, types, tokenizer.pad_token_id or 0)


def unread(encoded: Encoded, tokenizer) -> float:
    """Tell which share of the tokens stands for what a tokenizer doesn't know, special ones left out."""
    if tokenizer.unk_token_id is None:
        return 0.0
    unknown = encoded.ids == tokenizer.unk_token_id
    special = torch.isin(encoded.ids, torch.tensor(tokenizer.all_special_ids, dtype=encoded.ids.dtype))
    return float(unknown.sum()) / max(1, int((unknown | ~special).sum()))


def tokenize_both(tokenizer, texts: tuple[Sequence[str], ...], max_length: int) -> Encoded:
    """Tokenize what is read, and beside it what is to be written, if that is known; each ends with its end of text.

    A tokenizer may say `reads_lower_case`: what it reads has small letters, and capitals are written only, as phonemes.
    """
    given = texts[0]
    if tokenizer.init_kwargs.get("reads_lower_case"):
        given = [text.lower() for text in given]
    read = tokenize(tokenizer, (given,), max_length)
    if len(texts) == 1:
        return read
    end = end_of_text(tokenizer)
    encoding = tokenizer(
        text_target=list(texts[1]), truncation=True, max_length=max_length, return_attention_mask=False
    )
    ids = [row if row[-1:] == [end] else [*row[: max_length - 1], end] for row in encoding["input_ids"]]
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)
    flat = torch.tensor([*chain.from_iterable(ids)], dtype=torch.int32)
    return replace(read, written=Encoded(flat, offsets, None, pad=read.pad))


def with_end(encoded: Encoded, end: int, max_length: int) -> Encoded:
    """Put the token `end` behind each text that has none there and was not cut at `max_length` tokens."""
    lengths = encoded.lengths
    last = (
        encoded.ids[(encoded.offsets[1:] - 1).clamp(min=0)]
        if len(encoded.ids)
        else torch.full_like(lengths, -1)
    )
    lacks = (lengths < max_length) & ((lengths == 0) | (last != end))
    offsets = torch.cat([encoded.offsets[:1], (lengths + lacks).cumsum(0)])
    is_new = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    is_new[offsets[1:][lacks] - 1] = True
    ids = torch.full((len(is_new),), end, dtype=encoded.ids.dtype)
    ids[~is_new] = encoded.ids
    return replace(encoded, ids=ids, offsets=offsets)


def end_of_text(tokenizer) -> int:
    """Return the token that ends a text, a BERT's [SEP] too. Raises KDTutorError if there is none."""
    ends = [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None]
    if not ends:
        raise KDTutorError(
            f"the tokenizer {tokenizer.name_or_path} has no token that ends a text, so nobody could tell when one that "
            'is written is over: tokenizer.add_special_tokens({"eos_token": "</s>"}), and save_pretrained(…)'
        )
    return ends[0]


def start_of_text(tokenizer) -> int:
    """Return the token that a text is written from: the tokenizer's start, a BERT's [CLS], or its end of text."""
    starts = [token for token in (tokenizer.bos_token_id, tokenizer.cls_token_id) if token is not None]
    return starts[0] if starts else end_of_text(tokenizer)
