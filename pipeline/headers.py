"""What opening a large object reads, kept on this machine's disk: its windows then need not read it again.

The index of an mp4 file of an hour is 1.1 MB and must be read to find any picture; windows of one file are worked on
by many tasks. Files here are named by the object's version and written whole, so a stale or half one is never met;
the oldest go when there are too many bytes. Losing the folder costs a few requests, nothing else.
"""

import contextlib
import json
import os
import tempfile
import uuid
from pathlib import Path

Blocks = list[tuple[int, bytes]]
"""Position in the object and the bytes there, sorted, apart from each other."""

MAX_FILE_BYTES = 32 * 2**20
MAX_FOLDER_BYTES = 2**30


def folder() -> Path | None:
    """Return the folder of this user, None when another user has taken its name."""
    path = Path(tempfile.gettempdir()) / f"reelsift-headers-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    return path if path.is_dir() and status.st_uid == os.getuid() and not status.st_mode & 0o077 else None


def load(name: str) -> Blocks:
    """Return the blocks kept under a name, none when there are none."""
    here = folder()
    if here is None:
        return []
    try:
        with (here / name).open("rb") as file:
            lengths = json.loads(file.readline())
            return [(position, file.read(length)) for position, length in lengths]
    except OSError:
        return []


def save(name: str, blocks: Blocks) -> None:
    """Keep blocks under a name; a full disk or a foreign folder only means that they are not kept."""
    here = folder()
    if here is None or sum(len(data) for _, data in blocks) > MAX_FILE_BYTES:
        return
    temporary = here / f"{name}.{uuid.uuid4().hex[:8]}.tmp"
    with contextlib.suppress(OSError):
        with temporary.open("wb") as file:
            file.write(json.dumps([(at, len(data)) for at, data in blocks]).encode() + b"\n")
            file.writelines(data for _, data in blocks)
        temporary.replace(here / name)
        _make_room(here)


def _make_room(here: Path) -> None:
    """Delete the oldest files until the folder is small enough."""
    files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(here))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MAX_FOLDER_BYTES:
            return
        total -= size
        Path(path).unlink(missing_ok=True)


def merged(reads: Blocks) -> Blocks:
    """Return reads in order of position, those that touch or overlap as one."""
    blocks: list[tuple[int, bytearray]] = []
    for position, data in sorted(reads):
        if blocks and position <= (end := blocks[-1][0] + len(blocks[-1][1])):
            blocks[-1][1].extend(data[end - position :])
        else:
            blocks.append((position, bytearray(data)))
    return [(position, bytes(data)) for position, data in blocks]
