"""Writing results: staged files that nobody reads until the driver commits them.

A worker writes a part's files under `_run/<run_id>/staging/` and hands their names to the driver; the driver
commits (ledger.py). A part's name comes from the rows in it, so a task that Ray runs twice writes the same files.

How large a part is: Ray brings rows together by number alone, so a part is `windows_per_part` windows, more in a run
that would make too many parts, and is cut where its rows take more than `part_mb`. What stays small is merged when the
run is over (compact.py).
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from pipeline import ledger, rows, store
from pipeline.config import SinkConfig
from pipeline.ledger import Slice
from pipeline.rows import Row

PROBING = ("probe_s", "probe_cpu_s", "probe_bytes", "probe_requests")
"""Counters of probed files."""
DECODING = (
    "decode_s",
    "decode_cpu_s",
    "recall_s",
    "recall_cpu_s",
    "score_s",
    "score_cpu_s",
    "evidence_s",
    "evidence_cpu_s",
    "answer_cpu_s",
)
"""Counters of windows."""
MAX_PARTS = 10_000
"""Of one run, as long as a part stays below `part_mb`."""
FRAME_BYTES = 4096
"""Of a frame's row: its embedding, mostly."""
ANSWER_BYTES = 512


def windows_per_part(
    settings: SinkConfig, windows: Sequence[Slice], sample_fps: float, num_queries: int
) -> int:
    """Return how many windows of a run are written and committed together.

    Their size is reckoned from the first windows of the list.
    """
    num_windows = sum(part.stop - part.start for part in windows)
    if num_windows // MAX_PARTS <= settings.windows_per_part:
        return settings.windows_per_part
    sample = ledger.read_slice(windows[0].uri, windows[0].start, windows[0].stop)
    mean_s = sum(window["end_s"] - window["start_s"] for window in sample) / len(sample)
    return grown_part(settings, num_windows, mean_s * sample_fps, num_queries)


def grown_part(settings: SinkConfig, num_windows: int, frames: float, num_queries: int) -> int:
    """Return the windows of a part in a run of so many, of so many frames each.

    A run of a million short windows writes fewer and larger parts than one of a hundred.
    """
    window_bytes = frames * FRAME_BYTES + num_queries * ANSWER_BYTES
    fitting = int((settings.part_mb << 20) / window_bytes)
    return max(settings.windows_per_part, min(num_windows // MAX_PARTS, fitting))


def stage_part(
    staging: str, tables: Mapping[str, pa.Table], names: Sequence[str], counters: Mapping[str, float]
) -> Row:
    """Write one Parquet file per non-empty table and return the rows.PART row that describes them.

    Its counters are those given, and what writing took.

    Args:
        staging: folder of this run's staged files.
        tables: content per table name of rows.TABLES.
        names: what the part's rows are about (window ids, or video ids); the part is named after them.
        counters: sums over the part that the driver adds up.

    Raises:
        StoreError: the output folder cannot be written.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    written_bytes = 0
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
    part_id = f"{'-'.join(sorted(tables))}-{digest}"
    files: list[Row] = []
    for table, content in tables.items():
        if content.num_rows:
            staged = store.join(staging, f"{part_id}.{table}.parquet")
            written_bytes += store.write_table(staged, content)
            files.append({"table": table, "staged": staged})
    written = {
        "written_bytes": written_bytes,
        "written_files": len(files),
        "write_s": time.perf_counter() - started,
        "write_cpu_s": time.process_time() - cpu_started,
    }
    return {
        "part_id": part_id,
        "files": files,
        "counters": json.dumps({**counters, **written}),
    }


def stage_videos(staging: str, run_id: str, table: pa.Table) -> pa.Table:
    """Stage probed files (rows.PROBED) as one part; return its rows.PART table.

    The table is never made into rows: the key times of one long video may be 100,000 numbers.
    """
    # a file that failed when it was listed was never probed
    status = [status or "unreadable" for status in table["status"].to_pylist()]
    columns: dict[str, list[str]] = {"run_id": [run_id] * len(table), "status": status}
    videos = pa.table([columns.get(name, table[name]) for name in rows.VIDEOS.names], schema=rows.VIDEOS)
    counters = {
        "videos": len(videos),
        **_failed("videos", table["error_type"].to_pylist()),
        **{name: sum(table[name].to_pylist()) for name in PROBING},
    }
    part = stage_part(staging, {"videos": videos}, table["video_id"].to_pylist(), counters)
    return rows.to_table([part], rows.PART)


def stage_windows(
    staging: str, run_id: str, scorer: str, table: pa.Table, *, most_bytes: int = 1 << 27
) -> pa.Table:
    """Stage answered windows (rows.ANSWERED): their answers, and their frames where the index lacks them.

    Returns:
        Parts (rows.PART) of at most `most_bytes`, or of one window that is larger.
    """
    # by their ids, so that frames of one video lie together in a file
    windows = sorted(rows.to_rows(table), key=lambda window: window["window_id"])
    parts = [_stage_windows(staging, run_id, scorer, piece) for piece in _pieces(windows, most_bytes)]
    return rows.to_table(parts, rows.PART)


def _pieces(windows: Sequence[Row], most_bytes: int) -> Iterator[list[Row]]:
    """Yield windows in turn, together as many as take at most so many bytes."""
    piece: list[Row] = []
    piece_bytes = 0
    for window in windows:
        num_bytes = len(window["embedding"]["data"]) + ANSWER_BYTES * len(window["answers"])
        if piece and piece_bytes + num_bytes > most_bytes:
            yield piece
            piece, piece_bytes = [], 0
        piece.append(window)
        piece_bytes += num_bytes
    if piece:
        yield piece


def _stage_windows(staging: str, run_id: str, scorer: str, windows: Sequence[Row]) -> Row:
    answers: list[Row] = []
    frames: list[Row] = []
    for window in windows:
        indexed = window["write_frames"] and not window["error_type"]
        answers += [{**answer, "run_id": run_id, "indexed": indexed} for answer in window["answers"]]
        if indexed:
            frames += _frames(window, run_id, scorer)
    counters = {
        "windows": len(windows),
        **_failed("windows", (window["error_type"] for window in windows)),
        "windows_from_index": sum(
            1 for window in windows if window["frames_uri"] and not window["error_type"]
        ),
        "answers": len(answers),
        **_failed("answers", (answer["error_type"] for answer in answers)),
        "frames_planned": sum(window["frames_planned"] for window in windows),
        "frames_seen": sum(len(window["pts_s"]) for window in windows),
        "frames_stale": _count(windows, "stale"),
        "frames_missing": _count(windows, "missing"),
        "read_bytes": sum(window["read_bytes"] for window in windows),
        "read_requests": sum(window["read_requests"] for window in windows),
        "tokens_dense": sum(answer["tokens_dense"] for answer in answers),
        "tokens_used": sum(answer["tokens_used"] for answer in answers),
        "model_answers": sum(1 for answer in answers if answer["tokens_used"]),
        **{name: sum(answer[name] for answer in answers) for name in rows.COST},
        "frames_scored": sum(len(window["pts_s"]) for window in windows if not window["frames_uri"]),
        "video_s": sum(window["end_s"] - window["start_s"] for window in windows),
        "video_decoded_s": sum(
            window["end_s"] - window["start_s"] for window in windows if not window["frames_uri"]
        ),
        **{name: sum(window[name] for window in windows) for name in DECODING},
        "answer_s": sum(answer["answer_s"] for answer in answers),
    }
    names = [f"{window['window_id']}:{','.join(window['query_ids'])}" for window in windows]
    return stage_part(staging, _tables(answers=answers, frames=frames), names, counters)


def stage_verdicts(staging: str, run_id: str, verdicts: Sequence[Row]) -> Row:
    """Stage verdicts (rows.VERDICTS) as one part; return its rows.PART row."""
    counters = {
        "verdicts": len(verdicts),
        **_failed("verdicts", (row["error_type"] for row in verdicts)),
    }
    names = [f"{row['video_id']}-{row['version']}:{row['query_id']}" for row in verdicts]
    stamped = [{**row, "run_id": run_id} for row in verdicts]
    return stage_part(staging, _tables(verdicts=stamped), names, counters)


def _tables(**content: list[Row]) -> dict[str, pa.Table]:
    return {table: rows.to_table(found, rows.TABLES[table]) for table, found in content.items()}


def _failed(table: str, error_types: Iterable[str]) -> dict[str, int]:
    """Return the counters of failed rows: of all, and of each type of error."""
    by_type = Counter(found for found in error_types if found)
    return {
        f"failed_{table}": by_type.total(),
        **{f"failed_{table}/{name}": n for name, n in by_type.items()},
    }


def _count(windows: Sequence[Row], quality: str) -> int:
    """Return the number of sampled times of a quality."""
    return sum(sample["quality"] == quality for window in windows for sample in window["samples"])


def _frames(window: Row, run_id: str, scorer: str) -> list[Row]:
    """Return the frame index rows of one scored window: its frames, and the sampled times without one."""
    embedding_NE = rows.unpack(window["embedding"])
    found: dict[tuple[int, str], Row] = {}
    for number, sample in enumerate(window["samples"]):
        frame = sample["frame"]
        # a time without a picture is a row of its own
        name = (frame, sample["quality"]) if frame >= 0 else (-1 - number, "")
        if name in found:
            found[name]["num_times"] += 1
            continue
        row = {**sample, "run_id": run_id, "video_id": window["video_id"], "version": window["version"]}
        if frame >= 0:
            row |= {"scorer": scorer, "embedding": embedding_NE[frame]}
            row |= {name: window[name][frame] for name in ("novelty", "slow")}
        else:
            row |= dict.fromkeys(("pts_s", "off_s", "novelty", "slow", "embedding"))
        found[name] = {**row, "num_times": 1}
    return list(found.values())
