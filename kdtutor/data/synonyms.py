"""Words that may stand for another: WordNet's synonyms, as they ship (tools/synonyms.py)."""

from __future__ import annotations

from functools import cache

from kdtutor.assets import verified


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Read each word's synonyms in its most frequent sense: lower case, single words.

    WordNet knows no context and hardly any inflected form: not each of them fits each sentence.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(verified("data/synonyms/synonyms.parquet")).to_pydict()
    return {word: tuple(others) for word, others in zip(table["word"], table["synonyms"], strict=True)}
