"""Events against a plain loop: what was foreseen, where events begin, and which frame stands for each."""

import numpy as np
import pytest

from pipeline.select.events import boundaries, errors, extrapolate, show_events
from pipeline.select.likeness import directions
from tests.selecting import path, seen, unit_rows, unlike


def reference_errors(rows) -> list[float]:
    found = [1.0]
    for t in range(1, len(rows)):
        foreseen = rows[t - 1] if t == 1 else rows[t - 1] + (rows[t - 1] - rows[t - 2])
        found.append(unlike(foreseen, rows[t]))
    return found


def reference_tokens(embedding, per_frame) -> list[int]:
    """Events when the budget holds them all."""
    rows = unit_rows(embedding)
    error = reference_errors(rows)
    found = [0] * len(rows)
    starts = [0] + [t for t in range(1, len(rows)) if error[t] > 0.4]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        anchor = max(range(start, end), key=lambda t: error[t])
        rest = [t for t in range(start, end) if t != anchor]
        found[anchor] = per_frame
        if rest:
            found[rest[len(rest) // 2]] = 1
    return found


def tokens(embedding, budget, per_frame=16, **options):
    made = show_events(seen(embedding), budget_tokens=budget, tokens_per_frame=per_frame, **options)
    return list(made.tokens_N)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 60])
def test_events_equal_a_plain_loop(count):
    embedding = path(count, seed=count)
    found = errors(directions(seen(embedding)), extrapolate)
    np.testing.assert_allclose(found, reference_errors(unit_rows(embedding)), atol=1e-12)
    assert tokens(embedding, 10**6) == reference_tokens(embedding, 16)


def test_a_cut_is_one_boundary_and_what_follows_it_was_foreseen():
    error = errors(directions(seen(np.repeat(np.eye(2), 5, axis=0))), extrapolate)
    assert boundaries(error).tolist() == [5]
    assert error[5] == pytest.approx(1.0)
    assert error[6] == pytest.approx(1 - 2 / np.sqrt(5))  # the jump is carried on once
    assert tokens(np.repeat(np.eye(2), 5, axis=0), 34) == [16, 0, 0, 1, 0, 16, 0, 0, 1, 0]


def test_steady_motion_is_one_event():
    turning = np.stack([np.cos(np.arange(12) / 4), np.sin(np.arange(12) / 4)], axis=1)
    assert tokens(turning, 10**6) == [16, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert tokens(np.ones((12, 3)), 10**6) == [16, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_noise_is_all_events():
    noise = np.eye(12)
    assert tokens(noise, 10**6) == [16] * 12


def sawtooth(repeats: int) -> np.ndarray:
    """A turn of 100 degrees, again and again: events of six frames each, whose means are all the same."""
    angle = np.radians(np.tile(np.arange(-50, 51, 20), repeats))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_scenes_stand_in_where_that_shows_more_frames_whole():
    """Forty events leave forty traces; the two scenes that they make take one more token than their frames."""
    still = np.zeros((120, 2))
    embedding = np.block([[sawtooth(20), still], [still, sawtooth(20)]])
    assert tokens(embedding, 40 * 17).count(16) == 40
    scenes = tokens(embedding, 2 * 17)
    assert [scenes.count(16), scenes.count(1)] == [2, 2]
    assert [sum(count == 16 for count in half) for half in (scenes[:120], scenes[120:])] == [1, 1]


def test_events_that_do_not_fit_are_traced():
    embedding = np.repeat(np.eye(4), 4, axis=0)
    assert tokens(embedding, 4 * 17).count(16) == 4
    for budget, whole, traces in ((67, 4, 3), (66, 3, 4)):
        short = tokens(embedding, budget)
        assert [short.count(16), short.count(1)] == [whole, traces]
    assert [tokens(embedding, 15).count(4), tokens(embedding, 16).count(16)] == [1, 1]


def test_another_predictor_can_take_the_place_of_the_plain_one():
    embedding = np.repeat(np.eye(2), 5, axis=0)
    blind = tokens(embedding, 10**6, predict=lambda unit_ME: -unit_ME[:-1])
    assert blind.count(16) == 10


def test_empty_and_short_windows():
    assert tokens(np.zeros((0, 3)), 1) == []
    assert tokens(np.zeros((1, 3)), 16) == [16]
    assert tokens(np.ones((2, 3)), 17) == [16, 1]
