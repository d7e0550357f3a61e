"""Reading through the decoding child, with decoders that do what a hostile file could make one do."""

from pathlib import Path

import numpy as np
import psutil

from pipeline.config import DecodeConfig, WindowConfig
from pipeline.frames import FrameSize
from pipeline.isolation import Reader

SIZE = FrameSize(96, 160)


def reader(decoder="by_name", *, timeout_s=30.0, memory_mb=512, folder="") -> Reader:
    config = DecodeConfig(
        decoder=f"tests.hostile_decoders:{decoder}", timeout_s=timeout_s, memory_mb=memory_mb
    )
    return Reader(config, WindowConfig(), str(folder))


def row(path: Path) -> dict:
    """A rows.WINDOW row as far as it is needed to read from it."""
    status = path.stat()
    return {
        "uri": str(path), "video_id": path.stem, "version": "1", "size_bytes": status.st_size,
        "etag": str(status.st_mtime_ns), "start_s": 0.0, "end_s": 3.0,
    }  # fmt: skip


def named(folder: Path, kind: str) -> dict:
    """A file that does not matter, but for its name."""
    path = folder / f"{kind}.mp4"
    path.write_bytes(b"\0" * 2**16)
    return row(path)


def look(reader: Reader, window: dict) -> np.ndarray:
    return reader.look(window, [0.0, 1.0, 2.0], SIZE)[0].data_NHWC


def children() -> list[psutil.Process]:
    """The decoding children of this process."""
    return [process for process in psutil.Process().children() if _decodes(process)]


def _decodes(process: psutil.Process) -> bool:
    """Whether it is a decoding child; one that has just ended is none."""
    try:
        return "pipeline.child" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def is_locked(process: psutil.Process) -> bool:
    """Whether it has given everything up, which it does right before its first request."""
    try:
        return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
