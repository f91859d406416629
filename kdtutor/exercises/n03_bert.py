"""Exercises of notebook 03: WordPiece, masked language modelling, `[CLS]`."""

from __future__ import annotations

import string

import torch
from torch import Tensor

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.masking import ANYWHERE, CLS, MASKING, PAD, SEP, SPARING, masked, spared, special_ids

# ------------------------------------------------------------------------------------------------ 3.1 WordPiece


def wordpiece(word: str, vocabulary: dict[str, int], wrong: Wrong = RIGHT) -> list[str]:
    """The pieces of one word, greedily the longest first; ["[UNK]"] if that fails at any place."""
    if "any split will do" in wrong:
        return _first_split(word, vocabulary) or ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start and "looked up without ##" not in wrong else ""
        shortest = start + 1 + ("no piece of one letter" in wrong)
        ends = range(len(word), shortest - 1, -1)
        if "shortest first" in wrong:
            ends = ends[::-1]
        if "## on the first piece too" in wrong:
            prefix = "##"
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None and "unknown letters skipped" in wrong:
            end = start + 1
        elif end is None:
            if {"the pieces so far", "nothing for an unknown word", "the unknown word itself"} & wrong:
                return (
                    pieces
                    if "the pieces so far" in wrong
                    else [word]
                    if "the unknown word itself" in wrong
                    else []
                )
            return [*pieces, "[UNK]"] if "[UNK] for the rest" in wrong else ["[UNK]"]
        else:
            pieces.append(("" if "## left out of the result" in wrong else prefix) + word[start:end])
        start = end
    return pieces


def _first_split(word: str, vocabulary: dict[str, int], prefix: str = "") -> list[str] | None:
    """Some split into known pieces, going back where the longest first piece leads nowhere; None if there is none."""
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if prefix + word[:end] in vocabulary:
            rest = _first_split(word[end:], vocabulary, "##")
            if rest is not None:
                return [prefix + word[:end], *rest]
    return None


def _words(generator: torch.Generator) -> list[tuple]:
    """Words over six random letters, and a vocabulary in which each mistake shows."""
    a, b, c, d, e, f = (string.ascii_lowercase[i] for i in torch.randperm(26, generator=generator)[:6])
    first = [a, a + b, a + b + c, d, e, f]
    later = [a, b, c, d, c + e, a + b, d + a + b]  # no letter e by itself, and f nowhere
    pieces = ["[UNK]", *first, *(f"##{piece}" for piece in later)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    words = [
        a + b,  # known as a whole
        a + b + c + d,  # ends in a piece of one letter
        d + a + b + c,  # the longest second piece is not the first that fits
        a + b + c + d + a + b,
        a + b + e,  # e begins a word, but never continues one
        a + b + c + e,  # greed leads to abc and an unknown e, though ab + ##ce would do
        a + f + b,  # unknown in the middle
    ]
    return [(word, vocabulary) for word in words]


# ------------------------------------------------------------------------------------------------ 3.2 masking


def mask_tokens(
    input_ids: Tensor, special_ids: Tensor, chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = RIGHT
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """BERT's masking with the random draws given: the corrupted ids and the labels, both (B, L)."""
    special = spared(input_ids, special_ids, wrong)
    chosen = (chance < (0.8 if "80 % chosen" in wrong else 0.15)) & ~special
    if "the other 85 % chosen" in wrong:
        chosen = (chance >= 0.15) & ~special
    return masked(input_ids, chosen, special, action, random_ids, wrong)


def _draws(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, longest in ((8, 60), (12, 40)):
        shape = (texts, longest)
        ids = torch.randint(5, 100, shape, generator=generator)
        lengths = torch.randint(longest // 2, longest + 1, (texts,), generator=generator)
        column = torch.arange(longest)
        ids = torch.where(column < lengths[:, None], ids, PAD)
        ids[:, 0] = CLS
        ids[torch.arange(texts), lengths - 1] = SEP
        chance, action = torch.rand(2, *shape, generator=generator)
        others = 100 + torch.randint(0, 100, shape, generator=generator)  # never what stood there before
        ids[:4, 2], chance[:4, 2] = 7, 0.1  # special, though it is no token that every vocabulary has
        probes.append((ids, special_ids(generator), chance, action, others))
    return probes


# ------------------------------------------------------------------------------------------------ 3.3 its loss


def masked_lm_loss(logits: Tensor, labels: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """−log p of the true token, mean over the tokens to predict. logits (B, L, V); labels (B, L), else −100."""
    if "softmax twice" in wrong:
        logits = logits.softmax(-1)
    log_p = logits.log_softmax(1 if "softmax over the positions" in wrong else -1)
    if "logits for log-probabilities" in wrong:
        log_p = logits
    if "probabilities without a logarithm" in wrong:
        log_p = logits.softmax(-1)
    chosen = labels != IGNORED
    if "token 0 ignored instead of −100" in wrong:
        chosen = chosen & (labels != 0)
    if "−100 read as token 0" in wrong:
        chosen, labels = torch.ones_like(chosen), labels.clamp(min=0)
    each = torch.where(chosen, -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0.0)  # (B, L)
    if "no minus" in wrong:
        each = -each
    if "summed" in wrong:
        return each.sum()
    if "mean of the texts' means" in wrong:
        return (each.sum(1) / chosen.sum(1)).mean()
    return each.sum() / (labels.numel() if "mean over all tokens" in wrong else chosen.sum())


def _predictions(generator: torch.Generator, texts: int = 5) -> tuple:
    logits = 2 * torch.randn(texts, 9, 12, generator=generator)
    labels = torch.randint(0, 12, (texts, 9), generator=generator)
    to_predict = torch.randint(1, 7, (texts, 1), generator=generator)  # another number in each text
    to_predict[0], to_predict[-1] = 1, 6
    place = torch.rand(texts, 9, generator=generator).argsort(1)
    return logits, torch.where(place < to_predict, labels, IGNORED)


# ------------------------------------------------------------------------------------------------ 3.4 [CLS]


def cls_classifier(
    last_hidden_state: Tensor, attention_mask: Tensor,
    pooler_weight: Tensor, pooler_bias: Tensor, weight: Tensor, bias: Tensor, wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """BERT's classification head: `[CLS]`, a tanh layer (the pooler), a linear layer. (B, L, D) to (B, C)."""
    h = last_hidden_state[:, 0]  # (B, D)
    if "the last position" in wrong:
        h = last_hidden_state[:, -1]
    if "mean over the padding too" in wrong:
        h = last_hidden_state.mean(1)
    if "the second token" in wrong:
        h = last_hidden_state[:, 1]
    if "the largest over the positions" in wrong:
        h = last_hidden_state.amax(1)
    if "mean over the tokens" in wrong:
        real = attention_mask[..., None].float()
        h = (last_hidden_state * real).sum(1) / real.sum(1)
    if "no head" in wrong:
        return h
    if "no pooler" not in wrong:
        h = h @ (pooler_weight if "pooler not transposed" in wrong else pooler_weight.T) + pooler_bias
        h = h if "no tanh" in wrong else h.tanh()
    if "tanh at the very end" in wrong:
        return ((last_hidden_state[:, 0] @ pooler_weight.T + pooler_bias) @ weight.T + bias).tanh()
    if "no biases" in wrong:
        return (last_hidden_state[:, 0] @ pooler_weight.T).tanh() @ weight.T
    logits = h @ weight.T + bias
    if "log-probabilities" in wrong:
        return logits.log_softmax(-1)
    if "the class alone" in wrong:
        return logits.argmax(-1)
    return logits.softmax(-1) if "probabilities" in wrong else logits


def _hidden_states(generator: torch.Generator, texts: int = 4, classes: int = 6) -> tuple:
    width, longest = 6, 7
    lengths = torch.randint(
        3, longest, (texts,), generator=generator
    )  # the last column is padding throughout
    mask = (torch.arange(longest) < lengths[:, None]).long()
    shapes = (texts, longest, width), (width, width), (width,), (classes, width), (classes,)
    h, *head = (torch.randn(shape, generator=generator) for shape in shapes)
    return (h, mask, *head)


EXERCISES = [
    Exercise(
        name="wordpiece",
        number="3.1",
        title="WordPiece, with its rule for unknown words",
        reference=wordpiece,
        mistakes=(
            Mistake(
                "shortest first",
                "Your pieces are the shortest that fit, where WordPiece takes the longest. From which end do you try?",
            ),
            Mistake(
                "looked up without ##",
                "Your later pieces are looked up as if they began a word. A piece that continues a word has another "
                "entry in the vocabulary.",
            ),
            Mistake(
                "## left out of the result",
                "Your pieces are the right ones, but those that continue a word have lost their mark. Without it, "
                "who could put the words together again?",
            ),
            Mistake(
                "[UNK] for the rest",
                "Your function keeps the pieces that it found before it met something unknown. What does the library "
                "do with the *whole* word in that case?",
            ),
            Mistake(
                "unknown letters skipped",
                "Your function leaves out what it does not know and goes on. A model could not tell such a word from "
                "another.",
            ),
            Mistake(
                "no piece of one letter",
                "Your function never tries a piece of a single letter, so words that need one become unknown. Where "
                "does your range end?",
            ),
            Mistake(
                "any split will do",
                "Your function finds a split where WordPiece finds none: it takes back a piece that led nowhere. "
                "Greedy means that it never does.",
            ),
            Mistake(
                "the pieces so far",
                "Your function returns what it found before it met something unknown. Then the word would look like"
                " a shorter one.",
            ),
            Mistake(
                "nothing for an unknown word",
                "Your function returns an empty list for a word that it cannot split. A model would not even know "
                "that there was one.",
            ),
            Mistake(
                "the unknown word itself",
                "Your function returns a word that it cannot split as it is. The vocabulary has no number for it.",
            ),
            Mistake(
                "## on the first piece too",
                "Your first piece is looked up with the mark of those that continue a word.",
            ),
        ),
        probes=_words,
    ),
    Exercise(
        name="mask_tokens",
        number="3.2",
        title="Masking, exactly",
        reference=mask_tokens,
        mistakes=(
            *SPARING,
            *MASKING,
            *ANYWHERE,
            Mistake(
                "the other 85 % chosen",
                "Your choice falls on the 85 % that should be left alone. Which side of the threshold is it?",
            ),
            Mistake(
                "80 % chosen",
                "You choose four tokens in five. The share of chosen tokens is one number, and what becomes of them"
                " another.",
            ),
        ),
        probes=_draws,
    ),
    Exercise(
        name="masked_lm_loss",
        number="3.4",
        title="The loss of the masked tokens",
        reference=masked_lm_loss,
        mistakes=(
            Mistake(
                "mean over all tokens",
                "Your loss has the right sum, but is divided by all tokens, also those that nobody has to predict.",
            ),
            Mistake(
                "−100 read as token 0",
                "Your loss counts the positions labelled −100, as if token 0 had stood there.",
            ),
            Mistake("summed", "Your loss is a sum. A batch with more masks would get a larger gradient."),
            Mistake(
                "mean of the texts' means",
                "Your loss averages within each text first. So a token in a text with few masks weighs more than "
                "one in a text with many.",
            ),
            Mistake(
                "softmax over the positions",
                "Your softmax runs over the positions of a text. Which axis holds the words to choose from?",
            ),
            Mistake(
                "softmax twice",
                "Your loss applies softmax to what is softmaxed already. What does `F.cross_entropy` expect?",
            ),
            Mistake(
                "no minus", "Your loss has the wrong sign: training would make the true tokens less likely."
            ),
            Mistake(
                "logits for log-probabilities",
                "You pick the logits of the true tokens, where their log-probabilities are due.",
            ),
            Mistake(
                "probabilities without a logarithm",
                "You pick the probabilities of the true tokens, and take no logarithm of them.",
            ),
            Mistake(
                "token 0 ignored instead of −100",
                "Your loss leaves out token 0 as well. Only −100 says that nobody is asked.",
            ),
        ),
        probes=lambda generator: [_predictions(generator) for _ in range(4)],
        gradients=(0,),
        stress=lambda generator: [(200 * logits, labels) for logits, labels in [_predictions(generator)]],
        growth=lambda n: _predictions(torch.Generator().manual_seed(n), n),
    ),
    Exercise(
        name="cls_classifier",
        number="3.5",
        title="From [CLS] to a class",
        reference=cls_classifier,
        mistakes=(
            Mistake(
                "no head",
                "Your result is a hidden state. It has as many numbers as the encoder is wide, and none of them "
                "stands for a class: where is the classification head?",
            ),
            Mistake(
                "the last position",
                "Your function reads the last position. In a batch that is mostly padding; where does [CLS] stand?",
            ),
            Mistake(
                "mean over the padding too",
                "Your function averages over all positions, padding included, so that a text's classes depend on "
                "its neighbours in the batch. BERT does not average at all.",
            ),
            Mistake(
                "mean over the tokens",
                "Your function averages over the tokens. That can be a good summary, but it is not the one with "
                "which BERT's pooler was trained.",
            ),
            Mistake(
                "no pooler", "Your function goes from [CLS] to the classes directly; a layer is missing."
            ),
            Mistake("no tanh", "Your pooler is linear. Two linear layers in a row are no more than one."),
            Mistake(
                "pooler not transposed",
                "Your pooler's matrix is used the other way round. torch stores (outputs, inputs); since this one "
                "is square, no error tells you.",
            ),
            Mistake(
                "probabilities",
                "Your function returns probabilities. The loss, and every soft target of this course, wants logits.",
            ),
            Mistake(
                "the second token",
                "Your function reads the first word of the text. [CLS] stands before it.",
            ),
            Mistake(
                "the largest over the positions",
                "Your function takes the largest number over all positions. BERT's pooler reads one of them.",
            ),
            Mistake(
                "tanh at the very end",
                "The tanh stands behind the last layer, where it keeps your logits between −1 and 1. It belongs to "
                "the pooler.",
            ),
            Mistake(
                "no biases",
                "Both biases are missing: that of the pooler and that of the classifier.",
            ),
            Mistake(
                "log-probabilities",
                "Your function returns log-probabilities. The loss, and every soft target of this course, wants "
                "logits.",
            ),
            Mistake(
                "the class alone",
                "Your function returns the number of the best class. Nothing could be learned from it.",
            ),
        ),
        probes=lambda generator: [_hidden_states(generator) for _ in range(3)],
        gradients=(0, 2, 4),
        growth=lambda n: _hidden_states(torch.Generator().manual_seed(n), n),
    ),
]
