"""Finding out what a file really holds before anything is planned on it.

Containers lie: about their length after a cut, about frame counts always. A probe therefore decodes the first
picture and looks for the last packet, and reads little else.
"""

import logging
from typing import BinaryIO

import av.error

from pipeline.errors import ProbeError
from pipeline.media import Video, frame_s, open_video, reason, shown_size, turn_deg
from pipeline.pictures import pictures
from pipeline.rows import Row

logger = logging.getLogger(__name__)

TAIL_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)
"""How far before its declared end a file is searched for its last packet."""
SLACK_S = 0.5
"""A file may end this much (or 3 frames) before its declared end and still count as whole."""


def probe_file(file: BinaryIO, uri: str, size_bytes: int) -> Row:
    """Return the probe columns of rows.VIDEOS for an open file. Runs in the decoding child.

    One picture is decoded and the packets at the end are looked at; a file without an index at its end, or
    without a declared length, is read through once without decoding.

    Raises:
        ProbeError: nothing in the file can be decoded; `status` of the error says which kind of useless it is.
    """
    if size_bytes == 0:
        msg = f"{uri}: the file is empty (0 bytes); copy or record it again"
        raise ProbeError(msg)
    troubles: list[str] = []
    with open_video(file, uri, ProbeError) as video:
        stream = video.stream
        found = next(pictures(video, video.container.demux(stream), troubles), None)
        if found is None:
            why = troubles[0] if troubles else "its index may be damaged"
            msg = f"{uri}: opens, but not one picture can be decoded ({why}); copy it again or repair it"
            raise ProbeError(msg)
        first = found.frame
        delay_s = max(0.0, ((first.pts or 0) - video.start) * video.tick_s)
        height_px, width_px = shown_size(first, stream.sample_aspect_ratio)
        columns: Row = {
            "container": video.container.format.name.split(",")[0],
            "codec": stream.codec_context.codec.canonical_name,
            "width_px": width_px,
            "height_px": height_px,
            "rotation_deg": turn_deg(first),
            "fps": 1 / frame_s(stream),
        }
        picture_s = frame_s(stream)
        notes: list[str] = []
        if troubles or delay_s > max(SLACK_S, 3 * picture_s):
            notes.append(
                f"no picture before {delay_s:.1f} s ({troubles[0] if troubles else 'no key picture'})"
            )
        end_s, cut = _find_end(video, size_bytes)
    columns["status"] = "truncated" if cut else "damaged" if notes else "ok"
    columns["note"] = "; ".join(notes + cut)
    columns["duration_s"] = max(end_s, delay_s + picture_s)
    columns["start_s"] = video.start * video.tick_s
    columns["key_times_s"] = []
    return columns


def _find_end(video: Video, size_bytes: int) -> tuple[float, list[str]]:
    """Return when the last picture ends, in seconds from the stream's start, and notes if the file was cut."""
    container = video.container
    start_s, slack_s = video.start * video.tick_s, max(SLACK_S, 3 * frame_s(video.stream))
    name = container.format.name
    declared_s = None
    if container.duration is not None:
        # Matroska counts its length from zero, the others from their first packet
        offset = 0 if "matroska" in name else container.start_time or 0
        declared_s = (offset + container.duration) / av.time_base
    pictures_end_s, packets_end_s = _last_packets(video, declared_s)
    end_s = max(0.0, pictures_end_s - start_s)
    if name == "mpegts":  # declares no length
        is_m2ts = video.read_at(4, 1) == video.read_at(196, 1) == b"\x47"
        if size_bytes % (192 if is_m2ts else 188):
            return end_s, [f"the file ends inside a transport packet, pictures end at {end_s:.1f} s"]
    elif declared_s is not None and declared_s - packets_end_s > slack_s:
        return end_s, [
            f"declares {declared_s - start_s:.1f} s, packets end at {packets_end_s - start_s:.1f} s"
        ]
    # another stream may go on after the last picture that is there
    pictures_s = (video.stream.duration or 0) * video.tick_s
    if pictures_s - end_s > slack_s:
        return end_s, [f"declares {pictures_s:.1f} s of pictures, they end at {end_s:.1f} s"]
    return end_s, []


def _last_packets(video: Video, declared_s: float | None) -> tuple[float, float]:
    """Return when the last picture and the last packet of any stream end, in seconds of the file's own clock.

    The search starts shortly before the declared end and goes further back until it meets a picture: after a cut,
    nothing can be read at the declared end.
    """
    for back_s in TAIL_S if declared_s is not None else ():
        target = round(((declared_s or 0) - back_s) / video.tick_s)
        if target <= video.start:
            break
        try:
            video.container.seek(target, stream=video.stream)
        except av.error.FFmpegError:
            continue
        ends = _read_ends(video)
        if ends[0] > video.start * video.tick_s:
            return ends
    video.reopen()
    return _read_ends(video)


def _read_ends(video: Video) -> tuple[float, float]:
    """Return when the last picture and the last packet of any stream end, from here to the end of the file."""
    pictures_end_s = packets_end_s = 0.0
    try:
        for packet in video.container.demux():
            if packet.pts is None or not packet.size or packet.is_corrupt or packet.is_discard:
                continue
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            packets_end_s = max(packets_end_s, end_s)
            if packet.stream_index == video.stream.index:
                pictures_end_s = max(pictures_end_s, end_s)
    except av.error.FFmpegError as error:
        logger.debug("%s: %s; nothing can be read from here on, this is the end", video.name, reason(error))
    return pictures_end_s, packets_end_s
