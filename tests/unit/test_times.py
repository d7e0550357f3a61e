import pytest

from pipeline.times import sample_times


@pytest.mark.parametrize(
    ("start_s", "end_s", "sample_fps", "expected"),
    [
        (0.0, 3.0, 1.0, [0.0, 1.0, 2.0]),
        (0.7, 2.0, 2.0, [1.0, 1.5]),
        (0.0, 0.5, 1.0, [0.0]),
        (300.0, 303.5, 0.5, [300.0, 302.0]),
        (0.0, 1.0, 3.0, [0.0, 1 / 3, 2 / 3]),
    ],
)
def test_times_lie_on_the_grid_of_the_whole_video(start_s, end_s, sample_fps, expected):
    assert sample_times(start_s, end_s, sample_fps) == expected


def test_a_rate_beside_a_whole_number_is_looked_at_as_often_late_in_a_long_video():
    times_s = sample_times(1e5, 1e5 + 1, 59.99996)
    assert times_s == [1e5 + k / 60 for k in range(60)]


def test_a_window_between_two_grid_times_is_looked_at_once():
    assert sample_times(10.2, 10.4, 1.0) == [10.2]


@pytest.mark.parametrize("end_s", [5.0, 4.0])
def test_an_empty_window_has_no_times(end_s):
    assert sample_times(5.0, end_s, 1.0) == []


def test_a_border_that_is_a_rounded_grid_time_belongs_to_the_later_window():
    border_s = 3 / 10  # below 0.1 + 0.2
    assert sample_times(0.0, border_s, 10.0) == [0.0, 0.1, 0.2]
    assert sample_times(border_s, 0.5, 10.0) == [0.3, 0.4]
