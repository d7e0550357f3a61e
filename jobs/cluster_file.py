"""What is wrong with a cluster file, before `ray up` has started a machine for it: everything at once.

Ray's own schema knows the keys of the file and of node types, and nothing of what is handed on to the cloud: a typo
there is an error minutes later, or none at all. Those parts are held against what AWS takes, as botocore describes
it, and against the keys that Ray reads. Nothing here asks a network.
"""

import copy
import difflib
import importlib.resources
import json
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from jobs.instances import instance_resources
from jobs.machines import HEAD_LABEL, Kind, Machines, with_types
from jobs.placement import DECODING_MACHINES, GPU_MACHINES, check, find_places
from jobs.preflight import too_small
from pipeline.config import JobConfig
from pipeline.errors import ClusterError, ConfigError

AWS_PROVIDER_KEYS = frozenset({
    "type", "region", "availability_zone", "cache_stopped_nodes", "key_pair", "security_group", "use_internal_ips",
    "use_external_head_ip", "aws_credentials", "cloudwatch", "disable_node_updaters", "disable_launch_config_check",
})  # fmt: skip
"""What Ray reads of a provider of type aws."""
RAY_NODE_KEYS = frozenset({"SubnetIds"})
"""What Ray takes in a node_config beside the parameters of RunInstances."""
DEFAULT_IMAGE = "latest_dlami"
"""What Ray calls its own default, which it also takes where none is named."""
COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
IMAGE = re.compile(
    r"rayproject/ray(?:-ml)?:(?P<ray>\d+\.\d+\.\d+)[^-]*(?:-py(?P<python>\d+))?(?:-(?P<kind>cu|gpu))?"
)
PINNED = re.compile(r"\bray(?:\[[\w,-]*\])?==(\d+\.\d+\.\d+)")
SCALARS: dict[str, type | tuple[type, ...]] = {
    "integer": int, "long": int, "boolean": bool, "string": str, "float": (int, float), "double": (int, float),
}  # fmt: skip


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
    problems = [*_keys(cluster), *_commands(cluster)]
    if problems:
        return problems  # Ray's own check would say less, or break on it
    problems = [
        *_schema(cluster),
        *_provider(cluster),
        *_versions(cluster, pins),
        *_limits(cluster),
        *_roles(cluster),
    ]
    for name, node in _types(cluster).items():
        if cluster.get("provider", {}).get("type") == "aws":
            where = f"available_node_types.{name}.node_config"
            problems += _shape(where, node.get("node_config") or {}, _run_instances(), RAY_NODE_KEYS)
            if "InstanceType" not in (node.get("node_config") or {}):
                problems.append(f"{where}: no InstanceType; name one, as g6.2xlarge")
    return problems if problems or job is None else _pools(cluster, job)


def find_warnings(cluster: Mapping[str, Any]) -> list[str]:
    """Return what is no mistake and yet fails in many accounts, of a file without problems; only AWS is known."""
    if cluster["provider"].get("type") != "aws":
        return []
    head = cluster["head_node_type"]
    profiled, old = list[str](), list[str]()
    for name, node in _types(cluster).items():
        config = node.get("node_config") or {}
        if "IamInstanceProfile" in config:
            profiled.append(name)
        image = config.get("ImageId") or ("" if "LaunchTemplate" in config else DEFAULT_IMAGE)
        if _has_gpu(node) and image.lower() == DEFAULT_IMAGE:
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
    for node in _types(filled).values():
        known = instance_resources(str((node.get("node_config") or {}).get("InstanceType", "")))
        node["resources"] = known | (node.get("resources") or {})
    head = _types(filled)[filled["head_node_type"]]
    there = Kind("head", 1, {HEAD_LABEL: 1.0, **head["resources"]}, head.get("labels") or {}, comes=False)
    return with_types(Machines([there]), filled)


def _pools(cluster: Mapping[str, Any], job: JobConfig) -> list[str]:
    """Return why the smallest pools of a job cannot run; models are taken to want GPUs."""
    machines = machines_of(cluster)
    unknown = [
        name
        for name, node in _types(cluster).items()
        if not (node.get("resources") or instance_resources(str(node["node_config"].get("InstanceType", ""))))
    ]
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


def _keys(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Unknown keys of the file and of its node types."""
    schema = _ray_schema()
    yield from _unknown("", cluster, schema["properties"])
    node_keys = next(iter(schema["properties"]["available_node_types"]["patternProperties"].values()))[
        "properties"
    ]
    nodes = cluster.get("available_node_types")
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        yield "available_node_types: expected a mapping from names to node types"
        return
    for name, node in nodes.items():
        yield from _unknown(f"available_node_types.{name}.", node, node_keys)
        for key in ("node_config", "resources", "labels"):
            if node.get(key) is not None and not isinstance(node[key], dict):
                yield f"available_node_types.{name}.{key}: found {node[key]!r}, expected a mapping"
    if not isinstance(cluster.get("provider"), dict):
        yield "provider: expected a mapping with type and region"
    head = cluster.get("head_node_type")
    if head not in nodes:
        yield f"head_node_type: found {head!r}, expected one of {', '.join(nodes)}{_hint(str(head), nodes)}"


def _commands(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Commands that are no list of lines."""
    places = [("", cluster), *((f"available_node_types.{n}.", node) for n, node in _types(cluster).items())]
    for where, holder in places:
        if not isinstance(holder, dict):
            continue
        for key in COMMANDS:
            found = holder.get(key)
            if found is None:
                continue
            if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
                yield f"{where}{key}: found {_short(found)}, expected a list of commands: `- ` before each"


def _schema(cluster: Mapping[str, Any]) -> list[str]:
    """What Ray itself refuses."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    try:
        validate_config(prepare_config(copy.deepcopy(dict(cluster))))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the file"
        return [f"{where}: {error.message}, by Ray's schema"]
    # on a file of the wrong shape Ray raises whatever its code comes across; on a provider that it does not know,
    # NotImplementedError, and ImportError on one whose package is not installed
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, ImportError) as error:
        return [f"refused by Ray: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"]
    return []


def _provider(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Keys of the provider that nobody reads, and zones of another region."""
    provider = cluster["provider"]
    if provider.get("type") != "aws":
        return
    yield from _unknown("provider.", provider, AWS_PROVIDER_KEYS)
    region, zones = provider.get("region", ""), provider.get("availability_zone")
    if not region:
        yield "provider.region: missing; name one, as us-west-2"
    for zone in zones.split(",") if isinstance(zones, str) else []:
        if region and not zone.strip().startswith(region):
            yield f"provider.availability_zone: {zone.strip()!r} is not in region {region!r}; name zones of one region"


def _versions(cluster: Mapping[str, Any], pins: str) -> Iterable[str]:
    """Images and commands with another Ray than the one here."""
    ours, pythons = version("ray"), dict[str, str]()
    pinned = re.search(r"^ray==(\S+)", pins, re.MULTILINE)
    if pinned and pinned[1] != ours:
        yield f"constraints.txt: pins ray=={pinned[1]}, here is {ours}; `make constraints` writes it anew"
    for where, image, gpus in _images(cluster):
        found = IMAGE.match(image)
        if found is None:
            continue  # an image of one's own: its versions are not in its name
        if found["ray"] != ours:
            yield f"{where}: {image} holds Ray {found['ray']}, here is {ours}; take rayproject/ray:{ours}-..."
        pythons[where] = found["python"] or "(none named)"
        if gpus and not found["kind"]:
            yield f"{where}: {image} has no CUDA, and its machines have GPUs; take one of {image}-cu..."
    if len(set(pythons.values())) > 1:
        told = ", ".join(f"{where} {python}" for where, python in pythons.items())
        yield f"docker: images of different Pythons ({told}); Ray joins only machines with the same"
    for key in COMMANDS:
        for found in PINNED.findall(" ".join(cluster.get(key) or [])):
            if found != ours:
                yield f"{key}: installs ray=={found}, here is {ours}; leave it to the image, or name {ours}"


def _images(cluster: Mapping[str, Any]) -> Iterable[tuple[str, str, bool]]:
    """Yield where an image is named, the image, and whether machines with GPUs run it."""
    docker = cluster.get("docker") or {}
    head = cluster["head_node_type"]
    plain = {key: str(docker[key]) for key in ("image", "head_image", "worker_image") if docker.get(key)}
    with_gpus = False
    for name, node in _types(cluster).items():
        gpus = _has_gpu(node)
        own = (node.get("docker") or {}).get("worker_image")
        if own:
            yield f"available_node_types.{name}.docker", str(own), gpus
        else:
            with_gpus = with_gpus or (gpus and name != head)
    for key, image in plain.items():
        yield (
            f"docker.{key}",
            image,
            with_gpus and key == ("worker_image" if "worker_image" in plain else "image"),
        )


def _has_gpu(node: Mapping[str, Any]) -> bool:
    known = instance_resources(str((node.get("node_config") or {}).get("InstanceType", "")))
    return bool((known | (node.get("resources") or {})).get("GPU"))


def _limits(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Numbers of machines that nobody has set."""
    if "max_workers" not in cluster:
        yield "max_workers: missing; without it Ray starts 2 machines at most"
    for name, node in _types(cluster).items():
        if name != cluster["head_node_type"] and "max_workers" not in node:
            yield (
                f"available_node_types.{name}.max_workers: missing; without it one type may take all of"
                f" max_workers ({cluster.get('max_workers', 2)})"
            )


def _roles(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Labels that are nearly those that a job asks for."""
    known = [DECODING_MACHINES["role"], GPU_MACHINES["role"]]
    for name, node in _types(cluster).items():
        labels = node.get("labels") or {}
        for key in labels:
            if key != "role" and difflib.get_close_matches(str(key), ["role"], n=1, cutoff=0.75):
                yield f"available_node_types.{name}.labels: found {key!r}; did you mean 'role'?"
        role = labels.get("role")
        if isinstance(role, str) and role not in known:
            hint = _hint(role, known)
            yield f"available_node_types.{name}.labels.role: found {role!r}, a job asks for {' or '.join(known)}{hint}"


def _shape(where: str, found: Any, shape: Any, more: frozenset[str] = frozenset()) -> Iterable[str]:
    """Hold a value against what AWS takes there."""
    if shape.type_name == "structure":
        if not isinstance(found, dict):
            yield f"{where}: found {_short(found)}, expected a mapping of {', '.join(list(shape.members)[:4])}, ..."
            return
        yield from _unknown(f"{where}.", found, [*shape.members, *more])
        for name, value in found.items():
            if name in shape.members:
                yield from _shape(f"{where}.{name}", value, shape.members[name])
    elif shape.type_name == "list":
        if not isinstance(found, list):
            yield f"{where}: found {_short(found)}, expected a list"
            return
        for index, value in enumerate(found):
            yield from _shape(f"{where}[{index}]", value, shape.member)
    elif shape.type_name in SCALARS and not _is(found, SCALARS[shape.type_name]):
        article = "an" if shape.type_name == "integer" else "a"
        yield f"{where}: found {_short(found)}, expected {article} {shape.type_name}"
    elif getattr(shape, "enum", None) and found not in shape.enum:
        some = "" if len(shape.enum) > 8 else f", expected one of {', '.join(shape.enum)}"
        yield f"{where}: AWS knows no {found!r}{some}{_hint(str(found), shape.enum)}"


def _is(found: Any, wanted: type | tuple[type, ...]) -> bool:
    return isinstance(found, wanted) and (wanted is bool or not isinstance(found, bool))


def _unknown(where: str, found: Mapping[str, Any], known: Iterable[str]) -> Iterable[str]:
    names = list(known)
    for key in found:
        if key not in names:
            yield f"{where}{key}: nobody reads this key{_hint(str(key), names)}; correct it, or leave it out"


def _hint(found: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(found, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _types(cluster: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return cluster.get("available_node_types") or {}


@cache
def _ray_schema() -> dict[str, Any]:
    return json.loads(importlib.resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text())


@cache
def _run_instances() -> Any:
    """Return what AWS takes to start machines, as botocore describes it."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return (
        ServiceModel(Loader().load_service_model("ec2", "service-2"))
        .operation_model("RunInstances")
        .input_shape
    )
