"""When the key pictures of an mp4 file are shown, told from its index without reading a packet.

libav's view of the index holds decoding times only. How much later each picture is shown stands in a table of the
movie box (ctts), which was read when the file was opened and is read once more here. What is told this way is checked
against key packets that were read; where anything does not fit, nothing is told.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.media import Video, read_at

MAX_MOVIE_BYTES = 64 * 2**20
"""About 10 bytes per picture and stream: days."""
MAX_BOXES = 10_000

Ints: TypeAlias = "npt.NDArray[np.int64]"


def shown_keys(video: Video, size_bytes: int, seen: Sequence[int], most: int) -> list[float]:
    """Return when key pictures are shown, in seconds from the video's start, sorted; empty where that is not sure.

    Pictures that an edit list hides, or that lie beyond the end of a file that was cut, are left out.

    Args:
        video: an open mp4, mov or AVI file with an index (`has_index`), of which nothing will be demuxed any more.
        size_bytes: of the file.
        seen: presentation times of key packets that were read, in stream ticks, the first one of the file in front.
        most: more key pictures than this are left out altogether.
    """
    entries = video.stream.index_entries
    if not seen or not video.is_timed:
        return []
    if "mp4" in video.container.format.name:
        tables = _tables(video.file, video.stream.id)
        found = _delays(tables, len(entries), most) if tables else None
    else:
        # AVI: a picture is shown when it is decoded
        keys = [number for number in range(len(entries)) if entries[number].is_keyframe]
        found = np.array(keys, np.int64), np.zeros(len(keys), np.int64)
    if found is None or not 0 < len(found[0]) <= most:
        return []
    chosen = [entries[int(number)] for number in found[0]]
    shown = np.array([entry.timestamp for entry in chosen], np.int64) + found[1]
    shown += seen[0] - int(shown[0])
    is_told = all(entry.is_keyframe for entry in chosen) and set(seen) <= set(shown.tolist())
    if not is_told:
        return []
    is_there = [not entry.is_discard and entry.pos + entry.size <= size_bytes for entry in chosen]
    is_visible = np.array(is_there) & (shown >= video.start)
    return ((np.sort(shown[is_visible]) - video.start) * video.tick_s).tolist()


def _delays(tables: dict[bytes, memoryview], num_entries: int, most: int) -> tuple[Ints, Ints] | None:
    """Return the numbers of the key samples, from 0 on, and how many ticks after its decoding each is shown.

    None where the index is not the list of samples: an edit list took some out, or there are too many.
    """
    sizes = tables.get(b"stsz", tables.get(b"stz2", memoryview(b"")))
    if len(sizes) < 12 or int.from_bytes(sizes[8:12]) != num_entries:
        return None
    if b"stss" in tables:
        keys = _numbers(tables[b"stss"], 1)[:, 0] - 1
    elif num_entries > most:
        return None
    else:
        keys = np.arange(num_entries)
    if len(keys) > most or not len(keys) or keys[0] < 0 or keys[-1] >= num_entries:
        return None
    if b"ctts" not in tables:
        return keys, np.zeros(len(keys), np.int64)
    runs = _numbers(tables[b"ctts"], 2)
    run = np.searchsorted(np.cumsum(runs[:, 0]), keys, side="right")
    if not len(runs) or run.max() >= len(runs):
        return None
    # version 0 says that they are unsigned, writers store signed ones all the same
    return keys, runs[run, 1].astype(np.uint32).view(np.int32).astype(np.int64)


def _numbers(table: memoryview, width: int) -> Ints:
    """Return the rows of a table: version and flags, number of rows, rows of 32-bit numbers."""
    count = min(int.from_bytes(table[4:8]), (len(table) - 8) // (4 * width))
    return np.frombuffer(table[8 : 8 + 4 * width * count], ">u4").astype(np.int64).reshape(-1, width)


def _tables(file: BinaryIO, track: int) -> dict[bytes, memoryview] | None:
    """Return the sample tables of a track by their names (ISO/IEC 14496-12, 8.5 to 8.7); None if not found."""
    movie = _movie(file)
    for name, trak in _boxes(movie):
        if name == b"trak":
            inside = dict(_boxes(trak))
            header = inside.get(b"tkhd", memoryview(b""))
            place = 20 if bytes(header[:1]) == b"\x01" else 12
            if int.from_bytes(header[place : place + 4]) == track:
                for step in (b"mdia", b"minf", b"stbl"):
                    inside = dict(_boxes(inside.get(step, memoryview(b""))))
                return inside
    return None


def _movie(file: BinaryIO) -> memoryview:
    """Return what the movie box of a file holds; nothing if there is none, or it is too large."""
    position = 0
    for _ in range(MAX_BOXES):
        head = read_at(file, position, 16)
        length, skip = int.from_bytes(head[:4]), 8
        if length == 1:
            length, skip = int.from_bytes(head[8:16]), 16
        if length < skip:
            break
        if head[4:8] == b"moov":
            return memoryview(_read_all(file, position + skip, min(length - skip, MAX_MOVIE_BYTES)))
        position += length
    return memoryview(b"")


def _read_all(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    """Return bytes of a file that may give fewer at a time."""
    parts: list[bytes] = []
    while num_bytes > 0 and (part := read_at(file, position, num_bytes)):
        parts.append(part)
        position, num_bytes = position + len(part), num_bytes - len(part)
    return b"".join(parts)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the names and contents of the boxes in a box."""
    position = 0
    for _ in range(MAX_BOXES):
        length, name = int.from_bytes(data[position : position + 4]), bytes(data[position + 4 : position + 8])
        skip = 8
        if length == 1:
            length, skip = int.from_bytes(data[position + 8 : position + 16]), 16
        if length < skip or position + length > len(data):
            return
        yield name, data[position + skip : position + length]
        position += length
