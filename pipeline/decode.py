"""Reading pictures at given times: exactly the picture shown then, or none, and what came of every time.

The picture shown at t is the last one with a presentation time <= t, t counted from the stream's start; frame
numbers are never used, because containers lie about them. First the plan over groups of pictures (gops.py) is
tried; where it cannot be made, or a promised picture does not come out, the rest of the span is decoded picture by
picture (pictures.py), and damage ends what is believed: a missing picture is counted, a wrong one would be.

All of this runs in the decoding child (child.py); memory: one picture, two groups of packets, the decoder's own
reference pictures.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO

import av.error
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline import gops
from pipeline.byte_runs import announce
from pipeline.decode_decord import open_decord
from pipeline.decode_torchcodec import open_torchcodec
from pipeline.errors import DecodeError
from pipeline.frames import Decoder, FrameSize, LookFn, Policy, Sample, Shot
from pipeline.gops import Choice
from pipeline.media import Video, fitted_size, frame_s, ignore_other_streams, open_video, shown_size, turn_deg
from pipeline.pictures import (
    SEEK_S,
    Picture,
    VideoPacket,
    longest,
    packets_from,
    pictures_from,
    renew,
    whole_packets_from,
)

STALE_S = 1.0
"""A picture stands for at most this long (or two frame durations) past the stream's end or into damage."""
TICK = 1e-4
"""Share of a tick that float arithmetic on times may lose."""
ENDED = "the pictures end earlier"
UNTIMED = "the file keeps no presentation times, pictures may be up to 3 frames late"
LOST = "pictures are lost here"
EARLY = "the pictures begin later"
AFTER_GAP = "follows a gap, after which pictures may be damaged until the next key picture"


@contextmanager
def open_pyav(file: BinaryIO, name: str) -> Generator[LookFn]:
    """Open a video for looking at pictures with libav.

    A time before the first picture or after the last one has a picture only if that is at most
    max(2 frame durations, 1 s) away; the same holds inside damage.

    Raises:
        DecodeError: the file cannot be opened, or breaks off inside the block.
    """
    with open_video(file, name, DecodeError) as video:
        ignore_other_streams(video)

        painters: dict[FrameSize, Painter] = {}

        def look(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
            painter = painters.setdefault(size, Painter(video, size))
            return _look(video, times_s, painter, policy)

        yield look


class Painter:
    """Turns decoded pictures into arrays of one size, upright.

    The first picture fixes the size; should the stream change its size, later ones are fitted to it.
    """

    def __init__(self, video: Video, size: FrameSize) -> None:
        self._aspect = video.stream.sample_aspect_ratio
        self._size = size
        self._shape: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def paint(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """Return a picture as uint8 [height, width, 3] RGB."""
        if self._shape is None:
            self._shape = fitted_size(self._size, shown_size(frame, self._aspect))
        turns = turn_deg(frame) // 90
        height_px, width_px = self._shape
        if turns % 2:
            height_px, width_px = width_px, height_px
        small = self._reformatter.reformat(
            frame, width_px, height_px, "rgb24", interpolation=Interpolation.AREA, threads=1
        )
        return np.rot90(small.to_ndarray(), -turns)  # pyright: ignore[reportReturnType]


def _look(video: Video, times_s: Sequence[float], painter: Painter, policy: Policy) -> Iterator[Shot]:
    """Yield one shot per time, in time order."""
    start, tick_s = video.start, video.tick_s
    ticks = [start + math.floor(max(t, 0.0) / tick_s + TICK) for t in times_s]
    announce(video, ticks, keys_only=policy.kind == "keyframe")
    latest: int | None = None
    times = iter(times_s)
    for found in _find(video, ticks, painter, policy):
        sample, picture_HWC, pts = found
        sample = replace(sample, wanted_s=next(times))
        if not video.is_timed and sample.quality == "ok":
            sample = replace(sample, quality="stale", reason=UNTIMED)
        yield sample, None if pts == latest else picture_HWC
        latest = pts if pts is not None else latest


Found = tuple[Sample, npt.NDArray[np.uint8] | None, int | None]
"""A sample without its wanted time, the picture and its time in ticks."""


def _find(video: Video, ticks: Sequence[int], painter: Painter, policy: Policy) -> Iterator[Found]:
    """Yield what is found for each wanted time, span by span, each span in the cheapest way that works for it."""
    is_planned = video.is_timed and video.marks_keys
    spans = deque(_spans(video, ticks))
    reached = video.start - 1
    while spans:
        span = spans.popleft()
        num_done = 0
        renew(video)
        if is_planned:
            if policy.kind == "keyframe":
                way = _decode_keys(video, span, painter)
            else:
                way = _decode_planned(video, span, painter, math.floor(policy.near_s / video.tick_s))
            for found in way:
                num_done += 1
                yield found
        if num_done < len(span):
            is_planned = False
            yield from _decode_all(video, span[num_done:], painter)
        if spans and video.sought <= reached:
            # the seek led back to where the span before began: key pictures are rare, going on is cheaper
            spans = deque([[time for span in spans for time in span]])
        reached = span[-1]


def _spans(video: Video, wanted: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of wanted times between which a seek saves work."""
    if not wanted:
        return
    entries = video.stream.index_entries
    is_indexed = video.has_index
    span = [wanted[0]]
    for before, time in pairwise(wanted):
        if is_indexed:
            key, last = entries.search_timestamp(time), entries.search_timestamp(before)
            is_far = 0 <= last < key and any(entries[i].is_keyframe for i in range(last + 1, key))
        else:
            is_far = (time - before) * video.tick_s > SEEK_S
        if is_far:
            yield span
            span = []
        span.append(time)
    yield span


class Delivery:
    """Brings pictures, which come in the order shown, together with the times that wait for them."""

    def __init__(self, video: Video, painter: Painter) -> None:
        self._video, self._painter = video, painter
        self._waiting: deque[tuple[int, Choice | None]] = deque()
        self._arrived: dict[int, tuple[npt.NDArray[np.uint8], bool]] = {}
        self.promised: set[int] = set()
        """Pictures, by time in ticks, that have not come yet."""

    def expect(self, chosen: Iterable[tuple[int, Choice | None]]) -> None:
        """Let more times wait."""
        for time, choice in chosen:
            self._waiting.append((time, choice))
            if choice is not None and choice.pts not in self._arrived:
                self.promised.add(choice.pts)

    def take(self, frames: Iterable[VideoFrame]) -> Iterator[Found]:
        """Keep the pictures that are waited for, yield what is found for the times that wait no longer."""
        for frame in frames:
            if frame.pts in self.promised and not frame.is_corrupt:
                self.promised.discard(frame.pts)
                self._arrived[frame.pts] = self._painter.paint(frame), frame.key_frame
        while self._waiting and ((choice := self._waiting[0][1]) is None or choice.pts in self._arrived):
            time, _ = self._waiting.popleft()
            if choice is None:
                yield _missing(ENDED)
            else:
                for pts in [pts for pts in self._arrived if pts < choice.pts]:
                    del self._arrived[pts]
                picture_HWC, is_key = self._arrived[choice.pts]
                off_s = (choice.pts - choice.exact) * self._video.tick_s
                age = time - choice.exact
                reason = _doubt(self._video, age, choice.exact, choice.until, choice.follows_gap)
                yield _sample(self._video, choice.pts, off_s, is_key, reason), picture_HWC, choice.pts


def _decode_planned(video: Video, wanted: Sequence[int], painter: Painter, near: int) -> Iterator[Found]:
    """Yield what is found for wanted times by the plan; end early when a promised picture does not come out clean."""
    packets = whole_packets_from(video, wanted[0])  # may open the file anew, with a new decoder
    context = video.stream.codec_context
    can_pass_over = _marks_unused(context)
    delivery = Delivery(video, painter)
    is_running = False
    try:
        for step in gops.plan(packets, wanted, _stale(video), near, longest(video)):
            if is_running and not step.follows_on:
                yield from delivery.take(context.decode(None))
                context.flush_buffers()
            is_running = True
            delivery.expect(step.chosen)
            for packet in step.packets:
                is_wanted = packet.pts in delivery.promised
                context.skip_frame = "NONREF" if can_pass_over and not is_wanted else "DEFAULT"
                yield from delivery.take(context.decode(packet))
        yield from delivery.take(context.decode(None) if is_running else ())
        video.is_tainted = bool(delivery.promised)
    except gops.UnplannableError:
        return
    except av.error.FFmpegError:
        video.is_tainted = True
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()


def _marks_unused(context: VideoCodecContext) -> bool:
    """Return whether a stream marks the pictures that no other picture refers to.

    H.264 does (nal_ref_idc 0). H.265 marks those that none of the same temporal layer refers to (the sub-layer
    non-reference types of table 7-1), which is the same where there is one layer, as its header says
    (numTemporalLayers, ISO/IEC 14496-15, 8.3.3.1).
    """
    if context.name != "hevc":
        return context.name == "h264"
    header = context.extradata or b""
    return len(header) > 22 and header[0] == 1 and header[21] >> 3 & 7 == 1


def _decode_keys(video: Video, wanted: Sequence[int], painter: Painter) -> Iterator[Found]:
    """Yield the last key picture before each wanted time; end early where one does not come out alone and clean."""
    context = video.stream.codec_context
    keys = _indexed_keys(video, wanted) if video.has_index else _read_keys(video, wanted)
    latest: int | None = None
    picture_HWC: npt.NDArray[np.uint8] | None = None
    try:
        for time, packet in zip(wanted, keys, strict=False):
            if packet.pts is None:
                return
            if latest is None or packet.pts > latest:
                frame = _alone(context, packet)
                if frame is None:
                    return
                latest, picture_HWC = packet.pts, painter.paint(frame)
            yield _sample(video, latest, (latest - time) * video.tick_s, is_key=True), picture_HWC, latest
    except av.error.FFmpegError:
        video.is_tainted = True
    finally:
        context.flush_buffers()


def _indexed_keys(video: Video, wanted: Sequence[int]) -> Iterator[VideoPacket]:
    """Yield the last key packet shown at or before each wanted time, reading nothing else; stop past the last one."""
    last_key = max(
        (entry.timestamp for entry in video.stream.index_entries if entry.is_keyframe), default=None
    )
    if last_key is None:
        return
    delay = video.start - video.stream.index_entries[0].timestamp
    for time in wanted:
        packet = next(packets_from(video, time))
        if packet.pts is None or packet.dts is None or packet.pts > time:
            return
        if packet.dts >= last_key and time - packet.pts > _stale(video):
            return  # whether there are pictures until then, the packets between tell
        entries = video.stream.index_entries  # anew each time: they die with a container that was opened anew
        index = entries.search_timestamp(time)
        if index >= 0 and packet.dts < entries[index].timestamp <= time - delay:
            return  # a later one is there by the index, and is not one any more
        yield packet


def _read_keys(video: Video, wanted: Sequence[int]) -> Iterator[VideoPacket]:
    """Yield the last key packet shown at or before each wanted time, reading through; stop past the last one."""
    keys = (packet for packet in packets_from(video, wanted[0]) if packet.is_keyframe and packet.size)
    packet, following = next(keys, None), next(keys, None)
    for time in wanted:
        while following is not None and (following.pts is None or following.pts <= time):
            packet, following = following, next(keys, None)
        if packet is None or packet.pts is None or packet.pts > time:
            return
        if following is None and time - packet.pts > _stale(video):
            return
        yield packet


def _alone(context: VideoCodecContext, packet: VideoPacket) -> VideoFrame | None:
    """Return the picture of a key packet decoded by itself, None when it needs others or is damaged."""
    frames = [*context.decode(packet), *context.decode(None)]
    context.flush_buffers()
    clean = [
        frame for frame in frames if frame.key_frame and not frame.is_corrupt and frame.pts == packet.pts
    ]
    return clean[0] if len(clean) == len(frames) == 1 else None


def _decode_all(video: Video, wanted: Sequence[int], painter: Painter) -> Iterator[Found]:
    """Yield what is found for the wanted times of a span, decoding everything from a key picture on."""
    troubles: list[str] = []
    pictures = pictures_from(video, wanted[0], troubles)
    shown: Picture | None = None
    following = next(pictures, None)
    painted: tuple[int | None, npt.NDArray[np.uint8] | None] = None, None
    for time in wanted:
        while following is not None and following.pts <= time:
            shown, following = following, next(pictures, None)
        why = troubles[-1] if troubles else LOST if following else ENDED
        if shown is None:
            found, reason = following, EARLY
            is_known = False
        else:
            found, is_known = shown, following is not None and not following.is_after_loss
            until = following.pts if following and is_known else None
            reason = _doubt(video, time - shown.pts, shown.pts, until, shown.follows_gap, why)
        if found is None or (not is_known and abs(time - found.pts) > _stale(video)):
            yield _missing(why if shown else reason)
            continue
        if painted[0] != found.pts:
            painted = found.pts, painter.paint(found.frame)
        yield _sample(video, found.pts, 0.0, found.frame.key_frame, reason), painted[1], found.pts


def _doubt(video: Video, age: int, pts: int, until: int | None, follows_gap: bool, ended: str = ENDED) -> str:
    """Return why a picture of some age may not be the one shown then, empty when it is.

    Args:
        video: where it is from.
        age: ticks since the picture came up.
        pts: when it came up.
        until: when the next one comes up, None when that is not known.
        follows_gap: see gops.Choice.
        ended: why there is no next one.
    """
    if age * video.tick_s > frame_s(video.stream):
        if until is None:
            return ended
        limit = longest(video)
        if limit is not None and until - pts > limit:
            return (
                f"no picture for {(until - pts) * video.tick_s:.1f} s: it stood still, or the file has a hole"
            )
    return AFTER_GAP if follows_gap else ""


def _sample(video: Video, pts: int, off_s: float, is_key: bool, reason: str = "") -> Sample:
    """Return a sample without its wanted time; with a reason for doubt it is stale."""
    return Sample(
        wanted_s=0.0,
        pts_s=(pts - video.start) * video.tick_s,
        off_s=off_s,
        is_key=is_key,
        quality="stale" if reason else "ok",
        reason=reason,
    )


def _missing(reason: str) -> Found:
    return Sample(0.0, math.nan, 0.0, is_key=False, quality="missing", reason=reason), None, None


def _stale(video: Video) -> int:
    """Return for how many ticks a picture may stand in for one that is not there."""
    return round(max(2 * frame_s(video.stream), STALE_S) / video.tick_s)


DECODERS: dict[str, Decoder] = {"pyav": open_pyav, "decord": open_decord, "torchcodec": open_torchcodec}
