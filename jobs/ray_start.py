"""`ray start` on this machine, for clusters of one's own: it is up when Ray says so, and tried again where Ray gave up.

Ray gives a machine's processes 30 seconds to start, whatever else the machine does; a head whose port answers may still
end within that time.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from pipeline.errors import ClusterError

TRIES = 5
START_S = 180.0
"""Of one try: three times what Ray took to give up on slow cores with other work."""
POLL_S = 0.1
IS_UP = b"Ray runtime started"
PORTS = range(20_000, 32_768)
"""Above those that Ray gives its workers, below those that Linux, as it comes, gives to whoever asks for any."""


def ray_start(
    options: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """Start a head or a node in a session of its own, and return its process, which lives as long as it does.

    Args:
        options: of `ray start`.
        environment: all variables of its processes.
        log: what it says is added here.

    Raises:
        ClusterError: it does not come up; what it said last.
    """
    command = [Path(sys.executable).parent / "ray", "start", "--block", "--disable-usage-stats", *options]
    for _ in range(TRIES):
        with log.open("ab") as said:
            begins_at = said.tell()
            process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            if _comes_up(process, log, begins_at):
                return process
        except BaseException:
            end(process)
            raise
        end(process)
    last = log.read_text(errors="replace")[-1000:]
    msg = f"`ray start {' '.join(map(str, options))}` does not come up, tried {TRIES} times; it said: {last}"
    raise ClusterError(msg)


def _comes_up(process: "subprocess.Popen[bytes]", log: Path, begins_at: int) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if IS_UP in log.read_bytes()[begins_at:]:
            return True
        time.sleep(POLL_S)
    return False


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a head or a node with its whole session: raylet, store and workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens at, and that nobody who asks for any port is given later."""
    with ExitStack() as held:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = held.enter_context(socket.socket())
            with suppress(OSError):  # somebody listens there
                listener.bind(("", port))
                found.append(port)
            if len(found) == count:
                return found
    span = f"{PORTS.start} to {PORTS.stop - 1}"
    msg = f"found {len(found)} free ports from {span}, expected {count}; end what listens there"
    raise ClusterError(msg)
