"""What the pictures of a search say: the highest point and its place, what nobody tried, and the best so far."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")
from kdtutor import plots


def test_a_landscape_names_its_highest_point_its_lowest_and_the_references():
    scores = [[0.61, 0.625], [0.64, float("nan")]]
    picture = plots.landscape(scores, [0.0, 0.5], [1, 8], references={"hard labels": 0.5})
    assert "highest 64.0" in picture.alt and "at α = 0.5, T = 1" in picture.alt
    assert "lowest 61.0" in picture.alt and "hard labels 50.0" in picture.alt
    written = {text.get_text() for text in picture.axes[0].texts}
    assert written == {"61.0", "62.5", "64.0", "?"}


def test_the_best_so_far_never_falls_unless_it_is_given_as_it_is():
    scores = {"you": [0.5, 0.7, 0.6]}
    falling = plots.best_so_far(scores, running=False)
    assert "50.0" in falling.alt and "60.0" in falling.alt and "after 3" in falling.alt
    [line] = [line for line in plots.best_so_far(scores).axes[0].lines if len(line.get_ydata()) == 3]
    assert list(line.get_ydata()) == [0.5, 0.7, 0.7]
