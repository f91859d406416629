"""Whether the Hub answers, and what to say when it does not."""

from __future__ import annotations

import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


@contextmanager
def hub_access(name: str | os.PathLike) -> Iterator[None]:
    """Wrap a look-up of `name`: if the Hub does not answer, only the cache is asked.

    The Hub's own libraries would try again and again, for half a minute.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or not (os.path.isdir(name) or ask(constants.ENDPOINT).came)
    places = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = offline
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


class Response(NamedTuple):
    """Whether anything answered, be it an error or an odd certificate, and in words what it said."""

    came: bool
    said: str


def ask(address: str, seconds: float = 4) -> Response:
    """Ask a web server for its head. In a thread, since the time-out does not cover looking up a name."""
    responses = []

    def request() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
            responses.append(Response(True, "reachable"))
        except urllib.error.HTTPError as error:
            responses.append(Response(True, f"answered {error.code}"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            # The Hub's own libraries may know a certificate that Python does not.
            responses.append(Response(isinstance(reason, ssl.SSLError), f"not reachable ({reason})"))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(seconds)
    return responses[0] if responses else Response(False, f"no answer in {seconds:g} s")


def unavailable(what: str, name: str | os.PathLike, error: Exception) -> str:
    """Say in one sentence what could not be loaded, neither from a folder nor the Hub, and how to go on."""
    from huggingface_hub import constants

    reason = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:160]}"
    if os.path.isdir(name):
        return f"can't load the {what} in the folder {name} ({reason})"
    return (
        f'can\'t load the {what} "{name}" (tried: a folder of that name, the local cache, {constants.ENDPOINT}; '
        f'{reason}); to go on offline, take what ships, such as the task "supersense" or the model "bert-supersense", '
        "or give a folder of your own"
    )
