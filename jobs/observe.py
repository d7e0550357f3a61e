"""What a run shows while it goes: lines for people on stderr, numbers for Prometheus.

Failures and what is committed come from the counters of committed parts; what lies before, from a look at Ray's
stages. A thread of its own draws, so that neither Ray's scheduling nor committing waits for a slow terminal: what is
known is put together under one lock, which commits take too, and drawn under another.
"""

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from jobs import ray_stages
from jobs.display import Display, Terminal, display_on
from jobs.metrics import Metrics
from jobs.progress import Cluster, Pace, Pool, Stage, View

EVERY_S = 0.5
"""Seconds between two drawings."""
CLUSTER_EVERY_S = 5.0
"""Seconds between two looks at the machines of the cluster."""
STOP_S = 5.0
"""Seconds that a run waits, at its end, for a drawing that hangs."""
COMMITTED = {"probe": ("videos",), "answer": ("windows", "answers"), "judge": ("verdicts",)}
"""What a stream commits, as the counters of its parts call it; the first goes through its stages."""

logger = logging.getLogger(__name__)


@contextmanager
def observed(run_id: str, looked: Callable[[Cluster], None]) -> "Generator[Observer]":
    """Show what the streams of a run do, until it ends, and tell of each look at the cluster; needs a connected Ray."""
    display = display_on(sys.stderr)
    observer = Observer(display, Metrics(run_id), looked)
    thread = threading.Thread(target=observer.keep_showing, name="progress", daemon=True)
    with _above(display):
        thread.start()
        try:
            yield observer
        finally:
            observer.stopped.set()
            thread.join(STOP_S)


class Observer:
    """Knows how far the streams of one run are, and has it shown."""

    def __init__(self, display: Display, metrics: Metrics, looked: Callable[[Cluster], None]) -> None:
        self.display = display
        self.metrics = metrics
        self.looked = looked
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.drawing = threading.Lock()
        """Taken before `lock`, where both are."""
        self.has_failed = False
        self.stream = ""
        self.cluster: Cluster | None = None

    @contextmanager
    def stream_of(self, name: str, total: int | None, *totals: int | None) -> Generator[None]:
        """Show a stream until it ends; of how many rows, in the order of COMMITTED (None = not known)."""
        ray_stages.forget()
        with self.lock:
            self.stream, self.total, self.started_s = name, total, time.monotonic()
            self.totals = dict(zip(COMMITTED[name][1:], totals, strict=False))
            self.counters: Counter[str] = Counter()
            self.paces: dict[str, Pace] = {}
            self.moved_s, self.num_moved = self.started_s, -1
        try:
            yield
        finally:
            with self._apart_from_the_run():
                with self.lock:
                    view = self._view(time.monotonic())
                    self.stream = ""
                with self.drawing:
                    self.display.end(view)
                    self.metrics.show(view)

    def committed(self, counters: Mapping[str, float]) -> None:
        """Count a part that was committed."""
        with self.lock:
            self.counters.update(counters)
        with self._apart_from_the_run():
            self.metrics.count(counters)

    def keep_showing(self) -> None:
        """Draw again and again, until stopped."""
        looked_s = -CLUSTER_EVERY_S
        while not self.stopped.wait(EVERY_S):
            now_s = time.monotonic()
            with self._apart_from_the_run():
                if now_s - looked_s >= CLUSTER_EVERY_S:
                    looked_s = now_s
                    self.cluster = look_at_cluster()
                    self.looked(self.cluster)
                self._show(now_s)

    def _show(self, now_s: float) -> None:
        """Draw a stream, if one goes on."""
        with self.drawing:
            with self.lock:
                if not self.stream:
                    return
                view = self._view(now_s)
            self.display.show(view, now_s)
            self.metrics.show(view)

    def _view(self, now_s: float) -> View:
        """Return what is known of the stream."""
        committed, *others = COMMITTED[self.stream]
        writing = [seen for seen in ray_stages.latest() if "" in seen.names]
        stages = [self._stage(seen, now_s) for seen in ray_stages.latest() if "" not in seen.names]
        stages.append(self._committed(committed, now_s, self.total, sum(seen.num_tasks for seen in writing)))
        stages += [self._committed(name, now_s, self.totals.get(name)) for name in others]
        num_moved = sum(stage.done for stage in stages)
        if num_moved != self.num_moved:
            self.moved_s, self.num_moved = now_s, num_moved
        return View(self.stream, now_s - self.started_s, stages, self.cluster, now_s - self.moved_s)

    def _stage(self, seen: ray_stages.Seen, now_s: float) -> Stage:
        pool = Pool(*seen.actors, seen.num_cpus, seen.num_gpus) if seen.actors else None
        # a task that ran again, as after the loss of a machine, put its rows out again
        done = seen.num_rows if self.total is None else min(seen.num_rows, self.total)
        name = "+".join(seen.names)
        return Stage(
            name, done, self.total, 0, self._pace(name, done, now_s, self.total), seen.num_tasks, pool
        )

    def _committed(self, name: str, now_s: float, total: int | None = None, num_tasks: int = 0) -> Stage:
        done, failed = self.counters[name], self.counters[f"failed_{name}"]
        pace = self._pace(name, done, now_s, total)
        return Stage(name, done, total, failed, pace, num_tasks, is_committed=True)

    def _pace(self, name: str, done: int, now_s: float, total: int | None) -> float | None:
        """Return how fast a stage is lately; of a finished one, how fast it was."""
        pace = self.paces.setdefault(name, Pace())
        pace.add(now_s, done)
        return pace.per_s(None if total is not None and done >= total else now_s)

    @contextmanager
    def _apart_from_the_run(self) -> Generator[None]:
        """Log what goes wrong with showing a run, which must not end for it; once, or it would fill the log."""
        try:
            yield
        except Exception:
            if not self.has_failed:
                logger.exception("progress cannot be shown; the run goes on")
            self.has_failed = True


def look_at_cluster() -> Cluster:
    """Return the machines that are alive."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    roles = Counter(_role(node) for node in nodes)
    have: Counter[str] = Counter()
    for node in nodes:
        have.update({kind: node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")})
    return Cluster(dict(roles), have["CPU"], have["GPU"])


def _role(node: Mapping[str, Any]) -> str:
    return node.get("Labels", {}).get("role", "")


@contextmanager
def _above(display: Display) -> Generator[None]:
    """Have what is logged and printed on stderr appear above the lines of a terminal, until the end."""
    if not isinstance(display, Terminal):
        yield
        return
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr
    ]
    before = sys.stderr

    def lead_to(stream: Any) -> None:
        sys.stderr = stream
        for handler in handlers:
            handler.setStream(stream)

    lead_to(display)
    try:
        yield
    finally:
        lead_to(before)
