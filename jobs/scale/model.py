"""What a simulated archive, cluster and store are like: plain numbers, with their units in their names."""

from dataclasses import dataclass, field
from math import inf

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of the flow, cut into units: the slices that Ray's tasks work on.

    An item is a file, a window or a shard. An item has one or two stages on cores: `first` (probe, decode, judge) and
    `second` (score and what follows); between them it goes through the driver.
    """

    name: str
    items: int
    items_per_unit: int
    first_s: float
    """Core seconds of the first stage per item, on average."""
    second_s: float = 0.0
    """Core seconds of the second stage per item; 0 = there is none."""
    beside_s: float = 0.0
    """Core seconds per item that Ray's own processes take on the machine, beside both stages; no useful work."""
    second_start_s: float = 0.0
    """Core seconds until a slot of the second stage takes its first item: its process starts and loads."""
    spread: tuple[float, ...] = (1.0,)
    """Measured times of items divided by their mean; units draw from them."""
    unit_driver_s: float = 0.0
    """Driver's time to launch a unit."""
    first_driver_s: float = 0.0
    """Driver's time per item behind the first stage."""
    second_driver_s: float = 0.0
    """The same behind the second stage."""
    item_requests: float = 0.0
    """Requests to the store per item, before its first stage."""
    item_bytes: float = 0.0
    """Bytes read per item."""
    item_wait_s: float = 0.0
    """Time per item that a slot waits for answers of the store while its core has nothing to do."""
    items_per_part: int = 1
    commit_s: float = 0.0
    """Time of one commit, requests to the store waited for one after another."""
    commit_requests: float = 0.0
    """Requests of staging and committing a part."""

    @property
    def useful_s(self) -> float:
        """Core seconds of the work, done once."""
        return self.items * (self.first_s + self.second_s)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Items per unit."""
        whole, rest = divmod(self.items, self.items_per_unit)
        return np.asarray([self.items_per_unit] * whole + [rest] * bool(rest))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines, how they come and go, and the driver."""

    nodes: int
    cores: int = 32
    first_slots: int = 0
    """Tasks of the first stage on one node; 0 = as many as keep both stages equally busy."""
    second_slots: int = 0
    """Actors of the second stage on one node; 0 = the rest of its cores."""
    boot_s: float = 0.0
    """From asking for a machine until it works; 0 = all are there from the start."""
    least_launch: int = 5
    upscaling: float = 1.0
    """Machines asked for at once: so many times those that run, at least `least_launch`."""
    idle_s: float = 300.0
    """Machines that have nothing to do for so long are given back."""
    losses_per_h: float = 0.0
    """Of one spot machine; it vanishes with all it works on and another is asked for."""
    bytes_per_s: float = inf
    """Network of one machine."""
    commits_at_once: int = 16
    core_speed: float = 1.0
    """Below 1 where others use the cores too."""

    def slots(self, stream: Stream) -> tuple[int, int]:
        """Return slots of both stages on one node."""
        if not stream.second_s:
            return self.first_slots or self.cores, 0
        second = self.second_slots or max(
            1, round(self.cores * stream.second_s / (stream.first_s + stream.second_s))
        )
        return self.first_slots or max(1, self.cores - second), second


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket's limits."""

    requests_per_s: float = inf
    """Of one prefix."""
    prefixes: int = 1
    tolerance_s: float = 1.0
    """Work that may wait in the store; beyond, it says SlowDown."""
    back_off_s: float = 0.5
    """Wait after a SlowDown, half or one and a half times so long; then requests stand in a queue: told so again and
    again, callers would space themselves out to the same rate."""


@dataclass(slots=True)
class Outcome:
    """What came of one stream."""

    wall_s: float = 0.0
    paid_node_s: float = 0.0
    done: int = 0
    """Items finished; each once."""
    repeated: int = 0
    """Units begun again after a machine was lost."""
    lost_nodes: int = 0
    slow_downs: int = 0
    commits: int = 0
    driver_busy_s: float = 0.0
    nodes_at_end: int = 0
    waited_s: dict[str, float] = field(default_factory=dict)
    """Slot seconds waited for the driver and for the store, all slots together."""
