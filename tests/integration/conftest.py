"""One real Ray for the whole folder, real videos, and the job run as users run it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.forked import run_forked
from tests.integration.ray_head import QUIET, ROOT, Head, ray_head

if TYPE_CHECKING:  # pytest rewrites a plug-in that nobody has imported
    from tests.integration.s3_server import S3Server

pytest_plugins = ["tests.integration.s3_server"]

LONGEST = (
    "test_training_job.py",
    "test_chaos.py",
    "test_lease.py",
    "test_new_questions.py",
    "test_bad_input.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: where files are shared out among processes, short ones should come last.

    Tests of other folders stay before them: some want no Ray below their process.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)) if item.path.parent == here else -1)


@pytest.fixture(scope="session")
def shared_head() -> Iterator[Head]:
    """A Ray head with three logical CPUs that outlives the drivers which come and die."""
    with ray_head() as head:
        yield head


@pytest.fixture(scope="session")
def ray_address(shared_head: Head) -> str:
    """Where it is."""
    return shared_head.address


@pytest.fixture(scope="session")
def s3_ray_address(s3_server: "S3Server") -> Iterator[str]:
    """Another, whose workers reach the S3 server: what they need for that stands in the environment of a head."""
    with ray_head(**s3_server.environment) as head:
        yield head.address


class Finished:
    """What a command printed and how it ended."""

    def __init__(self, process: "subprocess.CompletedProcess[str]"):
        self.code, self.err, self.out = process.returncode, process.stderr, process.stdout

    @property
    def json(self) -> dict:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def reelsift(ray_address: str) -> Callable[..., Finished]:
    """Run `reelsift ...` in its own process on the shared Ray."""
    return _on(ray_address)


@pytest.fixture
def reelsift_on_s3(s3_ray_address: str) -> Callable[..., Finished]:
    """Run `reelsift ...` in its own process on the Ray whose workers reach the S3 server."""
    return _on(s3_ray_address)


def _on(address: str) -> Callable[..., Finished]:
    def run(*args: object, timeout: float = 1800, **environment: str) -> Finished:
        merged = {**os.environ, **QUIET, "RAY_ADDRESS": address, **environment}
        return Finished(run_forked([*map(str, args)], merged, ROOT, timeout))

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
