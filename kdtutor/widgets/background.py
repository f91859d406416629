"""What trains in the background of a notebook: as a task of its event loop, without a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from kdtutor.errors import KDTutorError

TURNS = 12  # of the event loop between two steps: a message takes several until its handler runs


class Home:
    """The thread and event loop in which an instrument was made, or started: there its training runs.

    JupyterLab has messages handled in a thread of their own (a subshell): what they ask for is done at home.
    """

    def __init__(self) -> None:
        self.thread, self.loop = threading.current_thread(), running_loop()

    def do(self, action: Callable[[], None]) -> None:
        here = threading.current_thread() is self.thread
        if here or self.loop is None or self.loop.is_closed():
            action()
        else:
            self.loop.call_soon_threadsafe(action)


def needed_loop(instead: str) -> asyncio.AbstractEventLoop:
    """Return the running event loop; KDTutorError, with what to take `instead`, where there is none."""
    loop = running_loop()
    if loop is None:
        raise KDTutorError(
            f"start() needs an event loop, which notebooks have and a plain script has not: take {instead}"
        )
    return loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
