"""What `ray up` copies to the machines of a cluster file and runs there."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.cluster_keys import node_types, shortened

COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
HEAD_COMMANDS = "head_start_ray_commands"
STARTS_HEAD = re.compile(r"\bray\s+start\b.*\s--head\b", re.DOTALL)
OPEN_TO_ALL = re.compile(r"--dashboard-host[=\s]\s*[\"']?(0\.0\.0\.0|::)(?=[\s\"']|$)")
TOKEN = "~/.ray/auth_token"


def wrong_commands(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Commands that are no list of lines."""
    places = [
        ("", cluster),
        *((f"available_node_types.{n}.", node) for n, node in node_types(cluster).items()),
    ]
    for where, holder in places:
        if not isinstance(holder, dict):
            continue
        for key in COMMANDS:
            found = holder.get(key)
            if found is None:
                continue
            if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
                yield f"{where}{key}: found {shortened(found)}, expected a list of commands: `- ` before each"


def wrong_start(cluster: Mapping[str, Any]) -> Iterable[str]:
    """Heads that start no workers, or open their dashboard to everybody."""
    remedy = "name 127.0.0.1; `ray dashboard FILE` forwards it"
    lines = cluster.get(HEAD_COMMANDS)
    if lines is None:
        yield (
            f"{HEAD_COMMANDS}: missing; those that Ray takes then open the dashboard, where jobs are started, on all"
            f" addresses of the head; write them down as in the cluster.yaml of reelsift, and {remedy}"
        )
        return
    for line in lines:
        if found := OPEN_TO_ALL.search(line):
            yield (
                f"{HEAD_COMMANDS}: found --dashboard-host={found[1]}, which opens the dashboard, where jobs are"
                f" started, on all addresses of the head; {remedy}"
            )
        if STARTS_HEAD.search(line) and "--autoscaling-config" not in line:
            yield (
                f"{HEAD_COMMANDS}: found {shortened(line)} without --autoscaling-config, so that no worker is ever"
                " started; add --autoscaling-config=~/ray_bootstrap_config.yaml, which `ray up` writes there"
            )


def missing_files(cluster: Mapping[str, Any]) -> Iterable[str]:
    """What is to be copied to the machines and is not here; relative places are looked for as `ray up` does."""
    for remote, local in (cluster.get("file_mounts") or {}).items():
        if not isinstance(local, str):
            yield f"file_mounts.{remote}: found {shortened(local)}, expected a place on this machine"
        elif not _is_here(local):
            remedy = (
                "`ray get-auth-token --generate` writes it"
                if local == TOKEN
                else "put it there, or leave it out"
            )
            from_here = (
                "" if local.startswith(("/", "~")) else f" (from {Path.cwd()}, where `ray up` looks, too)"
            )
            yield f"file_mounts.{remote}: there is no {local} on this machine{from_here}; {remedy}"


def _is_here(place: str) -> bool:
    try:
        return Path(place).expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, a folder that is closed, `~` of nobody
        return False
