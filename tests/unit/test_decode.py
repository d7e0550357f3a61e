import io
import random
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest

from pipeline import decode as decoding
from pipeline import pictures
from pipeline.decode import DECODERS, open_pyav
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize, Policy, gather
from pipeline.media import fitted_size, shown_size
from pipeline.pictures import packets_from
from tests import videos
from tests.decoding import decode

SIZE = FrameSize(96, 160)


def shown_at(numbers: list[int], number: int, fps: int = 30) -> float:
    """Return a time at which a number is shown, counted from the first picture."""
    return (number - numbers[0] + 0.3) / fps


def decoded_numbers(uri, times_s, size=SIZE) -> list[int]:
    return [videos.number(data_HWC) for data_HWC in decode(uri, times_s, size).data_NHWC]


@pytest.fixture(scope="session")
def half_minute(tmp_path_factory):
    """Return a file of 900 pictures in a container, encoded once."""
    whole = videos.write_video(
        tmp_path_factory.mktemp("videos") / "whole.mp4",
        numbers=range(900),
        gop=45,
        options=videos.X264,
        container_options={"movflags": "faststart"},
    )

    def make(suffix):
        return (
            whole
            if suffix == "mp4"
            else videos.drop_packets(whole, whole.with_suffix(f".{suffix}"), range(0))
        )

    return cache(make)


@pytest.fixture(scope="session")
def two_groups(tmp_path_factory):
    """Return a file with key pictures 0, 60 and 120 and without B pictures."""
    path = tmp_path_factory.mktemp("videos") / "groups.mp4"
    return videos.write_video(path, gop=60, b_frames=0, options=videos.X264)


@pytest.fixture(params=["planned", "everything decoded"])
def path_taken(request, monkeypatch):
    """Force one of the two ways to a picture, so that neither hides behind the other."""
    if request.param == "everything decoded":
        monkeypatch.setattr(decoding, "_decode_planned", lambda *_: iter(()))


class TestIntact:
    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_every_picture_is_the_one_shown_then(self, intact, kind):
        path, numbers = intact(kind)
        frames = decode(path, [shown_at(numbers, k) for k in numbers], SIZE)
        assert [videos.number(data_HWC) for data_HWC in frames.data_NHWC] == numbers
        shown_s_N = (np.asarray(numbers) - numbers[0]) / 30
        np.testing.assert_allclose(frames.pts_s_N, shown_s_N, atol=1e-3)  # mkv and flv round to milliseconds

    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_a_few_pictures_anywhere(self, intact, kind):
        path, numbers = intact(kind)
        draw = random.Random(6)
        for _ in range(8):
            wanted = sorted(draw.sample(numbers, draw.choice([1, 1, 3])))
            assert decoded_numbers(path, [shown_at(numbers, k) for k in wanted]) == wanted

    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_a_delivered_time_leads_back_to_the_same_picture(self, intact, kind):
        path, numbers = intact(kind)
        times_s = [shown_at(numbers, k) for k in numbers[::13]]
        frames = decode(path, times_s, SIZE)
        again = decode(path, frames.pts_s_N.tolist(), SIZE)
        np.testing.assert_array_equal(again.pts_s_N, frames.pts_s_N)
        np.testing.assert_array_equal(again.data_NHWC, frames.data_NHWC)

    @pytest.mark.parametrize(
        "kind", ["h264.mp4", "open groups.mp4", "hevc open groups.mp4", "vp9.webm", "h264.ts"]
    )
    def test_the_plan_is_enough_for_well_formed_streams(self, intact, monkeypatch, kind):
        monkeypatch.setattr(decoding, "_decode_all", None)
        path, numbers = intact(kind)
        wanted = numbers[7::30]
        assert decoded_numbers(path, [shown_at(numbers, k) for k in wanted]) == wanted

    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_what_the_plan_leaves_out_changes_no_pixel(self, intact, monkeypatch, kind):
        path, numbers = intact(kind)
        times_s = [shown_at(numbers, k) for k in numbers[2::7]]
        planned = decode(path, times_s, SIZE)
        monkeypatch.setattr(decoding, "_decode_planned", lambda *_: iter(()))
        np.testing.assert_array_equal(planned.data_NHWC, decode(path, times_s, SIZE).data_NHWC)

    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
    def test_far_times_are_sought_and_right(self, half_minute, suffix):
        wanted = [20, 290, 640, 899]
        assert decoded_numbers(half_minute(suffix), [shown_at([0], k) for k in wanted]) == wanted


class TestTimes:
    def test_order_and_repetition_of_times_do_not_matter(self, intact):
        path, numbers = intact("h264.mp4")
        times_s = [shown_at(numbers, k) for k in (90, 3, 90, 41)]
        assert decoded_numbers(path, times_s) == [3, 41, 90]

    @pytest.mark.usefixtures("path_taken")
    def test_times_that_share_a_picture_give_it_once(self, intact):
        path, _ = intact("h264.mp4")
        assert decoded_numbers(path, [1.001, 1.002, 1.02, 1.034]) == [30, 31]

    @pytest.mark.usefixtures("path_taken")
    def test_a_time_on_the_border_belongs_to_the_later_picture(self, intact):
        path, _ = intact("h264.mp4")
        assert decoded_numbers(path, [k / 30 for k in (1, 7, 49, 100)]) == [1, 7, 49, 100]

    def test_a_time_before_the_first_picture_gets_the_first(self, intact):
        path, _ = intact("h264.mp4")
        assert decoded_numbers(path, [-0.2]) == [0]

    @pytest.mark.usefixtures("path_taken")
    def test_the_last_picture_stands_for_one_second_more(self, intact):
        path, _ = intact("h264.mp4")
        assert decoded_numbers(path, [4.5, 5.5]) == [135, 149]
        assert decoded_numbers(path, [4.5, 6.5]) == [135]

    @pytest.mark.usefixtures("path_taken")
    def test_times_past_the_end_are_missing_and_say_why(self, intact):
        path, _ = intact("h264.mp4")
        frames = decode(path, [60.0, 61.0], SIZE)
        assert len(frames) == 0
        assert [(s.wanted_s, s.quality, s.reason) for s in frames.samples] == [
            (60.0, "missing", "the pictures end earlier"),
            (61.0, "missing", "the pictures end earlier"),
        ]

    def test_no_times_give_no_pictures(self, intact):
        path, _ = intact("h264.mp4")
        assert len(decode(path, [], SIZE)) == 0

    @pytest.mark.usefixtures("path_taken")
    def test_a_long_still_of_an_intact_video_is_not_stale(self, tmp_path):
        path = videos.write_video(tmp_path / "slides.mp4", numbers=[0, 90, 100], options=videos.X264)
        assert decoded_numbers(path, [2.9, 3.2]) == [0, 90]


class TestQuality:
    @pytest.mark.usefixtures("path_taken")
    def test_a_sample_says_what_came_of_its_time(self, intact):
        path, _ = intact("h264.mp4")
        samples = decode(path, [0.0, 1.51, 1.52, 5.5, 8.0], SIZE).samples
        assert [sample.wanted_s for sample in samples] == [0.0, 1.51, 1.52, 5.5, 8.0]
        assert [sample.pts_s for sample in samples[:4]] == pytest.approx([0, 1.5, 1.5, 149 / 30], abs=1e-4)
        assert [sample.is_key for sample in samples] == [True, False, False, False, False]
        assert [sample.quality for sample in samples] == ["ok", "ok", "ok", "stale", "missing"]
        assert [bool(sample.reason) for sample in samples] == [False, False, False, True, True]
        assert {sample.off_s for sample in samples} == {0.0}

    @pytest.mark.parametrize("kind", videos.INTACT)
    @pytest.mark.parametrize("near_s", [0.05, 0.4])
    def test_near_is_never_further_off_than_it_says_and_may(self, intact, kind, near_s):
        path, numbers = intact(kind)
        times_s = [shown_at(numbers, k) for k in numbers]
        frames = decode(path, times_s, SIZE, Policy("near", near_s))
        shown = {pts: videos.number(data) for pts, data in zip(frames.pts_s_N, frames.data_NHWC, strict=True)}
        for k, sample in zip(numbers, frames.samples, strict=True):
            assert sample.quality == "ok"
            assert abs(sample.off_s) <= near_s + 1e-3
            assert (shown[sample.pts_s] - k) / 30 == pytest.approx(sample.off_s, abs=2e-3)

    def test_near_never_goes_beyond_the_last_wanted_time(self, intact):
        path, _ = intact("h264.mp4")
        times_s = [0.2, 0.95]  # a key picture comes at 1.0
        assert decode(path, times_s, SIZE, Policy("near", 0.3)).pts_s_N.max() <= 0.95

    def test_a_key_picture_that_is_destroyed_is_not_passed_over_in_silence(self, intact, tmp_path):
        path, _ = intact("h264.mp4")
        with av.open(str(path)) as container:
            keys = [p for p in container.demux(container.streams.video[0]) if p.is_keyframe]
            start, stop = keys[2].pos, keys[2].pos + keys[2].size
        data = bytearray(path.read_bytes())
        data[start:stop] = bytes(stop - start)
        (tmp_path / "zeroed.mp4").write_bytes(data)
        samples = decode(tmp_path / "zeroed.mp4", [1.5, 2.5, 3.5], SIZE, Policy("keyframe")).samples
        assert [sample.quality for sample in samples] == ["ok", "stale", "ok"]

    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_keyframe_gives_pictures_at_the_times_they_say(self, intact, kind):
        path, numbers = intact(kind)
        frames = decode(path, [shown_at(numbers, k) for k in numbers], SIZE, Policy("keyframe"))
        found = [videos.number(data_HWC) for data_HWC in frames.data_NHWC]
        shown_s_N = (np.asarray(found) - numbers[0]) / 30
        np.testing.assert_allclose(frames.pts_s_N, shown_s_N, atol=2e-3)
        assert all(sample.pts_s <= sample.wanted_s for sample in frames.samples)
        if kind == "h264.mp4":
            assert found[:4] == [0, 30, 60, 90]
            assert all(sample.is_key for sample in frames.samples[:100])


class TestSize:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (FrameSize(224, 224), (224, 224)),
            (FrameSize(33, 57), (33, 57)),
            (FrameSize(448, 448, "inside"), (361, 641)),
            (FrameSize(100, 448, "inside"), (100, 178)),
            (FrameSize(448, 320, "inside"), (180, 320)),
        ],
    )
    def test_an_odd_size_is_fitted(self, intact, size, expected):
        path, _ = intact("odd size.mp4")
        if size.width_px == 448 and size.height_px == 448:
            expected = (252, 448)
        frames = decode(path, [1.0, 1.5], size)
        assert frames.data_NHWC.shape == (2, *expected, 3)
        assert [videos.number(data_HWC) for data_HWC in frames.data_NHWC] == [30, 45]

    @pytest.mark.parametrize(
        ("aspect", "shown"), [(Fraction(1, 10_000), (96, 160)), (Fraction(4, 3), (96, 213))]
    )
    def test_an_insane_pixel_aspect_is_taken_for_a_mistake(self, aspect, shown):
        assert shown_size(av.VideoFrame(160, 96, "yuv420p"), aspect) == shown

    def test_inside_never_enlarges(self):
        assert fitted_size(FrameSize(448, 448, "inside"), (90, 120)) == (90, 120)
        assert fitted_size(FrameSize(448, 448, "inside"), (1080, 1920)) == (252, 448)

    @pytest.mark.parametrize("turned_deg", [90, 180, -90])
    def test_pictures_come_upright(self, tmp_path, turned_deg):
        path = videos.write_video(tmp_path / "a.mp4", rotation_deg=turned_deg, options=videos.X264)
        [shown_HWC] = decode(path, [1.01], FrameSize(500, 500, "inside")).data_NHWC
        stored_HWC = np.rot90(shown_HWC, -turned_deg // 90)  # the display matrix turns counter-clockwise
        assert stored_HWC.shape == (96, 160, 3)
        assert videos.number(stored_HWC) == 30

    def test_colours_survive_in_order(self, tmp_path, monkeypatch):
        orange = np.broadcast_to(np.asarray([230, 120, 20], np.uint8), (96, 160, 3))
        monkeypatch.setattr(videos, "picture", lambda *_: np.ascontiguousarray(orange))
        path = videos.write_video(tmp_path / "orange.mp4", numbers=[0], options=videos.X264)
        [data_HWC] = decode(path, [0.0], SIZE).data_NHWC
        np.testing.assert_allclose(data_HWC.mean(axis=(0, 1)), [230, 120, 20], atol=5)


class TestBroken:
    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
    def test_a_cut_file_gives_what_is_left_and_nothing_else(self, half_minute, tmp_path, suffix):
        path = videos.cut(half_minute(suffix), tmp_path / f"cut.{suffix}", 0.6)
        found = decode(path, [k + 0.01 for k in range(30)], SIZE)
        numbers = [videos.number(data_HWC) for data_HWC in found.data_NHWC]
        np.testing.assert_allclose(np.asarray(numbers) / 30, found.pts_s_N, atol=1e-3)
        assert numbers[:15] == [30 * k for k in range(15)]
        assert found.pts_s_N[-1] < 20
        assert [sample.quality for sample in found.samples[20:]] == ["missing"] * 10
        assert [sample.quality for sample in decode(path, [25.0], SIZE).samples] == ["missing"]

    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
    def test_no_wrong_picture_comes_out_of_damage(self, half_minute, tmp_path, suffix):
        path = videos.damage(half_minute(suffix), tmp_path / f"damaged.{suffix}", 0.5, 0.05)
        found = decode(path, [k / 5 + 0.01 for k in range(150)], SIZE)
        numbers = [videos.number(data_HWC) for data_HWC in found.data_NHWC]
        np.testing.assert_allclose(np.asarray(numbers) / 30, found.pts_s_N, atol=1e-3)
        assert 130 <= len(numbers) < 150
        assert numbers[-1] == 894

    @pytest.mark.usefixtures("path_taken")
    @pytest.mark.parametrize("suffix", ["mkv", "ts"])
    @pytest.mark.parametrize("hole", [range(40, 95), range(40, 52), range(30, 90)])
    def test_no_picture_from_after_a_hole_passes_as_good(self, two_groups, tmp_path, suffix, hole):
        whole = two_groups
        path = videos.drop_packets(whole, tmp_path / f"hole.{suffix}", hole)
        frames, twin = (decode(file, [k / 30 + 0.01 for k in range(150)], SIZE) for file in (path, whole))
        place = {pts: index for index, pts in enumerate(frames.pts_s_N)}
        num_good = 0
        for k, sample in enumerate(frames.samples):
            if sample.quality == "ok":
                num_good += 1
                assert k not in hole[1:]
                np.testing.assert_array_equal(frames.data_NHWC[place[sample.pts_s]], twin.data_NHWC[k])
        assert num_good >= hole.start + 30  # what is before the hole, and from the last key picture on

    @pytest.mark.parametrize("hole", [range(0)])
    def test_a_still_that_its_container_tells_of_is_good(self, tmp_path, hole):
        path = videos.write_video(
            tmp_path / "still.mp4", numbers=[0, 1, 140, 141], gop=60, options=videos.X264
        )
        assert {sample.quality for sample in decode(path, [0.0, 2.0, 4.0, 4.7], SIZE).samples} == {"ok"}
        path = videos.drop_packets(path, tmp_path / "still.mkv", hole)
        samples = decode(path, [0.0, 2.0, 4.68], SIZE).samples
        assert [sample.quality for sample in samples] == ["ok", "stale", "stale"]
        assert "it stood still, or the file has a hole" in samples[1].reason

    def test_pictures_of_avi_without_times_are_in_order_and_say_so(self, tmp_path):
        path = videos.write_video(tmp_path / "b.avi", codec="mpeg4", b_frames=2, gop=30)
        frames = decode(path, [shown_at([0], k) for k in range(140)], SIZE)
        assert [videos.number(data_HWC) for data_HWC in frames.data_NHWC] == list(range(140))
        assert {sample.quality for sample in frames.samples} == {"stale"}
        assert all("no presentation times" in sample.reason for sample in frames.samples)

    def test_an_avi_cut_before_its_index_shows_only_what_its_key_pictures_lead_to(self, tmp_path):
        whole = videos.write_video(
            tmp_path / "whole.avi", codec="msmpeg4", numbers=range(120), gop=25, b_frames=0
        )
        path = tmp_path / "cut.avi"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 5])
        times_s = [k / 30 + 0.01 for k in range(120)]
        twin = decode(whole, times_s, SIZE)
        for k in (3, 17, 30, 44, 59, 66):
            [sample] = decode(path, [times_s[k]], SIZE).samples
            assert sample.quality == "ok"
            [picture] = decode(path, [times_s[k]], SIZE).data_NHWC
            np.testing.assert_array_equal(picture, twin.data_NHWC[k])

    def test_a_file_with_one_key_picture_is_not_decoded_again_and_again(self, tmp_path, monkeypatch):
        path = videos.write_video(tmp_path / "a.mkv", numbers=range(900), gop=900, options=videos.X264)
        num_runs = 0

        def count(*args):
            nonlocal num_runs
            num_runs += 1
            return packets_from(*args)

        monkeypatch.setattr(pictures, "packets_from", count)
        frames = decode(path, [k * 5.5 + 1 for k in range(5)], SIZE)
        assert [videos.number(data_HWC) for data_HWC in frames.data_NHWC] == [30, 195, 360, 525, 690]
        assert num_runs <= 3

    def test_a_clock_that_starts_again_goes_on_when_read_in_order(self, tmp_path):
        parts = [
            videos.write_video(
                tmp_path / f"{n}.ts", numbers=numbers, start_s=0, b_frames=0, options=videos.X264
            ).read_bytes()
            for n, numbers in enumerate((range(90), range(90)))
        ]
        (tmp_path / "joined.ts").write_bytes(b"".join(parts))

        class InOrder(io.FileIO):
            in_order = True

        times_s = [k / 30 + 0.01 for k in range(180)]
        with InOrder(tmp_path / "joined.ts") as file, open_pyav(file, "joined.ts") as look:
            frames = gather(look(times_s, SIZE, Policy()), len(times_s))
        shown = dict(zip(frames.pts_s_N.tolist(), map(videos.number, frames.data_NHWC), strict=True))
        good = [(k % 90, shown[s.pts_s]) for k, s in enumerate(frames.samples) if s.quality == "ok"]
        assert all(expected == found for expected, found in good)
        assert len(good) >= 176  # the last packets before the joint are broken

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.mp4", b"", "empty"),
            ("text.mp4", b"hello\n" * 99, "text, not a video"),
            ("noise.mkv", random.Random(0).randbytes(4000), "no known video format"),
        ],
    )
    def test_a_file_that_is_no_video_says_so(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DecodeError, match=rf"{name}: .*{message}"):
            decode(tmp_path / name, [0.0], SIZE)

    def test_sound_alone_says_so(self, tmp_path):
        path = videos.write_audio(tmp_path / "sound.mp4")
        with pytest.raises(DecodeError, match="no video stream, the file holds only audio"):
            decode(path, [0.0], SIZE)


def test_the_default_decoder_is_in_the_table():
    assert DECODERS["pyav"] is open_pyav
