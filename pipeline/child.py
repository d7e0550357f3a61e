"""The decoding child: a program that reads strangers' bytes for one worker, and can do nothing else.

It is given a socket, imports the decoder and the sampler it is told to use, gives up files, network and processes
(sandbox.py), says `ready`, and then answers one request after another until the worker lets go of it:

    probe    {name, size_bytes}                         -> probed {columns}, done {}
    sample   {..., start_s, end_s, size, policy}        -> shot {sample, shape} + pixels, ..., done {}
    look     {..., times_s, size, policy}               -> shot ..., done {}

The bytes of the video come as an open file, or piece by piece: read {position, num_bytes} -> data. What goes wrong
comes as failed {type, message, status, trace}. Messages: wire.py; the worker's side: isolation.py.
"""

import contextlib
import fcntl
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import numpy as np

from pipeline import wire
from pipeline.decode import DECODERS
from pipeline.errors import RowError
from pipeline.frames import Decoder, FrameSize, Policy, Shot
from pipeline.plugins import find
from pipeline.sampling import SAMPLERS, Look
from pipeline.sandbox import lock_down
from pipeline.source import probe_file
from pipeline.warm_up import warm_up
from pipeline.wire import Message

if TYPE_CHECKING:
    from pipeline.config import WindowConfig

Sampling = Callable[[float, float, Look], Iterator[Shot]]
"""A sampler with its settings."""

MAX_TEXT = 4000
"""Characters of an error's message or trace that the worker is told."""


class ChildFile(io.RawIOBase):
    """The video's bytes: of an open file, or asked for one read at a time."""

    def __init__(
        self, link: socket.socket, file: int | None, size_bytes: int, name: str, *, in_order: bool
    ) -> None:
        super().__init__()
        self.name = name.rpartition("/")[2]
        self.in_order = in_order
        self._link = link
        self._file = file
        self._size_bytes = size_bytes
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""
        left = self._size_bytes - self._position
        size = left if size < 0 else min(size, left)
        if size <= 0:
            return b""
        if self._file is not None:
            data = os.pread(self._file, size, self._position)
        else:
            wire.send(self._link, {"is": "read", "position": self._position, "num_bytes": size})
            data = bytes(wire.receive(self._link, most_bytes=size)[1])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the current byte."""
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the bytes; UnsupportedOperation where each read is a request."""
        if self._file is None:
            msg = "the bytes come one read at a time"
            raise io.UnsupportedOperation(msg)
        return self._file

    def opened(self) -> None:
        """Say that the container is open: what was read until now is its header."""
        if self._file is None:
            wire.send(self._link, {"is": "opened"})

    def plan(self, runs: Sequence[tuple[int, int]]) -> None:
        """Say which byte ranges will be read."""
        if self._file is None:
            wire.send(self._link, {"is": "plan", "runs": list(runs)})

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None and not self.closed:
            os.close(self._file)
        super().close()


def main() -> None:
    """Serve one worker, over the socket that the first argument names, until it closes it."""
    order = json.loads(sys.argv[1])
    end_with_worker()
    link = socket.socket(fileno=order["socket"])
    try:
        decoder = find(DECODERS, order["decoder"], "DECODERS")
        # checked by the worker; pydantic would cost each child 15 MB
        window = cast("WindowConfig", SimpleNamespace(**order["window"]))
        sampler = find(SAMPLERS, window.sampler, "SAMPLERS")
        import_whole(av)
        warm_up(decoder, sampler, window)
    except Exception as error:  # noqa: BLE001 the worker says what it was
        wire.send(link, _failure(error))
        return
    wire.send(link, {"is": "ready", "open": lock_down(order["memory_bytes"])})

    def sample(start_s: float, end_s: float, look: Look) -> Iterator[Shot]:
        return sampler(start_s, end_s, window, look)

    with contextlib.suppress(wire.GoneError):
        while True:
            request, file = wire.receive_with_file(link)
            _serve(link, decoder, sample, request, file)


def end_with_worker() -> None:
    """Let the kernel kill this process when the worker ends, whatever either of them is doing then.

    Standard input is a pipe that nothing is ever written to and whose other end only the worker holds. (The usual
    signal at the parent's death is sent when the parent's *thread* ends that started this process.)
    """
    # short of memory, the kernel should end this process, which costs one row, and not the worker
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def import_whole(package: ModuleType) -> None:
    """Import every module of a package, because some import others when they are first needed: later, none can be."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def _serve(
    link: socket.socket, decoder: Decoder, sample: Sampling, request: Message, file: int | None
) -> None:
    """Answer one request."""
    in_order = request.get("in_order", False)
    source = ChildFile(link, file, request["size_bytes"], request["name"], in_order=in_order)
    # libav needs no more than the methods above
    video = cast("BinaryIO", source)
    try:
        if request["is"] == "probe":
            columns = probe_file(video, request["name"], request["size_bytes"])
            # an index may name key pictures after the last one that can be read
            keys_s, duration_s = columns["key_times_s"], columns["duration_s"]
            columns["key_times_s"] = [key_s for key_s in keys_s if 0 <= key_s <= duration_s]
            wire.send(link, {"is": "probed", "columns": columns})
        else:
            for found, picture_HWC in _shots(decoder, sample, video, request):
                data = b"" if picture_HWC is None else np.ascontiguousarray(picture_HWC).data
                shape = None if picture_HWC is None else picture_HWC.shape
                wire.send(link, {"is": "shot", "sample": asdict(found), "shape": shape}, data)
        wire.send(link, {"is": "done"})
    except wire.GoneError:
        raise
    except Exception as error:  # noqa: BLE001 a file may lead any code astray, and costs its row only
        wire.send(link, _failure(error))
    finally:
        source.close()


def _shots(decoder: Decoder, sample: Sampling, video: BinaryIO, request: Message) -> Iterator[Shot]:
    """Yield what a request asks for."""
    size, policy = FrameSize(**request["size"]), Policy(**request["policy"])
    with decoder(video, request["name"]) as look:
        if request["is"] == "look":
            yield from look(request["times_s"], size, policy)
        else:
            yield from sample(
                request["start_s"], request["end_s"], lambda times_s: look(times_s, size, policy)
            )


def _failure(error: Exception) -> Message:
    """Return an error as a message; what is not the file's own fault keeps its trace."""
    is_expected = isinstance(error, RowError)
    return {
        "is": "failed",
        "type": type(error).__name__,
        "message": str(error)[:MAX_TEXT],
        "status": str(getattr(error, "status", "")),
        "trace": "" if is_expected else "".join(traceback.format_exception(error))[-MAX_TEXT:],
    }


if __name__ == "__main__":
    main()
