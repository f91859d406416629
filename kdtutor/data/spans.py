"""What two tokenizers' models can be compared on: the pieces of a text at whose ends both of them end a token.

A student that reads other tokens than its teacher has other logits: their rows are about different things, and there
are not even as many. But both give a probability to every *text*, token by token (the chain rule). So wherever both
have just ended a token, the text since the last such place has a probability under each, the product of its tokens',
and these can be compared. Where such a span is one token of each, the two rows of logits there answer the same
question, and the strings that both vocabularies have can be compared one by one (as trl's GOLD trainer does, with the
rest as one).

    "un|believ|able" and "unbe|liev|able": the spans "unbeliev" (two tokens each) and "able" (one each)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdtutor.errors import KDTutorError


@dataclass(frozen=True)
class Span:
    """A piece of a text, characters start to end, and which tokens of each tokenizer it is, special ones left out."""

    start: int
    end: int
    first: slice
    second: slice

    @property
    def is_one_token(self) -> bool:
        """Tell whether it is one token of each: then two rows of logits are about the same place."""
        return all(part.stop - part.start == 1 for part in (self.first, self.second))


def equal_spans(text: str, first, second) -> list[Span]:
    """Cut a text into the shortest spans that are whole tokens of both tokenizers, in order.

    first, second: fast tokenizers, which know where in the text their tokens stand. Tokens within one character, as of
    byte-level vocabularies, belong together. What stands behind the last common end, if anything, is in no span: a log
    probability of a span is the sum of its tokens'. Raises KDTutorError for a slow tokenizer.
    """
    ends = [_last_token_by_end(text, tokenizer) for tokenizer in (first, second)]
    spans, start, before = [], 0, (0, 0)
    for end in sorted(ends[0].keys() & ends[1].keys()):
        after = ends[0][end], ends[1][end]
        parts = (slice(a, b) for a, b in zip(before, after, strict=True))
        spans.append(Span(start, end, *parts))
        start, before = end, after
    return spans


def _last_token_by_end(text: str, tokenizer) -> dict[int, int]:
    """Count the tokens up to each place (in characters) at which one ends."""
    if not getattr(tokenizer, "is_fast", False):
        raise KDTutorError(
            f"a {type(tokenizer).__name__} doesn't tell where in the text its tokens stand: take its fast version"
        )
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places: Sequence[tuple[int, int]] = encoding["offset_mapping"]
    return {end: number for number, (start, end) in enumerate(places, 1) if end > start}
