from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.times import sample_times

rates = st.floats(min_value=0.05, max_value=60, allow_nan=False)


@given(start_s=st.floats(0, 1e5), length_s=st.floats(1e-3, 600), sample_fps=rates)
def test_times_increase_and_lie_inside(start_s, length_s, sample_fps):
    end_s = start_s + length_s
    times_s = sample_times(start_s, end_s, sample_fps)
    assert times_s
    assert all(start_s <= time_s < end_s for time_s in times_s)
    assert all(before < after for before, after in pairwise(times_s))
    assert abs(len(times_s) - length_s * sample_fps) <= 1 + 1e-4 * length_s


@given(periods=st.lists(st.floats(1.001, 400), min_size=1, max_size=12), sample_fps=rates)
def test_windows_share_the_times_of_the_video(periods, sample_fps):
    borders_s = [0.0]
    for num_periods in periods:
        borders_s.append(borders_s[-1] + num_periods / sample_fps)
    windows = [sample_times(start_s, end_s, sample_fps) for start_s, end_s in pairwise(borders_s)]
    assert [time_s for window in windows for time_s in window] == sample_times(0.0, borders_s[-1], sample_fps)


@given(
    numerator=st.integers(1, 60),
    denominator=st.integers(1, 10),
    length_s=st.integers(1, 7),
    count=st.integers(1, 9),
)
def test_windows_of_whole_seconds_tile_at_rational_rates(numerator, denominator, length_s, count):
    sample_fps = numerator / denominator
    length_s = length_s * denominator  # a whole number of sampling periods, so every border is a grid time
    windows = [sample_times(k * length_s, (k + 1) * length_s, sample_fps) for k in range(count)]
    assert [time_s for window in windows for time_s in window] == sample_times(
        0, count * length_s, sample_fps
    )
    assert all(len(window) == length_s // denominator * numerator for window in windows)
