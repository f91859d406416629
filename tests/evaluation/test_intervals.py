"""An interval over seeds and texts together holds the truth as often as it says, whichever of the two varies."""

import numpy as np
import pytest
from helpers import refusal

from kdtutor.evaluation import mean_and_interval, paired_seeds_and_texts, paired_seeds_test


def two_methods(generator, seeds, texts, of_texts, of_seeds):
    """Right or not, of two equally good methods: each seed, and each text, may favour one of them by chance."""
    level = 2 * generator.normal(0.8, 1, texts)
    favoured = generator.normal(0, of_texts, texts)
    seed_a, seed_b = generator.normal(0, of_seeds, (2, seeds, 1))
    chances = [1 / (1 + np.exp(-(level + shift))) for shift in (favoured + seed_a, seed_b - favoured)]
    return [generator.random((seeds, texts)) < chance for chance in chances]


def coverage(of_texts, of_seeds, repeats=400):
    """How often 0, the true difference, is inside the interval over both, and inside that over the seeds alone."""
    generator, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(repeats):
        a, b = two_methods(generator, 5, 400, of_texts, of_seeds)
        both = paired_seeds_and_texts(a, b)
        alone = mean_and_interval(a.mean(1) - b.mean(1))
        inside += abs(both.difference) <= both.half_width, abs(alone.mean) <= alone.half_width
    return inside / repeats


@pytest.mark.parametrize(("of_texts", "of_seeds"), [(1, 0), (1, 0.1), (0, 0.2), (0, 0)])
def test_the_interval_over_both_holds_the_truth_about_95_times_of_100(of_texts, of_seeds):
    both, _ = coverage(of_texts, of_seeds)
    assert 0.93 <= both <= 0.985


def test_an_interval_over_the_seeds_alone_misses_the_truth_where_texts_vary():
    _, alone = coverage(of_texts=1, of_seeds=0)
    assert alone < 0.9


def test_p_is_below_5_per_cent_exactly_where_the_interval_leaves_out_0():
    generator = np.random.default_rng(1)
    for _ in range(50):
        test = paired_seeds_and_texts(*two_methods(generator, 3, 60, 1, 0.3))
        assert (test.p_value < 0.05) == (abs(test.difference) > test.half_width)


def test_a_difference_that_is_no_chance_has_a_p_above_0():
    generator = np.random.default_rng(0)
    hard = generator.random(1000) + generator.normal(0, 0.01, (5, 1000))
    assert 0 < paired_seeds_and_texts(hard < 0.9, hard < 0.5).p_value < 1e-30


def test_the_difference_is_that_of_the_mean_accuracies():
    a = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], bool)
    b = np.array([[1, 0, 0, 1], [1, 0, 1, 0]], bool)
    test = paired_seeds_and_texts(a, b)
    assert test.difference == pytest.approx(7 / 8 - 4 / 8) and test.detail.startswith("2 seeds × 4 texts")
    assert paired_seeds_test(a.mean(1), b.mean(1)).difference == pytest.approx(test.difference)


def test_equal_methods_differ_by_nothing():
    right = np.random.default_rng(0).random((3, 20)) < 0.7
    test = paired_seeds_and_texts(right, right)
    assert (test.difference, test.p_value, test.half_width) == (0, 1, 0)


def test_other_texts_or_a_single_seed_are_refused():
    right = np.ones((1, 20), bool)
    assert "two seeds and two texts" in refusal(lambda: paired_seeds_and_texts(right, right))
    assert "(2, 20) and (2, 19)" in refusal(
        lambda: paired_seeds_and_texts(np.ones((2, 20), bool), np.ones((2, 19), bool))
    )
