"""A picture of a class: how far it is in each exercise."""

from __future__ import annotations

from collections.abc import Mapping

from kdtutor.plots.style import INK, STUDENT, TEACHER, Picture, canvas, describe, styled


@styled
def class_progress(exercises: Mapping[str, tuple[int, int]], learners: int) -> Picture:
    """Draw for each exercise how many of the learners solved it, and how many tried in vain so far."""
    names = list(exercises)
    picture, axes = canvas(8.4, 1.2 + 0.34 * len(names))
    solved = [exercises[name][0] for name in names]
    stuck = [exercises[name][1] for name in names]
    looks = {"solved": TEACHER, "tried, not solved yet": STUDENT}
    left = [0] * len(names)
    for (label, look), values in zip(looks.items(), (solved, stuck), strict=True):
        axes.barh(names, values, left=left, color=look.colour, hatch=look.hatch, edgecolor=INK, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set(xlim=(0, learners), xlabel=f"learners, of {learners}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    hardest = max(names, key=lambda name: exercises[name][1])
    sentence = (
        f"{sum(solved)} solutions by {learners} learners in {len(names)} exercises; most are stuck at {hardest}, "
        f"where {exercises[hardest][1]} {'has' if exercises[hardest][1] == 1 else 'have'} tried in vain."
        if any(stuck)
        else f"{sum(solved)} solutions by {learners} learners in {len(names)} exercises; nobody is stuck."
    )
    return describe(picture, sentence)
