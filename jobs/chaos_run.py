"""One run of `reelsift bench chaos`: the command, what strikes it, and the command again until it is done."""

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import psutil

from jobs.chaos_cluster import Cluster
from jobs.chaos_plan import ALL, BUSY, STEPS, Attempt, Strike, draw_fault
from jobs.fault_proxy import Fault, FaultProxy
from pipeline.errors import JobError

LONGEST_S = 1800.0
"""A run of the command that takes longer hangs."""
POLL_S = 0.02


@dataclass(slots=True)
class Result:
    """What came of one run."""

    kills: Counter[str] = field(default_factory=Counter[str])
    faults: int = 0
    steps: Counter[str] = field(default_factory=Counter[str])
    """Requests by step, of all attempts."""
    stops: list[str] = field(default_factory=list[str])
    """Last line of each run of the command that ended badly by itself."""
    attempts: int = 0
    seconds: float = 0.0
    finished: bool = False


class Watch:
    """Sits in the proxy while the command runs: gives faults, counts steps, strikes at one of them."""

    def __init__(self, attempt: Attempt, kill: "Striker") -> None:
        self.steps: Counter[str] = Counter({ALL: 0})
        self.faults = 0
        self._attempt, self._kill = attempt, kill
        self._rng = random.Random(attempt.fault_seed)
        self._lock = threading.Lock()

    def on_request(self, verb: str, path: str) -> Fault | None:
        """Return the fault of a request."""
        with self._lock:
            self.steps[ALL] += 1
            for step, (wanted, part) in STEPS.items():
                if verb == wanted and part in path:
                    self.steps[step] += 1
                    if step == "stage":
                        self.steps[BUSY] = self.steps[ALL]
                    for strike in self._attempt.strikes:
                        if (strike.step, strike.nth) == (step, self.steps[step]):
                            kill = partial(self._kill.driver, "step")
                            if strike.reaches:
                                return Fault("unheard", then=kill)
                            kill()
                            return Fault("lost")
            fault = draw_fault(self._rng, self._attempt.fault_share)
            self.faults += fault is not None
            return fault


class Striker:
    """Kills what a plan names while one command runs."""

    def __init__(self, cluster: Cluster, command: "subprocess.Popen[str]", kills: Counter[str]) -> None:
        self._cluster, self._command, self._kills = cluster, command, kills

    def driver(self, kind: str) -> None:
        """Kill the command itself."""
        if self._command.poll() is None:
            self._command.kill()
            self._kills[kind] += 1

    def strike_all(self, strikes: Sequence[Strike], heard: Mapping[str, int]) -> None:
        """Strike when the store has heard as much as the plan says, until the command has ended."""
        for strike in sorted(strikes, key=lambda strike: strike.after):
            while not self._is_over() and (heard[ALL] < strike.after or not self._strike(strike)):
                time.sleep(POLL_S)

    def _is_over(self) -> bool:
        return self._command.poll() is not None

    def _strike(self, strike: Strike) -> bool:
        """Kill one process; return whether there was one."""
        if strike.kind == "step":
            return True  # the proxy does
        if strike.kind == "driver":
            self.driver("driver")
            return True
        victims = [process for process, title in self._cluster.processes() if is_victim(strike.kind, title)]
        if not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            victims[0].kill()
            self._kills[strike.kind] += 1
        if strike.kind == "node":
            time.sleep(strike.away_s)
            self._cluster.bring_back()
        return True


def is_victim(kind: str, title: str) -> bool:
    """Return whether a process is what a kind of strike is after, by its command line."""
    if kind == "node":
        return "raylet/raylet " in title
    if kind == "child":
        return "pipeline.child" in title
    if kind == "task":
        return title.startswith("ray::") and "MapBatches(" in title and "MapWorker" not in title
    if kind == "loading":
        return "MapWorker" in title and "__init__" in title
    return kind == "scorer" and "MapBatches(Scorer)" in title


def run(
    command: Sequence[str],
    environment: dict[str, str],
    cluster: Cluster,
    proxy: FaultProxy,
    plan: Sequence[Attempt],
) -> Result:
    """Run the command until it is done, at most once per attempt; return what came of it.

    Raises:
        JobError: a run of the command hangs.
        ClusterError: a node does not come back.
    """
    result, started = Result(), time.monotonic()
    for attempt in plan:
        result.attempts += 1
        job = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        striker = Striker(cluster, job, result.kills)
        watch = Watch(attempt, striker)
        proxy.on_request = watch.on_request
        thread = threading.Thread(target=striker.strike_all, args=(attempt.strikes, watch.steps))
        thread.start()
        try:
            _, said = job.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            job.kill()
            _, said = job.communicate()
            msg = f"the command hangs, {attempt.kinds}: {said[-2000:]}"
            raise JobError(msg) from None
        finally:
            job.kill()  # where something else ended the wait
            thread.join()
            proxy.on_request = lambda _verb, _path: None
            cluster.bring_back()
        result.faults += watch.faults
        result.steps.update(watch.steps)
        if job.returncode == 0:
            result.finished = True
            break
        if job.returncode > 0:
            result.stops.append(said.strip().rpartition("\n")[2][:500])
    result.seconds = time.monotonic() - started
    return result
