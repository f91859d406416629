"""One run of a function on one probe: what is seen of it, told in values that can travel between processes."""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from numbers import Number
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdtutor.exercises import sandbox
from kdtutor.exercises.comparing import GRADIENT, GRADIENT_FLOWS, RESULT, same, tensors
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.words import Unlike, describe, in_words

SLOW_TO_IMPORT = "pandas", "scipy", "sklearn", "transformers"


class CannotCall(TypeError):
    """The function takes other arguments than it is given."""


@dataclass(frozen=True)
class Failure:
    """An exception, in words."""

    kinds: tuple[str, ...]  # the names of its type and of that type's bases
    words: str
    line: str  # the learner's own in which it was raised


@dataclass
class Run:
    """What was seen of a function on one probe, or how it failed."""

    seen: dict[str, Any] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()  # the names of the arguments that it changed
    failure: Failure | None = None
    has_returned: bool = False
    returned: Any = None  # last

    def is_as(self, right: Run) -> bool:
        """Say whether everything is as in another run, which did not fail."""
        return not self.failure and self.changed <= right.changed and same(self.seen, right.seen)


def run(exercise: Exercise, function: Callable, args: tuple, seed: int = 0) -> Run:
    """Call `function` on a copy of `args` and look at what it does. Raises nothing of what the function raises.

    seed: of the random choices that are made inside of it.
    """
    watched = Watched(function)
    try:
        seen, changed = observe(exercise, watched, args, seed)
        result = Run(portable(seen), frozenset(changed), None, True)
    except sandbox.OutOfTime:
        raise
    except BaseException as error:  # a learner may raise SystemExit or KeyboardInterrupt too
        kinds = tuple(kind.__name__ for kind in type(error).__mro__)
        result = Run(
            {}, frozenset(), Failure(kinds, in_words(error), sandbox.line_of(error)), not watched.running
        )
    result.returned = portable(watched.returned)
    return result


class Watched:
    """A function that remembers what it returned last, and whether it is still running."""

    def __init__(self, function: Callable) -> None:
        self.function, self.returned, self.running = function, None, True

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.running = True
        try:
            self.returned = self.function(*args, **named)
        except TypeError as error:
            if not error.__traceback__.tb_next:  # raised before its first line
                self._refuse(args, named)
            raise
        self.running = False
        return self.returned

    def _refuse(self, args: tuple, named: dict) -> None:
        """Say what the function takes, if it is something else than it was given."""
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some functions written in C have none
            return
        try:
            signature.bind(*args, **named)
        except TypeError as error:
            given = len(args) + len(named)
            raise CannotCall(
                f"Your function takes the arguments {signature}, and it is called with {given}: {error}. "
                "Keep the first line as it was."
            ) from error


def observe(
    exercise: Exercise, function: Callable, args: tuple, seed: int = 0
) -> tuple[dict[str, Any], set[str]]:
    """Observe what `function` does with a copy of `args`, and the names of the arguments that it changed."""
    torch.default_generator.manual_seed(seed)  # random choices inside of it are the same each time
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (it is the learner's global generator that is meant)
    args, before = copy.deepcopy(args), args
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
            name = f"{GRADIENT} {exercise.arguments[position]}"
            gradient = gradients[position]
            seen[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return args, seen


def _unchanged(now: Any, then: Any) -> bool:
    pairs = itertools.zip_longest(tensors(now), tensors(then))
    return all(a is not None and b is not None and a.shape == b.shape and _equal(a, b) for a, b in pairs)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.detach().nan_to_num(nan=0.5), b.detach().nan_to_num(nan=0.5))


def portable(value: Any, depth: int = 0) -> Any:
    """Turn a value into plain Python, torch and NumPy values; what is none of these, into its description."""
    if depth > 6:
        return Unlike(describe(value))
    if value is None or value is ... or type(value) in (bool, int, float, complex, str):
        return value
    if isinstance(value, Tensor):
        plain = value.detach().as_subclass(Tensor)
        return plain.to("cpu", copy=True) if plain.layout == torch.strided else Unlike(describe(value))
    if isinstance(value, Mapping):
        return {portable(key, depth + 1): portable(part, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(portable(part, depth + 1) for part in value)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return np.array(value) if isinstance(value, np.ndarray) else value.item()
    if isinstance(value, (int, float)) and isinstance(value, Number):  # such as an enumeration's
        return (int if isinstance(value, int) else float)(value)
    return Unlike(describe(value))


def preload(function: Callable) -> None:
    """Import what a function will import from libraries that take seconds to do so: no part of its time."""
    codes = [getattr(function, "__code__", None)]
    while codes:
        if code := codes.pop():
            codes += [const for const in code.co_consts if inspect.iscode(const)]
            for name in code.co_names:
                if name.partition(".")[0] in SLOW_TO_IMPORT:
                    with suppress(ImportError):
                        importlib.import_module(name)


class _Counter(TorchFunctionMode):
    count = 0

    def __torch_function__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def operations(function: Callable, args: tuple) -> int:
    """Count the torch operations in function(*args)."""
    with _Counter() as counter:
        function(*args)
    return counter.count


@contextmanager
def everything_as_it_was() -> Iterator[None]:
    """Restore random numbers and torch's settings afterwards; meanwhile they are as they usually are."""
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


def replaced_functions() -> list[str]:
    """List torch's functions that the notebook has replaced by its own: our answers are computed with them, too."""
    places = {"torch": torch, "torch.Tensor": Tensor, "F": torch.nn.functional}
    return [
        f"{place}.{name}"
        for place, home in places.items()
        for name, value in vars(home).items()
        if type(value) is FunctionType and sandbox.is_the_learners(value.__code__.co_filename)
    ] + [
        f"torch.{name}"
        for name in ("softmax", "log_softmax", "exp", "log", "matmul", "where", "argmax", "tanh", "sqrt")
        if getattr(getattr(torch, name), "__name__", name) != name
    ]
