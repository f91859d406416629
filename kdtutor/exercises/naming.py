"""Which known mistakes explain what was seen of a learner's function: on every probe, in everything, and only they."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdtutor.exercises.comparing import RESULT, as_float, same, tensors
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.running import Run, run

Names = tuple[str, ...]
# Seconds of this thread's processor time: for pairs that explain everything, from the first that fits on, and for
# those that explain the first thing seen.
SEARCH, FURTHER, PARTLY = 0.6, 0.15, 0.15
UNLIKE = 1e9  # the distance between things of different shape
EXCHANGED = "return values exchanged"
EXCHANGED_HINT = (
    "What you return are the right things in another order. Read again which of them comes first."
)


def explanations(
    exercise: Exercise, probes: Sequence[tuple], mine: Sequence[Run], again: Callable[[], Sequence[tuple]],
    what: str = "", search: float = SEARCH, most: int = 2,
) -> list[Names]:  # fmt: skip
    """Find the smallest sets of at most two mistakes (or `most`) with which the reference does what was seen.

    again() makes fresh probes and runs the learner's function on them: a set that only happened to fit is found out.
    More than one set is left where they do the same, whatever the arguments. what: the one thing seen that is to be
    explained; by default, all.
    """
    singles = _singles(exercise, what)
    confirmed: list[tuple] = []
    rounds = ((singles, 60.0), (_pairs(exercise, probes[0], mine[0], what), search))
    for candidates, seconds in rounds[:most]:
        fitting, stop = [], time.thread_time() + seconds
        for names in candidates:
            if time.thread_time() > stop:
                break
            if explains(exercise, names, probes, mine, what):
                fitting.append(names)
                stop = min(stop, time.thread_time() + FURTHER) if candidates is not singles else stop
        if fitting and not confirmed:
            confirmed = list(again())
        fitting = [
            names for names in fitting if all(explains(exercise, names, [p], [r], what) for p, r in confirmed)
        ]
        # an exchange beside a mistake is far-fetched where two mistakes do
        likely = [names for names in fitting if EXCHANGED not in names] if candidates is not singles else []
        if fitting:
            return _without_twins(exercise, likely or fitting)
    return []


def alone(exercise: Exercise, probes: Sequence[tuple], mine: Sequence[Run]) -> list[Names]:
    """Find the single mistakes with which the reference does on these probes what the learner's function does."""
    fitting = [names for names in _singles(exercise) if explains(exercise, names, probes, mine)]
    return _without_twins(exercise, fitting) if fitting else []


def _singles(exercise: Exercise, what: str = "") -> list[Names]:
    switches = [(switch,) for mistake in exercise.mistakes for switch in mistake.switches]
    return switches + ([(EXCHANGED,)] if _has_several_values(exercise) and not what else [])


def _pairs(exercise: Exercise, probe: tuple, mine: Run, what: str = "") -> Iterator[Names]:
    """List all pairs of mistakes, those first whose changes to the right numbers add up to the learner's."""
    names = [switch for mistake in exercise.mistakes for switch in mistake.switches]
    first = run(exercise, exercise.reference, probe)
    right = _numbers(first, first, what)
    each = [_numbers(_shows(exercise, (name,), probe), first, what) for name in names]
    pairs = sorted(itertools.combinations(range(len(names)), 2), key=sum)
    if pairs:
        far = _distances(np.array(pairs), np.array(each), right, _numbers(mine, first, what))
        yield from ((names[a], names[b]) for a, b in (pairs[place] for place in far.argsort(kind="stable")))
    if _has_several_values(exercise) and not what:
        yield from ((mistake.name, EXCHANGED) for mistake in exercise.mistakes)


def _distances(pairs: np.ndarray, alone: np.ndarray, right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Tell how far what is seen is from what each pair would show, (P,): 0 if the two changes add up, or multiply.

    alone: (M, E), what each mistake shows. NaN stands where something of another shape is shown.
    """
    a, b = alone[pairs[:, 0]], alone[pairs[:, 1]]  # (P, E)
    together = a + b - right
    # entry by entry, since one may hide the other: both added, both multiplied, one of them
    guesses = np.stack([together, a * b / np.where(right == 0, 1, right), a, b])
    gaps = np.fmin.reduce(np.abs(guesses - seen))
    shapes = np.isnan(seen) & (np.isnan(a) | np.isnan(b))
    far = np.where(shapes, 0, np.where(np.isnan(gaps), UNLIKE, gaps)).sum(1)
    # both multiply the same summand, such as a teacher's part of a loss: what any mistake takes away may be one
    missed, product, gap = together - seen, (a - right) * (b - right), np.empty_like(a)
    for other in alone:
        summand = right - other
        np.multiply(product, np.divide(1, summand, out=np.zeros_like(summand), where=summand != 0), out=gap)
        gap += missed
        far = np.fmin(far, np.abs(gap, out=gap).sum(1))
    return far


def _numbers(seen: Run, right: Run, what: str = "") -> np.ndarray:
    """List all numbers that were seen, in a row, (E,): where they are more or fewer than the right ones, NaN.

    What is not finite counts as 0.
    """
    parts = [np.zeros(1)]
    mine = _part(seen.seen, what)
    for name, value in _part(right.seen, what).items():
        expected, found = (_flat(part) for part in (value, mine.get(name)))
        parts.append(found if found.shape == expected.shape else np.full_like(expected, np.nan))
    return np.concatenate(parts)


def _flat(value: Any) -> np.ndarray:
    parts = [part.flatten().double().numpy() for part in tensors(_as_tensors(value))]
    return np.nan_to_num(np.concatenate([*parts, np.zeros(0)]), nan=0.0, posinf=0.0, neginf=0.0)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_tensors(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_tensors(part) for part in value]
    return torch.tensor(as_float(value)) if isinstance(value, (bool, int, float)) else value


def _without_twins(exercise: Exercise, fitting: Sequence[Names]) -> list[Names]:
    """Give mistakes the names that learners see, of which one may stand for several ways to write the same."""
    visible = {switch: mistake.name for mistake in exercise.mistakes for switch in mistake.switches}
    named = [tuple(dict.fromkeys(visible.get(name, name) for name in names)) for names in fitting]
    shortest = min(map(len, named))
    return [*dict.fromkeys(names for names in named if len(names) == shortest)]


# What single mistakes show, by exercise, name and probe, with the probe itself: while it is kept, no other has its id.
_shown: dict[tuple[str, str, int], tuple[Run, tuple]] = {}


def forget() -> None:
    """Forget what single mistakes have shown: a new answer is judged, on new probes."""
    _shown.clear()


def _shows(exercise: Exercise, names: Names, args: tuple) -> Run:
    """Run the reference with these mistakes; with a single one it is run once for all questions."""
    wrong = exercise.with_mistakes(name for name in names if name != EXCHANGED)
    if len(names) > 1:
        return run(exercise, wrong, args)
    key = exercise.name, names[0], id(args)
    if key not in _shown:
        _shown[key] = run(exercise, wrong, args), args
    return _shown[key][0]


def explains(
    exercise: Exercise, names: Names, probes: Sequence[tuple], mine: Sequence[Run], what: str = ""
) -> bool:
    """Tell whether the reference with these mistakes shows what the learner's function does, on every probe."""
    exchanged = EXCHANGED in names
    failed_everywhere = all(seen.failure for seen in mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for args, seen in zip(probes, mine, strict=True):
            other = _shows(exercise, names, args)
            if seen.failure or other.failure:
                if not _same_failure(seen, other, failed_everywhere):
                    return False
            elif what:
                if not _same(_part(seen.seen, what), _part(other.seen, what), exchanged=False):
                    return False
            elif seen.changed != other.changed or not _same(seen.seen, other.seen, exchanged):
                return False
    return True


def _part(seen: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Tell what was seen under one name, such as "the loss" or "the result['student']"; with none, everything."""
    if not what:
        return seen
    name = next((name for name in seen if what.startswith(name)), None)
    if name is None:
        return {}
    value = seen[name]
    # A list is taken whole, as one row; of a few values that are returned at once, each is by itself.
    entries = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple) else ()
    )
    return next(({what: part} for key, part in entries if what.startswith(f"{name}[{key!r}]")), {name: value})


def _same_failure(mine: Run, other: Run, in_words: bool) -> bool:
    if not (mine.failure and other.failure) or mine.failure.kinds != other.failure.kinds:
        return False
    return mine.failure.words == other.failure.words or not in_words


def _same(mine: dict[str, Any], other: dict[str, Any], exchanged: bool) -> bool:
    if set(mine) != set(other):
        return False
    if not exchanged:
        return same(mine, other)
    result = mine.get(RESULT)
    return any(same(mine | {RESULT: turned}, other) for turned in _exchanged(result, other.get(RESULT)))


def _exchanged(mine: Any, right: Any) -> Iterator[Any]:
    """Return the learner's values in every other order, or under every other key."""
    if isinstance(right, Mapping) and isinstance(mine, Mapping) and set(mine) == set(right):
        orders = itertools.permutations(mine[key] for key in right)
        yield from (dict(zip(right, order, strict=True)) for order in itertools.islice(orders, 1, None))
    elif isinstance(right, tuple) and isinstance(mine, (tuple, list)) and len(mine) == len(right):
        yield from itertools.islice(itertools.permutations(mine), 1, None)


def _has_several_values(exercise: Exercise) -> bool:
    """Tell whether the exercise asks for a few values at once, which can change places."""
    asked = str(exercise.reference.__annotations__.get("return", ""))
    return exercise.observe is None and asked.startswith(("tuple", "dict"))


def known_among_others(
    exercise: Exercise, probes: Sequence[tuple], mine: Sequence[Run], right: Sequence[Run], what: str,
    again: Callable[[], Sequence[tuple]],
) -> Names:  # fmt: skip
    """Find the mistakes that surely are behind one thing seen, among others that are not known: as a rule none."""
    if isinstance(right[0].seen.get(what), bool):
        return _behind_an_answer(exercise, probes, mine, right, what) if exercise.observe else ()
    several = exercise.observe or _has_several_values(exercise)
    if not several or any(run.failure for run in mine):
        return ()
    # a choice among few comes out the same by chance, unless many are looked at
    often = lambda: [pair for _ in range(3) for pair in again()]  # noqa: E731
    sets = explanations(exercise, probes, mine, often, what, PARTLY)
    sure = tuple(name for name in sets[0] if all(name in names for names in sets)) if sets else ()
    return tuple(name for name in sure if _breaks_no_more(exercise, name, probes, mine, right))


def _breaks_no_more(
    exercise: Exercise, name: str, probes: Sequence[tuple], mine: Sequence[Run], right: Sequence[Run]
) -> bool:
    """Tell whether all that this mistake makes wrong is wrong in the learner's function too: only then it is theirs."""
    switches = next((one.switches for one in exercise.mistakes if one.name == name), (name,))
    for probe, one, other in zip(probes, mine, right, strict=True):
        wrong = {
            what for what, value in other.seen.items() if not same({what: one.seen.get(what)}, {what: value})
        }
        shown = (_shows(exercise, (switch,), probe).seen for switch in switches)
        broken = (
            {what for what, value in other.seen.items() if not same({what: seen.get(what)}, {what: value})}
            for seen in shown
        )
        if not any(each <= wrong for each in broken):
            return False
    return True


def _behind_an_answer(
    exercise: Exercise, probes: Sequence[tuple], mine: Sequence[Run], right: Sequence[Run], what: str
) -> Names:
    """Find the one mistake behind a wrong answer of yes or no.

    All answers of that kind that it gets wrong are wrong in the learner's function as well; and what any other mistake
    shows of that kind, it shows too.
    """
    wrongs = _yes_or_no(mine, right)
    shown = {
        mistake.name: _yes_or_no([_shows(exercise, (mistake.name,), probe) for probe in probes], right)
        for mistake in exercise.mistakes
    }
    behind = {name: found for name, found in shown.items() if what in {question for _, question in found}}
    fitting = {name: found for name, found in behind.items() if found <= wrongs}
    best = [name for name, found in fitting.items() if all(other <= found for other in fitting.values())]
    return tuple(best) if len(best) == 1 else ()


def _yes_or_no(some: Sequence[Run], right: Sequence[Run]) -> set[tuple[int, str]]:
    """List the questions, by probe, which some runs answer in another way than the right ones."""
    return {
        (probe, what)
        for probe, (one, other) in enumerate(zip(some, right, strict=True))
        for what, answer in other.seen.items()
        if isinstance(answer, bool) and one.seen.get(what) is (not answer)
    }
