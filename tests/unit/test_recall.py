"""What comes back from frames/ is what decoding gave; what cannot come back is decoded again."""

import logging
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import recall, rows, sink, stages, store
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from tests import videos

SIZE = FrameSize(96, 160)
TAKEN_OVER = ("frames_planned", "pts_s", "novelty", "slow")
READ = {"read_bytes", "read_requests", "decode_s"}


def seen(path: Path, span: tuple[float, float], config: DecodeConfig) -> dict:
    """Decode a window of a file as the job does, and give its frames an embedding each."""
    [file] = list_videos(str(path))
    window = {**file, "start_s": span[0], "end_s": span[1], "key_gap_s": 1.0, "write_frames": True}
    window["window_id"] = f"{file['video_id']}-{span[0]:04.1f}"
    window |= stages.sample_window(Reader(config, WindowConfig(sample_fps=5)), SIZE, window, marks_slow=True)
    numbers = np.random.default_rng(len(window["pts_s"])).random((len(window["pts_s"]), 7))
    return {**window, "embedding": rows.pack(numbers.astype(np.float32))}


def index(folder: Path, windows: list[dict]) -> str:
    """Write windows' frames down as the job does; return the file."""
    table = rows.to_table([rows.fill(window, rows.ANSWERED) for window in windows], rows.ANSWERED)
    [part] = rows.to_rows(sink.stage_windows(str(folder), "run", "embedded", table))
    return next(file["staged"] for file in part["files"] if file["table"] == "frames")


def asked(window: dict, uri: str) -> dict:
    """Return the row of a window that is asked a later question."""
    return {**rows.fill(window, rows.WINDOW), "frames_uri": uri, "write_frames": False}


def own_times(window: dict) -> dict[int, float]:
    """Return the picture's own time of each frame, as evidence is looked for."""
    return {
        sample["frame"]: sample["pts_s"] for sample in reversed(window["samples"]) if sample["frame"] >= 0
    }


def assert_same(found: dict, window: dict) -> None:
    assert {name: found[name] for name in TAKEN_OVER} == {name: window[name] for name in TAKEN_OVER}
    assert np.array_equal(rows.unpack(found["embedding"]), rows.unpack(window["embedding"]))
    assert own_times(found) == own_times(window)
    told = [
        Counter((sample["frame"], sample["quality"], sample["reason"] if sample["frame"] < 0 else "") for sample in
                row["samples"])
        for row in (found, window)
    ]  # fmt: skip
    assert told[0] == told[1]
    assert {found[name] for name in READ} == {0}


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> list[dict]:
    """Three spans each of an intact file, a damaged one, and one that stands still, under several policies."""
    folder = tmp_path_factory.mktemp("videos")
    whole = videos.write_video(folder / "a.mp4", numbers=range(450), options=videos.X264)
    damaged = videos.damage(whole, folder / "b.mp4", 0.5, 0.1)
    still = videos.write_video(folder / "c.mp4", numbers=[0, 210, 240, 270], b_frames=0, options=videos.X264)
    return [
        seen(path, span, DecodeConfig(policy=policy, near_s=0.5))
        for path, policy in ((whole, "exact"), (damaged, "near"), (still, "keyframe"), (damaged, "exact"))
        for span in ((0.0, 5.1), (5.1, 8.0), (8.0, 15.0))
        if path != still or span[1] < 9
    ]


def test_what_was_decoded_comes_back(windows, tmp_path):
    qualities = Counter(sample["quality"] for window in windows for sample in window["samples"])
    assert min(qualities[name] for name in ("ok", "stale", "missing")) > 0
    assert not all(slow for window in windows for slow in window["slow"])
    for number, window in enumerate(windows):
        uri = index(tmp_path / str(number), [window])
        assert_same(recall.recall(asked(window, uri), needs_slow=True), window)


def test_windows_that_share_a_file_are_told_apart(windows, tmp_path, monkeypatch):
    """Row groups of a few rows each; only those that may hold a window are read, and none that holds it is left."""
    monkeypatch.setattr(store, "GROUP_BYTES", 1000)
    mine = windows[:6] + windows[6:8]
    random.Random(1).shuffle(mine)
    uri = index(tmp_path, mine)
    file = pq.ParquetFile(uri)
    assert file.metadata.num_row_groups > 8
    for window in mine:
        row = asked(window, uri)
        assert_same(recall.recall(row), window)
        held = [holds(file.read_row_group(number), row) for number in range(file.metadata.num_row_groups)]
        may = [recall._may_hold(file.metadata.row_group(n), row) for n in range(file.metadata.num_row_groups)]
        assert all(guess for guess, truth in zip(may, held, strict=True) if truth)
        assert sum(may) <= sum(held) + 3 < len(may)


def holds(table, window) -> bool:
    return any(
        (row["video_id"], row["version"]) == (window["video_id"], window["version"])
        and window["start_s"] <= row["wanted_s"] < window["end_s"]
        for row in table.to_pylist()
    )


def sampled(number: int, *samples: tuple[float, str, int]) -> dict:
    """Return a window of given (picture's time, quality, frame), as `sample` makes it."""
    told = [
        {"wanted_s": 10.0 + k, "pts_s": pts_s, "off_s": 0.0, "is_key": False, "quality": quality, "reason": "",
         "frame": frame}
        for k, (pts_s, quality, frame) in enumerate(samples)
    ]  # fmt: skip
    times = {frame: max(pts_s, 10.0) for pts_s, _, frame in reversed(samples) if frame >= 0}
    pts_s = [times[frame] for frame in sorted(times)]
    window = {"window_id": f"w{number}", "video_id": "v", "version": "1", "start_s": 10.0, "end_s": 20.0}
    return window | {
        "write_frames": True, "samples": told, "pts_s": pts_s, "frames_planned": len(told), "slow": [True] * len(pts_s),
        "novelty": [0.5] * len(pts_s), "embedding": rows.pack(np.eye(len(pts_s), 3, dtype=np.float32)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "samples",
    [
        [(9.5, "ok", 0), (9.9, "stale", 0), (12.0, "ok", 1)],
        [(11.0, "stale", 0), (11.0, "ok", 0), (11.0, "stale", 0), (float("nan"), "missing", -1)],
        [(float("nan"), "missing", -1), (3.0, "ok", 0), (3.0, "ok", 0), (13.0, "ok", 1), (14.0, "ok", 2)],
    ],
)
def test_pictures_from_before_the_window_and_doubtful_ones_come_back(samples, tmp_path):
    window = sampled(0, *samples)
    assert_same(recall.recall(asked(window, index(tmp_path, [window]))), window)


DECODED = {"frames_planned": 1, "pixels": "decoded"}


def decode(_: dict) -> dict:
    return DECODED


def test_a_window_that_is_not_indexed_is_decoded(windows):
    assert recall.sample_window(decode, asked(windows[0], "")) == {**DECODED, "frames_uri": ""}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    index(path.parent / "other", [sampled(0, (11.0, "ok", 0))])
    next((path.parent / "other").iterdir()).replace(path)


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip, empty, other])
def test_an_index_that_cannot_be_read_costs_time_and_no_row(windows, tmp_path, caplog, harm):
    uri = index(tmp_path, [windows[0]])
    harm(Path(uri))
    with caplog.at_level(logging.WARNING):
        found = recall.sample_window(decode, asked(windows[0], uri))
    assert found == {**DECODED, "frames_uri": ""}
    [line] = caplog.messages
    assert line.startswith(f"{windows[0]['window_id']}: decoded again, its frames cannot be read")


def test_an_index_without_a_column_that_is_younger_serves_who_does_not_ask_for_it(windows, tmp_path):
    uri = index(tmp_path, [windows[0]])
    table = pq.read_table(uri).drop_columns(["slow"])
    store.write_table(uri, table)
    assert recall.sample_window(decode, asked(windows[0], uri), needs_slow=True)["pixels"] == "decoded"
    assert recall.recall(asked(windows[0], uri))["slow"] == [True] * len(windows[0]["pts_s"])
