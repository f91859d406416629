"""Words and their synonyms in WordNet, for swapping words in a text: a part of the embedded data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# What index.sense calls a part of speech: 5 is an adjective beside another one.
PARTS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
SEEN = 3  # times that a word occurs in the texts at least, so that a model may know it
# Most frequent words, nearly all of them such as "will" and "like", which hold a sentence together.
COMMON = 150


def find(wordnet: dict[str, bytes], texts: Iterable[str]) -> dict[str, list[str]]:
    """Find for each word the other single words of its most frequent sense, in WordNet's order.

    Of both only words of three letters or more that the texts have, and none for the most common words. A word whose
    senses are about equally frequent keeps one; inflected forms that WordNet doesn't list have none.
    """
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]{3,}", text.lower()))
    known = {word for word, count in counts.items() if count >= SEEN}
    common = {word for word, _ in counts.most_common(COMMON)}
    members, found = _synsets(wordnet), {}
    for word, synset in sorted(_most_frequent(wordnet).items()):
        others = [other for other in members[synset] if other in known and other != word]
        if word in known - common and others:
            found[word] = others
    return found


def write(found: dict[str, list[str]], file: Path) -> None:
    """Write a Parquet file with a row for each word."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "word": pa.array([*found], pa.string()),
        "synonyms": pa.array(found.values(), pa.list_(pa.string())),
    }
    pq.write_table(
        pa.table(columns), file, version="2.6", compression="zstd", compression_level=9, store_schema=False
    )
    print(f"synonyms: {len(found)} words")


def _synsets(wordnet: dict[str, bytes]) -> dict[tuple[str, str], list[str]]:
    """Read part of speech and offset of every synset, and its words."""
    members = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in wordnet[f"package/dict/data.{part}"].decode("utf-8").splitlines():
            if not line.startswith("  "):
                offset, _, _, count, *words = line.split(" ")
                # Each word is followed by a number; an adjective may say, in brackets, where it stands.
                spelt = (re.sub(r"\(\w+\)$", "", words[2 * i]) for i in range(int(count, 16)))
                members[part, offset] = list(spelt)
    return members


def _most_frequent(wordnet: dict[str, bytes]) -> dict[str, tuple[str, str]]:
    """Tell which synset holds a word's most frequent sense, by WordNet's count of tagged texts."""
    best: dict[str, tuple] = {}
    for line in wordnet["package/dict/index.sense"].decode("utf-8").splitlines():
        key, offset, number, count = line.split(" ")
        word, _, sense = key.partition("%")
        rank = (-int(count), int(number), PARTS[sense[0]], offset)
        best[word] = min(rank, best.get(word, rank))
    return {word: (part, offset) for word, (_, _, part, offset) in best.items()}
