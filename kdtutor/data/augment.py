"""More texts to ask the teacher about, made of those there are: Tang et al. 2019, arXiv:1903.12136, §3.2.

    task = augment(task, copies=4)      # the training texts, and four variants of each, unlabelled

Nobody knows the label of a text that lost a word, nor whether it is still a sentence. It need not be known: the teacher
answers it like any other, so soft targets learn from it, and hard labels skip it (-100).

Tang et al. exchange a word for another of its part of speech. No tagger ships here, so the classes of words are found
in the training texts: words between the same neighbours are of a class, which is how parts of speech are found without
a dictionary (Schütze 1995, cmp-lg/9503009). They are rough: a class is often a part of speech and a topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import COUNT, PROBABILITY, KDTutorError

LONGEST = 5  # words of an n-gram
CONTEXTS = 250  # most frequent words whose company tells of what kind a word is
CLASSES, ROUNDS = 50, 20  # of words; of k-means
RAREST = 3  # occurrences of a word that has a class


def augment(
    task: Task | str,
    copies: int = 4,
    mask: float = 0.1,
    swap: float = 0.1,
    ngram: float = 0.25,
    seed: int = 0,
) -> Task:
    """Add `copies` variants of every training text, unlabelled, but for those that are no new text.

    Each word is masked with probability `mask`, or else exchanged with probability `swap` for another of its class, in
    proportion to how often that occurs; then, with probability `ngram`, only one to five neighbouring words stay. The
    seed decides all. Validation, test and pool stay as they are, and no text of theirs is among the new ones. Raises
    KDTutorError for a task without targets, and where the tokenizer has no mask.
    """
    task = as_task(task)
    copies = COUNT("copies", copies)
    given = {"mask": mask, "swap": swap, "ngram": ngram}
    chances = [PROBABILITY(name, value) for name, value in given.items()]
    train, hidden = task.split("train"), task.tokenizer.mask_token
    if train.targets is None:
        raise KDTutorError(f"{task.name} is a {task.kind} task: it masks its texts itself, anew at each step")
    if hidden is None and mask:
        raise KDTutorError(f"the tokenizer of {task.name} has no mask token: augment(…, mask=0)")
    if mask + swap > 1:
        raise KDTutorError(
            f"mask and swap are {mask} and {swap}: a word can't be both, so at most 1 together"
        )

    rng = np.random.default_rng(seed)
    classes = WordClasses.of([text.split() for column in train.texts for text in column]) if swap else None
    known = {key for part in task.splits.values() for key in zip(*part.texts, strict=True)}
    new = []
    for row in [*zip(*train.texts, strict=True)] * copies:
        variant = tuple(_variant(text, rng, chances, hidden, classes) for text in row)
        if variant not in known:
            known.add(variant)
            new.append(variant)

    whole = train.and_more([[row[i] for row in new] for i in range(len(train.texts))])
    name = f"{task.name}[and {len(new)} variants, seed {seed}]"
    return replace(task, name=name, splits=task.splits | {"train": whole})


def _variant(
    text: str, rng: np.random.Generator, chances: Sequence[float], hidden: str, classes: WordClasses | None
) -> str:
    """Return a variant of one text, of as many words or of one to five neighbours among them."""
    mask, swap, ngram = chances
    words = text.split()
    draws = rng.random(len(words) + 1)
    for i, draw in enumerate(draws[:-1]):
        if draw < mask:
            words[i] = hidden
        elif draw < mask + swap and classes is not None:
            words[i] = classes.another(words[i], rng)
    if draws[-1] < ngram and words:
        length = min(int(rng.integers(1, LONGEST + 1)), len(words))
        start = int(rng.integers(len(words) - length + 1))
        words = words[start : start + length]
    return " ".join(words)


@dataclass(frozen=True)
class WordClasses:
    """Words that stand between the same neighbours. of_word: word → class; words, sums: of each class, its words, and
    the running sums of how often they occur."""

    of_word: dict[str, int]
    words: list[list[str]]
    sums: list[np.ndarray]

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], count: int = CLASSES) -> WordClasses:
        """Find `count` classes of all words that occur three times or more."""
        counts = Counter(word for text in texts for word in text)
        # By frequency, and alphabetically where that is equal: the same on every machine.
        kept = sorted((w for w, n in counts.items() if n >= RAREST), key=lambda word: (-counts[word], word))
        if not kept:
            return cls({}, [], [])
        found = _clusters(_neighbours(texts, kept), np.array([counts[word] for word in kept]), count)
        words: list[list[str]] = [[] for _ in range(count)]
        for word, number_of_class in zip(kept, found, strict=True):
            words[number_of_class].append(word)
        sums = [np.cumsum([counts[word] for word in members]) for members in words]
        return cls(dict(zip(kept, map(int, found), strict=True)), words, sums)

    def another(self, word: str, rng: np.random.Generator) -> str:
        """Draw a word of the same class, in proportion to how often it occurs; a word without a class stays."""
        if word not in self.of_word:
            return word
        members, sums = self.words[self.of_word[word]], self.sums[self.of_word[word]]
        return members[int(np.searchsorted(sums, rng.integers(sums[-1]), side="right"))]


def _neighbours(texts: Sequence[Sequence[str]], kept: Sequence[str]) -> np.ndarray:
    """Describe each word by the frequent words, or ends of a text, left and right of it: unit rows (words, …)."""
    place = {word: i for i, word in enumerate(kept)}
    company = {word: i + 1 for i, word in enumerate(kept[:CONTEXTS])}
    found = np.zeros((len(kept), 2, CONTEXTS + 1))
    for text in texts:
        for left, word, right in zip(["", *text], text, [*text[1:], ""], strict=False):
            if (i := place.get(word)) is not None:
                for side, neighbour in enumerate((left, right)):
                    # The ends of a text are a neighbour too; rare words are none.
                    where = company.get(neighbour, 0 if neighbour == "" else None)
                    if where is not None:
                        found[i, side, where] += 1
    # Square roots: whether a neighbour is there counts for more than how often.
    flat = np.sqrt(found).reshape(len(kept), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(min=1e-12)


def _clusters(rows: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Sort unit rows (n, d), the most frequent words first, into classes by the largest cosine: int (n,).

    Spherical k-means. The first centre is the most frequent word, each further one the frequent word that is least like
    all before it.
    """
    frequent = rows[: 20 * count]
    centres, nearest = [frequent[0]], frequent @ frequent[0]
    for _ in range(count - 1):
        centres.append(frequent[nearest.argmin()])
        nearest = np.maximum(nearest, frequent @ centres[-1])
    middles = np.stack(centres)
    for _ in range(ROUNDS):
        found = (rows @ middles.T).argmax(1)
        sums = np.zeros_like(middles)
        np.add.at(sums, found, rows * np.sqrt(weights)[:, None])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        middles = np.where(lengths > 0, sums / lengths.clip(min=1e-12), middles)
    return found
