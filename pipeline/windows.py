"""Cutting videos into windows: half-open spans that tile a video, with ids that never change between runs."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config import WindowConfig
from pipeline.queries import Query
from pipeline.rows import Row

Keys = npt.NDArray[np.uint64]


def spans(duration_s: float, config: WindowConfig) -> list[tuple[float, float]]:
    """Return spans [start_s, end_s) that tile [0, duration_s).

    A tail shorter than one sampling period would hold no frame of its own, so it joins the span before it:
    700 s in windows of 300 s at 1 fps give (0, 300), (300, 600), (600, 700); 600.5 s give (0, 300), (300, 600.5).
    """
    count = max(1, math.ceil(duration_s / config.length_s))
    if count > 1 and duration_s - (count - 1) * config.length_s < 1 / config.sample_fps:
        count -= 1
    starts = [index * config.length_s for index in range(count)]
    return list(zip(starts, [*starts[1:], duration_s], strict=True))


def window_id(video_id: str, version: str, start_s: float, end_s: float) -> str:
    """Return the id of a span: same video, version and span, same id; ids of one video sort by time."""
    return f"{video_id}-{version}-{round(start_s * 1000):09d}-{round(end_s * 1000):09d}"


def key(*parts: str) -> int:
    """Return 64 bits that stand for a tuple of strings: what the driver remembers instead of the strings.

    Two of ten million keys collide with a chance of 3e-6.
    """
    return int.from_bytes(hashlib.sha256("\x00".join(parts).encode()).digest()[:8], "little")


def sorted_keys(values: Iterable[int]) -> Keys:
    """Return the distinct keys as a sorted array, 8 bytes each."""
    return np.unique(np.fromiter(values, dtype=np.uint64))


def holds(keys: Keys, value: int) -> bool:
    """Return whether a sorted key array holds a key; O(log n)."""
    index = int(np.searchsorted(keys, np.uint64(value)))
    return index < len(keys) and int(keys[index]) == value


def plan_windows(
    videos: Iterable[Row],
    config: WindowConfig,
    queries: Sequence[Query],
    *,
    found: Keys,
    answered: Keys,
) -> Iterator[Row]:
    """Yield a rows.WINDOW row for every window that still has a query without an answer.

    Args:
        videos: rows of rows.VIDEOS; unusable ones and versions not found by this run are passed over.
        config: length of a window.
        queries: what is asked.
        found: keys (video_id, version) of this run's listing.
        answered: keys (window_id, query_id) and (window_id, "") of committed answers.
    """
    for video in videos:
        if video["error_type"] or not holds(found, key(video["video_id"], video["version"])):
            continue
        for start_s, end_s in spans(video["duration_s"], config):
            name = window_id(video["video_id"], video["version"], start_s, end_s)
            open_ids = [q.query_id for q in queries if not holds(answered, key(name, q.query_id))]
            if open_ids:
                yield {
                    "window_id": name,
                    "video_id": video["video_id"],
                    "version": video["version"],
                    "uri": video["uri"],
                    "start_s": start_s,
                    "end_s": end_s,
                    "query_ids": open_ids,
                    "write_frames": not holds(answered, key(name, "")),
                }
