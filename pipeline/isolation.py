"""Reading videos in a child process: what a file does to its decoder costs one row, never the worker.

Each worker keeps one child (child.py) and hands it the bytes of one video after the other. The child has a memory
limit, and from its first foreign byte on neither files, network nor other processes; the worker keeps the
credentials, reads the store, and ends a child that takes too long. A child that dies or hangs is replaced and the
video tried once more; the second time it is put in quarantine. So Ray never sees a worker die of a video, which it
would answer by trying it again for ever.
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline import quarantine, wire
from pipeline.config import MAX_FRAMES, DecodeConfig, WindowConfig
from pipeline.errors import ConfigError, DecodeError, ProbeError, RowError
from pipeline.frames import Frames, FrameSize, Policy, Sample, Shot, gather
from pipeline.origin import Origin, open_origin
from pipeline.ranges import Pinned
from pipeline.rows import Row
from pipeline.wire import Message

logger = logging.getLogger(__name__)

TRIES = 2
"""Times a video may break its decoder."""
START_S = 120.0
"""Longest time until a new child has imported its decoder."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "SYSTEMROOT")
"""What a child sees of the worker's environment; credentials are not among it."""


Answers = Iterator[tuple[Message, bytearray]]
Collected = TypeVar("Collected")


class BrokenChildError(Exception):
    """The child died or was ended; the message says how."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How the videos of a job are read: plain values, shipped to the stages."""

    config: DecodeConfig
    window: WindowConfig
    quarantine: str = ""
    """Folder of the run in which videos are written down that are not opened again."""

    def probe(self, file: Row) -> Row:
        """Return the probe columns of rows.VIDEOS for one rows.FILE row.

        Raises:
            ProbeError: nothing in the file can be decoded, or it breaks the decoder.
            StoreError: the object store is out of reach.
        """
        columns, _ = self._ask(file, {"is": "probe"}, ProbeError, lambda answers: next(answers)[0]["columns"])
        return columns

    def sample(self, window: Row, size: FrameSize, policy: Policy) -> tuple[Frames, Origin]:
        """Return the pictures that the sampler chooses of a rows.WINDOW row, and where they were read from.

        Raises:
            DecodeError: the video is gone, changed, or breaks the decoder.
            StoreError: the object store is out of reach.
        """
        request = {
            "is": "sample",
            "start_s": window["start_s"],
            "end_s": window["end_s"],
            "window": asdict(self.window),
            "size": asdict(size),
            "policy": asdict(policy),
        }
        return self._ask(window, request, DecodeError, lambda answers: gather(_shots(answers), MAX_FRAMES))

    def look(self, video: Row, times_s: Sequence[float], size: FrameSize) -> tuple[Frames, Origin]:
        """Return the pictures shown at given times of a rows.WINDOW row, and where they were read from.

        Raises:
            DecodeError: the video is gone, changed, or breaks the decoder.
            StoreError: the object store is out of reach.
        """
        times_s = sorted(set(times_s))
        request = {"is": "look", "times_s": times_s, "size": asdict(size), "policy": asdict(Policy())}
        return self._ask(video, request, DecodeError, lambda answers: gather(_shots(answers), len(times_s)))

    def _ask(
        self, file: Row, request: Message, error: type[RowError], collect: Callable[[Answers], Collected]
    ) -> tuple[Collected, Origin]:
        """Return what `collect` makes of the child's answers; a child that breaks is replaced, twice at most."""
        uri, name = file["uri"], f"{file['video_id']}-{file['version']}"
        if why := quarantine.reason(self.quarantine, name):
            msg = f"{uri}: not opened again in this run, {why}"
            raise error(msg)
        why = ""
        for _ in range(TRIES):
            with open_origin(Pinned(uri, file["size_bytes"], file["etag"]), name, error) as origin:
                child = _child_of(self)
                try:
                    return collect(child.answers(request, origin, error)), origin
                except (BrokenChildError, ValueError, KeyError, TypeError) as broken:
                    why = str(broken)
                    logger.warning("%s: %s", uri, why)
                finally:
                    if child.is_busy:
                        drop_child()
        quarantine.add(self.quarantine, name, f"its decoder broke {TRIES} times: {why}")
        msg = f"{uri}: broke its decoder {TRIES} times, {why}; the file is damaged or made to do harm, leave it out"
        raise error(msg)


def _shots(answers: Answers) -> Iterator[Shot]:
    """Yield what a child sends as shots."""
    for message, data in answers:
        sample, shape = Sample(**message["sample"]), message["shape"]
        yield sample, None if shape is None else np.frombuffer(data, np.uint8).reshape(shape)


class Child:
    """A running decoding child."""

    def __init__(self, decoder: str, sampler: str, memory_bytes: int, timeout_s: float) -> None:
        self.is_busy = False
        """A request is not answered to its end: the child cannot be given another."""
        self._timeout_s = timeout_s
        self._link, theirs = socket.socketpair()
        self._errors, errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        order = {
            "socket": theirs.fileno(), "decoder": decoder, "sampler": sampler,
            "memory_bytes": memory_bytes, "timeout_s": timeout_s,
        }  # fmt: skip
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.child", json.dumps(order)],
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ}
            | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        os.close(errors)
        message, _ = self._receive(time.monotonic() + START_S)
        if message["is"] != "ready":
            self.close()
            msg = f"decoder {decoder!r} cannot be used in the decoding child: {message['message']}"
            raise ConfigError(msg)
        for line in message["open"]:
            logger.warning("decoding is less isolated than it should be: %s", line)

    def answers(self, request: Message, origin: Origin, error: type[RowError]) -> Answers:
        """Send a request, serve the child's reads, and yield its answers.

        Raises:
            RowError: what the child says is wrong with the file, as `error` where it is unexpected.
            BrokenChildError: it died, was ended because it took too long, or does not speak our language.
        """
        deadline = time.monotonic() + self._timeout_s
        pinned = origin.pinned
        request = {**request, "name": pinned.uri, "size_bytes": pinned.size_bytes}
        self.is_busy = True
        self._send(request, file=origin.file)
        while True:
            message, data = self._receive(deadline)
            match message["is"]:
                case "read":
                    started = time.monotonic()
                    found = origin.read(int(message["position"]), int(message["num_bytes"]))
                    deadline += time.monotonic() - started
                    self._send({"is": "data"}, found)
                case "opened":
                    origin.opened()
                case "plan":
                    origin.plan([(int(start), int(stop)) for start, stop in message["runs"]])
                case "failed":
                    self.is_busy = False
                    raise _error_of(message, pinned.uri, error)
                case "done":
                    self.is_busy = False
                    return
                case "probed":
                    self.is_busy = False
                    yield message, data
                    return
                case _:
                    yield message, data

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.wait()
        self._link.close()
        with contextlib.suppress(OSError):
            os.close(self._errors)

    def _send(self, message: Message, data: bytes = b"", file: int | None = None) -> None:
        try:
            self._link.settimeout(self._timeout_s)
            wire.send(self._link, message, data, file)
        except (wire.WireError, TimeoutError) as gone:
            raise BrokenChildError(self._how_it_ended()) from gone

    def _receive(self, deadline: float) -> tuple[Message, bytearray]:
        try:
            self._link.settimeout(max(0.001, deadline - time.monotonic()))
            message, data, file = wire.receive(self._link)
        except TimeoutError as late:
            msg = f"it was ended after {self._timeout_s:g} s (--decode.timeout-s)"
            raise BrokenChildError(msg) from late
        except wire.WireError as gone:
            raise BrokenChildError(self._how_it_ended()) from gone
        if file is not None:
            os.close(file)
        return message, data

    def _how_it_ended(self) -> str:
        """Return how the child died, with the last thing it said."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it stopped talking"
        said = ""
        with contextlib.suppress(OSError):
            said = os.read(self._errors, 2**16).decode(errors="replace").strip().rpartition("\n")[2]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"it ended with {how}" + (f": {said[-300:]}" if said else "")


def _error_of(message: Message, uri: str, error: type[RowError]) -> Exception:
    """Return what a child reports as an error of this process.

    A file may lead our own code astray, too; that costs its row and is told with its trace.
    """
    kinds: dict[str, type[RowError]] = {"ProbeError": ProbeError, "DecodeError": DecodeError}
    kind = kinds.get(message["type"])
    if kind is None:
        logger.error("%s: unexpected error in the decoding child\n%s", uri, message["trace"])
        text = f"{uri}: unexpected {message['type']} while reading ({message['message']}); please report it"
        return error(text)
    found = kind(message["message"])
    if isinstance(found, ProbeError):
        found.status = "no_video" if message["status"] == "no_video" else "unreadable"
    return found


_current: "tuple[tuple[str, str, int, float], Child] | None" = None


def _child_of(reader: Reader) -> Child:
    """Return this process's child, a new one if there is none or it serves other settings."""
    global _current  # noqa: PLW0603
    config = reader.config
    key = (config.decoder, reader.window.sampler, config.memory_mb * 2**20, config.timeout_s)
    if _current is None or _current[0] != key:
        drop_child()
        _current = key, Child(*key)
    return _current[1]


def drop_child() -> None:
    """End this process's child, if it has one."""
    global _current  # noqa: PLW0603
    if _current is not None:
        _current[1].close()
        _current = None


atexit.register(drop_child)
