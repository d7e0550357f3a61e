"""Curvature scores and states against a plain loop, and what a budget makes of them."""

import math

import numpy as np
import pytest

from pipeline.select.curvature import BLURRED, CLEAR, DROPPED, curvature, show_bends, states
from pipeline.select.likeness import directions
from tests.selecting import path, seen, unit_rows, unlike


def reference_scores(embedding) -> list[float]:
    rows = unit_rows(embedding)
    found = []
    for t in range(len(rows)):
        moved = unlike(rows[t], rows[t - 1]) if t >= 1 else 0.0
        bend = 0.0
        if t >= 2:
            before, after = rows[t - 1] - rows[t - 2], rows[t] - rows[t - 1]
            if min(np.linalg.norm(before), np.linalg.norm(after)) >= 1e-6:
                bend = unlike(before, after)
        found.append(moved + 0.2 * bend)
    return found


def reference_states(scores) -> list[int]:
    found, mean, variance = [], 0.0, 0.0
    for t, score in enumerate(scores):
        if t == 1:
            mean = score
        if t < 2 or t == len(scores) - 1:
            found.append(CLEAR)
            continue
        mean = 0.9 * mean + 0.1 * score
        variance = 0.9 * variance + 0.1 * (score - mean) ** 2
        if score >= mean + 0.5 * math.sqrt(variance):
            found.append(CLEAR)
        else:
            found.append(BLURRED if score >= mean - 0.25 * math.sqrt(variance) else DROPPED)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 33])
def test_scores_and_states_equal_a_plain_loop(count):
    embedding = path(count, seed=count)
    score = curvature(directions(seen(embedding)))
    np.testing.assert_allclose(score, reference_scores(embedding), atol=1e-12)
    assert states(score).tolist() == reference_states(score.tolist())


def test_all_three_states_occur():
    assert set(states(curvature(directions(seen(path(33, seed=33))))).tolist()) == {DROPPED, BLURRED, CLEAR}


def test_turning_back_bends_twice_as_much_as_a_right_angle_and_going_on_not_at_all():
    back = curvature(directions(seen([[1, 0], [0, 1], [1, 0]])))
    np.testing.assert_allclose(back, [0.0, 1.0, 1.0 + 0.2 * 2.0], atol=1e-12)
    side = curvature(directions(seen([[1, 0, 0], [-1, 0, 0], [-1, 0, 0], [0, 1, 0]])))
    assert side[2] == 0.0
    assert side[3] == pytest.approx(1.0)  # the step before has no direction


def tokens(embedding, budget, per_frame=16, **options):
    made = show_bends(seen(embedding), budget_tokens=budget, tokens_per_frame=per_frame, **options)
    return list(made.tokens_N)


def test_a_still_window_is_shown_by_its_first_two_frames_and_its_last():
    assert tokens(np.ones((9, 3)), 10**6) == [16, 16] + [0] * 6 + [16]


def test_the_last_frame_comes_first_then_the_best_scores():
    embedding = path(33, seed=33)
    score = curvature(directions(seen(embedding)))
    clear = np.flatnonzero(states(score) == CLEAR)
    assert np.flatnonzero(tokens(embedding, 16)).tolist() == [32]
    assert tokens(embedding, 15)[32] == 4
    best = max(clear[:-1], key=lambda frame: score[frame])
    assert np.flatnonzero(tokens(embedding, 32)).tolist() == sorted([best, 32])


def test_with_room_for_all_clear_frames_are_whole_and_blurred_ones_a_quarter():
    embedding = path(33, seed=33)
    state = states(curvature(directions(seen(embedding))))
    assert tokens(embedding, 10**6) == [{CLEAR: 16, BLURRED: 4, DROPPED: 0}[kind] for kind in state.tolist()]


def test_stretches_take_turns_where_that_is_asked_for():
    """The first half goes straight on, the second is noise."""
    straight = np.stack([np.ones(12), np.arange(12) / 100, np.zeros(12)], axis=1)
    embedding = np.concatenate([straight, np.random.default_rng(0).standard_normal((12, 3))])
    whole = np.flatnonzero(tokens(embedding, 5 * 16))
    turns = np.flatnonzero(tokens(embedding, 5 * 16, num_parts=2))
    assert (whole < 12).sum() < 2 <= (turns < 12).sum()
    assert len(whole) == len(turns) == 5


def test_empty_and_short_windows():
    assert tokens(np.zeros((0, 3)), 1) == []
    assert tokens(np.ones((1, 3)), 16) == [16]
    assert tokens(np.ones((2, 3)), 16 + 4) == [4, 16]
