"""How a simulated job is put together: the flow's own numbers of tasks, parts and shards, and phases that add up."""

from dataclasses import replace

import pytest

from jobs import flow
from jobs.scale.model import Cluster, Store
from jobs.scale.whole_job import Assumed, Costs, Settings, run, streams

COSTS = Costs(
    probe_s=0.05, decode_s=0.03, score_s=0.02, write_s=0.001, ray_s=0.1, spread=(1.0,), step_s=0.01, list_s=1e-5,
    plan_s=1e-4, count_s=1e-5, judge_s=1e-5, open_s=1e-3, commit_s=0.01, video_bytes_per_s=1e5,
)  # fmt: skip
FREE = replace(
    COSTS, write_s=0.0, ray_s=0.0, step_s=0.0, list_s=0.0, plan_s=0.0, count_s=0.0, open_s=0.0, commit_s=0.0
)


def test_tasks_are_cut_as_the_flow_cuts_them() -> None:
    probe, answer, judge = streams(COSTS, Assumed(files=10_000_000, questions=10), Settings())
    assert len(probe.sizes) == -(-10_000_000 // flow.MAX_FILES_PER_TASK)
    assert len(answer.sizes) == 10_000_000 // flow.MAX_WINDOWS_PER_TASK == 156_250
    assert judge.items == 10_000_000 * 10 // flow.ANSWERS_PER_SHARD + 1
    assert 100 < answer.items_per_part < 110, "as many of 300 frames as fit into 128 MiB"
    few = streams(COSTS, Assumed(files=100), Settings())[1]
    assert len(few.sizes) == 100
    assert few.items_per_part == 32


def test_a_job_without_any_limit_is_efficient() -> None:
    assumed = Assumed(files=64 * 400, request_s=0.0, probe_requests=0, window_requests=0)
    found = run(FREE, assumed, Settings(windows_per_task=8, files_per_task=8), Cluster(4, cores=10), Store())
    assert found.efficiency == pytest.approx(1, abs=0.02)
    assert found.outcomes["answer"].done == 64 * 400
    assert found.wall_s == pytest.approx(sum(found.phases_s.values()))


def test_settings_and_machines_move_what_they_should() -> None:
    assumed, cluster = Assumed(files=20_000), Cluster(50, cores=8)
    base = run(COSTS, assumed, Settings(), cluster, Store())
    blocks = run(COSTS, assumed, Settings(bundle=1), cluster, Store())
    assert blocks.outcomes["answer"].driver_busy_s > 1.3 * base.outcomes["answer"].driver_busy_s
    slow = run(COSTS, assumed, Settings(), replace(cluster, commits_at_once=1), Store())
    assert slow.phases_s["answer"] > base.phases_s["answer"]
    assert slow.phases_s["read footers"] == pytest.approx(16 * base.phases_s["read footers"])


def test_machines_that_idle_too_long_are_given_back() -> None:
    assumed, cluster = Assumed(files=2_000), Cluster(5, cores=8, boot_s=50)
    kept = run(replace(FREE, plan_s=0.01), assumed, Settings(), cluster, Store())
    back = run(replace(FREE, plan_s=1.0), assumed, Settings(), cluster, Store())
    assert back.phases_s["answer"] > kept.phases_s["answer"] + 45
    most_idle = 5 * cluster.idle_s
    assert back.paid_node_s - kept.paid_node_s < most_idle + 5 * 50 * 2
