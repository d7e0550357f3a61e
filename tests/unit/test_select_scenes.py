"""Scenes and segments against a plain loop: where windows are cut, and what of each scene is shown."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.select.likeness import cut_scenes, directions
from pipeline.select.scenes import show_scenes
from pipeline.select.segments import show_segments
from tests.selecting import path, seen, unit_rows, unlike


def reference_cuts(embedding, most) -> list[list[int]]:
    rows = unit_rows(embedding)
    wanted = min(most, -(-len(rows) // 8))
    unlikeness = [unlike(rows[t], rows[t - 1]) for t in range(1, len(rows))]
    cuts = []
    while len(cuts) < wanted - 1:
        best = max((t for t in range(1, len(rows)) if t not in cuts), key=lambda t: unlikeness[t - 1])
        if unlikeness[best - 1] <= 1e-6:
            break
        cuts.append(best)
    bounds = [0, *sorted(cuts), len(rows)]
    return [list(range(start, end)) for start, end in pairwise(bounds)]


@pytest.mark.parametrize(("count", "most"), [(1, 24), (7, 24), (17, 24), (80, 24), (240, 24), (80, 3)])
def test_cuts_equal_a_plain_loop(count, most):
    embedding = path(count, seed=count)
    found = [scene.tolist() for scene in cut_scenes(directions(seen(embedding)), most)]
    assert found == reference_cuts(embedding, most)


def test_scenes_are_counted_not_found_by_a_threshold():
    """224 frames and 24 scenes are the paper's bounds; more frames do not make more scenes."""
    noise = np.random.default_rng(0).standard_normal((400, 4))
    assert len(cut_scenes(directions(seen(noise[:224])), 24)) == 24
    assert len(cut_scenes(directions(seen(noise)), 24)) == 24
    assert len(cut_scenes(directions(seen(noise)))) == 50
    assert len(cut_scenes(directions(seen(np.ones((400, 4)))))) == 1
    assert cut_scenes(directions(seen(noise[:0]))) == []


THREE = np.repeat(np.eye(3), [9, 3, 12], axis=0)


def scene_tokens(embedding, budget, per_frame=144):
    return list(show_scenes(seen(embedding), budget_tokens=budget, tokens_per_frame=per_frame).tokens_N)


def test_the_first_of_eight_frames_is_whole_and_the_others_a_ninth():
    """32 tokens a frame in windows of 8: (144 + 7 x 16) / 8."""
    expected = [144 if frame in (0, 8, 9, 12, 20) else 16 for frame in range(24)]
    assert scene_tokens(THREE, 10**6) == expected
    assert sum(scene_tokens(np.ones((64, 2)), 10**6)) == 64 * 32


def test_both_sizes_shrink_until_the_budget_holds_them():
    """5 whole frames and 19 others: 5 x 99 + 19 x 11 = 704 is the last below 712, half resolution is 36 and 4."""
    assert sorted(set(scene_tokens(THREE, 712))) == [11, 100]
    assert 5 * 100 + 19 * 11 <= 712 < 5 * 101 + 19 * 11 + 5 * 2
    assert sorted(set(scene_tokens(THREE, 5 * 36 + 19 * 4))) == [4, 36]
    thinned = scene_tokens(THREE, 5 * 36 + 19 * 4 - 1)
    assert [thinned.count(36), thinned.count(4)] == [5, 18]
    assert [scene_tokens(THREE, 179).count(36), sum(scene_tokens(THREE, 179))] == [4, 4 * 36]


def test_still_windows_cost_the_least_and_noise_no_more_than_its_scenes():
    noise = np.random.default_rng(0).standard_normal((64, 4))
    assert sum(scene_tokens(np.ones((64, 4)), 10**6)) == 8 * 144 + 56 * 16
    assert sum(scene_tokens(noise, 10**6)) > 8 * 144 + 56 * 16
    assert scene_tokens(np.zeros((0, 2)), 1) == []
    assert scene_tokens(np.ones((1, 2)), 144) == [144]


def segment_tokens(embedding, relevance, budget, per_frame=16):
    frames = seen(embedding, relevance=relevance)
    return list(show_segments(frames, budget_tokens=budget, tokens_per_frame=per_frame).tokens_N)


def test_the_most_relevant_segments_are_whole_and_every_other_leaves_a_trace():
    relevance = np.zeros(24)
    relevance[[1, 14]] = 0.6, 0.9
    first, last = [0] * 4 + [1] + [0] * 4, [0] * 6 + [1] + [0] * 5
    assert segment_tokens(THREE, relevance, 12 * 16 + 2) == first + [0, 1, 0] + [16] * 12
    assert segment_tokens(THREE, relevance, 21 * 16 + 1) == [16] * 9 + [0, 1, 0] + [16] * 12
    assert segment_tokens(THREE, relevance, 24 * 16) == [16] * 24
    relevance[10] = 1.0
    assert segment_tokens(THREE, relevance, 4 * 16) == first + [16] * 3 + last
    partly = segment_tokens(THREE, relevance, 14 * 16)
    assert partly[:12] == first + [16] * 3
    assert [partly[12:].count(16), partly[12:].count(0)] == [10, 2]


def test_a_segment_too_long_for_the_budget_shows_some_of_its_frames():
    relevance = np.zeros(24)
    relevance[14] = 0.9
    found = segment_tokens(THREE, relevance, 4 * 16 + 2)
    assert [frame for frame, count in enumerate(found) if count == 16] == [13, 16, 19, 22]
    assert [frame for frame, count in enumerate(found) if count == 1] == [4, 10]
    assert sorted(segment_tokens(THREE, relevance, 16))[-2:] == [0, 16]
    assert sorted(segment_tokens(THREE, relevance, 15))[-6:] == [0, 1, 1, 4, 4, 4]


def test_nine_segments_are_focused_on_at_most():
    blocks = np.repeat(np.random.default_rng(0).standard_normal((20, 8)), 8, axis=0)
    relevance = np.repeat(np.arange(20) / 20, 8)
    found = segment_tokens(blocks, relevance, 10**6)
    assert found == [1 if frame % 8 == 4 else 0 for frame in range(11 * 8)] + [16] * (9 * 8)
    assert segment_tokens(np.zeros((0, 2)), [], 1) == []
    assert segment_tokens(np.zeros((1, 2)), [0.5], 16) == [16]
