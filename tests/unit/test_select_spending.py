"""How a budget is spent on two sizes and on parts, against plain loops; and uniform sampling."""

import numpy as np
import pytest

from pipeline.errors import AnswerError
from pipeline.select.spending import Part, check_buys, spend_on_parts, spend_on_two_sizes
from pipeline.select.uniform import show_evenly
from tests.selecting import seen


@pytest.mark.parametrize("seed", range(5))
def test_the_larger_size_is_the_largest_at_which_all_frames_fit(seed):
    first_N = np.random.default_rng(seed).random(20) < 0.3
    num_first = int(first_N.sum())

    def rest_of(size: int) -> int:
        return max(1, size // 5)

    for budget in range(num_first * 8 + 20 * 2, 20 * 40, 7):
        found = spend_on_two_sizes(first_N, budget, largest=40, smallest=8, rest_of=rest_of)
        best = max(x for x in range(8, 41) if num_first * x + (20 - num_first) * rest_of(x) <= budget)
        assert found.tolist() == [best if is_first else rest_of(best) for is_first in first_N]


def parts_of(sizes: list[int]) -> list[Part]:
    """Parts next to each other, each with its first frame in focus and, if it has more, a trace."""
    starts = np.cumsum([0, *sizes])
    return [
        Part(np.asarray([start]), start + 1 if size > 1 else None, start + size // 2)
        for start, size in zip(starts.tolist(), sizes, strict=False)
    ]


def reference_cost(parts, ranked, num_focused, per_frame) -> int:
    cost = 0
    for place, part in enumerate(parts):
        if place in ranked[:num_focused]:
            cost += per_frame * len(part.focus) + (part.trace is not None)
        else:
            cost += 1
    return cost


@pytest.mark.parametrize("sizes", [[1], [3], [2, 5, 1, 4], [1] * 6, [4] * 5])
def test_as_many_parts_are_focused_on_as_fit_beside_the_traces_of_the_others(sizes):
    parts = parts_of(sizes)
    ranked = np.random.default_rng(1).permutation(len(parts))
    for budget in range(16, 120):
        tokens_N, num_focused = spend_on_parts(parts, ranked, budget, sum(sizes), 16)
        costs = [reference_cost(parts, ranked.tolist(), k, 16) for k in range(len(parts) + 1)]
        whole = max((k for k in range(1, len(parts) + 1) if costs[k] <= budget), default=0)
        # a focus without the trace of its rest, where one token is missing
        partly = whole < len(parts) and (not whole or costs[whole] - 1 + 16 <= budget)
        assert num_focused == whole + partly
        assert tokens_N.sum() <= budget
        assert all(tokens_N[parts[place].focus] == 16 for place in ranked[:num_focused])
        if whole:
            assert tokens_N.sum() == costs[whole] + 15 * partly


def test_what_is_left_shows_some_frames_of_the_next_part():
    """The traces of all others come first: a token short of two frames, one is shown."""
    parts = [
        Part(np.asarray([0]), 1, 1),
        Part(np.asarray([2, 3, 4]), None, 3),
        Part(np.asarray([5]), None, 5),
    ]
    rank = np.asarray([0, 1, 2])

    def spent(budget: int) -> list[int]:
        return spend_on_parts(parts, rank, budget, 6, 16)[0].tolist()

    assert spent(17 + 2) == [16, 1, 0, 1, 0, 1]
    assert spent(17 + 2 * 16 + 1) == [16, 1, 16, 0, 16, 1]
    assert spent(17 + 2 * 16) == [16, 1, 0, 16, 0, 1]
    assert spent(17 + 3 * 16 + 1) == [16, 1, 16, 16, 16, 1]


def test_nothing_is_bought_below_the_smallest_frame():
    check_buys(4, 4, 16)
    with pytest.raises(AnswerError, match=r"3 tokens buys nothing: .* costs 4 \(16 per frame"):
        check_buys(3, 4, 16)


def test_uniform_sampling_takes_the_middles_of_equal_stretches():
    frames = seen(np.zeros((8, 1)))
    found = show_evenly(frames, budget_tokens=3 * 16 + 15, tokens_per_frame=16)
    assert np.flatnonzero(found.tokens_N).tolist() == [1, 4, 6]
    assert set(found.tokens_N) == {0, 16}
    assert show_evenly(frames, budget_tokens=999, tokens_per_frame=16).tokens_N == (16,) * 8
    assert show_evenly(seen(np.zeros((0, 1))), budget_tokens=1, tokens_per_frame=16).tokens_N == ()
    with pytest.raises(AnswerError, match="15 tokens buys nothing"):
        show_evenly(frames, budget_tokens=15, tokens_per_frame=16)
