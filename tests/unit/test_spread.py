"""Estimates from samples: exact when all is known, near the truth otherwise, and honest about it."""

import numpy as np
import pytest

from pipeline.spread import Spread, ratio_of, total_of


def test_what_is_wholly_known_is_exact():
    assert total_of([1.0, 2.0], [10, 20], 2, 30) == Spread.exactly(3.0)
    assert total_of([], [], 0, 0) == Spread.exactly(0.0)


def test_nothing_sampled_of_something_is_unknown():
    assert total_of([], [], 5, 100).high == float("inf")


def test_one_sample_stands_for_all_with_a_wide_range():
    found = total_of([4.0], [10], 5, 100)
    assert (found.low, found.mid, found.high) == (20.0, 40.0, 80.0)


@pytest.mark.parametrize("kind", ["sizes tell", "sizes tell nothing"])
def test_the_truth_lies_within(kind):
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        size_N = draw.lognormal(0, 1, 2000)
        factor_N = draw.uniform(0.8, 1.2, 2000)
        value_N = size_N * factor_N if kind == "sizes tell" else 10 + factor_N
        sampled = draw.choice(2000, 64, replace=False)
        found = total_of(value_N[sampled].tolist(), size_N[sampled].tolist(), 2000, float(size_N.sum()))
        assert found.mid == pytest.approx(value_N.sum(), rel=0.15)
        assert found.high - found.low < 0.25 * found.mid
        hits += found.low <= value_N.sum() <= found.high
    assert hits > 85


def test_a_sample_that_agrees_still_leaves_room():
    found = ratio_of([1.0, 2.0, 4.0], [10.0, 20.0, 40.0], 0.1)
    assert (found.low, found.mid, found.high) == pytest.approx((0.09, 0.1, 0.11))


def test_a_sample_that_differs_leaves_more():
    found = ratio_of([1.0, 2.0], [10.0, 10.0], 0.1)
    assert found.mid == pytest.approx(0.15)
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.25)


def test_sums_and_products_keep_their_ends():
    both = Spread(1, 2, 4) + Spread.exactly(1) * 2
    assert both == Spread(3, 4, 6)
    assert both * Spread(0, 1, 2) == Spread(0, 4, 12)
