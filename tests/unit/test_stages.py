"""A window's frames have times inside it, and the same ones come again as evidence."""

import numpy as np
import pytest

from pipeline import rows, stages, store
from pipeline.config import WindowConfig
from pipeline.decode import decode_pyav
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from pipeline.listing import version
from tests import videos

SIZE = FrameSize(96, 160)


@pytest.fixture
def slides(tmp_path):
    """Picture 0 stands for 7 s, then come three more, 1 s apart."""
    return videos.write_video(tmp_path / "a.mp4", numbers=[0, 210, 240, 270], b_frames=0, options=videos.X264)


def seen(path) -> str:
    """The version that listing gives a file."""
    [entry] = store.list_files(str(path))
    return version(entry.size_bytes, entry.etag)


def sample(path, start_s: float, end_s: float) -> dict:
    window = {"uri": str(path), "start_s": start_s, "end_s": end_s, "version": seen(path)}
    return {**window, **stages.sample_window(decode_pyav, SIZE, WindowConfig(sample_fps=2), window)}


@pytest.mark.parametrize(
    ("start_s", "end_s", "pts_s", "numbers"),
    [(0, 4, [0.0], [0]), (4, 8, [4.0, 7.0], [0, 210]), (8.5, 9.5, [8.5, 9.0], [240, 270])],
)
def test_a_standing_picture_counts_from_the_windows_start(slides, start_s, end_s, pts_s, numbers):
    found = sample(slides, start_s, end_s)
    assert found["pts_s"] == pytest.approx(pts_s)
    assert [videos.number(data) for data in rows.unpack(found["pixels"])] == numbers


def test_evidence_is_the_frames_that_were_sampled(slides):
    window = sample(slides, 4, 8)
    evidence = stages.fetch_evidence(decode_pyav, SIZE, {**window, "plans": [{"tokens": [4, 0]}]})
    assert evidence["evidence_index"] == [0]
    assert np.array_equal(rows.unpack(evidence["evidence_pixels"])[0], rows.unpack(window["pixels"])[0])


def test_a_file_that_changed_or_went_is_not_answered_under_its_old_version(slides):
    window = {"uri": str(slides), "start_s": 0, "end_s": 4, "version": seen(slides)}
    videos.write_video(slides, options=videos.X264)
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        stages.sample_window(decode_pyav, SIZE, WindowConfig(), window)
    slides.unlink()
    with pytest.raises(DecodeError, match="is gone now"):
        stages.sample_window(decode_pyav, SIZE, WindowConfig(), window)


def test_only_the_plans_that_need_evidence_suffer_when_it_cannot_be_had(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    plans = [{"tokens": [4, 4], "error_message": ""}, {"tokens": [0, 0], "error_message": ""}]
    found = stages.fetch_evidence(decode_pyav, SIZE, {**window, "plans": plans})
    assert found["evidence_index"] == []
    assert "has changed since it was listed" in found["plans"][0]["error_message"]
    assert found["plans"][1]["error_message"] == ""


def test_other_frames_than_those_sampled_are_no_evidence(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    window = {**window, "version": seen(slides), "plans": [{"tokens": [4, 4], "error_message": ""}]}
    found = stages.fetch_evidence(decode_pyav, SIZE, window)
    words = "frames at [4.0, 7.0] s were sampled before, now [4.0] s were delivered"
    assert words in found["plans"][0]["error_message"]
