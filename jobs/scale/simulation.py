"""One stream of the flow on a cluster of any size, as events (SimPy): who waits for whom, and what it costs.

The grain is a task's slice, so the numbers of tasks, of parts and of steps on the driver are the real ones and nothing
is scaled down: 10 million windows are 156,250 units. Within a unit work is added up: all its items are decoded, then
scored.

    driver launches -> store -> network -> first stage -> driver -> second stage -> driver -> part -> commit

One driver serves one step at a time; commits have a few threads beside it. A unit behind its first stage waits in a
room of two units per actor; when the room is full, tasks keep their slot and wait too, as Ray's backpressure makes
them. A machine that is lost takes with it what it works on and what it has decoded; those units start again at the
first stage. What is staged is safe.
"""

import heapq
from collections.abc import Generator
from math import inf
from typing import Any

import numpy as np
import simpy

from jobs.scale.line import Line, Server
from jobs.scale.model import Cluster, Outcome, Store, Stream

Event = Generator[Any, Any, None]
TURN_S = 0.05
"""Where more wants to run than there are cores, each in turn has one for so long."""
Unit = tuple[int, int, float]
"""Number, items, and how long its items take compared with the average."""


def simulate(
    stream: Stream, cluster: Cluster, store: Store, *, seed: int = 0, start_nodes: int = 0
) -> Outcome:
    """Return what comes of a stream; the same for the same seed.

    Args:
        stream: the work.
        cluster: the machines.
        store: the bucket.
        seed: of the times of units and of losses.
        start_nodes: machines that run already; the others are asked for.
    """
    return _Run(stream, cluster, store, seed).run(start_nodes)


class _Node:
    """One machine."""

    def __init__(self, env: simpy.Environment, cluster: Cluster) -> None:
        self.cores = simpy.Resource(env, cluster.cores)
        self.link_free_s = 0.0
        self.since_s = env.now
        self.processes: list[simpy.Process] = []
        self.is_lost = False


class _Run:
    def __init__(self, stream: Stream, cluster: Cluster, store: Store, seed: int) -> None:
        self.stream, self.cluster, self.store = stream, cluster, store
        self.random = np.random.default_rng(seed)
        self.env = simpy.Environment()
        self.out = Outcome(waited_s={"driver": 0.0, "store": 0.0})
        self.driver = Server(self.env)
        self.shares_cores = sum(cluster.slots(stream)) > cluster.cores
        self.commit_ends_s = [0.0] * cluster.commits_at_once
        self.store_free_s = 0.0
        sizes = stream.sizes
        spread = np.asarray(stream.spread)
        drawn = self.random.choice(spread, (len(sizes), stream.items_per_unit)) if len(spread) > 1 else None
        scales = np.ones(len(sizes)) if drawn is None else drawn.mean(axis=1)
        self.todo: Line[Unit] = Line(self.env)
        self.todo.items.extend(zip(range(len(sizes)), sizes.tolist(), scales.tolist(), strict=True))
        # what is decoded and not yet scored, and the machine that holds it
        self.room: Line[tuple[Unit, _Node]] = Line(
            self.env, 2 * cluster.nodes * max(1, cluster.slots(stream)[1])
        )
        self.uncommitted = 0
        self.asked = 0
        self.nodes: list[_Node] = []
        self.finished = self.env.event()

    def run(self, start_nodes: int) -> Outcome:
        """Let it happen."""
        if not self.stream.items:
            return self.out
        start = self.cluster.nodes if not self.cluster.boot_s else min(start_nodes, self.cluster.nodes)
        for _ in range(start):
            self._add_node()
        self.asked = start
        if start < self.cluster.nodes:
            self.env.process(self._scale_up())
        self.env.run(self.finished)
        last_commit_s = max(self.commit_ends_s)
        if last_commit_s > self.env.now:
            self.env.run(last_commit_s)
        self.out.wall_s = self.env.now
        self.out.driver_busy_s = self.driver.busy_s
        self.out.nodes_at_end = len(self.nodes)
        self.out.paid_node_s += sum(self.env.now - node.since_s for node in self.nodes)
        return self.out

    # --- machines ------------------------------------------------------------------------------------

    def _add_node(self) -> None:
        node = _Node(self.env, self.cluster)
        self.nodes.append(node)
        first, second = self.cluster.slots(self.stream)
        node.processes = [self.env.process(self._first_slot(node)) for _ in range(first)]
        node.processes += [self.env.process(self._second_slot(node)) for _ in range(second)]
        if self.cluster.losses_per_h:
            self.env.process(self._lose(node))

    def _scale_up(self) -> Event:
        while self.asked < self.cluster.nodes:
            wish = max(self.cluster.least_launch, round(self.cluster.upscaling * len(self.nodes)))
            count = min(self.cluster.nodes - self.asked, wish)
            self.asked += count
            yield from self._boot(count)

    def _boot(self, count: int) -> Event:
        yield self.env.timeout(self.cluster.boot_s)
        self.out.paid_node_s += count * self.cluster.boot_s
        for _ in range(count):
            self._add_node()

    def _lose(self, node: _Node) -> Event:
        yield self.env.timeout(self.random.exponential(3600 / self.cluster.losses_per_h))
        node.is_lost = True
        self.nodes.remove(node)
        self.out.lost_nodes += 1
        self.out.paid_node_s += self.env.now - node.since_s
        for process in node.processes:
            if process.is_alive:
                process.interrupt()
        for unit, _ in self.room.remove(lambda held: held[1] is node):
            self._again(unit)
        yield from self._boot(1)

    def _again(self, unit: Unit) -> None:
        self.out.repeated += 1
        self.todo.give(unit)

    # --- stages --------------------------------------------------------------------------------------

    def _first_slot(self, node: _Node) -> Event:
        unit: Unit | None = None
        stream = self.stream
        try:
            while True:
                unit = yield from self.todo.take()
                _, items, scale = unit
                yield from self._drive(stream.unit_driver_s)
                yield from self._ask_store(items * stream.item_requests)
                wait_s = self._read_s(node, items * stream.item_bytes) + items * stream.item_wait_s
                yield from self._compute(node, items * scale * stream.first_s, wait_s)
                yield from self._drive(items * stream.first_driver_s)
                if not stream.second_s:
                    self._finish(items)
                    unit = None
                    continue
                yield from self.room.put((unit, node))
                unit = None
        except simpy.Interrupt:
            if unit is not None:
                self._again(unit)

    def _second_slot(self, node: _Node) -> Event:
        unit: Unit | None = None
        stream = self.stream
        try:
            yield from self._compute(node, stream.second_start_s)
            while True:
                unit, _ = yield from self.room.take()
                _, items, scale = unit
                seconds, beside_s = items * scale * stream.second_s, items * stream.beside_s
                if self.shares_cores:
                    self.env.process(self._compute(node, beside_s))
                    beside_s = 0.0
                yield from self._compute(node, seconds + beside_s)
                yield from self._drive(items * stream.second_driver_s)
                self._finish(items)
                unit = None
        except simpy.Interrupt:
            if unit is not None:
                self._again(unit)

    def _compute(self, node: _Node, seconds: float, wait_s: float = 0.0) -> Event:
        """Wait for the store, then have a core."""
        if not self.shares_cores:
            yield self.env.timeout(wait_s + seconds / self.cluster.core_speed)
            return
        if wait_s:
            yield self.env.timeout(wait_s)
        left_s = seconds / self.cluster.core_speed
        while left_s > 0:
            with node.cores.request() as core:
                yield core
                yield self.env.timeout(min(left_s, TURN_S))
            left_s -= TURN_S

    def _read_s(self, node: _Node, num_bytes: float) -> float:
        """Return how long bytes take over a machine's network, behind all that its other tasks asked for before."""
        if not num_bytes or self.cluster.bytes_per_s == inf:
            return 0.0
        node.link_free_s = max(node.link_free_s, self.env.now) + num_bytes / self.cluster.bytes_per_s
        return node.link_free_s - self.env.now

    def _drive(self, seconds: float) -> Event:
        """Have the driver do something: one thing at a time."""
        if not seconds:
            return
        asked_s = self.env.now
        yield from self.driver.serve(seconds)
        self.out.waited_s["driver"] += self.env.now - asked_s - seconds

    def _ask_store(self, requests: float) -> Event:
        """Put requests to the bucket; where too much waits there already, back off once, then wait for one's turn."""
        rate = self.store.prefixes * self.store.requests_per_s
        if not requests or rate == inf:
            return
        asked_s = self.env.now
        if self.store_free_s - self.env.now > self.store.tolerance_s:
            self.out.slow_downs += 1
            yield self.env.timeout(self.store.back_off_s * self.random.uniform(0.5, 1.5))
        self.store_free_s = max(self.store_free_s, self.env.now) + requests / rate
        yield self.env.timeout(self.store_free_s - self.env.now)
        self.out.waited_s["store"] += self.env.now - asked_s

    # --- commits -------------------------------------------------------------------------------------

    def _finish(self, items: int) -> None:
        """Count items; commit what is full, and in the end the rest."""
        self.out.done += items
        self.uncommitted += items
        is_last = self.out.done == self.stream.items
        parts, self.uncommitted = divmod(self.uncommitted, self.stream.items_per_part)
        parts += bool(is_last and self.uncommitted)
        for _ in range(parts):
            self._commit()
        if is_last:
            self.finished.succeed()

    def _commit(self) -> None:
        """Give a part to the thread that is free first; all commits take the same time, so their ends are known."""
        rate = self.store.prefixes * self.store.requests_per_s
        asked_s = max(heapq.heappop(self.commit_ends_s), self.env.now)
        if rate < inf:
            self.store_free_s = max(self.store_free_s, self.env.now) + self.stream.commit_requests / rate
            asked_s = max(asked_s, self.store_free_s)
        heapq.heappush(self.commit_ends_s, asked_s + self.stream.commit_s)
        self.out.commits += 1
