"""Run a learner's function so that the kernel survives whatever the function does.

It runs in a thread of its own, with a time limit, and what it prints is kept (the beginning of it) instead of shown.
Python code is stopped by an exception that is raised in that thread until it ends; the learner's own Ctrl-C arrives in
the calling thread, as always. What no Python program can survive (a crash of the interpreter) is not survived here.
"""

from __future__ import annotations

import ctypes
import io
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest import mock

TIME_LIMIT = 5.0  # seconds; an ordinary answer needs a few hundredths
GRACE = 2.0  # seconds in which a function that is told to stop may do so
KEPT_CHARACTERS = 2000  # of what was printed
STACK = 2**25  # bytes: in its thread a function may recurse as deeply as in the main one
THREAD_NAME = "kdtutor check"

_LIBRARIES = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.__file__))


class OutOfTime(SystemExit):
    """Stops the learner's thread. No `except Exception` catches it, and a thread that it ends prints nothing."""


class Printed(io.TextIOBase):
    """Keeps the first characters written to it and counts all, however many megabytes they are."""

    def __init__(self) -> None:
        self.kept, self.characters = "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.characters += len(text)
        if (room := KEPT_CHARACTERS - len(self.kept)) > 0:
            self.kept += text[:room]
        return len(text)


@dataclass
class Outcome:
    """What came of a run: a value, or an error, or neither when the time was over."""

    value: Any = None
    error: BaseException | None = None
    out_of_time: bool = False
    still_running: bool = False  # it could not be stopped: it waits in compiled code
    line: str = ""  # the learner's own line in which it ended: "line 3, `x = y`"
    printed: Printed = field(default_factory=Printed)


def run(action: Callable[[], Any], limit: float | None = None) -> Outcome:
    """Call `action()` and return what came of it, within about `limit` seconds (default: TIME_LIMIT)."""
    outcome, done = Outcome(), threading.Event()

    def work() -> None:
        try:
            outcome.value = action()
        except BaseException as error:  # a learner may raise SystemExit or KeyboardInterrupt too
            outcome.error = error
        finally:
            done.set()

    usual = threading.stack_size(STACK)
    thread = threading.Thread(target=work, name=THREAD_NAME, daemon=True)
    with (
        redirect_stdout(outcome.printed),
        redirect_stderr(outcome.printed),
        mock.patch("builtins.input", _no_input),
    ):
        try:
            thread.start()
            threading.stack_size(usual)
            if not done.wait(TIME_LIMIT if limit is None else limit):
                outcome.out_of_time = True
                outcome.line = _line(reversed(list(traceback.walk_stack(_frame_of(thread)))))
        finally:  # also when the learner presses Ctrl-C
            outcome.still_running = not _stopped(thread)
    if outcome.error is not None and not outcome.out_of_time:
        outcome.line = _line(traceback.walk_tb(outcome.error.__traceback__))
    return outcome


def _stopped(thread: threading.Thread) -> bool:
    """End the thread, by an exception as often as it takes: a bare `except:` catches some of them."""
    for _ in range(round(GRACE / 0.02)):
        thread.join(0.02)
        if not thread.is_alive():
            return True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(OutOfTime))
    return False


def _frame_of(thread: threading.Thread) -> FrameType | None:
    return sys._current_frames().get(thread.ident)


def _line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost line of the learner's: neither kdtutor's nor a library's."""
    found = ""
    for frame, number in frames:
        name = frame.f_code.co_filename
        if not name.startswith((*_LIBRARIES, "<frozen")) and "site-packages" not in name:
            text = linecache.getline(name, number, frame.f_globals).strip()
            found = f"line {number}, `{text}`" if text else f"line {number}"
    return found


def _no_input(prompt: str = "") -> str:
    raise RuntimeError("input() would wait for somebody to type; what the function needs are its arguments")
