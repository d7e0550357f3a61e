"""A Ray head of its own for some tests, killed with all its processes when they end."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from jobs.ray_start import end, free_ports, ray_start

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_num_workers_soft_limit": "12",  # of three CPUs and many kinds of tasks: else Python is started anew for each
    "RAY_worker_niceness": "0",  # else whatever runs beside the tests starves them
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "tests-only-" + "0" * 32,
    "PYTHONPATH": str(ROOT),
}


START = Path(tempfile.gettempdir()) / f"reelsift-tests-start-of-a-head-{os.getuid()}"
"""Locked by the test process that starts one."""
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
    port = port or free_ports(1)[0]
    start = (
        "--head",
        f"--port={port}",
        "--num-cpus=3",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
        *options,
    )
    merged = (
        {name: value for name, value in os.environ.items() if name not in OF_THE_USER} | QUIET | environment
    )
    log = folder.with_suffix(".log")  # stays where the head does not start
    try:
        # two that start at once on two cores may both take longer than Ray allows
        with START.open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            head = ray_start(start, merged, log)
        try:
            yield Head(f"127.0.0.1:{port}", folder)
        finally:
            lived = head.poll() is None
            end(head)
        assert lived, f"the head ended before its tests did; it said: {log.read_text()[-3000:]}"
        log.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
