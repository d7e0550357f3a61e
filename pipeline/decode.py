"""Reading pictures at given times: exactly the picture shown then, or none.

The picture shown at t is the last one with a presentation time <= t, t counted from the stream's start; frame
numbers are never used, because containers lie about them. First the plan over groups of pictures (gops.py) is
tried; where it cannot be made, or a promised picture does not come out, the span is decoded picture by picture
(pictures.py), and damage ends what is believed: a missing picture is counted, a wrong one would be.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Protocol

import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline import gops
from pipeline.decode_decord import decode_decord
from pipeline.errors import DecodeError
from pipeline.frames import Frames, FrameSize
from pipeline.media import Video, fitted_size, frame_s, ignore_other_streams, open_video, shown_size, turn_deg
from pipeline.pictures import SEEK_S, packets_from, pictures_from

STALE_S = 1.0
"""A picture stands for at most this long (or two frame durations) past the stream's end or into damage."""
TICK = 1e-4
"""Share of a tick that float arithmetic on times may lose."""
LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


class DecodeFn(Protocol):
    """Deliver the pictures shown at given times.

    `times_s` are seconds from the video's start in any order; times that share a picture give one frame, times
    without a picture give none. Frames come in time order with their own presentation times.

    Raises DecodeError when not one picture can be delivered.
    """

    def __call__(self, uri: str, times_s: Sequence[float], size: FrameSize) -> Frames: ...


def decode_pyav(uri: str, times_s: Sequence[float], size: FrameSize) -> Frames:
    """Return the pictures shown at `times_s`, decoded with libav.

    A time before the first picture or after the last one has a picture only if that is at most
    max(2 frame durations, 1 s) away; the same holds inside damage. Memory: the frames asked for, two groups of
    packets, and the decoder's own reference pictures.

    Raises:
        DecodeError: the file cannot be read, or has no picture at any of these times.
    """
    times_s = sorted(set(times_s))
    troubles: list[str] = []
    with open_video(uri, DecodeError) as video:
        stream = video.stream
        ignore_other_streams(video)
        picked = Picked(size, len(times_s), stream.sample_aspect_ratio)
        start, tick_s = video.start, video.tick_s
        wanted = [start + math.floor(max(t, 0.0) / tick_s + TICK) for t in times_s]
        stale = round(max(2 * frame_s(stream), STALE_S) / tick_s)
        # an AVI file keeps no presentation times: with reordered pictures a packet does not tell when it is shown
        is_planned = not (video.container.format.name == "avi" and stream.codec_context.has_b_frames)
        for span in list(_spans(video, wanted)):
            before = len(picked)
            is_planned = is_planned and _decode_planned(video, span, stale, picked)
            if not is_planned:
                picked.cut(before)
                _decode_all(video, span, stale, picked, troubles)
    if times_s and not len(picked):
        msg = (
            f"{uri}: none of {len(times_s)} pictures between {times_s[0]:g} and {times_s[-1]:g} s can be decoded"
            f" ({troubles[0] if troubles else 'there are none'}); the file is damaged or ends earlier than it says"
        )
        raise DecodeError(msg)
    return picked.frames(start, tick_s)


def novelty(data_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return [N] float32: mean absolute luma change of each frame against the one before it, in [0, 1].

    The first frame has 1: nothing before it is known. One frame at a time is held as float.
    """
    novelty_N = np.ones(len(data_NHWC), np.float32)
    before_HW: npt.NDArray[np.float32] | None = None
    for index, data_HWC in enumerate(data_NHWC):
        luma_HW = data_HWC @ LUMA
        if before_HW is not None:
            novelty_N[index] = np.abs(luma_HW - before_HW).mean() / 255
        before_HW = luma_HW
    return novelty_N


class Picked:
    """The pictures delivered so far, in an array allocated once for all that were asked for."""

    def __init__(self, size: FrameSize, capacity: int, aspect: Fraction | None) -> None:
        self._size, self._capacity, self._aspect = size, capacity, aspect
        self._reformatter = VideoReformatter()
        self._data_NHWC: npt.NDArray[np.uint8] | None = None
        self._pts: list[int] = []

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._pts)

    def add(self, frame: VideoFrame) -> None:
        """Append a picture at the size asked for, upright; one that is already there is passed over.

        The first picture fixes the size; should the stream change its size, later ones are fitted to it.
        """
        if frame.pts is None or (self._pts and frame.pts <= self._pts[-1]):
            return
        if self._data_NHWC is None:
            height_px, width_px = fitted_size(self._size, shown_size(frame, self._aspect))
            self._data_NHWC = np.empty((self._capacity, height_px, width_px, 3), np.uint8)
        turns = turn_deg(frame) // 90
        height_px, width_px = self._data_NHWC.shape[1:3]
        if turns % 2:
            height_px, width_px = width_px, height_px
        small = self._reformatter.reformat(
            frame, width_px, height_px, "rgb24", interpolation=Interpolation.AREA, threads=1
        )
        self._data_NHWC[len(self._pts)] = np.rot90(small.to_ndarray(), -turns)
        self._pts.append(frame.pts)

    def cut(self, length: int) -> None:
        """Forget all but the first pictures."""
        del self._pts[length:]

    def frames(self, start: int, tick_s: float) -> Frames:
        """Return the pictures with their times in seconds from the stream's start."""
        if self._data_NHWC is None:
            return Frames(np.empty((0, self._size.height_px, self._size.width_px, 3), np.uint8), np.empty(0))
        pts_N = np.asarray(self._pts, np.float64)
        return Frames(self._data_NHWC[: len(pts_N)], (pts_N - start) * tick_s)


def _spans(video: Video, wanted: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of wanted times between which a seek saves work."""
    if not wanted:
        return
    entries = video.stream.index_entries
    # complete at opening in mov, mp4 and avi; mkv loads its index at the first seek, ts has none
    has_index = len(entries) >= video.stream.frames > 0
    span = [wanted[0]]
    for before, time in pairwise(wanted):
        is_far = (time - before) * video.tick_s > SEEK_S
        if is_far and has_index:
            key = entries.search_timestamp(time)
            is_far = key >= 0 and entries[key].timestamp > before
        if is_far:
            yield span
            span = []
        span.append(time)
    yield span


def _decode_planned(video: Video, wanted: Sequence[int], stale: int, picked: Picked) -> bool:
    """Add the pictures of one span by the plan; return False when one of them did not come out clean."""
    packets = packets_from(video, wanted[0])
    context = video.stream.codec_context
    # only H.264 marks pictures that no other picture uses at all; H.265 marks them within a temporal layer
    can_pass_over = context.name == "h264"
    promised: set[int] = set()

    def add(frames: Iterable[VideoFrame]) -> None:
        for frame in frames:
            if frame.pts in promised and not frame.is_corrupt:
                picked.add(frame)
                promised.discard(frame.pts)

    is_running = False
    try:
        for step in gops.plan(packets, wanted, stale):
            if is_running and not step.follows_on:
                add(context.decode(None))
                context.flush_buffers()
            is_running = True
            promised |= step.targets
            for packet in step.packets:
                context.skip_frame = "NONREF" if can_pass_over and packet.pts not in promised else "DEFAULT"
                add(context.decode(packet))
        if is_running:
            add(context.decode(None))
    except (gops.UnplannableError, av.error.FFmpegError):
        return False
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()
    return not promised


def _decode_all(video: Video, wanted: Sequence[int], stale: int, picked: Picked, troubles: list[str]) -> None:
    """Add the pictures of one span, decoding everything from a key picture on."""
    found = pictures_from(video, wanted[0], troubles)
    shown: VideoFrame | None = None
    following, is_after_loss = next(found, (None, False))
    for time in wanted:
        while following is not None and following.pts is not None and following.pts <= time:
            shown = following
            following, is_after_loss = next(found, (None, False))
        if shown is None or shown.pts is None:
            # before the first picture
            if following is not None and following.pts is not None and following.pts - time <= stale:
                picked.add(following)
        elif time - shown.pts <= stale or (following is not None and not is_after_loss):
            picked.add(shown)


DECODERS: dict[str, DecodeFn] = {"pyav": decode_pyav, "decord": decode_decord}
