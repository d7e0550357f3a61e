"""On-demand machines where spot machines are refused.

A cloud that has no spot capacity refuses each launch, and Ray's autoscaler asks for the same node type again, for ever.
What it asks for and what came of it, it says itself; so a job that has watched spot machines being refused for long
enough makes a demand that only the on-demand type of the same labels can meet: a placement group of next to nothing.
The machine that comes for it takes the actors and tasks that wait, so the group goes as soon as the machine is there:
from then on the machine stays while it has work, as any other, and goes when it has none. A group belongs to its job,
and ends with it however the job ends.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.machines import Machines, survey_machines

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""As often as Ray's autoscaler decides."""
STATUS_S = 3
"""Seconds that Ray may take to say what its autoscaler is at."""
GIVE_UP_S = 600.0
"""Seconds after which on-demand machines count as refused, too: time for one to boot."""
STOP_S = 5.0
"""Seconds that a run waits, at its end, for a look that hangs."""
REPLY_S = 1.0
"""Seconds that Ray may take to say whether a demand is met: of a busy cluster, a wait of 0 learns nothing."""
NEXT_TO_NOTHING = {"CPU": 0.001}
"""What the demand reserves of each machine: it must leave room for what waits."""


@dataclass(frozen=True, slots=True)
class Role:
    """Node types whose labels differ in their market alone."""

    labels: Mapping[str, str]
    """Of the on-demand ones."""
    spot: frozenset[str]
    on_demand: frozenset[str]
    most: int
    """On-demand machines that there may be."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an autoscaler was at, by node type."""

    at_s: float
    asked: Mapping[str, int]
    """Machines that were asked for, and that the cloud has not granted."""
    have: Mapping[str, int]
    """Machines that were granted: they boot, or are there."""


@dataclass(slots=True)
class Wait:
    """How long one role has been refused spot machines, and since when an on-demand one is asked for instead.

    Machines come one by one, each when the one before it is there, for as long as no spot machine comes.
    """

    role: Role
    after_s: float
    refused_since_s: float | None = None
    asked_since_s: float | None = None
    num_spot: int = 0
    demand: Any = None
    """The placement group, while an on-demand machine is asked for."""

    def step(self, look: Look, *, is_there: bool) -> bool:
        """Return whether an on-demand machine is to be asked for from this look on.

        Args:
            look: the next one.
            is_there: whether the machine that was asked for has joined.
        """
        num_spot = sum(look.have.get(name, 0) for name in self.role.spot)
        came, self.num_spot = num_spot > self.num_spot, num_spot
        if self.asked_since_s is None:
            self._watch(look, came=came)
        elif is_there:
            self.asked_since_s = None
        elif came or look.at_s - self.asked_since_s >= GIVE_UP_S:
            # the autoscaler reckons with the machine it was asked for, and asks for no spot one in the meantime
            self.asked_since_s = self.refused_since_s = None
        return self.asked_since_s is not None

    def _watch(self, look: Look, *, came: bool) -> None:
        if came or not any(look.asked.get(name) for name in self.role.spot):
            self.refused_since_s = None
        elif self.refused_since_s is None:
            self.refused_since_s = look.at_s
        elif (
            look.at_s - self.refused_since_s >= self.after_s
            and sum(look.have.get(name, 0) for name in self.role.on_demand) < self.role.most
        ):
            self.asked_since_s = look.at_s


def find_roles(machines: Machines) -> list[Role]:
    """Return the roles that have spot and on-demand machines, by the label `market` of node types that may come."""
    kinds = [kind for kind in machines.kinds if kind.comes and kind.count > 0]
    roles: list[Role] = []
    for labels in {tuple(sorted(kind.labels.items())): kind.labels for kind in kinds}.values():
        if labels.get("market") != "on-demand":
            continue
        spot = {**labels, "market": "spot"}
        alike = [kind for kind in kinds if kind.labels == labels]
        names = frozenset(kind.name for kind in kinds if kind.labels == spot)
        if names:
            most = sum(kind.count for kind in alike)
            roles.append(Role(labels, names, frozenset(kind.name for kind in alike), most))
    return roles


@contextmanager
def on_demand_after(after_s: float) -> Generator[None]:
    """Ask for on-demand machines, until the end, where spot ones of their role were refused for so long.

    Args:
        after_s: 0 = never. Nothing is asked for either where the autoscaler's file cannot be read or has no on-demand
            types beside spot ones, and by drivers that come through Ray's client.
    """
    from ray.util import client

    roles = find_roles(survey_machines()) if after_s and not client.ray.is_connected() else []
    if not roles:
        yield
        return
    stopped = threading.Event()
    waits = [Wait(role, after_s) for role in roles]
    thread = threading.Thread(target=_keep_looking, args=(waits, stopped), name="on-demand", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(STOP_S)
        for wait in waits:
            with contextlib.suppress(Exception):  # leaving Ray withdraws them, too
                _withdraw(wait)


def _keep_looking(waits: list[Wait], stopped: threading.Event) -> None:
    """Look again and again, until stopped."""
    has_failed = False
    while not stopped.wait(LOOK_EVERY_S):
        try:
            look = _look()
            for wait in waits:
                if not stopped.is_set():  # the run may have left Ray, and asking would join it anew
                    _follow(wait, look)
        except Exception:
            if not has_failed:
                logger.exception("on-demand machines cannot be asked for; the run goes on")
            has_failed = True


def _follow(wait: Wait, look: Look) -> None:
    """Ask, or ask no longer, as one look makes it."""
    from ray.util.placement_group import placement_group

    is_there = wait.demand is not None and wait.demand.wait(REPLY_S)
    names = ", ".join(sorted(wait.role.on_demand))
    asks = wait.step(look, is_there=is_there)
    if asks and wait.demand is None:
        logger.warning(
            "no spot machine (%s) came for %.0f s: asking for an on-demand one (%s)",
            ", ".join(sorted(wait.role.spot)), look.at_s - (wait.refused_since_s or 0.0), names,
        )  # fmt: skip
        # each on a machine of its own: those that are there already do not meet it
        count = 1 + sum(look.have.get(name, 0) for name in wait.role.on_demand)
        wait.demand = placement_group(
            [NEXT_TO_NOTHING] * count, "STRICT_SPREAD", bundle_label_selector=[dict(wait.role.labels)] * count
        )
    elif not asks and wait.demand is not None:
        logger.info(
            "the on-demand machine (%s) %s", names, "is there" if is_there else "is no longer asked for"
        )
        _withdraw(wait)


def _withdraw(wait: Wait) -> None:
    from ray.util.placement_group import remove_placement_group

    demand, wait.demand = wait.demand, None
    if demand is not None:
        remove_placement_group(demand)


def _look() -> Look:
    """Return what the autoscaler of the connected cluster is at."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address, STATUS_S)
    asked: Counter[str] = Counter()
    for launch in status.pending_launches:
        asked[launch.ray_node_type_name] += launch.count
    nodes = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes]
    return Look(time.monotonic(), asked, Counter(node.ray_node_type_name for node in nodes))
