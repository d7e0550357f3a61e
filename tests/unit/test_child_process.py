"""Whatever the process at the other end of the socket says or does, its worker is told how it ended, and goes on.

The processes here are real, but run a few lines of their own in the place of pipeline/child.py: they start at once.
"""

import os
import resource
import signal
import textwrap
import time
from collections.abc import Callable

import psutil
import pytest

from pipeline import child_process, source
from pipeline.child_process import BrokenChildError, Child, FailedError, LimitError, ShortageError
from pipeline.errors import ConfigError, DecodeError
from pipeline.origin import open_origin
from pipeline.ranges import Pinned
from tests.reading import named, row

PROGRAM = """
import json, os, signal, socket, struct, sys, time
HEADER = struct.Struct("<IQ")
link = socket.socket(fileno=json.loads(sys.argv[1])["socket"])
def tell(message, num_bytes=0, data=b""):
    text = json.dumps(message).encode()
    link.sendall(HEADER.pack(len(text), num_bytes or len(data)) + text + data)
"""
READY = 'tell({"is": "ready", "open": ["all doors"]}); link.recv(2**16)'

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path, monkeypatch) -> Start:
    """Start a process that runs some lines, after it has said that it is ready and has got a request; then it stays."""
    folder = tmp_path / "program" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder.parent))

    def run(lines: str, *, timeout_s: float = 30.0, ready: str = READY) -> Child:
        (folder / "child.py").write_text(
            "\n".join([PROGRAM, ready, textwrap.dedent(lines), "time.sleep(60)"])
        )
        return Child("pyav", {}, 2**29, timeout_s)

    this = psutil.Process()
    num_open = this.num_fds()
    yield run
    assert this.num_fds() == num_open


def answers(child: Child, folder) -> list:
    """Return what it answers to a request."""
    video = named(folder, "a")
    pinned = Pinned(video["uri"], video["size_bytes"], video["etag"])
    try:
        with open_origin(pinned, "a", DecodeError) as origin:
            return list(child.answers({"is": "probe"}, origin, 1000))
    finally:
        child.close()


BREAKS = {
    "os.kill(os.getpid(), signal.SIGSEGV)": "it ended with SIGSEGV$",
    "sys.stderr.write('malloc(): corrupted top size\\n'); sys.stderr.flush(); os.abort()":
        r"it ended with SIGABRT: malloc\(\): corrupted top size",
    "sys.exit(7)": "exit code 7",
    "os._exit(0)": "exit code 0",
    "link.sendall(b'GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' * 1000)": "cannot be a message",
    "link.sendall(HEADER.pack(200_000, 0) + b'[' * 200_000)": "cannot be a message: not JSON",
    "tell([])": "cannot be a message",
    "tell({'is': ['shot']})": "cannot be a message",
    "link.sendall(HEADER.pack(2**31, 0))": "2147483648 bytes of JSON",
    "tell({'is': 'shot'}, num_bytes=3 * 2**30)": "3221225472",
    "tell({'is': 'shot'}, data=bytes(1001))": "1001",
    "tell({'is': 'read', 'position': 0, 'num_bytes': 10})": "asks for 10 bytes at 0",
    "tell({'is': 'read', 'position': -5, 'num_bytes': 5})": "asks for 5 bytes at -5",
    "tell({'is': 'read', 'position': '0', 'num_bytes': 5})": "asks for 5 bytes at '0'",
    "tell({'is': 'plan', 'runs': ['ab', 1e999]})": "no list of ranges",
    "tell({'is': 'plan', 'runs': [[0, float('inf')]]})": "no list of ranges",
    "tell({'is': 'plan'})": "no list of ranges",
    "tell({'is': 'failed', 'type': 'MemoryError', 'message': ''})": r"more than 512 MB \(--decode.memory-mb\)",
}  # fmt: skip
"""What it does, and what is said of it."""


@pytest.mark.parametrize("lines", BREAKS)
def test_how_a_child_broke_is_told(start, tmp_path, lines):
    with pytest.raises(BrokenChildError, match=BREAKS[lines]):
        answers(start(lines), tmp_path)


LATE = [
    "time.sleep(60)",
    "while True: tell({'is': 'plan', 'runs': [[0, 10]] * 1000})",
    "while True: link.sendall(b'\\1'); time.sleep(0.05)",
    "while True: os.write(2, b'a warning that nobody asked for\\n')",
]


@pytest.mark.parametrize("lines", LATE)
def test_a_child_that_takes_too_long_is_ended(start, tmp_path, lines):
    with pytest.raises(LimitError, match=r"it was ended after 0.3 s \(--decode.timeout-s\)") as caught:
        answers(start(lines, timeout_s=0.3), tmp_path)
    assert caught.value.advice == "raise --decode.timeout-s if the file is to be trusted, else leave it out"


def test_more_memory_may_be_given(start, tmp_path):
    with pytest.raises(LimitError) as caught:
        answers(start("tell({'is': 'failed', 'type': 'MemoryError', 'message': ''})"), tmp_path)
    assert "raise --decode.memory-mb" in caught.value.advice


@pytest.mark.parametrize(("kind", "limit_s"), [("probe", "0.8"), ("sample", "0.3")])
def test_a_probe_has_time_to_read_a_file_from_a_slow_disk(start, tmp_path, kind, limit_s):
    (tmp_path / "a.mp4").write_bytes(bytes(5_000_000))
    video = row(tmp_path / "a.mp4")
    child = start("", timeout_s=0.3)
    with (
        open_origin(Pinned(video["uri"], video["size_bytes"], video["etag"]), "a", DecodeError) as origin,
        pytest.raises(LimitError, match=f"it was ended after {limit_s} s"),
    ):
        list(child.answers({"is": kind}, origin, 1000))
    child.close()


def test_files_that_a_probe_does_not_read_whole_are_given_no_time_for_it():
    assert child_process.WHOLE_BYTES == source.MOST_BYTES


def test_a_child_that_somebody_killed_says_nothing_about_the_file(start, tmp_path):
    with pytest.raises(ShortageError, match="it ended with SIGKILL"):
        answers(start("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)


def test_a_connection_that_is_closed_by_a_child_that_lives_on(start, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.child_process.END_S", 0.1)
    with pytest.raises(BrokenChildError, match="it closed its connection"):
        answers(start("link.close()"), tmp_path)


def test_answers_come_with_their_bytes_until_it_is_done(start, tmp_path):
    child = start("tell({'is': 'shot', 'a': 1}, data=b'xyz'); tell({'is': 'done'})")
    assert child.open == ["all doors"]
    assert answers(child, tmp_path) == [({"is": "shot", "a": 1}, bytearray(b"xyz"))]
    assert not child.is_busy


def test_a_failure_is_text_that_can_be_stored_and_the_child_can_be_asked_again(start, tmp_path):
    child = start("""
        tell({"is": "failed", "type": "DecodeError", "message": "a lone \\ud800" + "x" * 2**20, "status": 7})
    """)
    with pytest.raises(FailedError, match="a lone") as caught:
        answers(child, tmp_path)
    assert len(str(caught.value).encode()) < 5000
    assert (caught.value.type, caught.value.status, caught.value.trace) == ("DecodeError", "7", "None")
    assert not child.is_busy


def test_standard_error_never_fills(start, tmp_path):
    line = "b'a warning that nobody asked for\\n' * 1000"
    child = start(f"for _ in range(100): os.write(2, {line})\ntell({{'is': 'done'}})")
    assert answers(child, tmp_path) == []


def test_descriptors_that_a_child_pushes_are_not_taken(start, tmp_path):
    """More than one process may have open; what is left open is seen when `start` ends."""
    child = start("""
        text = b'{"is": "opened"}'
        for _ in range(2000):
            socket.send_fds(link, [HEADER.pack(len(text), 0) + text], [0])
        tell({"is": "done"})
    """)
    assert answers(child, tmp_path) == []


def test_a_child_that_does_not_start_is_ended(start):
    with pytest.raises(BrokenChildError, match="it ended with exit code 3: no luck"):
        start("", ready="sys.stderr.write('no luck\\n'); sys.exit(3)")


def test_a_child_that_starts_too_slowly_is_the_machines_fault(start, monkeypatch):
    monkeypatch.setattr(child_process, "START_S", 0.1)
    with pytest.raises(ShortageError, match=r"not ready after 0\.1 s"):
        start("", ready="")


@pytest.mark.parametrize("more", [0, 3])
def test_no_more_processes_or_files_are_the_machines_fault(more):
    """Descriptors run out before the socket is there, or after; neither leaves one open."""
    num_open = psutil.Process().num_fds()
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, before[1]))
    try:
        with pytest.raises(ShortageError, match="Too many open files"):
            Child("pyav", {}, 2**29, 30.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert psutil.Process().num_fds() == num_open


def test_a_decoder_that_it_refuses_stops_the_run(start):
    with pytest.raises(
        ConfigError, match="decoder 'pyav' cannot be used in the decoding child: no such thing"
    ):
        start("", ready="tell({'is': 'failed', 'message': 'no such thing'})")


def test_growth_is_told_before_the_limit_is_reached(start):
    """Half of what a fresh child may still take."""
    waiting = 'signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); tell({"is": "ready", "open": []})'
    child = start("signal.sigwait([signal.SIGUSR1]); held = bytearray(2**29)", ready=waiting)
    try:
        assert not child.has_grown()
        os.kill(child.pid, signal.SIGUSR1)
        deadline_s = time.monotonic() + 30
        while not child.has_grown():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    finally:
        child.close()


def test_a_closed_child_is_gone(start):
    child = start("")
    assert not child.has_grown()
    child.close()
    assert not psutil.pid_exists(child.pid)
