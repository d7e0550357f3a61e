"""A head that Ray gave up on is started again; a shell script stands in for `ray`."""

import os
import socket

import pytest

from jobs import ray_start
from pipeline.errors import ClusterError

GIVES_UP = "echo 'The current node timed out during startup'; exit 1"
COMES_UP = "echo 'Ray runtime started.'; exec sleep 60"


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Have `ray start` be a shell script."""

    def write(script: str) -> None:
        ray = tmp_path / "ray"
        ray.write_text(f'#!/bin/sh\necho "$@"\n{script}\n')
        ray.chmod(0o755)
        monkeypatch.setattr(ray_start.sys, "executable", str(tmp_path / "python"))

    return write


def test_it_is_up_when_ray_says_so_whatever_went_wrong_before(says, tmp_path):
    log, tried = tmp_path / "log", tmp_path / "tried"
    says(f"if [ ! -e {tried} ]; then touch {tried}; {GIVES_UP}; fi; {COMES_UP}")
    process = ray_start.ray_start(["--head"], dict(os.environ), log)
    try:
        assert process.poll() is None
        assert log.read_text().split("\n")[:4] == [
            "start --block --disable-usage-stats --head", "The current node timed out during startup",
            "start --block --disable-usage-stats --head", "Ray runtime started.",
        ]  # fmt: skip
    finally:
        ray_start.end(process)
    assert process.poll() is not None


def test_what_ray_said_last_is_told_when_it_never_comes_up(says, tmp_path):
    says(GIVES_UP)
    with pytest.raises(
        ClusterError, match=r"start --head` does not come up, tried 5 times; it said: (.|\n)*timed out"
    ):
        ray_start.ray_start(["--head"], dict(os.environ), tmp_path / "log")


def test_a_port_that_somebody_holds_is_not_free():
    ports = ray_start.free_ports(3)
    assert len({*ports}) == 3
    assert {*ports} <= {*ray_start.PORTS}
    with socket.socket() as held, pytest.MonkeyPatch.context() as patch:
        held.bind(("", ports[0]))
        patch.setattr(ray_start, "PORTS", range(ports[0], ports[0] + 1))
        with pytest.raises(ClusterError, match=r"found 0 free ports from .*, expected 1"):
            ray_start.free_ports(1)


def test_who_says_nothing_is_ended_and_tried_again(says, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_start, "START_S", 20.0)
    monkeypatch.setattr(ray_start, "TRIES", 2)
    pids = tmp_path / "pids"
    says(f"echo $$ >> {pids}; exec sleep 60")
    with pytest.raises(ClusterError, match="tried 2 times"):
        ray_start.ray_start([], dict(os.environ), tmp_path / "log")
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
