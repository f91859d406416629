"""Texts broken on purpose, and by how much: typing errors, lost and swapped words, capitals, synonyms.

    corrupt(["a warm and funny film"], "typo", strength=0.5)      # ["a wa5m and funnt film"]

What is broken at one strength stays broken at every larger one, since a word's fate is drawn once: from the seed, the
kind and the text itself, so not from the other texts. A dial can be turned up, and a curve drawn.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kdtutor.data.synonyms import synonyms
from kdtutor.data.task import Task
from kdtutor.errors import SEED, KDTutorError, nearest, number

STRENGTH = number("a share of the words from 0 to 1", lambda value: 0 <= value <= 1)
# A word, and an apostrophe within one.
WORD = re.compile(r"(\w+(?:['’]\w+)*)")
KEYBOARD = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")


def corrupt(texts: Sequence[str], kind: str, strength: float, seed: int = 0) -> list[str]:
    """Break each text: of its words a share of `strength`, on average, is hit. The seed decides which, and how.

    kind: "typo", a letter becomes its neighbour on the keyboard; "drop", the word is lost, but for the last one;
    "swap", it changes places with the next; "case", it stands in CAPITALS; "synonym", it becomes one of WordNet's
    synonyms, where it has one. Raises KDTutorError for another kind, or a strength that is no share.
    """
    if kind not in CORRUPTIONS:
        raise KDTutorError(nearest("kind of corruption", kind, CORRUPTIONS))
    strength, seed = STRENGTH("strength", strength), SEED("seed", seed)
    return [_broken(text, kind, strength, seed) for text in texts]


def corrupted(task: Task, kind: str, strength: float, seed: int = 0, split: str = "test") -> Task:
    """Return the task with one split's texts broken; labels stay, whether or not a text still deserves its own."""
    part = task.split(split)
    texts = tuple(corrupt(column, kind, strength, seed) for column in part.texts)
    name = f"{task.name}[{split}: {kind} {strength:g}]"
    return replace(task, name=name, splits=task.splits | {split: replace(part, texts=texts, encodings={})})


def broken_copies(task: Task, kind: str, strength: float, seed: int = 0, labels: bool = False) -> Task:
    """Return the task with a broken copy of every training text beside it; at strength 0 the copy is whole.

    labels: whether a copy keeps its text's label. By default it has none, since nobody knows what a broken text still
    deserves: a teacher answers it, and hard labels skip it (-100). Raises KDTutorError for a task without targets.
    """
    train = task.split("train")
    if train.targets is None:
        raise KDTutorError(
            f"{task.name} is a {task.kind} task: its texts have no labels that copies could have"
        )
    copies = [corrupt(column, kind, strength, seed) for column in train.texts]
    what = f"copies, {kind} {strength:g}, seed {seed}{', labelled' if labels else ''}"
    return with_copies(task, copies, what, labels)


def with_copies(task: Task, copies: Sequence[Sequence[str]], what: str, labels: bool = False) -> Task:
    """Put a copy of each training text beside it: columns of texts, as the task's. labels: as in `broken_copies`."""
    train = task.split("train")
    both = train.and_more(copies, train.targets if labels else None)
    return replace(task, name=f"{task.name}[and {what}]", splits=task.splits | {"train": both})


def split_words(text: str) -> tuple[list[str], list[int]]:
    """Cut a text into words and what stands between them, and say which are words: "".join gives the text back."""
    pieces = WORD.split(text)
    return pieces, [*range(1, len(pieces), 2)]


def written_like(word: str, model: str) -> str:
    """Write a word as another one is written: in CAPITALS, with a Capital, or plainly."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[:1].isupper() else word


def _broken(text: str, kind: str, strength: float, seed: int) -> str:
    pieces, words = split_words(text)
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {text}".encode())])
    # Two draws per word, used or not: what befalls one word depends on no other.
    fate, how = rng.random((2, len(words)))
    hit = [(i, draw) for i, chance, draw in zip(words, fate, how, strict=True) if chance < strength]
    CORRUPTIONS[kind](pieces, hit, words)
    return "".join(pieces)


# ------------------------------------------------------------------------------------------ the kinds


Hits = list[tuple[int, float]]  # where a word stands among the pieces, and a number below 1 that says how


def _typo(pieces: list[str], hit: Hits, words: list[int]) -> None:
    for i, draw in hit:
        letters = [k for k, letter in enumerate(pieces[i]) if letter.lower() in NEIGHBOURS]
        if letters:
            # The draw chooses the letter, and what is left of it the neighbour.
            place, rest = divmod(draw * len(letters), 1)
            at = letters[int(place)]
            near = NEIGHBOURS[pieces[i][at].lower()]
            other = near[int(rest * len(near))]
            other = other.upper() if pieces[i][at].isupper() else other
            pieces[i] = pieces[i][:at] + other + pieces[i][at + 1 :]


def _drop(pieces: list[str], hit: Hits, words: list[int]) -> None:
    lost = [i for i, _ in hit][: len(words) - 1]
    if not lost:
        return
    for i in lost:
        # With the word goes the space behind it.
        pieces[i], pieces[i + 1] = "", pieces[i + 1].removeprefix(" ")
    pieces[:] = ["".join(pieces).strip()]


def _swap(pieces: list[str], hit: Hits, words: list[int]) -> None:
    for i, _ in hit:
        if i != words[-1]:
            pieces[i], pieces[i + 2] = pieces[i + 2], pieces[i]


def _case(pieces: list[str], hit: Hits, words: list[int]) -> None:
    for i, _ in hit:
        pieces[i] = pieces[i].upper()


def _synonym(pieces: list[str], hit: Hits, words: list[int]) -> None:
    for i, draw in hit:
        others = synonyms().get(pieces[i].lower())
        if others:
            pieces[i] = written_like(others[int(draw * len(others))], pieces[i])


def _neighbours() -> dict[str, str]:
    """Tell which keys touch each key: beside it, and, rows being shifted by half a key, two above and two below."""
    places = {key: (row, column) for row, keys in enumerate(KEYBOARD) for column, key in enumerate(keys)}
    return {
        key: "".join(
            other
            for other, (r, c) in places.items()
            if (r == row and abs(c - column) == 1)
            or (r == row - 1 and c - column in (0, 1))
            or (r == row + 1 and c - column in (-1, 0))
        )
        for key, (row, column) in places.items()
        if key.isalpha()
    }


NEIGHBOURS = _neighbours()
#: What may befall a text, by name.
CORRUPTIONS: dict[str, Callable[[list[str], Hits, list[int]], None]] = {
    "typo": _typo,
    "drop": _drop,
    "swap": _swap,
    "case": _case,
    "synonym": _synonym,
}
