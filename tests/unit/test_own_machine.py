"""Ray without what only a cluster needs; and what comes of it where Ray calls those parts otherwise."""

import logging
from types import SimpleNamespace

import pytest
import ray

from jobs import own_machine


class Owner:
    part = "Ray's"


@pytest.mark.parametrize("find", [own_machine._of_node, own_machine._of_ray_data])
def test_this_ray_has_the_parts_and_gets_them_back(find):
    before = {(owner, name): vars(owner)[name] for owner, name, _ in find()}
    with own_machine._replaced(find) as is_replaced:
        assert is_replaced
        assert not [key for key, part in before.items() if vars(key[0])[key[1]] is part]
    assert [key for key, part in before.items() if vars(key[0])[key[1]] is not part] == []


def test_parts_come_back_after_an_error():
    def fails():
        with own_machine._replaced(lambda: [(Owner, "part", "ours")]):
            assert Owner.part == "ours"
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        fails()
    assert Owner.part == "Ray's"


@pytest.mark.parametrize("error", [ImportError("no module stats"), None])
def test_another_ray_runs_as_it_comes_and_says_so(caplog, error):
    def find():
        if error:
            raise error
        return [(Owner, "part", "ours"), (Owner, "gone", "ours")]

    with caplog.at_level(logging.WARNING), own_machine._replaced(find) as is_replaced:
        assert not is_replaced
        assert Owner.part == "Ray's"
    (record,) = caplog.records
    assert "this release calls its parts otherwise" in record.message
    assert ("no module stats" if error else "gone") in record.message


def test_other_callbacks_stay_and_ours_goes():
    context = SimpleNamespace(custom_execution_callback_classes=["watches"])
    with own_machine.used(context):
        first, waits = context.custom_execution_callback_classes
        assert (first, waits.__name__) == ("watches", "Waits")
    assert context.custom_execution_callback_classes == ["watches"]


def test_the_loop_waits_for_the_first_of_all_running_tasks(monkeypatch):
    asked = []
    monkeypatch.setattr(ray, "wait", lambda refs, **options: asked.append((refs, options["num_returns"])))

    def operator(*refs):
        tasks = [SimpleNamespace(get_waitable=lambda ref=ref: ref) for ref in refs]
        return SimpleNamespace(get_active_tasks=lambda: tasks)

    step = own_machine._waits()().on_execution_step
    for operators in ([operator("a", "b"), operator("c")], [operator()], [SimpleNamespace()]):
        step(SimpleNamespace(_topology=operators))
    step(SimpleNamespace())
    assert asked == [(["a", "b", "c"], 1)]
