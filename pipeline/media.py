"""Opening a video file: where its bytes come from, which stream is the video, how its errors read.

Local files are opened by path. Objects in a store are fetched whole when small (one request), else read through
a file object with read-ahead, because a container needs its index and a few spans, not every byte.
"""

import io
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline import store
from pipeline.errors import ProbeError, RowError, StoreError
from pipeline.frames import FrameSize
from pipeline.store import open_fs

WHOLE_BYTES = 64 * 2**20
"""Objects up to this size are fetched in one request."""
READ_AHEAD_BYTES = 2**20
MIN_FPS, MAX_FPS = 0.01, 1000.0
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
MAX_BOXES = 1000
MAX_LEADING_PACKETS = 64
OPEN_OPTIONS = {"protocol_whitelist": "file"}
"""A file that is really a playlist must not make us open addresses it names."""


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

    def __init__(self, uri: str, source: "str | io.IOBase") -> None:
        self.uri = uri
        self._source = source
        self._open()
        self.tick_s = float(self.stream.time_base or 1)
        start = self.stream.start_time
        if start is None:  # a stream of one picture may leave it open
            packets = islice(self.container.demux(self.stream), MAX_LEADING_PACKETS)
            start = next((packet.pts for packet in packets if packet.pts is not None), 0)
            self.reopen()
        self.start = start

    def _open(self) -> None:
        if not isinstance(self._source, str):
            self._source.seek(0)
        self.container = av.open(self._source, "r", container_options=OPEN_OPTIONS, metadata_errors="replace")
        streams = self.container.streams
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            raise NoVideoStreamError(_contents(streams))
        self.stream = videos[0]
        self.is_fresh = True
        context: Any = self.stream.codec_context
        if context is None:
            raise NoDecoderError
        # one process per core decodes; threads inside a decoder cost CPU and memory and save none
        context.thread_type = "NONE"
        context.thread_count = 1

    def reopen(self) -> None:
        """Start again at the first byte: the one seek that every container can do.

        The old container and stream are freed; whoever kept them must ask for the new ones.
        """
        self.container.close()
        self._open()

    def close(self) -> None:
        """Close the container and the file under it."""
        self.container.close()
        if not isinstance(self._source, str):
            self._source.close()

    def read_at(self, position: int, num_bytes: int) -> bytes:
        """Return bytes of the file itself; not while packets are being read from a file object."""
        return read_at(self._source, position, num_bytes)


class CheckedFile(io.RawIOBase):
    """A file object of known size on which a short read is an error.

    Demuxers take a short read for the end of the file and stop without a word; a connection that breaks in
    the middle of an object must not look like a shorter video.
    """

    def __init__(self, file: Any, size_bytes: int) -> None:
        super().__init__()
        self._file = file
        self._size_bytes = size_bytes

    def read(self, size: int = -1, /) -> bytes:
        """Return exactly `size` bytes, fewer only at the end of the object.

        Raises:
            OSError: the store delivered fewer bytes than the object holds: it broke off, or was replaced.
        """
        position = self._file.tell()
        left = max(0, self._size_bytes - position)
        expected = left if size < 0 else min(size, left)
        data = self._file.read(expected)
        if len(data) != expected:
            msg = f"short read: {len(data)} of {expected} bytes at byte {position} of {self._size_bytes}"
            raise OSError(msg)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a byte."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the current byte."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file under it."""
        if not self.closed:
            self._file.close()
        super().close()


def open_source(uri: str) -> "str | io.IOBase":
    """Return what the demuxer reads: a local path, the bytes of a small object, or a checked file object.

    Raises:
        OSError: the object cannot be read.
    """
    if "://" not in uri:
        return uri
    fs, path = open_fs(uri)
    try:
        size_bytes = int(fs.info(path)["size"])
    except OSError as error:
        # the answer to HEAD has no body, so only a number says why: ask for a byte to learn the reason
        if store.error_code(error).isdigit():
            fs.cat_file(path, start=0, end=1)
        raise
    if size_bytes > WHOLE_BYTES:
        file = fs.open(path, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead")
        return CheckedFile(file, size_bytes)
    data = fs.cat_file(path)
    if len(data) != size_bytes:
        msg = f"short read: {len(data)} of {size_bytes} bytes"
        raise OSError(msg)
    return io.BytesIO(data)


def read_at(source: "str | io.IOBase", position: int, num_bytes: int) -> bytes:
    """Return up to `num_bytes` bytes at a position; fewer only at the end."""
    if isinstance(source, str):
        with Path(source).open("rb") as file:
            file.seek(position)
            return file.read(num_bytes)
    source.seek(position)
    return source.read(num_bytes)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def open_video(uri: str, error: type[RowError]) -> Generator[Video]:
    """Open a file for reading pictures; errors of libav and of reading inside the block come out as `error`.

    Raises:
        RowError: of the type asked for, naming the file and the reason.
        StoreError: the object store is out of reach, refuses the credentials or breaks off; that says nothing about
            the file, which must be tried again and not become a failed row.
    """
    try:
        source = open_source(uri)
        try:
            video = Video(uri, source)
        except av.error.FFmpegError as found:
            msg = f"{uri}: {_explain(source)} ({reason(found)})"
            raise error(msg) from found
        try:
            yield video
        finally:
            video.close()
    except NoVideoStreamError as found:
        msg = (
            f"{uri}: no video stream, the file holds {found}; leave it out or give the file with the pictures"
        )
        raised = error(msg)
        if isinstance(raised, ProbeError):
            raised.status = "no_video"
        raise raised from found
    except NoDecoderError as found:
        msg = f"{uri}: there is no decoder for its video codec; convert it to a usual one, such as H.264"
        raise error(msg) from found
    except av.error.FFmpegError as found:
        msg = f"{uri}: {reason(found)}"
        raise error(msg) from found
    except store.read_errors() as found:
        if store.is_outage(found, uri):
            msg = f"cannot read {uri}: {store.explain(found, uri)}; run the same command again to go on"
            raise StoreError(msg) from found
        msg = f"{uri}: cannot be read: {type(found).__name__}: {found}"
        raise error(msg) from found


def _explain(source: "str | io.IOBase") -> str:
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


def _mp4_boxes(source: "str | io.IOBase") -> list[str]:
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


def reason(error: av.error.FFmpegError) -> str:
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
    width_px = round(frame.width * aspect) if aspect else frame.width
    if turn_deg(frame) in (90, 270):
        return width_px, frame.height
    return frame.height, width_px


def fitted_size(size: FrameSize, shown: tuple[int, int]) -> tuple[int, int]:
    """Return (height_px, width_px) of frames of a video shown at a size: 1920x1080 inside 448x448 is 448x252."""
    if size.fit == "stretch":
        return size.height_px, size.width_px
    scale = min(1.0, size.height_px / shown[0], size.width_px / shown[1])
    return max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale))
