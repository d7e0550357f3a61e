"""A Ray cluster of one's own, to be killed piece by piece: a head without work and machines that come back."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from jobs.ray_start import end, free_ports, ray_start

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_worker_niceness": "0",
    "RAY_num_workers_soft_limit": "8",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
}
"""A dead node is found in seconds, not in half a minute; one that is only slow is not taken for dead. Workers do not
wait for what else this machine does, nor is Python started anew for each kind of task."""
NODE_CPUS = 2
STORE_BYTES = 150_000_000


class Cluster:
    """A head and some nodes on this machine, each a process group of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.environment = {**os.environ, **environment, **QUIET}
        self._folder = folder
        self._head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, num_nodes: int) -> None:
        """Start the head, then the nodes.

        Raises:
            ClusterError: one of them does not start; the end of its log.
        """
        port = self.address.partition(":")[2]
        self._head = self._start(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
        )
        for _ in range(num_nodes):
            self.nodes.append(self._start_node())

    def processes(self) -> list[tuple[psutil.Process, str]]:
        """Return what runs on the nodes, each with its command line (a worker's says what it is at)."""
        found: list[tuple[psutil.Process, str]] = []
        for node in self.nodes:
            with suppress(psutil.Error):
                for process in psutil.Process(node.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        found.append((process, " ".join(process.cmdline())))
        return found

    def bring_back(self) -> None:
        """Start a node in the place of each that has no raylet any more; what is left of that one is ended first."""
        for number, node in enumerate(self.nodes):
            if not _has_raylet(node):
                end(node)
                self.nodes[number] = self._start_node()

    def end(self) -> None:
        """Kill all that is left."""
        for process in (*self.nodes, self._head):
            if process is not None:
                end(process)

    def _start_node(self) -> "subprocess.Popen[bytes]":
        return self._start(f"--address={self.address}", f"--num-cpus={NODE_CPUS}")

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        options = (f"--object-store-memory={STORE_BYTES}", *options)
        return ray_start(options, self.environment, Path(f"{self._folder}.log"))


@contextmanager
def cluster(environment: Mapping[str, str], num_nodes: int = 2) -> Generator[Cluster]:
    """Start a cluster whose processes have these variables beside this one's; kill it at the end.

    Raises:
        ClusterError: it does not start; the end of its log.
    """
    folder = Path(
        tempfile.mkdtemp(prefix="rs", dir="/tmp")
    )  # short: socket paths are limited to 107 characters
    running = Cluster(folder, environment)
    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # what it started ends with it
    try:
        running.start(num_nodes)
        yield running
    finally:
        signal.signal(signal.SIGTERM, before)
        running.end()
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.log").unlink(missing_ok=True)


def _has_raylet(node: "subprocess.Popen[bytes]") -> bool:
    with suppress(psutil.Error):
        for process in psutil.Process(node.pid).children():
            with suppress(psutil.Error):
                if process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE:
                    return True
    return False
