import importlib.util

import numpy as np
import pytest

from pipeline.decode import open_pyav
from pipeline.decode_decord import open_decord
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from tests import videos
from tests.decoding import decode

SIZE = FrameSize(96, 160)
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is optional")
TAKEN = ["h264.mp4", "long groups.mp4", "no B pictures.mp4", "fragments.mp4", "h264.mkv", "starts at 100 s.mkv",
         "variable rate.mp4", "variable rate.mkv", "odd size.mp4", "sound is longer.mp4"]  # fmt: skip


@needs_decord
@pytest.mark.parametrize("kind", TAKEN)
def test_it_agrees_with_pyav_on_files_it_takes(intact, kind):
    path, numbers = intact(kind)
    times_s = [(k - numbers[0] + 0.3) / 30 for k in numbers[1::3]]
    found, expected = decode(path, times_s, SIZE, opener=open_decord), decode(path, times_s, SIZE)
    np.testing.assert_allclose(found.pts_s_N, expected.pts_s_N)
    assert [videos.number(data_HWC) for data_HWC in found.data_NHWC] == numbers[1::3]
    assert [s.is_key for s in found.samples] == [s.is_key for s in expected.samples]


@needs_decord
def test_a_picture_that_stands_still_comes_once_and_the_end_is_told(intact):
    path, _ = intact("h264.mp4")
    frames = decode(path, [1.01, 1.02, 1.5, 5.5, 9.0], SIZE, opener=open_decord)
    assert [videos.number(data_HWC) for data_HWC in frames.data_NHWC] == [30, 45, 149]
    assert [sample.quality for sample in frames.samples] == ["ok", "ok", "ok", "ok", "missing"]


@needs_decord
@pytest.mark.parametrize(
    "kind",
    ["open groups.mp4", "recovery points.mp4", "h264.ts", "h264.flv", "hevc.mkv", "vp9.webm", "mpeg4.avi"],
)
def test_it_refuses_what_it_would_get_wrong(intact, kind):
    path, _ = intact(kind)
    with pytest.raises(DecodeError, match=r"gives wrong pictures for .*use decoder 'pyav'"):
        decode(path, [1.0], SIZE, opener=open_decord)


@needs_decord
def test_it_refuses_a_turned_video(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", numbers=range(9), rotation_deg=90, options=videos.X264)
    with pytest.raises(DecodeError, match="turned"):
        decode(path, [1.0], SIZE, opener=open_decord)


@needs_decord
def test_what_is_no_video_is_told_as_with_pyav(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("hello")
    for opener in (open_decord, open_pyav):
        with pytest.raises(DecodeError, match="the file is text"):
            decode(path, [1.0], SIZE, opener=opener)


@needs_decord
def test_what_it_cannot_read_is_told_without_the_time_of_day(intact, tmp_path):
    """What is told of a file is the same in every run."""
    path, _ = intact("long groups.mp4")
    data = bytearray(path.read_bytes())
    at, length = data.index(b"mdat") + 4, int.from_bytes(data[data.index(b"mdat") - 4 :][:4])
    for place in range(at + length // 4, at + length - 8, 3):
        data[place] ^= 0x5A
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(DecodeError, match=r"a\.mp4: decoder 'decord' fails \([^[]*use decoder 'pyav'"):
        decode(tmp_path / "a.mp4", [0.1, 1.0, 2.0, 4.0], SIZE, opener=open_decord)


def test_without_decord_it_says_what_to_do(intact, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path, _ = intact("h264.mp4")
    with pytest.raises(DecodeError, match="not installed; pip install decord"):
        decode(path, [1.0], SIZE, opener=open_decord)
