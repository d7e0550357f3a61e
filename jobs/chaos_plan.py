"""What goes wrong in a run of `reelsift bench chaos`, and when: drawn from a seed, so that a run can be had again."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.fault_proxy import Fault

KILLS = ("driver", "step", "scorer", "loading", "task", "child", "node")
"""driver = at some time; step = the driver, just as it asks the store for something; loading = an actor that has just
begun; task = a process that runs one; child = a process that decodes; node = the raylet of a machine."""
STEPS: dict[str, tuple[str, str]] = {
    "list": ("PUT", "/manifest/"),
    "open": ("PUT", "/config.json"),
    "read": ("GET", "/in/good"),
    "stage": ("PUT", "/staging/"),
    "record": ("PUT", "/commits/"),
    "publish videos": ("PUT", "/videos/"),
    "publish answers": ("PUT", "/answers/"),
    "publish frames": ("PUT", "/frames/"),
    "publish verdicts": ("PUT", "/verdicts/"),
    "clear": ("DELETE", "/staging/"),
    "close": ("PUT", "/stats.json"),
}
"""Requests to the store: verb, and what the path holds."""
ATTEMPTS = 3
"""The command, and two re-runs."""
ALL, BUSY = "requests", "requests until the last part was staged"
"""Counted beside the steps: a run is as far as the store has heard of it, however slow the machine. After the second
there is nobody left to kill but the driver and machines."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One process killed."""

    kind: str
    after: int = 0
    """How many requests the store has heard since the command began; without a victim then, as soon as there is one."""
    away_s: float = 0.0
    """How long a node stays away."""
    step: str = ""
    nth: int = 1
    """Which request of a step."""
    reaches: bool = True
    """Whether the store does what it is asked, and nobody hears of it; else it is not asked."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What goes wrong in one run of the command."""

    strikes: tuple[Strike, ...] = ()
    fault_share: float = 0.0
    """Of the requests to the store."""
    fault_seed: int = 0

    @property
    def kinds(self) -> list[str]:
        """Return what it is made of, for people."""
        names = [
            f"step: {s.step} {s.nth}{'' if s.reaches else ' lost'}" if s.step else s.kind
            for s in self.strikes
        ]
        return [*names, *([f"S3 {100 * self.fault_share:.0f} %"] if self.fault_share else [])]


def draw(seed: int, number: int, steps: Mapping[str, int]) -> tuple[Attempt, ...]:
    """Return what goes wrong in the attempts of a run; the last one meets nothing worse than a few faults of S3.

    Args:
        seed: of all runs.
        number: of this run; every kind has its turn.
        steps: how often an undisturbed run takes each step, how many requests it makes in ALL and while BUSY.
    """
    rng = random.Random(f"{seed}-{number}")
    first = [KILLS[number % len(KILLS)], *rng.choices(KILLS, k=rng.choice((0, 1, 1, 2)))]
    second = rng.choices(KILLS, k=rng.choice((0, 0, 1, 2)))
    shares = [rng.choice((0.0, 0.02, 0.05)), rng.choice((0.0, 0.02, 0.05)), rng.choice((0.0, 0.02))]
    return tuple(
        Attempt(tuple(_strike(kind, rng, steps) for kind in kinds), share, fault_seed=rng.randrange(2**32))
        for kinds, share in zip((first, second, ()), shares, strict=True)
    )


def _strike(kind: str, rng: random.Random, steps: Mapping[str, int]) -> Strike:
    if kind == "step":
        step = rng.choice([name for name in STEPS if steps.get(name)])
        return Strike(kind, step=step, nth=rng.randint(1, steps[step]), reaches=rng.random() < 0.5)
    after = 0 if kind == "loading" else rng.randrange(steps[ALL if kind in ("driver", "node") else BUSY])
    return Strike(kind, after, away_s=rng.uniform(0.5, 4.0) if kind == "node" else 0.0)


def draw_fault(rng: random.Random, share: float) -> Fault | None:
    """Return what becomes of a request to the store: nothing, mostly."""
    if rng.random() >= share:
        return None
    return rng.choice(
        (
            Fault("lost"),
            Fault("reset", after_bytes=0),
            Fault("reset", after_bytes=rng.randrange(2000)),
            Fault("close", after_bytes=rng.randrange(2000)),
            Fault("slow"),
            Fault("refusal"),
            Fault("refusal", code="InternalError", status=500),
        )
    )
