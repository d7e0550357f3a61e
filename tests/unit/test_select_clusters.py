"""Weighted k-means against a plain loop, and which frames stand for clusters."""

import numpy as np
import pytest

from pipeline.select.clusters import pick_of_clusters, show_clusters
from pipeline.select.likeness import directions
from tests.selecting import path, seen, unit_rows


def reference_pick(points, weights, wanted):
    if wanted >= len(points):
        return list(range(len(points))), list(weights)
    centres = [points[(2 * k + 1) * len(points) // (2 * wanted)] for k in range(wanted)]

    def nearest(point):
        away = [float(np.sum((point - centre) ** 2)) for centre in centres]
        return away.index(min(away))

    clusters = [nearest(point) for point in points]
    for _ in range(10):
        for k in range(wanted):
            members = [n for n in range(len(points)) if clusters[n] == k]
            if members:
                total = sum(weights[n] for n in members)
                centres[k] = sum(weights[n] * points[n] for n in members) / total
        before, clusters = clusters, [nearest(point) for point in points]
        if before == clusters:
            break
    found = []
    for k in range(wanted):
        members = [n for n in range(len(points)) if clusters[n] == k]
        if members:
            away = [float(np.sum((points[n] - centres[k]) ** 2)) for n in members]
            found.append((members[away.index(min(away))], sum(weights[n] for n in members)))
    found.sort()
    return [frame for frame, _ in found], [weight for _, weight in found]


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (7, 3), (40, 1), (40, 6), (41, 20), (41, 50)])
def test_k_means_equals_a_plain_loop(count, wanted):
    embedding = path(count, seed=wanted)
    weights = np.random.default_rng(count).integers(1, 9, count).astype(np.float64)
    frames, found = pick_of_clusters(directions(seen(embedding)), weights, wanted)
    expected, expected_weights = reference_pick(unit_rows(embedding), weights.tolist(), wanted)
    assert frames.tolist() == expected
    np.testing.assert_allclose(found, expected_weights)
    assert found.sum() == weights.sum()


def tokens(embedding, budget, per_frame=16, **options):
    made = show_clusters(seen(embedding, **options), budget_tokens=budget, tokens_per_frame=per_frame)
    return list(made.tokens_N)


GROUPS = np.repeat(np.eye(4), [2, 5, 3, 10], axis=0)


def test_every_second_slot_is_whole_as_in_the_paper():
    """Sixty at a quarter of the tokens, thirty of them whole: 30 x 16 + 30 x 4."""
    found = tokens(path(200, seed=0), 30 * (16 + 4))
    assert sorted(count for count in found if count) == [4] * 30 + [16] * 30


def test_the_largest_clusters_are_whole():
    """Two slots begin in the last group: one loses its frames to the other, and what it leaves is spent."""
    found = tokens(GROUPS, 2 * 16 + 2 * 4)
    assert [(frame, count) for frame, count in enumerate(found) if count] == [(2, 16), (7, 4), (10, 16)]
    assert sum(tokens(GROUPS, 3 * 20)) <= 60


def test_a_picture_that_is_shown_long_weighs_more():
    """Two pictures, one frame each; the budget makes one of them whole."""
    embedding, pts_s = [[1, 0], [0, 1]], [0.0, 1.0]
    assert tokens(embedding, 20, pts_s=pts_s, end_s=50.0) == [4, 16]
    assert tokens(embedding, 20, pts_s=pts_s, end_s=1.5) == [16, 4]


def test_still_windows_are_one_frame_and_short_ones_all():
    assert tokens(np.ones((30, 3)), 20) == [16] + [0] * 29
    assert tokens(np.ones((3, 3)), 3 * 16) == [16] * 3
    assert tokens(np.ones((0, 3)), 1) == []
    assert tokens(np.zeros((30, 3)), 40) == [16] + [0] * 29
    assert np.count_nonzero(tokens(np.random.default_rng(0).standard_normal((30, 8)), 100)) >= 9
