"""Whether reference pictures are missing between two packets of an H.264 stream, told from their headers.

A demuxer passes over a hole in mkv or ts without a word, and libav makes up the pictures that were there: what refers
to them looks plausible and is wrong. Every reference picture carries a counter, frame_num, that goes up by one
(ITU-T H.264, 7.4.3): a jump means a hole.
"""

from collections.abc import Iterator

HEAD_BYTES = 4096
"""Where in a packet its first slice is looked for."""
SLICE_BYTES = 32
SPS, NON_IDR, IDR = 7, 1, 5
HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class ReferenceCounter:
    """Follows frame_num from packet to packet of one stream, in file order."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = (
            (extradata[4] & 3) + 1 if extradata and extradata[0] == 1 and len(extradata) > 6 else 0
        )
        self._modulus = 0
        self._previous: int | None = None
        if extradata and self._length_size:
            length = int.from_bytes(extradata[6:8], "big")
            self._read_parameters(extradata[9 : 8 + length])
        elif extradata:
            for unit in _start_codes(memoryview(extradata)):
                if unit and unit[0] & 31 == SPS:
                    self._read_parameters(bytes(unit[1:]))

    def restart(self) -> None:
        """Forget what came before: the next packet does not follow the last one."""
        self._previous = None

    def misses(self, packet: memoryview) -> bool:
        """Return whether reference pictures are missing between the packet before and this one."""
        for unit in self._units(packet[:HEAD_BYTES]):
            kind = unit[0] & 31 if unit else 0
            if kind == SPS:
                self._read_parameters(bytes(unit[1:]))
            elif kind in (NON_IDR, IDR):
                return self._counts(bytes(unit[: SLICE_BYTES + 1]))
        return False

    def _counts(self, unit: bytes) -> bool:
        if not self._modulus:
            return False
        bits = Bits(unit[1:])
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.exp_golomb()
        number = bits.take(self._modulus.bit_length() - 1)
        previous, is_reference = self._previous, unit[0] & 0x60
        if unit[0] & 31 == IDR or previous is None:
            is_missing = False
        else:
            is_missing = number not in (previous, (previous + 1) % self._modulus)
        if is_reference or previous is None or is_missing:
            self._previous = number if is_reference else (number - 1) % self._modulus
        return is_missing

    def _units(self, data: memoryview) -> Iterator[memoryview]:
        """Yield the NAL units of a packet, the last one perhaps cut."""
        if not self._length_size:
            yield from _start_codes(data)
            return
        position = 0
        while position + self._length_size < len(data):
            length = int.from_bytes(data[position : position + self._length_size], "big")
            position += self._length_size
            if length:
                yield data[position : position + length]
            position += length

    def _read_parameters(self, data: bytes) -> None:
        """Take over what a sequence parameter set (7.3.2.1.1) says; where it allows gaps, none is looked for."""
        bits = Bits(data)
        profile = bits.take(8)
        bits.take(16)
        bits.exp_golomb()
        if profile in HIGH_PROFILES:
            if bits.exp_golomb() == 3:  # chroma_format_idc
                bits.take(1)
            bits.exp_golomb()
            bits.exp_golomb()
            bits.take(1)
            if bits.take(1):  # scaling lists: long to read, hardly ever there
                self._modulus = 0
                return
        self._modulus = 1 << (bits.exp_golomb() + 4)
        order = bits.exp_golomb()
        if order == 0:
            bits.exp_golomb()
        elif order == 1:
            bits.take(1)
            bits.exp_golomb()
            bits.exp_golomb()
            for _ in range(min(bits.exp_golomb(), 255)):
                bits.exp_golomb()
        bits.exp_golomb()
        if bits.take(1):  # gaps_in_frame_num_value_allowed_flag
            self._modulus = 0


class Bits:
    """Reads a NAL unit bit by bit, without its emulation prevention bytes; past the end come zeros."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """Return the next unsigned Exp-Golomb number (9.1)."""
        zeros = 0
        while zeros < 32 and self._left > 0 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _start_codes(data: memoryview) -> Iterator[memoryview]:
    """Yield the NAL units between start codes (Annex B), the last one perhaps cut."""
    raw = bytes(data)
    start = raw.find(b"\x00\x00\x01")
    while 0 <= start < len(raw) - 3:
        stop = raw.find(b"\x00\x00\x01", start + 3)
        yield data[start + 3 : stop if stop >= 0 else len(raw)]
        start = stop
