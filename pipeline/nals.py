"""Whether a packet of H.264 or H.265 can be taken apart, told without decoding it.

In mp4 and Matroska every packet is a chain of units (NAL units), each with its length in front: bytes that were
overwritten break the chain, and a decoder refuses the packet.
"""

START_CODES = (b"\x00\x00\x00\x01", b"\x00\x00\x01")
AVCC_BYTES, HVCC_BYTES = 7, 23
"""Shortest decoder configurations."""


def length_bytes(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes a unit's length has in this stream; 0 if its units have none, or that is not known.

    ISO/IEC 14496-15, 5.3.3.1 (avcC) and 8.3.3.1 (hvcC).
    """
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) >= AVCC_BYTES:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) >= HVCC_BYTES:
        return (extradata[21] & 3) + 1
    return 0


def is_chain(packet: memoryview, num_length: int) -> bool:
    """Return whether a packet is a chain of units whose lengths fit, as strictly as libav takes it."""
    position, end = 0, len(packet)
    while end - position > num_length:
        length = int.from_bytes(packet[position : position + num_length])
        position += num_length + length
        if not length or position > end:
            # start codes instead of lengths: some writers do, and decoders take it
            return bytes(packet[:4]).startswith(START_CODES)
    return True
