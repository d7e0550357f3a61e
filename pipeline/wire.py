"""Messages over a Unix socket between a worker and its decoding child: JSON, some bytes, and open files.

Nothing is pickled: what comes from the child comes from a process that reads strangers' bytes, and is only parsed as
numbers, strings and raw pixels of a size that the reader checks.
"""

import json
import os
import socket
import struct
from typing import Any

Message = dict[str, Any]

HEADER = struct.Struct("<IQ")
MAX_JSON_BYTES = 64 * 2**20
MAX_BYTES = 2**31
MAX_FILES = 1


class WireError(Exception):
    """The other side is gone, or sent what cannot be a message."""


def send(link: socket.socket, message: Message, data: Any = b"", file: int | None = None) -> None:
    """Send a message with bytes and, if given, an open file.

    Raises:
        WireError: the other side is gone.
    """
    text = json.dumps(message).encode()
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    head = HEADER.pack(len(text), len(view)) + text
    try:
        if file is None:
            link.sendall(head)
        else:
            sent = socket.send_fds(link, [head], [file])
            link.sendall(head[sent:])
        link.sendall(view)
    except TimeoutError:
        raise
    except OSError as error:
        msg = f"the other side is gone: {error}"
        raise WireError(msg) from error


def receive(link: socket.socket) -> tuple[Message, bytearray, int | None]:
    """Return the next message, its bytes, and the open file that came with it.

    Raises:
        WireError: the other side is gone, or sent what cannot be a message.
        TimeoutError: nothing came for as long as the socket waits.
    """
    head, files = bytearray(), list[int]()
    try:
        data, files, _, _ = socket.recv_fds(link, HEADER.size, MAX_FILES)
        if not data:
            msg = "the other side is gone"
            raise WireError(msg)
        head += data
        head += _receive_bytes(link, HEADER.size - len(head))
        num_json, num_bytes = HEADER.unpack(head)
        if num_json > MAX_JSON_BYTES or num_bytes > MAX_BYTES:
            msg = f"a message of {num_json} and {num_bytes} bytes is none of ours"
            raise WireError(msg)
        message = json.loads(bytes(_receive_bytes(link, num_json)))
        return message, _receive_bytes(link, num_bytes), files[0] if files else None
    except BaseException as error:
        for file in files:
            os.close(file)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            msg = f"the other side is gone: {error}"
            raise WireError(msg) from error
        if isinstance(error, ValueError):
            msg = f"not a message: {error}"
            raise WireError(msg) from error
        raise


def _receive_bytes(link: socket.socket, num_bytes: int) -> bytearray:
    """Return exactly so many bytes."""
    data = bytearray(num_bytes)
    view = memoryview(data)
    while len(view):
        received = link.recv_into(view)
        if not received:
            msg = "the other side is gone in the middle of a message"
            raise WireError(msg)
        view = view[received:]
    return data
