"""Messages over a Unix socket between a worker and its decoding child: JSON, some bytes, and open files.

Nothing is pickled: what comes from the child comes from a process that reads strangers' bytes. It is parsed as JSON
of bounded length and as raw bytes of at most the length that the receiver expects, before a deadline that bytes which
drip in do not move.
"""

import json
import os
import socket
import struct
import time
from typing import Any

Message = dict[str, Any]
"""JSON object; `is` says what kind of message it is."""

HEADER = struct.Struct("<IQ")
"""Bytes of JSON, and bytes that follow it."""
MAX_JSON_BYTES = 4 * 2**20
MAX_BYTES = 64 * 2**20
"""Bytes after one message: a picture of 4096 x 4096, or a piece of a video."""


class WireError(Exception):
    """What came cannot be a message."""


class GoneError(WireError):
    """The other side is gone."""


def send(link: socket.socket, message: Message, data: Any = b"", file: int | None = None) -> None:
    """Send a message with bytes and, if given, an open file.

    Raises:
        GoneError: the other side is gone.
        ValueError: it is longer than a message may be.
        TimeoutError: the other side took nothing for as long as the socket waits.
    """
    text = json.dumps(message).encode()
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    if len(text) > MAX_JSON_BYTES or len(view) > MAX_BYTES:
        msg = f"a message of {len(text)} and {len(view)} bytes, more than {MAX_JSON_BYTES} and {MAX_BYTES}"
        raise ValueError(msg)
    head = HEADER.pack(len(text), len(view)) + text
    try:
        if file is not None:
            head = head[socket.send_fds(link, [head], [file]) :]
        link.sendall(head)
        link.sendall(view)
    except TimeoutError:
        raise
    except OSError as error:
        msg = f"the other side is gone: {error}"
        raise GoneError(msg) from error


def receive(
    link: socket.socket, *, deadline_s: float | None = None, most_bytes: int = MAX_BYTES
) -> tuple[Message, bytearray]:
    """Return the next message and its bytes; open files that come with it are not taken.

    Args:
        link: the socket.
        deadline_s: time.monotonic() until which the whole message must be there; None waits for ever.
        most_bytes: bytes after the JSON that are expected at most; nothing is allocated for more.

    Raises:
        GoneError: the other side is gone.
        WireError: what came cannot be a message.
        TimeoutError: the deadline has passed.
    """
    return _body(link, bytes(_bytes(link, HEADER.size, deadline_s)), deadline_s, most_bytes)


def receive_with_file(link: socket.socket) -> tuple[Message, int | None]:
    """Return the next message and the open file that came with it, if any; wait for ever.

    Raises:
        GoneError: the other side is gone.
        WireError: what came cannot be a message.
    """
    try:
        head, files, _, _ = socket.recv_fds(link, HEADER.size, 1)
    except OSError as error:
        msg = f"the other side is gone: {error}"
        raise GoneError(msg) from error
    try:
        if not head:
            msg = "the other side is gone"
            raise GoneError(msg)
        message, _ = _body(link, head + _bytes(link, HEADER.size - len(head), None), None, 0)
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return message, files[0] if files else None


def _body(
    link: socket.socket, head: bytes, deadline_s: float | None, most_bytes: int
) -> tuple[Message, bytearray]:
    """Return the message and the bytes that a header announces."""
    num_json, num_bytes = HEADER.unpack(head)
    if num_json > MAX_JSON_BYTES or num_bytes > most_bytes:
        msg = f"{num_json} bytes of JSON and {num_bytes} others, expected at most {MAX_JSON_BYTES} and {most_bytes}"
        raise WireError(msg)
    try:
        message = json.loads(_bytes(link, num_json, deadline_s))
    except (ValueError, RecursionError) as error:
        msg = f"not JSON: {error}"
        raise WireError(msg) from error
    if not isinstance(message, dict) or not isinstance(message.get("is"), str):  # pyright: ignore[reportUnknownMemberType]
        msg = "not a message: JSON without a kind"
        raise WireError(msg)
    return message, _bytes(link, num_bytes, deadline_s)  # pyright: ignore[reportUnknownVariableType]


def _bytes(link: socket.socket, num_bytes: int, deadline_s: float | None) -> bytearray:
    """Return exactly so many bytes."""
    data = bytearray(num_bytes)
    view = memoryview(data)
    try:
        while len(view):
            if deadline_s is not None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    msg = "the deadline has passed"
                    raise TimeoutError(msg)
                link.settimeout(left_s)
            received = link.recv_into(view)
            if not received:
                msg = "the other side is gone"
                raise GoneError(msg)
            view = view[received:]
    except TimeoutError:
        raise
    except OSError as error:
        msg = f"the other side is gone: {error}"
        raise GoneError(msg) from error
    return data
