"""A window's frames have times inside it, and the same ones come again as evidence."""

import numpy as np
import pytest

from pipeline import rows, stages
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.windows import key_gap_s, spans
from tests import videos

SIZE = FrameSize(96, 160)
READER = Reader(DecodeConfig(), WindowConfig())


@pytest.fixture
def slides(tmp_path):
    """Picture 0 stands for 7 s, then come three more, 1 s apart."""
    return videos.write_video(tmp_path / "a.mp4", numbers=[0, 210, 240, 270], b_frames=0, options=videos.X264)


def seen(path) -> dict:
    """The file as it is listed."""
    [file] = list_videos(str(path))
    return file


def sample(path, start_s: float, end_s: float, decode: DecodeConfig | None = None) -> dict:
    window = {**seen(path), "start_s": start_s, "end_s": end_s, "key_gap_s": 1.0}
    reader = Reader(decode or DecodeConfig(), WindowConfig(sample_fps=2))
    return {**window, **stages.sample_window(reader, SIZE, window)}


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
    evidence = stages.fetch_evidence(READER, SIZE, {**window, "plans": [{"tokens": [4, 0]}]})
    assert evidence["evidence_index"] == [0]
    assert np.array_equal(rows.unpack(evidence["evidence_pixels"])[0], rows.unpack(window["pixels"])[0])


def test_a_file_that_changed_or_went_is_not_answered_under_its_old_version(slides):
    window = {**seen(slides), "start_s": 0, "end_s": 4, "key_gap_s": 0.0}
    videos.write_video(slides, options=videos.X264)
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        stages.sample_window(READER, SIZE, window)
    slides.unlink()
    with pytest.raises(DecodeError, match="is gone now"):
        stages.sample_window(READER, SIZE, window)


def test_only_the_plans_that_need_evidence_suffer_when_it_cannot_be_had(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    plans = [{"tokens": [4, 4], "error_message": ""}, {"tokens": [0, 0], "error_message": ""}]
    found = stages.fetch_evidence(READER, SIZE, {**window, "plans": plans})
    assert found["evidence_index"] == []
    assert "has changed since it was listed" in found["plans"][0]["error_message"]
    assert found["plans"][1]["error_message"] == ""


def test_other_frames_than_those_sampled_are_no_evidence(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    window = {**window, **seen(slides), "plans": [{"tokens": [4, 4], "error_message": ""}]}
    found = stages.fetch_evidence(READER, SIZE, window)
    words = "frames at [0.0, 7.0] s were sampled before, now [0.0] s were delivered"
    assert words in found["plans"][0]["error_message"]


def test_what_came_of_every_sampled_time_is_kept(slides):
    window = sample(slides, 4, 8)
    assert window["frames_planned"] == 8
    assert [item["frame"] for item in window["samples"]] == [0] * 6 + [1] * 2
    assert [item["pts_s"] for item in window["samples"]] == pytest.approx([0.0] * 6 + [7.0] * 2)
    assert {item["quality"] for item in window["samples"]} == {"ok"}


def test_a_window_without_a_picture_fails_with_the_reason(slides):
    with pytest.raises(
        DecodeError, match=r"none of 8 pictures between 60 and 64 s.*the pictures end earlier"
    ):
        sample(slides, 60, 64)


def test_a_probe_writes_down_the_windows(slides):
    video = stages.probe(Reader(DecodeConfig(), WindowConfig(length_s=4, sample_fps=2)), seen(slides))
    expected = spans(video["duration_s"], WindowConfig(length_s=4, sample_fps=2), video["key_times_s"])
    assert video["num_windows"] == len(expected) > 1
    assert video["window_starts_s"] == [start_s for start_s, _ in expected]
    assert video["key_gap_s"] == key_gap_s(video["key_times_s"], video["duration_s"]) > 0


def test_a_stale_picture_is_as_far_off_as_it_is_old(slides):
    window = sample(slides, 8, 14)
    stale = [item for item in window["samples"] if item["quality"] == "stale"]
    assert stale
    for item in stale:
        assert item["off_s"] == pytest.approx(item["pts_s"] - item["wanted_s"])
        assert item["off_s"] < 0
    assert {item["off_s"] for item in window["samples"] if item["quality"] == "ok"} == {0.0}


@pytest.mark.parametrize(
    ("policy", "period_s", "key_gap_s", "expected"),
    [
        ("auto", 1.0, 1.0, "keyframe"),
        ("auto", 1.0, 1.1, "exact"),
        ("auto", 1.0, 0.0, "exact"),  # not known
        ("near", 1.0, 0.5, "near"),
        ("exact", 1.0, 0.5, "exact"),
    ],
)
def test_auto_takes_key_pictures_where_they_come_as_often_as_samples(policy, period_s, key_gap_s, expected):
    chosen = stages.policy_for(DecodeConfig(policy=policy, near_s=0.2), period_s, key_gap_s)
    assert chosen.kind == expected
    assert chosen.near_s == (0.2 if expected == "near" else 0.0)
