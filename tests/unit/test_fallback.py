"""An on-demand machine is asked for when spot ones were refused for long enough, one at a time, and no longer."""

import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import fallback
from jobs.cluster_file import load_cluster, machines_of
from jobs.fallback import Look, Role, Wait, find_roles
from jobs.machines import Kind, Machines

AFTER_S = 60.0
SPOT, OTHER = {"role": "gpu", "market": "spot"}, {"role": "gpu", "market": "on-demand"}


@pytest.fixture
def wait():
    return Wait(Role(OTHER, frozenset({"gpu"}), frozenset({"gpu-on-demand"}), 2), AFTER_S)


def steps(wait, *looks):
    """What each look decides; a look is (seconds, spot machines asked for, spot machines, on-demand ones, joined)."""
    return [
        wait.step(Look(at_s, {"gpu": asked}, {"gpu": spot, "gpu-on-demand": other}), is_there=there)
        for at_s, asked, spot, other, there in looks
    ]


def test_it_is_asked_for_when_spot_was_refused_for_so_long(wait):
    looks = [(at_s, 1, 0, 0, False) for at_s in (0, 30, 59, 60, 65)]
    assert steps(wait, *looks) == [False, False, False, True, True]


def test_nothing_is_asked_for_while_spot_machines_come(wait):
    looks = [(at_s, 3, at_s // 30, 0, False) for at_s in range(0, 300, 10)]
    assert not any(steps(wait, *looks))


def test_nor_while_nobody_waits(wait):
    assert not any(steps(wait, *((at_s, 0, 1, 0, False) for at_s in range(0, 300, 10))))
    interrupted = [(300, 1, 1, 0, False), (340, 0, 1, 0, False), (350, 1, 1, 0, False), (400, 1, 1, 0, False)]
    assert not any(steps(wait, *interrupted))


def test_a_spot_machine_that_was_lost_is_none_that_came(wait):
    assert steps(wait, (0, 1, 1, 0, False), (10, 1, 1, 0, False), (40, 2, 0, 0, False), (70, 2, 0, 0, False))[
        -1
    ]


def test_it_is_asked_for_no_longer_once_it_is_there(wait):
    steps(wait, (0, 1, 0, 0, False), (60, 1, 0, 0, False))
    assert steps(wait, (90, 0, 0, 1, False), (100, 0, 0, 1, True), (105, 0, 0, 1, False), (900, 0, 0, 1, False)) == [
        True, False, False, False,
    ]  # fmt: skip


def test_the_next_one_is_asked_for_at_once_where_more_wait_and_no_more_than_there_may_be(wait):
    steps(wait, (0, 2, 0, 0, False), (60, 2, 0, 0, False))
    assert steps(wait, (90, 2, 0, 1, True), (95, 2, 0, 1, False)) == [False, True]
    assert not any(
        steps(wait, (120, 2, 0, 2, True), *((at_s, 2, 0, 2, False) for at_s in range(125, 900, 5)))
    )


def test_a_spot_machine_that_comes_after_all_takes_its_place(wait):
    steps(wait, (0, 1, 0, 0, False), (60, 1, 0, 0, False))
    assert steps(wait, (65, 0, 1, 0, False), (70, 1, 1, 0, False), (125, 1, 1, 0, False)) == [False] * 3


def test_spot_gets_another_chance_where_there_is_nothing_on_demand_either(wait):
    steps(wait, (0, 1, 0, 0, False), (60, 1, 0, 0, False))
    looks = [(at_s, int(at_s >= 660), 0, 0, False) for at_s in range(600, 740, 10)]
    assert steps(wait, *looks) == [True] * 6 + [False] * 7 + [True]


def test_roles_are_those_that_have_both_markets():
    spot = [
        Kind("gpu", 16, {"GPU": 1.0}, SPOT),
        Kind("decode", 8, {"CPU": 32.0}, {"role": "decode", "market": "spot"}),
    ]
    other = [Kind("gpu-on-demand", 4, {"GPU": 1.0}, OTHER), Kind("gpu-large", 2, {"GPU": 4.0}, OTHER)]
    [role] = find_roles(Machines([*spot, *other]))
    assert role == Role(OTHER, frozenset({"gpu"}), frozenset({"gpu-on-demand", "gpu-large"}), 6)
    assert find_roles(Machines(other)) == []
    assert find_roles(Machines([*spot, Kind("machine", 1, {"GPU": 1.0}, OTHER, comes=False)])) == []


def test_the_cluster_file_has_both_markets_of_both_roles():
    roles = find_roles(machines_of(load_cluster(Path(__file__).parents[2] / "cluster.yaml")))
    found = {role.labels["role"]: (role.spot, role.on_demand, role.most) for role in roles}
    assert found == {
        "decode": ({"decode"}, {"decode-on-demand"}, 2),
        "gpu": ({"gpu"}, {"gpu-on-demand"}, 4),
    }


class Demand:
    """A placement group, on paper."""

    def __init__(self, made, **options):
        self.options, self.is_there = options, False
        made.append(self)

    def wait(self, _):
        return self.is_there


@pytest.fixture
def made(monkeypatch):
    """Demands made of a cluster that refuses spot machines all the time; `removed` are those given back."""
    made, removed = [], []
    kinds = [Kind("gpu", 16, {"GPU": 1.0}, SPOT), Kind("gpu-on-demand", 4, {"GPU": 1.0}, OTHER)]
    monkeypatch.setattr(fallback, "survey_machines", lambda: Machines(kinds))
    monkeypatch.setattr(fallback, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(fallback, "_look", lambda: Look(time.monotonic(), {"gpu": 1}, {}))
    groups = import_module(
        "ray.util.placement_group"
    )  # a function of this name hides the module in its package
    monkeypatch.setattr(groups, "placement_group", lambda *told, **more: Demand(made, told=told, **more))
    monkeypatch.setattr(groups, "remove_placement_group", removed.append)
    return SimpleNamespace(demands=made, removed=removed)


def test_the_demand_goes_only_to_on_demand_machines_and_ends_with_the_job(made, caplog):
    with fallback.on_demand_after(0.02):
        deadline = time.monotonic() + 20
        while not made.demands and time.monotonic() < deadline:
            time.sleep(0.01)
    [demand] = made.demands
    assert demand.options == {
        "told": ([{"CPU": 0.001}], "STRICT_SPREAD"), "bundle_label_selector": [OTHER]
    }  # fmt: skip
    assert made.removed == [demand]
    assert "asking for an on-demand one (gpu-on-demand)" in caplog.text


def test_machines_that_are_there_do_not_meet_the_demand(made, monkeypatch):
    monkeypatch.setattr(
        fallback, "_look", lambda: Look(time.monotonic(), {"gpu": 1}, {"gpu": 3, "gpu-on-demand": 2})
    )
    with fallback.on_demand_after(0.02):
        deadline = time.monotonic() + 20
        while not made.demands and time.monotonic() < deadline:
            time.sleep(0.01)
    [demand] = made.demands
    assert demand.options["told"] == ([{"CPU": 0.001}] * 3, "STRICT_SPREAD")
    assert demand.options["bundle_label_selector"] == [OTHER] * 3


def test_nothing_is_watched_where_it_is_switched_off(made):
    with fallback.on_demand_after(0.0):
        time.sleep(0.1)
    assert made.demands == []
