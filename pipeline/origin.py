"""Where a video's bytes come from, on the worker's side of the decoding child, and how few of them are read.

    local file, object up to WHOLE_BYTES   the child gets the open file (one request for the object)
    larger object                          the child asks for what it reads, and says beforehand what it will read

For the larger ones, what opening reads is kept on disk (kept.py). A container with an index then tells, without a
request, which bytes the wanted groups of pictures are, and each run of them is one request; without an index
(mkv, ts) reading goes on in steps that grow while it stays near. Every byte is of the version that was listed.
"""

import os
import stat
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter

from pipeline import kept, ranges
from pipeline.errors import RowError
from pipeline.ranges import Pinned

WHOLE_BYTES = 16 * 2**20
"""Objects up to this size are fetched in one request."""
MOST_BYTES = 16 * 2**20
"""Bytes of the largest request."""
GAP_BYTES = 512 * 2**10
"""Runs nearer than this to each other are read in one request: it takes longer to ask than to read that much."""
FIRST_BYTES = 256 * 2**10
"""Reading without a plan: bytes of the first request after a jump; the next are larger while reading stays as near."""
OPENING_READ_BYTES = 8 * 2**10
"""A container that is being opened is given no more after a jump, so that little but what it needs is kept."""
MAX_OPENING_READS = 4096
"""After so many, or kept.MAX_FILE_BYTES, what opening reads is kept no longer."""
MOST_READS = 8
"""Times that a file may be read over for one answer: a search of its end and a pass from its beginning take 3."""
SPARE_BYTES = 256 * 2**20
"""What may be read on top of that."""
OPENING_JUMP_BYTES = 4 * 2**20
"""Opening a fragmented mp4 file jumps from fragment to fragment; shorter jumps are read over, in growing requests.
An index at the end that is shorter is read in one request."""


class Origin:
    """One version of a file or object, open for reading."""

    file: int | None = None
    """A descriptor with all of it, if there is one."""

    def __init__(self, pinned: Pinned, error: type[RowError]) -> None:
        self.pinned = pinned
        self.error = error
        self.num_requests = 0
        self.num_bytes = 0

    def read(self, position: int, num_bytes: int) -> bytes:
        """Return at least one and at most `num_bytes` bytes, none at the end."""
        return b"" if self.file is None else os.pread(self.file, num_bytes, position)

    def plan(self, runs: Sequence[tuple[int, int]]) -> None:
        """Take note of the byte ranges [start, stop) that will be read."""

    def opened(self) -> None:
        """Take note that the container is open: what was read until now is its header."""

    def check(self) -> None:
        """Raise when the file is no longer the one that was listed."""

    def close(self) -> None:
        """Let go of it."""
        if self.file is not None:
            os.close(self.file)


@contextmanager
def open_origin(pinned: Pinned, name: str, error: type[RowError]) -> Generator[Origin]:
    """Open one version of a file or object.

    Args:
        pinned: what was listed.
        name: under which its header is kept; different for every version.
        error: type of the error that says that it cannot be read.

    Raises:
        RowError: of the type asked for: it is gone, was replaced, or cannot be read by this user.
        StoreError: the object store is out of reach.
    """
    if "://" not in pinned.uri:
        origin: Origin = LocalFile(pinned, error)
    elif pinned.size_bytes <= WHOLE_BYTES:
        origin = SmallObject(pinned, error)
    else:
        origin = LargeObject(pinned, name, error)
    with closing(origin):
        try:
            yield origin
        finally:
            # what was read of a file that changed meanwhile is no result, and what went wrong with it no finding
            origin.check()


class LocalFile(Origin):
    """A file on a disk."""

    def __init__(self, pinned: Pinned, error: type[RowError]) -> None:
        super().__init__(pinned, error)
        try:
            self.file = os.open(pinned.uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self.check()
        except FileNotFoundError as found:
            msg = f"{pinned.uri} was there when it was listed and is gone now; run again to leave it out"
            raise error(msg) from found
        except OSError as found:
            msg = f"{pinned.uri}: cannot be read: {found.strerror}"
            raise error(msg) from found
        except RowError:
            self.close()
            raise

    def check(self) -> None:
        """Raise when the file's size or time differ from what was listed."""
        status = os.fstat(self.file or 0)
        if not stat.S_ISREG(status.st_mode):
            msg = f"{self.pinned.uri}: not a file with content (mode {status.st_mode:o}); leave it out"
            raise self.error(msg)
        if (status.st_size, str(status.st_mtime_ns)) != (self.pinned.size_bytes, self.pinned.etag):
            msg = f"{self.pinned.uri} has changed since it was listed; run again to answer on the new version"
            raise self.error(msg)


class SmallObject(Origin):
    """An object fetched whole, into memory that has a descriptor."""

    def __init__(self, pinned: Pinned, error: type[RowError]) -> None:
        super().__init__(pinned, error)
        # a fetch that is broken off may still write: to a closed file, not to a number that is another's by then
        self._memory = os.fdopen(os.memfd_create("object", os.MFD_CLOEXEC), "wb", buffering=0)
        self.file = self._memory.fileno()
        try:
            self.num_requests = ranges.fetch(pinned, 0, pinned.size_bytes, self._memory.write, error)
        except BaseException:
            self.close()
            raise
        self.num_bytes = pinned.size_bytes

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class LargeObject(Origin):
    """An object of which only what is needed is fetched."""

    def __init__(self, pinned: Pinned, name: str, error: type[RowError]) -> None:
        super().__init__(pinned, error)
        self._name = name
        self._header = kept.load(name)
        self._is_opening = True
        self._new: kept.Blocks = []
        """What opening read."""
        self._room_bytes = kept.MAX_FILE_BYTES - sum(len(data) for _, data in self._header)
        """What may still be kept."""
        self._spent_bytes = 0
        """What was fetched, a request counted as FIRST_BYTES at least."""
        self._read_to = 0
        self._runs: list[tuple[int, int]] = []
        self._pieces: deque[tuple[int, bytes]] = deque(maxlen=2)
        """What was fetched last."""
        self._ahead_bytes = FIRST_BYTES

    def read(self, position: int, num_bytes: int) -> bytes:
        """Return bytes of the header, of what was fetched last, or of a new request."""
        if not 0 <= position < self.pinned.size_bytes or num_bytes <= 0:
            return b""
        if self._is_opening and position != self._read_to:
            num_bytes = min(num_bytes, OPENING_READ_BYTES)
        index = bisect_right(self._header, position, key=itemgetter(0)) - 1
        data = _cut(self._header[max(0, index) : index + 1], position, num_bytes)
        if not data:
            data = _cut(self._pieces, position, num_bytes)
            if not data:
                self._fetch(*(self._run(position) or self._span(position)))
                data = _cut(self._pieces, position, num_bytes)
            self._note(position, data)
        self._read_to = position + len(data)
        return data

    def _note(self, position: int, data: bytes) -> None:
        """Remember what opening reads, as far as it can be kept."""
        if self._is_opening and len(self._new) < MAX_OPENING_READS and len(data) <= self._room_bytes:
            self._new.append((position, data))
            self._room_bytes -= len(data)

    def plan(self, runs: Sequence[tuple[int, int]]) -> None:
        """Take note of the byte ranges that will be read; those near each other are joined."""
        self._runs = []
        for start, stop in sorted((max(0, start), min(stop, self.pinned.size_bytes)) for start, stop in runs):
            if self._runs and start - self._runs[-1][1] <= GAP_BYTES:
                self._runs[-1] = self._runs[-1][0], max(stop, self._runs[-1][1])
            else:
                self._runs.append((start, stop))

    def opened(self) -> None:
        """Keep what was read until now for the next window."""
        self._is_opening = False
        self._ahead_bytes = FIRST_BYTES
        if self._new:
            self._header = kept.merged([*self._header, *self._new])
            self._new = []  # held twice no longer than needed
            kept.save(self._name, self._header)

    def _run(self, position: int) -> tuple[int, int] | None:
        """Return the run of the plan that holds a byte, or as much of it as one request may have."""
        index = bisect_right(self._runs, position, key=itemgetter(0)) - 1
        if index < 0 or position >= self._runs[index][1]:
            return None
        start, stop = self._runs[index]
        return (start, stop) if stop - start <= MOST_BYTES else (position, min(stop, position + MOST_BYTES))

    def _span(self, position: int) -> tuple[int, int]:
        """Return what to fetch when nothing is known but the byte that is wanted next.

        Reading goes on forwards; transport streams, which have no index, are searched in short steps backwards.
        """
        size_bytes = self.pinned.size_bytes
        near_bytes, growth = (OPENING_JUMP_BYTES, 4) if self._is_opening else (FIRST_BYTES, 2)
        follows = any(0 <= position - start - len(data) <= near_bytes for start, data in self._pieces)
        later = [start for start, _ in self._pieces if 0 < start - position <= FIRST_BYTES]
        self._ahead_bytes = min(self._ahead_bytes * growth, MOST_BYTES) if follows or later else FIRST_BYTES
        if later and not follows:
            return max(0, position - self._ahead_bytes // growth), min(later)
        if self._is_opening and not follows and size_bytes - position <= OPENING_JUMP_BYTES:
            return position, size_bytes
        return position, min(position + self._ahead_bytes, size_bytes)

    def _fetch(self, start: int, stop: int) -> None:
        most_bytes = MOST_READS * self.pinned.size_bytes + SPARE_BYTES
        self._spent_bytes += max(stop - start, FIRST_BYTES)
        if self._spent_bytes > most_bytes:
            msg = (
                f"{self.pinned.uri}: reading it goes in circles: {self.num_bytes} bytes in {self.num_requests} requests"
                f" for one answer, of a file of {self.pinned.size_bytes}; its index is damaged, write the file anew or"
                " leave it out"
            )
            raise self.error(msg)
        received = bytearray()
        self.num_requests += ranges.fetch(self.pinned, start, stop, received.extend, self.error)
        self.num_bytes += stop - start
        piece = start, bytes(received)
        self._pieces.append(piece)
        # mkv files have their index at the end, and read it after opening
        if not self._runs and stop == self.pinned.size_bytes and stop - start <= FIRST_BYTES:
            self._room_bytes -= stop - start
            self._header = kept.merged([*self._header, piece])
            kept.save(self._name, self._header)


def _cut(blocks: Iterable[tuple[int, bytes]], position: int, num_bytes: int) -> bytes:
    """Return the bytes from a position on that one of these blocks has; none when none has."""
    for start, data in blocks:
        if start <= position < start + len(data):
            return data[position - start : position - start + num_bytes]
    return b""
