"""Node types of a cluster file: how many there may be, how large they are, and what their labels say they are for."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.cluster_keys import did_you_mean, node_types
from jobs.instances import instance_resources
from jobs.placement import DECODING_MACHINES, GPU_MACHINES

COUNTED = {name.lower(): name for name in ("CPU", "GPU", "memory", "object_store_memory")}
"""What Ray itself counts of a machine; any other name is a resource of one's own."""


def instance_type(node: Mapping[str, Any]) -> str:
    """Return the EC2 instance type of a node type; empty where none is named."""
    return str((node.get("node_config") or {}).get("InstanceType", ""))


def node_resources(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a machine of a node type holds: by the file, else by its instance type."""
    return instance_resources(instance_type(node)) | (node.get("resources") or {})


def wrong_limits(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Numbers of machines that nobody has set, or that contradict each other."""
    if "max_workers" not in cluster:
        yield "max_workers: missing; without it Ray starts 2 machines at most"
    for name, node in node_types(cluster).items():
        where, least, most = f"available_node_types.{name}", node.get("min_workers"), node.get("max_workers")
        if name != cluster["head_node_type"] and "max_workers" not in node:
            yield (
                f"{where}.max_workers: missing; without it one type may take all of"
                f" max_workers ({cluster.get('max_workers', 2)})"
            )
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield f"{where}.min_workers: found {least}, above its max_workers ({most}); lower it, or raise the other"


def wrong_resources(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Resources that nobody asks for by this name, or that the instance type does not have."""
    for name, node in node_types(cluster).items():
        where, instance = f"available_node_types.{name}.resources", instance_type(node)
        known = instance_resources(instance)
        for key, amount in (node.get("resources") or {}).items():
            meant = COUNTED.get(str(key).lower().removesuffix("s"))
            if meant and key != meant:
                yield f"{where}: found {key!r}, which Ray takes for a resource of your own; did you mean {meant!r}?"
            elif key in known and isinstance(amount, (int, float)) and amount > known[key]:
                yield (
                    f"{where}.{key}: found {amount:g}, and {instance} has {known[key]:g}; lower it, leave it out (Ray"
                    " fills it in), or take a larger instance type"
                )


def wrong_roles(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Labels that are nearly those that a job asks for, or on machines that are for the other."""
    decode, gpu = known = [DECODING_MACHINES["role"], GPU_MACHINES["role"]]
    for name, node in node_types(cluster).items():
        labels, resources = node.get("labels") or {}, node_resources(node)
        for key in labels:
            if key != "role" and difflib.get_close_matches(str(key), ["role"], n=1, cutoff=0.75):
                yield f"available_node_types.{name}.labels: found {key!r}; did you mean 'role'?"
        role, where = labels.get("role"), f"available_node_types.{name}.labels.role"
        if isinstance(role, str) and role not in known:
            hint = did_you_mean(role, known)
            yield f"{where}: found {role!r}, a job asks for {' or '.join(known)}{hint}"
        elif role == decode and resources.get("GPU"):
            yield (
                f"{where}: found {decode!r} on machines with GPUs ({instance_type(node) or 'by resources'}), which no"
                f" model would ever use; expected {gpu!r}, or `resources: {{GPU: 0}}` where they are for decoding alone"
            )
        elif role == gpu and resources.get("GPU") == 0:
            yield (
                f"{where}: found {gpu!r} on machines without a GPU ({instance_type(node) or 'by resources'}), which no"
                f" stage of a job could use; expected {decode!r}, or an instance type with GPUs"
            )
