"""What a cluster has, and what its autoscaler was told it may start."""

import subprocess
import sys

import pytest

from jobs.machines import Kind, Machines, grown, of_nodes, read_autoscaler_config, with_types
from jobs.placement import GPU_MACHINES

HEAD = Kind("head", 1, {"CPU": 0.0}, comes=False)


def test_node_types_become_machines():
    config = {
        "max_workers": 5,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 8, "GPU": 1}, "labels": {"role": "gpu"}, "max_workers": 16},
            "never": {"resources": {"CPU": 8}, "max_workers": 0},
            "unbounded": {"resources": {"CPU": 8}},
        },
    }
    machines = with_types(Machines([HEAD]), config)
    assert {kind.name: kind.count for kind in machines.kinds} == {
        "head": 1,
        "gpu": 5,
        "never": 0,
        "unbounded": 5,
    }
    assert machines.total("CPU") == 40
    assert machines.total("GPU") == 5
    assert machines.num_seats({"GPU": 0.5}, GPU_MACHINES) == 10


def test_equal_machines_are_one_kind():
    node = {"Resources": {"CPU": 4.0, "node:10.0.0.1": 1.0}, "Labels": {"role": "gpu", "ray.io/node-id": "1"}}
    other = {
        "Resources": {"CPU": 4.0, "node:10.0.0.2": 1.0},
        "Labels": {"role": "gpu", "ray.io/node-id": "2"},
    }
    [kind] = of_nodes([node, other]).kinds
    assert (kind.count, dict(kind.labels), kind.comes) == (2, {"role": "gpu"}, False)


def node(group="", **resources):
    return {"Resources": resources, "Labels": {"ray.io/node-group": group} if group else {}}


ON_AWS = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3},
    },
}
HEAD_NODE = node("head", CPU=4.0, **{"node:__internal_head__": 1.0})


def test_machines_that_joined_by_hand_are_there_beside_those_that_may_come():
    nodes = [HEAD_NODE, node("gpu", CPU=8.0, GPU=1.0), node(CPU=64.0), node("theirs", CPU=2.0)]
    machines = grown(nodes, ON_AWS)
    assert (machines.total("CPU"), machines.total("GPU")) == (4 + 3 * 8 + 64 + 2, 3)
    assert machines.known


def test_a_head_type_may_have_workers():
    types = ON_AWS["available_node_types"]
    config = {
        **ON_AWS,
        "available_node_types": {**types, "head": {"resources": {"CPU": 4}, "max_workers": 2}},
    }
    machines = grown([HEAD_NODE, node("head", CPU=4.0)], config)
    assert machines.total("CPU") == 4 + 2 * 4 + 3 * 8


def test_of_a_type_without_a_size_what_is_there_counts_and_nothing_is_judged():
    on_premise = {
        "max_workers": 2,
        "head_node_type": "local.cluster.node",
        "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
    }
    group = "local.cluster.node"
    head = node(group, CPU=4.0, **{"node:__internal_head__": 1.0})
    machines = grown([head, node(group, CPU=8.0, GPU=1.0), node(group, CPU=8.0, GPU=1.0)], on_premise)
    assert (machines.total("CPU"), machines.total("GPU")) == (20, 2)
    assert not machines.known


def test_machines_of_one_role_share_max_workers():
    spot = Kind("spot", 3, {"GPU": 1.0}, GPU_MACHINES)
    large = Kind("large", 1, {"GPU": 8.0}, GPU_MACHINES)
    assert Machines([HEAD, spot, large], max_workers=2).total("GPU") == 9
    assert Machines([HEAD, spot, large], max_workers=2).num_seats({"GPU": 4.0}, GPU_MACHINES) == 2
    assert Machines([HEAD, spot, large]).num_seats({"GPU": 4.0}, {"role": "other"}) == 0


def test_what_an_amount_takes_is_off_what_is_left():
    there = Kind("machine", 1, {"GPU": 1.0, "CPU": 2.0}, comes=False)
    large, small = Kind("large", 1, {"GPU": 4.0, "CPU": 16.0}), Kind("small", 9, {"GPU": 1.0, "CPU": 4.0})
    taken, left = Machines([small, large, there], max_workers=4).split("GPU", 5.5)
    assert {kind.name: kind.count for kind in taken.kinds} == {"machine": 1, "large": 1, "small": 1}
    assert (taken.total("CPU"), left.max_workers, left.total("CPU")) == (22, 2, 8)


@pytest.fixture
def monitor(tmp_path):
    """A process that looks like an autoscaler's, and what it was started with."""
    script = tmp_path / "monitor.py"
    script.write_text("import time; print('up', flush=True); time.sleep(60)")
    file = tmp_path / "cluster.json"
    command = [sys.executable, script, "--gcs-address=10.1.2.3:77", f"--autoscaling-config={file}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    try:
        yield file
    finally:
        process.kill()
        process.communicate()


def test_the_autoscaler_of_this_very_cluster_is_read(monitor):
    monitor.write_text('{"max_workers": 3}')
    assert read_autoscaler_config("10.1.2.3:77") == {"max_workers": 3}
    assert read_autoscaler_config("10.1.2.3:78") is None


def test_a_file_that_has_gone_is_no_file(monitor, caplog):
    assert not monitor.exists()
    assert read_autoscaler_config("10.1.2.3:77") is None
    assert "cannot be read" in caplog.text
