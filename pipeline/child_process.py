"""A running decoding child as its worker sees it: starting it, asking it, noticing how it ended.

What comes over the socket is read with a deadline and a bound on its size; that it makes sense is for those to check
who use it (isolation.py). What the child does and the messages: child.py.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import wire
from pipeline.errors import ConfigError
from pipeline.origin import Origin
from pipeline.wire import Message

START_S = 120.0
"""Longest time until a new child has imported its decoder."""
END_S = 2.0
"""How long a child that closed its socket is given to end by itself, so that the reason is known."""
WAIT_S = 6 * 3600.0
"""Longest time that a request may wait for bytes of the store, which does not count as decoding."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
"""What a child sees of the worker's environment; credentials are not among it."""
WHOLE_BYTES = 2**31
"""Files up to this size are read whole by a probe (source.py)."""
SLOWEST_DISK_BYTES_PER_S = 10**7
"""A probe that reads all of a file is given the time that a slow disk needs for it."""
SAID_BYTES = 2**16
"""The end of a child's standard error that is kept."""
MAX_TEXT = 4000
"""Characters of an error's message or trace that are believed."""
CPU_CLOCK = 2
"""Of the clocks that Linux keeps of another process, the time it ran."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Answers = Iterator[tuple[Message, bytearray]]


class BrokenChildError(Exception):
    """The child died, was ended, or says what it must not say; the message says how."""

    advice = "the file is damaged or made to do harm, leave it out"
    """What to do when a file does it again."""


class LimitError(BrokenChildError):
    """The child needs more than it was given; the message says of what."""

    def __init__(self, found: str, option: str) -> None:
        super().__init__(f"{found} ({option})")
        self.advice = f"raise {option} if the file is to be trusted, else leave it out"


class ShortageError(BrokenChildError):
    """This machine has no memory, process or time for a child, which says nothing about a file."""


class FailedError(Exception):
    """The child reports that it could not do what it was asked to; it can be asked again."""

    def __init__(self, message: Message) -> None:
        super().__init__(_text(message, "message"))
        self.type = _text(message, "type")
        self.status = _text(message, "status")
        self.trace = _text(message, "trace")


class Child:
    """A running decoding child."""

    def __init__(self, decoder: str, window: dict[str, Any], memory_bytes: int, timeout_s: float) -> None:
        """Start a child and wait until it is ready.

        Raises:
            ConfigError: the decoder or the sampler cannot be imported there.
            ShortageError: the machine has no room for it now.
            BrokenChildError: it does not start.
        """
        self.is_busy = False
        """A request is not answered to its end: the child cannot be given another."""
        self.open: list[str] = []
        """What this platform cannot take away from it."""
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._said = bytearray()
        self._limit_s = START_S
        self._last_s = self._ready_s = 0.0
        try:
            self._link, self._process = _start(
                {"decoder": decoder, "window": window, "memory_bytes": memory_bytes}
            )
        except OSError as error:
            raise ShortageError(str(error)) from error
        try:
            message, _ = self._receive(time.monotonic() + START_S, 0)
        except LimitError as late:
            self.close()
            msg = f"it was not ready after {START_S:g} s"
            raise ShortageError(msg) from late
        except BaseException:
            self.close()
            raise
        if message["is"] != "ready":
            self.close()
            msg = f"decoder {decoder!r} cannot be used in the decoding child: {message['message']}"
            raise ConfigError(msg)
        self.open = message["open"]
        self._ready_s = self._clock_s()
        self._grown_bytes = (memory_bytes + self._num_bytes()) // 2

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has taken since it was ready; 0 where the kernel does not tell."""
        return self._clock_s() - self._ready_s

    def _clock_s(self) -> float:
        with suppress(OSError):
            self._last_s = time.clock_gettime(~self.pid << 3 | CPU_CLOCK)
        return self._last_s

    def answers(self, request: Message, origin: Origin, most_bytes: int) -> Answers:
        """Send a request, serve the child's reads, and yield its answers.

        Args:
            request: without the file's name and size.
            origin: where the file's bytes come from.
            most_bytes: size of the largest picture that may come.

        Raises:
            FailedError: what the child says is wrong with the file.
            LimitError: it needs more time or memory than it was given.
            ShortageError: it was killed, and not by us.
            BrokenChildError: it died otherwise, or does not speak our language.
            RowError, StoreError: what `origin` raises.
        """
        pinned = origin.pinned
        is_read_whole = request["is"] == "probe" and origin.file is not None
        whole_bytes = pinned.size_bytes if is_read_whole and pinned.size_bytes <= WHOLE_BYTES else 0
        self._limit_s = self._timeout_s + whole_bytes / SLOWEST_DISK_BYTES_PER_S
        deadline_s = time.monotonic() + self._limit_s
        left_s = WAIT_S
        self.is_busy = True
        self._send({**request, "name": pinned.uri, "size_bytes": pinned.size_bytes}, file=origin.file)
        while True:
            message, data = self._receive(deadline_s, most_bytes)
            match message["is"]:
                case "read":
                    started_s = time.monotonic()
                    self._send({"is": "data"}, _read(origin, message))
                    waited_s = min(time.monotonic() - started_s, left_s)
                    deadline_s, left_s = deadline_s + waited_s, left_s - waited_s
                case "opened":
                    origin.opened()
                case "plan":
                    origin.plan(_runs(message, pinned.size_bytes))
                case "failed" if message.get("type") == "MemoryError":
                    msg = f"it needs more than {self._memory_bytes / 2**20:.0f} MB"
                    raise LimitError(msg, "--decode.memory-mb")
                case "failed":
                    self.is_busy = False
                    raise FailedError(message)
                case "done":
                    self.is_busy = False
                    return
                case _:
                    yield message, data

    def has_grown(self) -> bool:
        """Return whether half of the memory that it may use is gone, which the next video may need."""
        return self._num_bytes() > self._grown_bytes

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.wait()
        self.let_go()

    def let_go(self) -> None:
        """Close this process's descriptors; the child ends if no other process holds them."""
        for end in (self._link, self._process.stdin, self._process.stderr):
            if end is not None:
                end.close()

    def _num_bytes(self) -> int:
        """Return its writable memory, which its limit is counted in; 0 where the kernel does not tell."""
        with suppress(OSError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[5]) * PAGE_BYTES
        return 0

    def _send(self, message: Message, data: bytes = b"", file: int | None = None) -> None:
        try:
            self._link.settimeout(self._timeout_s)
            wire.send(self._link, message, data, file)
        except wire.GoneError as gone:
            raise self._how_it_ended() from gone
        except TimeoutError as late:
            raise self._late() from late

    def _receive(self, deadline_s: float, most_bytes: int) -> tuple[Message, bytearray]:
        """Return the next message; what the child says on standard error meanwhile is taken in, so that it never waits.

        Raises:
            BrokenChildError: it ended, nothing came before the deadline, or what came is no message.
        """
        errors = self._process.stderr
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(errors or -1, select.POLLIN)
        while True:
            left_s = deadline_s - time.monotonic()
            ready = {file for file, _ in poll.poll(max(0.0, left_s) * 1000)}
            if left_s <= 0 or not ready:
                raise self._late()
            if self._link.fileno() in ready:
                break
            if not self._listen():
                poll.unregister(errors or -1)
        try:
            return wire.receive(self._link, deadline_s=deadline_s, most_bytes=most_bytes)
        except TimeoutError as late:
            raise self._late() from late
        except wire.GoneError as gone:
            raise self._how_it_ended() from gone
        except wire.WireError as error:
            msg = f"it sent what cannot be a message: {error}"
            raise BrokenChildError(msg) from error

    def _listen(self) -> bool:
        """Keep the end of what it says on standard error; return whether it may say more."""
        said = os.read(self._process.stderr.fileno(), SAID_BYTES) if self._process.stderr else b""
        self._said = (self._said + said)[-SAID_BYTES:]
        return bool(said)

    def _late(self) -> LimitError:
        return LimitError(f"it was ended after {round(self._limit_s, 1):g} s", "--decode.timeout-s")

    def _how_it_ended(self) -> BrokenChildError:
        """Return how the child ended, with the last line that it said."""
        try:
            code = self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            return BrokenChildError("it closed its connection")
        errors = self._process.stderr
        while errors and select.select([errors], [], [], 0)[0] and self._listen():
            pass
        last = self._said.decode(errors="replace").strip().rpartition("\n")[2][-300:]
        how = f"exit code {code}"
        if code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        kind = ShortageError if code == -signal.SIGKILL else BrokenChildError
        return kind(f"it ended with {how}" + (f": {last}" if last else ""))


def _start(order: Message) -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    """Start the program; return our end of its socket, and the process.

    Raises:
        OSError: there is no memory, process or descriptor to be had.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "pipeline.child",
                    json.dumps(order | {"socket": theirs.fileno()}),
                ],
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ}
                | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
    return ours, process


def _text(message: Message, name: str) -> str:
    """Return what a message says as text that can be stored: of bounded length, without lone surrogates."""
    return str(message.get(name))[:MAX_TEXT].encode(errors="replace").decode()


def _read(origin: Origin, message: Message) -> bytes:
    """Return the bytes that a child asks for.

    Raises:
        BrokenChildError: it has the file itself, or does not ask for bytes.
    """
    position, num_bytes = message.get("position"), message.get("num_bytes")
    has_it = origin.file is not None
    if (
        has_it
        or not isinstance(position, int)
        or not isinstance(num_bytes, int)
        or min(position, num_bytes - 1) < 0
    ):
        msg = f"it asks for {num_bytes!r} bytes at {position!r}"
        raise BrokenChildError(msg[:300])
    if position >= origin.pinned.size_bytes:
        return b""
    return origin.read(position, min(num_bytes, wire.MAX_BYTES))


def _runs(message: Message, size_bytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges that a child plans to read, inside the file.

    Raises:
        BrokenChildError: they are not ranges.
    """
    try:
        runs = [(max(0, int(start)), min(size_bytes, int(stop))) for start, stop in message["runs"]]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        msg = f"it plans to read what is no list of ranges: {error}"
        raise BrokenChildError(msg[:300]) from error
    return [(start, stop) for start, stop in runs if start < stop]
