"""cluster.yaml is valid by Ray's own schema, starts from zero workers and keeps work off the head."""

from pathlib import Path

import pytest
import yaml

PATH = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load(PATH.read_text())


def test_ray_accepts_it(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_all_workers_scale_from_zero(cluster):
    workers = {k: v for k, v in cluster["available_node_types"].items() if k != cluster["head_node_type"]}
    assert workers
    for node in workers.values():
        assert node["min_workers"] == 0
        assert node["max_workers"] > 0
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_head_does_no_work_and_hides_its_dashboard(cluster):
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


def test_ray_of_the_image_is_the_pinned_ray(cluster):
    pinned = (PATH.parent / "constraints.txt").read_text()
    version = cluster["docker"]["image"].split(":")[1].split("-")[0]
    assert f"ray=={version}" in pinned


def test_it_holds_no_secret():
    text = PATH.read_text().lower()
    assert "aws_secret" not in text
    assert "access_key" not in text
