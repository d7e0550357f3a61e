import importlib
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import decode_torchcodec, numbered
from pipeline.decode_torchcodec import open_torchcodec
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from tests import videos
from tests.decoding import decode

SIZE = FrameSize(96, 160)
needs_torchcodec = pytest.mark.skipif(
    importlib.util.find_spec("torchcodec") is None, reason="torchcodec is optional"
)
TAKEN = ["h264.mp4", "long groups.mp4", "no B pictures.mp4", "fragments.mp4", "h264.mkv", "starts at 100 s.mkv",
         "variable rate.mp4", "variable rate.mkv", "odd size.mp4", "hevc open groups.mp4", "vp9.webm"]  # fmt: skip


@needs_torchcodec
@pytest.mark.parametrize("kind", TAKEN)
def test_it_agrees_with_pyav_on_files_it_takes(intact, kind):
    path, numbers = intact(kind)
    times_s = [(k - numbers[0] + 0.3) / 30 for k in numbers[1::3]]
    found, expected = decode(path, times_s, SIZE, opener=open_torchcodec), decode(path, times_s, SIZE)
    np.testing.assert_allclose(found.pts_s_N, expected.pts_s_N)
    assert [videos.number(data_HWC) for data_HWC in found.data_NHWC] == numbers[1::3]
    assert found.data_NHWC.shape == expected.data_NHWC.shape
    difference = np.abs(found.data_NHWC.astype(float) - expected.data_NHWC)
    assert difference.mean() < 6, "the same picture, made small in another way"


@needs_torchcodec
def test_pictures_fit_inside_a_size_as_with_pyav(intact):
    path, _ = intact("h264.mp4")
    frames = decode(path, [1.0], FrameSize(64, 64, "inside"), opener=open_torchcodec)
    assert frames.data_NHWC.shape == (1, 38, 64, 3)


@needs_torchcodec
@pytest.mark.parametrize(
    "kind", ["recovery points.mp4", "open groups.mp4", "h264.ts", "variable rate.ts", "mpeg4.avi", "mpeg2.ts"]
)
def test_it_refuses_what_it_would_get_wrong(intact, kind):
    path, _ = intact(kind)
    with pytest.raises(DecodeError, match=r"gives wrong pictures for .*use decoder 'pyav'"):
        decode(path, [1.0], SIZE, opener=open_torchcodec)


@needs_torchcodec
def test_a_picture_of_another_time_is_never_handed_on(intact, monkeypatch):
    path, _ = intact("h264.mp4")
    real = numbered.number_pictures

    def one_too_many(*arguments):
        pictures = real(*arguments)
        pictures.shown_s.insert(10, pictures.shown_s[10] - 0.01)
        return pictures

    monkeypatch.setattr(decode_torchcodec, "number_pictures", one_too_many)
    with pytest.raises(DecodeError, match=r"gave the picture at .* for the one at .*use decoder 'pyav'"):
        decode(path, [0.1, 1.0], SIZE, opener=open_torchcodec)


@needs_torchcodec
def test_a_file_that_breaks_off_is_an_error_that_names_the_way_out(ten_seconds, tmp_path):
    path = videos.cut(ten_seconds("mp4"), tmp_path / "b.mp4", 0.6)
    with pytest.raises(DecodeError, match=r"b\.mp4"):
        decode(path, [0.5, 9.8], SIZE, opener=open_torchcodec)


def test_without_torchcodec_it_says_what_to_do(intact, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    with pytest.raises(DecodeError, match=r"not installed .*pip install --no-deps torchcodec==0\.13\.0"):
        decode(intact("h264.mp4")[0], [1.0], SIZE, opener=open_torchcodec)


def test_without_its_libraries_it_says_what_to_do(intact, monkeypatch):
    def fails(_name):
        msg = "Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed"
        raise RuntimeError(msg)

    monkeypatch.setattr(decode_torchcodec, "importlib", SimpleNamespace(import_module=fails))
    with pytest.raises(
        DecodeError, match=r"cannot load its libraries \(Could not load.*shared libraries of FFmpeg"
    ):
        decode(intact("h264.mp4")[0], [1.0], SIZE, opener=open_torchcodec)
