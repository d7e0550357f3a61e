"""The simulation against what can be said without one: ideal times, closed formulas, conservation."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import simpy

from jobs.scale.line import Line, Server
from jobs.scale.model import Cluster, Store, Stream
from jobs.scale.simulation import simulate

IDEAL = Stream("answer", items=2048, items_per_unit=4, first_s=3.0)
STREAM = Stream(
    "answer", items=4000, items_per_unit=8, first_s=3.0, second_s=1.0, spread=(0.2, 0.5, 1.0, 2.3), unit_driver_s=0.01,
    first_driver_s=0.002, second_driver_s=0.001, item_requests=5, item_bytes=1e6, items_per_part=32, commit_s=0.2,
    commit_requests=10,
)  # fmt: skip
CLUSTER = Cluster(nodes=8, cores=4, boot_s=20, losses_per_h=30, bytes_per_s=1e8)
STORE = Store(requests_per_s=2000)


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_without_faults_and_limits_the_makespan_is_the_ideal_one(nodes: int) -> None:
    found = simulate(IDEAL, Cluster(nodes, cores=8), Store())
    assert found.wall_s == pytest.approx(IDEAL.useful_s / (8 * nodes), rel=1e-12)
    assert found.paid_node_s == pytest.approx(IDEAL.useful_s / 8, rel=1e-12)


def test_two_stages_overlap_but_for_the_first_unit() -> None:
    """As many tasks as actors, both as long: all but the first round is hidden behind decoding."""
    stream = replace(IDEAL, second_s=3.0)
    found = simulate(stream, Cluster(1, cores=2, first_slots=1, second_slots=1), Store())
    assert found.wall_s == pytest.approx(2048 * 3.0 + 4 * 3.0)


def test_more_slots_than_cores_share_the_cores() -> None:
    found = simulate(IDEAL, Cluster(1, cores=2, first_slots=4), Store())
    assert found.wall_s == pytest.approx(IDEAL.useful_s / 2)


def test_an_actor_that_loads_first_takes_its_first_item_later() -> None:
    stream = replace(IDEAL, items=8, second_s=3.0, second_start_s=100.0)
    found = simulate(stream, Cluster(1, cores=2, first_slots=1, second_slots=1), Store())
    assert found.wall_s == pytest.approx(100.0 + 8 * 3.0)


def test_work_beside_the_stages_takes_cores_but_holds_up_nobody_where_some_are_free() -> None:
    stream = replace(IDEAL, second_s=3.0)
    full = Cluster(1, cores=2, first_slots=1, second_slots=2)  # three want two cores
    alone = simulate(stream, full, Store()).wall_s
    beside = simulate(replace(stream, beside_s=1.5), full, Store()).wall_s
    assert beside == pytest.approx(alone * 7.5 / 6, rel=0.01)
    free = simulate(replace(stream, beside_s=1.5), replace(full, cores=4, second_slots=4), Store()).wall_s
    assert free == pytest.approx(2048 * 3.0 + 4 * 3.0, rel=0.001), "decoding alone bounds it"


def test_on_machines_whose_cores_are_all_slots_it_lengthens_the_second_stage() -> None:
    stream = replace(IDEAL, second_s=3.0, beside_s=1.5)
    found = simulate(stream, Cluster(1, cores=2, first_slots=1, second_slots=1), Store())
    assert found.wall_s == pytest.approx(2048 * 4.5 + 4 * 3.0)


def test_every_item_is_done_once_though_machines_vanish() -> None:
    found = simulate(STREAM, CLUSTER, STORE, seed=3)
    assert (found.done, found.commits) == (4000, 125)
    assert found.lost_nodes > 5
    assert found.repeated > found.lost_nodes  # several slots each
    assert found.wall_s > STREAM.useful_s / (8 * 4)


@pytest.mark.parametrize("items", [1, 31, 33, 4001])
def test_the_last_part_may_be_short(items: int) -> None:
    found = simulate(replace(STREAM, items=items), CLUSTER, STORE, seed=1)
    assert (found.done, found.commits) == (items, -(-items // 32))


def test_the_same_seed_gives_the_same_run() -> None:
    first, again, other = (simulate(STREAM, CLUSTER, STORE, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first.wall_s != other.wall_s


def test_losses_limits_and_boots_only_cost() -> None:
    best = simulate(STREAM, Cluster(8, cores=4), Store()).wall_s
    assert simulate(STREAM, replace(CLUSTER, losses_per_h=0), Store()).wall_s > best
    assert simulate(STREAM, Cluster(8, cores=4), Store(requests_per_s=50)).wall_s >= 4000 * 5 / 50
    assert simulate(STREAM, Cluster(8, cores=4, commits_at_once=1), Store()).wall_s >= 125 * 0.2


def test_a_bucket_that_is_asked_too_much_says_slow_down_and_all_is_done() -> None:
    found = simulate(STREAM, Cluster(50, cores=4), Store(requests_per_s=100, tolerance_s=0.5), seed=1)
    assert found.slow_downs > 0
    assert found.done == 4000


def test_a_busy_driver_is_the_limit() -> None:
    stream = replace(IDEAL, unit_driver_s=1.0)
    found = simulate(stream, Cluster(100, cores=32), Store())
    assert found.wall_s == pytest.approx(512 * 1.0 + 4 * 3.0)
    assert found.driver_busy_s == pytest.approx(512)


def test_machines_come_in_growing_steps_and_are_paid_from_when_they_are_asked_for() -> None:
    long = replace(IDEAL, items=40_000)
    found = simulate(long, Cluster(40, cores=1, boot_s=100), Store())
    # 5 after 100 s, 10 after 200, 20 after 300, 40 after 400
    ready = 5 * 100 + 10 * 100 + 20 * 100
    assert found.wall_s == pytest.approx(400 + (long.useful_s - ready) / 40, abs=4 * 3.0)  # one unit
    assert found.paid_node_s == pytest.approx(long.useful_s + 40 * 100, abs=40 * 4 * 3.0)
    warm = simulate(long, Cluster(40, cores=1, boot_s=100), Store(), start_nodes=40)
    assert warm.wall_s == pytest.approx(long.useful_s / 40)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_drivers_queue_is_an_m_d_1(load: float) -> None:
    """Mean wait of Poisson arrivals at a server of fixed time: load / (2 (1 - load)) services."""
    env, random = simpy.Environment(), np.random.default_rng(1)
    server = Server(env)
    waits: list[float] = []

    def visit():
        came = env.now
        yield from server.serve(1.0)
        waits.append(env.now - came - 1.0)

    def arrive():
        for _ in range(40_000):
            yield env.timeout(random.exponential(1 / load))
            env.process(visit())

    env.process(arrive())
    env.run()
    assert np.mean(waits) == pytest.approx(load / (2 * (1 - load)), rel=0.08)


def test_interrupted_processes_take_nothing_out_of_a_line() -> None:
    env, random = simpy.Environment(), np.random.default_rng(2)
    line: Line[int] = Line(env, size=2)
    taken, put = list[int](), list[int]()

    def taker():
        with contextlib.suppress(simpy.Interrupt):
            taken.append((yield from line.take()))

    def giver(item: int):
        with contextlib.suppress(simpy.Interrupt):
            yield from line.put(item)
            put.append(item)

    def interrupt(process: simpy.Process):
        yield env.timeout(random.exponential(1.0))
        if process.is_alive:
            process.interrupt()

    def begin():
        for number in range(3000):
            process = env.process(giver(number) if random.random() < 0.5 else taker())
            if random.random() < 0.3:
                env.process(interrupt(process))
            if random.random() < 0.5:
                yield env.timeout(random.exponential(1.0))

    env.process(begin())
    env.run()
    assert len(taken) == len(set(taken)) > 500
    assert sorted(taken + list(line.items)) == sorted(put)
