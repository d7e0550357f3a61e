"""Windows tile a video and keep their names; keys stand for strings."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import WindowConfig
from pipeline.windows import holds, key, key_gap_s, sorted_keys, spans, window_id

CONFIG = WindowConfig(length_s=300, sample_fps=1)


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (700.0, [(0, 300), (300, 600), (600, 700)]),
        (600.0, [(0, 300), (300, 600)]),
        (600.5, [(0, 300), (300, 600.5)]),
        (0.04, [(0, 0.04)]),
    ],
)
def test_spans(duration_s, expected):
    assert spans(duration_s, CONFIG) == expected


@settings(deadline=None)
@given(st.floats(0.01, 1e5), st.floats(0.5, 1000), st.sampled_from([0.2, 1.0, 3.0]))
def test_spans_tile_the_video(duration_s, length_s, sample_fps):
    found = spans(duration_s, WindowConfig(length_s=length_s, sample_fps=sample_fps))
    assert found[0][0] == 0
    assert found[-1][1] == duration_s
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    assert all(start < end for start, end in found)


@pytest.mark.parametrize(
    ("key_gap_s", "expected"),
    [
        (8.0, [(0, 296), (296, 592), (592, 700)]),
        (30.0, [(0, 300), (300, 600), (600, 700)]),
        (1000.0, [(0, 300), (300, 600), (600, 700)]),
    ],
)
def test_windows_end_on_a_key_picture_where_one_is_near(key_gap_s, expected):
    keys_s = [n * key_gap_s for n in range(int(700 / key_gap_s) + 1)]
    assert spans(700.0, CONFIG, keys_s) == expected


@settings(deadline=None)
@given(st.floats(1, 1e4), st.floats(5, 1000), st.lists(st.floats(0, 1e4), max_size=200))
def test_windows_on_key_pictures_tile_the_video_and_are_not_longer(duration_s, length_s, keys_s):
    found = spans(duration_s, WindowConfig(length_s=length_s, sample_fps=1), sorted(keys_s))
    assert found[0][0] == 0
    assert found[-1][1] == duration_s
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    assert all(start < end for start, end in found)
    assert all(end - start <= length_s + 1e-5 for start, end in found[:-1])


@pytest.mark.parametrize(
    ("keys_s", "duration_s", "expected"), [([0, 2, 4, 9], 10, 5), ([0], 7, 7), ([], 7, 0), ([0, 1], 1.5, 1)]
)
def test_key_gap_is_the_longest_time_without_a_key_picture(keys_s, duration_s, expected):
    assert key_gap_s(keys_s, duration_s) == expected


def test_window_ids_sort_by_time_and_name_the_version():
    names = [window_id("v", "1", start, start + 300) for start in (0, 300, 3000, 30000)]
    assert names == sorted(names)
    assert window_id("v", "2", 0, 300) != names[0]


def test_keys_are_found_and_only_they():
    keys = sorted_keys(key("v", str(n)) for n in range(100))
    assert all(holds(keys, key("v", str(n))) for n in range(100))
    assert not holds(keys, key("v", "100"))
    assert not holds(sorted_keys([]), key("v", "1"))
    assert key("ab", "c") != key("a", "bc")
