"""A look at Ray's stages; and what comes of it when Ray tells of them in another way."""

import logging
from types import SimpleNamespace

import pytest

from jobs import ray_stages
from jobs.ray_stages import Seen


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(ray_stages._Notes, "is_broken", False)
    monkeypatch.setattr(ray_stages._Notes, "latest", ())


def operator(name, actors=(0, 0, 0), **metrics):
    running, pending, restarting = actors
    return SimpleNamespace(
        name=name,
        metrics=SimpleNamespace(**{"rows_task_outputs_generated": 7, "num_tasks_running": 2, **metrics}),
        get_actor_info=lambda: SimpleNamespace(running=running, pending=pending, restarting=restarting),
        min_scheduling_resources=lambda: SimpleNamespace(cpu=None, gpu=0.5),
    )


def test_stages_have_the_names_people_know():
    operators = [
        operator("Input"),
        operator("MapBatches(read_slices)->MapBatches(sample_window)"),
        operator("MapBatches(Scorer)", actors=(1, 0, 2)),
        operator("MapBatches(plan_window)->MapBatches(fetch_evidence)"),
        operator("MapBatches(stage_windows)"),
    ]
    ray_stages._look(SimpleNamespace(_topology=operators))
    assert ray_stages.latest() == (
        Seen(("sample",), 7, 2, None, 0.0, 0.5),
        Seen(("score",), 7, 2, (1, 2), 0.0, 0.5),
        Seen(("plan", "fetch"), 7, 2, None, 0.0, 0.5),
        Seen(("",), 7, 2, None, 0.0, 0.5),
    )
    ray_stages.forget()
    assert ray_stages.latest() == ()


def test_another_ray_makes_it_silent_with_one_warning(caplog):
    changed = SimpleNamespace(_topology=[SimpleNamespace(name="MapBatches(Scorer)")])
    with caplog.at_level(logging.WARNING):
        for executor in (changed, SimpleNamespace(), changed):
            ray_stages._look(executor)
    assert [record.message.split(":")[0] for record in caplog.records] == ["no progress of stages"]
    assert ray_stages.latest() == ()


def test_light_stages_leave_the_cores_to_decoding_where_these_are_known():
    from jobs.flow import light
    from jobs.placement import Placement

    bounds = [light(Placement(None, None, cores=cores)).get("compute") for cores in (None, 2, 32)]
    assert bounds[0] is None
    assert [bound.size for bound in bounds[1:]] == [1, 8]
    assert light(Placement(None, None, cores=32), 1)["compute"].size == 32


def test_the_functions_of_the_flow_are_those_that_have_names():
    from jobs import flow
    from pipeline import recall, sink, stages, verdicts

    functions = {stages.probe, recall.sample_window, flow.Scorer, stages.plan_window, stages.fetch_evidence,
                 flow.AnswerActor, sink.stage_videos, sink.stage_windows, verdicts.judge_shards}  # fmt: skip
    assert {function.__name__ for function in functions} == ray_stages.NAMES.keys()
