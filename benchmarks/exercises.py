"""How much processor time a check takes, of right answers and of wrong ones.

    python benchmarks/exercises.py                 every exercise: right, each mistake, and a sample of pairs
    python benchmarks/exercises.py --pairs 0       without the pairs
    python benchmarks/exercises.py blend halves    some of them

Processor time of this process and of the children that run the answers, not time on the clock, so that a busy machine
disturbs little. The longest checks are those of answers that no two known mistakes explain.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import statistics

import torch

from kdtutor.exercises import load_exercises, predicting
from kdtutor.exercises.checker import judge
from kdtutor.exercises.definitions import Exercise, Experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="exercises; by default all")
    parser.add_argument("--pairs", type=int, default=20, help="how many pairs of mistakes of each exercise")
    options = parser.parse_args()
    torch.set_num_threads(1)

    exercises = load_exercises()
    seconds = []
    print("| exercise | mistakes | pairs | named | median | longest |")
    print("|---|---|---|---|---|---|")
    for name in options.names or exercises:
        seconds += measure(exercises[name], options.pairs)
    print(
        f"\n{len(seconds):,} checks: median {statistics.median(seconds):.3f} s, longest {max(seconds):.2f} s"
    )


def measure(exercise: Exercise | Experiment, pairs: int) -> list[float]:
    """Time each check of an exercise, of which a row is printed."""
    if isinstance(exercise, Experiment):
        answers = [(belief.numbers, exercise.numbers) for belief in exercise.beliefs]
        seconds = [timed(lambda each=each: predicting.judge(exercise, *each, "a"))[0] for each in answers]
        row(exercise, "–", "–", seconds)
        return seconds
    judge(exercise, exercise.reference)  # torch loads parts of itself when they are first used
    names = [mistake.name for mistake in exercise.mistakes]
    every = list(itertools.combinations(names, 2))
    chosen = random.Random(0).sample(every, min(pairs, len(every)))
    seconds, named, counted = [], 0, 0
    for mistakes in ((), *((name,) for name in names), *chosen):
        took, verdict = timed(
            lambda mistakes=mistakes: judge(exercise, exercise.with_mistakes(mistakes), seed=1)
        )
        seconds.append(took)
        # some pairs do not go together, or come to nothing
        if len(mistakes) == 2 and verdict.kind not in (
            "raises",
            "right",
            "right, but unstable",
            "right, but slow",
        ):
            counted += 1
            named += bool(verdict.mistakes) or verdict.kind in ("one of several mistakes", "not attempted")
    row(exercise, f"{counted}", f"{named}", seconds)
    return seconds


def timed(action) -> tuple[float, object]:
    start = processor_seconds()
    value = action()
    return processor_seconds() - start, value


def processor_seconds() -> float:
    """Tell what was used so far by this process and by the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def row(exercise: Exercise | Experiment, pairs: str, named: str, seconds: list[float]) -> None:
    title, known = f"{exercise.number} {exercise.title}", len(exercise.mistakes)
    print(
        f"| {title} | {known} | {pairs} | {named} | {statistics.median(seconds):.2f} s | {max(seconds):.2f} s |",
        flush=True,
    )


if __name__ == "__main__":
    main()
