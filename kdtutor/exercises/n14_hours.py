"""The exercise of notebook 14 on what a large run takes: hours on the clock, and GPU-hours."""

from __future__ import annotations

import torch

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import between


def training_hours(
    tokens: float, passes: int, padding: float, student: float, teacher: float, peak: float, utilisation: float,
    gpus: int, wrong: frozenset[str] = RIGHT,
) -> dict[str, float]:  # fmt: skip
    """Compute hours on the clock and GPU-hours of a distillation at pre-training.

    tokens: of the corpus. padding: the share of what is computed that is padding. student, teacher: multiply-adds a
    token of one forward pass. peak: operations a second of one GPU; utilisation: the share of it that is reached.
    """
    forward_and_backward = 1 if "forward pass alone" in wrong else 3
    if "backward as cheap as forward" in wrong:
        forward_and_backward = 2
    work = forward_and_backward * student + teacher
    if "teacher left out" in wrong:
        work = forward_and_backward * student
    if "teacher goes backward too" in wrong:
        work = forward_and_backward * (student + teacher)
    operations = (1 if "multiply-adds for operations" in wrong else 2) * work
    computed = tokens if "padding for nothing" in wrong else tokens / (1 - padding)
    if "a share of the tokens for padding" in wrong:
        computed = tokens * (1 + padding)
    if "padding taken off" in wrong:
        computed = tokens * (1 - padding)
    if "one pass" not in wrong:
        computed *= passes
    rate = peak if "peak taken for granted" in wrong else peak * utilisation
    if "faster than the peak" in wrong:
        rate = peak / utilisation
    all_hours = operations * computed / rate / (1 if "seconds" in wrong else 3600)
    if "every GPU computes everything" in wrong:
        return {"hours": all_hours, "GPU-hours": all_hours * gpus}
    if "minutes" in wrong:
        all_hours = all_hours * 60
    if "days" in wrong:
        all_hours = all_hours / 24
    if "GPU-hours are the clock's" in wrong:
        return {"hours": all_hours / gpus, "GPU-hours": all_hours / gpus}
    return {
        "hours": all_hours if "one GPU does it all" in wrong else all_hours / gpus,
        "GPU-hours": all_hours,
    }


def _runs(generator: torch.Generator) -> list[tuple]:
    def share(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    return [
        (1e9 * share(1, 5), between(generator, 3, 9), share(0.05, 0.3), 1e6 * share(20, 70), 1e6 * share(80, 200),
         1e12 * share(50, 900), share(0.2, 0.6), between(generator, 2, 17))
        for _ in range(3)
    ]  # fmt: skip


TRAINING_HOURS = Exercise(
    name="training_hours",
    number="14.5",
    title="Hours, and GPU-hours",
    reference=training_hours,
    mistakes=(
        Mistake(
            "teacher left out",
            "Your run has only the student's work in it. At every step somebody else reads the same texts.",
        ),
        Mistake(
            "teacher goes backward too",
            "Your teacher has a backward pass. Which gradients would it give?",
        ),
        Mistake(
            "forward pass alone",
            "Your student has a forward pass only. The way back costs twice as much again: a product for the "
            "gradient of the inputs, and one for that of the weights.",
        ),
        Mistake(
            "multiply-adds for operations",
            "Your result is half of what it should be. A peak counts a multiplication and an addition as two.",
        ),
        Mistake("one pass", "Your run reads the corpus once. How many passes were asked for?"),
        Mistake(
            "padding for nothing",
            "Your padding costs nothing. It goes through every matrix like a real token, and is thrown away then.",
        ),
        Mistake(
            "a share of the tokens for padding",
            "You add the share to the tokens. It is a share of all that is *computed*, and the tokens are the rest "
            "of that.",
        ),
        Mistake(
            "padding taken off",
            "Your padding makes the run shorter. It is not in the corpus, it comes on top; and the share is of what "
            "is computed.",
        ),
        Mistake(
            "peak taken for granted",
            "Your GPUs reach their peak. Which share of it does a real run reach?",
        ),
        Mistake(
            "one GPU does it all",
            "Your clock runs as long as for a single GPU. The others work at the same time.",
        ),
        Mistake(
            "GPU-hours are the clock's",
            "Your GPU-hours are hours on the clock. What is paid for is every GPU, for as long as it is held.",
        ),
        Mistake("seconds", "Your results are seconds, and hours are asked for."),
        Mistake(
            "every GPU computes everything",
            "Your GPUs all do the whole work. They share it.",
        ),
        Mistake(
            "minutes",
            "Your results are minutes, and hours are asked for.",
        ),
        Mistake(
            "days",
            "Your results are days, and hours are asked for.",
        ),
        Mistake(
            "backward as cheap as forward",
            "Your backward pass costs as much as the forward pass. It has two products for each of the way there.",
        ),
        Mistake(
            "faster than the peak",
            "Your GPUs are faster than their peak: the share that is reached is on the wrong side of the fraction bar.",
        ),
    ),
    probes=_runs,
)


EXERCISES = [TRAINING_HOURS]
