"""What is wrong with a cluster file, before `ray up` has started a machine for it: everything at once.

Nothing here asks a network.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from jobs.cluster_images import wrong_versions
from jobs.cluster_keys import node_types, refused_by_ray, wrong_keys, wrong_node_configs, wrong_provider
from jobs.cluster_nodes import node_resources, wrong_limits, wrong_resources, wrong_roles
from jobs.cluster_start import missing_files, wrong_commands, wrong_start
from jobs.machines import HEAD_LABEL, Kind, Machines, with_types
from jobs.placement import check, find_places
from jobs.preflight import too_small
from pipeline.config import JobConfig, PoolConfig
from pipeline.errors import ClusterError, ConfigError

DEFAULT_IMAGE = "latest_dlami"
"""What Ray calls its own default, which it also takes where none is named."""


def load_cluster(path: Path) -> dict[str, Any]:
    """Return a cluster file as it stands.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path}: cannot be read as a cluster file: {error}; expected YAML as `ray up` takes it"
        raise ConfigError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path}: holds a {type(found).__name__}, expected a mapping with provider and available_node_types"
        raise ConfigError(msg)
    return found


def find_problems(cluster: dict[str, Any], job: JobConfig | None = None, pins: str = "") -> list[str]:
    """Return one line per mistake: where, what was found, what was expected.

    Args:
        cluster: as `load_cluster` returns it.
        job: settings whose smallest pools must fit the node types; None = not checked.
        pins: text of a constraints.txt, whose Ray must be that of the images; empty = not checked.
    """
    problems = [*wrong_keys(cluster), *wrong_commands(cluster)]
    if problems:
        return problems  # Ray's own check would say less, or break on it
    problems = [
        *refused_by_ray(cluster),
        *wrong_provider(cluster),
        *wrong_versions(cluster, pins),
        *wrong_limits(cluster),
        *wrong_resources(cluster),
        *wrong_roles(cluster),
        *wrong_start(cluster),
        *missing_files(cluster),
        *wrong_node_configs(cluster),
    ]
    return problems if problems or job is None else _pools(cluster, job)


def find_warnings(cluster: Mapping[str, Any]) -> list[str]:
    """Return what is no mistake and yet fails in many accounts, of a file without problems; only AWS is known."""
    if cluster["provider"].get("type") != "aws":
        return []
    head = cluster["head_node_type"]
    profiled, old = list[str](), list[str]()
    for name, node in node_types(cluster).items():
        config = node.get("node_config") or {}
        if "IamInstanceProfile" in config:
            profiled.append(name)
        image = config.get("ImageId") or ("" if "LaunchTemplate" in config else DEFAULT_IMAGE)
        if node_resources(node).get("GPU") and image.lower() == DEFAULT_IMAGE:
            old.append(name)
    lines: list[str] = []
    if head in profiled:
        lines.append(
            f"available_node_types.{head}: names an IamInstanceProfile; then Ray makes none, and it must be there, with"
            " the right to start machines. Leave it out to have Ray make ray-autoscaler-v1"
        )
    if workers := [name for name in profiled if name != head]:
        lines.append(
            f"available_node_types ({', '.join(workers)}): name an IamInstanceProfile; the head cannot start them"
            " unless its role has iam:PassRole for the profile's role; Ray does not give it, docs/cluster.md does"
        )
    if old:
        lines.append(
            f"available_node_types ({', '.join(old)}): GPU type without ImageId; Ray takes its default, a Deep"
            " Learning AMI of Ubuntu 18.04 and CUDA 11.2. Put the id of a current one of the region; docs/cluster.md"
            " says where to find it"
        )
    return lines


def machines_of(cluster: Mapping[str, Any]) -> Machines:
    """Return what a cluster of this file can have; resources come from the file, else from the instance type."""
    filled = copy.deepcopy(dict(cluster))
    for node in node_types(filled).values():
        node["resources"] = node_resources(node)
    head = node_types(filled)[filled["head_node_type"]]
    there = Kind("head", 1, {HEAD_LABEL: 1.0, **head["resources"]}, head.get("labels") or {}, comes=False)
    return with_types(Machines([there]), filled)


def _pools(cluster: Mapping[str, Any], job: JobConfig) -> list[str]:
    """Return why the smallest pools of a job cannot run; models are taken to want GPUs."""
    if (
        job.answer.pool != PoolConfig() and not job.answer.model
    ):  # who asks for its pool means to have a model
        job = replace(job, answer=replace(job.answer, model="any"))
    machines = machines_of(cluster)
    unknown = [name for name, node in node_types(cluster).items() if not node_resources(node)]
    if unknown:
        return [
            f"available_node_types.{name}: how many CPUs and GPUs it has is not known here; write them down, as"
            " `resources: {CPU: 8, GPU: 1}`, or ask for no recipe or pools"
            for name in unknown
        ]
    try:
        check(find_places(job, machines, scorer_gpu=True, answerer_gpu=True), machines)
    except ClusterError as error:
        return [f"available_node_types: {error}"]
    return [f"available_node_types: {line}" for line in too_small(job.cluster.sized_for, machines)]
