"""`reelsift bench chaos` on a real S3 server: nothing is lost, doubled or changed, whatever is killed.

`make chaos` makes 30 runs, kills a driver half-way in one more, and writes the report; here are two.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.integration.ray_head import QUIET, ROOT
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

RUNS = int(os.environ.get("REELSIFT_CHAOS_RUNS", "2"))
SEED = 83
"""Of whose runs the first two kill a driver at two points, an actor and a machine, over a bad line."""


@pytest.mark.timeout(5400 + 240 * RUNS)
def test_nothing_is_lost_whatever_is_killed(s3: Bucket, tmp_path):
    is_whole = RUNS >= 30
    report = () if is_whole else ("--report", tmp_path / "chaos.md", "--no-resume")
    command = [sys.executable, "-m", "jobs", "bench", "chaos", "--s3", f"{s3.uri}/chaos", "--runs", RUNS]
    bench = subprocess.Popen(
        list(map(str, [*command, "--seed", SEED, *report])), cwd=ROOT, env={**os.environ, **QUIET},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said, _ = bench.communicate(timeout=5000 + 240 * RUNS)
    finally:
        bench.terminate()  # its cluster ends with it
        bench.wait(timeout=60)
    found = json.loads(said.strip().splitlines()[-1])
    assert found["pass"], found
    assert bench.returncode == 0
    figures = found["figures"]
    assert figures["runs"] == RUNS == len(found["rows"])
    assert not any(figures[name] for name in ("lost", "duplicated", "different", "leftovers", "unfinished"))
    kinds = set(figures["kills_by_kind"])
    assert kinds & {"driver", "step"}
    assert kinds & {"scorer", "loading"}
    assert "node" in kinds
    assert figures["s3_faults"] > 0
    if is_whole:
        assert (
            figures["windows"]
            <= figures["windows_looked_at"]
            <= figures["windows"] + figures["twice_at_most"]
        )
