"""Pictures that carry their number, when each is shown, and which of them a damaged file has lost.

The number is twenty black or white blocks along the top, so "which picture is this" has an exact answer after any
lossy codec and any resize. What damage destroyed is told from bytes, not from a decoder: a coded picture is lost
when its bytes are no longer in the file.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

WIDTH_PX, HEIGHT_PX = 640, 360
BITS = 20
UNREADABLE = -1
BLACK, GREY, WHITE = 16, 128, 235
BLOCKS, LINE = 1 / 10, 3 / 20
"""The blocks end at this share of the height, the grey line below them at that one."""
SLACK_S = Fraction(1, 10**6)
"""Times are floats: one this close before a border counts as on it."""
TS_PACKET_BYTES = 188
TS_VIDEO_PID = 256


def picture(number: int) -> npt.NDArray[np.uint8]:
    """Return picture `number`: [360, 640] uint8 grey, its number on top and a texture below that moves on."""
    grey_HW = np.roll(_TEXTURE_HW, (2 * number, 3 * number), (0, 1))
    grey_HW[: round(HEIGHT_PX * LINE)] = GREY
    blocks_W = np.where(number >> np.arange(BITS) & 1, WHITE, BLACK).repeat(WIDTH_PX // BITS)
    grey_HW[: round(HEIGHT_PX * BLOCKS)] = blocks_W
    return grey_HW


def _texture() -> npt.NDArray[np.uint8]:
    """Return [360, 640] uint8: squares of 8 pixels that a codec must spend bits on when they move."""
    small_HW = np.random.default_rng(0).integers(40, 200, (HEIGHT_PX // 8, WIDTH_PX // 8), np.uint8)
    return small_HW.repeat(8, 0).repeat(8, 1)


_TEXTURE_HW = _texture()


def number_in(picture_HWC: npt.NDArray[np.uint8]) -> int:
    """Return the number an upright RGB picture at least 320 pixels wide shows.

    UNREADABLE (-1) when a block is neither black nor white or the line below them is not grey: a picture that is
    smeared, turned or all black shows no number.
    """
    height_px, width_px, _ = picture_HWC.shape
    line_HWC = picture_HWC[round((BLOCKS + 0.01) * height_px) : round((LINE - 0.01) * height_px)]
    if not _is_near(line_HWC, GREY):
        return UNREADABLE
    blocks_W = picture_HWC[round(0.2 * BLOCKS * height_px) : round(0.8 * BLOCKS * height_px)].mean((0, 2))
    number = 0
    for bit in range(BITS):
        left, right = (round((bit + share) * width_px / BITS) for share in (0.25, 0.75))
        is_white = _is_near(blocks_W[left:right], WHITE)
        if not is_white and not _is_near(blocks_W[left:right], BLACK):
            return UNREADABLE
        number |= is_white << bit
    return number


def _is_near(part: npt.NDArray[np.generic], level: int) -> bool:
    """Return whether part of a picture has a brightness."""
    return abs(float(part.mean()) - level) < 45


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which number is shown when, counted from the video stream's start."""

    numbers: tuple[int, ...]
    starts_s: tuple[Fraction, ...]
    """When each of them appears; the first is 0."""
    end_s: Fraction
    """When the last of them has been shown for as long as a picture usually lasts; the file may say otherwise."""

    def at(self, t_s: float) -> int | None:
        """Return the number shown at a time, None before the first and after the last."""
        exact_s = Fraction(t_s) + SLACK_S
        if not 0 <= exact_s < self.end_s:
            return None
        return self.numbers[bisect_right(self.starts_s, exact_s) - 1]


def timeline(
    numbers: Sequence[int], fps: Fraction = Fraction(30), *, tick_s: Fraction | None = None
) -> Timeline:
    """Return when numbers are shown whose pictures lie at number / fps, rounded to ticks of the container's clock.

    Numbers left out make a variable rate; the first number is the stream's start.
    """
    starts_s = [number / fps for number in numbers]
    if tick_s is not None:
        starts_s = [round(start_s / tick_s) * tick_s for start_s in starts_s]
    zero_s = starts_s[0]
    return Timeline(
        tuple(numbers), tuple(start_s - zero_s for start_s in starts_s), starts_s[-1] + 1 / fps - zero_s
    )


@dataclass(frozen=True, slots=True)
class Losses:
    """What is left of an intact file in a damaged one, as the numbers of its pictures."""

    lost: frozenset[int]
    """Coded pictures whose bytes are not all there any more: nothing can show them."""
    whole: frozenset[int]
    """Pictures of closed groups that lost nothing: nothing keeps a decoder from showing them."""


def losses(twin: Path, damaged: Path) -> Losses:
    """Compare a damaged file with the intact one of the same container that it was made from.

    The twin's pictures are numbered from 0 in the order shown, its groups are closed.
    """
    data = damaged.read_bytes()
    coded = list(coded_pictures(twin))
    number_of = {pts: number for number, pts in enumerate(sorted(picture.pts for picture in coded))}
    lost: set[int] = set()
    groups: list[list[int]] = []
    for found in coded:
        if found.is_key:
            groups.append([])
        groups[-1].append(number_of[found.pts])
        if not all(piece in data for piece in found.pieces):
            lost.add(number_of[found.pts])
    whole = (number for group in groups if lost.isdisjoint(group) for number in group)
    return Losses(frozenset(lost), frozenset(whole))


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One coded picture as it lies in a file."""

    pts: int
    """When it is shown, in ticks of the stream."""
    is_key: bool
    position: int
    """The byte at which its first packet begins; -1 where that is not told."""
    pieces: tuple[bytes, ...]
    """Its bytes: one run, or what each transport packet carries of them."""


def coded_pictures(path: Path) -> Iterator[CodedPicture]:
    """Yield the pictures of an intact file in file order."""
    if path.suffix == ".ts":
        yield from ts_pictures(path.read_bytes())
        return
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and packet.pts is not None:
                yield CodedPicture(packet.pts, packet.is_keyframe, -1, (bytes(packet),))


def ts_pictures(data: bytes) -> Iterator[CodedPicture]:
    """Yield the pictures of a transport stream that holds one picture in each PES packet (ISO/IEC 13818-1, 2.4.3).

    The clock has ticks of 1/90000 s.
    """
    positions = [
        position
        for position in range(0, len(data), TS_PACKET_BYTES)
        if int.from_bytes(data[position + 1 : position + 3]) & 0x1FFF == TS_VIDEO_PID
    ]
    begins = [index for index, position in enumerate(positions) if data[position + 1] & 0x40]
    for begin, end in zip(begins, [*begins[1:], len(positions)], strict=True):
        position = positions[begin]
        is_key = bool(data[position + 3] & 0x20 and data[position + 4] and data[position + 5] & 0x40)
        head, *rest = (_ts_payload(data[at : at + TS_PACKET_BYTES]) for at in positions[begin:end])
        pts = (
            (head[9] >> 1 & 7) << 30
            | int.from_bytes(head[10:12]) >> 1 << 15
            | int.from_bytes(head[12:14]) >> 1
        )
        yield CodedPicture(pts, is_key, position, (head[9 + head[8] :], *rest))


def _ts_payload(packet: bytes) -> bytes:
    """Return what a transport packet carries after its header and its adaptation field."""
    return packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
