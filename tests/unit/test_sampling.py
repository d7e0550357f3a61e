import importlib.util
from itertools import pairwise

import numpy as np
import pytest

from pipeline import sampling
from pipeline.config import WindowConfig
from pipeline.decode import open_pyav
from pipeline.errors import ConfigError
from pipeline.frames import FrameSize, Policy, gather
from pipeline.sampling import sample_adaptive, sample_count, sample_rate, sample_scenes
from tests import videos
from tests.drawn import DrawnVideo

needs_scenedetect = pytest.mark.skipif(
    importlib.util.find_spec("scenedetect") is None, reason="scenedetect is optional"
)


def times(shots) -> list[float]:
    return [sample.wanted_s for sample, _ in shots]


def still(_time_s: float) -> float:
    return 0.5


def an_event(begin_s: float, end_s: float):
    """A picture that is lighter from begin_s to end_s, and changes every half second."""
    return lambda time_s: 0.6 + 0.1 * (int(time_s * 2) % 2) if begin_s <= time_s < end_s else 0.5


def test_a_fixed_rate_looks_on_the_grid_of_the_video():
    assert times(sample_rate(0.7, 2.1, WindowConfig(sample_fps=2), DrawnVideo(still).look)) == [1.0, 1.5, 2.0]


class TestCount:
    def test_it_looks_in_the_middle_of_equal_parts(self):
        video = DrawnVideo(still)
        config = WindowConfig(sampler="count", count=4)
        assert times(sample_count(10.0, 18.0, config, video.look)) == [11.0, 13.0, 15.0, 17.0]
        assert len(video.asked) == 1

    def test_a_window_shorter_than_float_arithmetic_can_part_is_looked_at(self):
        end_s = np.nextafter(10.0, 11.0)
        config = WindowConfig(sampler="count", count=8)
        assert times(sample_count(10.0, end_s, config, DrawnVideo(still).look)) == [10.0]


class TestAdaptive:
    config = WindowConfig(sample_fps=2, min_fps=0.25, sampler="adaptive")

    def test_a_still_picture_is_looked_at_at_the_lowest_rate_after_one_gap(self):
        video = DrawnVideo(still)
        found = times(sample_adaptive(0.0, 30.0, self.config, video.look))
        # the first picture is new; eight still ones make 4 s
        assert found == [k / 2 for k in range(9)] + [8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 29.5]
        assert video.looked_at == found, "what is not handed on is not decoded"

    def test_what_always_changes_is_looked_at_at_the_highest_rate_in_one_request(self):
        video = DrawnVideo(an_event(0.0, 99.0))
        assert times(sample_adaptive(0.0, 30.0, self.config, video.look)) == [k / 2 for k in range(60)]
        assert len(video.asked) == 1

    def test_the_onset_of_a_change_is_gone_back_to(self):
        video = DrawnVideo(lambda time_s: 0.5 if time_s < 13.2 else 0.6)
        found = times(sample_adaptive(0.0, 60.0, self.config, video.look))
        # seen at 16 s, the picture before was at 12 s
        assert [time_s for time_s in found if 12 <= time_s <= 18] == [12 + k / 2 for k in range(13)]
        assert len([time_s for time_s in found if time_s > 30]) < 10, "it falls back to the lowest rate"

    def test_an_event_longer_than_a_gap_is_kept_whole(self):
        video = DrawnVideo(an_event(20.0, 26.3))
        found = times(sample_adaptive(0.0, 90.0, self.config, video.look))
        assert {20 + k / 2 for k in range(14)} <= set(found)
        assert len(found) < 60

    def test_change_between_the_two_borders_keeps_the_pace_it_has(self):
        def drift(time_s: float) -> float:
            # 0.008 from one picture to the next at 2 fps: neither still nor awake
            return 0.4 + 0.008 * (int(time_s * 2) % 2)

        always = times(sample_adaptive(0.0, 30.0, self.config, DrawnVideo(drift).look))
        assert len(always) == 60

        def later(time_s: float) -> float:
            return 0.4 + (0.008 * (int(time_s / 4) % 2) if time_s > 6 else 0.0)

        seldom = times(sample_adaptive(0.0, 30.0, self.config, DrawnVideo(later).look))
        assert len(seldom) < 20

    def test_a_hole_counts_as_change_and_is_reported(self):
        video = DrawnVideo(still, missing=lambda time_s: 15 <= time_s < 17)
        shots = list(sample_adaptive(0.0, 40.0, self.config, video.look))
        holes = [sample.wanted_s for sample, _ in shots if sample.quality == "missing"]
        assert holes == [15.0, 15.5, 16.0, 16.5]

    def test_it_works_on_a_real_video(self, tmp_path):
        # numbers change the picture; the last one stands still for 20 s
        path = videos.write_video(
            tmp_path / "a.mp4", numbers=[*range(60), *range(60, 660, 15)], options=videos.X264
        )
        with path.open("rb") as file, open_pyav(file, "a.mp4") as look:
            config = WindowConfig(sample_fps=4, min_fps=1, sampler="adaptive")
            frames = gather(
                sample_adaptive(
                    0.0, 20.0, config, lambda times_s: look(times_s, FrameSize(96, 160), Policy())
                ),
                80,
            )
        shown = [videos.number(data_HWC) for data_HWC in frames.data_NHWC]
        assert shown == [round(pts_s * 30) for pts_s in frames.pts_s_N]


@needs_scenedetect
class TestScenes:
    config = WindowConfig(sample_fps=2, min_fps=0.1, sampler="scenes")

    def test_each_scene_has_its_middle_and_nothing_else(self):
        video = DrawnVideo(lambda time_s: 0.2 if time_s < 4 else 0.9 if time_s < 10 else 0.4)
        assert times(sample_scenes(0.0, 16.0, self.config, video.look)) == [2.0, 7.0, 13.0]

    def test_a_long_scene_is_shown_again_and_again(self):
        found = times(sample_scenes(0.0, 60.0, self.config, DrawnVideo(still).look))
        assert found == [5.0, 15.0, 25.0, 35.0, 45.0, 55.0]

    def test_the_picture_handed_on_is_the_one_of_its_time(self):
        video = DrawnVideo(lambda time_s: 0.2 if time_s < 4 else 0.9, picture_s=3.0)
        frames = gather(sample_scenes(0.0, 10.0, self.config, video.look), 20)
        # pictures begin at 0, 3, 6, 9 s; the one of 3 s is still dark
        assert frames.data_NHWC[:, 0, 0, 0].tolist() == [51, 230]
        assert frames.pts_s_N.tolist() == [3.0, 6.0]

    def test_a_hole_in_the_middle_is_stepped_around(self):
        video = DrawnVideo(still, missing=lambda time_s: 3 <= time_s < 6)
        samples = [sample for sample, _ in sample_scenes(0.0, 9.0, self.config, video.look)]
        assert [sample.quality for sample in samples] == ["ok"]

    def test_nothing_but_holes_is_reported(self):
        video = DrawnVideo(still, missing=lambda _time_s: True)
        samples = [sample for sample, _ in sample_scenes(0.0, 9.0, self.config, video.look)]
        assert [sample.quality for sample in samples] == ["missing"]


def test_a_picture_that_two_requests_deliver_comes_once():
    # one picture stands for the whole video
    shots = list(sample_adaptive(0.0, 40.0, TestAdaptive.config, DrawnVideo(still, picture_s=100.0).look))
    assert [picture is not None for _, picture in shots] == [True] + [False] * (len(shots) - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "adaptive", "sample_fps": 1, "min_fps": 2}, r"at least 2 frames per second and look at 1; lower"),
        ({"sampler": "scenes", "sample_fps": 0.1}, "lower --window.min-fps"),
        ({"still_change": 0.2}, r"still-change 0.2 is above --window.wake-change 0.012.*swap them"),
        ({"length_s": 4096, "sample_fps": 1}, "4096 frames, more than 4096 with the video's tail"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        WindowConfig(**settings)


def test_without_the_package_scenes_are_refused_at_once(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "scenedetect" else find_spec(name)
    )
    with pytest.raises(ConfigError, match=r"needs the package scenedetect.*reelsift\[scenes\]"):
        WindowConfig(sampler="scenes")


def test_a_request_is_ended_before_the_next_begins():
    open_requests = 0

    class Strict(DrawnVideo):
        def look(self, times_s):
            nonlocal open_requests
            assert not open_requests, "two requests read one video at the same time"
            open_requests += 1
            try:
                yield from super().look(times_s)
            finally:
                open_requests -= 1

    video = Strict(an_event(20.0, 22.0))
    shots = list(sampling.SAMPLERS["adaptive"](0.0, 60.0, TestAdaptive.config, video.look))
    assert len(video.asked) > 2
    assert all(before < after for before, after in pairwise(times(shots)))


@pytest.mark.parametrize("num_times", range(1, 12))
def test_adaptive_does_not_look_twice_when_the_window_ends_as_it_falls_asleep(num_times):
    config = WindowConfig(sampler="adaptive", length_s=26, sample_fps=1, min_fps=0.5)
    shots = sample_adaptive(0.0, float(num_times), config, DrawnVideo(lambda _: 0.5).look)
    times_s = [sample.wanted_s for sample, _ in shots]
    assert times_s == sorted(set(times_s))
