"""The checker: says whether an answer is right, and if not, which known mistake it is.

An exercise has a reference and a bank of mistakes, each a switch that changes one line of the reference. The learner's
function, the reference and the reference with mistakes are run on equal copies of fresh random arguments ("probes"),
and what can be observed of each (the result, its gradients, or whatever the exercise looks at) is compared. A mistake
is named if the learner's function does on every probe what the reference does with that mistake, or with two. Where
none is known, small edits of the learner's own code are tried: a slip is named if undoing it makes the function right.
"""

from __future__ import annotations

import dis
import inspect
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from kdtutor.exercises import naming, sandbox
from kdtutor.exercises.comparing import GRADIENT, RESULT, Difference, compare, same
from kdtutor.exercises.definitions import Exercise, Verdict
from kdtutor.exercises.localising import ONE_LINE
from kdtutor.exercises.raising import meaning
from kdtutor.exercises.relating import argument_in_words, relation_in_words
from kdtutor.exercises.repairing import Repair, repair
from kdtutor.exercises.running import Run, everything_as_it_was, operations, preload, replaced_functions, run
from kdtutor.exercises.stressing import ROWS, Further, runs, unstable, wrong_far_out
from kdtutor.exercises.words import (
    describe,
    factor_in_words,
    missing_term,
    quantities,
    sentence,
    where_right,
    wrapped,
)

INDENT = "    "
DRAWN = (
    "On equal arguments your function gives other numbers each time. Is something drawn in it, is a dropout on, or is "
    "the computer's own clock read? Nothing of it should be left to chance."
)
NAN_IN_THE_GRADIENT = (
    "The value itself is finite. A root, a norm and a logarithm have an infinite slope at 0, and what is masked or "
    "selected afterwards still sends 0 · inf = NaN back through it: keep the 0 away before it is taken."
)
OF_TYPE = "another type left out"
IN_THIS_ORDER = "wrong type", "wrong shape", "NaN", "wrong dtype", "detached", "another mistake"

# ------------------------------------------------------------------------------------------------- the verdict


def judge(exercise: Exercise, answer: Any, seed: int | None = None) -> Verdict:
    """Judge an answer. Never raises; the seed of the probes is another one each time, unless given."""
    if problem := _not_worth_running(exercise, answer):
        return problem
    naming.forget()
    generator = torch.Generator().manual_seed(random.SystemRandom().getrandbits(32) if seed is None else seed)
    with everything_as_it_was():
        # Probes are small: a second thread would wait more than it works, the longer the busier the machine.
        torch.set_num_threads(1)
        probes = list(exercise.probes(generator))
        preload(answer)
        # first the reference: what torch imports at its first use is then there for all children
        right = [run(exercise, exercise.reference, probe) for probe in probes]
        further = Further(exercise, answer, generator)
        outcome = sandbox.run(
            partial(runs, exercise, answer, probes), then=lambda mine: further.look(mine, right)
        )
        further.seen = outcome.further
        if outcome.value is None:
            verdict = _did_not_end(outcome)
        else:
            verdict = _compared(exercise, probes, outcome.value, right, answer, further)
    return _finished(verdict, outcome.printed)


def rebuilt(exercise: Exercise, source: str) -> Callable | None:
    """Return the function of a source that an earlier session has kept, if it still is a right answer by itself."""
    scope = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "math": math}
    try:
        exec(source, scope)
    except Exception:  # it leant on something of its notebook
        return None
    function = scope.get(exercise.name)
    return function if function and judge(exercise, function).solved else None


def _compared(
    exercise: Exercise, probes: list[tuple], mine: list[Run], right: list[Run], answer: Callable,
    further: Further,
) -> Verdict:  # fmt: skip
    """Judge what was observed: right, a known mistake, or the most telling difference."""
    try:
        differences = [
            (probe, found)
            for probe, (one, other) in enumerate(zip(mine, right, strict=True))
            if not one.failure
            for found in compare(one.seen, other.seen)
        ]
        changed = set().union(*(run.changed for run in mine)) - set().union(*(run.changed for run in right))
        failed = next((one for one in mine if one.failure), None)
        if not (differences or failed or changed):
            done = Verdict(True, "right", f"Right. Exercise {exercise.number} is solved.")
            return _unstable_or_slow(exercise, further, probes, mine) or done
        if not (differences or failed):
            return _in_place([name for name in exercise.arguments if name in changed])
        verdict, look = _explained(exercise, answer, probes, mine, right, further.fresh)
        if verdict:
            # of another type, which is a sentence of its own, and more than that something is left out
            of_type = all(found.kind in ("wrong type", "wrong dtype") for _, found in differences)
            if not (OF_TYPE in verdict.mistakes and of_type and not (failed and not failed.has_returned)):
                return verdict
        if failed:
            return _did_not_finish(failed, right[0].returned)
        return _different(exercise, probes, differences, mine, right, answer, further.fresh, look)
    except Exception as error:  # a result like nothing we know
        text = f"Your function returns {describe(mine[-1].returned)}, which cannot be compared: {error}"
        return Verdict(False, "wrong type", f"Not yet. {text}")


def _in_place(names: Sequence[str]) -> Verdict:
    text = f"Your function changes its argument {' and '.join(names)} in place. Whoever called it may still need that."
    hint = "Operations such as x += y or x.exp_() write into x; x = x + y makes a new tensor."
    return Verdict(False, "changes its inputs", f"Not yet. {text} {hint}")


def _explained(
    exercise: Exercise, answer: Callable, probes: list[tuple], mine: list[Run], right: list[Run],
    again: Callable[[], Sequence[tuple]],
) -> tuple[Verdict | None, str]:  # fmt: skip
    """Judge a known mistake, one slip in the learner's code, or two mistakes; if it is none, say where to look."""
    if verdict := _named(exercise, naming.explanations(exercise, probes, mine, again, most=1)):
        return verdict, ""
    found = repair(exercise, answer, probes, mine, right) or Repair()
    if found.name not in ("", ONE_LINE):
        return _one_slip(found), ""
    pair = _named(exercise, naming.explanations(exercise, probes, mine, again))
    return pair or (_one_slip(found) if found.name else None), found.hint


def _one_slip(found: Repair) -> Verdict:
    text = f"Not yet: {found.name}, in {found.where}.\n{found.hint}"
    return Verdict(False, "one slip", text, (found.name,))


def _named(exercise: Exercise, sets: Sequence[tuple[str, ...]]) -> Verdict | None:
    """Name known mistakes. What several sets explain equally well is named as far as they agree."""
    if not sets:
        return None
    if exercise.planted and any(set(names) == set(exercise.planted) for names in sets):
        text = f"Not repaired yet. {exercise.symptom}"
        return Verdict(False, "not attempted", text)
    hints = {mistake.name: mistake.hint for mistake in exercise.mistakes}
    hints[naming.EXCHANGED] = naming.EXCHANGED_HINT
    sure = tuple(name for name in sets[0] if all(name in names for names in sets))
    if len(sets) == 1 and len(sure) == 1:
        return Verdict(False, "a known mistake", f"Not yet: {sure[0]}.\n{hints[sure[0]]}", sure)
    lines = [f"{name}: {hints[name]}" for name in sure]
    if others := dict.fromkeys(name for names in sets for name in names if name not in sure):
        lines.append(f"one of these: {'; or '.join(others)}. Here they come to the same.")
    listed = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    if len(lines) == 1:
        return Verdict(False, "one of several mistakes", f"Not yet. It is {lines[0]}", sure)
    return Verdict(False, "two known mistakes", f"Not yet. Two things at once:\n{listed}", sure)


def _different(
    exercise: Exercise, probes: list[tuple], differences: list[tuple[int, Difference]], mine: list[Run],
    right: list[Run], answer: Callable, again: Callable[[], Sequence[tuple]], look: str,
) -> Verdict:  # fmt: skip
    """Judge a difference that no known mistake explains: what is most telling of it, and where to look."""
    if mine[0].returned is None and right[0].returned is not None:
        return Verdict(False, "returns nothing", "Not yet. Your function returns None: is there a return?")
    _, first = min(differences, key=lambda found: IN_THIS_ORDER.index(found[1].kind))
    text = sentence(_most_telling(exercise, first, differences, probes, mine[0].returned))
    if _is_random(exercise, answer, probes[0]):
        text = f"{DRAWN} {text}"
    known = naming.known_among_others(exercise, probes, mine, right, first.what, again)
    hints = {mistake.name: mistake.hint for mistake in exercise.mistakes}
    if known:
        listed = "\n".join(f"{name}: {hints[name]}" for name in known)
        text = f"{text}\nThis much is known of it.\n{listed}"
    elif look:
        text = f"{text}\n{look}"
    return Verdict(False, first.kind, f"Not yet. {text}", known)


def _is_random(exercise: Exercise, answer: Callable, probe: tuple) -> bool:
    """Tell whether what the learner's function does depends on random numbers, and what the solution does does not."""
    seeds = range(2)
    outcome = sandbox.run(lambda: [run(exercise, answer, probe, seed) for seed in seeds])
    mine, right = outcome.value or (), [run(exercise, exercise.reference, probe, seed) for seed in seeds]
    try:
        return [len({repr(one.seen) for one in some}) for some in (mine, right)] == [2, 1]
    except ValueError:  # a number of thousands of digits, which Python writes for nobody
        return False


def _most_telling(
    exercise: Exercise, first: Difference, differences: list[tuple[int, Difference]], probes: list[tuple],
    returned: Any,
) -> str:  # fmt: skip
    """Tell what to say of the difference from which a learner can best go on."""
    if first.kind == "detached":
        names = " and ".join(exercise.arguments[position] for position in exercise.gradients)
        return (
            f"No gradient flows back from what you return ({describe(returned)}) to {names}, so nobody could "
            "learn from it. Is there a .detach(), .item(), .data, float(…), torch.tensor(…) or no_grad in the way?"
        )
    if first.kind == "NaN" and first.what.startswith(GRADIENT):
        return f"{first.text} {NAN_IN_THE_GRADIENT}"
    pairs = {probe: found.values for probe, found in differences if found.what == first.what and found.values}
    if first.kind != "another mistake" or not pairs:
        return first.text
    sizes = [quantities(exercise.arguments, probes[probe]) for probe in pairs]
    always = ""
    if exercise.terms and len(pairs) == len(probes) and all(side.numel() == 1 for side, _ in pairs.values()):
        sides = ([side.item() for side in both] for both in zip(*pairs.values(), strict=True))
        always = missing_term(*sides, sizes, dict(exercise.terms))
    always = always or factor_in_words(list(pairs.values()), sizes)
    if not always and len(pairs) == len(probes):
        mine = [side for side, _ in pairs.values()]
        always = argument_in_words(mine, exercise.arguments, probes) or relation_in_words(
            list(pairs.values())
        )
    always = always or where_right([*pairs], [quantities(exercise.arguments, probe) for probe in probes])
    right_value = exercise.observe is None and all(RESULT not in found.what for _, found in differences)
    return f"{'the values are right. ' if right_value else ''}{sentence(always + first.text)}"


# ---------------------------------------------------------------------------------------- right, but …


def _unstable_or_slow(
    exercise: Exercise, further: Further, probes: list[tuple], mine: list[Run]
) -> Verdict | None:
    """Judge a function that is right on the probes, but fails at extreme arguments, or loops over rows."""
    seen, counts = further.far_out() or ((), None)
    for args, (there, twin) in zip(further.extreme, seen, strict=bool(seen)):
        right = run(exercise, exercise.reference, args)
        if text := wrong_far_out(exercise, args, there, twin, right):
            named = _named(exercise, naming.alone(exercise, [*probes, args], [*mine, there]))
            return named or Verdict(False, "another mistake", f"Not yet. {text}")
        if text := unstable(args, there, twin, right):
            lost = exercise.survives and not same({RESULT: there.returned}, {RESULT: right.returned})
            if lost:
                return Verdict(
                    False, "unstable", f"Not yet. With numbers of ordinary size it is right. {text}"
                )
            return Verdict(True, "right, but unstable", f"Right, but unstable. {text}")
    return _slow(exercise, counts) if counts else None


def _slow(exercise: Exercise, counts: Sequence[int]) -> Verdict | None:
    """Judge a function that is right but loops over rows in Python: it is counted, not timed."""
    few, many = (operations(exercise.reference, exercise.growth(rows)) for rows in ROWS)
    expected = many - few
    few, many = counts
    if many - few < expected + ROWS[1] - ROWS[0]:  # less than one operation for each further row
        return None
    text = (
        f"Right, but slow. For {ROWS[0]} rows it takes {few} tensor operations, for {ROWS[1]} rows {many}: is there a "
        "Python loop? One operation can work on all rows at once, on a GPU in about the time of one."
    )
    return Verdict(True, "right, but slow", text)


# --------------------------------------------------------------------- answers that are not run, or do not finish


def not_a_function(problem: str) -> Verdict:
    return Verdict(False, "not a function", wrapped(f"Not yet. {problem}"))


def _not_worth_running(exercise: Exercise, answer: Any) -> Verdict | None:
    if answer is ... or _is_empty(answer):
        text = "Not attempted yet. Put your code in place of the ... and run the cell again."
        return Verdict(False, "not attempted", text)
    if not callable(answer):
        how = f"Give the function itself, without calling it: check.{exercise.name}({exercise.name})."
        return not_a_function(f"You gave {describe(answer)} where your function should be. {how}")
    if inspect.iscoroutinefunction(answer):
        return not_a_function("Your function is declared with async, and an ordinary def is expected.")
    if inspect.isgeneratorfunction(answer) and not inspect.isgeneratorfunction(exercise.reference):
        return not_a_function("Your function has a yield, which makes it a generator; a return is expected.")
    if replaced := replaced_functions():
        text = (
            f"In this notebook {' and '.join(replaced)} is no longer torch's own, and the check needs torch as it is. "
            "Restart the kernel, and give your function a name of its own."
        )
        return Verdict(False, "torch was changed", wrapped(f"Not checked. {text}"))
    return None


def _is_empty(answer: Any) -> bool:
    """Tell whether a function has nothing in it but `...`, `pass`, a docstring, or returns `...`."""
    if not inspect.isfunction(answer):
        return False
    steps = [
        step
        for step in dis.get_instructions(answer)
        if step.opname not in ("RESUME", "NOP", "COPY_FREE_VARS")
    ]
    names, values = [step.opname for step in steps], [step.argval for step in steps]
    returns_constant = names in (["LOAD_CONST", "RETURN_VALUE"], ["RETURN_CONST"])
    return returns_constant and (values[0] is None or values[0] is ...)


def _did_not_end(outcome: sandbox.Outcome) -> Verdict:
    """Judge a function that ran out of time, or took its process with it."""
    where = f", in {outcome.line}" if outcome.line else ""
    if outcome.out_of_time:
        text = f"Your function was still running after {sandbox.TIME_LIMIT:.0f} seconds{where}"
        if outcome.still_running:
            text += ", and could not be stopped: restart the kernel when it becomes slow."
        else:
            text += ", and was stopped. Is there a loop that never ends?"
        return Verdict(False, "out of time", f"Not yet. {text}")
    if outcome.ended:
        how = "by os._exit" if outcome.ended == "os._exit" else f"with a crash ({outcome.ended})"
        text = f"Your function ended its whole process {how}. In the kernel, everything in this notebook would be lost."
        return Verdict(False, "ends the process", f"Not yet. {text}")
    return Verdict(False, "raises", f"Not yet. Your function stopped with {outcome.error}{where}.")


def _did_not_finish(mine: Run, expected: Any) -> Verdict:
    """Judge a function that raised, or whose result could not be used; `expected` is a right result."""
    failure, where = mine.failure, f", in {mine.failure.line}" if mine.failure.line else ""
    kind, text = "raises", f"Your function stopped with {failure.words}{where}. {meaning(failure.words)}"
    if "ellipsis" in failure.words.lower():
        text = f"Not finished yet. There still is a ... in your function{where}."
        return Verdict(False, "not attempted", text)
    if "CannotCall" in failure.kinds:
        kind, text = "wrong arguments", failure.words.partition(": ")[2]
    elif "MemoryError" in failure.kinds or "can't allocate memory" in failure.words:
        limit = sandbox.MEMORY_LIMIT / 2**30
        kind, text = (
            "out of memory",
            f"Your function wanted more than {limit:g} GB of memory{where}, and was stopped.",
        )
    elif "RecursionError" in failure.kinds:
        text = f"Your function calls itself without end{where}."
    elif "SystemExit" in failure.kinds:
        text = f"Your function calls exit(), which would end the whole program{where}. return is enough."
    elif "KeyboardInterrupt" in failure.kinds:
        text = f"Your function raised KeyboardInterrupt{where}."
    elif mine.has_returned and mine.returned is None and expected is not None:
        kind, text = "returns nothing", "Your function returns None: is there a return?"
    elif mine.has_returned and isinstance(expected, tuple) and _parts(mine.returned) != len(expected):
        kind, values = "wrong type", f"{len(expected)} values are expected, with a comma between"
        text = f"Your function returns {describe(mine.returned)}, and {values}."
    elif mine.has_returned:  # and then its result was used, or its gradient computed
        found = describe(mine.returned)
        text = f"What your function returned, {found}, cannot be used: {failure.words}."
        if expected is not None and found != describe(expected):
            text = f"Your function returned {found}, and {describe(expected)} is expected."
    return Verdict(False, kind, f"Not yet. {text}")


def _parts(returned: Any) -> int:
    return len(returned) if isinstance(returned, tuple | list) else 1


def _finished(verdict: Verdict, printed: sandbox.Printed) -> Verdict:
    """Finish the verdict with the first lines that the function printed, and its lines broken for a narrow window."""
    text = wrapped(verdict.text)
    if printed.characters:
        shown = "\n".join(f"{INDENT}{line[:90]}" for line in printed.kept.splitlines()[:5])
        text += f"\nIt printed {printed.characters:,} characters, which begin with\n{shown}"
    return Verdict(verdict.solved, verdict.kind, text, verdict.mistakes)
