"""decord behind the same contract, for the files on which it can be trusted.

Measured on decord 0.6.0: silently wrong pictures from open groups of pictures and H.265, everything one group late
in transport streams, padding in files with edit lists, unbounded read-ahead, and a crash when one reader is shared.
So it gets closed-group H.264 in mp4 and mkv files only, by number, never `next()`; from a file object it reads the
whole file into memory, so it gets small ones. `pyav` is right everywhere and not slower; this entry is there for
comparison. Decision 0004 holds the measured matrix.
"""

import importlib.util
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import numpy as np

from pipeline.errors import DecodeError
from pipeline.frames import FrameSize, LookFn, Policy, Sample, Shot
from pipeline.media import Video, fitted_size, ignore_other_streams, open_video, shown_size, turn_deg
from pipeline.pictures import pictures

FORMATS = ("mov", "matroska")
MAX_BYTES = 256 * 2**20
"""decord copies the whole file into memory."""
BATCH = 16
STALE_S = 1.0
"""A time this far past the last picture still has that picture, as with libav."""


@contextmanager
def open_decord(file: BinaryIO, name: str) -> Generator[LookFn]:
    """Open a video for looking at pictures with decord; reads every packet's time first. Always exact.

    Raises:
        DecodeError: the file is of a kind decord gets wrong, or decord is not installed or cannot open it.
    """
    if importlib.util.find_spec("decord") is None:
        msg = f"{name}: decoder 'decord' is not installed; pip install decord, or use decoder 'pyav'"
        raise DecodeError(msg)
    import decord

    with open_video(file, name, DecodeError) as video:
        keys, shown_s, shown = _closed_group_times(file, name, video)

    def look(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
        del policy
        height_px, width_px = fitted_size(size, shown)
        file.seek(0)
        reader: Any = decord.VideoReader(file, num_threads=1, width=width_px, height=height_px)
        index = [max(0, bisect_right(shown_s, t + 1e-6) - 1) for t in times_s]
        latest = -1
        for at in range(0, len(index), BATCH):
            batch = sorted(set(index[at : at + BATCH]))
            # never next(reader): it reads ahead without bound (3.5 GB after 12 pictures of a 1080p file)
            pictures_NHWC = dict(zip(batch, reader.get_batch(batch).asnumpy(), strict=True))
            for k, time_s in zip(index[at : at + BATCH], times_s[at : at + BATCH], strict=True):
                if time_s > shown_s[-1] + STALE_S:
                    yield _missing(time_s), None
                    continue
                sample = Sample(time_s, shown_s[k], 0.0, is_key=shown_s[k] in keys, quality="ok", reason="")
                yield sample, None if k == latest else np.ascontiguousarray(pictures_NHWC[k])
                latest = k

    yield look


def _missing(time_s: float) -> Sample:
    return Sample(
        time_s, float("nan"), 0.0, is_key=False, quality="missing", reason="the pictures end earlier"
    )


def _closed_group_times(
    file: BinaryIO, name: str, video: Video
) -> tuple[set[float], list[float], tuple[int, int]]:
    """Return times of key pictures, sorted times of all, and the shown size of a file decord can be trusted with."""
    form = video.container.format.name
    if video.stream.codec_context.name != "h264" or not form.startswith(FORMATS):
        _refuse(name, f"{video.stream.codec_context.name} in {form.split(',')[0]}")
    if (size_bytes := file.seek(0, 2)) > MAX_BYTES:
        _refuse(name, f"files of {size_bytes >> 20} MiB: it would hold all of it in memory")
    video.reopen()
    first = next(pictures(video, video.container.demux(video.stream), []), None)
    if first is None or turn_deg(first.frame):
        _refuse(name, "pictures that are turned or cannot be decoded")
    shown = shown_size(first.frame, video.stream.sample_aspect_ratio)
    video.reopen()
    ignore_other_streams(video)
    times: list[int] = []
    keys: set[int] = set()
    for packet in video.container.demux(video.stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.pts < max(keys, default=packet.pts):
            _refuse(name, "an edit list, or open groups of pictures")
        if packet.is_keyframe:
            keys.add(packet.pts)
        times.append(packet.pts)
    scale = [(time - video.start) * video.tick_s for time in sorted(times)]
    return {(key - video.start) * video.tick_s for key in keys}, scale, shown


def _refuse(name: str, kind: str) -> NoReturn:
    msg = (
        f"{name}: decoder 'decord' gives wrong pictures for {kind}; it takes upright H.264 with closed groups in"
        " mp4 and mkv files only; use decoder 'pyav'"
    )
    raise DecodeError(msg)
