"""The processes that a command's own Ray consists of."""

import json
import os
import subprocess
import sys

import pytest

TOLD = """
import json, os, sys, psutil, ray
from jobs import cluster

with cluster.connected(whole=sys.argv[1] == "whole"):
    rows = ray.data.range(6, override_num_blocks=3).map(lambda row: {"twice": 2 * row["id"]}).take_all()
    begun = psutil.Process().children(recursive=True)
    titles = [" ".join(process.cmdline()) for process in begun]
    policies = {os.sched_getscheduler(process.pid) for process in [psutil.Process(), *begun]}
after = os.sched_getscheduler(0)
print(json.dumps({"sum": sum(row["twice"] for row in rows), "titles": titles, "policies": [*policies], "after": after}))
"""
FOR_CLUSTERS = [
    "dashboard/dashboard.py",
    "/monitor.py",
    "log_monitor.py",
    "_StatsActor",
    "_AutoscalingCoordinatorActor",
]


@pytest.mark.parametrize(
    ("how", "expected", "policy"), [("lean", [], os.SCHED_BATCH), ("whole", FOR_CLUSTERS, os.SCHED_OTHER)]
)
def test_what_only_a_cluster_needs_is_started_only_if_asked_for(how, expected, policy):
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", TOLD, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sum"] == 30
    assert [name for name in FOR_CLUSTERS if any(name in title for title in told["titles"])] == expected
    assert [title for title in told["titles"] if "raylet" in title], told["titles"]
    assert (told["policies"], told["after"]) == ([policy], os.SCHED_OTHER)
