"""Finding out what a file really holds before anything is planned on it.

Containers lie: about their length after a cut, about frame counts always. A probe therefore decodes the first picture,
as the proof that anything decodes, and compares what is declared with what is there. Where the bytes are at hand every
packet is looked at (survey.py), which costs far less than decoding them will; of an object in a bucket only the
header, the first picture and the tail are read.
"""

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import av.error
from av.index import IndexEntries

from pipeline.errors import ProbeError
from pipeline.extent import Extent, extent
from pipeline.media import Video, frame_s, open_video, reason, shown_size, turn_deg
from pipeline.mp4_keys import shown_keys
from pipeline.pictures import VideoPacket, pictures
from pipeline.survey import MAX_KEYS, Survey, packets_of, survey

logger = logging.getLogger(__name__)

SMALL_BYTES = 16 * 2**20
"""Objects up to this size are fetched whole before they are opened: reading all of one costs no request."""
MOST_BYTES = 2**31
"""Files that have a descriptor are read whole up to this size: seconds, where decoding them takes minutes."""
MAX_PIECES = 100_000, 16
"""Pieces of a container that are looked at, with all bytes at hand and where each may be a request."""
MAX_ENTRIES = 1_000_000
"""Entries of an index that are looked at, 0.3 us each."""
TAIL_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)
"""How far before its declared end a file is searched for its last packet."""
SLACK_S = 0.5
"""A file may end this much (or 3 frames) before its declared end and still count as whole."""
JUNK_BYTES = 64 * 2**10
"""So much may follow the last box of an mp4 file and be none."""
MAX_NOTES = 4
"""Troubles that a note tells one by one."""


def probe_file(file: BinaryIO, uri: str, size_bytes: int) -> dict[str, Any]:
    """Return the probe columns of rows.VIDEOS for an open file. Runs in the decoding child.

    Args:
        file: seekable; one with a descriptor (`fileno`), and any of at most SMALL_BYTES, is read whole.
        uri: what the file goes by in messages.
        size_bytes: of the file.

    Raises:
        ProbeError: nothing in the file can be decoded; `status` of the error says which kind of useless it is.
    """
    if size_bytes == 0:
        msg = f"{uri}: the file is empty (0 bytes); copy or record it again"
        raise ProbeError(msg)
    is_at_hand = size_bytes <= (MOST_BYTES if _has_descriptor(file) else SMALL_BYTES)
    bytes_there = extent(file, size_bytes, MAX_PIECES[not is_at_hand])
    try:
        with open_video(file, uri, ProbeError) as video:
            return _Probe(video, bytes_there, size_bytes).columns(is_at_hand)
    except MemoryError as error:
        msg = f"{uri}: needs more memory than a decoder may have (--decode.memory-mb); leave it out or allow more"
        raise ProbeError(msg) from error


def _has_descriptor(file: BinaryIO) -> bool:
    """Return whether reading costs no request: a file on a disk, or an object that was fetched whole."""
    try:
        file.fileno()
    except (OSError, AttributeError):
        return False
    return True


class _Probe:
    """What is found out about one file."""

    def __init__(self, video: Video, bytes_there: Extent, size_bytes: int) -> None:
        if video.container.format.name.endswith("_pipe"):
            msg = f"{video.name}: no moving pictures, the file is a single image; leave it out"
            error = ProbeError(msg)
            error.status = "no_video"
            raise error
        self.video = video
        self.extent = bytes_there
        self.size_bytes = size_bytes
        self.picture_s = frame_s(video.stream)
        self.slack_s = max(SLACK_S, 3 * self.picture_s)
        self.damage: list[str] = []
        self.missing: list[str] = []
        self.remarks: list[str] = []

    def columns(self, is_at_hand: bool) -> dict[str, Any]:
        """Return the columns."""
        video = self.video
        entries = video.stream.index_entries
        is_indexed = video.has_index
        num_whole, num_entries = _count_whole(entries, self.size_bytes) if is_indexed else (0, 0)
        declared_s = _declared_s(video)
        found = survey(video, self.size_bytes) if is_at_hand else None
        if found is not None:
            video.reopen()
        seen: list[int] = []
        first = self._first_picture(seen)
        if found is None:
            found = Survey(num_packets=num_whole)
            found.pictures_end_s, found.packets_end_s = _last_packets(video, declared_s, seen)
            if is_indexed and num_entries <= MAX_ENTRIES:
                found.keys_s = shown_keys(video, self.size_bytes, seen, MAX_KEYS)
        self._judge_end(found, declared_s, is_indexed, num_entries - num_whole)
        self._judge_breaks(found)
        if is_at_hand and found.num_packets < num_whole <= MAX_ENTRIES:
            self.damage.append(
                f"{num_whole - found.num_packets} of {num_whole} packets of the index are not there"
            )
        start_s = video.start * video.tick_s
        duration_s = max(found.pictures_end_s - start_s, first["delay_s"] + self.picture_s)
        keys_s = sorted(found.keys_s) if len(found.keys_s) <= MAX_KEYS and video.marks_keys else []
        return {
            "container": video.container.format.name.split(",")[0],
            "codec": video.stream.codec_context.codec.canonical_name,
            "width_px": first["width_px"],
            "height_px": first["height_px"],
            "rotation_deg": first["rotation_deg"],
            "fps": 1 / self.picture_s,
            "start_s": start_s,
            "duration_s": duration_s,
            "num_packets": found.num_packets,
            "key_times_s": keys_s,
            "clock_restarts": found.in_order,
            "status": "damaged" if self.damage else "truncated" if self.missing else "ok",
            "note": "; ".join(_few(self.damage) + self.missing + _few(self.remarks)),
        }

    def _first_picture(self, seen: list[int]) -> dict[str, Any]:
        """Decode the first picture; what keeps it from being the stream's first one is damage.

        Presentation times of the key packets that are read on the way are added to `seen`.
        """
        video, troubles = self.video, list[str]()
        packets = _noting_keys(video.packets(), seen)
        found = next(pictures(video, packets, troubles), None)
        if found is None:
            why = troubles[0] if troubles else "its index may be damaged"
            msg = (
                f"{video.name}: opens, but not one picture can be decoded ({why}); copy it again or repair it"
            )
            raise ProbeError(msg)
        picture = found.frame
        delay_s = max(0.0, ((picture.pts or 0) - video.start) * video.tick_s)
        if troubles or delay_s > self.slack_s:
            why = troubles[0] if troubles else "no key picture"
            self.damage.append(f"no picture before {delay_s:.1f} s ({why})")
        height_px, width_px = shown_size(picture, video.stream.sample_aspect_ratio)
        return {
            "delay_s": delay_s,
            "width_px": width_px,
            "height_px": height_px,
            "rotation_deg": turn_deg(picture),
        }

    def _judge_breaks(self, found: Survey) -> None:
        """Say what is broken in the middle; what is broken at the end may belong to a cut."""
        start_s = self.video.start * self.video.tick_s
        if not self.extent.is_in_step:
            self.damage.append("bytes are missing in between: packets do not lie in step with the first one")
        is_cut = bool(self.missing)
        for broken in (*found.broken, *found.lost):
            text = f"{broken.why} (at {broken.at_s - start_s:.1f} s)"
            if not broken.at_end or (broken.is_lost and not is_cut):
                self.damage.append(text)
            elif not is_cut:
                self.remarks.append(f"after the last picture: {text}")
        self.remarks += [
            f"no picture comes up between {a - start_s:.1f} and {b - start_s:.1f} s"
            for a, b in found.stills_s
        ]

    def _judge_end(self, found: Survey, declared_s: float | None, is_indexed: bool, num_lost: int) -> None:
        """Say what is missing at the end."""
        video = self.video
        start_s = video.start * video.tick_s
        end_s, missing = found.pictures_end_s - start_s, self.extent.missing_bytes
        reaches_end = declared_s is not None and declared_s - found.packets_end_s <= self.slack_s
        if "matroska" in video.container.format.name and missing and reaches_end:
            self.damage.append(
                f"{missing} bytes are missing in between: it plays to its end, but is too short"
            )
            return
        if is_indexed:
            if num_lost:
                of = "" if not declared_s else f" of {declared_s - start_s:.1f}"
                self.missing.append(
                    f"{num_lost} pictures lie beyond its end, pictures end at {end_s:.1f}{of} s"
                )
            elif missing or found.ends_short:
                self.missing.append(f"it ends {missing} bytes early, pictures end at {end_s:.1f} s")
            return
        if self.extent.broken_at and self.size_bytes - self.extent.broken_at > JUNK_BYTES:
            self.damage.append(
                f"the chain of boxes breaks at byte {self.extent.broken_at}: what follows is lost"
            )
            return
        pictures_s = (video.stream.duration or 0) * video.tick_s
        if declared_s is not None and not reaches_end and (missing or not self.extent.declared_bytes):
            ends = found.packets_end_s - start_s
            self.missing.append(f"declares {declared_s - start_s:.1f} s, packets end at {ends:.1f} s")
        elif pictures_s - end_s > self.slack_s and not self.extent.declared_bytes:
            self.missing.append(f"declares {pictures_s:.1f} s of pictures, they end at {end_s:.1f} s")
        elif missing and "mpegts" in video.container.format.name:
            self.missing.append(f"the file ends inside a transport packet, pictures end at {end_s:.1f} s")
        elif missing or found.ends_short:
            self.missing.append(f"the file ends inside a packet, pictures end at {end_s:.1f} s")


def _few(notes: list[str]) -> list[str]:
    """Return the first notes, and how many more there are."""
    more = len(notes) - MAX_NOTES
    return [*notes[:MAX_NOTES], f"and {more} more such places"] if more > 0 else notes


def _count_whole(entries: IndexEntries, size_bytes: int) -> tuple[int, int]:
    """Return how many packets of an index lie inside the file, and how many there are; all, if they are too many."""
    num = len(entries)
    if num > MAX_ENTRIES:
        return num, num
    sizes = [(entry.pos + entry.size <= size_bytes) for entry in entries if entry.size]
    return sum(sizes), len(sizes)


def _declared_s(video: Video) -> float | None:
    """Return when the file says that it ends, in seconds of its own clock."""
    container = video.container
    if container.duration is None:
        return None
    # Matroska counts its length from zero, the others from their first packet
    offset = 0 if "matroska" in container.format.name else container.start_time or 0
    return (offset + container.duration) / av.time_base


def _noting_keys(packets: Iterator[VideoPacket], seen: list[int]) -> Iterator[VideoPacket]:
    """Yield packets, and add the presentation times of key packets to a list."""
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.size:
            seen.append(packet.pts)
        yield packet


def _last_packets(video: Video, declared_s: float | None, seen: list[int]) -> tuple[float, float]:
    """Return when the last picture and the last packet of any stream end, in seconds of the file's own clock.

    The search starts shortly before the declared end and goes further back until it meets a picture: after a cut,
    nothing can be read at the declared end. Presentation times of key packets are added to `seen`.
    """
    for back_s in TAIL_S if declared_s is not None else ():
        target = round(((declared_s or 0) - back_s) / video.tick_s)
        if target <= video.start:
            break
        try:
            video.container.seek(target, stream=video.stream)
        except av.error.FFmpegError:
            continue
        ends = _read_ends(video, seen)
        if ends[0] > video.start * video.tick_s:
            return ends
    video.reopen()
    return _read_ends(video, seen)


def _read_ends(video: Video, seen: list[int]) -> tuple[float, float]:
    """Return when the last picture and the last packet of any stream end, from here to the end of the file."""
    pictures_end_s = packets_end_s = 0.0
    try:
        for packet in packets_of(video):
            if packet.pts is None or not packet.size or packet.is_corrupt or packet.is_discard:
                continue
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            packets_end_s = max(packets_end_s, end_s)
            if packet.stream_index == video.stream.index:
                pictures_end_s = max(pictures_end_s, end_s)
                if packet.is_keyframe:
                    seen.append(packet.pts)
    except av.error.FFmpegError as error:
        logger.debug("%s: %s; nothing can be read from here on, this is the end", video.name, reason(error))
    return pictures_end_s, packets_end_s
