"""Probing in this process: what the decoding child does, without the child."""

import io
from pathlib import Path

from pipeline.source import probe_file


class Bucket(io.RawIOBase):
    """A file of which every read may be a request: it has no descriptor."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.position, self.num_read = data, 0, 0

    def read(self, size: int = -1) -> bytes:
        stop = len(self.data) if size < 0 else self.position + size
        found = self.data[self.position : stop]
        self.position += len(found)
        self.num_read += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {0: 0, 1: self.position, 2: len(self.data)}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def probe(path: Path) -> dict:
    """Return the columns of a local file."""
    with path.open("rb") as file:
        return probe_file(file, str(path), path.stat().st_size)


def probe_bytes(data: bytes, name: str = "a video") -> dict:
    """Return the columns of an object; larger than source.SMALL_BYTES, it is not read whole."""
    return probe_file(Bucket(data), name, len(data))
