"""The processes that a command's own Ray consists of."""

import json
import os
import subprocess
import sys

TOLD = """
import json, psutil, ray
from jobs import cluster

with cluster.connected():
    rows = ray.data.range(6, override_num_blocks=3).map(lambda row: {"twice": 2 * row["id"]}).take_all()
    titles = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
print(json.dumps({"sum": sum(row["twice"] for row in rows), "titles": titles}))
"""
FOR_CLUSTERS = ("dashboard/dashboard.py", "monitor.py", "_StatsActor", "_AutoscalingCoordinatorActor")


def test_nothing_is_started_that_only_a_cluster_needs():

    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", TOLD], capture_output=True, text=True, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sum"] == 30
    assert [title for title in told["titles"] if any(name in title for name in FOR_CLUSTERS)] == []
    assert [title for title in told["titles"] if "raylet" in title], told["titles"]
