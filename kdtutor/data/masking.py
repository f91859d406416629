"""BERT's masked-LM corruption, and DistilBERT's way of choosing rare words more often."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.data.tokens import IGNORED, Encoded
from kdtutor.errors import KDTutorError


def rarity(encoded: Encoded, vocabulary: int, exponent: float = 0.7) -> Tensor:
    """Compute count^−exponent of every token of the vocabulary in these texts, for `mask_tokens`: float32 (V,).

    DistilBERT's training code (Sanh et al. 2019) takes 0.7. A token that never occurs counts as one that did once.
    """
    return torch.bincount(encoded.ids, minlength=vocabulary).clamp(min=1).float() ** -exponent


def mask_tokens(
    batch: dict[str, Tensor],
    tokenizer,
    probability: float,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Corrupt a batch as BERT's masked LM does (Devlin et al. 2019), anew at every call.

    Of the real tokens ([CLS], [SEP], padding never), `probability` are to be predicted: 80 % of them become
    [MASK], 10 % a random token, 10 % stay. Returns a new batch; labels (B, L) hold the true ids there and -100
    everywhere else.

    Each token is drawn by itself, all alike; or, with `weights` (V,), that fraction of the batch (rounded up) in
    proportion to them, without replacement: see `rarity`.
    """
    if tokenizer.mask_token_id is None:
        raise KDTutorError(
            f"the tokenizer {tokenizer.name_or_path} has no mask token, as masked LM needs one"
        )

    # Which tokens could be chosen, and two random numbers for each: whether it is, and what becomes of it.
    ids = batch["input_ids"]
    special = torch.tensor(tokenizer.all_special_ids)
    chance, action = torch.rand(ids.shape, generator=generator), torch.rand(ids.shape, generator=generator)
    real = batch["attention_mask"].bool() & ~torch.isin(ids, special)

    if weights is None:
        chosen = (chance < probability) & real
    else:
        # Those whose exponential clocks, each at its own rate, ring first (Efraimidis & Spirakis 2006).
        rings = (-torch.log1p(-chance) / weights[ids]).masked_fill(~real, math.inf).flatten()
        chosen = torch.zeros(ids.numel(), dtype=torch.bool)
        chosen[rings.topk(math.ceil(probability * int(real.sum())), largest=False).indices] = True
        chosen = chosen.view_as(ids)

    anything = torch.randint(len(tokenizer), ids.shape, generator=generator)
    corrupted = torch.where(chosen & (action < 0.8), tokenizer.mask_token_id, ids)
    corrupted = torch.where(chosen & (action >= 0.9), anything, corrupted)
    return {**batch, "input_ids": corrupted, "labels": torch.where(chosen, ids, IGNORED)}
