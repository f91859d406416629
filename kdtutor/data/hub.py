"""Whether the Hub answers, and what to say when it does not."""

from __future__ import annotations

import os
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hub_access(name: str | os.PathLike) -> Iterator[None]:
    """Around a look-up of `name`: if the Hub does not answer, only the cache is asked.

    The Hub's own libraries would try again and again, for half a minute.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or not (Path(name).is_dir() or _answers(constants.ENDPOINT))
    places = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = offline
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _answers(address: str, seconds: float = 4) -> bool:
    """Whether a web server answers in time, be it with an error. In a thread: name look-up knows no time limit."""
    answer = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError) as error:
            if not isinstance(
                getattr(error, "reason", None), ssl.SSLError
            ):  # the Hub's libraries may know better
                return
        answer.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answer)


def unavailable(what: str, name: str | os.PathLike, error: Exception) -> str:
    """One sentence on what could not be loaded, neither from a folder nor the Hub: what was tried, how to go on."""
    from huggingface_hub import constants

    reason = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:160]}"
    if Path(name).is_dir():
        return f"can't load the {what} in the folder {name} ({reason})"
    return (
        f'can\'t load the {what} "{name}" (tried: a folder of that name, the local cache, {constants.ENDPOINT}; '
        f'{reason}); to go on offline, take what ships, such as load_task("supersense") and load_teacher(task), '
        "or give a folder of your own"
    )
