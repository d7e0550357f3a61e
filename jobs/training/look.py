"""Looking at a video at the times that matter to some questions, at the sizes that models want."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import rows, store
from pipeline.errors import DecodeError, ProbeError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import version, video_id
from pipeline.rows import Row
from pipeline.stages import PTS_TOLERANCE_S

logger = logging.getLogger(__name__)


def find_video(videos: str, path: str) -> Row:
    """Return the rows.FILE columns of a video below a folder or bucket prefix.

    Raises:
        ProbeError: no such file, or one that cannot be opened.
        StoreError: the store is out of reach.
    """
    folder = videos if "://" in videos else os.path.normpath(Path(videos).expanduser().absolute())
    file = store.look_up(store.join(folder, path))
    if file.trouble:
        msg = f"{file.uri}: {file.trouble}"
        raise ProbeError(msg)
    return {
        "video_id": video_id(file.uri),
        "version": version(file.size_bytes, file.etag),
        "uri": file.uri,
        "size_bytes": file.size_bytes,
        "etag": file.etag,
    }


def times_to_see(duration_s: float, num_frames: int, evidence_s: Sequence[Sequence[float]]) -> list[float]:
    """Return the middles of equal stretches of a video, and that of each interval which holds none of them."""
    evenly = [(2 * index + 1) * duration_s / (2 * num_frames) for index in range(num_frames)]
    found = set(evenly)
    for start_s, end_s in evidence_s:
        if start_s < duration_s and not any(start_s <= time_s < end_s for time_s in found):
            found.add((start_s + min(end_s, duration_s)) / 2)
    return sorted(found)


def look_to_label(
    reader: Reader, videos: str, sizes: tuple[FrameSize, FrameSize], num_frames: int, group: Row
) -> Row:
    """Return frames of a group's video (tables.GROUP) at the answerer's and at the scorer's size.

    Raises:
        ProbeError: there is no such video.
        DecodeError: its frames cannot be decoded.
    """
    file = find_video(videos, group["video"])
    facts = reader.probe(file)
    evidence_s = [interval for one in json.loads(group["questions"]) for interval in one["evidence_s"]]
    times_s = times_to_see(facts["duration_s"], num_frames, evidence_s)
    video = {**file, "clock_restarts": facts["clock_restarts"]}
    frames, _ = reader.look(video, times_s, sizes[0])
    small, _ = reader.look(video, times_s, sizes[1])
    if not len(frames) or not np.array_equal(frames.pts_s_N, small.pts_s_N):
        msg = (
            f"{file['uri']}: {len(times_s)} times gave {len(frames)} frames and, read again, {len(small)}; expected"
            " the same ones twice: write the file anew"
        )
        raise DecodeError(msg)
    return {
        "duration_s": facts["duration_s"],
        "pts_s": frames.pts_s_N.tolist(),
        "pixels": rows.pack(frames.data_NHWC),
        "scorer_pixels": rows.pack(small.data_NHWC),
    }


def look_again(reader: Reader, videos: str, size: FrameSize, group: Row) -> Row:
    """Return the frames that a group's labels (tables.FLR rows, as JSON) are about; none where there are none.

    Raises:
        ProbeError: there is no such video any more.
        DecodeError: it does not give the same frames again.
    """
    wanted_s: set[float] = {
        time_s for one in json.loads(group["questions"]) for time_s in one.get("frame_pts_s", ())
    }
    if not wanted_s:
        return {}
    file = find_video(videos, group["video"])
    facts: dict[str, Any] = reader.probe(file)
    times_s = sorted(wanted_s)
    frames, _ = reader.look({**file, "clock_restarts": facts["clock_restarts"]}, times_s, size)
    if len(frames) != len(times_s) or np.abs(frames.pts_s_N - times_s).max() > PTS_TOLERANCE_S:
        msg = (
            f"{file['uri']}: its labels are about {len(times_s)} frames, now {len(frames)} were delivered, or at"
            " other times; label it again"
        )
        raise DecodeError(msg)
    return {"duration_s": facts["duration_s"], "pts_s": times_s, "pixels": rows.pack(frames.data_NHWC)}


def found_only(table: pa.Table) -> pa.Table:
    """Return the groups whose video could be looked at."""
    errors: list[str] = table.column("error_type").to_pylist()
    for video, error in zip(table.column("video").to_pylist(), errors, strict=True):
        if error:
            logger.warning("%s is not trained on: %s", video, error)
    return table.filter(pa.array([not error for error in errors], pa.bool_()))
