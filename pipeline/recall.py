"""Frames that were seen before come back from frames/ instead of from the video.

A later question needs nothing of the pixels that an earlier one was scored on: frames/ holds the times, the novelty and
the embedding of every picture, and that is what all stages behind `sample` build on. So a window that is indexed is not
decoded again; only the evidence that a plan wants to show is. Only the row groups that may hold the window are read.

An index that cannot be read costs time, never a row: the window is decoded as if nobody had seen it.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import rows, store
from pipeline.rows import Row

logger = logging.getLogger(__name__)

OPEN_FILES = 4
"""Files of frames/ that a worker keeps open: windows of one task were mostly written together."""
NAMED = ("video_id", "version", "wanted_s")
KEPT = ("pts_s", "off_s", "is_key", "quality", "reason", "num_times", "novelty", "slow", "embedding")


def sample_window(decode: Callable[[Row], Row], window: Row, *, needs_slow: bool = False) -> Row:
    """Return the sampled frames of a rows.WINDOW row: read back where they are indexed, else decoded.

    Args:
        decode: returns the columns that decoding adds, pixels among them.
        window: the row; `frames_uri` says where its frames lie, and is empty in the result if they were decoded.
        needs_slow: whether someone asks which frames are slow.

    Raises:
        DecodeError: the frames were to be decoded, and cannot be.
    """
    if window["frames_uri"]:
        try:
            return recall(window, needs_slow=needs_slow)
        except (*store.read_errors(), pa.ArrowException, ValueError) as error:
            logger.warning(
                "%s: decoded again, its frames cannot be read from %s: %s: %s",
                window["window_id"], window["frames_uri"], type(error).__name__, error,
            )  # fmt: skip
    return {**decode(window), "frames_uri": ""}


def recall(window: Row, *, needs_slow: bool = False) -> Row:
    """Return the columns of rows.DECODED that frames/ tells of a window; nothing is read of its video.

    Times that got the same picture all come back as the first of them.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: the file is gone or damaged, or does not hold what is needed.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    found = _rows_of(_open(window["frames_uri"]), window)
    shown = found.filter(found["pts_s"].is_valid())
    if not len(shown) or (needs_slow and shown["slow"].null_count):
        msg = f"{window['frames_uri']} holds {len(found)} rows of this window, {len(shown)} with a picture"
        raise ValueError(f"{msg}, expected at least one{', and which are slow' if needs_slow else ''}")
    # a picture from before the window counts from its start, as it did when it was decoded
    pts_s_N, first_N, frame_R = np.unique(
        np.maximum(shown["pts_s"].to_numpy(), window["start_s"]), return_index=True, return_inverse=True
    )
    embedding_RE = shown["embedding"].combine_chunks().flatten().to_numpy().reshape(len(shown), -1)
    frames = iter(frame_R.tolist())
    facts: list[Row] = [
        {**row, "frame": next(frames)}
        if row["pts_s"] is not None
        else {**row, "pts_s": math.nan, "off_s": math.nan, "frame": -1}
        for row in found.drop_columns(["embedding"]).to_pylist()
    ]
    return {
        "frames_planned": sum(row["num_times"] for row in facts),
        "samples": [_sample(row) for row in facts for _ in range(row["num_times"])],
        "pts_s": pts_s_N.tolist(),
        "novelty": shown["novelty"].to_numpy()[first_N].tolist(),
        "slow": [slow is not False for slow in shown["slow"].take(first_N).to_pylist()],
        "embedding": rows.pack(embedding_RE[first_N]),
        "read_bytes": 0,
        "read_requests": 0,
        "decode_s": 0.0,
        "decode_cpu_s": 0.0,
        "recall_s": time.perf_counter() - started,
        "recall_cpu_s": time.process_time() - cpu_started,
    }


def _sample(row: Row) -> Row:
    return {field.name: row[field.name] for field in rows.SAMPLE}


@lru_cache(maxsize=OPEN_FILES)
def _open(uri: str) -> pq.ParquetFile:
    fs, path = store.open_fs(uri)
    # ranges are asked for as they are: what lies between them is other windows' frames
    file = fs.open(path, "rb", cache_type="none")
    return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)


def _rows_of(file: pq.ParquetFile, window: Row) -> pa.Table:
    """Return a window's rows of frames/, in order of `wanted_s`; a column that is younger than the file is null."""
    about = file.metadata
    groups = [index for index in range(about.num_row_groups) if _may_hold(about.row_group(index), window)]
    table = file.read_row_groups(groups, columns=[*NAMED, *KEPT])
    missing = [name for name in KEPT if name not in table.column_names]
    for name in missing:
        table = table.append_column(
            rows.FRAMES.field(name), pa.nulls(len(table), rows.FRAMES.field(name).type)
        )
    mine = (
        (pc.field("video_id") == window["video_id"])
        & (pc.field("version") == window["version"])
        & (pc.field("wanted_s") >= window["start_s"])
        & (pc.field("wanted_s") < window["end_s"])
    )
    return table.filter(mine).sort_by("wanted_s")


def _may_hold(group: pq.RowGroupMetaData, window: Row) -> bool:
    """Return whether a row group may hold frames of a window, as far as its statistics tell."""
    wanted = {
        "video_id": (window["video_id"], window["video_id"]),
        "version": (window["version"], window["version"]),
        "wanted_s": (window["start_s"], window["end_s"]),
    }
    for index in range(group.num_columns):
        column = group.column(index)
        if (known := column.statistics) is None or not known.has_min_max:
            continue
        low, high = wanted.get(column.path_in_schema, (known.min, known.max))
        if known.max < low or known.min > high:
            return False
    return True
