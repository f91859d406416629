"""A search for hyper-parameters with Optuna: its study on disk, its trials shared, none of them lost or counted twice.

    search = Search(file, space, sampler="tpe", trials=20, pruner="median", about={…})
    for trial in search:             # until so many trials have an end; other processes may help
        search.end(trial, [0.71])    # or end(trial, None, "pruned")

Each process holds a lock while it lives, which the system takes back when it dies: a trial whose process is dead is
marked as failed and made again with the same values. Only trials that ended count. Optuna is imported here and nowhere
else in the package.
"""

from __future__ import annotations

import json
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from kdtutor.errors import KDTutorError
from kdtutor.studies.space import Space

FORMAT = 1  # of a study's file
NAME = "kdtutor"  # of the study in it
PAUSE = 0.5  # seconds between two looks at trials that others are making


def optuna() -> ModuleType:
    """Import Optuna, quietly. Raises KDTutorError if it is not installed."""
    try:
        import optuna as module
    except ImportError as error:
        raise KDTutorError("a search needs Optuna: pip install 'kdtutor[search]'") from error
    module.logging.set_verbosity(module.logging.ERROR)
    return module


class Search:
    """The trials of a study in an SQLite file.

    about: what all trials have in common; a file that was made with another value of any is refused, by name. costs: 1
    if a trial has a cost to be kept low beside the score, or 0. trials: how many shall have an end; of a grid, at most
    its points.
    """

    def __init__(
        self,
        file: Path,
        space: Space,
        about: Mapping[str, Any],
        *,
        trials: int = 20,
        sampler: str = "tpe",
        pruner: str = "none",
        costs: int = 0,
        seed: int = 0,
    ) -> None:
        self.file, self.space, self.sampler, self.pruner, self.seed = file, space, sampler, pruner, seed
        self.grid = space.grid() if sampler == "grid" else []
        self.trials = min(trials, len(self.grid)) if self.grid else trials
        self.about = {"format": FORMAT} | json.loads(json.dumps(dict(about)))
        self.module, self.looks = optuna(), 1
        self.claims = file.with_name(f".{file.name}.claims")
        self.claims.mkdir(parents=True, exist_ok=True)
        self.me = uuid.uuid4().hex
        self._alive = FileLock(self.claims / self.me)
        with self._alone():
            self.study = self._open(["maximize"] + ["minimize"] * costs)
            self._alive.acquire()

    def _open(self, directions: list[str]):
        """Open the study, or begin it. Raises KDTutorError if the file is none of this search's."""
        optuna = self.module
        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{self.file.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
            study = optuna.create_study(
                storage=storage, study_name=NAME, directions=directions, load_if_exists=True
            )
        except Exception as error:  # of SQLite, SQLAlchemy or Optuna: their classes are not ours to know
            why = " ".join(str(error).split())[:150]
            raise KDTutorError(
                f"{self.file} is no study that Optuna {optuna.__version__} can read ({why}); name another with --study"
            ) from error
        found = study.user_attrs.get("about")
        if found is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("about", self.about)
            return study
        for name, mine in self.about.items():
            theirs = (found or {}).get(name)
            if theirs != mine:
                raise KDTutorError(
                    f"{self.file} is a study with another {name} ({_cut(theirs)}, now {_cut(mine)}): its trials can't "
                    "be compared with new ones; name another file with --study"
                )
        return study

    # ------------------------------------------------------------------------------------------ trials

    def __iter__(self) -> Iterator:
        """Yield one trial after the other until enough have an end; wait for those that others are making."""
        while True:
            with self._alone():
                self._take_back()
                states = [trial.state.name for trial in self._trials()]
                if self._is_enough(states, "COMPLETE", "PRUNED"):
                    return
                trial = (
                    None
                    if self._is_enough(states, "COMPLETE", "PRUNED", "RUNNING")
                    else self._ask(len(states))
                )
            if trial is None:
                time.sleep(PAUSE)
            else:
                yield trial

    def end(self, trial, values: Sequence[float] | None, why: str = "") -> None:
        """Write down what a trial was worth: a score, and its cost if there are costs; None: it was pruned, and why."""
        if why:
            trial.set_user_attr("why", why)
        state = self.module.trial.TrialState
        if values is None:
            self.study.tell(trial, state=state.PRUNED)
        else:
            self.study.tell(trial, list(values), state=state.COMPLETE)

    def is_pruned(self, trial, look: int, value: float) -> bool:
        """Report the value of a trial's look, counted from 1, and say whether the trial is given up."""
        if self.pruner == "none":
            return False
        trial.report(value, look)
        self.study.pruner = self._pruner()
        return trial.should_prune()

    def failed(self, trial, error: Exception) -> None:
        """Mark a trial as failed for good: it ended in an error, which is not made again."""
        trial.set_user_attr("why", str(error))
        self.study.tell(trial, state=self.module.trial.TrialState.FAIL)

    def close(self) -> None:
        self._alive.release()
        (self.claims / self.me).unlink(missing_ok=True)

    def _is_enough(self, states: list[str], *which: str) -> bool:
        return sum(state in which for state in states) >= self.trials

    def _trials(self) -> list:
        return self.study.get_trials(deepcopy=False)

    def _ask(self, number: int):
        """Begin a trial, as this process's; at a point that a dead one left behind, if there is any."""
        waiting = any(trial.state.name == "WAITING" for trial in self._trials())
        if self.grid and not waiting:
            taken = [t.params for t in self._trials() if t.state.name != "FAIL"]
            self.study.enqueue_trial(next(point for point in self.grid if point not in taken))
        # A sampler begun anew with the same seed would propose the same values again.
        self.study.sampler = self._sampler(self.seed + number)
        with warnings.catch_warnings(action="ignore"):
            trial = self.study.ask(self._distributions())
        trial.set_user_attr("process", self.me)
        return trial

    def _take_back(self) -> None:
        """Mark the trials of dead processes as failed, and queue each of them once more, once."""
        trials = self._trials()
        again = {trial.user_attrs.get("again") for trial in trials}
        for trial in trials:
            if trial.state.name != "RUNNING" or self._is_alive(trial.user_attrs.get("process")):
                continue
            whole = {*trial.params} == {*self.space.dimensions}
            point = trial.params if whole else trial.system_attrs.get("fixed_params")
            # In this order: killed in between, the next process finds it queued, and does not queue it twice.
            if point and trial.number not in again:
                self.study.enqueue_trial(point, user_attrs={"again": trial.number})
            self.study.tell(trial.number, state=self.module.trial.TrialState.FAIL)

    def _is_alive(self, process: str | None) -> bool:
        """Say whether a process still holds its lock. Asked while alone: nobody is just beginning a trial."""
        if process == self.me:
            return True
        place = self.claims / str(process)
        if process is None or not place.exists():
            return False
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        with suppress(OSError):
            place.unlink()
        return False

    def _alone(self) -> FileLock:
        """Hold the study: no other process begins a trial meanwhile."""
        return FileLock(self.claims / "study")

    def _distributions(self) -> dict:
        """Return the space as Optuna has it."""
        kinds, made = self.module.distributions, {}
        for name, d in self.space.dimensions.items():
            if isinstance(d, list):
                made[name] = kinds.CategoricalDistribution(d)
            elif d.whole:
                made[name] = kinds.IntDistribution(int(d.low), int(d.high), d.log, int(d.step or 1))
            else:
                made[name] = kinds.FloatDistribution(d.low, d.high, d.log, d.step)
        return made

    def _sampler(self, seed: int):
        samplers = self.module.samplers
        if self.sampler != "tpe":
            return samplers.RandomSampler(seed)
        # Others' unfinished trials count as bad ones, so that two processes do not propose the same.
        return samplers.TPESampler(
            n_startup_trials=max(1, min(10, self.trials // 3)), seed=seed, constant_liar=True
        )

    def _pruner(self):
        pruners = self.module.pruners
        if self.pruner == "hyperband":
            return pruners.HyperbandPruner(1, max(1, self.looks), 3)
        return pruners.MedianPruner(n_startup_trials=max(2, min(5, self.trials // 4)))

    # ------------------------------------------------------------------------------------------ what came of it

    def counts(self) -> dict[str, int]:
        """Count the trials that were trained to the end, that were given up early, and that died or failed."""
        states = [trial.state.name for trial in self._trials()]
        names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        return {told: states.count(name) for told, name in names.items()}

    def best(self) -> list:
        """List the best trial, or with costs the Pareto front, the highest score first."""
        front = [trial for trial in self._trials() if trial.state.name == "COMPLETE"]
        if not front:
            raise KDTutorError("no trial was trained to its end: every one was pruned or failed")
        if len(self.study.directions) > 1:
            front = self.study.best_trials
        front = sorted(front, key=lambda trial: (-trial.values[0], trial.number))
        return front if len(self.study.directions) > 1 else front[:1]


def _cut(what: object) -> str:
    text = json.dumps(what, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"
