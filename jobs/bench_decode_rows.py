"""Rows of videos to read outside a job: what listing and probing would hand to the sampling stage."""

from functools import cache
from typing import Literal, cast

from pipeline.config import DecodeConfig, WindowConfig
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.rows import Row
from pipeline.windows import key_gap_s, spans


@cache
def windows_of(uri: str, policy: str, sample_fps: float) -> tuple[Reader, list[Row]]:
    """Return how a video is read under a policy, and its windows; a video is probed once, as in a job.

    Raises:
        ProbeError: nothing in the file can be decoded.
        StoreError: the object store is out of reach.
    """
    kind = cast('Literal["auto", "exact", "near", "keyframe"]', policy)
    reader = Reader(DecodeConfig(policy=kind), WindowConfig(sample_fps=sample_fps))
    file, facts = probed(uri)
    gap_s = key_gap_s(facts["key_times_s"], facts["duration_s"])
    return reader, [
        {**file, "start_s": start_s, "end_s": end_s, "key_gap_s": gap_s}
        for start_s, end_s in spans(facts["duration_s"], reader.window, facts["key_times_s"])
    ]


@cache
def probed(uri: str) -> tuple[Row, Row]:
    """Return a video's rows.FILE row and its probe columns.

    Raises:
        ProbeError: nothing in the file can be decoded.
        StoreError: the object store is out of reach.
    """
    file = next(list_videos(uri))
    return file, Reader(DecodeConfig(), WindowConfig()).probe(file)
