import sys

import numpy as np
import pytest

from pipeline import decode_decord
from pipeline.decode import DECODERS, decode_pyav
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from tests import videos

pytest.importorskip("decord", exc_type=ImportError)
decode = DECODERS["decord"]
SIZE = FrameSize(96, 160)


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "variable rate.mp4", "odd size.mp4"])
def test_it_agrees_with_pyav_on_files_it_takes(tmp_path, kind):
    path, numbers = videos.write_intact(tmp_path, kind)
    times_s = [(k - numbers[0] + 0.3) / 30 for k in numbers[1::7]]
    found, expected = decode(str(path), times_s, SIZE), decode_pyav(str(path), times_s, SIZE)
    np.testing.assert_allclose(found.pts_s_N, expected.pts_s_N)
    assert [videos.number(data_HWC) for data_HWC in found.data_NHWC] == numbers[1::7]


@pytest.mark.parametrize("kind", ["open groups.mp4", "h264.ts", "hevc.mkv", "vp9.webm"])
def test_it_refuses_what_it_would_get_wrong(tmp_path, kind):
    path, _ = videos.write_intact(tmp_path, kind)
    with pytest.raises(DecodeError, match=r"gives wrong pictures for .*use decoder 'pyav'"):
        decode(str(path), [1.0], SIZE)


def test_it_refuses_a_turned_video(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", rotation_deg=90, options=videos.X264)
    with pytest.raises(DecodeError, match="turned"):
        decode(str(path), [1.0], SIZE)


def test_a_hang_is_stopped(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("while True: pass")
    monkeypatch.setattr(decode_decord, "CHILD", child)
    monkeypatch.setattr(decode_decord, "TIMEOUT_S", 0.5)
    path, _ = videos.write_intact(tmp_path, "h264.mp4")
    with pytest.raises(DecodeError, match=r"longer than 0\.5 s"):
        decode(str(path), [1.0], SIZE)


def test_a_crash_costs_the_child_only(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import os; os.abort()")
    monkeypatch.setattr(decode_decord, "CHILD", child)
    path, _ = videos.write_intact(tmp_path, "h264.mp4")
    with pytest.raises(DecodeError, match="ended with code -6"):
        decode(str(path), [1.0], SIZE)


def test_without_decord_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.setattr(decode_decord.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DecodeError, match="not installed"):
        decode(str(tmp_path / "a.mp4"), [1.0], SIZE)
