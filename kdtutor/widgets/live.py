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
from numbers import Real

import traitlets

from kdtutor import plots
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.objectives.logits import Blend
from kdtutor.plots.live import live_distillation
from kdtutor.training import checkpoints
from kdtutor.training.distillation import Distillation
from kdtutor.training.processes import finish_first
from kdtutor.widgets.background import TURNS, Home, running_loop
from kdtutor.widgets.base import Instrument, Number, OneOf, SettingError
from kdtutor.widgets.live_parts import (
    Probe,
    Score,
    check_live,
    make_twin,
    one_sentence,
    same_temperature,
    short,
    twin_name,
)

PICTURES = 10  # per second, at most
POINTS = 240  # of a curve, at most; a point is the mean over some steps
SNAPSHOTS = 100  # of the probe's distributions, at most (and the first)
VALIDATION_SHARE = 0.06  # of the time; together with the probe and the pictures it stays below a fifth


class LiveDistillation(Instrument):
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
    temperature = Number(None, 0.001, 1000, "a temperature", allow_none=True).tag(sync=True)
    alpha = Number(None, 0, 1, "alpha", allow_none=True).tag(sync=True)
    learning_rate = Number(1e-3, 1e-9, 10, "a learning rate").tag(sync=True)
    weights = traitlets.List(None, allow_none=True).tag(sync=True)
    plan = traitlets.Dict().tag(sync=True, told=True)  # what does not change during the run
    curves = traitlets.Dict().tag(
        sync=True, told=True
    )  # all points; sent whole when training pauses, and on demand
    now = traitlets.Dict().tag(
        sync=True, told=True
    )  # the present numbers and the points since the picture before

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
        loop = running_loop()
        if loop is None:
            raise KDTutorError(
                "start() needs an event loop, which notebooks have and a plain script has not: "
                "take live.run() there, or start() inside a coroutine"
            )
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
            self._score_if_due()
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

    # ------------------------------------------------------------------------------------------ what is shown

    def _begin_anew(self) -> None:
        """Show the curves and the picture of a run that has not moved."""
        step = self.distillation.done
        self._sums, self._in_sum = [0.0] * len(self._columns), [0] * len(self._columns)
        self._fresh = {"losses": [], "scores": [], "snapshots": []}
        for rows in self.curves.values():
            rows.clear()
        self._add("scores", [step, *self._first_scores])
        self._scored = step
        self._asked.clear()
        self._validating = self._working = 0.0
        self.error, self.problem = None, ""
        self._marks.clear()
        self._show()
        self._settle("ready")

    def _record(self) -> None:
        """Add the step's losses: every `_width` steps their mean becomes a point, and what is left at the end."""
        step, rows = self.distillation.done, {who: run.history[-1] for who, run in self._runs.items()}
        for i, (who, term) in enumerate(self._columns):
            run, row = self._runs[who], rows[who]
            if row["settings"][run.term_names.index(term)]["weight"]:  # else it was not computed
                self._sums[i] += row[term]
                self._in_sum[i] += 1
        if step % self._width == 0 or step == self.distillation.total_steps:
            sums = zip(self._sums, self._in_sum, strict=True)
            self._add("losses", [step, *(short(total / count) if count else None for total, count in sums)])
            self._sums, self._in_sum = [0.0] * len(self._columns), [0] * len(self._columns)

    def _score_if_due(self) -> None:
        step, total = self.distillation.done, self.distillation.total_steps
        spacing = self._every or math.ceil(total / POINTS)
        cost = self._score.seconds * len(self._runs)
        affordable = self._every or self._validating + cost <= VALIDATION_SHARE * (self._working + cost)
        if self._score.possible and (step == total or (step - self._scored >= spacing and affordable)):
            started = time.perf_counter()
            self._add("scores", [step, *self._scores()])
            self._scored = step
            self._validating += time.perf_counter() - started
            self._working += time.perf_counter() - started

    def _scores(self) -> list[float | None]:
        scores = [self._score(run.student) for run in self._runs.values()]
        return [None if score is None or not math.isfinite(score) else short(score) for score in scores]

    def _add(self, what: str, row: object) -> None:
        self.curves[what].append(row)
        self._fresh[what].append(row)

    def _show(self, ask: bool = True) -> None:
        """Send a picture: the present numbers and the points that are new.

        ask: put the probe to the models again, which may fail where a step has.
        """
        self._shown = time.perf_counter()
        self._read_settings()
        run = self.distillation
        snapshot = self.now.get("snapshot")
        if ask:
            models = {who: run.student for who, run in self._runs.items()}
            snapshot = {"step": self.distillation.done} | self._probe.snapshot(models)
        kept = self.curves["snapshots"]
        spacing = math.ceil(run.total_steps / SNAPSHOTS)
        last = kept[-1]["step"] if kept else -math.inf
        if ask and (run.done - last >= spacing or (run.done == run.total_steps and run.done > last)):
            self._add("snapshots", snapshot)
        row = run.history[-1] if run.history else None
        speed = self._speed()
        self.now = {
            "count": self.now.get("count", 0) + 1,
            "step": run.done,
            "epoch": round(run.done / run.batches.per_epoch, 2),
            "rate": short(row["learning_rate"]) if row else None,
            "loss": short(row["loss"]) if row else None,
            "speed": short(speed) if speed else None,
            "left": round((run.total_steps - run.done) / speed, 1) if speed else None,
            "formula": repr(run.objective),
            "snapshot": snapshot,
            "fresh": self._fresh,
            "lengths": {name: len(rows) for name, rows in self.curves.items()},
        }
        self._fresh = {name: [] for name in self._fresh}

    def _settle(self, status: str) -> None:
        """Say that nothing moves now, and send all points."""
        self.status = status
        self.summary = self._sentence()
        self._send_whole()

    def _send_whole(self) -> None:
        """`curves` grows in place, unnoticed by ipywidgets: it is sent when somebody needs all of it."""
        if self.comm is not None:
            self.send_state("curves")

    def _speed(self) -> float | None:
        """Compute the steps per second over the last three seconds of training; None before there are any."""
        now, done = time.perf_counter(), self.distillation.done
        if self.status == "training" or (self._marks and self._marks[-1][1] < done):
            self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[0][0] < self._marks[-1][0] - 3:
            self._marks.popleft()
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        (first, begun), (last, reached) = self._marks[0], self._marks[-1]
        return (reached - begun) / (last - first) or None

    def _make_plan(self, why_no_twin: str) -> dict:
        """Collect what the front end has to know once."""
        run, score = self.distillation, self._score
        twin = "" if self.twin is None else twin_name(self.twin)
        notes = [score.note, why_no_twin, self._probe.note, same_temperature(run)[1]]
        return {
            "name": self.name,
            "total": run.total_steps,
            "task": run.task.name,
            "terms": [term.label for term in run.objective.terms],
            "losses": [{"who": who, "name": self._legend(who, name)} for who, name in self._columns],
            "score": score.name,
            "scored": score.possible,
            "width": self._width,
            "start": self._settings(),
            "fraction": score.is_fraction,
            "twin": twin,
            "probe": self._probe.about(list(self._runs)),
            "notes": [note for note in notes if note],
        }

    def _legend(self, who: str, name: str) -> str:
        """Say whose curve of which term it is: "student, soft targets (T²·KL)"; a term's second one has a number."""
        run = self._runs[who]
        term = run.objective.terms[run.term_names.index(name)]
        return f"{who}, {term.label} {name.removeprefix(type(term).__name__)}".rstrip()

    def _sentence(self) -> str:
        """Say what is seen now, in one sentence."""
        run, (_, student, *twin) = self.distillation, self.curves["scores"][-1]
        parts = []
        if self._score.possible:
            beside = f" (twin {self._format(twin[0])})" if twin else ""
            parts.append(f"{self._score.name} {self._format(student)}{beside}")
        if self.now["snapshot"]["distance"]:
            student, *twin = self.now["snapshot"]["distance"]
            beside = f" (twin {twin[0]:.3f})" if twin else ""
            parts.append(f"on the probe text KL(teacher ‖ student) is {student:.3f} nats{beside}")
        state = "not started" if self.status == "ready" else self.status
        said = f": {'; '.join(parts)}" if parts else ""
        return f"Live distillation, {state}, step {run.done:,} of {run.total_steps:,}{said}."

    def _format(self, score: float | None) -> str:
        if score is None:
            return "undefined"
        return f"{100 * score:.1f}{plots.NBSP}%" if self._score.is_fraction else f"{score:.3f}"

    def __repr__(self) -> str:
        return self._sentence()

    def picture(self) -> plots.Picture:
        """Draw score, losses and the probe's distributions at this moment."""
        return live_distillation(
            self.plan, self.curves, self.now["snapshot"], list(self._runs), self._sentence()
        )

    # ------------------------------------------------------------------------------------------ settings

    def _settings(self) -> dict[str, object]:
        """Read the traits' values from the objective."""
        objective = self.distillation.objective
        is_blend = isinstance(objective, Blend)
        return {
            "temperature": same_temperature(self.distillation)[0],
            "alpha": objective.alpha if is_blend else None,
            "weights": None if is_blend else [term.weight for term in objective.terms],
            "learning_rate": self.distillation.learning_rate,
        }

    @traitlets.validate("temperature", "alpha", "weights")
    def _applies(self, proposal: dict) -> object:
        """Refuse a setting that the objective does not have, and None for one that it has."""
        name, value = proposal["trait"].name, proposal["value"]
        objective, has = self.distillation.objective, self._settings()[name]
        if (value is None) != (has is None):
            owns = ", ".join(f"live.{key}" for key, mine in self._settings().items() if mine is not None)
            raise SettingError(f"{name} = {value!r}: the objective {objective!r} has its settings in {owns}")
        if name == "weights" and value is not None:
            fits = all(isinstance(w, Real) and not isinstance(w, bool) and 0 <= w < math.inf for w in value)
            if not fits or len(value) != len(objective.terms):
                wanted = f"{len(objective.terms)} finite numbers, 0 or more, one per term"
                raise SettingError(f"weights = {value!r}: there must be {wanted}")
            if not any(value):
                raise SettingError(f"weights = {value!r}: with every weight 0 there is nothing to learn")
        return value

    def _setting_changed(self, change: dict) -> None:
        """Keep it for the next step. A step in hand, when another thread brings the message, ends as it began."""
        if change["new"] is None and self._settings()[change["name"]] is not None:
            self.set_trait(change["name"], change["old"])
            raise SettingError(f"{change['name']} = None: this objective has one, so it must be a number")
        self._asked[change["name"]] = change["new"]
        self._home.do(self._apply)

    def _apply(self) -> None:
        objective = self.distillation.objective
        while self._asked:
            name, value = self._asked.popitem()
            if value is None:
                continue
            if name == "learning_rate":
                self.distillation.learning_rate = value
            elif name == "alpha":
                objective.alpha = value
            elif name == "weights":
                for term, weight in zip(objective.terms, value, strict=True):
                    term.weight = weight
            else:
                for term in objective.terms:
                    if hasattr(term, "temperature"):
                        term.temperature = value

    def _read_settings(self) -> None:
        """Follow what a cell has changed directly, as in `goal.temperature = 4`."""
        self._apply()
        for name, value in self._settings().items():
            if getattr(self, name) != value:
                self.set_trait(name, value)

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
