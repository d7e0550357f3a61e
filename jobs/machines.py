"""Which machines a cluster has, and which ones its autoscaler may start.

Ray tells its drivers what is there, not what can come: a cluster that starts from zero looks empty. What can come is
in the file that the autoscaler was started with, on the head, so it is read there: by the driver where it runs on the
head, as submitted jobs do, else by a task without resources. On Kubernetes the autoscaler is a container of its own,
and that file is out of reach: then only what is there is known, and `known` says so.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

HEAD_LABEL = "node:__internal_head__"
"""A resource of the head alone."""
GROUP_LABEL = "ray.io/node-group"
"""Of machines that an autoscaler or KubeRay has started."""
ASK_S = 30.0
"""Seconds that the head may take to say what its autoscaler was told."""
UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """Machines of one kind: what each of them holds, and how many there may be."""

    name: str
    count: int
    """How many at most; those of a fixed cluster are there already."""
    resources: Mapping[str, float]
    """As Ray counts them, for one machine: CPU, GPU, memory."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    comes: bool = True
    """Whether the autoscaler starts it, and `max_workers` counts it."""

    def has(self, labels: Mapping[str, str]) -> bool:
        """Return whether a machine of this kind carries all of some labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())

    def seats(self, needed: Mapping[str, float]) -> int:
        """Return how many times one machine has what is needed."""
        asked = {name: amount for name, amount in needed.items() if amount > 0}
        fits = (int(self.resources.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items())
        return min(fits, default=UNBOUNDED)


@dataclass(frozen=True, slots=True)
class Machines:
    """All that a cluster can ever have."""

    kinds: Sequence[Kind]
    max_workers: int = UNBOUNDED
    """Machines that the autoscaler starts at most, of all kinds together."""
    known: bool = True
    """False where an autoscaler's settings cannot be read, or do not say how large its machines are."""

    def with_labels(self, labels: Mapping[str, str]) -> list[Kind]:
        """Return the kinds that carry the labels and may have a machine."""
        return [kind for kind in self.kinds if kind.count > 0 and kind.has(labels)]

    def total(self, resource: str, labels: Mapping[str, str] | None = None) -> float:
        """Return the most that all machines with the labels can have of a resource at the same time."""
        return self._most(lambda kind: kind.resources.get(resource, 0.0), labels or {})

    def num_seats(self, needed: Mapping[str, float], labels: Mapping[str, str]) -> int:
        """Return how many seats of a size there can be on machines with the labels; a seat never spans two."""
        return int(self._most(lambda kind: min(kind.seats(needed), UNBOUNDED), labels))

    def split(self, resource: str, amount: float) -> "tuple[Machines, Machines]":
        """Return the machines that an amount of a resource takes, and what there can be beside them.

        Those that are there are taken first, then those with the most of it.
        """
        taken: list[Kind] = []
        left: list[Kind] = []
        room = self.max_workers
        for kind in sorted(self.kinds, key=lambda kind: (kind.comes, -kind.resources.get(resource, 0.0))):
            each = kind.resources.get(resource, 0.0)
            wanted = math.ceil(amount / each - 1e-9) if each and amount > 0 else 0
            count = min(wanted, kind.count, room if kind.comes else kind.count)
            amount -= count * each
            room -= count if kind.comes else 0
            taken.append(replace(kind, count=count))
            left.append(replace(kind, count=kind.count - count))
        return replace(self, kinds=taken), replace(self, kinds=left, max_workers=room)

    def _most(self, of: Any, labels: Mapping[str, str]) -> float:
        """Return the sum over the machines with the most of something, within `max_workers`."""
        found, left = 0.0, self.max_workers
        for kind in sorted(self.with_labels(labels), key=of, reverse=True):
            count = min(kind.count, left) if kind.comes else kind.count
            found += count * of(kind)
            left -= count if kind.comes else 0
        return found

    def describe(self) -> str:
        """Return the kinds in one line, for a message."""
        if not self.kinds:
            return "no machine"
        return "; ".join(
            f"{'up to ' if kind.comes else ''}{kind.count} x {kind.name}"
            f" ({', '.join(_amounts(kind))}{''.join(f', {k}={v}' for k, v in sorted(kind.labels.items()))})"
            for kind in self.kinds
        )


def _amounts(kind: Kind) -> list[str]:
    return [f"{kind.resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU")]


def survey_machines() -> Machines:
    """Return what the connected cluster has and can have."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in nodes if HEAD_LABEL in node["Resources"]]
    config = _autoscaler_config(heads[0]["NodeID"]) if heads else None
    if config is not None:
        return grown(nodes, config)
    machines = of_nodes(nodes)
    grows = any(node["Labels"].get(GROUP_LABEL) for node in nodes)
    return replace(machines, known=machines.total("CPU") > 0 and not grows)


def of_nodes(nodes: Sequence[Mapping[str, Any]]) -> Machines:
    """Return the machines that are there, as `ray.nodes()` describes them."""
    kinds = [
        Kind(
            "head" if HEAD_LABEL in node["Resources"] else "machine",
            1,
            {name: amount for name, amount in node["Resources"].items() if not name.startswith("node:")},
            {name: value for name, value in node["Labels"].items() if not name.startswith("ray.io/")},
            comes=False,
        )
        for node in nodes
    ]
    return Machines(_merged(kinds))


def _merged(kinds: Sequence[Kind]) -> list[Kind]:
    """Return equal machines as one kind, so that a thousand of them are one line."""
    counts: dict[tuple[Any, ...], Kind] = {}
    for kind in kinds:
        counted = {name: kind.resources[name] for name in ("CPU", "GPU") if name in kind.resources}
        same = (kind.name, *sorted(counted.items()), *sorted(kind.labels.items()))
        before = counts[same].count if same in counts else 0
        counts[same] = Kind(kind.name, before + kind.count, kind.resources, kind.labels, comes=kind.comes)
    return list(counts.values())


def grown(nodes: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Machines:
    """Return the machines of `ray.nodes()` with all that their autoscaler may start.

    A machine of a type whose size is known is one of those that the type may have; of all others, as those that
    joined by hand, only their being there tells.
    """
    sized = {name for name, node in _worker_types(config).items() if node.get("resources")}
    apart = [
        node
        for node in nodes
        if HEAD_LABEL in node["Resources"] or node["Labels"].get(GROUP_LABEL) not in sized
    ]
    return with_types(of_nodes(apart), config)


def with_types(there: Machines, config: Mapping[str, Any]) -> Machines:
    """Return what is there and, beside it, the worker node types of an autoscaler's configuration."""
    limit = int(config.get("max_workers", UNBOUNDED))
    kinds = [
        Kind(
            name,
            min(int(node.get("max_workers", limit)), limit),
            dict(node.get("resources", {})),
            dict(node.get("labels", {})),
        )
        for name, node in _worker_types(config).items()
    ]
    known = all(kind.resources for kind in kinds if kind.count)
    return Machines([*there.kinds, *kinds], max_workers=limit, known=known)


def _worker_types(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the node types that workers may have: the head's too, where it says so."""
    head = config.get("head_node_type")
    types = config.get("available_node_types", {})
    return {name: node for name, node in types.items() if name != head or node.get("max_workers")}


def _autoscaler_config(head_id: str) -> dict[str, Any] | None:
    """Return what the head's autoscaler was started with, None without one."""
    import ray
    from ray.exceptions import RayError
    from ray.util import client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.get_runtime_context()
    if context.get_node_id() == head_id and not client.ray.is_connected():
        return read_autoscaler_config(context.gcs_address)
    strategy: Any = NodeAffinitySchedulingStrategy(head_id, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=1, scheduling_strategy=strategy)(read_autoscaler_config)
    try:
        return ray.get(task.remote(context.gcs_address), timeout=ASK_S)
    except RayError as error:
        logger.warning(
            "the head does not say what its autoscaler may start: %s", str(error).partition("\n")[0]
        )
        return None


def read_autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """Return the configuration of the autoscaler that runs on this machine for a cluster, None without one.

    Args:
        gcs_address: the cluster's; one machine may be the head of several.
    """
    import psutil
    import yaml

    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if f"--gcs-address={gcs_address}" not in words or not any(_is_monitor(word) for word in words):
            continue
        for word in words:
            name, _, place = word.partition("=")
            if name == "--autoscaling-config":
                try:
                    return yaml.safe_load(Path(place).expanduser().read_text(encoding="utf-8"))
                except (OSError, yaml.YAMLError) as error:
                    logger.warning(
                        "%s, what the autoscaler was started with, cannot be read: %s", place, error
                    )
    return None


def _is_monitor(word: str) -> bool:
    return Path(word).name == "monitor.py"
