"""One real Ray for the whole folder, real videos, and the job run as users run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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

pytest_plugins = ["tests.integration.s3_server"]


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory) -> Iterator[str]:
    """A Ray head with three logical CPUs that outlives the drivers which come and die."""
    del tmp_path_factory
    folder = Path(f"/tmp/rs{os.getpid()}")  # short: socket paths are limited to 107 characters
    environment = {**os.environ, **QUIET}
    port = free_port()
    start = [RAY, "start", "--head", f"--port={port}", "--num-cpus=3", "--include-dashboard=false",
             f"--temp-dir={folder}", "--block", "--disable-usage-stats"]  # fmt: skip
    log = (Path("/tmp") / f"rs{os.getpid()}.log").open("wb")
    head = subprocess.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"127.0.0.1:{port}"
    try:
        wait_for_ray(address, head)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # the whole session: raylet, store and workers
        head.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones: each is held until all are found."""
    import socket
    from contextlib import ExitStack

    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def wait_for_ray(address: str, head: subprocess.Popen[bytes]) -> None:
    import socket
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert head.poll() is None, f"ray start ended with {head.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(address.rsplit(":", 1)[1]))) == 0:
                time.sleep(1)
                return
        time.sleep(0.2)
    pytest.fail(f"no Ray at {address} after 60 s")


class Finished:
    """What a command printed and how it ended."""

    def __init__(self, process: "subprocess.CompletedProcess[str]"):
        self.code, self.err, self.out = process.returncode, process.stderr, process.stdout

    @property
    def json(self) -> dict:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def reelsift(ray_address):
    """Run `reelsift ...` in its own process on the shared Ray."""

    def run(*args: object, timeout: float = 150, **environment: str) -> Finished:
        command = [sys.executable, "-m", "jobs", *map(str, args)]
        merged = {**os.environ, **QUIET, "RAY_ADDRESS": ray_address, **environment}
        return Finished(
            subprocess.run(command, cwd=ROOT, env=merged, capture_output=True, text=True, timeout=timeout)
        )

    return run


@pytest.fixture
def clips(tmp_path) -> Path:
    """The demo's clips: three good ones and a broken one."""
    from jobs.demo import collect_clips

    folder = tmp_path / "videos"
    collect_clips(folder)
    return folder


@pytest.fixture
def ask(tmp_path):
    """Write a query file."""

    def write(*queries: dict) -> Path:
        path = tmp_path / "queries.jsonl"
        path.write_text("".join(json.dumps(query) + "\n" for query in queries))
        return path

    return write
