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
import copy
import itertools
import math
import signal
import textwrap
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Real

import torch
import traitlets
from torch import Tensor

from kdtutor import checkpoints, evaluation, plots
from kdtutor.checks import number
from kdtutor.data import IGNORED, Task, _random_indices, _select
from kdtutor.distillation import Distillation
from kdtutor.errors import KDTutorError
from kdtutor.models import forward, logits_of
from kdtutor.objectives import Blend, HardLabels, MaskedLM, kl_divergence
from kdtutor.widgets.base import Instrument, Number, OneOf, SettingError

PICTURES = 10  # a second, at most
POINTS = 240  # of a curve, at most; a point is the mean over some steps
SNAPSHOTS = 100  # of the probe's distributions, at most (and the first)
ROWS = 8  # classes of the probe that are shown
VALIDATION_SHARE = 0.06  # of the time; together with the probe and the pictures it stays below a fifth
TURNS = 12  # of the event loop between two steps: a message takes several until its handler runs
TERM_NAMES = {
    "HardLabels": "hard labels", "SoftTargets": "soft targets (T²·KL)", "SoftCrossEntropy": "soft cross-entropy (× T²)",
    "LogitsMSE": "logit MSE", "MaskedLM": "masked LM", "UniformTargets": "uniform targets",
    "CosineHidden": "cosine of hidden states", "HiddenStates": "hidden states",
}  # fmt: skip


class LiveDistillation(Instrument):
    """Start, pause, step and reset a `Distillation`, change its settings on the way, and watch what that does.

    distillation: a run, as a rule before its first step; from then on this instrument steps it. twin: True makes the
    control that learns from hard labels alone, at equal steps; False does without; or another Distillation of as many
    steps, to compare with. probe: the text whose distributions are shown (a masked-LM task: with [MASK] in it), or the
    number of a validation example. validation: how many validation texts, always the same random ones, the score is
    taken on. every: steps between two scores; None spaces them so that they take less than a tenth of the time.
    name: what others are told who want to start while this one trains.

    Settings, which act on the next step: temperature (of all terms that have one), learning_rate (the peak of the
    schedule), alpha where the objective is a blend, else weights, one a term. None where it does not apply.
    Read only: status, curves (all that is drawn), now (what the last picture added), error (what stopped it).

    Raises KDTutorError if the run can't be shown, and whenever something asked for is not possible.
    """

    _script, _style = "live.js", "live.css"
    _newest: weakref.ref | None = None  # the one that trains
    _count = itertools.count(1)

    status = OneOf("ready", ("ready", "training", "paused", "finished")).tag(sync=True)
    temperature = Number(None, 0.001, 1000, "a temperature", allow_none=True).tag(sync=True)
    alpha = Number(None, 0, 1, "alpha", allow_none=True).tag(sync=True)
    learning_rate = Number(1e-3, 1e-9, 10, "a learning rate").tag(sync=True)
    weights = traitlets.List(None, allow_none=True).tag(sync=True)
    plan = traitlets.Dict().tag(sync=True)  # what does not change during the run
    curves = traitlets.Dict().tag(sync=True)  # all points; sent whole when training pauses, and on demand
    now = traitlets.Dict().tag(sync=True)  # the present numbers and the points since the picture before

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
        _check_run(distillation, twin)
        self.distillation, self.error = distillation, None
        self.name = name or f"live run {next(self._count)}"
        self._task: asyncio.Task | None = None
        self._thread, self._loop = threading.current_thread(), _running_loop()
        self._asked: dict[str, object] = {}  # settings that the next step will have
        self._iterators: dict[Distillation, Iterator] = {}
        self._pause_wanted = False
        self._validating = self._working = self._shown = 0.0  # seconds; and when the last picture was sent
        self._marks: deque[tuple[float, int]] = deque()  # (time, step) of the last seconds: the speed

        self.twin, why_not = (twin, "") if isinstance(twin, Distillation) else _twin(distillation, twin)
        self._runs = {"student": distillation} | ({"twin": self.twin} if self.twin else {})
        self._starts = [_Start(run) for run in self._runs.values()]
        for run in self._runs.values():
            run.progress = False  # this instrument is the progress bar
        self._score = _Score(distillation, number("validation", validation))
        self._probe = _Probe(distillation, probe)
        self._every = None if every is None else number("every", every)
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
        loop = _running_loop()
        if loop is None:
            raise KDTutorError(
                "start() needs an event loop, which notebooks have and a plain script has not: "
                "take live.run() there, or start() inside a coroutine"
            )
        self._take_over()
        self._thread, self._loop = threading.current_thread(), loop
        self._task = loop.create_task(self._train(), name=self.name)

    def pause(self) -> None:
        """Stop after the step in hand; start(), step() and run() go on from there."""
        self._pause_wanted = True
        if self.status == "training":
            self._rest("paused")

    stop = pause

    def step(self) -> None:
        """One step, here and now. Raises what it raises; the run is then paused and can go on."""
        self.run(1)

    def run(self, steps: int | None = None) -> None:
        """Take `steps` steps (default: all that are left), and only then return: the way of a plain script."""
        if self.status == "training":
            raise KDTutorError(f"{self.name} is training already: live.pause() first")
        wanted = number("steps", self.distillation.total_steps if steps is None else steps)
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
        """Back to the initial weights (student, twin, projections), settings and step, as if nothing had been done.

        The teacher's answers are kept. Training pauses. KDTutorError if the run has written checkpoints.
        """
        for run in self._runs.values():
            if run.folder and checkpoints.found(run.folder):
                raise KDTutorError(
                    f"{run.folder} keeps this run's checkpoints, and a run from the start would not be theirs: "
                    "make a new Distillation with another folder"
                )
        self.pause()
        for start in self._starts:
            start.restore()
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
        """The live run that is training now, if any: for when its name and its buttons are gone."""
        newest = LiveDistillation._newest and LiveDistillation._newest()
        return newest if newest is not None and newest.status == "training" else None

    def close(self) -> None:
        """Remove the widget; the run pauses, and stays as it is in Python."""
        self.pause()
        super().close()

    # ------------------------------------------------------------------------------------------ training

    def _advance(self) -> None:
        """One optimiser step of the student and, at the same learning rate, one of its twin.

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
        run._look_for_nan()

    async def _train(self) -> None:
        """The background task. It waits between two steps only, so whoever cancels it finds whole steps."""
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
        """A step, what it adds to the curves, and a picture if it is time for one."""
        self._apply()
        with self._holding_interrupts() as pressed:
            started = time.perf_counter()
            self._advance()
            self._record()
            self._working += time.perf_counter() - started
            self._score_if_due()
            if self.distillation.done == self.distillation.total_steps:
                self._rest("finished")
            elif pressed or self._pause_wanted:
                self._rest("paused")
            elif time.perf_counter() - self._shown >= 1 / PICTURES:
                self._show()
        if pressed and self.status == "training":
            self._rest("paused")
        for handler, arguments in pressed[:1]:
            if callable(handler):
                handler(*arguments)  # raises KeyboardInterrupt in a script, cancels a notebook's waiting cell

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
        """Training is over, for now or for good: let go of the runs' folders, and send everything whole."""
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
        """One sentence for the reader, the error itself for Python. The run is paused and can go on."""
        self.error, self.problem = error, _one_sentence(error)
        if self.status == "training":
            self._rest("paused", ask=False)

    @contextmanager
    def _holding_interrupts(self) -> Iterator[list]:
        """Keep Ctrl-C, or a notebook's stop button, until this block is done: (handler, its arguments) in the list.

        Between two cells ipykernel ignores the signal, so somebody has to listen while a step runs in the background.
        """
        pressed: list[tuple] = []
        if threading.current_thread() is not threading.main_thread():
            yield pressed  # signals come to the main thread alone
            return
        before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *arguments: pressed.append((before, arguments)))
        try:
            yield pressed
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)

    # ------------------------------------------------------------------------------------------ what is shown

    def _begin_anew(self) -> None:
        """The curves and the picture of a run that has not moved."""
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
            self._add("losses", [step, *(_short(total / count) if count else None for total, count in sums)])
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
        return [None if score is None or not math.isfinite(score) else _short(score) for score in scores]

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
            "rate": _short(row["learning_rate"]) if row else None,
            "loss": _short(row["loss"]) if row else None,
            "speed": _short(speed) if speed else None,
            "left": round((run.total_steps - run.done) / speed, 1) if speed else None,
            "formula": repr(run.objective),
            "snapshot": snapshot,
            "fresh": self._fresh,
            "lengths": {name: len(rows) for name, rows in self.curves.items()},
        }
        self._fresh = {name: [] for name in self._fresh}

    def _settle(self, status: str) -> None:
        """Nothing moves now: say so, and send all points."""
        self.status = status
        self.summary = self._sentence()
        self._send_whole()

    def _send_whole(self) -> None:
        """`curves` grows in place, unnoticed by ipywidgets: it is sent when somebody needs all of it."""
        if self.comm is not None:
            self.send_state("curves")

    def _speed(self) -> float | None:
        """Steps a second over the last three seconds of training; None before there are any."""
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
        """What the front end has to know once."""
        run, score = self.distillation, self._score
        twin = "" if self.twin is None else _twin_name(self.twin)
        notes = [score.note, why_no_twin, self._probe.note, _same_temperature(run)[1]]
        return {
            "name": self.name,
            "total": run.total_steps,
            "task": run.task.name,
            "terms": [
                TERM_NAMES.get(type(term).__name__, type(term).__name__) for term in run.objective.terms
            ],
            "losses": [{"who": who, "name": _term_label(who, term)} for who, term in self._columns],
            "score": score.name,
            "scored": score.possible,
            "width": self._width,
            "start": self._settings(),
            "fraction": score.is_fraction,
            "twin": twin,
            "probe": self._probe.about(list(self._runs)),
            "notes": [note for note in notes if note],
        }

    def _sentence(self) -> str:
        """What is seen now, in one sentence."""
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
        """Score, losses and the probe's distributions at this moment, as a matplotlib picture."""
        return _draw(self)

    # ------------------------------------------------------------------------------------------ settings

    def _settings(self) -> dict[str, object]:
        """The traits' values, as the objective has them."""
        objective = self.distillation.objective
        is_blend = isinstance(objective, Blend)
        return {
            "temperature": _same_temperature(self.distillation)[0],
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
                wanted = f"{len(objective.terms)} finite numbers, 0 or more, one a term"
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
        self._at_home(self._apply)

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
        """A button was pressed, or a view wants all points."""
        do = content.get("do") if isinstance(content, dict) else None
        actions = {name: getattr(self, name) for name in ("start", "pause", "step", "reset")}
        action = (actions | {"whole": self._send_whole}).get(do)
        if action is None:
            return
        self.send({"heard": do})  # so that a view knows that there is a kernel
        if do == "pause":
            self._pause_wanted = True  # seen after the step in hand, whichever thread brings the message
        self._at_home(partial(self._obey, action))

    def _obey(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.problem = _one_sentence(error)
            if not isinstance(error, KDTutorError):
                self.error = error

    def _at_home(self, action: Callable[[], None]) -> None:
        """Do it where the training runs: JupyterLab has messages handled in a thread of their own (a subshell)."""
        here = threading.current_thread() is self._thread
        if here or self._loop is None or self._loop.is_closed():
            action()
        else:
            self._loop.call_soon_threadsafe(action)


# ------------------------------------------------------------------------------------------------ the twin


def _twin(run: Distillation, wanted: bool) -> tuple[Distillation | None, str]:
    """The same run with hard labels alone; or None, and a sentence if one was wanted."""
    if not wanted:
        return None, ""
    hard = MaskedLM() if run.task.kind == "masked-lm" else HardLabels()
    if {type(term) for term in run.objective.terms} == {type(hard)}:
        return None, "The student itself learns from hard labels alone, so there is no twin beside it."
    labels = run.task.targets(run.split)
    if labels is not None and not (labels != IGNORED).any():
        return None, "No training text has a label, so there is no twin that learns from labels."
    same = ("batch_size", "learning_rate", "warmup", "weight_decay", "max_norm", "masking", "seed", "split")
    twin = Distillation(
        copy.deepcopy(run.student),
        None,
        run.task,
        hard,
        steps=run.total_steps,
        accumulate=run.batches.accumulate,
        precision="bf16" if run.bf16 else "fp32",
        progress=False,
        **{name: getattr(run, name) for name in same},
    )
    return twin, ""


def _twin_name(twin: Distillation) -> str:
    only = [type(term) for term in twin.objective.terms]
    return "hard labels alone" if only in ([HardLabels], [MaskedLM]) else repr(twin.objective)


def _check_run(run: Distillation, twin: bool | Distillation) -> None:
    if not isinstance(run, Distillation):
        raise KDTutorError(
            f"LiveDistillation shows a Distillation, not a {type(run).__name__}: "
            "LiveDistillation(kd.Distillation(student, teacher, task, objective))"
        )
    if not isinstance(twin, (bool, Distillation)):
        raise KDTutorError(f"twin must be True, False or a Distillation, not a {type(twin).__name__}")
    if run.accelerator.num_processes > 1:
        raise KDTutorError("a live run has one process: under accelerate launch, take distillation.run()")
    if run.done >= run.total_steps:
        raise KDTutorError(
            f"all {run.total_steps} steps of this run are done: make a new Distillation to watch"
        )
    if twin is True and run.done:
        raise KDTutorError(
            f"this run has taken {run.done} of {run.total_steps} steps, and a twin has to begin with it: "
            "make a new Distillation, or say twin=False"
        )
    if isinstance(twin, Distillation):
        mine, theirs = {id(p) for p in run.student.parameters()}, {id(p) for p in twin.student.parameters()}
        if mine & theirs:
            raise KDTutorError("the twin trains the very student of the distillation: give it a copy")
        for what in ("total_steps", "done", "learning_rate"):
            if getattr(run, what) != getattr(twin, what):
                values = f"{getattr(run, what):g}, the twin's {getattr(twin, what):g}"
                raise KDTutorError(f"twins go at equal steps, but the distillation's {what} is {values}")


class _Start:
    """What a run was when its instrument was made; `restore` brings that back, bit by bit."""

    def __init__(self, run: Distillation):
        self.run, self.done, self.rows = run, run.done, len(run.history)
        self.modules = run.student, run.objective
        self.weights = [_copy(module.state_dict()) for module in self.modules]
        state = run.optimizer.state
        self.moments = [_copy(state[p]) if p in state else None for p in run.parameters]
        self.settings, self.learning_rate = run.objective.settings(), run.learning_rate

    def restore(self) -> None:
        run = self.run
        for module, weights in zip(self.modules, self.weights, strict=True):
            module.load_state_dict(weights)
        run.optimizer.zero_grad(set_to_none=True)
        run.optimizer.state.clear()
        for parameter, moments in zip(run.parameters, self.moments, strict=True):
            if moments is not None:
                run.optimizer.state[parameter] = _copy(moments)
        run.objective.restore(self.settings)
        run.done, run.learning_rate = self.done, self.learning_rate
        del run._rows[self.rows :]
        run._pending.clear()
        run._failed.fill_(False)


def _copy(state: dict) -> dict:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


# ------------------------------------------------------------------------------------------------ score and probe


class _Score:
    """How good a model is on some validation texts, always the same: accuracy, or a regression's rank correlation.

    seconds: what one model's score took the last time.
    """

    def __init__(self, run: Distillation, size: int):
        task, self.masking, self.seconds, self.possible = run.task, run.masking, 0.0, False
        self.is_fraction, self.name = task.kind != "regression", "validation accuracy"
        if task.kind == "regression":
            self.name = "validation rank correlation (Spearman)"
        elif task.kind == "masked-lm":
            self.name = "validation accuracy at masked tokens"
        split = task.splits.get("validation")
        rows = torch.arange(0 if split is None else len(split))
        if split is not None and split.targets is not None and task.kind == "classification":
            rows = rows[split.targets != IGNORED]
        if len(rows) < 2:
            self.note = (
                f"{task.name} has no labelled validation texts, so no {self.name.partition(' ')[2]} is shown."
            )
            return
        chosen = rows[_random_indices(len(rows), min(size, len(rows)), seed=0)]
        self.task = replace(task, splits={"validation": _select(split, chosen)})
        self.possible = True
        some = "all" if len(chosen) == len(split) else "the same random"
        self.note = f"The score is taken on {some} {len(chosen):,} of {len(split):,} validation texts."

    def __call__(self, model) -> float | None:
        if not self.possible:
            return None
        started = time.perf_counter()
        if self.task.kind == "masked-lm":
            score = evaluation.masked_lm_scores(model, self.task, "validation", masking=self.masking)[
                "accuracy"
            ]
        else:
            logits, targets = (
                evaluation.predict(model, self.task, "validation"),
                self.task.targets("validation"),
            )
            if self.task.kind == "regression":
                score = evaluation.spearman(logits[:, 0], targets)
            else:
                score = evaluation.accuracy(logits, targets)
        self.seconds = time.perf_counter() - started
        return score


class _Probe:
    """One text, and what teacher, student and twin make of it: classes, a masked token, or a regression's value."""

    def __init__(self, run: Distillation, probe: str | int):
        task = self.task = run.task
        self.kind = {"classification": "classes", "regression": "value", "masked-lm": "token"}[task.kind]
        self.text, self.truth = _probe_text(task, probe)
        if self.kind == "token" and task.tokenizer.mask_token not in self.text:
            words = self.text.split()
            self.truth = words[len(words) // 2]
            words[len(words) // 2] = task.tokenizer.mask_token
            self.text = " ".join(words)
        self.encoded = task.encode_texts(self.text)
        read = int(self.encoded.lengths[0])
        self.note = (
            f"Of the probe text only the first {read} tokens are read." if read >= task.max_length else ""
        )
        self.at = None
        if self.kind == "token":
            at = (self.encoded.ids == task.tokenizer.mask_token_id).nonzero()[:1, 0]
            if not len(at):
                raise KDTutorError(
                    f"the first {read} tokens of the probe, all that is read, have no {task.tokenizer.mask_token}"
                )
            self.at = at
        self.teacher = None
        if run.teacher is not None:
            try:
                self.teacher = self._logits(run.teacher)  # asked once
            except KDTutorError as error:
                raise KDTutorError(f"the teacher's answer to the probe text: {error}") from error

    def about(self, runs: list[str]) -> dict:
        """For the front end: the text, what is known of it, and who answers, in the order of a snapshot's values."""
        return {
            "text": textwrap.shorten(self.text, 300, placeholder=" …"),
            "truth": self.truth,
            "kind": self.kind,
            "who": ([] if self.teacher is None else ["teacher"]) + runs,
        }

    def snapshot(self, models: dict) -> dict:
        """What all say now: names of the rows, values [who][row], and for each model its KL from the teacher."""
        logits = {} if self.teacher is None else {"teacher": self.teacher}
        logits |= {who: self._logits(model) for who, model in models.items()}
        if self.kind == "value":
            values = [[_short(float(z[0]))] for z in logits.values()]
            return {"names": ["value"], "values": values, "distance": [], "star": None}
        answers = [z.softmax(-1) for z in logits.values()]
        rows = self._rows(answers)
        values = [p[rows].tolist() for p in answers]
        names = [self._name(i) for i in rows]
        if (left := len(answers[0]) - len(rows)) > 0:
            names.append(f"all {left:,} others")
            values = [[*v, max(0.0, 1 - sum(v))] for v in values]
        distance = []
        if self.teacher is not None:
            apart = (kl_divergence(self.teacher[None], logits[who][None]) for who in models)
            distance = [_short(max(0.0, float(kl))) for kl in apart]
        values = [[round(x, 4) for x in v] for v in values]
        star = names.index(self.truth) if self.truth in names else None
        return {"names": names, "values": values, "distance": distance, "star": star}

    def _rows(self, answers: list[Tensor]) -> list[int]:
        """The classes to show. The teacher's likeliest keep their place; then come the others' favourites."""
        first = answers[0].argsort(descending=True, stable=True).tolist()
        chosen = dict.fromkeys(first[: ROWS - 2])
        if self.truth in self.task.labels:
            chosen[self.task.labels.index(self.truth)] = None
        for p in answers[1:]:
            chosen[int(p.argmax())] = None
        for c in first:
            if len(chosen) >= ROWS:
                break
            chosen[c] = None
        return list(chosen)

    def _name(self, c: int) -> str:
        return str(
            self.task.labels[c] if self.kind == "classes" else self.task.tokenizer.convert_ids_to_tokens(c)
        )

    @torch.no_grad()
    def _logits(self, model) -> Tensor:
        """(C,) in float64: one text, eval mode."""
        if self.at is None:
            return logits_of(model, self.encoded)[0].double()
        device, was_training = next(model.parameters()).device, model.training
        batch = {name: value.to(device) for name, value in self.encoded.batch(torch.tensor([0])).items()}
        logits = forward(model.eval(), batch, rows=self.at.to(device)).logits[0]
        model.train(was_training)
        return logits.double().cpu()


def _probe_text(task: Task, probe: str | int) -> tuple[str, str | None]:
    """The text, and its label or value if it is an example of the task's."""
    if isinstance(probe, bool) or not isinstance(probe, (str, int)):
        raise KDTutorError(f"probe must be a text, or the number of a validation example, not {probe!r}")
    if isinstance(probe, str):
        if not probe.strip():
            raise KDTutorError("the probe text is empty")
        for name, split in task.splits.items():
            if name != "train" and probe in split.texts[0]:
                return probe, _target(task, name, list(split.texts[0]).index(probe))
        return probe, None
    split = "validation" if "validation" in task.splits else next(iter(task.splits))
    texts = task.texts(split)
    if not 0 <= probe < len(texts):
        raise KDTutorError(f"probe = {probe}: the {split} split has the examples 0 to {len(texts) - 1}")
    return texts[probe], _target(task, split, probe)


def _target(task: Task, split: str, row: int) -> str | None:
    targets = task.targets(split)
    if targets is None or (task.kind == "classification" and targets[row] == IGNORED):
        return None
    return task.labels[targets[row]] if task.kind == "classification" else f"{targets[row]:.2f}"


# ------------------------------------------------------------------------------------------------ the plain picture


@plots._styled
def _draw(live: LiveDistillation) -> plots.Picture:
    """Three panels: score, losses, probe."""
    snapshot, who = live.now["snapshot"], live.plan["probe"]["who"]
    below = 0.9 + 0.19 * len(snapshot["names"]) * len(who)  # inches
    picture = plots.Picture(figsize=(9.6, 3.4 + below), layout="constrained")
    grid = picture.add_gridspec(2, 2, height_ratios=[3.4, below])
    looks = {"teacher": plots.TEACHER, "student": plots.STUDENT, "twin": plots.OTHERS[1]}
    left, right = picture.add_subplot(grid[0, 0]), picture.add_subplot(grid[0, 1])
    scores, losses, others = (
        live.curves["scores"],
        live.curves["losses"],
        (plots.OTHERS[0], *plots.OTHERS[2:]),
    )
    window = max(
        1, math.ceil(live.plan["total"] / live.plan["width"]) // 20
    )  # points that are smoothed, as in live.js
    for i, name in enumerate(live._runs, start=1):
        points = [(row[0], row[i]) for row in scores if row[i] is not None]
        if points:
            plots._curve(left, *zip(*points, strict=True), looks[name], name)
    for i, column in enumerate(live.plan["losses"], start=1):
        points = [(row[0], row[i]) for row in losses if row[i] is not None]
        same_who = [c["who"] for c in live.plan["losses"][: i - 1]].count(column["who"])
        look = looks[column["who"]] if not same_who else others[(same_who - 1) % len(others)]
        if points:
            x, y = plots.np.array(points).T
            y = [y[max(0, k + 1 - window) : k + 1].mean() for k in range(len(y))]
            plots._curve(right, x, y, look, column["name"])
    total, over = live.plan["total"], window * live.plan["width"]
    smoothed = "loss terms" + (f", each the mean over {over} steps" if over > 1 else "")
    for axes, title in ((left, live.plan["score"]), (right, smoothed)):
        axes.set(xlabel="step", xlim=(0, total))
        plots._title(axes, title)
        axes.grid()
        if axes.lines:
            axes.legend()
    if live.plan["fraction"]:
        left.set_ylim(bottom=0)
        left.yaxis.set_major_formatter(plots.PercentFormatter(1, decimals=0, symbol=" %"))
    axes = picture.add_subplot(grid[1, :])
    bars = {
        name: (plots.np.array(values), looks[name])
        for name, values in zip(who, snapshot["values"], strict=True)
    }
    if live.plan["probe"]["kind"] == "value":
        plots._grouped_bars(axes, bars, snapshot["names"], lambda v: f"{v:.2f}")
    else:
        names = [f"★ {n}" if i == snapshot["star"] else n for i, n in enumerate(snapshot["names"])]
        plots._grouped_bars(axes, bars, names, lambda v: plots._percent(v, 1))
        axes.set(xlim=(0, min(1.12, 1.15 * max(map(max, snapshot["values"])))), xlabel="probability")
        axes.xaxis.set_major_formatter(plots.PercentFormatter(1, decimals=0, symbol=" %"))
    truth = live.plan["probe"]["truth"]
    plots._title(axes, live.plan["probe"]["text"] + (f" (★ {truth})" if truth else ""))
    return plots._say(picture, live._sentence())


# ------------------------------------------------------------------------------------------------ small helpers


def _same_temperature(run: Distillation) -> tuple[float | None, str]:
    """The temperature that all terms with one share, or None; and what a reader has to know."""
    values = [term.temperature for term in run.objective.terms if hasattr(term, "temperature")]
    if not values:
        return None, f"No term of {run.objective!r} has a temperature."
    if len({*values}) > 1:
        listing = ", ".join(f"{value:g}" for value in values)
        return None, f"The terms have different temperatures ({listing}), so there is no one slider for them."
    return values[0], ""


def _term_label(who: str, term: str) -> str:
    return f"{who}, {TERM_NAMES.get(term, term)}"


def _short(x: float) -> float:
    """Five digits: a curve needs no more, and messages stay small."""
    return float(f"{x:.5g}")


def _one_sentence(error: Exception) -> str:
    if isinstance(error, KDTutorError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _current_task() -> asyncio.Task | None:
    return None if _running_loop() is None else asyncio.current_task()
