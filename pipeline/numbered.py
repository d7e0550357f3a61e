"""Decoders that know pictures by number only: with which files they can be trusted, and which number is shown when.

Such a decoder is right as long as picture k in the order shown is its picture k. The times of all packets are read
first, and files in which that is known to fail are refused by name of what is wrong.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError
from pipeline.frames import Sample, Shot
from pipeline.media import Video, ignore_other_streams, open_video, shown_size, turn_deg
from pipeline.pictures import VideoPacket, pictures

BATCH = 16
"""Pictures asked for at a time."""
STALE_S = 1.0
"""A time this far past the last picture still has that picture, as with libav."""
ROUNDING_S = 1e-6
IDR = 5
"""NAL unit type of a slice of a picture that nothing after it looks back past (H.264, table 7-1)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Which files a decoder shows rightly."""

    decoder: str
    """Its name in DECODERS."""
    takes: str
    """The same in words."""
    codecs: tuple[str, ...]
    """Codecs as libav names them; empty = any."""
    takes_open_groups: bool
    max_bytes: int | None = None
    """It holds the whole file in memory."""

    def refuse(self, name: str, kind: str) -> NoReturn:
        """Say why a file is not for this decoder, and which is."""
        msg = (
            f"{name}: decoder {self.decoder!r} gives wrong pictures for {kind}; it takes only"
            f" {self.takes}; use decoder 'pyav'"
        )
        raise DecodeError(msg)


@dataclass(frozen=True, slots=True)
class Numbered:
    """The pictures of a file, in the order shown."""

    start_s: float
    """What the container says of the first one's time; ours count from it."""
    shown_s: list[float]
    """When each is shown, in seconds from the video's start."""
    keys_s: frozenset[float]
    """Times of key pictures."""
    size_px: tuple[int, int]
    """(height, width) as displayed."""


FetchFn = Callable[[Sequence[int]], npt.NDArray[np.uint8]]
"""Return [N, height, width, 3] uint8 RGB for numbers, sorted and distinct."""


def number_pictures(file: BinaryIO, name: str, trust: Trust) -> Numbered:
    """Return the times of all pictures of a file; reads every packet.

    Raises:
        DecodeError: the file is of a kind the decoder gets wrong, or cannot be opened.
    """
    with open_video(file, name, DecodeError) as video:
        form, codec = video.container.format.name, video.stream.codec_context.name
        if (trust.codecs and codec not in trust.codecs) or not form.startswith(("mov", "matroska")):
            trust.refuse(name, f"{codec} in {form.split(',')[0]}")
        if trust.max_bytes is not None and (size_bytes := file.seek(0, 2)) > trust.max_bytes:
            trust.refuse(name, f"files of {size_bytes >> 20} MiB: it would hold all of it in memory")
        video.reopen()
        first = next(pictures(video, video.packets(), []), None)
        if first is None or turn_deg(first.frame):
            trust.refuse(name, "pictures that are turned or cannot be decoded")
        size_px = shown_size(first.frame, video.stream.sample_aspect_ratio)
        video.reopen()
        ignore_other_streams(video)
        times, keys = _times(video, name, trust)
        start_s = video.start * video.tick_s
        shown_s = [(time - video.start) * video.tick_s for time in times]
        keys_s = frozenset((key - video.start) * video.tick_s for key in keys)
    return Numbered(start_s, shown_s, keys_s, size_px)


def deliver(pictures: Numbered, times_s: Sequence[float], fetch: FetchFn) -> Iterator[Shot]:
    """Yield one shot per time, in time order, always exact."""
    shown_s = pictures.shown_s
    numbers = [max(0, bisect_right(shown_s, time_s + ROUNDING_S) - 1) for time_s in times_s]
    latest = -1
    for at in range(0, len(numbers), BATCH):
        batch = sorted(set(numbers[at : at + BATCH]))
        found = dict(zip(batch, fetch(batch), strict=True))
        for k, time_s in zip(numbers[at : at + BATCH], times_s[at : at + BATCH], strict=True):
            if time_s > shown_s[-1] + STALE_S:
                nothing = float("nan")
                yield Sample(time_s, nothing, 0.0, False, "missing", "the pictures end earlier"), None
                continue
            is_key = shown_s[k] in pictures.keys_s
            sample = Sample(time_s, shown_s[k], 0.0, is_key, quality="ok", reason="")
            yield sample, None if k == latest else np.ascontiguousarray(found[k])
            latest = k


def _times(video: Video, name: str, trust: Trust) -> tuple[list[int], set[int]]:
    """Return the sorted times of all pictures, and those of key pictures, in ticks."""
    is_h264 = video.stream.codec_context.name == "h264"
    times: list[int] = []
    keys: set[int] = set()
    for packet in video.packets():
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard:
            trust.refuse(name, "an edit list, or packets without times")
        if not trust.takes_open_groups and packet.pts < max(keys, default=packet.pts):
            trust.refuse(name, "open groups of pictures")
        if packet.is_keyframe:
            if is_h264 and not _begins_anew(packet, video.stream.codec_context.extradata):
                trust.refuse(name, "open groups of pictures or pictures refreshed piece by piece")
            keys.add(packet.pts)
        times.append(packet.pts)
    return sorted(times), keys


def _begins_anew(packet: VideoPacket, extradata: bytes | None) -> bool:
    """Return whether an H.264 packet, as mp4 and mkv hold it, is an IDR picture (ISO/IEC 14496-15, 5.3)."""
    if not extradata or extradata[0] != 1:  # start codes instead of lengths
        return any(data and data[0] & 31 == IDR for data in bytes(packet).split(b"\0\0\1"))
    data, num_length = bytes(packet), (extradata[4] & 3) + 1
    at = 0
    while at + num_length < len(data):
        if data[at + num_length] & 31 == IDR:
            return True
        at += num_length + int.from_bytes(data[at : at + num_length], "big")
    return False
