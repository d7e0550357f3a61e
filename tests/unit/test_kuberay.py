"""The manifest for Kubernetes says what cluster.yaml says: one Ray, no work on the head, workers from zero."""

import shlex
from pathlib import Path

import pytest
import yaml

from jobs.answer import read_arguments, read_paths

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((ROOT / "docs" / "kuberay.yaml").read_text())["spec"]


def test_its_command_is_one_that_answers(job):
    words = shlex.split(job["entrypoint"])
    assert words[:4] == ["python", "-m", "jobs", "answer"]
    args = read_arguments(words[4:])
    assert all(place.startswith("s3://") for place in read_paths(args))
    groups = {group["groupName"]: group for group in job["rayClusterSpec"]["workerGroupSpecs"]}
    assert args.job.answer.pool.device == "cuda"
    assert args.job.cluster.placement == "labels", "the autoscaler's settings are out of a job's reach"
    assert args.job.answer.pool.max_size <= groups["gpu"]["maxReplicas"]


def test_workers_come_from_zero_and_the_head_does_no_work(job):
    cluster = job["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    limits = {}
    for group in cluster["workerGroupSpecs"]:
        assert (group["minReplicas"], group["replicas"]) == (0, 0)
        assert group["labels"] == {"role": group["groupName"]}
        [container] = group["template"]["spec"]["containers"]
        limits[group["groupName"]] = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits[group["groupName"]]
    assert "nvidia.com/gpu" in limits["gpu"]
    assert "nvidia.com/gpu" not in limits["decode"]


def test_its_ray_is_the_pinned_one_and_that_of_cluster_yaml(job):
    version = job["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text()
    image = yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["image"]
    assert image.startswith(f"rayproject/ray:{version}")
    assert image in (ROOT / "docs" / "kuberay.yaml").read_text()


def test_it_asks_for_a_token_and_holds_no_secret(job):
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    text = (ROOT / "docs" / "kuberay.yaml").read_text().lower()
    assert "secret_access" not in text
    assert "access_key" not in text
