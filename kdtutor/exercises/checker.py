"""The checker: says whether an answer is right, and if not, which known mistake it is.

An exercise has a reference and a bank of mistakes, each a switch that changes one line of the reference. The learner's
function, the reference and the reference with mistakes are run on equal copies of fresh random arguments ("probes"),
and what can be observed of each (the result, its gradients, or whatever the exercise looks at) is compared. A mistake
is named if the learner's function does on every probe what the reference does with that mistake, or with two.
"""

from __future__ import annotations

import copy
import dis
import inspect
import itertools
import random
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdtutor.exercises import sandbox
from kdtutor.exercises.comparing import (
    GRADIENT_FLOWS,
    RESULT,
    Difference,
    common_factor,
    compare,
    describe,
    in_words,
    same,
    tensors,
)

ROWS = 8, 64  # for which torch operations are counted: a loop over the rows needs eight times as many
INDENT = "    "
IN_THIS_ORDER = "wrong type", "wrong shape", "NaN", "wrong dtype", "detached", "another mistake"


@dataclass(frozen=True)
class Mistake:
    """A misconception: its name, which the reference knows as a switch, and a hint that leads without giving away."""

    name: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """What a learner has to write, and how to find out what they wrote.

    reference(*args, wrong=frozenset()) is the answer; `wrong` holds names of mistakes, each of which changes a line.
    probes(generator) makes a list of argument tuples. gradients: positions of the tensors whose gradients count too.
    stress(generator): arguments at which a right but unstable function fails. growth(n): arguments with n rows; if
    the number of torch operations grows with n, the function is right but slow. observe(function, *args): what to
    look at, as readable phrase → tensor, number, bool or str; by default the result and its gradients.
    """

    name: str
    number: str
    title: str
    reference: Callable
    mistakes: Sequence[Mistake]
    probes: Callable[[torch.Generator], Sequence[tuple]]
    gradients: tuple[int, ...] = ()
    stress: Callable[[torch.Generator], Sequence[tuple]] | None = None
    growth: Callable[[int], tuple] | None = None
    observe: Callable[..., dict[str, Any]] | None = None

    @property
    def arguments(self) -> list[str]:
        return [name for name in inspect.signature(self.reference).parameters if name != "wrong"]

    def with_mistakes(self, names: Iterable[str]) -> Callable:
        return partial(self.reference, wrong=frozenset(names))


@dataclass(frozen=True, repr=False)
class Verdict:
    """Feedback. `kind` is a short name of it, `mistakes` are those recognised, the text is what it shows itself as."""

    solved: bool
    kind: str
    text: str
    mistakes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.text


# ------------------------------------------------------------------------------------------------- the verdict


def judge(exercise: Exercise, answer: Any, seed: int | None = None) -> Verdict:
    """Feedback on an answer. Never raises; the seed of the probes is another one each time, unless given."""
    if problem := _not_worth_running(exercise, answer):
        return problem
    generator = torch.Generator().manual_seed(random.SystemRandom().getrandbits(32) if seed is None else seed)
    learner, reference = Watched(answer), Watched(exercise.reference)
    with _everything_as_it_was():
        probes = list(exercise.probes(generator))
        right = [observe(exercise, reference, probe) for probe in probes]
        outcome = sandbox.run(lambda: [observe(exercise, learner, probe) for probe in probes])
        if outcome.value is None:
            return _did_not_finish(exercise, learner, reference, outcome)
        try:
            verdict = _compared(exercise, probes, right, outcome.value, learner, reference)
            if verdict.solved:
                verdict = _unstable(exercise, generator, learner) or _slow(exercise, learner) or verdict
        except Exception as error:  # a result like nothing we know
            text = f"Your function returns {describe(learner.returned)}, which cannot be compared: {error}"
            verdict = Verdict(False, "wrong type", f"Not yet. {text}")
    return _finished(verdict, outcome.printed)


def _compared(exercise, probes, expected, observed, learner, reference) -> Verdict:
    """The verdict on what was observed: right, a known mistake, or the most telling difference."""
    mine, right = [seen for seen, _ in observed], [seen for seen, _ in expected]
    differences = [found for pair in zip(mine, right, strict=True) for found in compare(*pair)]
    changed_by = [set().union(*(names for _, names in runs)) for runs in (observed, expected)]
    changed = [name for name in exercise.arguments if name in changed_by[0] - changed_by[1]]
    if not differences and not changed:
        return Verdict(True, "right", f"Right. Exercise {exercise.number} is solved.")
    if differences and (names := _mistakes_that_explain(exercise, probes, mine)):
        hints = [mistake.hint for mistake in exercise.mistakes if mistake.name in names]
        if len(names) == 1:
            return Verdict(False, "a known mistake", f"Not yet: {names[0]}.\n{hints[0]}", names)
        listed = "\n".join(
            f"{i}. {name}: {hint}" for i, (name, hint) in enumerate(zip(names, hints, strict=True), 1)
        )
        return Verdict(False, "two known mistakes", f"Not yet. Two things at once:\n{listed}", names)
    if changed:
        text = f"Your function changes its argument {_listed(changed)} in place. Whoever called it may still need that."
        hint = "Operations such as x += y or x.exp_() write into x; x = x + y makes a new tensor."
        return Verdict(False, "changes its inputs", f"Not yet. {text} {hint}")
    if learner.returned is None and reference.returned is not None:
        return Verdict(False, "returns nothing", "Not yet. Your function returns None: is there a return?")
    first = min(differences, key=lambda difference: IN_THIS_ORDER.index(difference.kind))
    text = _sentence(_most_telling(exercise, first, differences, learner))
    if exercise.observe and (mistake := _mistake_behind(exercise, probes, mine, first.what)):
        text = f"{text}\nAmong other things, this is known: {mistake.name}.\n{mistake.hint}"
    return Verdict(False, first.kind, f"Not yet. {text}")


def _mistakes_that_explain(
    exercise: Exercise, probes: Sequence[tuple], mine: Sequence[dict]
) -> tuple[str, ...]:
    """The smallest set of at most two mistakes with which the reference does what the learner's function does."""
    names = [mistake.name for mistake in exercise.mistakes]
    sets = itertools.chain(itertools.combinations(names, 1), itertools.combinations(names, 2))
    return next((chosen for chosen in sets if _explain(exercise, chosen, probes, mine)), ())


def _mistake_behind(
    exercise: Exercise, probes: Sequence[tuple], mine: Sequence[dict], what: str
) -> Mistake | None:
    """The only mistake, if there is just one, with which the reference shows this one thing as the learner's does."""
    parts = [{what: seen[what]} for seen in mine if what in seen]
    found = [m for m in exercise.mistakes if parts and _explain(exercise, (m.name,), probes, parts)]
    return found[0] if len(found) == 1 else None


def _explain(exercise: Exercise, names: Sequence[str], probes: Sequence[tuple], mine: Sequence[dict]) -> bool:
    """Whether the reference with these mistakes shows what the learner's function does, on every probe."""
    wrong = exercise.with_mistakes(names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = (
                (seen, observe(exercise, wrong, args)[0]) for args, seen in zip(probes, mine, strict=True)
            )
            return all(same(seen, {what: other[what] for what in seen}) for seen, other in runs)
    except Exception:  # some mistakes do not go together
        return False


def _most_telling(
    exercise: Exercise, first: Difference, differences: list[Difference], learner: Watched
) -> str:
    """What to say of the difference from which a learner can best go on."""
    if first.kind == "detached":
        names = _listed([exercise.arguments[position] for position in exercise.gradients])
        return (
            f"No gradient flows back from what you return ({describe(learner.returned)}) to {names}, so nobody could "
            "learn from it. Is there a .detach(), .item(), .data, float(…), torch.tensor(…) or no_grad in the way?"
        )
    pairs = [found.values for found in differences if found.what == first.what and found.values]
    if first.kind != "another mistake" or not pairs:
        return first.text
    right_value = exercise.observe is None and all(found.what != RESULT for found in differences)
    return f"{'the values are right. ' if right_value else ''}{_sentence(common_factor(pairs) + first.text)}"


def _unstable(exercise: Exercise, generator: torch.Generator, learner: Watched) -> Verdict | None:
    """The verdict on a function that is right on the probes but not at extreme arguments."""
    for args in exercise.stress(generator) if exercise.stress else ():
        right, _ = observe(exercise, exercise.reference, args)
        outcome = sandbox.run(lambda args=args: observe(exercise, learner, args)[0])
        found = () if outcome.value is None else list(compare(outcome.value, right))
        if outcome.value is not None and not found:
            continue
        largest = max(
            (value.abs().max().item() for value in tensors(args) if value.is_floating_point()), default=0
        )
        what = _sentence(found[0].text) if found else f"There, it stops with {in_words(outcome.error)}."
        hint = "Look for exp of a large number, log of 0, or a difference of two large numbers."
        text = f"Right, but unstable. With numbers as large as {largest:.4g} in its arguments it fails. {what} {hint}"
        return Verdict(True, "right, but unstable", text)
    return None


def _slow(exercise: Exercise, learner: Watched) -> Verdict | None:
    """The verdict on a function that is right but loops over rows in Python: it is counted, not timed."""
    if exercise.growth is None:
        return None
    few, many = (operations(exercise.reference, exercise.growth(rows)) for rows in ROWS)
    due = many - few
    outcome = sandbox.run(lambda: [operations(learner, exercise.growth(rows)) for rows in ROWS])
    few, many = outcome.value or (0, 0)
    if many - few < due + ROWS[1] - ROWS[0]:  # less than one operation for each further row
        return None
    text = (
        f"Right, but slow. For {ROWS[0]} rows it takes {few} tensor operations, for {ROWS[1]} rows {many}: is there a "
        "Python loop? One operation can work on all rows at once, on a GPU in about the time of one."
    )
    return Verdict(True, "right, but slow", text)


# --------------------------------------------------------------------- answers that are not run, or do not finish


def not_a_function(problem: str) -> Verdict:
    return Verdict(False, "not a function", _wrapped(f"Not yet. {problem}"))


def _not_worth_running(exercise: Exercise, answer: Any) -> Verdict | None:
    if answer is ... or _is_empty(answer):
        text = "Not attempted yet. Put your code in place of the ... and run the cell again."
        return Verdict(False, "not attempted", text)
    if not callable(answer):
        due = f"Give the function itself, without calling it: check.{exercise.name}({exercise.name})."
        return not_a_function(f"You gave {describe(answer)} where your function is due. {due}")
    if inspect.iscoroutinefunction(answer):
        return not_a_function("Your function is declared with async, and an ordinary def is due.")
    if inspect.isgeneratorfunction(answer) and not inspect.isgeneratorfunction(exercise.reference):
        return not_a_function("Your function has a yield, which makes it a generator; a return is due.")
    return None


def _is_empty(answer: Any) -> bool:
    """Whether a function has nothing in it but `...`, `pass`, a docstring, or returns `...`."""
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


def _did_not_finish(
    exercise: Exercise, learner: Watched, reference: Watched, outcome: sandbox.Outcome
) -> Verdict:
    """The verdict on a function that ran out of time or raised."""
    error, where = outcome.error, f", in {outcome.line}" if outcome.line else ""
    kind, text = "raises", f"Your function stopped with {in_words(error)}{where}."
    if outcome.out_of_time:
        kind, text = (
            "out of time",
            f"Your function was still running after {sandbox.TIME_LIMIT:.0f} seconds{where}",
        )
        if outcome.still_running:
            text += ", and could not be stopped: restart the kernel when it becomes slow."
        else:
            text += ", and was stopped. Is there a loop that never ends?"
    elif "ellipsis" in str(error).lower():
        text = f"Not finished yet. There still is a ... in your function{where}."
        return _finished(Verdict(False, "not attempted", text), outcome.printed)
    elif isinstance(error, CannotCall):
        kind, text = "wrong arguments", str(error)
    elif isinstance(error, RecursionError):
        text = f"Your function calls itself without end{where}."
    elif isinstance(error, SystemExit):
        text = f"Your function calls exit(), which would end the whole program{where}. return is enough."
    elif isinstance(error, KeyboardInterrupt):
        text = f"Your function raised KeyboardInterrupt{where}."
    elif not learner.running and learner.returned is None and reference.returned is not None:
        kind, text = "returns nothing", "Your function returns None: is there a return?"
    elif not learner.running:  # it returned, and then its result was used, or its gradient computed
        text = (
            f"What your function returned, {describe(learner.returned)}, cannot be used: {in_words(error)}."
        )
    return _finished(Verdict(False, kind, f"Not yet. {text}"), outcome.printed)


def _finished(verdict: Verdict, printed: sandbox.Printed) -> Verdict:
    """The verdict with the first lines that the function printed, and its lines broken for a narrow window."""
    text = _wrapped(verdict.text)
    if printed.characters:
        shown = "\n".join(f"{INDENT}{line[:90]}" for line in printed.kept.splitlines()[:5])
        text += f"\nIt printed {printed.characters:,} characters, which begin with\n{shown}"
    return Verdict(verdict.solved, verdict.kind, text, verdict.mistakes)


# ----------------------------------------------------------------------------------------------- looking at a run


class CannotCall(TypeError):
    """The function takes other arguments than it is given."""


class Watched:
    """A function that remembers what it returned last, and whether it has returned at all."""

    def __init__(self, function: Callable) -> None:
        self.function, self.returned, self.running = function, None, False
        try:
            self.signature = inspect.signature(function)
        except (TypeError, ValueError):  # some functions written in C have none
            self.signature = None

    def __call__(self, *args: Any, **named: Any) -> Any:
        self._check_call(args, named)
        self.running = True
        self.returned = self.function(*args, **named)
        self.running = False
        return self.returned

    def _check_call(self, args: tuple, named: dict) -> None:
        try:
            if self.signature:
                self.signature.bind(*args, **named)
        except TypeError as error:
            given = len(args) + len(named)
            raise CannotCall(
                f"Your function takes the arguments {self.signature}, and it is called with {given}: {error}. "
                "Keep the first line as it was."
            ) from error


def observe(exercise: Exercise, function: Callable, args: tuple) -> tuple[dict[str, Any], set[str]]:
    """What is seen when `function` gets a copy of `args`, and the names of the arguments that it changed."""
    torch.default_generator.manual_seed(0)  # random choices inside of it are the same each time
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (it is the learner's global generator that is meant)
    args, before = copy.deepcopy(args), copy.deepcopy(args)
    if exercise.observe:
        seen = exercise.observe(function, *args)
    else:
        args, seen = _result_and_gradients(exercise, function, args)
    pairs = zip(exercise.arguments, args, before, strict=False)
    return seen, {name for name, now, then in pairs if not _unchanged(now, then)}


def _result_and_gradients(
    exercise: Exercise, function: Callable, args: tuple
) -> tuple[tuple, dict[str, Any]]:
    leaves = {position: args[position].requires_grad_() for position in exercise.gradients}
    # not the leaves themselves: in a copy, changes in place are allowed and can be seen
    args = tuple(arg.clone() if position in leaves else arg for position, arg in enumerate(args))
    result = function(*args)
    seen = {RESULT: result}
    outputs = [value for value in tensors(result) if value.requires_grad]
    if leaves:
        seen[GRADIENT_FLOWS] = bool(outputs)
        # one number from all that it returned, each entry with another weight
        total = sum(
            (value * torch.arange(1.0, value.numel() + 1).cos().view_as(value)).sum() for value in outputs
        )
        gradients = dict.fromkeys(leaves)
        if outputs:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            gradients = dict(zip(leaves, found, strict=True))
        for position, leaf in leaves.items():
            name = f"its gradient with respect to {exercise.arguments[position]}"
            gradient = gradients[position]
            seen[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return args, seen


def _unchanged(now: Any, then: Any) -> bool:
    pairs = itertools.zip_longest(tensors(now), tensors(then))
    return all(a is not None and b is not None and a.shape == b.shape and _equal(a, b) for a, b in pairs)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.detach().nan_to_num(nan=0.5), b.detach().nan_to_num(nan=0.5))


class _Counter(TorchFunctionMode):
    count = 0

    def __torch_function__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def operations(function: Callable, args: tuple) -> int:
    """The number of torch operations in function(*args)."""
    with _Counter() as counter:
        function(*args)
    return counter.count


@contextmanager
def _everything_as_it_was() -> Iterator[None]:
    """Random numbers and torch's settings are afterwards as they were before, and meanwhile as they usually are."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- words


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="") for line in text.splitlines())
