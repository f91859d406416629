"""The exercises of notebook 11 on the search itself: a grid of rates, and what the best of k trials is worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.comparing import RESULT
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------- 11.1 a grid of rates


def rate_grid(low: float, high: float, points: int, wrong: Wrong = RIGHT) -> Tensor:
    """List rates from low to high, both included, each the same factor above the one before: (points,)."""
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
    if "without the lower end" in wrong:
        return low * (high / low) ** (torch.arange(1, points + 1) / points)
    if "rates for exponents" in wrong:
        return torch.logspace(low, high, points)
    grid = low * (high / low) ** (torch.arange(points) / (points - 1))
    steps = torch.arange(points)
    if "squares" in wrong:
        grid = low + (high - low) * (steps / (points - 1)) ** 2
    if "the factor divided, not its root" in wrong:
        grid = low * (high / low / (points - 1)) ** steps
    if "the factor added" in wrong:
        grid = low + (high / low) ** (1 / (points - 1)) * steps
    if "multiples of the factor" in wrong:
        grid = torch.where(steps == 0, low, low * (high / low) ** (1 / (points - 1)) * steps)
    if "doubled each time" in wrong:
        grid = low * 2.0**steps
    if "ten times each time" in wrong:
        grid = low * 10.0**steps
    return grid.flip(0) if "from the highest" in wrong else grid


def _in_double(grid: object) -> object:
    """Turn rates into double precision, if they are a tensor: of which type they are was left open."""
    return grid.double() if isinstance(grid, Tensor) and grid.is_floating_point() else grid


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
        Mistake(
            "ten times each time",
            "You go up by tens. The factor is to be the one that leads from low to high in so many steps.",
        ),
        Mistake("without the lower end", "Your grid begins a step above low, and low belongs to it."),
        Mistake(
            "rates for exponents",
            "`torch.logspace` is given exponents of 10, and you give it the rates themselves.",
        ),
        Mistake(
            "the factor divided, not its root",
            "You divide the way from low to high by the steps. It is *multiplied* so many times: what undoes that?",
        ),
        Mistake(
            "squares",
            "Your steps grow, but not each by the same factor: those are squares, between low and high.",
        ),
        Mistake("the factor added", "You add the factor from point to point. It is to be multiplied."),
        Mistake(
            "multiples of the factor",
            "You take one, two, three times the factor. It is to be applied once more at each point: its power.",
        ),
        Mistake("from the highest", "The rates are right; the lowest should come first."),
    ),
    observe=lambda function, *arguments: {RESULT: _in_double(function(*arguments))},
    # 2e-2 is no whole multiple of 3e-3: a quotient rounded down is seen.
    probes=lambda generator: [(1e-4, 1e-1, 7), (3e-3, 2e-2, 5), (0.25, 16.0, 4)],
)


# ------------------------------------------------------------------------------------------- 11.2 the best of k


def expected_best(scores: Tensor, k: int, wrong: Wrong = RIGHT) -> Tensor:
    """Tell what the best of k trials is worth on average, each drawn from these N measured ones (with replacement)."""
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
    if "the median" in wrong:
        return values.median()
    if "each time the best so far" in wrong:
        return scores.cummax(0).values.mean()
    if "the best of each k that follow each other" in wrong:
        return scores.unfold(0, k, 1).amax(1).mean()
    if "the k-th best" in wrong:
        return values[-k]
    if "drawn at least once" in wrong:
        return (values * (1 - (1 - 1 / n) ** k)).sum()
    if "a quantile of 1 - 1 / k" in wrong:
        return values.quantile(1 - 1 / k)
    if "the quantile of k in k + 1" in wrong:
        return values.quantile(k / (k + 1))
    if "the mean of the k best" in wrong:
        return values[-k:].mean()
    if "the best of each k in turn" in wrong:
        return torch.stack([some.max() for some in scores.split(k)]).mean()
    if "without replacement" in wrong:
        chances = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
        return (values * torch.tensor(chances, dtype=values.dtype)).sum()
    if "the best, or an average one" in wrong:
        return values.mean() + (values[-1] - values.mean()) * (1 - (1 - 1 / n) ** k)
    if "the formula of a normal distribution" in wrong:
        return values.mean() + values.std() * math.sqrt(2 * math.log(k))
    below = torch.arange(n, dtype=values.dtype) / n
    upto = (torch.arange(n, dtype=values.dtype) + 1) / n
    power = k - 1 if "one trial too few" in wrong else k
    if "one score too few below" in wrong:
        upto, below = (
            torch.arange(n, dtype=values.dtype) / (n - 1),
            (torch.arange(n, dtype=values.dtype) - 1) / (n - 1),
        )
        below = below.clamp(min=0)
    if "the best score left out" in wrong:
        values, upto, below = values[1:], below[1:], below[:-1]
    chance = upto**power - below**power
    if "one place too low" in wrong:
        chance = below**power - (below - 1 / n) ** power
    if "the lowest score left out" in wrong:
        chance[0] = 0
    if "at least one of k" in wrong or "at least one of k, made to add up to 1" in wrong:
        chance = 1 - (1 - upto) ** k
        chance = chance / (1 if "at least one of k" in wrong else chance.sum())
    if "a density for a chance" in wrong:
        chance = k * upto ** (k - 1) / n
    if "all equally likely, k times" in wrong:
        chance = torch.full_like(values, k / n)
    if "the chance that all are below, made to add up to 1" in wrong:
        chance = upto**k / (upto**k).sum()
    if "the worst of k" in wrong:
        chance = chance.flip(0)
    if "the chance that all are below" in wrong:
        chance = upto**power
    if "divided once more by N" in wrong:
        chance = chance / n
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
            also=("the chance that all are below, made to add up to 1",),
        ),
        Mistake(
            "without replacement",
            "You draw k different trials. Here each of the N is equally likely *every* time: it may be drawn twice.",
        ),
        Mistake(
            "the mean of the k best",
            "That is the mean of the k best trials. Who draws k by chance rarely gets those.",
        ),
        Mistake(
            "the best of each k in turn",
            "You cut the trials into groups of k as they come. That is one way to draw; the mean over all is expected.",
            also=("the best of each k that follow each other",),
        ),
        Mistake(
            "each time the best so far",
            "You average the best so far after each trial: there k goes from 1 to N, and only in the order given.",
        ),
        Mistake(
            "the k-th best",
            "That is the k-th best trial. Of k draws the largest counts, whichever these are.",
        ),
        Mistake(
            "drawn at least once",
            "That is the chance that a trial is drawn at all. It is the best of k only if no better one is drawn.",
        ),
        Mistake(
            "one place too low",
            "Your chances are those of the score below: of N scores the lowest has one that is *at most* as large.",
        ),
        Mistake(
            "the best, or an average one",
            "You reckon with two cases, the very best or an average one. The second best is worth something, too.",
        ),
        Mistake(
            "the formula of a normal distribution",
            "That is a rule of thumb for numbers of a normal distribution. From these N the mean is exact.",
        ),
        Mistake(
            "one score too few below",
            "Your chances have N − 1 below the line. Of N scores the i-th has i that are *at most* as large.",
        ),
        Mistake(
            "at least one of k",
            "1 − (1 − p)^k is the chance that *at least one* of k is at most the i-th score. The best of k is at most "
            "that if *all* of them are.",
            also=("at least one of k, made to add up to 1",),
        ),
        Mistake(
            "the lowest score left out",
            "Your differences begin with the second score. That all k draws are the lowest one has a chance as well.",
        ),
        Mistake(
            "the best score left out",
            "The chances belong to the scores, but moved by one: your largest has the chance of the one below, and all "
            "chances together are less than 1.",
        ),
        Mistake(
            "a density for a chance",
            "That is a density, k F^(k − 1), right where scores are without end. Of N scores take differences of F^k.",
        ),
        Mistake(
            "all equally likely, k times",
            "Your chances add up to k. Where does k enter the chance that all draws are at most the i-th score?",
        ),
        Mistake("divided once more by N", "The chances add up to 1 already: nothing is left to divide by."),
        Mistake("one trial too few", "The exponent is the number of draws."),
        Mistake("the worst of k", "You have the mean of the *worst* of k."),
        Mistake(
            "a quantile",
            "A quantile is near it, and not the mean of the largest.",
            also=("the quantile of k in k + 1", "a quantile of 1 - 1 / k", "the median"),
        ),
    ),
    probes=_score_probes,
)

EXERCISES = [RATE_GRID, EXPECTED_BEST]
