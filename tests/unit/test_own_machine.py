"""Ray without what only a cluster needs; and what comes of it where Ray calls those parts otherwise."""

import logging
import os
from functools import partial
from types import SimpleNamespace

import pytest
import ray
from ray.data._internal.execution import streaming_executor

from jobs import own_machine


class Owner:
    part = "Ray's"


@pytest.fixture
def context(monkeypatch):
    """A DataContext with a callback, on a cluster of two cores."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "object_store_memory": 7.0})
    return SimpleNamespace(custom_execution_callback_classes=[Owner])


def parts_of(find):
    return {(id(owner), name): vars(owner)[name] for owner, name, _ in find()}


@pytest.mark.parametrize("of", ["node", "ray_data"])
def test_this_ray_has_the_parts_and_gets_them_back(of, context, caplog):
    find = partial(own_machine._of_ray_data, context) if of == "ray_data" else own_machine._of_node
    before = parts_of(find)
    with own_machine._replaced(find):
        now = parts_of(find)
        assert [name for name in before if now[name] is before[name]] == []
    assert parts_of(find) == before
    assert not caplog.records


def test_a_dataset_may_use_the_whole_machine_and_is_watched_as_before(context):
    with own_machine.used(context):
        first, waits = context.custom_execution_callback_classes
        assert (first, waits.__name__) == (Owner, "Waits")
        machine = streaming_executor.create_cluster_autoscaler("topology", execution_id="1")
        assert machine.get_total_resources().cpu == 2
        assert machine.get_total_resources().object_store_memory == 7
    assert context.custom_execution_callback_classes == [Owner]


def forbidden(*_):
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture
def policies(monkeypatch, tmp_path):
    """The policies that this thread was given, the first by the user."""
    policies = [os.SCHED_OTHER]
    monkeypatch.setattr(own_machine, "DEVICES", tmp_path)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policies[-1])
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, __: policies.append(policy))
    return policies


def test_threads_take_turns_within_the_block_alone(policies):
    with own_machine.in_turn():
        assert policies == [os.SCHED_OTHER, os.SCHED_BATCH]
    assert policies == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_OTHER]


@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_where_policies_are_forbidden_it_goes_on_without(policies, monkeypatch, name):
    monkeypatch.setattr(os, name, forbidden)
    with own_machine.in_turn():
        pass
    assert policies == [os.SCHED_OTHER]


def test_the_users_own_policy_is_kept(policies):
    policies.append(os.SCHED_IDLE)
    with own_machine.in_turn():
        pass
    assert policies[-1] == os.SCHED_IDLE
    assert len(policies) == 2


def test_no_thread_that_feeds_a_gpu_waits_for_its_turn(policies, tmp_path):
    (tmp_path / "nvidia0").touch()
    with own_machine.in_turn():
        pass
    assert policies == [os.SCHED_OTHER]


def test_parts_come_back_after_an_error():
    def fails():
        with own_machine._replaced(lambda: [(Owner, "part", "ours")]):
            assert Owner.part == "ours"
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block") as caught:
        fails()
    assert caught.value.__context__ is None
    assert Owner.part == "Ray's"


@pytest.mark.parametrize(
    "error", [ImportError("no stats"), TypeError("abstract"), AttributeError("no such"), None]
)
def test_another_ray_runs_as_it_comes_and_says_so(caplog, error):
    def find():
        if error:
            raise error
        return [(Owner, "part", "ours"), (Owner, "gone", "ours")]

    with caplog.at_level(logging.WARNING), own_machine._replaced(find):
        assert Owner.part == "Ray's"
    (record,) = caplog.records
    assert "this release has other parts" in record.message
    assert (str(error) if error else "gone") in record.message
    assert Owner.part == "Ray's"


def test_the_loop_waits_for_the_first_of_all_running_tasks(monkeypatch):
    asked = []
    monkeypatch.setattr(ray, "wait", lambda refs, **options: asked.append((refs, options)))

    def executor(*operators, is_ending=False):
        tasks = [[SimpleNamespace(get_waitable=lambda ref=ref: ref) for ref in refs] for refs in operators]
        topology = [SimpleNamespace(get_active_tasks=lambda mine=mine: mine) for mine in tasks]
        return SimpleNamespace(_topology=topology, _shutdown=is_ending)

    step = own_machine._waits()().on_execution_step
    for now in (
        executor("ab", "ca"),
        executor(""),
        executor("d", is_ending=True),
        SimpleNamespace(_shutdown=False),
    ):
        step(now)
    assert asked == [
        (["a", "b", "c"], {"num_returns": 1, "timeout": own_machine.WAIT_S, "fetch_local": False})
    ]
