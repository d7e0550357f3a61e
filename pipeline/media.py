"""Opening a video file: which stream is the video, when it starts, how its errors read."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO, Protocol, runtime_checkable

import av
import av.container
import av.error
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.errors import ProbeError, RowError
from pipeline.frames import FrameSize

BUFFER_BYTES = 64 * 2**10
"""What the demuxer reads at a time."""
CLOCK_BACK_S = 1.0
"""A decoding time this much before the one before it means that the clock has started again."""
MAX_ASPECT = 16
"""Pixels further from square than this are taken for a mistake."""
MIN_FPS, MAX_FPS = 0.01, 1000.0
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
MAX_BOXES = 1000
MAX_LEADING_PACKETS = 64
OPEN_OPTIONS = {"protocol_whitelist": "file"}
"""A file that is really a playlist must not make us open addresses it names."""


@runtime_checkable
class Opened(Protocol):
    """A file object that wants to know when the container is open."""

    def opened(self) -> None: ...


class NoVideoStreamError(Exception):
    """The container holds no moving pictures; the message says what it holds instead."""


class NoDecoderError(Exception):
    """The video stream's codec is not one that libav decodes."""


class Video:
    """An open container and its video stream; close it by leaving `open_video`."""

    container: av.container.InputContainer
    stream: VideoStream
    """The first video stream that is not a cover picture."""
    start: int
    """Presentation time of the stream's first packet, in ticks: the zero that all our times count from."""
    tick_s: float
    """Seconds of one tick of the stream's clock."""
    is_fresh: bool
    """No packet has been read and nothing was sought since it was opened."""
    is_tainted: bool
    """The decoder has met damage. libav's H.264 decoder then gives wrong pixels after the next seek, from an intact key
    picture on and without a mark, flushed or not: a new one is needed."""
    in_order: bool
    """The file's clock starts again somewhere, so a seek may land anywhere: it is only read from its first byte on."""
    late: int
    """Where `is_timed` is false: ticks by which pictures come out of the decoder after they were put in."""

    sought: int
    """Time in ticks of the packet that the last seek led to."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.file = file
        self.sought = 0
        self.in_order = bool(getattr(file, "in_order", False))
        self._open()
        self.tick_s = float(self.stream.time_base or 1)
        start = self.stream.start_time
        if start is None:  # a stream of one picture may leave it open
            packets = islice(self.packets(), MAX_LEADING_PACKETS)
            start = next((packet.pts for packet in packets if packet.pts is not None), 0)
            self.reopen()
        self.start = start
        self.late = 0
        if not self.is_timed:
            with suppress(av.error.FFmpegError):
                first = next(self.container.decode(self.stream), None)
                self.late = (first.dts or start) - start if first else 0
            self.reopen()

    def _open(self) -> None:
        self.file.seek(0)
        self.container = av.open(
            self.file,
            "r",
            buffer_size=BUFFER_BYTES,
            container_options=OPEN_OPTIONS,
            metadata_errors="replace",
        )
        streams = self.container.streams
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            raise NoVideoStreamError(_contents(streams))
        self.stream = videos[0]
        self.is_fresh = True
        self.is_tainted = False
        self._offset = 0
        self._latest: int | None = None
        if isinstance(self.file, Opened):
            self.file.opened()
        context: Any = self.stream.codec_context
        if context is None:
            raise NoDecoderError
        # one process per core decodes; threads inside a decoder cost CPU and memory and save none
        context.thread_type = "NONE"
        context.thread_count = 1

    @property
    def is_timed(self) -> bool:
        """Return whether packets say when they are shown: those of an AVI file with reordered pictures do not."""
        return not (self.container.format.name == "avi" and self.stream.codec_context.has_b_frames)

    @property
    def marks_keys(self) -> bool:
        """Return whether key packets are marked: of an AVI file whose index is lost, libav marks every packet."""
        return self.container.format.name != "avi" or self.has_index

    @property
    def has_index(self) -> bool:
        """Return whether the place of every packet is known.

        It is at opening in mov, mp4 and avi; mkv loads its index at the first seek, ts has none.
        """
        return len(self.stream.index_entries) >= self.stream.frames > 0

    def packets(self, *, all_streams: bool = False) -> Iterator[Any]:
        """Yield the packets of the video stream, or of all, from here on.

        Raises:
            av.error.FFmpegError: the demuxer stumbled; another call may go on behind it.
        """
        try:
            packets = self.container.demux() if all_streams else self.container.demux(self.stream)
            yield from map(self._on_one_clock, packets) if self.in_order else packets
        except IndexError:
            return  # PyAV at the end of a file in which streams came up that were not there at its beginning

    def _on_one_clock(self, packet: Any) -> Any:
        """Return a packet of a file whose clock starts again, as of joined recordings, on a clock that goes on."""
        if packet.dts is not None:
            if (
                self._latest is not None
                and packet.dts + self._offset < self._latest - CLOCK_BACK_S / self.tick_s
            ):
                usual = packet.duration or round(frame_s(self.stream) / self.tick_s)
                self._offset = self._latest + usual - packet.dts
            packet.dts += self._offset
            self._latest = packet.dts
            if packet.pts is not None:
                packet.pts += self._offset
        return packet

    def reopen(self) -> None:
        """Start again at the first byte: the one seek that every container can do.

        The old container and stream are freed; whoever kept them must ask for the new ones.
        """
        self.container.close()
        self._open()

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def read_at(self, position: int, num_bytes: int) -> bytes:
        """Return bytes of the file itself; not while packets are being read from a file object."""
        return read_at(self.file, position, num_bytes)


def read_at(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    """Return up to `num_bytes` bytes at a position; fewer only at the end."""
    file.seek(position)
    return file.read(num_bytes)


@contextmanager
def open_video(file: BinaryIO, name: str, error: type[RowError]) -> Generator[Video]:
    """Open a file for reading pictures; errors of libav inside the block come out as `error`.

    Args:
        file: seekable, at any position; not closed here.
        name: what the file goes by in messages.
        error: the type of error to raise.

    Raises:
        RowError: of the type asked for, naming the file and the reason.
    """
    try:
        try:
            video = Video(file, name)
        except (av.error.FFmpegError, OSError) as found:  # a damaged header makes libav seek before byte 0
            msg = f"{name}: {_explain(file)} ({reason(found)})"
            raise error(msg) from found
        try:
            yield video
        finally:
            video.close()
    except NoVideoStreamError as found:
        msg = f"{name}: no video stream, the file holds {found}; leave it out or give the file with the pictures"
        raised = error(msg)
        if isinstance(raised, ProbeError):
            raised.status = "no_video"
        raise raised from found
    except NoDecoderError as found:
        msg = f"{name}: there is no decoder for its video codec; convert it to a usual one, such as H.264"
        raise error(msg) from found
    except av.error.FFmpegError as found:
        msg = f"{name}: {reason(found)}"
        raise error(msg) from found


def _explain(source: BinaryIO) -> str:
    """Return why a file cannot be opened as a video, judged by its bytes."""
    head = read_at(source, 0, 512)
    if not head:
        return "the file is empty (0 bytes); copy or record it again"
    if head[4:8] in MP4_BOXES:
        if "moov" not in _mp4_boxes(source):
            return (
                "an mp4 file without its index (moov): the recording or the copy was cut before it was finished;"
                " copy it again or repair it"
            )
        return "an mp4 file whose index (moov) is damaged; copy it again or repair it"
    if not any(byte < 9 or byte == 127 for byte in head) and head.isascii():
        return f"the file is text, not a video: {head[:32]!r}"
    return f"no known video format, the file begins with {head[:12]!r}; is it complete?"


def _mp4_boxes(source: BinaryIO) -> list[str]:
    """Return the names of an mp4 file's top-level boxes, 16 bytes read for each (ISO/IEC 14496-12, 4.2)."""
    names: list[str] = []
    position = 0
    while len(head := read_at(source, position, 16)) >= 8 and len(names) < MAX_BOXES:
        names.append(head[4:8].decode("latin-1"))
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0 = to the end of the file
            break
        position += length
    return names


def _contents(streams: Iterable[Stream]) -> str:
    """Return what a container without video holds, in a few words."""
    kinds = [
        "a cover picture" if stream.disposition & Disposition.attached_pic else f"{stream.type}"
        for stream in streams
    ]
    return "only " + " and ".join(dict.fromkeys(kinds)) if kinds else "no streams at all"


def reason(error: av.error.FFmpegError | OSError) -> str:
    """Return what libav says, in a few words."""
    return f"{type(error).__name__}: {error.strerror}"


def ignore_other_streams(video: Video) -> None:
    """Tell the demuxer that only the video stream is wanted, so that it need not read the others."""
    for stream in video.container.streams:
        if stream is not video.stream:
            stream.discard = Discard.all


def frame_s(stream: VideoStream) -> float:
    """Return the usual duration of a frame in seconds; 0.04 when the container does not say or says nonsense."""
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    return next((1 / rate for rate in rates if MIN_FPS <= rate <= MAX_FPS), 0.04)


def turn_deg(frame: VideoFrame) -> int:
    """Return by how many degrees clockwise a stored picture is turned to stand upright: 0, 90, 180 or 270."""
    return round(-frame.rotation / 90) % 4 * 90


def shown_size(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """Return (height_px, width_px) as displayed: upright, stored pixels of `aspect` width to height made square."""
    is_sane = aspect is not None and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT
    width_px = max(1, round(frame.width * aspect)) if aspect and is_sane else frame.width
    if turn_deg(frame) in (90, 270):
        return width_px, frame.height
    return frame.height, width_px


def fitted_size(size: FrameSize, shown: tuple[int, int]) -> tuple[int, int]:
    """Return (height_px, width_px) of frames of a video shown at a size: 1920x1080 inside 448x448 is 448x252."""
    if size.fit == "stretch":
        return size.height_px, size.width_px
    scale = min(1.0, size.height_px / shown[0], size.width_px / shown[1])
    return max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale))
