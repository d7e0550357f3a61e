"""The driver is killed at random times on local disks; running the same command again completes the answers, each once.

test_chaos.py kills more, on a bucket.
"""

import os
import random
import signal
import subprocess
import sys
import time

from pipeline import rows
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import comparable, read

TRIES = int(os.environ.get("REELSIFT_KILL_TRIES", "1"))
SETTINGS = ("--window.length-s", "1", "--sink.windows-per-part", "1")
QUERIES = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "car", "kind": "flag", "text": "a car"},
]


def command(clips, queries, out) -> list[str]:
    return [sys.executable, "-m", "jobs", "answer", str(clips), str(queries), str(out), *SETTINGS]


def start(arguments, address) -> "subprocess.Popen[str]":
    environment = {**os.environ, **QUIET, "RAY_ADDRESS": address}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_at_any_time_and_run_again(ray_address, clips, ask, tmp_path):
    queries = ask(*QUERIES)
    started = time.monotonic()
    whole = start(command(clips, queries, tmp_path / "whole"), ray_address)
    _, err = whole.communicate(timeout=900)
    assert whole.returncode == 0, err
    full_s = time.monotonic() - started
    expected = {table: comparable(tmp_path / "whole", table) for table in rows.TABLES}
    cut_short = 0
    for seed in range(TRIES):
        out = tmp_path / f"out{seed}"
        cut_short += _kill_and_finish(
            command(clips, queries, out), ray_address, random.Random(seed).uniform(1, 0.6 * full_s)
        )
        for table in rows.TABLES:
            assert comparable(out, table) == expected[table], f"{table} after a kill, seed {seed}"
        assert not list(out.glob("_run/*/staging/*")), "leftovers of the killed run"
        print(f"seed {seed}: {len(read(out, 'answers'))} answers, complete and unique")
    assert cut_short, "no try was killed before it had finished"


def _kill_and_finish(arguments, address, after_s) -> bool:
    """Kill a run after some seconds, run it again to its end; return whether the kill came in time."""
    victim = start(arguments, address)
    try:
        victim.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    again = start(arguments, address)
    _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    return victim.returncode == -signal.SIGKILL
