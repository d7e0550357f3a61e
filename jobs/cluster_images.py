"""Which Ray and which Python the images and commands of a cluster file bring."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from jobs.cluster_keys import node_types
from jobs.cluster_nodes import node_resources
from jobs.cluster_start import COMMANDS

OF_RAY = re.compile(r"(?:docker\.io/)?rayproject/ray(?:-ml|-llm)?(?::(?P<tag>[^@]*))?(?P<digest>@.*)?")
TAG = re.compile(r"(?P<ray>\d+\.\d+\.\d+)[^-]*(?:-py(?P<python>\d+))?(?:-(?P<kind>cu|gpu))?")
PINNED = re.compile(r"\bray(?:\[[\w,-]*\])?==(\d+\.\d+\.\d+)")


def wrong_versions(cluster: Mapping[str, Any], pins: str) -> Iterable[str]:
    """Pins, images and commands with another Ray than the one here."""
    ours = version("ray")
    pinned = re.search(r"^ray==(\S+)", pins, re.MULTILINE)
    if pinned and pinned[1] != ours:
        yield f"constraints.txt: pins ray=={pinned[1]}, here is {ours}; `make constraints` writes it anew"
    yield from _wrong_images(cluster, ours)
    for key in COMMANDS:
        for found in PINNED.findall(" ".join(cluster.get(key) or [])):
            if found != ours:
                yield f"{key}: installs ray=={found}, here is {ours}; leave it to the image, or name {ours}"


def _wrong_images(cluster: Mapping[str, Any], ours: str) -> Iterable[str]:
    """Images of Ray's own that hold another one, or whichever is the latest, or do not fit their machines."""
    pythons = dict[str, str]()
    for where, image, gpus in _images(cluster):
        named = OF_RAY.fullmatch(image)
        if named is None or named["digest"]:
            continue  # an image of one's own: its versions are not in its name
        found = TAG.match(named["tag"] or "")
        if found is None:
            yield (
                f"{where}: {image} names no version of Ray, and holds another one from some day on; take"
                f" rayproject/ray:{ours}-..."
            )
            continue
        if found["ray"] != ours:
            yield f"{where}: {image} holds Ray {found['ray']}, here is {ours}; take rayproject/ray:{ours}-..."
        pythons[where] = found["python"] or "(none named)"
        if gpus and not found["kind"]:
            yield f"{where}: {image} has no CUDA, and its machines have GPUs; take one of {image}-cu..."
    if len(set(pythons.values())) > 1:
        told = ", ".join(f"{where} {python}" for where, python in pythons.items())
        yield f"docker: images of different Pythons ({told}); Ray joins only machines with the same"


def _images(cluster: Mapping[str, Any]) -> Iterable[tuple[str, str, bool]]:
    """Yield where an image is named, the image, and whether machines with GPUs run it."""
    docker = cluster.get("docker") or {}
    head = cluster["head_node_type"]
    plain = {key: str(docker[key]) for key in ("image", "head_image", "worker_image") if docker.get(key)}
    with_gpus = False
    for name, node in node_types(cluster).items():
        gpus = bool(node_resources(node).get("GPU"))
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
