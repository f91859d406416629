"""What an exercise is made of, and what comes of checking an answer to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from kdtutor.exercises.cards import card


@dataclass(frozen=True)
class Mistake:
    """A misconception: its name, which the reference knows as a switch, and a hint that leads without giving away.

    also: further switches, each another way to write the same mistake.
    """

    name: str
    hint: str
    also: tuple[str, ...] = ()

    @property
    def switches(self) -> tuple[str, ...]:
        return (self.name, *self.also)


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """What a learner has to write, and how to find out what they wrote.

    reference(*args, wrong=frozenset()) is the answer; `wrong` holds names of mistakes, each of which changes a line.
    probes(generator) makes a list of argument tuples. gradients: positions of the tensors whose gradients count too.
    stress(generator): arguments at which a right but unstable function fails; survives: whether the notebook asks for
    their result too, so that such a function is not accepted. growth(n): arguments with n rows; if
    the number of torch operations grows with n, the function is right but slow. observe(function, *args): what to
    look at, as readable phrase → tensor, number, bool or str; by default the result and its gradients.
    terms: where things are counted, product of the arguments → what it is the size of.
    planted: the mistakes in the script that the notebook gives to be repaired, and symptom, what is seen of them. While
    they are all that is wrong, the symptom is said again, and no name.
    """

    name: str
    number: str
    title: str
    reference: Callable
    mistakes: Sequence[Mistake]
    probes: Callable[[torch.Generator], Sequence[tuple]]
    gradients: tuple[int, ...] = ()
    stress: Callable[[torch.Generator], Sequence[tuple]] | None = None
    survives: bool = False
    growth: Callable[[int], tuple] | None = None
    observe: Callable[..., dict[str, Any]] | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    planted: tuple[str, ...] = ()
    symptom: str = ""

    @cached_property
    def arguments(self) -> list[str]:
        return [name for name in inspect.signature(self.reference).parameters if name != "wrong"]

    def with_mistakes(self, names: Iterable[str]) -> Callable:
        return partial(self.reference, wrong=frozenset(names))


@dataclass(frozen=True)
class Misconception(Mistake):
    """A mistake that leads to other numbers: those that somebody predicts, or measures, who makes it."""

    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question to numbers: predict them, change a setting, measure, and say why they came out as they did.

    settings: what each number is for. numbers: what a careful measurement gives, up to `near`, a fraction of the number
    (or of the largest, where that is small). reasons: letter, as the notebook lists them → what is wrong with that
    reason; None stands for the right one.
    """

    name: str
    number: str
    title: str
    settings: Sequence[str]
    numbers: Sequence[float]
    beliefs: Sequence[Misconception]
    reasons: Mapping[str, Mistake | None]
    slips: Sequence[Misconception] = ()
    near: float = 0.05

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        return (*self.beliefs, *self.slips, *(reason for reason in self.reasons.values() if reason))


@dataclass(frozen=True, repr=False)
class Verdict:
    """Feedback. `kind` is a short name of it, `mistakes` are those recognised, the text is what it shows itself as."""

    solved: bool
    kind: str
    text: str
    mistakes: tuple[str, ...] = ()
    then: str = ""  # after a right answer, the exercise that follows in the notebook

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str | None:
        """Draw a card in a notebook; what was not attempted stays a line of text."""
        if self.kind == "not attempted":
            return None
        return card(self.kind, self.solved, self.mistakes, self.text, self.then)
