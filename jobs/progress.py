"""How far a run is, in words: one line per stage with what is done, of how many, how fast, how long still, what failed.

Nothing here looks anything up: what is known comes as plain values, lines come out. A job's own display (display.py)
and `reelsift status` say it with the same words.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RECENT_S = 60.0
"""Rates look back this far, and at least over RECENT_STEPS steps."""
RECENT_STEPS = 8
STALLED_S = 60.0
"""Seconds without a finished row after which it is said what the run waits for."""
BAR = 10
"""Characters of a bar."""
STYLES = {"red": "31", "yellow": "33", "dim": "2", "bold": "1"}
DROPPED = (1, 2, 7, 4, 5)
"""Columns that a narrow terminal goes without, first to last: bar, percent, workers, rate, time left."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Actors of a stage."""

    num_running: int
    num_pending: int
    num_cpus: float = 0.0
    """Of one actor."""
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """How far one stage is."""

    name: str
    done: int
    total: int | None = None
    """None = it is not known."""
    failed: int = 0
    per_s: float | None = None
    """Lately; None = it is not known yet."""
    num_tasks: int = 0
    """Running now."""
    pool: Pool | None = None
    is_committed: bool = False
    """Whether it counts what is committed, and not what a stage put out."""

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        if self.total is None or not self.per_s:
            return None
        return max(0, self.total - self.done) / self.per_s

    @property
    def is_finished(self) -> bool:
        return self.total is not None and self.done >= self.total


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines that are there."""

    nodes: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many, by their label `role`; "" = without one."""
    num_cpus: float = 0.0
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """One stream at one time."""

    name: str
    elapsed_s: float
    stages: Sequence[Stage]
    cluster: Cluster | None = None
    """None = it is not known."""
    idle_s: float = 0.0
    """Since a row was finished."""


class Pace:
    """How fast a number has grown lately."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, done: int) -> None:
        """Note a number; the first step's work is not counted, for when it began is not known."""
        if not done or (self.steps and done <= self.steps[-1][1]):
            return
        self.steps.append((at_s, done))
        while len(self.steps) > RECENT_STEPS and self.steps[1][0] < at_s - RECENT_S:
            self.steps.popleft()

    def per_s(self, now_s: float | None = None) -> float | None:
        """Return the growth per second until now, which falls while nothing comes; without a time, until the last step.

        None after fewer than two steps.
        """
        if len(self.steps) < 2:
            return None
        until_s = self.steps[-1][0] if now_s is None else now_s
        lasted_s = until_s - self.steps[0][0]
        return (self.steps[-1][1] - self.steps[0][1]) / lasted_s if lasted_s > 0 else None


def left_s(stages: Sequence[Stage]) -> float | None:
    """Return the seconds that the slowest stage still takes; None while one has not finished a row."""
    if any(not stage.done and not stage.is_committed for stage in stages):
        return None
    return max((stage.left_s for stage in stages if stage.left_s is not None), default=None)


def lines(view: View, width: int | None = None, *, bar: bool = False, colour: bool = False) -> list[str]:
    """Return a line on the stream, one per stage, and one per thing that is waited for.

    Args:
        view: what is known.
        width: columns of the terminal, none of which a line exceeds; None = any number.
        bar: whether there is a bar in each line.
        colour: whether escape sequences colour it.
    """
    head = [span(view.elapsed_s)]
    is_going = any(stage.total is not None and not stage.is_finished for stage in view.stages)
    if is_going and (rest_s := left_s(view.stages)) is not None:
        head.append(f"about {span(rest_s)} left")
    if view.cluster is not None:
        head.append(_machines(view.cluster.nodes))
    said = [_fit([(f"{view.name}: ", "bold"), (", ".join(head), "")], width, colour=colour)]
    said += stage_lines(view.stages, width, bar=bar, colour=colour)
    return said + [_fit([(f"  {text}", "yellow")], width, colour=colour) for text in waits(view)]


def stage_lines(
    stages: Sequence[Stage], width: int | None = None, *, bar: bool = False, colour: bool = False
) -> list[str]:
    """Return one line per stage, in columns; see `lines`."""
    table = [_cells(stage) for stage in stages]
    kept = [column for column in range(len(table[0])) if bar or column != 1] if table else []
    kept = [column for column in kept if any(cells[column] for cells in table)]
    sizes = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))] if table else []
    for column in DROPPED:
        if width is None or sum(sizes[one] + 2 for one in kept) <= width:
            break
        kept = [one for one in kept if one != column]
    said: list[str] = []
    for stage, cells in zip(stages, table, strict=True):
        parts: list[tuple[str, str]] = []
        for column in kept:
            text = (
                cells[column].ljust(sizes[column]) if column in {0, 7} else cells[column].rjust(sizes[column])
            )
            style = "red" if column == 6 else "dim" if stage.is_finished else ""
            parts.append((f"  {text}", style))
        said.append(_fit(parts, width, colour=colour))
    return said


def _cells(stage: Stage) -> list[str]:
    """Return name, bar, percent, count, rate, time left, failures and workers of a stage; "" = nothing to say."""
    of, share, bar = "", "", ""
    if stage.total is not None:
        of = f"/{stage.total:,}"
        part = min(1.0, stage.done / stage.total) if stage.total else 1.0
        share, bar = f"{int(100 * part)} %", ("#" * int(BAR * part)).ljust(BAR, ".")
    is_going = not stage.is_finished
    left = f"{span(stage.left_s)} left" if is_going and stage.left_s is not None else ""
    return [
        stage.name,
        bar,
        share,
        f"{stage.done:,}{of}",
        rate(stage.per_s) if stage.per_s is not None else "",
        left,
        f"{stage.failed:,} failed" if stage.failed else "",
        _workers(stage) if is_going else "",
    ]


def _workers(stage: Stage) -> str:
    """Return what works on a stage now."""
    at_work = [f"{stage.num_tasks} running"] if stage.num_tasks else []
    if stage.pool is not None:
        at_work.append(_count(stage.pool.num_running, "actor"))
        at_work += [f"{stage.pool.num_pending} starting"] if stage.pool.num_pending else []
    return ", ".join(at_work)


def waits(view: View) -> list[str]:
    """Return what keeps a run waiting: pools without an actor, and what goes on while no row is finished."""
    going = [stage for stage in view.stages if not stage.is_finished]
    empty = [stage for stage in going if stage.pool is not None and not stage.pool.num_running]
    said = [f"{stage.name} {_misses(stage.pool, view.cluster)}" for stage in empty if stage.pool is not None]
    if view.idle_s >= STALLED_S:
        running = [
            f"{stage.name} has {_count(stage.num_tasks, 'task')} running"
            for stage in going
            if stage.num_tasks
        ]
        text = (
            "; ".join(running)
            or "no task is running: the cluster has no room for one, or none is left to start"
        )
        said.append(f"no row finished for {span(view.idle_s)}: {text}")
    return said


def _misses(pool: Pool, cluster: Cluster | None) -> str:
    """Return what a pool without a running actor waits for."""
    if cluster is not None and cluster.num_gpus < pool.num_gpus:
        return f"is waiting for a GPU machine: an actor needs {pool.num_gpus:g} GPUs, {cluster.num_gpus:g} are there"
    if cluster is not None and cluster.num_cpus < pool.num_cpus:
        return (
            f"is waiting for a machine: an actor needs {pool.num_cpus:g} CPUs, {cluster.num_cpus:g} are there"
        )
    return "is waiting for its first actor to start" if pool.num_pending else "has no actor yet"


def _machines(nodes: Mapping[str, int]) -> str:
    """Return how many machines there are, and of which roles."""
    total = _count(sum(nodes.values()), "node")
    roles = [f"{num} {role or 'other'}" for role, num in sorted(nodes.items())]
    return f"{total} ({', '.join(roles)})" if any(nodes) else total


def _count(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def rate(per_s: float) -> str:
    """Return a rate in the unit that gives it digits."""
    unit, amount = next(
        (unit, per_s * size)
        for unit, size in (("s", 1), ("min", 60), ("h", 3600))
        if per_s * size >= 1 or unit == "h"
    )
    return f"{amount:,.0f}/{unit}" if amount >= 100 else f"{amount:.1f}/{unit}"


def span(seconds: float) -> str:
    """Return a length of time in the two units that matter."""
    whole = max(0, round(seconds))
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole} s"


def _fit(parts: Sequence[tuple[str, str]], width: int | None, *, colour: bool) -> str:
    """Return styled parts as one line of at most `width` characters."""
    said, room = "", width
    for text, style in parts:
        cut = text if room is None else text[:room]
        room = None if room is None else room - len(cut)
        said += f"\x1b[{STYLES[style]}m{cut}\x1b[0m" if colour and style and cut.strip() else cut
    return said if colour else said.rstrip()
