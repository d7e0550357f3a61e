"""What a command and every process it starts use while it runs: wall time, CPU time, memory of their own.

Processes are looked up again and again, so what one uses after the last look before its end is missing: at most
LOOK_EVERY_S of each. Memory is USS, what a process has for itself, shared pages left out.
"""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import JobError

LOOK_EVERY_S = 0.5
WEIGH_EVERY_S = 2.0
"""Memory is read more seldom than CPU time: it costs a walk through a process's pages."""
END = 3000
"""Characters of a failed command's last words that its error carries."""


@dataclass
class Use:
    """What a command used."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Of all its processes."""
    cpu_s_of: dict[str, float] = field(default_factory=dict)
    """Per kind of process."""
    foreign_cores: float = 0.0
    """Cores that others kept busy meanwhile, on average."""
    stolen_cores: float = 0.0
    """Cores on which something was ready to run and the machine beneath ran another guest instead."""
    memory_mb: dict[str, list[float]] = field(default_factory=dict)
    """Highest memory of one process of a kind, per quarter of the run."""


def run(command: Sequence[str], environment: Mapping[str, str], *, weighs: bool = True) -> tuple[str, Use]:
    """Run a command to its end; return what it wrote to stdout, and what it used.

    Args:
        command: the program and its arguments.
        environment: its variables.
        weighs: whether memory is read, too: a walk through all pages of each process every few seconds.

    Raises:
        JobError: it ended with an exit code; the end of what it said.
    """
    import psutil

    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as result:
        (busy_s, stolen_s), started = _busy_s(), time.monotonic()
        process = subprocess.Popen(command, stdout=result, stderr=said, env=environment)
        spent: dict[tuple[int, float], tuple[str, float]] = {}
        weights: list[tuple[float, str, float]] = []
        weighed = -WEIGH_EVERY_S
        while process.poll() is None:
            at_s = time.monotonic() - started
            try:
                members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                break
            is_weighing = weighs and at_s - weighed >= WEIGH_EVERY_S
            weighed = at_s if is_weighing else weighed
            for member in members:
                _look(member, process.pid, at_s if is_weighing else None, spent, weights)
            time.sleep(LOOK_EVERY_S)
        process.wait()
        wall_s = time.monotonic() - started
        for file in (said, result):
            file.seek(0)
        if process.returncode:
            msg = f"{' '.join(command)} ended with exit code {process.returncode}: {said.read()[-END:]}"
            raise JobError(msg)
        print(said.read(), file=sys.stderr)
        text = result.read()
    kinds: dict[str, float] = defaultdict(float)
    for kind, cpu_s in spent.values():
        kinds[kind] += cpu_s
    cpu_s = sum(kinds.values())
    all_busy_s, all_stolen_s = _busy_s()
    foreign = max(0.0, (all_busy_s - busy_s - cpu_s) / wall_s)
    stolen = (all_stolen_s - stolen_s) / wall_s
    return text, Use(wall_s, cpu_s, dict(kinds), foreign, stolen, quarters(weights))


def _look(
    member: Any,
    first_pid: int,
    at_s: float | None,
    spent: dict[tuple[int, float], tuple[str, float]],
    weights: list[tuple[float, str, float]],
) -> None:
    """Note what one process has used by now; its memory only where a time is given."""
    import psutil

    try:
        with member.oneshot():
            title, times = member.cmdline(), member.cpu_times()
            name = (member.pid, member.create_time())
            # a worker that becomes an actor keeps its pid: its latest title says what it is; one that ended has none
            kind = "driver" if member.pid == first_pid else kind_of(title) if title else spent[name][0]
            spent[name] = (kind, times.user + times.system)
        if at_s is not None:
            weights.append((at_s, kind, member.memory_full_info().uss / 1e6))
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):  # KeyError: ended before it was first seen
        return


def _busy_s() -> tuple[float, float]:
    """Return the CPU seconds that this machine has been busy since it started, and those stolen from it."""
    import psutil

    times = psutil.cpu_times()
    busy_s = times.user + times.nice + times.system + times.irq + times.softirq
    return busy_s, getattr(times, "steal", 0.0)  # Linux alone has it


def kind_of(command: Sequence[str]) -> str:
    """Return what a process of the job does, from its title: `ray::MapWorker(MapBatches(Scorer))` -> `Scorer`."""
    title = " ".join(command)
    for kind in ("Scorer", "AnswerActor"):
        if f"MapWorker(MapBatches({kind}))" in title:
            return kind
    if "pipeline.child" in title or "child.py" in title:
        return "decoder"
    if "multiprocessing" in title:
        return "loop process"
    return "task worker" if title.startswith("ray::") else "Ray itself"


def quarters(samples: Sequence[tuple[float, str, float]]) -> dict[str, list[float]]:
    """Return the highest value per kind in each quarter of the time."""
    end_s = max((at_s for at_s, _, _ in samples), default=0.0) + 1e-9
    highest: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for at_s, kind, value in samples:
        quarter = int(4 * at_s / end_s)
        highest[kind][quarter] = max(highest[kind][quarter], value)
    return dict(sorted(highest.items()))
