"""What is costly to get again, kept on this machine's disk: how large objects open, a network made of its weights.

The index of an mp4 file of an hour is 1.1 MB and must be read to find any picture; windows of one file are worked on
by many tasks. Files here are named by what their content depends on, the object's version say, and carry a digest, so
a stale, torn or foreign one is never used; the longest unused go when there are too many bytes. Losing the folder
costs a few requests or seconds, nothing else.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from operator import itemgetter
from pathlib import Path

Blocks = list[tuple[int, bytes]]
"""Position in the object and the bytes there, sorted, apart from each other; of what is kept whole, one at 0."""

MAX_FILE_BYTES = 32 * 2**20
MAX_FOLDER_BYTES = 2**30
LOOK_SHARE = 1 / 16
"""Share of it that a process writes before it looks again how much there is: tens of thousands of files take 0.1 s."""
LEAST_BYTES = 2**19
"""What a file counts for at least there."""
DIGEST_BYTES = 32

_left_bytes = 0
"""What may be written before the folder is looked at; the first file of a process finds out how full it is."""


def folder() -> Path | None:
    """Return the folder of this user, None when another user has taken its name or may write in it."""
    with contextlib.suppress(OSError):
        path = Path(tempfile.gettempdir()) / f"reelsift-kept-{os.getuid()}"
        with contextlib.suppress(OSError):
            path.mkdir(mode=0o700)
        status = path.lstat()
        if path.is_dir() and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return path
    return None


def load(name: str) -> Blocks:
    """Return the blocks kept under a name, none when there are none or they are not what was kept."""
    here = folder()
    if here is None:
        return []
    try:
        data = (here / name).read_bytes()
    except OSError:
        return []
    digest, kept = data[:DIGEST_BYTES], memoryview(data)[DIGEST_BYTES:]
    if digest != _digest(name, kept):
        return []
    with contextlib.suppress(OSError):
        os.utime(here / name)
    end = data.index(b"\n", DIGEST_BYTES) - DIGEST_BYTES
    blocks: Blocks = []
    at = end + 1
    for position, length in json.loads(bytes(kept[:end])):
        blocks.append((position, bytes(kept[at : at + length])))
        at += length
    return blocks


def save(name: str, blocks: Blocks) -> None:
    """Keep blocks under a name; a full disk or a foreign folder only means that they are not kept."""
    here = folder()
    if here is None or sum(len(data) for _, data in blocks) > MAX_FILE_BYTES:
        return
    places = json.dumps([(position, len(data)) for position, data in blocks]).encode()
    parts = [places, b"\n", *(data for _, data in blocks)]
    temporary = here / f"{name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with temporary.open("wb") as file:
            file.writelines([_digest(name, *parts), *parts])
        temporary.replace(here / name)
        _make_room(here, sum(map(len, parts)))
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _digest(name: str, *parts: bytes | memoryview) -> bytes:
    """Return what tells that the content is whole and belongs to this name."""
    digest = hashlib.blake2b(f"{name}\n".encode(), digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _make_room(here: Path, num_bytes: int) -> None:
    """Delete the longest unused files until the folder is small enough; looks now and then only, at each file."""
    global _left_bytes  # noqa: PLW0603
    _left_bytes -= max(num_bytes, LEAST_BYTES)
    if _left_bytes >= 0:
        return
    _left_bytes = round(MAX_FOLDER_BYTES * LOOK_SHARE)
    files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(here))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MAX_FOLDER_BYTES:
            return
        total -= size
        Path(path).unlink(missing_ok=True)


def merged(reads: Blocks) -> Blocks:
    """Return reads in order of position, those that touch or overlap as one."""
    blocks: list[tuple[int, list[bytes]]] = []
    end = -1
    for position, data in sorted(reads, key=itemgetter(0)):
        if position > end:
            blocks.append((position, [data]))
            end = position + len(data)
        elif position + len(data) > end:
            blocks[-1][1].append(data[end - position :])
            end = position + len(data)
    return [(position, b"".join(parts)) for position, parts in blocks]
