"""The exercise of notebook 08 on which layers to keep."""

from __future__ import annotations

import math

import torch

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 8.1 layer choice


def kept_layers(n: int, m: int, wrong: Wrong = RIGHT) -> list[int]:
    """Choose m of a teacher's n layers, counted from 0: round(linspace(0, n − 1, m)), halves to even."""
    if "nothing for a single layer" in wrong:
        return [round(i * (n - 1) / (m - 1)) for i in range(m)]
    places = [i * (n - 1) / (m - 1) if m > 1 else 0 for i in range(m)]
    if "the last for a single layer" in wrong and m == 1:
        places = [n - 1]
    if {"the step rounded first", "the step cut off first"} & wrong:
        step = (n - 1) / max(1, m - 1)
        places = [i * (round(step) if "the step rounded first" in wrong else int(step)) for i in range(m)]
    if "without the last" in wrong:
        places = [i * n / m for i in range(m)]
    if "without the first" in wrong:
        places = [(i + 1) * n / m - 1 for i in range(m)]
    if "every n/m-th, and the last" in wrong:
        return [*range(0, n, n // m)[: m - 1], n - 1]
    if "every second one, from 1" in wrong:
        return [*range(1, n, 2)][:m]
    if "every n/m-th" in wrong:
        return [*range(0, n, n // m)]
    if "every n/m-th, m of them" in wrong:
        return [*range(0, n, n // m)][:m]
    if "up to the last, m of them counted back" in wrong:
        return [*range(n - 1, -1, -(n // m))][:m][::-1]
    if "up to the last, counted back" in wrong:
        return [*range(n - 1, -1, -(n // m))][::-1]
    if "spread over one place more" in wrong:
        places = [i * (n - 1) / m for i in range(m)]
    if "the middles of m parts" in wrong:
        places = [(i + 0.5) * n / m - 0.5 for i in range(m)]
    if "every second one, from 0" in wrong:
        places = [2 * i for i in range(m)]
    if "turned round" in wrong:
        places = places[::-1]
    if "spread over n" in wrong:
        places = [i * n / max(1, m - 1) for i in range(m)]
    if "the first ones" in wrong:
        places = list(range(m))
    if "the last ones" in wrong:
        places = list(range(n - m, n))
    if "rounded up" in wrong:
        return [math.ceil(place) for place in places]
    if "not rounded" in wrong:
        return places
    if "cut off, not rounded" in wrong:
        chosen = [int(place) for place in places]
    elif "halves rounded up" in wrong:
        chosen = [math.floor(place + 0.5) for place in places]
    else:
        chosen = [round(place) for place in places]
    return [layer + ("counted from 1" in wrong) for layer in chosen]


def _depths(generator: torch.Generator) -> list[tuple]:
    """Draw DistilBERT's own pair, the course's, one with a half between layers, one layer, all of them; random ones.

    The random pairs have no halves, at which the rounding of linspace would decide.
    """
    pairs = [(12, 6), (6, 3), (10, 5), (24, 8), (6, 1), (4, 4), (7, 3), (11, 4)]
    while len(pairs) < 11:
        m, more = (int(torch.randint(low, 12, (), generator=generator)) for low in (3, 2))
        n = m + more
        if not any(2 * i * (n - 1) / (m - 1) % 2 == 1 for i in range(m)):
            pairs.append((n, m))
    return pairs


KEPT_LAYERS = Exercise(
    name="kept_layers",
    number="8.1",
    title="Which layers to keep",
    reference=kept_layers,
    mistakes=(
        Mistake(
            "the first ones",
            "You keep the lowest layers, one after the other. The student would lose everything that the upper "
            "half of its teacher does.",
        ),
        Mistake(
            "the last ones",
            "You keep the uppermost layers. Their input was made by the layers below, which the student does not "
            "have.",
        ),
        Mistake(
            "counted from 1",
            "Your layers are the right ones, each with a number too large by one. How does a list count?",
        ),
        Mistake(
            "cut off, not rounded",
            "Your places are right and lie between layers, but then you take the layer below instead of the "
            "nearest one.",
        ),
        Mistake(
            "halves rounded up",
            "You agree with the paper's layers, but not where a place lies in the middle between two layers. "
            "What do Python's and torch's own round do with 2.5?",
        ),
        Mistake(
            "without the last",
            "Your layers are evenly spread from 0, but the last one of the teacher is not among them. What does"
            " the head of the teacher expect to read?",
            also=("every n/m-th", "every n/m-th, m of them", "spread over one place more"),
        ),
        Mistake(
            "without the first",
            "Your layers end with the teacher's last one, but do not begin with its first. Which layer knows "
            "what to do with bare embeddings?",
            also=("up to the last, counted back", "up to the last, m of them counted back"),
        ),
        Mistake(
            "every second one, from 1",
            "You take layers 1, 3, 5 and so on, whatever the sizes: the first is missing, and m of them are "
            "there only "
            "if m is half of n.",
        ),
        Mistake(
            "every n/m-th, and the last",
            "You take every n/m-th layer, and put the last one in the place of your last. Evenly spread layers "
            "have their gap elsewhere.",
        ),
        Mistake(
            "rounded up",
            "Your places are right and lie between layers, but then you take the layer above instead of the "
            "nearest one.",
        ),
        Mistake(
            "not rounded",
            "Your places lie between layers. A list is asked for numbers of layers.",
        ),
        Mistake(
            "spread over n",
            "Your last layer has a number that the teacher does not have: between n layers there are n − 1 "
            "steps.",
        ),
        Mistake(
            "nothing for a single layer",
            "Your formula divides by m − 1, which is 0 for a student of one layer. It gets layer 0.",
        ),
        Mistake(
            "the last for a single layer",
            "A student of one layer gets the teacher's last one with you. It gets layer 0.",
        ),
        Mistake(
            "the step rounded first",
            "You round the step and then multiply, so that the error grows from layer to layer. Round the places.",
            also=("the step cut off first",),
        ),
        Mistake(
            "every second one, from 0",
            "You take layers 0, 2, 4 and so on, whatever the sizes. That is right for no teacher but one of m + m "
            "− 1 layers.",
        ),
        Mistake(
            "the middles of m parts",
            "You cut the teacher into m parts and take the middle of each. First and last layer are to be kept.",
        ),
        Mistake("turned round", "Your layers are the right ones, from the last to the first."),
    ),
    probes=_depths,
)


EXERCISES = [KEPT_LAYERS]
