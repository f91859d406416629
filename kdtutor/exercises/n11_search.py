"""The exercises of notebook 11: a grid, the best of k, a comparison that is tuned on both sides, and one report."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------- 11.1 a grid of rates


def rate_grid(low: float, high: float, points: int, wrong: Wrong = RIGHT) -> Tensor:
    """(points,): from low to high, both included, each the same factor above the one before."""
    if "even steps" in wrong:
        return torch.linspace(low, high, points)
    if "the exponents" in wrong:
        return torch.linspace(math.log10(low), math.log10(high), points)
    if "the logarithms" in wrong:
        return torch.linspace(math.log(low), math.log(high), points)
    if "without the upper end" in wrong:
        return low * (high / low) ** (torch.arange(points) / points)
    if "without the ends" in wrong:
        return low * (high / low) ** (torch.arange(1, points + 1) / (points + 1))
    grid = low * (high / low) ** (torch.arange(points) / (points - 1))
    if "doubled each time" in wrong:
        grid = low * 2.0 ** torch.arange(points)
    return grid.flip(0) if "from the highest" in wrong else grid


RATE_GRID = Exercise(
    name="rate_grid",
    number="11.1",
    title="A grid of learning rates",
    reference=rate_grid,
    mistakes=(
        Mistake(
            "even steps",
            "Your steps are equal differences. From 1e-4 to 1e-1 all but one of them would lie above 0.01, and the "
            "orders of magnitude in which a rate differs are never tried.",
        ),
        Mistake(
            "the exponents",
            "Those are exponents, evenly spread as they should be. What is the rate that belongs to each?",
            also=("the logarithms",),
        ),
        Mistake(
            "without the upper end",
            "Your grid stops before the upper end. Between so many points there is one step fewer.",
        ),
        Mistake("without the ends", "Your grid lies between low and high. Both of them belong to it."),
        Mistake(
            "doubled each time",
            "You double from point to point. The factor is to be the one that leads from low to high.",
        ),
        Mistake("from the highest", "The rates are right; the lowest should come first."),
    ),
    # 2e-2 is no whole multiple of 3e-3: a quotient rounded down is seen.
    probes=lambda generator: [(1e-4, 1e-1, 7), (3e-3, 2e-2, 5), (0.25, 16.0, 4)],
)


# ------------------------------------------------------------------------------------------- 11.2 the best of k


def expected_best(scores: Tensor, k: int, wrong: Wrong = RIGHT) -> Tensor:
    """What the best of k trials is worth on average, if each is drawn from these N measured ones (with replacement)."""
    values = scores.sort().values
    n = len(values)
    if "the best of all" in wrong:
        return values[-1]
    if "the mean" in wrong:
        return values.mean()
    if "the mean of the first k" in wrong:
        return scores[:k].mean()
    if "the best of the first k" in wrong:
        return scores[:k].max()
    if "in the order given" in wrong:
        values = scores
    if "a quantile" in wrong:
        return values[min(n - 1, math.floor(n * k / (k + 1)))]
    below = torch.arange(n, dtype=values.dtype) / n
    upto = (torch.arange(n, dtype=values.dtype) + 1) / n
    power = k - 1 if "one trial too few" in wrong else k
    chance = upto**power - below**power
    if "the worst of k" in wrong:
        chance = chance.flip(0)
    if "the chance that all are below" in wrong:
        chance = upto**power
    return (values * chance).sum()


def _score_probes(generator: torch.Generator) -> list[tuple]:
    return [(torch.rand(n, generator=generator, dtype=torch.double), k) for n, k in ((9, 3), (20, 5), (6, 2))]


EXPECTED_BEST = Exercise(
    name="expected_best",
    number="11.2",
    title="What is the best of k worth?",
    reference=expected_best,
    mistakes=(
        Mistake(
            "the best of all",
            "That is the best of all N trials. Somebody with a budget of k would not have made them all.",
        ),
        Mistake("the mean", "That is what one trial is worth on average. Of k trials the best is kept."),
        Mistake(
            "the best of the first k",
            "You take the first k as they come: one draw. What is asked for is the mean over all draws.",
            also=("the mean of the first k",),
        ),
        Mistake(
            "in the order given",
            "Your chances belong to scores in rising order. Yours are in the order of the trials.",
        ),
        Mistake(
            "the chance that all are below",
            "(i/N)^k is the chance that the best of k is *at most* the i-th score. The chance that it *is* the i-th is "
            "the difference to the one below.",
        ),
        Mistake("one trial too few", "The exponent is the number of draws."),
        Mistake("the worst of k", "You have the mean of the *worst* of k."),
        Mistake("a quantile", "A quantile is near it, and not the mean of the largest."),
    ),
    probes=_score_probes,
)


# ------------------------------------------------------------------------------------------- 11.3 tuned on both sides


def tuned_difference(
    student_validation: Tensor, student_test: Tensor, control_validation: Tensor, control_test: Tensor,
    wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """Student minus control on test, each at the rate with its own best mean on validation. All (rates, seeds)."""

    def best(scores: Tensor) -> int:
        return int((scores.amax(1) if "the luckiest seed chooses" in wrong else scores.mean(1)).argmax())

    chosen, other = best(student_validation), best(control_validation)
    if "the control has the student's rate" in wrong:
        other = chosen
    if "the control has the first rate" in wrong:
        other = 0
    if "the student has the control's rate" in wrong:
        chosen = other
    if "both chosen on test" in wrong:
        chosen, other = best(student_test), best(control_test)
    if "the student chosen on test" in wrong:
        chosen = best(student_test)
    if "the difference on validation" in wrong:
        return student_validation[chosen].mean() - control_validation[other].mean()
    mine, theirs = student_test[chosen], control_test[other]
    if "the best seed of each" in wrong:
        return mine.max() - theirs.max()
    if "control minus student" in wrong:
        return theirs.mean() - mine.mean()
    return mine.mean() - theirs.mean()


def _tuning_probes(generator: torch.Generator) -> list[tuple]:
    """Two arms whose best rates differ, with seeds that differ as much as rates do.

    Many, for a wrong choice of one rate among few is right now and then.
    """
    probes = []
    for rates, seeds in ((4, 3), (5, 5), (6, 2)) * 4:
        made = []
        for _ in range(2):
            height = torch.rand(rates, 1, generator=generator, dtype=torch.double)
            made += [
                height + torch.rand(rates, seeds, generator=generator, dtype=torch.double) for _ in range(2)
            ]
        probes.append(tuple(made))
    return probes


TUNED_DIFFERENCE = Exercise(
    name="tuned_difference",
    number="11.3",
    title="How much tuning did the control get?",
    reference=tuned_difference,
    mistakes=(
        Mistake(
            "the control has the student's rate",
            "Your control was trained at the rate that is best for the student. Who chose one for the control?",
        ),
        Mistake(
            "the control has the first rate",
            "One of your arms was not tuned at all: it has a rate that nobody chose for it.",
            also=("the student has the control's rate",),
        ),
        Mistake(
            "both chosen on test",
            "Your rates were chosen by the test split: what is reported is then the luckiest, and no split is left "
            "to say so.",
            also=("the student chosen on test",),
        ),
        Mistake(
            "the luckiest seed chooses",
            "Your rate is the one with the best single seed. The best of many seeds is luck: which rate is best on "
            "average?",
        ),
        Mistake("the best seed of each", "You compare the best seed of each arm. Compare their means."),
        Mistake(
            "the difference on validation",
            "Your difference is that on validation, by which both were chosen. Test is what is reported.",
        ),
        Mistake("control minus student", "The sign is the other way round: yours is control minus student."),
    ),
    planted=("the control has the student's rate",),
    symptom="The gain over the control is large at every temperature, and gone as soon as somebody else repeats it.",
    probes=_tuning_probes,
)


# ------------------------------------------------------------------------------------------- 11.4 the report


def report(validation: Tensor, test: Tensor, wrong: Wrong = RIGHT) -> tuple[int, float, float]:
    """Number of the chosen trial, its score to report, and its optimism; validation and test: (trials,)."""
    by = {"by test": test, "by both": (validation + test) / 2}.get(next(iter(wrong), ""), validation)
    winner = int(by.argmin() if "the lowest" in wrong else by.argmax())
    score = test[winner]
    if "validation reported" in wrong:
        score = validation[winner]
    if "the best test score reported" in wrong:
        score = test.max()
    if "the mean of all trials" in wrong:
        score = test.mean()
    gap = (
        test[winner] - validation[winner]
        if "test minus validation" in wrong
        else validation[winner] - test[winner]
    )
    if "the gap of all trials" in wrong:
        gap = (validation - test).mean()
    return winner, float(score), float(gap)


def _observe_report(function: Callable, *arguments: Tensor) -> dict:
    winner, score, gap = function(*arguments)
    return {
        "which trial is chosen": torch.tensor(float(winner), dtype=torch.double),
        "the score that is reported": torch.tensor(float(score), dtype=torch.double),
        "its optimism": torch.tensor(float(gap), dtype=torch.double),
    }


def _report_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for trials, kinder in ((8, 0.0), (15, 0.0), (30, 0.0), (8, 0.4), (15, 0.0), (30, 0.4)):
        # Where the test split is the kinder one, the optimism is negative.
        worth = 0.1 * torch.rand(trials, generator=generator, dtype=torch.double)
        luck = [0.3 * torch.rand(trials, generator=generator, dtype=torch.double) for _ in range(2)]
        probes.append((0.5 + worth + luck[0], 0.5 + worth + luck[1] + kinder))
    return probes


REPORT = Exercise(
    name="report",
    number="11.4",
    title="One number from the test split",
    reference=report,
    mistakes=(
        Mistake(
            "by test",
            "You chose by the test split. Of so many trials the best on test was lucky on test, and nothing unseen is "
            "left to show it.",
            also=("by both",),
        ),
        Mistake(
            "validation reported",
            "You report the score by which the winner was chosen: the best of k is too good to be true.",
        ),
        Mistake(
            "the best test score reported",
            "Your score is the best on test of all trials; the chosen trial's is asked for.",
        ),
        Mistake("the mean of all trials", "One student goes into use: report that one's score."),
        Mistake(
            "the gap of all trials",
            "Your optimism is the mean gap of all trials. The winner's is larger, since it was chosen for it.",
        ),
        Mistake("test minus validation", "Optimism is by how much validation said too much."),
        Mistake("the lowest", "You chose the trial with the lowest score."),
    ),
    probes=_report_probes,
    observe=_observe_report,
)

EXERCISES = [RATE_GRID, EXPECTED_BEST, TUNED_DIFFERENCE, REPORT]
