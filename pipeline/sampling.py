"""Which pictures of a window are looked at: a table of samplers.

A sampler asks an open video for pictures, and may let what it sees decide what it asks for next. It runs in the
decoding child and hands on every picture as it comes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from pipeline.config import WindowConfig
from pipeline.frames import Shot
from pipeline.times import sample_times

Look: TypeAlias = Callable[[Sequence[float]], Iterator[Shot]]
"""Deliver one shot per time, in time order; times are distinct seconds from the video's start, sorted."""

SampleFn: TypeAlias = Callable[[float, float, WindowConfig, Look], Iterator[Shot]]
"""Yield the shots of a window [start_s, end_s), in time order, at most config.MAX_FRAMES."""


def sample_rate(start_s: float, end_s: float, config: WindowConfig, look: Look) -> Iterator[Shot]:
    """Look `sample_fps` times a second, on a grid that all windows of a video share (times.py)."""
    yield from look(sample_times(start_s, end_s, config.sample_fps))


SAMPLERS: dict[str, SampleFn] = {"rate": sample_rate}
