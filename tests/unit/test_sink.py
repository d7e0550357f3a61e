"""What is staged: frames that add up to the sampled times, nulls where there is no picture, videos as probed."""

import json
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import ledger, rows, sink, stages
from pipeline.config import DecodeConfig, SinkConfig, WindowConfig
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.ledger import Slice
from pipeline.listing import list_videos
from tests import videos

SAMPLE = {
    "wanted_s": 0.0,
    "pts_s": 0.0,
    "off_s": 0.0,
    "is_key": True,
    "quality": "ok",
    "reason": "",
    "frame": 0,
}
MISSING = SAMPLE | {"pts_s": float("nan"), "off_s": float("nan"), "quality": "missing", "frame": -1}
STALE = SAMPLE | {"quality": "stale"}


def stage(folder, *windows):
    """Return the counters of staged windows, and their frames."""
    complete = [{"window_id": str(number), "write_frames": True, **row} for number, row in enumerate(windows)]
    table = rows.to_table([rows.fill(row, rows.ANSWERED) for row in complete], rows.ANSWERED)
    [part] = rows.to_rows(sink.stage_windows(str(folder), "run", "embedded", table))
    staged = {file["table"]: file["staged"] for file in part["files"]}
    return json.loads(part["counters"]), staged


def window(*samples):
    num_frames = max(sample["frame"] for sample in samples) + 1
    return {
        "frames_planned": len(samples),
        "samples": list(samples),
        "pts_s": [float(number) for number in range(num_frames)],
        "novelty": [1.0] * num_frames,
        "slow": [True] * num_frames,
        "embedding": rows.pack(np.ones((num_frames, 2), np.float32)),
    }


def test_what_is_missing_is_null(tmp_path):
    _, staged = stage(tmp_path, window(SAMPLE, MISSING))
    frames = pq.read_table(staged["frames"]).to_pylist()
    columns = ("pts_s", "off_s", "novelty", "embedding")
    assert [frames[1][name] for name in columns] == [None] * 4
    assert None not in [frames[0][name] for name in columns]
    found = duckdb.sql(
        f"SELECT count(*) FILTER (pts_s IS NULL), avg(off_s), avg(novelty) FROM '{staged['frames']}'"
    )
    assert found.fetchall() == [(1, 0.0, 1.0)]


def test_a_picture_has_a_row_for_each_quality_and_counts_its_times(tmp_path):
    samples = [SAMPLE, SAMPLE, MISSING, STALE, MISSING, SAMPLE | {"frame": 1}, STALE]
    counters, staged = stage(tmp_path, window(*samples))
    frames = pq.read_table(staged["frames"]).to_pylist()
    found = [(frame["quality"], frame["num_times"]) for frame in frames]
    assert found == [("ok", 2), ("missing", 1), ("stale", 2), ("missing", 1), ("ok", 1)]
    assert sum(frame["num_times"] for frame in frames) == counters["frames_planned"] == len(samples)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    whole = videos.write_video(folder / "a.mp4", numbers=range(450), options=videos.X264)
    return videos.damage(whole, folder / "b.mp4", 0.5, 0.1)


def test_frames_of_a_damaged_file_add_up_to_what_its_answers_count(damaged, tmp_path):
    reader = Reader(DecodeConfig(), WindowConfig(sample_fps=5))
    [file] = list_videos(str(damaged))
    asked = {**file, "start_s": 0.0, "end_s": 15.0, "key_gap_s": 0.0, "write_frames": True}
    seen = stages.sample_window(reader, FrameSize(96, 160), asked)
    embedding = rows.pack(np.ones((len(seen["pts_s"]), 2), np.float32))
    counters, staged = stage(tmp_path, {**asked, **seen, "embedding": embedding})
    times = Counter()
    for frame in pq.read_table(staged["frames"]).to_pylist():
        times[frame["quality"]] += frame["num_times"]
        assert (frame["pts_s"] is None) == (frame["quality"] == "missing")
    assert times == {
        "ok": counters["frames_planned"] - counters["frames_stale"] - counters["frames_missing"],
        "stale": counters["frames_stale"],
        "missing": counters["frames_missing"],
    }
    assert min(times.values()) > 0


def test_a_window_that_failed_is_counted(tmp_path):
    failed = {"error_type": "DecodeError", "error_message": "gone"}
    counters, staged = stage(tmp_path, failed, window(SAMPLE), failed)
    assert (counters["windows"], counters["failed_windows"], counters["frames_planned"]) == (3, 2, 1)
    assert pq.read_table(staged["frames"]).num_rows == 1


def test_windows_that_came_back_are_counted_and_not_written_again(tmp_path):
    back = {**window(SAMPLE), "frames_uri": "frames/p.parquet", "write_frames": False, "recall_s": 0.5}
    lost = {"frames_uri": "frames/p.parquet", "error_type": "DecodeError", "error_message": "gone"}
    counters, staged = stage(tmp_path, window(SAMPLE), back, lost)
    assert (counters["windows"], counters["windows_from_index"], counters["recall_s"]) == (3, 1, 0.5)
    assert pq.read_table(staged["frames"]).num_rows == 1


def test_what_a_model_computed_is_summed_over_the_answers_of_all_windows(tmp_path):
    first = {"tokens_used": 8, "vision_frames": 3, "prefills": 1, "prefill_tokens": 40, "decode_steps": 2}
    shared = {"tokens_used": 8, "prefill_tokens": 5, "decode_steps": 2}
    answers = [rows.fill(answer, rows.ANSWERS) for answer in (first, shared, {"kind": "find"})]
    counters, _ = stage(tmp_path, {"answers": answers[:1]}, {"answers": answers[1:]})
    found = {name: counters[name] for name in ("model_answers", *rows.COST)}
    assert found == {
        "model_answers": 2, "vision_frames": 3, "prefills": 1, "prefill_tokens": 45, "decode_steps": 4,
        "decode_passes": 0, "oom_halvings": 0, "router_tokens": 0,
    }  # fmt: skip


def test_videos_are_staged_as_they_were_probed(tmp_path):
    good = {
        "video_id": "a",
        "status": "ok",
        "key_times_s": [0.0, 2.5],
        "probe_s": 0.5,
        "probe_bytes": 9,
        "error_type": "",
    }
    unlisted = {"video_id": "b", "error_type": "ProbeError", "error_message": "is a folder"}
    table = rows.to_table([good, unlisted], rows.PROBED)
    [part] = rows.to_rows(sink.stage_videos(str(tmp_path), "run", table))
    counters = json.loads(part["counters"])
    expected = {"videos": 2, "failed_videos": 1, "probe_s": 0.5, "probe_bytes": 9, "written_files": 1}
    assert expected.items() <= counters.items()
    assert counters["written_bytes"] == Path(part["files"][0]["staged"]).stat().st_size
    found = pq.read_table(part["files"][0]["staged"])
    assert found.schema.equals(rows.VIDEOS)
    assert [(row["run_id"], row["status"], row["key_times_s"]) for row in found.to_pylist()] == [
        ("run", "ok", [0.0, 2.5]),
        ("run", "unreadable", []),
    ]


# --- how large a part is ----------------------------------------------------------------------------------------


def parts(folder, *windows, most_bytes):
    """Return the ids of the parts of staged windows, with the windows in each."""
    complete = [{"window_id": str(number), "write_frames": True, **row} for number, row in enumerate(windows)]
    table = rows.to_table([rows.fill(row, rows.ANSWERED) for row in complete], rows.ANSWERED)
    found = sink.stage_windows(str(folder), "run", "embedded", table, most_bytes=most_bytes)
    return {part["part_id"]: json.loads(part["counters"])["windows"] for part in rows.to_rows(found)}


def test_a_part_is_cut_where_its_rows_take_too_much(tmp_path):
    frame_bytes = 2 * 4
    windows = [window(SAMPLE)] * 5
    assert list(parts(tmp_path, *windows, most_bytes=1 << 20).values()) == [5]
    found = parts(tmp_path, *windows, most_bytes=2 * frame_bytes)
    assert list(found.values()) == [2, 2, 1]
    assert parts(tmp_path, *windows, most_bytes=2 * frame_bytes) == found, (
        "a task run twice names them the same"
    )
    assert list(parts(tmp_path, *windows, most_bytes=1).values()) == [1] * 5, "a window is never cut"


def manifest(tmp_path, num_windows, length_s):
    """Return slices that stand for so many windows; the first is there."""
    found = [{"window_id": str(n), "start_s": 0.0, "end_s": length_s} for n in range(4)]
    [first] = ledger.write_parts(str(tmp_path), found, rows.WINDOW)
    return [first, Slice("elsewhere.parquet", 0, num_windows - 4)]


@pytest.mark.parametrize(
    ("num_windows", "length_s", "settings", "expected"),
    [
        (1000, 300.0, {}, 32),
        (320_000, 30.0, {}, 32),
        (1_000_000, 30.0, {}, 100),
        (10_000_000, 30.0, {}, 1000),  # 123 kB each
        (10_000_000, 300.0, {}, 109),  # as many as 128 MiB hold
        (10_000_000, 3000.0, {}, 32),
        (10_000_000, 30.0, {"part_mb": 16}, 135),
        (10_000_000, 300.0, {"windows_per_part": 500}, 500),
        (40, 300.0, {"windows_per_part": 1}, 1),
    ],
)
def test_runs_of_many_windows_write_larger_parts(tmp_path, num_windows, length_s, settings, expected):
    windows = manifest(tmp_path, num_windows, length_s)
    assert sink.windows_per_part(SinkConfig(**settings), windows, 1.0, 1) == expected
