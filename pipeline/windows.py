"""Cutting videos into windows: half-open spans that tile a video, with ids that never change between runs."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.config import WindowConfig

SNAP = 0.2
"""Share of a window's length by which its end may come earlier, to fall on a key picture."""

Keys = npt.NDArray[np.uint64]


def spans(
    duration_s: float, config: WindowConfig, key_times_s: Sequence[float] = ()
) -> list[tuple[float, float]]:
    """Return spans [start_s, end_s) that tile [0, duration_s).

    A border goes back to the last key picture before it, where there is one within a fifth of a window: two windows
    then never decode the same group of pictures. A tail shorter than one sampling period would hold no frame of its
    own, so it joins the span before it: 700 s in windows of 300 s at 1 fps give (0, 300), (300, 600), (600, 700);
    600.5 s give (0, 300), (300, 600.5); 700 s with key pictures every 8 s give (0, 296), (296, 592), (592, 700).
    """
    borders = [0.0]
    while borders[-1] + config.length_s < duration_s:
        border = borders[-1] + config.length_s
        index = bisect_right(key_times_s, border) - 1
        if index >= 0 and key_times_s[index] > border - SNAP * config.length_s:
            border = round(key_times_s[index], 6)
        borders.append(border)
    if len(borders) > 1 and duration_s - borders[-1] < 1 / config.sample_fps:
        borders.pop()
    return list(zip(borders, [*borders[1:], duration_s], strict=True))


def key_gap_s(key_times_s: Sequence[float], duration_s: float) -> float:
    """Return the longest time between key pictures of a video, its end included; 0 when they are not known."""
    return max((after - before for before, after in pairwise([*key_times_s, duration_s])), default=0.0)


def window_id(video_id: str, version: str, start_s: float, end_s: float) -> str:
    """Return the id of a span: same video, version and span, same id; ids of one video sort by time."""
    return f"{video_id}-{version}-{round(start_s * 1000):09d}-{round(end_s * 1000):09d}"


def key(*parts: str) -> int:
    """Return 64 bits that stand for a tuple of strings: what the driver remembers instead of the strings.

    Two of n keys are the same with a chance of about n^2 / 2^65: 3e-6 of ten million, 2.7 % of 10^9. docs/design.md
    (Keys) says what follows.
    """
    return int.from_bytes(hashlib.sha256("\x00".join(parts).encode()).digest()[:8], "little")


def sorted_keys(values: Iterable[int]) -> Keys:
    """Return the distinct keys as a sorted array, 8 bytes each."""
    return np.unique(np.fromiter(values, dtype=np.uint64))


def holds(keys: Keys, value: int) -> bool:
    """Return whether a sorted key array holds a key; O(log n)."""
    index = int(np.searchsorted(keys, np.uint64(value)))
    return index < len(keys) and int(keys[index]) == value
