"""Finding videos, and finding out what a file really holds before anything is planned on it.

Containers lie: about their length after a cut, about frame counts always. A probe therefore decodes the first
picture and looks for the last packet, and reads little else.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import av.error
from fsspec.utils import glob_translate

from pipeline.errors import ConfigError, ProbeError
from pipeline.media import Video, frame_s, open_video, reason, shown_size, turn_deg
from pipeline.pictures import pictures
from pipeline.rows import Row
from pipeline.store import exists, list_files

logger = logging.getLogger(__name__)

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".ogv", ".avi", ".flv", ".f4v", ".wmv"),
    *(".asf", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf"),
)
"""What is taken for a video when a folder is walked; files named one by one may be called anything."""
TAIL_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)
"""How far before its declared end a file is searched for its last packet."""
SLACK_S = 0.5
"""A file may end this much (or 3 frames) before its declared end and still count as whole."""


def list_videos(uri: str) -> Iterator[Row]:
    """Yield a rows.FILE row for every video of a folder (with those below), a pattern, one file, or a bucket prefix.

    In a pattern `*` and `?` stay within a folder and `**` crosses folders. A walk takes the suffixes of SUFFIXES
    and passes over hidden files; a file named, or matched by a pattern that ends in a suffix, is always taken.
    Nothing is held: rows come as the store lists.

    Raises:
        ConfigError: nothing is found.
        StoreError: the place cannot be listed.
    """
    if "://" not in uri:
        uri = os.path.normpath(Path(uri).expanduser().absolute())
    folder, pattern = uri, None
    if (magic := re.search(r"[*?\[]", uri)) and not exists(uri):
        folder = uri[: magic.start()].rpartition("/")[0]
        pattern = re.compile(glob_translate(uri))
    takes_all = pattern is not None and "." in PurePosixPath(uri).name
    num_videos = num_others = 0
    if "://" not in folder and not exists(folder):
        msg = f"no videos at {uri}: there is no such file or folder; check the path"
        raise ConfigError(msg)
    for entry in list_files(folder):
        name = PurePosixPath(entry.uri)
        is_video = name.suffix.lower() in SUFFIXES and not name.name.startswith(".")
        is_asked_for = pattern.match(entry.uri) is not None if pattern else True
        if not (is_asked_for and (takes_all or is_video or entry.uri == uri)):
            num_others += 1
            continue
        num_videos += 1
        yield {
            "video_id": video_id(entry.uri),
            "version": version(entry.size_bytes, entry.etag),
            "uri": entry.uri,
            "size_bytes": entry.size_bytes,
            "etag": entry.etag,
            "error_type": "",
            "error_message": "",
        }
    if not num_videos:
        wanted = "a match" if takes_all else f"a file ending in {', '.join(SUFFIXES)}"
        msg = f"no videos at {uri}: looked at {num_others} other files for {wanted}; check the path"
        raise ConfigError(msg)


def video_id(uri: str) -> str:
    """Return the id of a video: 16 hex digits of its URI's SHA-256."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def version(size_bytes: int, etag: str) -> str:
    """Return 12 hex digits that change whenever the file's content may have changed."""
    return hashlib.sha256(f"{size_bytes}:{etag}".encode()).hexdigest()[:12]


def probe_video(row: Row) -> Row:
    """Return the probe columns of rows.VIDEOS for one rows.FILE row.

    One picture is decoded and the packets at the end are looked at; a file without an index at its end, or
    without a declared length, is read through once without decoding.

    Raises:
        ProbeError: nothing in the file can be decoded; `status` of the error says which kind of useless it is.
    """
    started = time.perf_counter()
    uri: str = row["uri"]
    if row["size_bytes"] == 0:
        msg = f"{uri}: the file is empty (0 bytes); copy or record it again"
        raise ProbeError(msg)
    troubles: list[str] = []
    with open_video(uri, ProbeError) as video:
        stream = video.stream
        found = next(pictures(video, video.container.demux(stream), troubles), None)
        if found is None:
            why = troubles[0] if troubles else "its index may be damaged"
            msg = f"{uri}: opens, but not one picture can be decoded ({why}); copy it again or repair it"
            raise ProbeError(msg)
        first = found[0]
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
        end_s, cut = _find_end(video, row["size_bytes"])
    columns["status"] = "truncated" if cut else "damaged" if notes else "ok"
    columns["note"] = "; ".join(notes + cut)
    columns["duration_s"] = max(end_s, delay_s + picture_s)
    return {**columns, "probe_s": time.perf_counter() - started}


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
        logger.debug("%s: %s; nothing can be read from here on, this is the end", video.uri, reason(error))
    return pictures_end_s, packets_end_s
