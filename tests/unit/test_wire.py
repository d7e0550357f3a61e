"""Messages between two ends of a socket, whole, broken, late and too long."""

import os
import socket
import threading
import time

import psutil
import pytest

from pipeline import wire
from pipeline.wire import HEADER, GoneError, WireError


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def raw(text: bytes, num_bytes: int = 0) -> bytes:
    return HEADER.pack(len(text), num_bytes) + text


@pytest.mark.parametrize("data", [b"", b"pixels", bytes(5_000_000)])
def test_a_message_arrives_as_it_was_sent(ends, data):
    ours, theirs = ends
    message = {"is": "shot", "times_s": [0.1, float("inf")], "name": "é 日本\n", "none": None}
    sender = threading.Thread(target=wire.send, args=(theirs, message, data))
    sender.start()
    assert wire.receive(ours, deadline_s=time.monotonic() + 60) == (message, data)
    sender.join()


def test_messages_come_in_order(ends):
    ours, theirs = ends
    for number in range(10):
        wire.send(theirs, {"is": "n", "n": number}, bytes(number))
    assert [wire.receive(ours) for _ in range(10)] == [({"is": "n", "n": n}, bytes(n)) for n in range(10)]


def test_an_open_file_comes_along(ends, tmp_path):
    ours, theirs = ends
    (tmp_path / "a").write_text("content")
    with (tmp_path / "a").open() as file:
        wire.send(theirs, {"is": "probe"}, file=file.fileno())
    message, file = wire.receive_with_file(ours)
    assert message == {"is": "probe"}
    assert file is not None
    with os.fdopen(file) as received:
        assert received.read() == "content"
    wire.send(theirs, {"is": "probe"})
    assert wire.receive_with_file(ours) == ({"is": "probe"}, None)


def test_files_that_are_not_wanted_are_closed(ends):
    ours, theirs = ends
    num_open = psutil.Process().num_fds()
    for _ in range(20):
        wire.send(theirs, {"is": "probe"}, file=0)
        wire.receive(ours)
        socket.send_fds(theirs, [raw(b"no message")], [0])
        with pytest.raises(WireError):
            wire.receive_with_file(ours)
    assert psutil.Process().num_fds() == num_open


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (raw(b"[" * 200_000), "not JSON"),
        (raw(b"{"), "not JSON"),
        (raw(b"\xff\xfe"), "not JSON"),
        (raw(b'{"is": ' + b"9" * 5000 + b"}"), "not JSON"),
        (raw(b"[]"), "without a kind"),
        (raw(b"{}"), "without a kind"),
        (raw(b'{"is": ["shot"]}'), "without a kind"),
        (HEADER.pack(2**32 - 1, 0), "4294967295 bytes of JSON"),
        (HEADER.pack(2, 2**64 - 1), "expected at most"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "expected at most"),
    ],
)
def test_what_is_no_message_is_refused(ends, sent, words):
    ours, theirs = ends
    theirs.settimeout(10)
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(WireError, match=words) as caught:
        wire.receive(ours, deadline_s=time.monotonic() + 10)
    assert not isinstance(caught.value, GoneError)


def test_more_bytes_than_expected_are_refused_before_they_are_taken(ends):
    ours, theirs = ends
    held_bytes = psutil.Process().memory_info().vms
    theirs.sendall(raw(b'{"is": "shot"}', 3 * 2**30))
    with pytest.raises(WireError, match="3221225472"):
        wire.receive(ours, most_bytes=100)
    assert psutil.Process().memory_info().vms < held_bytes + 2**30


@pytest.mark.parametrize(
    "sent", [b"", raw(b'{"is": "a"}')[:5], raw(b'{"is": "a"}')[:-1], raw(b'{"is": "a"}', 5)]
)
def test_the_other_side_ends_at_any_byte(ends, sent):
    ours, theirs = ends
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(GoneError):
        wire.receive(ours)


def test_sending_to_nobody(ends):
    ours, theirs = ends
    theirs.close()
    with pytest.raises(GoneError):
        wire.send(ours, {"is": "a"}, bytes(2**20))


def test_sending_to_somebody_who_does_not_listen(ends):
    ours, _ = ends
    ours.settimeout(0.1)
    with pytest.raises(TimeoutError):
        wire.send(ours, {"is": "a"}, bytes(2**24))


def test_a_message_that_is_too_long_is_not_sent(ends):
    ours, theirs = ends
    for message, data in (({"is": "x" * wire.MAX_JSON_BYTES}, b""), ({"is": "a"}, bytes(wire.MAX_BYTES + 1))):
        with pytest.raises(ValueError, match="more than"):
            wire.send(theirs, message, data)
    wire.send(theirs, {"is": "short"})
    assert wire.receive(ours)[0] == {"is": "short"}


def test_bytes_that_drip_in_do_not_move_the_deadline(ends):
    ours, theirs = ends
    stop = threading.Event()

    def drip():
        for byte in raw(b" " * 10_000):
            theirs.sendall(bytes([byte]))
            if stop.wait(0.02):
                return

    sender = threading.Thread(target=drip)
    sender.start()
    with pytest.raises(TimeoutError):
        wire.receive(ours, deadline_s=time.monotonic() + 0.3)
    stop.set()
    sender.join()


def test_a_deadline_that_has_passed_holds_for_what_is_there_too(ends):
    ours, theirs = ends
    wire.send(theirs, {"is": "a"})
    with pytest.raises(TimeoutError):
        wire.receive(ours, deadline_s=time.monotonic())
