"""cluster.yaml is valid by Ray's own schema, starts from zero workers and keeps work off the head."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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


def test_spot_machines_go_before_the_same_on_demand(cluster):
    types = cluster["available_node_types"]
    for name in ("decode", "gpu"):
        spot, other = types[name], types[f"{name}-on-demand"]
        assert spot["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert "InstanceMarketOptions" not in other["node_config"]
        assert spot["priority"] > other["priority"]
        assert spot["labels"]["role"] == other["labels"]["role"] == name
        # priority decides among types that fit equally well only
        assert spot["node_config"]["InstanceType"] == other["node_config"]["InstanceType"]


def test_all_of_ray_asks_for_the_token(cluster):
    lines = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    starts = [line for line in lines if "ray start" in line]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)


def test_our_own_check_finds_nothing_and_the_recipes_fit(cluster, tmp_path, monkeypatch):
    from jobs.cluster_file import find_problems
    from jobs.recipes import RECIPES

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()  # `ray get-auth-token --generate` writes it
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(PATH.parent)
    for recipe in RECIPES.values():
        assert find_problems(cluster, recipe(), (PATH.parent / "constraints.txt").read_text()) == []


def test_sizes_of_the_machines(cluster):
    from jobs.cluster_file import machines_of

    kinds = machines_of(cluster).kinds
    found = {kind.name: (kind.resources["CPU"], kind.resources.get("GPU", 0)) for kind in kinds}
    assert found["head"] == (0, 0)
    assert found["decode"] == found["decode-on-demand"] == (32, 0)
    assert found["gpu"] == found["gpu-on-demand"] == (8, 1)


def test_the_head_does_no_work_and_hides_its_dashboard(cluster):
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


def test_ray_of_the_image_is_the_pinned_ray(cluster):
    pinned = (PATH.parent / "constraints.txt").read_text()
    version = cluster["docker"]["image"].split(":")[1].split("-")[0]
    assert f"ray=={version}" in pinned


def test_what_starts_the_machines_is_installed_here_and_on_the_head(cluster):
    extras = tomllib.loads((PATH.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [boto3] = map(Requirement, extras["aws"])
    assert boto3.name == "boto3"
    lines = (PATH.parent / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins["boto3"] in boto3.specifier
    # a boto3 wants the botocore of its own number, or a later one with the same minor number
    assert pins["boto3"].split(".")[:2] == pins["botocore"].split(".")[:2]
    assert any("reelsift[aws]" in command for command in cluster["setup_commands"])


@pytest.mark.parametrize("document", ["README.md", "docs/cluster.md"])
def test_the_commands_that_start_a_cluster_are_complete(document):
    text = (PATH.parent / document).read_text()
    steps = [
        "-e '.[aws]'",
        "ray get-auth-token --generate",
        "ray up cluster.yaml",
        "export RAY_AUTH_MODE=token",
    ]
    begins = text.index(f"    pip install -c constraints.txt {steps[0]}")
    places = [text.index(step, begins) for step in [*steps, "reelsift submit"]]
    assert places == sorted(places)


def test_it_holds_no_secret():
    text = PATH.read_text().lower()
    assert "aws_secret" not in text
    assert "access_key" not in text
