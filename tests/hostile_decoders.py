"""Decoders that do what a broken or hostile file could make one do. Each runs in the decoding child."""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NoReturn

import numpy as np

from pipeline.errors import DecodeError
from pipeline.frames import Decoder, FrameSize, LookFn, Policy, Sample, Shot

HEADER = struct.Struct("<IQ")


def white(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
    """Look at pictures that are all white."""
    del policy
    for time_s in times_s:
        yield (
            Sample(time_s, time_s, 0.0, is_key=True, quality="ok", reason=""),
            np.full((size.height_px, size.width_px, 3), 255, np.uint8),
        )


def after_warm_up(hostile: Decoder) -> Decoder:
    """Return a decoder that does no harm to the video that it is tried on before files are out of reach."""

    @contextmanager
    def open_video(file: BinaryIO, name: str) -> Iterator[LookFn]:
        if name == "warm-up.mp4":
            yield white
            return
        with hostile(file, name) as look:
            yield look

    return open_video


def decoder(act: Callable[[], object]) -> Decoder:
    """Return a decoder that does something in the place of opening the video."""

    @after_warm_up
    @contextmanager
    def open_hostile(file: BinaryIO, name: str) -> Iterator[LookFn]:
        del file, name
        act()
        yield white

    return open_hostile


def link() -> socket.socket:
    """Return the socket to the worker; closing it closes a copy."""
    return socket.socket(fileno=os.dup(json.loads(sys.argv[1])["socket"]))


def tell(message: dict, num_bytes: int = 0, data: bytes = b"") -> None:
    """Send a message of any kind."""
    text = json.dumps(message).encode()
    link().sendall(HEADER.pack(len(text), num_bytes or len(data)) + text + data)


def shot(**changes: object) -> dict:
    """Return a message with a sample."""
    sample = {"wanted_s": 0.0, "pts_s": 0.0, "off_s": 0.0, "is_key": True, "quality": "ok", "reason": ""}
    return {"is": "shot", "sample": {**sample, **changes}, "shape": [96, 160, 3]}


PIXELS = bytes(96 * 160 * 3)


def _segfault() -> None:
    ctypes.string_at(0)


def _abort() -> NoReturn:
    sys.stderr.write("malloc(): corrupted top size\n")
    sys.stderr.flush()
    os.abort()


def _loop() -> NoReturn:
    while True:
        pass


def _sleep() -> NoReturn:
    while True:
        time.sleep(60)


def _hold_the_lock() -> None:
    """Stay in foreign code without giving up the interpreter's lock, and without minding signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(3600)


def _fill_memory() -> NoReturn:
    held = []
    while True:
        held.append(np.ones(2**20, np.uint8))


def _fork() -> NoReturn:
    while True:
        os.fork()


def _start_threads() -> NoReturn:
    while True:
        threading.Thread(target=_sleep, daemon=True).start()


def _close_socket() -> NoReturn:
    os.close(json.loads(sys.argv[1])["socket"])
    _sleep()


def _garbage() -> NoReturn:
    link().sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    _sleep()


def _drip() -> NoReturn:
    """Send a message slower than any deadline, one byte at a time."""
    open_link = link()
    for byte in HEADER.pack(2**20, 0) + b" " * 2**20:
        open_link.sendall(bytes([byte]))
        time.sleep(0.05)
    _sleep()


def _endless() -> NoReturn:
    while True:
        tell(shot(), data=PIXELS)


def _endless_plans() -> NoReturn:
    while True:
        tell({"is": "plan", "runs": [[0, 10]] * 1000})


def _endless_reads() -> NoReturn:
    open_link = link()
    while True:
        tell({"is": "read", "position": 0, "num_bytes": 2**20})
        open_link.recv(2**21)


def _flood_errors() -> None:
    line = b"a warning that nobody asked for\n" * 1000
    for _ in range(300):
        os.write(2, line)


def _pass_file() -> None:
    """Push a descriptor to the worker, more often than it can have open."""
    for _ in range(2000):
        text = b'{"is": "opened"}'
        socket.send_fds(link(), [HEADER.pack(len(text), 0) + text], [0])


def _report(found: str) -> NoReturn:
    raise DecodeError(found)


def _connect() -> None:
    try:
        socket.socket().connect(("127.0.0.1", 9))
    except OSError as error:
        _report(f"connect: {type(error).__name__}")


def _read_file() -> None:
    found = []
    for path in ("/etc/passwd", f"/proc/{os.getppid()}/environ", "/proc/self/environ"):
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                found.append(file.read().decode(errors="replace"))
        except OSError as error:
            found.append(type(error).__name__)
    _report(f"read: {found}")


def _write_file() -> None:
    try:
        with open("/tmp/written-by-a-decoder", "wb") as file:  # noqa: PTH123
            file.write(b"x")
    except OSError as error:
        _report(f"write: {type(error).__name__}")


def _start_program() -> None:
    try:
        os.system("true")  # noqa: S605
        os.execv("/bin/true", ["true"])
    except OSError as error:
        _report(f"exec: {type(error).__name__}")


def _kill_worker() -> None:
    try:
        os.kill(os.getppid(), signal.SIGKILL)
    except OSError as error:
        _report(f"kill: {type(error).__name__}")


def _tell_environment() -> None:
    _report(f"environ: {dict(os.environ)} argv: {sys.argv}")


def _mistake() -> None:
    [].pop()


good = good_too = decoder(lambda: None)
segfault = decoder(_segfault)
abort = decoder(_abort)
loop = decoder(_loop)
sleep = decoder(_sleep)
hold_the_lock = decoder(_hold_the_lock)
fill_memory = decoder(_fill_memory)
fork = decoder(_fork)
start_threads = decoder(_start_threads)
leave = decoder(lambda: sys.exit(7))
leave_at_once = decoder(lambda: os._exit(0))
close_socket = decoder(_close_socket)
garbage = decoder(_garbage)
drip = decoder(_drip)
deep_json = decoder(lambda: link().sendall(HEADER.pack(200_000, 0) + b"[" * 200_000))
no_object = decoder(lambda: tell([]))  # type: ignore[arg-type]
no_kind = decoder(lambda: tell({"is": ["shot"]}))
unknown_kind = decoder(lambda: tell({"is": "shout"}))
long_json = decoder(lambda: (link().sendall(HEADER.pack(2**31, 0)), _sleep()))
three_gb = decoder(lambda: (tell(shot(), num_bytes=3 * 2**30), _sleep()))
wrong_shape = decoder(lambda: tell(shot() | {"shape": [96, 161, 3]}, data=PIXELS))
short_pixels = decoder(lambda: tell(shot(), data=PIXELS[:-1]))
shape_of_text = decoder(lambda: tell(shot() | {"shape": "abc"}, data=PIXELS))
negative_shape = decoder(lambda: tell(shot() | {"shape": [-1, 160, 3]}, data=PIXELS))
no_time = decoder(lambda: tell(shot(pts_s=float("nan")), data=PIXELS))
time_of_text = decoder(lambda: tell(shot(pts_s="soon"), data=PIXELS))
unknown_quality = decoder(lambda: tell(shot(quality="great"), data=PIXELS))
times_go_back = decoder(lambda: (tell(shot(pts_s=2.0), data=PIXELS), tell(shot(pts_s=1.0), data=PIXELS)))
endless = decoder(_endless)
endless_plans = decoder(_endless_plans)
endless_reads = decoder(_endless_reads)
negative_read = decoder(lambda: (tell({"is": "read", "position": -5, "num_bytes": 5}), _sleep()))
read_of_text = decoder(lambda: (tell({"is": "read", "position": "0", "num_bytes": 5}), _sleep()))
plan_of_text = decoder(lambda: (tell({"is": "plan", "runs": ["ab", 1e999]}), _sleep()))
flood_errors = decoder(_flood_errors)
pass_file = decoder(_pass_file)
connect = decoder(_connect)
read_file = decoder(_read_file)
write_file = decoder(_write_file)
start_program = decoder(_start_program)
kill_worker = decoder(_kill_worker)
tell_environment = decoder(_tell_environment)
mistake = decoder(_mistake)
surrogates = decoder(
    lambda: tell({"is": "failed", "type": "DecodeError", "message": "a lone \ud800" + "x" * 2**20})
)


_held: list[np.ndarray] = []
_opened: list[str] = []


@after_warm_up
@contextmanager
def leak(file: BinaryIO, name: str) -> Iterator[LookFn]:
    """Keep 20 MB of every video for ever."""
    del file, name
    _held.append(np.ones(20 * 2**20, np.uint8))
    yield white


@after_warm_up
@contextmanager
def crash_on_second(file: BinaryIO, name: str) -> Iterator[LookFn]:
    """Work once."""
    del file
    _opened.append(name)
    if len(_opened) > 1:
        _segfault()
    yield white


@after_warm_up
@contextmanager
def by_name(file: BinaryIO, name: str) -> Iterator[LookFn]:
    """Do what the file's name says: `fork.mp4` forks."""
    kind = name.rpartition("/")[2].partition(".")[0]
    with globals()[kind](file, name) as look:
        yield look


@after_warm_up
@contextmanager
def grey_of_name(file: BinaryIO, name: str) -> Iterator[LookFn]:
    """Show a grey that the file's name says: `17.mp4` is of grey 17."""
    del file
    grey = int(name.rpartition("/")[2].partition(".")[0])

    def look(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
        for sample, picture_HWC in white(times_s, size, policy):
            assert picture_HWC is not None
            yield sample, np.full_like(picture_HWC, grey)

    yield look
