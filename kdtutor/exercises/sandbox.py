"""Run a learner's function so that the kernel survives whatever the function does.

Where the platform allows it, the function runs in a forked child: with a limit of time and of memory, after which the
child is killed, whatever it waits for. It sees everything that the notebook has defined, and nothing that it changes
outlives it. Elsewhere (Windows, macOS, a GPU in use, which no child can share) it runs in a thread of the kernel:
Python code is stopped by an exception raised in that thread, and compiled code that never returns is left behind.

What it prints is kept (the beginning of it) instead of shown. The learner's own Ctrl-C arrives in the calling thread.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import linecache
import mmap
import os
import pickle
import re
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any, NoReturn
from unittest import mock

TIME_LIMIT = 5.0  # seconds; an ordinary answer needs a few hundredths
MEMORY_LIMIT = 2**30  # bytes that a child may take beyond what the kernel has
GRACE = 2.0  # seconds in which a function that is told to stop may do so
KEPT_CHARACTERS = 2000  # of what was printed
STACK = 2**25  # bytes: in its thread a function may recurse as deeply as in the main one
THREAD_NAME = "kdtutor check"

_LIBRARIES = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.__file__))
_HEAD = 8  # bytes that say how long what follows is
_in_a_child = False


class OutOfTime(SystemExit):
    """Stops the learner's thread. No `except Exception` catches it, and a thread that it ends prints nothing."""


class Printed(io.TextIOBase):
    """Keeps the first characters written to it and counts all, in memory that a child and its parent share."""

    def __init__(self) -> None:
        shared = sys.platform != "win32"
        self._memory = mmap.mmap(-1, _HEAD + 4 * KEPT_CHARACTERS) if shared else bytearray(_HEAD + 8000)
        self._kept_characters = self._used = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if room := KEPT_CHARACTERS - self._kept_characters:
            kept = text[:room].encode(errors="replace")
            start = _HEAD + self._used
            self._memory[start : start + len(kept)] = kept
            self._kept_characters += len(text[:room])
            self._used += len(kept)
        self._memory[:_HEAD] = (self.characters + len(text)).to_bytes(_HEAD, "little")
        return len(text)

    @property
    def characters(self) -> int:
        return int.from_bytes(self._memory[:_HEAD], "little")

    @property
    def kept(self) -> str:
        return bytes(self._memory[_HEAD:]).rstrip(b"\0").decode(errors="replace")


@dataclass
class Outcome:
    """What came of a run: a value, or an error, or neither when the time was over or the process ended."""

    value: Any = None
    further: Any = None  # what came of looking further, if that was done
    error: BaseException | None = None
    out_of_time: bool = False
    still_running: bool = False  # it could not be stopped: it waits in compiled code
    ended: str = ""  # how the function ended its process, if it did: "os._exit" or a signal's name
    line: str = ""  # the learner's own line in which it ended: "line 3, `x = y`"
    printed: Printed = field(default_factory=Printed)


def run(
    action: Callable[[], Any], limit: float | None = None, then: Callable[[Any], Any] | None = None
) -> Outcome:
    """Call `action()` and return what came of it, within about `limit` seconds. In a child, its value is pickled.

    then(value): what to do further in the same child, as far as the time goes: a second child would cost as much as
    the first. A failure there is no failure, and where there is no child it is not done.
    """
    limit = TIME_LIMIT if limit is None else limit
    return _run_in_a_child(action, limit, then) if can_fork() else _run_in_a_thread(action, limit)


def is_running() -> bool:
    """Tell whether the caller is itself a function that is being run here."""
    return _in_a_child or threading.current_thread().name == THREAD_NAME


def can_fork() -> bool:
    """Tell whether a child can do what the kernel does: on Linux, and where torch has nothing but the CPU."""
    if not sys.platform.startswith("linux"):
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.accelerator.is_available()


def line_of(error: BaseException) -> str:
    """Find the learner's own line in which an error was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return _line((frame.f_code.co_filename, number) for frame, number in frames)


# ------------------------------------------------------------------------------------------------ in a child


def _run_in_a_child(action: Callable[[], Any], limit: float, then: Callable[[Any], Any] | None) -> Outcome:
    outcome = Outcome()
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as trace:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a kernel has threads; the child uses none of them
            child = os.fork()
        if child == 0:
            _be_the_child(action, limit, then, writer, trace, outcome.printed)
        os.close(writer)
        with suppress(OSError):
            os.setpgid(child, child)
        started = time.monotonic()
        try:
            answer = _read(reader, started + limit + 1.5)
        finally:  # also when the learner presses Ctrl-C
            os.close(reader)
            status = _end(child)
        if isinstance(answer, bytes):
            outcome.value, outcome.further, outcome.error, overtime_in = pickle.loads(answer)
            outcome.out_of_time, outcome.line = overtime_in is not None, overtime_in or ""
        elif time.monotonic() - started > limit:  # in compiled code, where the alarm is not heard
            outcome.out_of_time = True
            trace.seek(0)
            found = re.findall(r'File "(.*)", line (\d+) in', trace.read().decode(errors="replace"))
            outcome.line = _line((name, int(number)) for name, number in reversed(found))
        else:
            crashed = os.WIFSIGNALED(status)
            outcome.ended = signal.Signals(os.WTERMSIG(status)).name if crashed else "os._exit"
    return outcome


def _be_the_child(
    action: Callable[[], Any], limit: float, then: Callable | None, writer: int, trace: Any, printed: Printed
) -> NoReturn:
    """Call the action, send its value or the error through the pipe, and end without any tidying up."""
    global _in_a_child
    answers: list[bytes] = []  # of which the last is sent
    try:
        _in_a_child = True
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
        signal.signal(signal.SIGALRM, lambda _, frame: _time_is_up(writer, answers, frame))
        signal.setitimer(signal.ITIMER_REAL, limit)
        gc.freeze()  # what the kernel holds is not ours to finalise
        _limit_memory()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)  # the threads of the parent's pool are not in the child
        faulthandler.disable()  # a crash is said by the parent
        # Compiled code that runs on hears no alarm; this thread ends it, also when the parent is gone.
        faulthandler.dump_traceback_later(limit + 0.2, file=trace, exit=True)
        sys.stdout = sys.stderr = printed
        with mock.patch("builtins.input", _no_input):
            try:
                value = action()
                answers.append(_packed(value))
                if then:
                    sys.stdout = sys.stderr = Printed()
                    answers.append(_packed(value, then(value)))
            except BaseException as error:
                if not answers:
                    answers.append(_packed(error=RuntimeError(f"{type(error).__name__}: {error}")))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(writer, answers[-1])
    finally:
        os._exit(0)


def _time_is_up(writer: int, answers: list[bytes], frame: FrameType | None) -> NoReturn:
    """Say in which line Python code still was, and end; nothing is raised, so that no bare `except:` catches it."""
    frames = reversed([*traceback.walk_stack(frame)])
    line = _line((each.f_code.co_filename, number) for each, number in frames)
    _write(writer, answers[0] if answers else _packed(line=line))
    os._exit(0)


def _packed(
    value: Any = None, further: Any = None, error: BaseException | None = None, line: str | None = None
) -> bytes:
    return pickle.dumps((value, further, error, line))


def _limit_memory() -> None:
    import resource

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + MEMORY_LIMIT
    resource.setrlimit(
        resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
    )


def _write(writer: int, data: bytes) -> None:
    view = memoryview(len(data).to_bytes(_HEAD, "little") + data)
    while view:
        view = view[os.write(writer, view) :]


def _read(reader: int, deadline: float) -> bytes | str | None:
    """Read what the child sends; None if it takes too long, and "ended" if it ends without a word."""
    data, length = b"", None
    while length is None or len(data) < length:
        if not select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        part = os.read(reader, 2**16)
        if not part:
            return "ended"
        data += part
        if length is None and len(data) >= _HEAD:
            length, data = int.from_bytes(data[:_HEAD], "little"), data[_HEAD:]
    return data


def _end(child: int) -> int:
    """Kill the child, and all that it has started, if it has not ended by itself; its exit status.

    It has a moment for that: between its last word and its end there is nothing but the end.
    """
    for _ in range(20):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    return status if done else os.waitpid(child, 0)[1]


# ------------------------------------------------------------------------------------------------ in a thread


def _run_in_a_thread(action: Callable[[], Any], limit: float) -> Outcome:
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
            if not done.wait(limit):
                outcome.out_of_time = True
                frames = reversed(list(traceback.walk_stack(_frame_of(thread))))
                outcome.line = _line((frame.f_code.co_filename, number) for frame, number in frames)
        finally:  # also when the learner presses Ctrl-C
            outcome.still_running = not _has_stopped(thread)
    return outcome


def _has_stopped(thread: threading.Thread) -> bool:
    """End the thread, by an exception as often as it takes: a bare `except:` catches some of them."""
    for _ in range(round(GRACE / 0.02)):
        thread.join(0.02)
        if not thread.is_alive():
            return True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(OutOfTime))
    return False


def _frame_of(thread: threading.Thread) -> FrameType | None:
    return sys._current_frames().get(thread.ident)


# ------------------------------------------------------------------------------------------------ both


@cache
def is_the_learners(filename: str) -> bool:
    """Tell whether a file of code is neither kdtutor's nor a library's."""
    return not filename.startswith((*_LIBRARIES, "<frozen")) and "site-packages" not in filename


def _line(places: Iterable[tuple[str, int]]) -> str:
    """Say which was the innermost line of the learner's."""
    found = ""
    for name, number in places:
        if is_the_learners(name):
            text = linecache.getline(name, number).strip()
            found = f"line {number}, `{text}`" if text else f"line {number}"
    return found


def _no_input(prompt: str = "") -> str:
    raise RuntimeError("input() would wait for somebody to type; what the function needs are its arguments")
