"""BERT's masking, which several exercises share, with the mistakes that are made in it and the code that makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Mistake

PAD, UNK, CLS, SEP, MASK = range(5)  # the course's special tokens


def spared(input_ids: Tensor, special_ids: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """Tell where nothing may be masked, (B, L)."""
    where = torch.isin(input_ids, special_ids)
    if "special tokens hard-coded" in wrong:
        where = input_ids <= MASK
    if "one special token spared" in wrong:
        where = input_ids == special_ids[0]
    if "only padding spared" in wrong:
        where = input_ids == PAD
    if {"nothing spared", "spared in the labels alone"} & wrong:
        where = torch.zeros_like(where)
    if "[CLS] and [SEP] masked" in wrong:
        where = where & (input_ids != CLS) & (input_ids != SEP)
    if "padding masked" in wrong:
        where = where & (input_ids != PAD)
    return where


def masked(
    input_ids: Tensor,
    special_ids: Tensor,
    chosen: Tensor,
    action: Tensor,
    random_ids: Tensor,
    wrong: Wrong = RIGHT,
) -> tuple[Tensor, Tensor]:
    """Apply BERT's rule to the chosen tokens: the ids that the model reads, and the labels, both (B, L)."""
    free = ~spared(input_ids, special_ids, wrong)
    hidden, swapped = chosen & (action < 0.8), chosen & (action >= 0.9)
    if "always [MASK]" in wrong:
        hidden, swapped = chosen, torch.zeros_like(chosen)
    if "80/20: none stays" in wrong:
        swapped = chosen & (action >= 0.8)
    if "random and kept exchanged" in wrong:
        swapped = chosen & (action >= 0.8) & (action < 0.9)
    if "none is random" in wrong:
        swapped = torch.zeros_like(chosen)
    if "80 % of all tokens" in wrong:
        hidden = free & (action < 0.8)
    if "random tokens anywhere" in wrong:
        swapped = free & (action >= 0.9)
    if "`action` alone decides" in wrong:
        hidden, swapped = action < 0.8, action >= 0.9
    if "`action` alone decides, but for special tokens" in wrong:
        hidden, swapped = free & (action < 0.8), free & (action >= 0.9)
    read = torch.where(hidden, MASK, torch.where(swapped, random_ids, input_ids))
    if "BERT's own number for [MASK]" in wrong:
        read = read.masked_fill(hidden, 103)
    if "the chosen ones 0 instead of [MASK]" in wrong:
        read = read.masked_fill(hidden, 0)
    if "kept tokens get no label" in wrong:
        chosen = hidden | swapped
    if "labels only at [MASK]" in wrong:
        chosen = hidden
    if "labels everywhere" in wrong:
        chosen = torch.ones_like(chosen)
    if "labels where nothing was chosen" in wrong:
        chosen = ~chosen
    if "spared in the labels alone" in wrong:
        chosen = chosen & ~torch.isin(input_ids, special_ids)
    labels = torch.where(chosen, read if "labels after masking" in wrong else input_ids, IGNORED)
    return read, labels.clamp(min=0) if "0 instead of −100" in wrong else labels


SPARING = (
    Mistake(
        "nothing spared",
        "Your choice falls on any token, special ones and padding too. Which of them may never be chosen?",
    ),
    Mistake(
        "[CLS] and [SEP] masked",
        "Your choice falls on [CLS] and [SEP] too. They stand in every text, so there is nothing to learn from "
        "predicting them, however rare they may look.",
    ),
    Mistake(
        "padding masked",
        "Your choice falls on padding too, which is no part of any text.",
    ),
    Mistake(
        "only padding spared",
        "Your choice spares padding and no other special token. They are all listed in an argument.",
    ),
    Mistake(
        "one special token spared",
        "Your choice spares the first of the special ids and no other. They are all to be spared: compare with each.",
    ),
    Mistake(
        "spared in the labels alone",
        "Special tokens get no label with you, but they are hidden or swapped all the same: the model reads a text "
        "without its padding, [CLS] or [SEP].",
    ),
    Mistake(
        "special tokens hard-coded",
        "Your function spares the ids that are special in this course, and not those that it was given. Another "
        "vocabulary has others.",
    ),
)
MASKING = (
    Mistake(
        "labels everywhere",
        "Your labels hold a token at every position. Then the model is also paid for repeating what it can see.",
    ),
    Mistake(
        "labels where nothing was chosen",
        "Your labels stand at the places that were *not* chosen: the model would be asked for what it can see.",
    ),
    Mistake(
        "labels after masking",
        "Your labels are read from the ids after they were changed, so the model is to predict [MASK] and random "
        "tokens.",
    ),
    Mistake(
        "labels only at [MASK]",
        "Only the tokens that became [MASK] have a label with you. Those that were swapped or kept are to be "
        "predicted too.",
    ),
    Mistake(
        "kept tokens get no label",
        "The chosen tokens that stay as they are have no label with you. They are to be predicted like the others; "
        "otherwise a model could trust every word that it sees.",
    ),
    Mistake(
        "0 instead of −100",
        "Where nobody is asked, your labels hold 0, which is the number of a token. The loss would ask for it.",
    ),
    Mistake("always [MASK]", "Every chosen token becomes [MASK] with you. What is `action` for?"),
    Mistake(
        "80/20: none stays",
        "No chosen token stays as it is with you: all that are not hidden become random. There are three cases.",
    ),
    Mistake(
        "none is random",
        "Your chosen tokens are hidden or stay as they are. What are the random ids for?",
    ),
    Mistake(
        "random and kept exchanged",
        "Two of your three cases are exchanged: which of them begins at 0.9?",
    ),
    Mistake(
        "the chosen ones 0 instead of [MASK]",
        "What you hide becomes padding. The token that hides a word has another number.",
    ),
    Mistake(
        "BERT's own number for [MASK]",
        "You hide words behind 103, which is [MASK] in BERT's own vocabulary. Here it has another number.",
    ),
)
ANYWHERE = (
    Mistake(
        "`action` alone decides",
        "You hide and swap tokens that nobody has chosen: `action` says what becomes of a *chosen* one.",
        also=("`action` alone decides, but for special tokens",),
    ),
    Mistake(
        "80 % of all tokens",
        "You hide some 80 % of all tokens: `action` decides there, and nobody asked whether the token was chosen.",
    ),
    Mistake(
        "random tokens anywhere",
        "Random tokens appear at positions that were not chosen. Which of the two draws decides first?",
    ),
)


def special_ids(generator: torch.Generator) -> Tensor:
    """List the special tokens of a probe: the course's own and one more, in no order that could be relied on."""
    ids = torch.tensor([PAD, UNK, CLS, SEP, MASK, 7])
    return ids[torch.randperm(len(ids), generator=generator)]
