"""A proxy between clients and an S3 server that breaks the answers it passes on: for tests and `reelsift bench chaos`.

A connection carries one request after the other; what is asked with a `Range` is a read of an object, and each read
may be given a fault. Who wants faults elsewhere, too, is asked about every request.
"""

import contextlib
import re
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jobs.ray_start import free_ports

REQUEST = re.compile(rb"^(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP")
RANGE = re.compile(rb"^range: bytes=(\d+)-(\d+)", re.IGNORECASE | re.MULTILINE)
LENGTH = re.compile(rb"^content-length: (\d+)", re.IGNORECASE | re.MULTILINE)
CONTINUE = b"HTTP/1.1 100"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""
SLOW_BYTES, SLOW_S = 4096, 0.01


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one answer."""

    kind: Literal["reset", "close", "stall", "slow", "refusal", "lost", "unheard"]
    """reset, close = the connection ends; stall = nothing more comes; slow = it trickles; refusal = see `code`;
    lost = the connection ends and the server never hears of the request; unheard = the server does what it is asked,
    and the connection ends before its answer comes."""
    after_bytes: int = 1500
    """Of the answer, its head included, that still come through."""
    code: str = "SlowDown"
    status: int = 503
    then: Callable[[], None] = lambda: None
    """Called when the server has done what nobody hears of."""


class FaultProxy:
    """Listens on a port of its own and passes everything on to an endpoint (http://HOST:PORT)."""

    def __init__(self, endpoint: str, only: str = "") -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._upstream = host, int(port)
        self._only = only.encode()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        [self._port] = free_ports(1)
        self.reads: list[tuple[int, int]] = []
        """Byte range [start, stop) of each read of an object whose path holds `only`, in order."""
        self.num_heads = 0
        self.faults: deque[Fault | None] = deque()
        """For the reads to come, one each."""
        self.always: Fault | None = None
        """For all further reads."""
        self.before_read: Callable[[int], None] = lambda _number: None
        """Called with the number of the read, from 1 on, before it is passed on."""
        self.on_request: Callable[[str, str], Fault | None] = lambda _verb, _path: None
        """Called with every request before it is passed on; the fault it returns goes before those of reads."""
        self.accept()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def accept(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """End every connection and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for client in list(self._open):
            _reset(client)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            with client, socket.create_connection(self._upstream) as server:
                self._pass_on(client, server)
        except OSError:
            return
        finally:
            self._open.discard(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        fault: Fault | None = None
        left = 0
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(2**16)
                if not data:
                    return
                if ready is server:
                    if fault is None:
                        client.sendall(data)
                    elif not self._answer(client, data, fault, left):
                        return
                    left -= len(data)
                    continue
                if REQUEST.match(data):
                    fault = self._fault_of(data)
                    left = fault.after_bytes if fault else 0
                    if fault and fault.kind == "lost":
                        _reset(client)
                        return
                    if fault and fault.kind == "refusal":
                        _swallow_body(client, data)
                        client.sendall(_refusal(fault))
                        continue
                server.sendall(data)

    def _fault_of(self, request: bytes) -> Fault | None:
        found = REQUEST.match(request)
        assert found is not None
        verb, path = found.groups()
        if asked := self.on_request(verb.decode(), path.decode()):
            return asked
        if self._only not in path:
            return None
        self.num_heads += verb == b"HEAD"
        if verb != b"GET" or not (span := RANGE.search(request)):
            return None
        self.reads.append((int(span[1]), int(span[2]) + 1))
        self.before_read(len(self.reads))
        return self.faults.popleft() if self.faults else self.always

    def _answer(self, client: socket.socket, data: bytes, fault: Fault, left: int) -> bool:
        """Pass on a part of an answer as the fault has it; return whether the connection goes on."""
        if fault.kind == "slow":
            for start in range(0, len(data), SLOW_BYTES):
                client.sendall(data[start : start + SLOW_BYTES])
                time.sleep(SLOW_S)
            return True
        if fault.kind == "unheard":
            if data.startswith(CONTINUE):  # the server has not got the request's body yet
                client.sendall(data)
                return True
            fault.then()
            return False
        if len(data) <= left:
            client.sendall(data)
            return True
        if left > 0:
            client.sendall(data[:left])
        if fault.kind == "stall":
            return True
        if fault.kind == "reset":
            time.sleep(0.02)  # what was sent would be thrown away with the connection
            _reset(client)
        return False


def _swallow_body(client: socket.socket, begun: bytes) -> None:
    """Take what belongs to a request of which something has come, unless the client waits to be asked for it."""
    head, _, body = begun.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    left = int(length[1]) - len(body) if length and b"100-continue" not in head else 0
    while left > 0 and (data := client.recv(min(left, 2**16))):
        left -= len(data)


def _reset(client: socket.socket) -> None:
    """Let a connection end in a reset; the thread that serves it wakes up and closes it."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.shutdown(socket.SHUT_RD)


def _refusal(fault: Fault) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>said the proxy</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {fault.status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
