"""The pace of a live stream, against the sampler whose rule it follows."""

import math
from itertools import pairwise

import pytest

from pipeline.config import WindowConfig
from pipeline.memory.pace import Pace
from pipeline.sampling import sample_adaptive
from tests.drawn import DrawnVideo

CONFIG = WindowConfig(sampler="adaptive", sample_fps=2, min_fps=0.25)


def walk(changes, end_s: float, config: WindowConfig = CONFIG) -> list[float]:
    """Return when a stream is looked at whose change at a time is given; the first frame is new."""
    pace, found = Pace(config), [0.0]
    while found[-1] < end_s:
        found.append(pace.next_s(found[-1], 1.0 if len(found) == 1 else changes(found[-1])))
    return found[:-1]


def test_a_still_stream_is_paced_as_the_sampler_paces_a_still_video():
    shots = sample_adaptive(0.0, 28.5, CONFIG, DrawnVideo(lambda _: 0.5).look)
    assert walk(lambda _: 0.0, 28.1) == [sample.wanted_s for sample, _ in shots]


def test_what_always_changes_is_looked_at_at_the_highest_rate():
    assert walk(lambda _: 0.5, 30.0) == [k / 2 for k in range(60)]


def test_a_change_wakes_it_and_stillness_sends_it_to_sleep_again():
    found = walk(lambda time_s: 0.1 if time_s == 16.0 else 0.0, 40.0)
    assert found[:9] == [k / 2 for k in range(9)]
    assert found[9:] == [8.0, 12.0, *(16 + k / 2 for k in range(9)), 24.0, 28.0, 32.0, 36.0]


@pytest.mark.parametrize("border", ["still_change", "wake_change"])
def test_change_between_the_borders_keeps_the_pace_it_has(border):
    between = (CONFIG.still_change + CONFIG.wake_change) / 2
    gaps = [after - before for before, after in pairwise(walk(lambda _: between, 60.0))]
    assert set(gaps) == {0.5}
    asleep = walk(lambda time_s: 0.0 if time_s < 10 else between, 60.0)
    assert {after - before for before, after in pairwise(asleep[9:])} == {4.0}
    # on the border itself: no longer still, and awake
    at = getattr(CONFIG, border)
    assert set(pairwise(walk(lambda _: at, 3.0))) == {(k / 2, k / 2 + 0.5) for k in range(5)}


def test_a_change_that_wavers_about_one_border_does_not_switch_to_and_fro():
    flicker = walk(lambda time_s: CONFIG.still_change + (0.0005 if int(time_s) % 2 else -0.0005), 120.0)
    gaps = [after - before for before, after in pairwise(flicker)]
    assert sum(one != other for one, other in pairwise(gaps)) <= 1


@pytest.mark.parametrize(("sample_fps", "min_fps"), [(1, 1), (2, 0.3), (29.97, 0.2), (0.3, 0.1)])
def test_the_rate_stays_within_its_bounds(sample_fps, min_fps):
    config = WindowConfig(sampler="adaptive", length_s=60, sample_fps=sample_fps, min_fps=min_fps)
    found = walk(lambda time_s: 0.02 if math.sin(time_s / 7) > 0.8 else 0.0, 200.0, config)
    gaps = [after - before for before, after in pairwise(found)]
    assert min(gaps) >= 1 / sample_fps - 1e-9
    assert max(gaps) <= 1 / min_fps + 1e-9
    assert (len(set(map(round, gaps))) > 1) == (sample_fps > min_fps)


def test_a_change_that_is_no_number_wakes_it():
    pace = Pace(CONFIG)
    for second in range(30):
        pace.next_s(float(second), 0.0)
    assert pace.is_asleep
    assert pace.next_s(30.0, math.nan) == 30.5
