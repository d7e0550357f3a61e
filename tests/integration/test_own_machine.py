"""The processes that a command's own Ray consists of."""

import json
import os
import subprocess
import sys

import pytest

from jobs import own_machine

TOLD = """
import json, os, sys, psutil, ray
from jobs import cluster

def about(process):
    try:
        return " ".join(process.cmdline()), os.sched_getscheduler(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None

with cluster.connected(whole=sys.argv[1] == "whole"):
    rows = ray.data.range(6, override_num_blocks=3).map(lambda row: {"twice": 2 * row["id"]}).take_all()
    begun = filter(None, map(about, [psutil.Process(), *psutil.Process().children(recursive=True)]))
    titles, policies = zip(*begun)
    actors = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]  # their titles come later
after = os.sched_getscheduler(0)
total = sum(row["twice"] for row in rows)
print(json.dumps({"sum": total, "titles": [*titles, *actors], "policies": [*{*policies}], "after": after}))
"""
FOR_CLUSTERS = [
    "dashboard/dashboard.py",
    "/monitor.py",
    "log_monitor.py",
    "datasets_stats_actor",
    "AutoscalingCoordinator",
]


@pytest.mark.parametrize(("how", "expected"), [("lean", []), ("whole", FOR_CLUSTERS)])
def test_what_only_a_cluster_needs_is_started_only_if_asked_for(how, expected):
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", TOLD, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sum"] == 30
    assert [name for name in FOR_CLUSTERS if any(name in title for title in told["titles"])] == expected
    assert [title for title in told["titles"] if "raylet" in title], told["titles"]
    ours = os.sched_getscheduler(0)
    takes_turns = (
        how == "lean" and ours == os.SCHED_OTHER and not any(own_machine.DEVICES.glob("nvidia[0-9]*"))
    )
    assert told["policies"] == [os.SCHED_BATCH if takes_turns else ours]
    assert told["after"] == ours
