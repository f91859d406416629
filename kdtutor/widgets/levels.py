"""The three levels of `BeTheTeacher`: what is to be reached in each, and with which lesson.

    1  save a related text that the label alone loses
    2  teach the second class without naming it: the target's tallest bar stays on the label
    3  undo a mistake: both students were first taught a wrong label

The browser has the same rule (`reached` in be_the_teacher.js).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.widgets.school import teach, unpack

ENOUGH = 0.5  # what a student gives the lesson's class when it has learned the lesson
SPOILED = 20  # steps by which a mistake is taught
# Of a target that shows that a level can be reached: the label's part, the rest for the second class.
TRIED = 0.6


def views(lesson: dict) -> Tensor:
    """Return how the students see the lesson and its related texts: float64 (1 + n, d)."""
    return torch.cat([unpack(lesson["x"]), *(unpack(near["x"]) for near in lesson["related"])])


def truths(lesson: dict) -> Tensor:
    """Return the classes of the lesson and its related texts: (1 + n,)."""
    return torch.tensor([lesson["label"], *(near["label"] for near in lesson["related"])])


def reached(level: dict, lesson: dict, before: Tensor, now: Tensor, target: list[float]) -> bool:
    """Tell whether a level is won. before, now: probabilities (1 + n, C), of the first student and of yours.

    Always: the lesson is learned. Levels 1 and 3: what was right before is right. Level 2: the watched text is right,
    and the target's largest part is the label's.
    """
    truth = truths(lesson)
    right, was_right = now.argmax(-1) == truth, before.argmax(-1) == truth
    if float(now[0, truth[0]]) < ENOUGH or not right[0]:
        return False
    if level["level"] == 2:
        return bool(right[level["watched"]]) and int(torch.tensor(target).argmax()) == lesson["label"]
    return bool(right[was_right].all())


def levels_of(lessons: list[dict], start: Tensor) -> list[dict]:
    """Find for each level the first lesson that it can be played with: a target reaches it, and the label does not.

    start: W, (C, d). A level: {"level": 1, "text": the lesson, "watched": place of a text, "mistake": class or None}.
    """
    found: dict[int, dict] = {}
    for lesson in lessons:
        for level in _candidates(lesson, start):
            used = [other["text"] for other in found.values()]
            if level["level"] not in found and (level["level"] == 3 or lesson["text"] not in used):
                found[level["level"]] = level
    return [found[number] for number in sorted(found)]


def _candidates(lesson: dict, start: Tensor) -> list[dict]:
    """List the levels that can be played with this lesson."""
    x, truth = views(lesson), truths(lesson)
    teacher = torch.tensor(lesson["teacher"], dtype=torch.float64)
    first, second = teacher.topk(2).indices.tolist()
    label = F.one_hot(truth[0], len(teacher)).double()
    mixed = TRIED * label + (1 - TRIED) * F.one_hot(torch.tensor(second), len(teacher)).double()

    def after(W: Tensor, target: Tensor) -> Tensor:
        return (x @ teach(W, x[0], target, SPOILED).T).softmax(-1)

    before = (x @ start.T).softmax(-1)
    spoiled = teach(start, x[0], F.one_hot(torch.tensor(second), len(teacher)).double(), SPOILED)
    lost = (before.argmax(-1) == truth) & (after(start, label).argmax(-1) != truth)
    won = (before.argmax(-1) != truth) & (after(start, mixed).argmax(-1) == truth) & (truth == second)
    tries = [(1, lost, start, None), (2, won, start, None), (3, lost, spoiled, second)]
    playable = []
    for number, watched, W, mistake in tries:
        if first != lesson["label"] or not watched[1:].any():
            continue
        place = 1 + int(watched[1:].int().argmax())
        level = {"level": number, "text": lesson["text"], "watched": place, "mistake": mistake}
        if reached(level, lesson, before, after(W, mixed), mixed.tolist()) and not reached(
            level, lesson, before, after(W, label), label.tolist()
        ):
            playable.append(level)
    return playable
