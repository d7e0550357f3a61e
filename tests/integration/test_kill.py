"""The driver is killed at random times on local disks; running the same command again completes the answers, each once.

test_chaos.py kills more, on a bucket.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline import rows
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import comparable, read

TRIES = int(os.environ.get("REELSIFT_KILL_TRIES", "1"))
SETTINGS = ("--window.length-s", "1", "--sink.windows-per-part", "1", "--sink.compact-files", "0")
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
    whole = start(command(clips, queries, tmp_path / "whole"), ray_address)
    _, err = whole.communicate(timeout=900)
    assert whole.returncode == 0, err
    num_parts = len(parts(tmp_path / "whole"))
    expected = {table: comparable(tmp_path / "whole", table) for table in rows.TABLES}
    cut_short = 0
    for seed in range(TRIES):
        out = tmp_path / f"out{seed}"
        num_before = random.Random(seed).randrange(num_parts // 2)
        cut_short += _kill_and_finish(command(clips, queries, out), ray_address, out, num_before)
        for table in rows.TABLES:
            assert comparable(out, table) == expected[table], f"{table} after a kill, seed {seed}"
        assert not list(out.glob("_run/*/staging/*")), "leftovers of the killed run"
        num_answers = len(read(out, "answers"))
        print(
            f"seed {seed}: killed behind {num_before} of {num_parts} parts; {num_answers} answers, each once"
        )
    assert cut_short, "no try was killed before it had finished"


def parts(out: Path) -> list[Path]:
    return [path for table in rows.TABLES for path in out.glob(f"{table}/*.parquet")]


def _kill_and_finish(arguments, address, out, num_before) -> bool:
    """Kill a run once it has committed some parts, run it again to its end; return whether the kill came in time."""
    victim = start(arguments, address)
    while victim.poll() is None and (len(parts(out)) < num_before or not (out / "_run").exists()):
        time.sleep(0.01)
    time.sleep(random.Random(num_before).uniform(0, 0.5))  # at any moment, not when a part has just come
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=300)
    again = start(arguments, address)
    _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    return victim.returncode == -signal.SIGKILL
