"""Is a difference real? Intervals over seeds, and paired tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

import numpy as np
from torch import Tensor

from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import is_right


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its confidence interval."""

    mean: float
    half_width: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half_width:.2g} (n = {self.n}, {self.confidence:.0%} interval)"


def mean_and_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Average over seeds, with Student's t interval t · s / √n. One value has none: its half-width is infinite."""
    values = [float(v) for v in values]
    if not values or not all(map(math.isfinite, values)):
        raise KDTutorError(f"finite values are needed for a mean, at least one; got {values}")
    if not 0 < confidence < 1:
        raise KDTutorError(f"confidence = {confidence}: it must be between 0 and 1")
    n = len(values)
    half_width = _t_quantile(confidence, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.inf
    return Interval(mean(values), half_width, n, confidence)


def share_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return where a share of n draws may lie, such as an accuracy over n texts: Wilson 1927's interval.

    Unlike share ± z √(share (1 - share) / n) it is never empty, and never leaves 0 to 1. It knows nothing of seeds.
    """
    if n < 1 or not 0 <= share <= 1:
        raise KDTutorError(f"a share from 0 to 1 of one draw at least has an interval, not {share} of {n}")
    if not 0 < confidence < 1:
        raise KDTutorError(f"confidence = {confidence}: it must be between 0 and 1")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _t_within(t: float, freedom: int) -> float:
    """Compute Student's P(−t < T < t) at `freedom` degrees: sums 26.7.3 and 26.7.4 of Abramowitz & Stegun."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _t_beyond(t: float, freedom: int) -> float:
    """Compute Student's P(|T| > t) at `freedom` degrees, also where 1 − P(|T| < t) would be rounding error."""
    a, x = freedom / 2, freedom / (freedom + t * t)
    if (p := 1 - _t_within(t, freedom)) > 1e-6 or not x:
        return max(0.0, p)

    # The tail is the incomplete beta function I_x(a, ½): series 26.5.4.
    term = total = 1.0
    for n in itertools.count():
        term *= (a + 0.5 + n) / (a + 1 + n) * x
        total += term
        if term < 1e-16 * total:
            break
    log_beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    return math.exp(a * math.log(x) + 0.5 * math.log1p(-x) - log_beta) / a * total


def _t_quantile(confidence: float, freedom: int) -> float:
    """Find the t with P(−t < T < t) = confidence, by bisection."""
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < confidence else (low, middle)
    return high


@dataclass(frozen=True)
class PairedTest:
    """Two students on the same examples, or the same seeds: how far apart, and how surprising by chance."""

    difference: float  # first minus second
    p_value: float
    detail: str
    half_width: float = math.nan  # of the 95 % interval, where the test has one

    def __str__(self) -> str:
        return f"difference {self.difference:+.4f}, p = {self.p_value:.2g} ({self.detail})"


def paired_test(logits_a: Tensor, logits_b: Tensor, labels: Tensor) -> PairedTest:
    """Run McNemar's exact test: do the examples that just one of two students gets right fall as fair coins do?

    logits (N, C), labels (N,). It speaks of these two trained students; for the two *methods*, compare seeds.
    """
    right_a, right_b = is_right(logits_a, labels), is_right(logits_b, labels)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    detail = f"{only_a} examples right by the first alone, {only_b} by the second alone"
    return PairedTest((only_a - only_b) / len(labels), min(1.0, 2 * tail), detail)


def paired_seeds_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Run a paired t-test over seeds: scores of two methods, seed by seed (same seeds, same data, same steps)."""
    if len(a) != len(b) or len(a) < 2:
        raise KDTutorError(
            f"a paired test needs the same seeds on both sides, at least two; got {len(a)} and {len(b)}"
        )
    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    n, difference, spread = len(a), mean(differences), stdev(differences)
    half_width = mean_and_interval(differences).half_width
    p = _t_beyond(abs(difference) / spread * math.sqrt(n), n - 1) if spread else float(difference == 0)
    return PairedTest(difference, p, f"{n} seeds, interval ± {half_width:.4f}", half_width)


def paired_seeds_and_texts(right_a: np.ndarray, right_b: np.ndarray) -> PairedTest:
    """Test two methods over seeds and texts together: right or not, bool (seeds, texts) each, same seeds and texts.

    Both are a sample: other seeds and other texts would give another difference, and an interval over the seeds alone
    knows nothing of the texts. Analysis of variance of the differences, rows and columns random, the two variances
    added and their degrees of freedom by Satterthwaite's rule: quasi-F of Clark 1973, "The language-as-fixed-effect
    fallacy", https://doi.org/10.1016/S0022-5371(73)80014-3. Texts are taken to be drawn one by one.
    """
    if right_a.shape != right_b.shape or right_a.ndim != 2 or min(right_a.shape) < 2:
        shapes = f"{right_a.shape} and {right_b.shape}"
        raise KDTutorError(
            f"two seeds and two texts at least, the same on both sides, are needed; got {shapes}"
        )
    d = right_a.astype(float) - right_b
    seeds, texts = d.shape
    difference, by_seed, by_text = d.mean(), d.mean(1), d.mean(0)

    # Mean squares of seeds, texts and what is left, each divided by the number of values.
    cells = seeds * texts
    of_seeds = by_seed.var(ddof=1) / seeds
    of_texts = by_text.var(ddof=1) / texts
    left = ((d - by_seed[:, None] - by_text + difference) ** 2).sum() / ((seeds - 1) * (texts - 1) * cells)

    # What is left is in both of the others, and counts once.
    variance = max(of_seeds + of_texts - left, of_seeds, of_texts)
    detail = f"{seeds} seeds × {texts:,} texts"
    if not variance:
        return PairedTest(float(difference), float(difference == 0), f"{detail}, no variance", 0.0)
    shares = of_seeds**2 / (seeds - 1) + of_texts**2 / (texts - 1)
    freedom = max(1, math.floor(variance**2 / shares))
    half_width = _t_quantile(0.95, freedom) * math.sqrt(variance)
    p = _t_beyond(abs(difference) / math.sqrt(variance), freedom)
    return PairedTest(float(difference), p, f"{detail}, interval ± {half_width:.4f}", half_width)
