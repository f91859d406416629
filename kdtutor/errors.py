"""The errors that kdtutor raises on purpose: each message names the culprit and says how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class KDTutorError(Exception):
    """Base class of every error that kdtutor raises on purpose."""


def nearest(kind: str, name: object, options: Iterable[str]) -> str:
    """One sentence that says what does exist, nearest to `name` first.

    >>> nearest("task", "supersens", ["glosses", "supersense"])
    'unknown task "supersens"; there are: supersense, glosses'
    """
    wanted = str(name).lower()
    # Equal ratios keep the caller's order, because sorted() is stable.
    ranked = sorted(options, key=lambda option: -SequenceMatcher(None, wanted, option.lower()).ratio())
    listing = f"there are: {', '.join(ranked)}" if ranked else "there are none"
    return f'unknown {kind} "{name}"; {listing}'
