"""Keys and values of a cluster file, held against Ray's schema, what Ray reads, and what AWS takes.

Ray's own schema knows the keys of the file and of node types, and nothing of what is handed on to the cloud: a typo
there is an error minutes later, or none at all. Those parts are held against what AWS takes, as botocore describes it.
"""

import copy
import difflib
import importlib.resources
import json
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

AWS_PROVIDER_KEYS = frozenset({
    "type", "region", "availability_zone", "cache_stopped_nodes", "key_pair", "security_group", "use_internal_ips",
    "use_external_head_ip", "aws_credentials", "cloudwatch", "disable_node_updaters", "disable_launch_config_check",
})  # fmt: skip
"""What Ray reads of a provider of type aws."""
RAY_NODE_KEYS = frozenset({"SubnetIds"})
"""What Ray takes in a node_config beside the parameters of RunInstances."""
SCALARS: dict[str, type | tuple[type, ...]] = {
    "integer": int, "long": int, "boolean": bool, "string": str, "float": (int, float), "double": (int, float),
}  # fmt: skip


def node_types(cluster: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the node types of a cluster file by their names; none where it has something else there."""
    found = cluster.get("available_node_types")
    return found if isinstance(found, dict) else {}


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return the nearest right word, as the end of a message; empty where none is near."""
    close = difflib.get_close_matches(found, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def wrong_keys(cluster: Mapping[str, Any]) -> Iterable[str]:
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
    for name in nodes:
        if not isinstance(name, str):
            yield f"available_node_types: found the name {name!r}, expected text; put it in quotes"
    for name, node in nodes.items():
        yield from _unknown(f"available_node_types.{name}.", node, node_keys)
        yield from _no_mappings(
            f"available_node_types.{name}.", node, "node_config", "resources", "labels", "docker"
        )
    yield from _no_mappings("", cluster, "docker", "file_mounts")
    if not isinstance(cluster.get("provider"), dict):
        yield "provider: expected a mapping with type and region"
    head = cluster.get("head_node_type")
    names = [str(name) for name in nodes]
    if not isinstance(head, str) or head not in nodes:
        yield f"head_node_type: found {head!r}, expected one of {', '.join(names)}{did_you_mean(str(head), names)}"


def _no_mappings(where: str, holder: Mapping[str, Any], *keys: str) -> Iterable[str]:
    for key in keys:
        if holder.get(key) is not None and not isinstance(holder[key], dict):
            yield f"{where}{key}: found {shortened(holder[key])}, expected a mapping"


def refused_by_ray(cluster: Mapping[str, Any]) -> list[str]:
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
    # a kind of RuntimeError, and ImportError on one whose package is not installed
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        RuntimeError,
        ImportError,
    ) as error:
        return [f"refused by Ray: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"]
    return []


def wrong_provider(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Keys of the provider that nobody reads, and zones of another region."""
    provider = cluster["provider"]
    if provider.get("type") != "aws":
        return
    yield from _unknown("provider.", provider, AWS_PROVIDER_KEYS)
    region, zones = provider.get("region", ""), provider.get("availability_zone")
    if not region or not isinstance(region, str):
        yield f"provider.region: found {shortened(region)}, expected the name of one, as us-west-2"
        return
    for zone in zones.split(",") if isinstance(zones, str) else []:
        if not zone.strip().startswith(region):
            yield f"provider.availability_zone: {zone.strip()!r} is not in region {region!r}; name zones of one region"


def wrong_node_configs(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Parameters that AWS does not take, of a file for AWS."""
    if cluster["provider"].get("type") != "aws":
        return
    for name, node in node_types(cluster).items():
        where, config = f"available_node_types.{name}.node_config", node.get("node_config") or {}
        yield from _shape(where, config, _run_instances(), RAY_NODE_KEYS)
        if "InstanceType" not in config:
            yield f"{where}: no InstanceType; name one, as g6.2xlarge"


def _shape(where: str, found: Any, shape: Any, more: frozenset[str] = frozenset()) -> Iterable[str]:
    """Hold a value against what AWS takes there."""
    if shape.type_name == "structure":
        if not isinstance(found, dict):
            yield f"{where}: found {shortened(found)}, expected a mapping of {', '.join(list(shape.members)[:4])}, ..."
            return
        yield from _unknown(f"{where}.", found, [*shape.members, *more])
        for name, value in found.items():
            if name in shape.members:
                yield from _shape(f"{where}.{name}", value, shape.members[name])
    elif shape.type_name == "list":
        if not isinstance(found, list):
            yield f"{where}: found {shortened(found)}, expected a list"
            return
        for index, value in enumerate(found):
            yield from _shape(f"{where}[{index}]", value, shape.member)
    elif shape.type_name in SCALARS and not _is(found, SCALARS[shape.type_name]):
        article = "an" if shape.type_name == "integer" else "a"
        yield f"{where}: found {shortened(found)}, expected {article} {shape.type_name}"
    elif getattr(shape, "enum", None) and found not in shape.enum:
        some = "" if len(shape.enum) > 8 else f", expected one of {', '.join(shape.enum)}"
        yield f"{where}: AWS knows no {found!r}{some}{did_you_mean(str(found), shape.enum)}"


def _is(found: Any, wanted: type | tuple[type, ...]) -> bool:
    return isinstance(found, wanted) and (wanted is bool or not isinstance(found, bool))


def _unknown(where: str, found: Mapping[Any, Any], known: Iterable[str]) -> Iterable[str]:
    names = list(known)
    for key in found:
        if key not in names:
            yield f"{where}{key}: nobody reads this key{did_you_mean(str(key), names)}; correct it, or leave it out"


def shortened(found: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
