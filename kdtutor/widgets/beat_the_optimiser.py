"""Beat the optimiser: a hidden landscape of α and T, a few trials, and two rivals with the same budget.

    game = BeatTheOptimiser(kd.studies.load("grid"))
    game.placed = [[2, 2], [0, 1]]    # [row, column]: trials, as if clicked
    game.unveiled = True              # or the button

What a trial shows is what it would show in earnest: the validation accuracy of one student, seed 0. What the landscape
is, its mean over the seeds on test, is seen when it is unveiled. TPE and random search have met the same numbers: their
sequences were made by Optuna, on the stored grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import traitlets

from kdtutor import plots
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.studies.grid import landscape
from kdtutor.studies.stored import Stored
from kdtutor.widgets.base import Instrument, SettingError

YOU = "you"


class BeatTheOptimiser(Instrument):
    """Place `budget` trials on the hidden grid of a stored study, and compare with TPE and random search.

    stored: the study "grid". seed: of the rivals. placed: the trials so far, [row, column] of the grid, in order;
    unveiled: whether the landscape is shown. Raises SettingError for a place that is not on the grid, is taken, or is
    one too many.
    """

    _script, _style = "beat_the_optimiser.js", "beat_the_optimiser.css"

    placed = traitlets.List().tag(sync=True)
    unveiled = traitlets.Bool(False).tag(sync=True)
    plan = traitlets.Dict().tag(sync=True)  # what never changes: the grid, the budget, the rivals

    def __init__(self, stored: Stored, budget: int = 8, seed: int = 0) -> None:
        found = landscape(stored)[..., 0]
        means = landscape(stored, "test").mean(-1)
        self.budget = COUNT("budget", budget)
        if self.budget > found.size:
            raise KDTutorError(f"budget {budget}: the grid has only {found.size} points")
        levels = stored.record["plan"]
        plan = {
            "alphas": levels["alphas"],
            "temperatures": levels["temperatures"],
            "found": found.round(4).tolist(),
            "means": means.round(4).tolist(),
            "budget": self.budget,
            "rivals": rivals(found, self.budget, seed),
        }
        super().__init__(plan=plan)
        self._summarise()

    @traitlets.validate("placed")
    def _check_placed(self, proposal) -> list[list[int]]:
        rows, columns = np.shape(self.plan["found"])
        try:
            placed = [[int(r), int(c)] for r, c in proposal.value]
            fits = all(0 <= r < rows and 0 <= c < columns for r, c in placed)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise SettingError(
                f"placed = {proposal.value!r}: a trial is [row, column], of {rows} rows and {columns} columns"
            )
        if len({*map(tuple, placed)}) < len(placed) or len(placed) > self.budget:
            raise SettingError(
                f"placed has {len(placed)} trials: each point once, and at most {self.budget} of them"
            )
        return placed

    def scores(self, trials: Sequence[Sequence[int]]) -> list[float]:
        """List what these trials show: validation accuracy, one student each."""
        return [self.plan["found"][r][c] for r, c in trials]

    def outcome(self) -> dict[str, dict[str, float]]:
        """Tell of each player the best trial's validation score, and the mean test score of the point it chose."""
        players = self.plan["rivals"] | ({YOU: self.placed} if self.placed else {})
        made = {}
        for name, trials in players.items():
            r, c = max(trials, key=lambda at: self.plan["found"][at[0]][at[1]])
            made[name] = {"validation": self.plan["found"][r][c], "test": self.plan["means"][r][c]}
        return made

    @traitlets.observe("placed", "unveiled")
    def _summarise(self, change=None) -> None:
        if not self.plan:
            return
        said = [
            f"{name} found {plots.percent(it['validation'], 1)} on validation, worth {plots.percent(it['test'], 1)} "
            "on test over the seeds"
            for name, it in self.outcome().items()
        ]
        left = f"{len(self.placed)} of {self.budget} trials made"
        self.summary = (
            f"{'; '.join([left, *said])}." if self.unveiled else f"{left}; the landscape is hidden."
        )

    def picture(self) -> plots.Picture:
        """Draw the landscape if it is unveiled, or else how the rivals fared."""
        if self.unveiled:
            picture = plots.landscape(self.plan["means"], self.plan["alphas"], self.plan["temperatures"])
        else:
            players = self.plan["rivals"] | ({YOU: self.placed} if self.placed else {})
            picture = plots.best_so_far({name: self.scores(trials) for name, trials in players.items()})
        return plots.describe(picture, f"{self.summary} {picture.alt}")


def rivals(found: np.ndarray, budget: int, seed: int = 0) -> dict[str, list[list[int]]]:
    """Let Optuna's TPE and random search make `budget` trials each on a table of scores: (row, column) in order."""
    from kdtutor.studies.search import optuna

    module = optuna()
    samplers = {
        "TPE": module.samplers.TPESampler(seed=seed, n_startup_trials=max(1, budget // 3)),
        "random search": module.samplers.RandomSampler(seed=seed),
    }
    made = {}
    for name, sampler in samplers.items():
        study = module.create_study(direction="maximize", sampler=sampler)
        for _ in range(budget):
            trial = study.ask()
            place = [
                trial.suggest_int(axis, 0, size - 1) for axis, size in zip("rc", found.shape, strict=True)
            ]
            study.tell(trial, float(found[tuple(place)]))
        made[name] = [[trial.params["r"], trial.params["c"]] for trial in study.trials]
    return made
