"""Exercises of notebook 03: WordPiece, and the head on `[CLS]`."""

from __future__ import annotations

import string

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 3.1 WordPiece


def wordpiece(word: str, vocabulary: dict[str, int], wrong: Wrong = RIGHT) -> list[str]:
    """Cut one word into pieces, greedily the longest first; ["[UNK]"] if that fails at any place."""
    if "any split will do" in wrong:
        return _first_split(word, vocabulary) or ["[UNK]"]
    if "the whole word or nothing" in wrong:
        return [word] if word in vocabulary else ["[UNK]"]
    if "from the end of the word" in wrong:
        return _from_the_end(word, vocabulary)
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start and "looked up without ##" not in wrong else ""
        shortest = start + 1 + ("no piece of one letter" in wrong)
        ends = range(len(word) - ("never to the end of the word" in wrong), shortest - 1, -1)
        if "shortest first" in wrong:
            ends = ends[::-1]
        if "## on the first piece too" in wrong:
            prefix = "##"
        both = "## in front of every piece of the result" in wrong
        shown = "##" if both or (start and "## only put in front" in wrong) else prefix
        prefix = "" if "## only put in front" in wrong else prefix
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None and {"unknown letters skipped", "[UNK] for each unknown letter"} & wrong:
            end = start + 1
            pieces += ["[UNK]"] if "[UNK] for each unknown letter" in wrong else []
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
            pieces.append(("" if "## left out of the result" in wrong else shown) + word[start:end])
        start = end
    return pieces


def _first_split(word: str, vocabulary: dict[str, int], prefix: str = "") -> list[str] | None:
    """Find some split into known pieces, going back where the longest first piece leads nowhere, or None."""
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if prefix + word[:end] in vocabulary:
            rest = _first_split(word[end:], vocabulary, "##")
            if rest is not None:
                return [prefix + word[:end], *rest]
    return None


def _from_the_end(word: str, vocabulary: dict[str, int]) -> list[str]:
    """Cut a word into pieces, greedily the longest last."""
    pieces, end = [], len(word)
    while end:
        ends = ("##" * (start > 0) + word[start:end] for start in range(end))
        piece = next((piece for piece in ends if piece in vocabulary), None)
        if piece is None:
            return ["[UNK]"]
        pieces.insert(0, piece)
        end -= len(piece.removeprefix("##"))
    return pieces


def _words(generator: torch.Generator) -> list[tuple]:
    """Draw words over six random letters, and a vocabulary in which each mistake shows."""
    a, b, c, d, e, f = (string.ascii_lowercase[i] for i in torch.randperm(26, generator=generator)[:6])
    first = [a, a + b, a + b + c, d, e, f]
    later = [a, b, c, d, c + d, c + e, a + b, d + a + b]  # no letter e by itself, and f nowhere
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


# ------------------------------------------------------------------------------------------------ 3.5 [CLS]


def cls_classifier(
    last_hidden_state: Tensor, attention_mask: Tensor,
    pooler_weight: Tensor, pooler_bias: Tensor, weight: Tensor, bias: Tensor, wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """Run BERT's classification head: `[CLS]`, a tanh layer (the pooler), a linear layer. (B, L, D) to (B, C)."""
    h = last_hidden_state[:, 0]  # (B, D)
    if "the last position" in wrong:
        h = last_hidden_state[:, -1]
    if "the last token" in wrong:
        h = last_hidden_state[torch.arange(len(last_hidden_state)), attention_mask.sum(1) - 1]
    if _ON_EVERY_TOKEN & wrong:
        h = last_hidden_state
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
        curves = {"no tanh": torch.Tensor.clone, "another function for the tanh": torch.relu}
        curves |= {"GELU for the tanh": F.gelu, "a sigmoid for the tanh": torch.sigmoid}
        h = next((curves[name] for name in curves if name in wrong), torch.tanh)(h)
    if "tanh at the very end" in wrong:
        return ((last_hidden_state[:, 0] @ pooler_weight.T + pooler_bias) @ weight.T + bias).tanh()
    if "no biases" in wrong:
        return (last_hidden_state[:, 0] @ pooler_weight.T).tanh() @ weight.T
    logits = h @ weight.T + bias
    if "the head's answers averaged" in wrong:
        logits = logits.mean(1)
    if "the head's answers averaged over the tokens" in wrong:
        logits = (logits * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
    if "log-probabilities" in wrong:
        return logits.log_softmax(-1)
    if "the class alone" in wrong:
        return logits.argmax(-1)
    return logits.softmax(-1) if "probabilities" in wrong else logits


_ON_EVERY_TOKEN = {
    "logits for every token", "the head's answers averaged", "the head's answers averaged over the tokens",
}  # fmt: skip


def _hidden_states(generator: torch.Generator, texts: int = 4, classes: int = 6) -> tuple:
    width, longest = 6, 7
    # The last column is padding throughout.
    lengths = torch.randint(3, longest, (texts,), generator=generator)
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
                also=("## only put in front",),
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
            Mistake(
                "never to the end of the word",
                "Your pieces never reach the last letter, so that every word ends in something unknown. Up to where "
                "does a slice go?",
            ),
            Mistake(
                "[UNK] for each unknown letter",
                "Your function puts [UNK] in the place of a letter and goes on. In the library one [UNK] stands for "
                "the *whole* word.",
            ),
            Mistake(
                "## in front of every piece of the result",
                "All your pieces have the mark of those that continue a word, the first one too.",
            ),
            Mistake(
                "the whole word or nothing",
                "Your function knows whole words only. What is not in the vocabulary as it is may still have pieces.",
            ),
            Mistake(
                "from the end of the word",
                "Your function cuts the longest piece off the *end*. WordPiece begins at the first letter.",
            ),
        ),
        probes=_words,
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
            Mistake(
                "the last token",
                "Your function reads the last token of each text. [CLS] stands at the other end.",
            ),
            Mistake(
                "logits for every token",
                "Your result has logits for every token. A text has one class, read from one place.",
            ),
            Mistake(
                "the head's answers averaged",
                "The head is put on every token, and its answers are averaged. It was made for one of them.",
                also=("the head's answers averaged over the tokens",),
            ),
            Mistake(
                "another function for the tanh",
                "Your pooler has another function than BERT's, which is a tanh.",
                also=("GELU for the tanh", "a sigmoid for the tanh"),
            ),
        ),
        probes=lambda generator: [_hidden_states(generator) for _ in range(3)],
        gradients=(0, 2, 4),
        growth=lambda n: _hidden_states(torch.Generator().manual_seed(n), n),
    ),
]
