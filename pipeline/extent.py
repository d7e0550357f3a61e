"""Whether all the bytes are there that a container declares, told from a few bytes of its outermost structure.

A file that was cut declares more than it has, or ends inside a piece of fixed size. Where pieces of fixed size no
longer lie in step with those at the beginning, bytes are missing in between.
"""

from dataclasses import dataclass
from typing import BinaryIO

from pipeline.media import MP4_BOXES, read_at

MP4_DATA = (b"mdat", b"moof", b"moov", b"mfra")
"""Boxes that are believed when they say that they are longer than the file."""
HEAD_BYTES = 4096
MKV_HEADER, MKV_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
M2TS_PACKET_BYTES = 192
TS_PACKETS_BYTES = (188, M2TS_PACKET_BYTES, 204)
TS_SYNC = 0x47
TS_LOOK = 6
"""Packets that must lie in step to tell where packets begin."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What the outermost structure of a file tells of its bytes."""

    declared_bytes: int = 0
    """Where its last piece ends by its own account; 0 if that is not known."""
    missing_bytes: int = 0
    """How much of its last piece is missing."""
    broken_at: int = 0
    """The byte at which the chain of mp4 boxes breaks; 0 if it does not."""
    is_in_step: bool = True
    """Pieces of fixed size lie where they should; otherwise bytes are missing in between."""


def extent(file: BinaryIO, size_bytes: int, max_pieces: int) -> Extent:
    """Return what the outermost structure tells; a few bytes at the beginning and at each piece are read.

    Args:
        file: at any position, not being read by a demuxer.
        size_bytes: of the file.
        max_pieces: mp4 boxes and AVI lists to look at.
    """
    head = read_at(file, 0, HEAD_BYTES)
    if head[4:8] in MP4_BOXES:
        declared, broken_at = _mp4_end(file, size_bytes, max_pieces)
        return Extent(declared, max(0, declared - size_bytes), broken_at)
    if head[:4] == MKV_HEADER:
        declared = _mkv_end(head)
    elif head[:4] == b"RIFF":
        declared = _avi_end(file, size_bytes, max_pieces)
    else:
        return _ts_extent(file, head, size_bytes)
    return Extent(declared, max(0, declared - size_bytes))


def _mp4_end(file: BinaryIO, size_bytes: int, max_pieces: int) -> tuple[int, int]:
    """Return where the last top-level box ends and where the chain of boxes breaks (ISO/IEC 14496-12, 4.2)."""
    position = 0
    for _ in range(max_pieces):
        head = read_at(file, position, 16)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16])
        end = position + length
        if position == size_bytes or len(head) < 8 or length == 0:  # 0 = to the end of the file
            break
        if end > size_bytes and name in MP4_DATA:
            return end, 0
        if length < 8 or end > size_bytes:
            return 0, position
        position = end
    return 0, 0


def _mkv_end(head: bytes) -> int:
    """Return where the segment ends, 0 where it does not say (RFC 8794, 4 to 6; RFC 9559, 4.5)."""
    length, first = _mkv_number(head, 4)
    position = first + length
    if head[position : position + 4] != MKV_SEGMENT:
        return 0
    length, first = _mkv_number(head, position + 4)
    return first + length if length else 0


def _mkv_number(data: bytes, position: int) -> tuple[int, int]:
    """Return a size and where it ends; a size that is not known is 0."""
    num_bytes = 9 - data[position].bit_length() if position < len(data) else 9
    if num_bytes > 8:
        return 0, position + 1
    mask = (1 << 7 * num_bytes) - 1
    value = int.from_bytes(data[position : position + num_bytes]) & mask
    return (0 if value == mask else value), position + num_bytes


def _avi_end(file: BinaryIO, size_bytes: int, max_pieces: int) -> int:
    """Return where the last RIFF list ends; a file of more than 1 GiB has several."""
    position = 0
    for _ in range(max_pieces):
        head = read_at(file, position, 8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or not length:  # an unfinished recording says 0
            return 0
        position += 8 + length + length % 2
        if position > size_bytes + 1:
            return position
    return 0


def _ts_extent(file: BinaryIO, head: bytes, size_bytes: int) -> Extent:
    """Return whether a transport stream ends with a packet, and its packets keep step (ISO/IEC 13818-1, 2.4.3.2)."""
    for packet_bytes in TS_PACKETS_BYTES:
        span = TS_LOOK * packet_bytes
        first = _step(head[:span], packet_bytes)
        if first is None or size_bytes < 4 * span:
            continue
        start = size_bytes - span
        last = _step(read_at(file, start, span), packet_bytes)
        if last is None:
            return Extent()
        # with a time code before each packet (m2ts), a packet begins 4 bytes before its sync byte
        lead = 4 if packet_bytes == M2TS_PACKET_BYTES else 0
        rest = (span - last + lead) % packet_bytes
        missing = packet_bytes - rest if rest else 0
        return Extent(size_bytes + missing, missing, 0, (start + last - first) % packet_bytes == 0)
    return Extent()


def _step(data: bytes, packet_bytes: int) -> int | None:
    """Return the offset at which every packet that lies in the data begins, None if there is no such one."""
    for offset in range(packet_bytes):
        if all(data[at] == TS_SYNC for at in range(offset, len(data), packet_bytes)):
            return offset
    return None
