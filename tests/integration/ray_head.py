"""A Ray head of its own for some tests, killed with all its processes when they end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_worker_niceness": "0",  # else whatever runs beside the tests starves them
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "tests-only-" + "0" * 32,
    "PYTHONPATH": str(ROOT),
}


OF_THE_USER = ("AWS_PROFILE", "AWS_SESSION_TOKEN")
"""Variables of who runs the tests that would go before those of a test's own server."""


class Head(NamedTuple):
    """A running head."""

    address: str
    folder: Path
    """Where it keeps its sessions."""


@contextmanager
def ray_head(*options: str, port: int = 0, **environment: str) -> Iterator[Head]:
    """Start a head with three logical CPUs and no dashboard, in an environment of its own.

    Who needs further ports finds them all at once, `port` among them: one that nobody holds is given twice.
    """
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # paths of sockets are limited to 107 characters
    port = port or free_port()
    start = [RAY, "start", "--head", f"--port={port}", "--num-cpus=3", "--include-dashboard=false",
             f"--temp-dir={folder}", "--block", "--disable-usage-stats", *options]  # fmt: skip
    merged = (
        {name: value for name, value in os.environ.items() if name not in OF_THE_USER} | QUIET | environment
    )
    with folder.with_suffix(".log").open("wb") as log:
        head = subprocess.Popen(start, env=merged, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(port, head, log.name)
        yield Head(f"127.0.0.1:{port}", folder)
    finally:
        with suppress(ProcessLookupError):  # it never came up
            os.killpg(head.pid, signal.SIGKILL)  # the whole session: raylet, store and workers
        head.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, head: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert head.poll() is None, f"ray start ended with {head.returncode}: {log}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1)
                return
        time.sleep(0.2)
    pytest.fail(f"no Ray at port {port} after 60 s: {log}")


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones: each is held until all are found."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
