"""Reading every packet of a file without decoding any: real counts, and damage that shows in the structure.

A demuxer passes over damage in silence: it looks for the next thing that it understands. What gives damage away is
its own complaints, packets that it marks, units whose lengths do not fit, and clocks that go back. A clock that jumps
forward may as well be a picture that stands still; pictures are only called missing where something else says so.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av.error
import av.logging

from pipeline.h264 import ReferenceCounter
from pipeline.media import CLOCK_BACK_S, Video, frame_s, reason
from pipeline.nals import is_chain, length_bytes
from pipeline.pictures import VideoPacket, longest

MAX_KEYS = 100_000
"""More key times than this are left out: a row would grow beyond reason."""
MAX_ERRORS = 200
"""Errors without a packet in between after which the rest of a file is given up."""
STILL_S, STILL_PICTURES = 1.0, 10
"""A picture that stands longer than both is looked into."""
SOUND_GAP_S = 0.5
MAX_KEPT = 1000
"""Jumps and gaps that are remembered."""
RESTART_S = 6 * 3600.0
"""A clock that jumps this far forward was set, or wrapped around when it went back."""
MARKS = {
    "mpeg4": b"\0\0\1", "mpeg2video": b"\0\0\1", "mpeg1video": b"\0\0\1", "mjpeg": b"\xff\xd8",
}  # fmt: skip
"""How every packet of a codec begins."""
LEAST_BYTES = 16
"""Shorter packets hold no picture of their own."""
INCOMPLETE = "packets are marked as incomplete"
LAST_PACKETS = 3
"""What is broken among these may be the end of a file that was cut."""
UNREAD_BYTES = 128 * 2**10
"""A demuxer that stops this far before the end has lost its way; less may be an index or padding."""
END_COMPLAINTS = ("ended prematurely", "partial file")
"""What libav's demuxers say when bytes are missing at the end."""


@dataclass(slots=True)
class Broken:
    """Packets of one span that a decoder cannot make pictures of."""

    why: str
    at_s: float
    is_lost: bool = True
    """A packet is known to be lost; otherwise the demuxer met something that it does not understand."""
    packet: int = 0
    """How many packets of the video stream came before it."""
    at_end: bool = True
    """Nothing whole came after it."""


@dataclass(slots=True)
class Survey:
    """What reading every packet of a file tells; times are of the file's own clock, in seconds."""

    num_packets: int = 0
    """Packets of the video stream."""
    keys_s: list[float] = field(default_factory=list)
    """When each whole key picture is shown, in file order; those an edit list hides are left out."""
    pictures_end_s: float = 0.0
    packets_end_s: float = 0.0
    broken: list[Broken] = field(default_factory=list)
    """What cannot be decoded, first things first."""
    lost: list[Broken] = field(default_factory=list)
    """What is not there any more."""
    in_order: bool = False
    """Its clock starts again somewhere: a seek may land anywhere, and the times here are of a clock that goes on."""
    ends_short: bool = False
    """The demuxer says that the file ends inside something, or it ends with a packet that is not all there."""
    stills_s: list[tuple[float, float]] = field(default_factory=list)
    """Between which times no picture comes up, while no other stream goes on."""


def survey(video: Video, size_bytes: int) -> Survey:
    """Read every packet of a freshly opened file of so many bytes; about 6 us of CPU each."""
    return _Walk(video, size_bytes).run()


def packets_of(video: Video) -> "Iterator[Any]":
    """Return the packets of all streams.

    Raises:
        av.error.FFmpegError: the demuxer stumbled; it may go on.
    """
    return video.packets(all_streams=True)


class _Walk:
    """One pass over a file."""

    def __init__(self, video: Video, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        context: Any = video.stream.codec_context
        self.video = video
        start_s = video.start * video.tick_s
        self.found = Survey(pictures_end_s=start_s, packets_end_s=start_s)
        self.index = video.stream.index
        self.ticks_s: list[float] = [float(stream.time_base or 0) for stream in video.container.streams]
        self.is_sound = [stream.type == "audio" for stream in video.container.streams]
        self.num_length = length_bytes(context.name, context.extradata)
        counts = context.name == "h264" and longest(video) is not None
        self.counter = ReferenceCounter(context.extradata) if counts else None
        self.is_indexed = video.has_index
        """The index names every packet and its time: a jump is what the writer meant."""
        usual_s = frame_s(video.stream)
        self.usual_ticks = round(usual_s / video.tick_s)
        self.jump_ticks = max(STILL_S, STILL_PICTURES * usual_s) / video.tick_s
        self.back_ticks = CLOCK_BACK_S / video.tick_s
        self.offset = 0
        """What is added to times, so that a clock that starts again goes on."""
        self.has_begun = False
        """A packet was seen since the clock started."""
        self.latest = self.latest_dts = -(2**63)
        self.mark = MARKS.get(context.codec.canonical_name, b"")
        self.has_times = video.is_timed
        self.jumps_s: list[tuple[float, float]] = []
        self.gaps_s: list[tuple[float, float]] = []
        self.sound_end_s: dict[int, float] = {}

    def run(self) -> Survey:
        """Return what there is to tell."""
        found = self.found
        with _complaints() as logs:
            for packet in self._packets():
                if logs:
                    self._complain(logs)
                if packet is None or not packet.size:
                    continue
                if packet.stream_index == self.index:
                    self._see(packet)
                elif packet.pts is not None:
                    self._hear(packet)
            self._complain(logs)
        self._judge_last()
        self._judge_jumps()
        return found

    def _packets(self) -> "Iterator[Any]":
        """Yield the packets of all streams; errors of the demuxer are noted."""
        num_errors = 0
        while num_errors < MAX_ERRORS:
            try:
                for packet in packets_of(self.video):
                    num_errors = 0
                    yield packet
            except av.error.BlockingIOError:
                num_errors += 1  # a transport stream's way to say that it has found no packet for a while
            except av.error.FFmpegError as error:
                num_errors += 1
                self._break(reason(error))
            else:
                return

    def _complain(self, logs: list[tuple[int, str, str]]) -> None:
        """Take note of what the demuxer says of itself; decoders and parsers complain about intact files, too."""
        name = self.video.container.format.name
        for text in (text.strip() for _, source, text in logs if source == name):
            if any(part in text for part in END_COMPLAINTS):
                self.found.ends_short = True
            elif name != "mpegts":  # what is lost there shows in the packets' own counters
                self._break(text, is_lost=False)
        logs.clear()

    def _break(self, why: str, *, is_lost: bool = True) -> None:
        """Note that something is broken here; what follows it without a whole packet in between belongs to it."""
        broken = self.found.broken
        if broken and broken[-1].at_end:
            broken[-1].is_lost |= is_lost
        elif len(broken) < MAX_KEPT:
            broken.append(Broken(why, self._clock_s(), is_lost, self.found.num_packets))

    def _lose(self, why: str, at_s: float) -> None:
        """Note that something before this place is lost."""
        if len(self.found.lost) < MAX_KEPT:
            self.found.lost.append(Broken(why, at_s, at_end=False))

    def _clock_s(self) -> float:
        """Return the latest time of a picture until now."""
        return max(self.latest, self.video.start) * self.video.tick_s

    def _see(self, packet: VideoPacket) -> None:
        """Look at a packet of the video stream."""
        found, pts = self.found, packet.pts
        found.num_packets += 1
        if why := self._fault(packet):
            self._break(why)
            return
        if found.broken:
            found.broken[-1].at_end = False
        if pts is None:
            return
        pts = self._compare(packet, pts)
        if packet.is_discard:
            return
        tick_s = self.video.tick_s
        if (
            packet.is_keyframe
            and pts >= self.video.start
            and self.has_times
            and len(found.keys_s) <= MAX_KEYS
        ):
            found.keys_s.append((pts - self.video.start) * tick_s)
        found.pictures_end_s = max(found.pictures_end_s, (pts + (packet.duration or 0)) * tick_s)
        found.packets_end_s = max(found.packets_end_s, found.pictures_end_s)

    def _fault(self, packet: VideoPacket) -> str:
        """Return why a packet cannot be decoded; nothing if it may well be."""
        if packet.is_corrupt:
            return INCOMPLETE
        data = memoryview(packet)
        if self.num_length and not is_chain(data, self.num_length):
            return "packets are overwritten: the lengths of their units do not fit"
        if self.mark and len(data) >= LEAST_BYTES:
            is_marked = bytes(data[: len(self.mark)]) == self.mark
            if self.found.num_packets == 1 and not is_marked:
                self.mark = b""  # these packets are cut otherwise
            elif not is_marked:
                return "packets are overwritten: they do not begin as they must"
        return ""

    def _compare(self, packet: VideoPacket, pts: int) -> int:
        """Compare a packet's times with those before it; return its presentation time on a clock that goes on."""
        dts, tick_s = packet.dts, self.video.tick_s
        if dts is not None:
            if not self.is_indexed and dts + self.offset < self.latest_dts - self.back_ticks:
                before_s, after_s = ((self.latest_dts - self.offset) * tick_s, dts * tick_s)
                self._lose(f"the clock goes back from {before_s:.1f} to {after_s:.1f} s", self._clock_s())
                self.found.in_order = True
                self.offset = self.latest_dts + (packet.duration or self.usual_ticks) - dts
                self.has_begun = False
                if self.counter:
                    self.counter.restart()
            self.latest_dts = dts + self.offset
        pts += self.offset
        is_hole = self.counter is not None and self._misses(self.counter, packet)
        if not self.is_indexed and self.has_begun and pts - self.latest > self.jump_ticks:
            self._jump(pts, is_hole=is_hole)
        elif is_hole:
            at_s = self._clock_s()
            self._lose(f"pictures are missing at {at_s:.1f} s", at_s)
        self.has_begun = True
        self.latest = max(self.latest, pts)
        return pts

    @staticmethod
    def _misses(counter: ReferenceCounter, packet: VideoPacket) -> bool:
        """Return whether pictures that others refer to are missing before a packet."""
        try:
            return counter.misses(memoryview(packet))
        except IndexError:
            return False  # a packet of nothing but start codes

    def _jump(self, pts: int, *, is_hole: bool) -> None:
        """Take note of a time in which no picture comes up."""
        start_s, end_s = (tick * self.video.tick_s for tick in (self.latest, pts))
        if is_hole or end_s - start_s > RESTART_S:
            self._lose(f"pictures are missing between {start_s:.1f} and {end_s:.1f} s", start_s)
        elif len(self.jumps_s) < MAX_KEPT:
            self.jumps_s.append((start_s, end_s))

    def _hear(self, packet: Any) -> None:
        """Look at a packet of another stream."""
        index = packet.stream_index
        if index >= len(self.ticks_s):
            return
        start_s: float = packet.pts * self.ticks_s[index] + self.offset * self.video.tick_s
        end_s = start_s + (packet.duration or 0) * self.ticks_s[index]
        self.found.packets_end_s = max(self.found.packets_end_s, end_s)
        if self.is_sound[index] and not self.is_indexed:
            before_s = self.sound_end_s.get(index) or start_s
            if start_s - before_s > SOUND_GAP_S and len(self.gaps_s) < MAX_KEPT:
                self.gaps_s.append((before_s, start_s))
            self.sound_end_s[index] = max(before_s, end_s)

    def _judge_last(self) -> None:
        """Tell what is broken at the end of the file from what is broken in the middle."""
        found = self.found
        for last in found.broken[-1:]:
            last.at_end |= found.num_packets - last.packet < LAST_PACKETS
            found.ends_short |= last.at_end and last.why == INCOMPLETE
        left = self.size_bytes - self.video.file.tell()
        if left > UNREAD_BYTES and "matroska" in self.video.container.format.name:
            found.broken.append(
                Broken(f"nothing is found in the last {left} bytes", self._clock_s(), at_end=False)
            )

    def _judge_jumps(self) -> None:
        """Call pictures missing where the sound misses as well; where it goes on, a picture stood still."""
        found = self.found
        for start_s, end_s in self.jumps_s:
            shared_s = max((min(end_s, end) - max(start_s, start) for start, end in self.gaps_s), default=0.0)
            if shared_s > (end_s - start_s) / 2:
                self._lose(f"pictures and sound are missing between {start_s:.1f} and {end_s:.1f} s", start_s)
            elif max(self.sound_end_s.values(), default=0.0) < end_s:
                found.stills_s.append((start_s, end_s))


@contextmanager
def _complaints() -> Generator[list[tuple[int, str, str]]]:
    """Collect what libav says at level ERROR; nobody listens to it otherwise."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
