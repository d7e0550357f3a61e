"""The real job on Ray's real autoscaler, and a cloud that refuses every spot machine.

Machines are raylets of this computer, and GPUs numbers, as in test_autoscale.py.
"""

import json
import os
import subprocess
import sys

from jobs.demo import collect_clips
from jobs.fake_cluster import fake_cluster
from tests.integration.ray_head import ROOT

SIZE = {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 2}
NODE_TYPES = {
    "gpu": {**SIZE, "labels": {"role": "gpu", "market": "spot"}, "priority": 1},
    "gpu-on-demand": {
        **SIZE,
        "labels": {"role": "gpu", "market": "on-demand"},
        "priority": 0,
    },
}
SETTINGS = (
    "--query",
    "a car",
    "--score.scorer",
    "tests.plugins_sample:ON_TWO_MACHINES",
    "--cluster.on-demand-after-s",
    "4",
    "--score.pool.min-size",
    "2",
    "--score.pool.max-size",
    "2",
)


def test_a_job_gets_its_gpus_on_demand_where_spot_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    collect_clips(tmp_path / "clips")
    clip = min((tmp_path / "clips").glob("*.mp4"), key=lambda path: "broken" in path.name)
    command = [sys.executable, "-m", "jobs", "answer", str(clip), str(tmp_path / "out"), *SETTINGS]
    with fake_cluster(NODE_TYPES, 4, 30.0, "tests.no_spot.NoSpotProvider") as joining:
        job = subprocess.run(
            command,
            env={**os.environ, **joining},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert job.returncode == 0, job.stderr
    assert "actors of {'GPU': 1.0} on machines labelled role=gpu" in job.stderr
    asked = "asking for an on-demand one (gpu-on-demand)"
    assert job.stderr.count(asked) == 2, job.stderr
    assert job.stderr.index(asked) < job.stderr.index("the on-demand machine (gpu-on-demand) is there")
    assert json.loads(job.stdout.splitlines()[-1])["answers"] == 1
