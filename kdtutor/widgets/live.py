"""Live distillation: a training run to watch and to steer while it goes on.

    run  = kd.Distillation(student, teacher, task, kd.blend(alpha=0.1, temperature=1), epochs=3)
    live = kd.widgets.LiveDistillation(run, probe="hybrid between plum and apricot")
    live.start()             # or the button; other cells run meanwhile
    live.temperature = 4     # acts on the next step, as the slider does
    await live.finished()    # in a cell that needs the result

Beside the student learns its twin: the same initial weights, batches and learning rate, but hard labels alone. Training
is a task of the event loop that the kernel has anyway: after each step it gives way, so no thread is needed, and a step
is never torn. Read `_advance` and `_train` first.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import traitlets

from kdtutor.errors import COUNT, KDTutorError
from kdtutor.training import checkpoints
from kdtutor.training.distillation import Distillation
from kdtutor.training.processes import finish_first
from kdtutor.widgets.background import TURNS, Home, needed_loop, running_loop
from kdtutor.widgets.base import OneOf
from kdtutor.widgets.live_parts import Probe, Score, check_live, make_twin, one_sentence
from kdtutor.widgets.live_shown import POINTS, Shown

PICTURES = 10  # per second, at most


class LiveDistillation(Shown):
    """Start, pause, step and reset a `Distillation`, change its settings on the way, and watch what that does.

    distillation: a run, as a rule before its first step; from then on this instrument steps it. twin: True makes the
    control that learns from hard labels alone, at equal steps; False does without; or another Distillation of as many
    steps, to compare with. probe: the text whose distributions are shown (a masked-LM task: with [MASK] in it), or the
    number of a validation example. validation: how many validation texts, always the same random ones, the score is
    taken on. every: steps between two scores; None spaces them so that they take less than a tenth of the time.
    name: what others are told who want to start while this one trains.

    Settings, which act on the next step: temperature (of all terms that have one), learning_rate (the peak of the
    schedule), alpha where the objective is a blend, else weights, one per term. None where it does not apply.
    Read only: status, curves (all that is drawn), now (what the last picture added), error (what stopped it).

    Raises KDTutorError if the run can't be shown, and whenever something asked for is not possible.
    """

    _script, _style = "live.js", "live.css"
    _newest: weakref.ref | None = None  # the one that trains
    _count = itertools.count(1)

    status = OneOf("ready", ("ready", "training", "paused", "finished")).tag(sync=True, told=True)
    plan = traitlets.Dict().tag(sync=True, told=True)  # what does not change during the run
    # All points; sent whole when training pauses, and on demand.
    curves = traitlets.Dict().tag(sync=True, told=True)
    # The present numbers and the points since the picture before.
    now = traitlets.Dict().tag(sync=True, told=True)

    def __init__(
        self,
        distillation: Distillation,
        *,
        twin: bool | Distillation = True,
        probe: str | int = 0,
        validation: int = 300,
        every: int | None = None,
        name: str | None = None,
    ):
        check_live(distillation, twin)
        self.distillation, self.error = distillation, None
        self.name = name or f"live run {next(self._count)}"
        self._task: asyncio.Task | None = None
        self._home = Home()
        self._asked: dict[str, object] = {}  # settings that the next step will have
        self._iterators: dict[Distillation, Iterator] = {}
        self._pause_wanted = False
        self._validating = self._working = self._shown = 0.0  # seconds; and when the last picture was sent
        self._marks: deque[tuple[float, int]] = deque()  # (time, step) of the last seconds: the speed

        self.twin, why_not = (twin, "") if isinstance(twin, Distillation) else make_twin(distillation, twin)
        self._runs = {"student": distillation} | ({"twin": self.twin} if self.twin else {})
        self._starts = [run.state() for run in self._runs.values()]
        for run in self._runs.values():
            run.progress = False  # this instrument is the progress bar
        self._score = Score(distillation, COUNT("validation", validation))
        self._probe = Probe(distillation, probe)
        self._every = None if every is None else COUNT("every", every)
        # The teacher before the students: what the last score took is what the next one is expected to take.
        self._goal = None if distillation.teacher is None else self._worth(distillation.teacher)
        self._first_scores = self._scores()
        self._columns = [(who, term) for who, run in self._runs.items() for term in run.term_names]
        self._width = math.ceil(distillation.total_steps / POINTS)  # steps that become one point

        curves = {"losses": [], "scores": [], "snapshots": []}
        super().__init__(plan=self._make_plan(why_not), curves=curves, **self._settings())
        self.observe(self._setting_changed, names=["temperature", "alpha", "learning_rate", "weights"])
        self.on_msg(self._message)
        self._begin_anew()

    # ------------------------------------------------------------------------------------------ what a person does

    def start(self) -> None:
        """Train, from here on, in the background: steps are taken whenever the event loop is free.

        Raises KDTutorError if another live run is training, if all steps are done, or in a script without an event
        loop, where `run` is the way.
        """
        if self.status == "training":
            return
        loop = needed_loop("live.run() there, or start() inside a coroutine")
        self._take_over()
        self._home = Home()
        self._task = loop.create_task(self._train(), name=self.name)

    def pause(self) -> None:
        """Stop after the step in hand; start(), step() and run() go on from there."""
        self._pause_wanted = True
        if self.status == "training":
            self._rest("paused")

    stop = pause

    def step(self) -> None:
        """Take one step, here and now. Raises what it raises; the run is then paused and can go on."""
        self.run(1)

    def run(self, steps: int | None = None) -> None:
        """Take `steps` steps (default: all that are left), and only then return: the way of a plain script."""
        if self.status == "training":
            raise KDTutorError(f"{self.name} is training already: live.pause() first")
        wanted = COUNT("steps", self.distillation.total_steps if steps is None else steps)
        self._take_over()
        try:
            for _ in range(wanted):
                self._next()
                if self.status != "training":
                    return
            self._rest("paused")
        except KeyboardInterrupt:
            self.pause()
            raise
        except Exception as error:
            self._fail(error)
            raise

    def reset(self) -> None:
        """Go back to the initial weights (student, twin, projections), settings and step, as if nothing had been done.

        The teacher's answers are kept. Training pauses. KDTutorError if the run has written checkpoints.
        """
        self.pause()
        for run in self._runs.values():
            if run.folder and checkpoints.found(run.folder):
                raise KDTutorError(
                    f"{run.folder} keeps this run's checkpoints, and a run from the start would not be theirs: "
                    "make a new Distillation with another folder"
                )
        for run, start in zip(self._runs.values(), self._starts, strict=True):
            run.restore(start)
        self._begin_anew()

    async def finished(self) -> None:
        """Wait until training is over: all steps taken, or paused. Raises the error that ended it, if one did.

        Interrupting the cell that waits pauses the run. While a cell waits the kernel begins no other cell, and some
        front ends' buttons wait as well; JupyterLab's do not.
        """
        if self.status == "ready":
            raise KDTutorError(f"{self.name} was not started, so it will not finish: live.start() first")
        if self._task is not None and not self._task.done():
            try:
                await asyncio.wait({self._task})
            except asyncio.CancelledError:
                self.pause()
                raise
        if self.error is not None:
            raise self.error

    @classmethod
    def in_training(cls) -> LiveDistillation | None:
        """Find the live run that is training now, if any: for when its name and its buttons are gone."""
        newest = LiveDistillation._newest and LiveDistillation._newest()
        return newest if newest is not None and newest.status == "training" else None

    def close(self) -> None:
        """Remove the widget; the run pauses, and stays as it is in Python."""
        self.pause()
        super().close()

    # ------------------------------------------------------------------------------------------ training

    def _advance(self) -> None:
        """Take one optimiser step of the student and, at the same learning rate, one of its twin.

        Looked at at once: whichever is not finite goes back by that step alone, so the two stay at equal steps. If only
        the twin's failed, it is behind, and the next step is its alone.
        """
        student, twin = self.distillation, self.twin
        if twin is None or student.done == twin.done:
            self._step_of(student)
        if twin is not None and twin.done < student.done:
            twin.learning_rate = student.learning_rate
            self._step_of(twin)

    def _step_of(self, run: Distillation) -> None:
        if run not in self._iterators:
            self._iterators[run] = iter(run)
        next(self._iterators[run])
        run.check_finite()

    async def _train(self) -> None:
        """Train as a background task. It waits between two steps only, so whoever cancels it finds whole steps."""
        me = asyncio.current_task()
        try:
            while self.status == "training" and self._task is me:
                self._next()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._task is me:
                self.pause()  # unless it was pause() that cancelled: then the loop itself is about to end
        except KeyboardInterrupt:
            self.pause()  # it must not reach the kernel's event loop
        except Exception as error:
            self._fail(error)

    def _next(self) -> None:
        """Take a step, add it to the curves, and show a picture if it is time for one.

        Between two cells ipykernel ignores the stop button: while a step runs in the background, it is heard here.
        """
        self._apply()
        with finish_first() as interrupt:
            started = time.perf_counter()
            self._advance()
            self._record()
            self._working += time.perf_counter() - started
            self._score_if_scheduled()
            if self.distillation.done == self.distillation.total_steps:
                self._rest("finished")
            elif interrupt.presses or self._pause_wanted:
                self._rest("paused")
            elif time.perf_counter() - self._shown >= 1 / PICTURES:
                self._show()
        if interrupt.presses and self.status == "training":
            self._rest("paused")

    def _take_over(self) -> None:
        """Become the one that trains. KDTutorError if there is another, or nothing is left to do."""
        other, run = LiveDistillation.in_training(), self.distillation
        if other is not None:
            raise KDTutorError(
                f"{other.name} is training (step {other.distillation.done} of {other.distillation.total_steps}), and "
                "two at once would share the processor: pause it first, with its button or with "
                "kd.widgets.LiveDistillation.in_training().pause()"
            )
        if run.done >= run.total_steps:
            raise KDTutorError(f"all {run.total_steps} steps are done: live.reset() begins anew")
        LiveDistillation._newest = weakref.ref(self)  # type(self) is a class of this widget alone
        self.problem, self.error, self._pause_wanted = "", None, False
        self._marks = deque([(time.perf_counter(), run.done)])
        self.status = "training"

    def _rest(self, status: str, ask: bool = True) -> None:
        """End training, for now or for good: let go of the runs' folders, and send everything whole."""
        for iterator in self._iterators.values():
            iterator.close()
        self._iterators.clear()
        if self._task is not None and self._task is not _current_task():
            self._task.cancel()
        try:
            self._show(ask)
        finally:
            self._settle(status)

    def _fail(self, error: Exception) -> None:
        """Keep one sentence for the reader, the error itself for Python. The run is paused and can go on."""
        self.error, self.problem = error, one_sentence(error)
        if self.status == "training":
            self._rest("paused", ask=False)

    # ------------------------------------------------------------------------------------------ the front end

    def _message(self, _, content: dict, buffers) -> None:
        """Answer a button that was pressed, or a view that wants all points."""
        do = content.get("do") if isinstance(content, dict) else None
        actions = {name: getattr(self, name) for name in ("start", "pause", "step", "reset")}
        action = (actions | {"whole": self._send_whole}).get(do) if isinstance(do, str) else None
        if action is None:
            return
        self.send({"heard": do})  # so that a view knows that there is a kernel
        if do == "pause":
            self._pause_wanted = True  # seen after the step in hand, whichever thread brings the message
        self._home.do(partial(self._obey, action))

    def _obey(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.problem = one_sentence(error)
            if not isinstance(error, KDTutorError):
                self.error = error


def _current_task() -> asyncio.Task | None:
    return None if running_loop() is None else asyncio.current_task()
