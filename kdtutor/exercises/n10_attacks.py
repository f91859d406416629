"""The exercise of notebook 10 on what counts as a successful attack."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import observe_number

# ------------------------------------------------------------------------------------- 10.4 what an attack is worth


def attack_success(
    before: Tensor, after: Tensor, labels: Tensor, human: Tensor, wrong: frozenset[str] = RIGHT
) -> float:
    """Tell which share of the texts that the model had right, and that still deserve their label, it now has wrong.

    before, after: its answers to the texts as they were and as they were attacked; labels: of the texts as they were;
    human: what a person says the attacked text is; all (N,).
    """
    was_right, fooled = before == labels, after != labels
    kept = human == labels
    if "the label may change" in wrong:
        kept = torch.ones_like(kept)
    if "wrong from the start" in wrong:
        was_right = torch.ones_like(was_right)
    if "against the human" in wrong:
        fooled, kept = after != human, torch.ones_like(kept)
    if "any change of the answer" in wrong:
        fooled, was_right = after != before, torch.ones_like(was_right)
    if "the first answer for the label" in wrong:
        fooled, was_right, kept = after != before, torch.ones_like(was_right), human == before
    tried = was_right & kept
    found = tried & fooled
    if "of all texts" in wrong:
        return float(found.float().mean())
    if "of those that it had right" in wrong:
        return float(found.sum() / was_right.sum())
    if "of those that keep their label" in wrong:
        return float(found.sum() / kept.sum())
    if "a count" in wrong:
        return float(found.sum())
    if "of those that it had right, any change counted" in wrong:
        return float(((after != before) & (human == labels)).sum() / (before == labels).sum())
    if "the points lost" in wrong:
        return float((before == labels).float().mean() - (after == labels).float().mean())
    if "the points lost, of those it had right" in wrong:
        return float(1 - (after == labels).sum() / (before == labels).sum())
    share = float(found.sum() / tried.sum())
    return 1 - share if "who withstood" in wrong else share


def _success_probes(generator: torch.Generator) -> list[tuple]:
    def draw(n: int, chance: float, labels: Tensor) -> Tensor:
        """Draw labels, each replaced by another class with this probability."""
        other = (labels + torch.randint(1, 3, (n,), generator=generator)) % 3
        return torch.where(torch.rand(n, generator=generator) < chance, other, labels)

    probes = []
    for n in (60, 80, 50):
        labels = torch.randint(3, (n,), generator=generator)
        human = draw(n, 0.3, labels)
        probes.append((draw(n, 0.25, labels), draw(n, 0.4, human), labels, human))
    return probes


ATTACK_SUCCESS = Exercise(
    name="attack_success",
    number="10.4",
    title="What counts as a successful attack",
    reference=attack_success,
    mistakes=(
        Mistake(
            "the label may change",
            'You count attacks that changed the text\'s meaning. Who turns "good" into "bad" has fooled nobody: the '
            "model is right to change its mind.",
        ),
        Mistake(
            "wrong from the start",
            "You count texts that the model had wrong before anybody attacked it.",
        ),
        Mistake(
            "against the human",
            "You compare with what the attacked text is now. Left out were to be the texts whose label changed.",
        ),
        Mistake(
            "any change of the answer",
            "You count every change of the answer, also from wrong to right.",
            also=("of those that it had right, any change counted",),
        ),
        Mistake(
            "the first answer for the label",
            "You take the model's first answer for the truth. Where it was wrong to begin with, there was nothing to "
            "attack.",
        ),
        Mistake("of all texts", "You divide by all texts: by those, too, on which no attack could succeed."),
        Mistake(
            "of those that it had right",
            "What you count is right. You divide by all texts that it had right, also by those whose label changed.",
        ),
        Mistake(
            "of those that keep their label",
            "What you count is right. You divide by all texts that keep their label, also those it had wrong before.",
        ),
        Mistake("a count", "You return how many they are: which share of the texts is that?"),
        Mistake(
            "the points lost",
            "You compare two accuracies. Texts that were wrong before and are right now hide some of the attacks: look "
            "at each text by itself.",
            also=("the points lost, of those it had right",),
        ),
        Mistake("who withstood", "That is the share that withstood."),
    ),
    probes=_success_probes,
    observe=partial(observe_number, "the success"),
)


EXERCISES = [ATTACK_SUCCESS]
