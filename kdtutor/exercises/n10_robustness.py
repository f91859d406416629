"""The exercises of notebook 10 on honest figures: a temperature, a calibration error, an attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------- 10.2 temperature scaling


def scaled_loss(
    validation_logits: Tensor, validation_labels: Tensor, test_logits: Tensor, test_labels: Tensor,
    temperatures: Sequence[float], wrong: frozenset[str] = RIGHT,
) -> tuple[float, float]:  # fmt: skip
    """The best of some temperatures, and the cross-entropy on test with it: logits (N, C), labels (N,)."""

    def loss(logits: Tensor, labels: Tensor, t: float) -> float:
        if "multiplied" in wrong:
            t = 1 / t
        scaled = logits.softmax(-1) / t if "probabilities divided" in wrong else logits / t
        return float(F.cross_entropy(scaled, labels))

    fitted = (validation_logits, validation_labels)
    if "fitted on test" in wrong:
        fitted = (test_logits, test_labels)
    if "fitted on both" in wrong:
        fitted = (
            torch.cat([validation_logits, test_logits]),
            torch.cat([validation_labels, test_labels]),
        )
    losses = [loss(*fitted, t) * (t * t if "a loss times T²" in wrong else 1) for t in temperatures]
    worst = "the largest loss" in wrong
    best = temperatures[losses.index(max(losses) if worst else min(losses))]
    if "by accuracy" in wrong:
        best = temperatures[0]
    if "by the mean confidence" in wrong:
        right = (fitted[0].argmax(-1) == fitted[1]).float().mean()
        best = min(
            temperatures, key=lambda t: abs(float((fitted[0] / t).softmax(-1).amax(-1).mean() - right))
        )
    if "by squares" in wrong:
        hot = F.one_hot(fitted[1], fitted[0].shape[-1])
        best = min(temperatures, key=lambda t: float(((fitted[0] / t).softmax(-1) - hot).square().mean()))
    if "the accuracy" in wrong:
        return best, float((test_logits.argmax(-1) == test_labels).float().mean())
    measured = fitted if "the loss where it was fitted" in wrong else (test_logits, test_labels)
    if "not applied" in wrong:
        return best, float(F.cross_entropy(test_logits, test_labels))
    found = loss(*measured, best) * (best * best if "a loss times T²" in wrong else 1)
    return temperatures.index(best) if "its place in the list" in wrong else best, found


def _observe_scaled(function: Callable, *arguments: object) -> dict:
    temperature, loss = function(*arguments)
    return {
        "the temperature": torch.tensor(float(temperature)),
        "the loss on test": torch.tensor(float(loss)),
    }


def _scaled_probes(generator: torch.Generator) -> list[tuple]:
    def split(sharp: float, noise: float) -> tuple[Tensor, Tensor]:
        true = noise * torch.randn(80, 3, generator=generator)
        labels = torch.multinomial(true.softmax(-1), 1, generator=generator)[:, 0]
        return sharp * true, labels

    grid = [6.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0]

    def chosen(probe: tuple, *wrong: str) -> float:
        return scaled_loss(*probe, grid, wrong=frozenset(wrong))[0]

    # Validation and test want different temperatures: nobody finds the one by the other.
    # The best one stands first, last and in the middle: nobody may leave out an end of the list.
    probes = []
    for noise, sharp, on_test in ((1.5, 2.0, 4.5), (2.0, 3.0, 1.0), (1.5, 0.7, 2.0)):
        probe = *split(sharp, noise), *split(on_test, noise)
        # nor by making the mean confidence that of the right answers
        while chosen(probe) == chosen(probe, "by the mean confidence"):
            probe = *split(sharp, noise), *split(on_test, noise)
        best, at = chosen(probe), (0, len(grid), 4)[len(probes)]
        others = [t for t in grid if t != best]
        probes.append((*probe, [*others[:at], best, *others[at:]]))
    return probes


SCALED_LOSS = Exercise(
    name="scaled_loss",
    number="10.2",
    title="A temperature for the doubt",
    reference=scaled_loss,
    mistakes=(
        Mistake(
            "by the mean confidence",
            "You choose the temperature at which the mean confidence is the share of right answers. Such a mean hides "
            "who is too sure and who too modest: by which number was the model trained?",
        ),
        Mistake(
            "its place in the list", "You return where the temperature stands in the list: which one is it?"
        ),
        Mistake(
            "fitted on test",
            "You choose the temperature on the texts that are to judge it. What the test part says is then no "
            "measurement any more.",
        ),
        Mistake(
            "fitted on both",
            "You choose the temperature on validation and test together. The part that judges may not choose.",
        ),
        Mistake(
            "a loss times T²",
            "You multiply by T², as soft targets are. Here labels are hard and nothing is distilled: T² only favours "
            "low temperatures.",
        ),
        Mistake(
            "by squares",
            "You choose by squared differences of probabilities, Brier's score. The cross-entropy is asked for.",
        ),
        Mistake("the accuracy", "Your second value is an accuracy. The cross-entropy on test is asked for."),
        Mistake("by accuracy", "You choose by accuracy, which is the same at every temperature."),
        Mistake("the loss where it was fitted", "Your loss is that of validation: test is to be measured."),
        Mistake("not applied", "The temperature is right, and your loss is that of the logits as they were."),
        Mistake("multiplied", "You multiply by the temperature: a high one should make a model less sure."),
        Mistake("probabilities divided", "You divide probabilities. A temperature divides logits."),
        Mistake("the largest loss", "Your temperature is the one that fits worst."),
    ),
    probes=_scaled_probes,
    observe=_observe_scaled,
)


# ------------------------------------------------------------------------------------- 10.3 fixed bins


UNWEIGHTED = frozenset(("every bin alike", "gaps added up", "the largest gap", "divided by all bins"))


def _equal_mass(confidence: Tensor, right: Tensor, bins: int) -> float:
    """The error in bins that hold equally many texts."""
    parts = confidence.argsort().chunk(bins)
    return sum(
        len(p) / len(right) * abs(float(right[p].float().mean() - confidence[p].mean())) for p in parts
    )


def calibration_error(confidence: Tensor, right: Tensor, bins: int, wrong: frozenset[str] = RIGHT) -> float:
    """Σ_b n_b / N · |accuracy_b − confidence_b| over equal bins of (0, 1]: confidence (N,), right (N,), 0 or 1."""

    def error(count: int) -> float:
        if "as many texts in each bin" in wrong:
            return _equal_mass(confidence, right, count)
        which = (confidence * count).ceil().long().clamp(1, count) - 1
        if "each bin with its lower end" in wrong:
            which = (confidence * count).floor().long()
        if "each bin with its lower end, the last with both" in wrong:
            which = (confidence * count).floor().long().clamp(max=count - 1)
        gaps = []
        for b in range(count):
            inside = which == b
            if inside.any() or "empty bins make NaN" in wrong:
                sure = confidence[inside].mean()
                if "the middle of the bin for its confidence" in wrong:
                    sure = torch.tensor((b + 0.5) / count)
                gap = right[inside].float().mean() - sure
                gap = gap**2 if "squared gaps" in wrong else gap
                gap = gap if "signs kept" in wrong else gap.abs()
                share = inside.float().mean()
                gaps.append(gap if UNWEIGHTED & wrong else share * gap)
        total = torch.stack(gaps)
        if "divided by all bins" in wrong:
            return float(total.sum() / count)
        if "every bin alike" in wrong:
            return float(total.mean())
        return float(total.max() if {"the worst bin", "the largest gap"} & wrong else total.sum())

    if "bins chosen afterwards" in wrong:
        return min(error(count) for count in range(max(2, bins // 2), 2 * bins))
    if "the most damning bins" in wrong:
        return max(error(count) for count in range(max(2, bins // 2), 2 * bins))
    if "one bin" in wrong:
        return error(1)
    if "text by text" in wrong:
        return float((right.float() - confidence).abs().mean())
    return error(bins)


def _observe_error(function: Callable, *arguments: object) -> dict:
    return {"the error": torch.tensor(float(function(*arguments)))}


def _error_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, bins in ((60, 8), (90, 16), (40, 4)):  # whose ends are exact in floating point
        confidence = 0.05 + 0.94 * torch.rand(texts, generator=generator)
        confidence[:8] = torch.randint(1, bins, (8,), generator=generator) / bins
        confidence[8] = 1.0
        empty = (confidence > 1 / bins) & (confidence < 2 / bins) if bins == 16 else confidence < 0
        confidence[empty | (confidence == 2 / 16)] += 0.3 if bins == 16 else 0.0
        # Too sure above a half, too modest below: in one bin the two would cancel.
        chance = (confidence + torch.where(confidence > 0.5, -0.35, 0.35)).clamp(0.02, 0.98)
        right = torch.rand(texts, generator=generator) < chance
        probes.append((confidence, right, bins))
    return probes


CALIBRATION_ERROR = Exercise(
    name="calibration_error",
    number="10.3",
    title="As sure as right, in bins fixed beforehand",
    reference=calibration_error,
    mistakes=(
        Mistake(
            "bins chosen afterwards",
            "You try several numbers of bins and report the kindest. Who chooses the ruler after the measurement "
            "measures nothing.",
            also=("the most damning bins",),
        ),
        Mistake(
            "one bin",
            "All texts are in one bin: too sure here and too modest there cancel each other.",
        ),
        Mistake(
            "each bin with its lower end",
            "Of a text whose confidence lies on the border of two bins, you choose the upper one. A bin is to have its "
            "upper end, and 1 is in the last.",
            also=("each bin with its lower end, the last with both",),
        ),
        Mistake(
            "empty bins make NaN",
            "A bin without texts has no mean: yours is 0/0, and NaN spreads to the sum.",
        ),
        Mistake(
            "the middle of the bin for its confidence",
            "You take the middle of a bin for the confidence of its texts. How sure the model was of them, is known.",
        ),
        Mistake(
            "squared gaps", "Your gaps are squared, so that small ones hardly count. Their size is asked for."
        ),
        Mistake(
            "gaps added up", "You add up the gaps of the bins: which share of the texts does a bin hold?"
        ),
        Mistake("the largest gap", "That is the largest gap, known as the maximum calibration error."),
        Mistake("signs kept", "Your gaps keep their signs, and cancel each other."),
        Mistake(
            "every bin alike",
            "A bin with two texts weighs as much as one with two hundred.",
            also=("divided by all bins",),
        ),
        Mistake(
            "as many texts in each bin",
            "Your bins hold equally many texts. Here their ends are fixed beforehand, equally far apart.",
        ),
        Mistake("the worst bin", "That is the largest share of one bin, not the sum."),
        Mistake(
            "text by text",
            "You compare text by text. One text is right or wrong: only of many can you say whether 70 % were right.",
        ),
    ),
    probes=_error_probes,
    observe=_observe_error,
)


# ------------------------------------------------------------------------------------- 10.4 what an attack is worth


def attack_success(
    before: Tensor, after: Tensor, labels: Tensor, human: Tensor, wrong: frozenset[str] = RIGHT
) -> float:
    """Of the texts that the model had right and that still deserve their label: the share that it has wrong afterwards.

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
    if "the points lost" in wrong:
        return float((before == labels).float().mean() - (after == labels).float().mean())
    if "the points lost, of those it had right" in wrong:
        return float(1 - (after == labels).sum() / (before == labels).sum())
    share = float(found.sum() / tried.sum())
    return 1 - share if "who withstood" in wrong else share


def _observe_success(function: Callable, *arguments: object) -> dict:
    return {"the success": torch.tensor(float(function(*arguments)))}


def _success_probes(generator: torch.Generator) -> list[tuple]:
    def draw(n: int, chance: float, labels: Tensor) -> Tensor:
        """Labels, each replaced by another class with this probability."""
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
            "any change of the answer", "You count every change of the answer, also from wrong to right."
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
    observe=_observe_success,
)

EXERCISES = [SCALED_LOSS, CALIBRATION_ERROR, ATTACK_SUCCESS]
