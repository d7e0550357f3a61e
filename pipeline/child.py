"""The decoding child: a program that reads strangers' bytes for one worker, and can do nothing else.

It is given a socket, imports the decoder and the sampler it is told to use, gives up files, network and processes
(sandbox.py), says `ready`, and then answers one request after another until the worker lets go of it:

    probe    {name, size_bytes}                     -> probed {columns}
    sample   {name, start_s, end_s, window, ...}    -> shot {sample, shape} + pixels, ..., done {}
    look     {name, times_s, size, policy}          -> shot ..., done {}

The bytes of the video come as an open file, or piece by piece: read {position, num_bytes} -> data. What goes wrong
comes as failed {type, message, status}. Messages: wire.py; the worker's side: isolation.py.
"""

import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import BinaryIO, cast

import av
import numpy as np

from pipeline import config, wire
from pipeline.decode import DECODERS
from pipeline.errors import RowError
from pipeline.frames import Decoder, FrameSize, Policy, Shot
from pipeline.plugins import find
from pipeline.sampling import SAMPLERS
from pipeline.sandbox import lock_down
from pipeline.source import probe_file
from pipeline.wire import Message


class ChildFile(io.RawIOBase):
    """The video's bytes: of an open file, or asked for one read at a time."""

    def __init__(self, link: socket.socket, file: int | None, size_bytes: int, name: str) -> None:
        super().__init__()
        self.name = name.rpartition("/")[2]
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
            data = bytes(wire.receive(self._link)[1])
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
    """Serve one worker, over the socket whose number is the first argument, until it closes it."""
    order = json.loads(sys.argv[1])
    link = socket.socket(fileno=order["socket"])
    try:
        decoder = find(DECODERS, order["decoder"], "DECODERS")
        find(SAMPLERS, order["sampler"], "SAMPLERS")
        import_whole(av)
    except Exception as error:  # noqa: BLE001 the worker says what it was
        wire.send(link, _failure(error))
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    wire.send(link, {"is": "ready", "open": lock_down(order["memory_bytes"])})
    while True:
        try:
            request, _, file = wire.receive(link)
        except wire.WireError:
            return
        # the worker ends what takes too long; if the worker is gone itself, this does
        signal.setitimer(signal.ITIMER_REAL, order["timeout_s"] * 2)
        _serve(link, decoder, request, file)
        signal.setitimer(signal.ITIMER_REAL, 0)


def import_whole(package: ModuleType) -> None:
    """Import every module of a package, because some import others when they are first needed: later, none can be."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def _serve(link: socket.socket, decoder: Decoder, request: Message, file: int | None) -> None:
    """Answer one request."""
    source = ChildFile(link, file, request["size_bytes"], request["name"])
    # libav needs no more than the methods above
    video = cast("BinaryIO", source)
    try:
        if request["is"] == "probe":
            columns = probe_file(video, request["name"], request["size_bytes"])
            wire.send(link, {"is": "probed", "columns": columns})
        else:
            for sample, picture_HWC in _shots(decoder, video, request):
                data = b"" if picture_HWC is None else np.ascontiguousarray(picture_HWC).data
                shape = None if picture_HWC is None else picture_HWC.shape
                wire.send(link, {"is": "shot", "sample": asdict(sample), "shape": shape}, data)
            wire.send(link, {"is": "done"})
    except wire.WireError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 a file may lead any code astray, and costs its row only
        wire.send(link, _failure(error))
    finally:
        source.close()


def _shots(decoder: Decoder, video: BinaryIO, request: Message) -> Iterator[Shot]:
    """Yield what a request asks for."""
    size, policy = FrameSize(**request["size"]), Policy(**request["policy"])
    with decoder(video, request["name"]) as look:
        if request["is"] == "look":
            yield from look(request["times_s"], size, policy)
        else:
            window = config.load_window(request["window"])
            sample = find(SAMPLERS, window.sampler, "SAMPLERS")
            yield from sample(
                request["start_s"], request["end_s"], window, lambda times_s: look(times_s, size, policy)
            )


def _failure(error: Exception) -> Message:
    """Return an error as a message; what is not the file's own fault keeps its trace."""
    is_expected = isinstance(error, RowError)
    return {
        "is": "failed",
        "type": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status", ""),
        "trace": "" if is_expected else "".join(traceback.format_exception(error)),
    }


if __name__ == "__main__":
    main()
