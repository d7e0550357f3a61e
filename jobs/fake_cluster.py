"""A cluster on this machine that grows and shrinks: a real head, Ray's real autoscaler, machines that are processes.

Ray's fake provider of nodes stands in for a cloud: what it starts is a raylet of its own, with the CPUs and GPUs that
its node type claims to have. Everything that decides when a machine comes and goes is what decides it on AWS.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.ray_start import end, free_ports, ray_start

HEAD_ID = "f" * 51 + "00000"
"""What the fake provider takes for the head."""
ROOT = str(Path(__file__).parents[1])
HEAD_TYPE = "ray.head.default"
PROVIDER = "jobs.fake_machines.FakeMachines"
STORE_BYTES = 200 << 20
MEMORY_BYTES = 2 << 30
"""That a type is said to have, as a cloud's provider says it: Ray Data asks for memory with every task once it has seen
what one puts out, and a type without any is never asked for again."""
LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
         "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
         "worker_start_ray_commands")  # fmt: skip
"""Keys that the autoscaler reads without a default."""


@contextmanager
def fake_cluster(
    node_types: Mapping[str, Mapping[str, Any]], max_workers: int, idle_s: float, provider: str = PROVIDER
) -> Generator[dict[str, str]]:
    """Start a head without resources and its autoscaler; yield the variables with which a driver joins; end all of it.

    Args:
        node_types: as under `available_node_types` of a cluster file, the head left out.
        max_workers: of all types together.
        idle_s: seconds without work after which a machine goes.
        provider: import path of the class that starts and ends machines.

    Raises:
        ClusterError: the head does not start; what it said last.
    """
    from ray._private.services import get_node_ip_address

    folder = Path(
        tempfile.mkdtemp(prefix="rs", dir="/tmp")
    )  # short: socket paths are limited to 107 characters
    address = f"{get_node_ip_address()}:{free_ports(1)[0]}"
    file = folder / "cluster.json"
    file.write_text(json.dumps(configuration(node_types, max_workers, idle_s, address, provider)))
    joining = {
        "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24),
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0",
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {
        **joining, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0", "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH")))),
        "RAY_num_workers_soft_limit": "8",  # machines of two CPUs and tasks of several kinds: no Python started anew
    }  # fmt: skip
    environment.pop("RAY_ADDRESS")
    host, port = address.rsplit(":", 1)
    options = (
        "--head", f"--autoscaling-config={file}", "--num-cpus=0", "--num-gpus=0", f"--port={port}",
        f"--node-ip-address={host}", f"--temp-dir={folder}", f"--object-store-memory={STORE_BYTES}",
        "--include-dashboard=false",
    )  # fmt: skip
    try:
        head = ray_start(options, environment, folder / "head.log")
        try:
            yield joining
        finally:
            _end(head, str(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def configuration(
    node_types: Mapping[str, Mapping[str, Any]],
    max_workers: int,
    idle_s: float,
    address: str,
    provider: str = PROVIDER,
) -> dict[str, Any]:
    """Return what the autoscaler is started with."""
    head = {"resources": {"CPU": 0, "GPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    types = {
        name: {"node_config": {}, "min_workers": 0, **node}
        | {"resources": {**node["resources"], "memory": MEMORY_BYTES, "object_store_memory": STORE_BYTES}}
        for name, node in node_types.items()
    }
    return {
        "cluster_name": "fake", "max_workers": max_workers, "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1000, "head_node_type": HEAD_TYPE,
        "available_node_types": {HEAD_TYPE: head, **types},
        "provider": {
            "type": "external",
            "module": provider,
            "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
            "gcs_address": address, "launch_multiple": True, "head_node_id": HEAD_ID,
        },
        "auth": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, **{name: [] for name in LISTS},
    }  # fmt: skip


def _end(head: "subprocess.Popen[bytes]", folder: str) -> None:
    """End the head and every process that it, or a fake machine, has started."""
    import psutil

    ours: list[Any] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        ours = psutil.Process(head.pid).children(recursive=True)
    end(head)
    ours += [one for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or [])]
    for process in ours:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
