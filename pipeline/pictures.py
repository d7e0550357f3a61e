"""Going to a time in a video, and what may be believed of the pictures that come from there.

A seek is a hint, and a picture after damage is a guess: both are checked here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.h264 import ReferenceCounter
from pipeline.media import Video, frame_s, ignore_other_streams, reason

VideoPacket: TypeAlias = "Packet[VideoStream]"

SEEK_S = 5.0
"""Times nearer than this to the start or to each other are read through instead of sought, without an index."""
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""How much earlier a seek is tried again when it lands too late."""
PICTURE_BACK_OFF_S = (0.0, 2.0, 8.0, 32.0)
"""The same when the key packet is early enough, but its first clean picture is not."""
HOLD_S = 1.0
"""Longest time a picture is shown (or 10 frames) where the container does not tell a hole from a still picture."""
SILENT = ("matroska", "mpegts", "flv", "mpeg")
"""Containers whose demuxer passes over a hole without a word."""
BEFORE_ALL = -(2**63)
MAX_TROUBLES = 2000
"""Errors of one span after which the rest of it is given up."""


def packets_from(video: Video, pts: int) -> Iterator[VideoPacket]:
    """Return the packets from a key packet shown at or before `pts` on, or from the file's first byte.

    A seek that lands after the wanted time, as it does in transport streams, is repeated further back.
    """
    renew(video)
    start, tick_s = video.start, video.tick_s
    for back_s in () if video.in_order else BACK_OFF_S:
        target = pts - round(back_s / tick_s)
        if (target - start) * tick_s <= (0 if video.has_index else SEEK_S):
            break
        video.is_fresh = False
        try:
            video.container.seek(target, stream=video.stream)
            packets = video.packets()
            key = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
        except av.error.FFmpegError:
            continue
        if key is not None and key.pts is not None and key.pts <= pts:
            video.sought = key.pts
            return chain([key], packets)
    if not video.is_fresh:
        video.reopen()
        ignore_other_streams(video)
    video.is_fresh = False
    video.sought = start
    return video.packets()


def renew(video: Video) -> None:
    """Take a new decoder if the one there has met damage; see Video.is_tainted."""
    if video.is_tainted:
        video.reopen()
        ignore_other_streams(video)


def whole_packets_from(video: Video, pts: int) -> Iterator[VideoPacket]:
    """Return the packets as `packets_from` does, one marked as corrupt where reference pictures are missing before."""
    return _checked(video, packets_from(video, pts))


def _checked(video: Video, packets: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
    """Yield packets; in containers that pass over holes, H.264 tells by itself where pictures are missing."""
    context = video.stream.codec_context
    if longest(video) is None or context.name != "h264":
        yield from packets
        return
    counter = ReferenceCounter(context.extradata)
    for packet in packets:
        if packet.size and counter.misses(memoryview(packet)):
            packet.is_corrupt = True
        yield packet


def longest(video: Video) -> int | None:
    """Return for how many ticks a picture is shown at most before a hole must be feared; None where holes are told."""
    if not video.container.format.name.startswith(SILENT):
        return None
    return round(max(HOLD_S, 10 * frame_s(video.stream)) / video.tick_s)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is believed."""

    frame: VideoFrame
    pts: int
    is_after_loss: bool
    """Pictures were lost just before it."""
    follows_gap: bool
    """Since the last key picture there was none for longer than is usual: see `longest`."""


def pictures_from(video: Video, pts: int, troubles: list[str]) -> Iterator[Picture]:
    """Return the pictures from one shown at or before `pts` on, or from the file's first one; see `pictures`.

    A key packet may give no clean picture (a recovery point; pictures that refer to the group before it), so
    the first picture is checked as the first packet is.
    """
    start, tick_s = video.start, video.tick_s
    for back_s in (*PICTURE_BACK_OFF_S, None):
        target = start if back_s is None else max(start, pts - round(back_s / tick_s))
        found = pictures(video, packets_from(video, target), troubles)
        first = next(found, None)
        if first is not None and (target == start or first.pts <= pts):
            return chain([first], found)
    return iter(())


def pictures(video: Video, packets: Iterator[VideoPacket], troubles: list[str]) -> Iterator[Picture]:
    """Yield pictures in the order shown.

    Decoders conceal damage: what follows a broken packet looks plausible, refers to pictures that never were,
    and is seldom marked. So nothing is believed from a broken packet to the next key picture shown after it.

    Args:
        video: where the packets come from.
        packets: from a key packet on.
        troubles: one line is appended for each error met.
    """
    latest = broken_at = BEFORE_ALL
    is_broken = not video.marks_keys
    is_after_loss = follows_gap = False
    limit = longest(video)
    shown = 0
    for frames, has_error, at in _decoded(video, packets, troubles):
        if has_error:
            is_broken, broken_at = True, max(broken_at, latest if at is None else at)
        for frame in frames:
            if not video.is_timed:
                shown = frame.pts = shown + 1 if frame.dts is None else frame.dts - video.late
            if frame.pts is None:
                troubles.append("its pictures carry no times; remux it into a container that keeps them")
                return
            if frame.is_corrupt:
                video.is_tainted = True
                is_broken, broken_at = True, max(broken_at, frame.pts)
            elif frame.key_frame and frame.pts > broken_at:
                is_broken = False
            if is_broken:
                is_after_loss = True
            elif frame.pts > latest:
                is_gap = limit is not None and latest != BEFORE_ALL and frame.pts - latest > limit
                follows_gap = not frame.key_frame and (follows_gap or is_gap)
                latest = frame.pts
                yield Picture(frame, frame.pts, is_after_loss, follows_gap)
                is_after_loss = False


def _decoded(
    video: Video, packets: Iterator[VideoPacket], troubles: list[str]
) -> Iterator[tuple[list[VideoFrame], bool, int | None]]:
    """Yield the pictures each packet gives, whether it is broken, and its time if it has one."""
    for packet in _through_errors(video, _checked(video, packets), troubles):
        if packet is None:
            yield [], True, None
            continue
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            video.is_tainted = True
            troubles.append(reason(error))
            yield [], True, packet.pts
        else:
            yield frames, packet.is_corrupt, packet.pts


def _through_errors(
    video: Video, packets: Iterator[VideoPacket], troubles: list[str]
) -> "Iterator[VideoPacket | None]":
    """Yield packets to the end of the file, None where the demuxer stumbled."""
    while len(troubles) < MAX_TROUBLES:
        try:
            yield from packets
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            troubles.append(reason(error))
            yield None
            packets = _checked(video, video.packets())
        else:
            return
