"""The exercises of notebook 10 on honest figures: a temperature, a calibration error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import observe_number

# ------------------------------------------------------------------------------------- 10.2 temperature scaling


def scaled_loss(
    validation_logits: Tensor, validation_labels: Tensor, test_logits: Tensor, test_labels: Tensor,
    temperatures: Sequence[float], wrong: frozenset[str] = RIGHT,
) -> tuple[float, float]:  # fmt: skip
    """Find the best of some temperatures, and the cross-entropy on test with it: logits (N, C), labels (N,)."""

    def loss(logits: Tensor, labels: Tensor, t: float) -> float:
        if "multiplied" in wrong:
            t = 1 / t
        if "logarithms divided" in wrong:
            return float(F.nll_loss(logits.log_softmax(-1) / t, labels))
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
    if "the error rate" in wrong:
        return best, float((test_logits.argmax(-1) != test_labels).float().mean())
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
        Mistake(
            "the accuracy",
            "Your second value counts right or wrong answers. The cross-entropy on test is asked for.",
            also=("the error rate",),
        ),
        Mistake(
            "logarithms divided",
            "You divide log-probabilities, whose exponentials no longer add up to 1. A temperature divides logits.",
        ),
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
    """Compute the error in bins that hold equally many texts."""
    parts = confidence.argsort().chunk(bins)
    return sum(
        len(p) / len(right) * abs(float(right[p].float().mean() - confidence[p].mean())) for p in parts
    )


# where in a bin its texts' confidence may be taken to lie; the first, its middle
PLACES = {"one place in the bin for its confidence": 0.5} | {
    f"the {end} end of the bin for its confidence": part for end, part in (("upper", 1.0), ("lower", 0.0))
}


def calibration_error(confidence: Tensor, right: Tensor, bins: int, wrong: frozenset[str] = RIGHT) -> float:
    """Sum n_b / N · |accuracy_b − confidence_b| over equal bins of (0, 1]: confidence (N,), right (N,), 0 or 1."""

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
                for place, part in PLACES.items():
                    if place in wrong:
                        sure = torch.tensor((b + part) / count)
                gap = right[inside].float().mean() - sure
                gap = gap**2 if {"squared gaps", "the root of squared gaps"} & wrong else gap
                gap = gap if "signs kept" in wrong else gap.abs()
                share = inside.float().mean()
                gaps.append(gap if UNWEIGHTED & wrong else share * gap)
        total = torch.stack(gaps)
        if "the root of squared gaps" in wrong:
            return float(total.sum() ** 0.5)
        if "divided by all bins" in wrong:
            return float(total.sum() / count)
        if "every bin alike" in wrong:
            return float(total.mean())
        return float(total.max() if {"the worst bin", "the largest gap"} & wrong else total.sum())

    if "bins chosen afterwards" in wrong:
        return min(error(count) for count in range(max(2, bins // 2), 2 * bins))
    if "the most damning bins" in wrong:
        return max(error(count) for count in range(max(2, bins // 2), 2 * bins))
    if "one bin too few" in wrong:
        return error(bins - 1)
    if "Brier's score" in wrong:
        return float((confidence - right.float()).square().mean())
    if "one bin" in wrong:
        return error(1)
    if "text by text" in wrong:
        return float((right.float() - confidence).abs().mean())
    return error(bins)


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
            "one place in the bin for its confidence",
            "You take one place in a bin for the confidence of its texts. How sure the model was of them, is known.",
            also=tuple(PLACES)[1:],
        ),
        Mistake(
            "one bin too few",
            "You have one bin too few: between n + 1 ends there are n bins.",
        ),
        Mistake(
            "Brier's score",
            "You take squared differences, text by text: that is Brier's score. Only of many texts can you say whether "
            "70 % were right.",
        ),
        Mistake(
            "squared gaps",
            "Your gaps are squared, so that small ones hardly count. Their size is asked for.",
            also=("the root of squared gaps",),
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
    observe=partial(observe_number, "the error"),
)


EXERCISES = [SCALED_LOSS, CALIBRATION_ERROR]
