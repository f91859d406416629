"""Beat the optimiser in Python: what a trial shows, what is hidden, and rivals that meet the same numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from kdtutor.errors import KDTutorError
from kdtutor.studies.grid import cell
from kdtutor.studies.stored import Stored
from kdtutor.widgets import BeatTheOptimiser
from kdtutor.widgets.base import SettingError
from kdtutor.widgets.beat_the_optimiser import rivals

ALPHAS, TEMPERATURES = [0.0, 0.5, 0.9], [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def stored() -> Stored:
    """Validation falls with the distance from α = 0.5, T = 4; test is half of it, and seeds differ by 0.1."""
    runs = []
    for (r, a), (c, t) in product(enumerate(ALPHAS), enumerate(TEMPERATURES)):
        score = 0.8 - 0.05 * abs(r - 1) - 0.02 * abs(c - 2)
        for seed in (0, 1):
            scores = {
                "validation": {"accuracy": score + 0.1 * seed},
                "test": {"accuracy": score / 2 + 0.1 * seed},
            }
            runs.append({"configuration": cell(a, t), "seed": seed, **scores})
    names = {row["configuration"]: {} for row in runs}
    plan = {"alphas": ALPHAS, "temperatures": TEMPERATURES}
    return Stored({"study": "grid", "configurations": names, "plan": plan, "runs": runs})


def test_a_trial_shows_one_student_and_the_landscape_is_the_mean_on_test(stored):
    game = BeatTheOptimiser(stored, budget=3)
    assert game.plan["found"][1][2] == pytest.approx(0.8) and game.plan["found"][0][0] == pytest.approx(0.71)
    assert game.plan["means"][1][2] == pytest.approx(0.45)
    game.placed = [[0, 0], [1, 2]]
    assert game.scores(game.placed) == pytest.approx([0.71, 0.8])
    assert game.outcome()["you"] == pytest.approx({"validation": 0.8, "test": 0.45})


def test_the_landscape_is_told_only_when_it_is_unveiled(stored):
    game = BeatTheOptimiser(stored, budget=3)
    game.placed = [[1, 2]]
    assert game.summary == "1 of 3 trials made; the landscape is hidden."
    assert "45.0" not in game.picture().alt
    game.unveiled = True
    assert (
        "you found 80.0" in game.summary
        and "Scores by α (rows) and T (columns): highest 45.0" in game.picture().alt
    )


@pytest.mark.parametrize(
    "placed, sentence",
    [
        ([[3, 0]], "of 3 rows and 4 columns"),
        ([[0, -1]], "of 3 rows and 4 columns"),
        (["x"], "of 3 rows and 4 columns"),
        ([[0, 0], [0, 0]], "each point once"),
        ([[0, 0], [0, 1], [0, 2], [0, 3]], "at most 3"),
    ],
)
def test_a_trial_that_cannot_be_is_refused_and_the_last_good_ones_stay(stored, placed, sentence):
    game = BeatTheOptimiser(stored, budget=3)
    game.placed = [[1, 1]]
    with pytest.raises(SettingError, match=sentence):
        game.placed = placed
    assert game.placed == [[1, 1]]


def test_a_budget_larger_than_the_grid_is_refused(stored):
    with pytest.raises(KDTutorError, match="the grid has only 12 points"):
        BeatTheOptimiser(stored, budget=13)


def test_rivals_have_the_same_budget_their_own_luck_and_tpe_learns_from_what_it_met():
    found = -np.add.outer((np.arange(12) - 9.0) ** 2, (np.arange(12) - 2.0) ** 2)
    ends = {"TPE": [], "random search": []}
    for seed in range(8):
        for name, trials in rivals(found, 40, seed).items():
            assert len(trials) == 40
            ends[name].append(np.mean([found[r][c] for r, c in trials[20:]]))
    assert rivals(found, 5, 3) == rivals(found, 5, 3) != rivals(found, 5, 4)
    assert np.mean(ends["TPE"]) > np.mean(ends["random search"]) + 10, "its later trials are better ones"
