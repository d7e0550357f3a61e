"""Where a video's bytes come from, on the worker's side of the decoding child, and how few of them are read.

    local file, object up to WHOLE_BYTES   the child gets the open file (one request for the object)
    larger object                          the child asks for what it reads, and says beforehand what it will read

For the larger ones, what opening reads is kept on disk (headers.py). A container with an index then tells, without a
request, which bytes the wanted groups of pictures are, and each run of them is one request; without an index
(mkv, ts) reading goes on in steps that grow while it is sequential. Every byte is of the version that was listed.
"""

import os
import stat
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from pipeline import headers, ranges
from pipeline.errors import RowError
from pipeline.ranges import Pinned

WHOLE_BYTES = 16 * 2**20
"""Objects up to this size are fetched in one request."""
FIRST_BYTES, MOST_BYTES = 256 * 2**10, 4 * 2**20
"""Reading without a plan: bytes of the first request after a jump, and of the largest."""
RUN_BYTES = 16 * 2**20
"""Bytes of one request of a plan."""
GAP_BYTES = 128 * 2**10
"""Runs nearer than this to each other are read in one request."""


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
        raise NotImplementedError

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
    try:
        yield origin
        origin.check()
    finally:
        origin.close()


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
        self.file = os.memfd_create("object", os.MFD_CLOEXEC)
        file = self.file
        try:
            self.num_requests = ranges.fetch(
                pinned, 0, pinned.size_bytes, lambda data: os.write(file, data), error
            )
        except BaseException:
            self.close()
            raise
        self.num_bytes = pinned.size_bytes


class LargeObject(Origin):
    """An object of which only what is needed is fetched."""

    def __init__(self, pinned: Pinned, name: str, error: type[RowError]) -> None:
        super().__init__(pinned, error)
        self._name = name
        self._header = headers.load(name)
        self._starts = [position for position, _ in self._header]
        self._reads: headers.Blocks | None = None if self._header else []
        self._runs: list[tuple[int, int]] = []
        self._fetched: deque[tuple[int, bytes]] = deque(maxlen=2)
        self._ahead = FIRST_BYTES

    def read(self, position: int, num_bytes: int) -> bytes:
        """Return bytes of the header, of what was fetched last, or of a new request."""
        data = self._known(position, num_bytes)
        if not data and position < self.pinned.size_bytes:
            self._fetch(*self._span(position))
            data = self._known(position, num_bytes)
        if self._reads is not None and data:
            self._reads.append((position, data))
        return data

    def plan(self, runs: Sequence[tuple[int, int]]) -> None:
        """Take note of the byte ranges that will be read; those near each other are joined."""
        self._runs = []
        for start, stop in sorted(runs):
            if self._runs and start - self._runs[-1][1] <= GAP_BYTES:
                self._runs[-1] = self._runs[-1][0], max(stop, self._runs[-1][1])
            else:
                self._runs.append((max(0, start), min(stop, self.pinned.size_bytes)))

    def opened(self) -> None:
        """Keep what was read until now for the next window."""
        if self._reads:
            headers.save(self._name, headers.merged(self._reads))
        self._reads = None

    def _known(self, position: int, num_bytes: int) -> bytes:
        """Return what is known of the bytes wanted, from their first on."""
        index = bisect_right(self._starts, position) - 1
        blocks = [self._header[index]] if index >= 0 else []
        for start, data in (*blocks, *self._fetched):
            if start <= position < start + len(data):
                return data[position - start : position - start + num_bytes]
        return b""

    def _span(self, position: int) -> tuple[int, int]:
        """Return what to fetch when a byte is wanted: its run of the plan, or some bytes from it on."""
        index = bisect_right(self._runs, (position, self.pinned.size_bytes)) - 1
        if index >= 0 and position < (stop := self._runs[index][1]):
            start = self._runs[index][0]
            return (start, stop) if stop - start <= RUN_BYTES else (position, min(stop, position + RUN_BYTES))
        is_sequential = any(start + len(data) == position for start, data in self._fetched)
        self._ahead = min(self._ahead * 2, MOST_BYTES) if is_sequential else FIRST_BYTES
        return position, min(position + self._ahead, self.pinned.size_bytes)

    def _fetch(self, start: int, stop: int) -> None:
        data = bytearray()
        self.num_requests += ranges.fetch(self.pinned, start, stop, data.extend, self.error)
        self.num_bytes += stop - start
        self._fetched.append((start, bytes(data)))
