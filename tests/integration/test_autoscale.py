"""The real job on Ray's real autoscaler: machines come from zero for it, and go when it has ended.

What stands in for what: a machine is a raylet of its own on this computer, started and ended by Ray's fake provider
of nodes instead of a cloud. A GPU is a number that a node type claims: a scoring actor reserves one, and its model
computes on the CPU. The scorer waits a moment for each frame, as if it were a large model, until the second machine is
there: work piles up on any computer. The autoscaler, its file, the labels, the pools and the job are the real ones.
"""

from jobs.bench_autoscale import IDLE_S, NODE_TYPES, copy_clips, measure, passes
from tests.integration.ray_head import ROOT

COPIES = 9
"""Some 200 s of work on one machine, which is over soon once there are two."""


def test_machines_come_from_zero_and_go_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = measure(
        copy_clips(tmp_path, COPIES), tmp_path / "out", IDLE_S, "tests.plugins_sample:SLOW_ON_ONE"
    )
    figures, seen, job = result["figures"], result["seen"], result["job"]
    print(figures, seen.changes)
    assert seen.changes[0][1] == {}, "the cluster begins without machines"
    assert seen.peak("gpu") == NODE_TYPES["gpu"]["max_workers"], (
        "a backlog brings the second machine with a GPU"
    )
    assert 0 < seen.first_s("gpu") <= seen.first_s("gpu", 2)
    assert seen.changes[-1][1] == {}, "machines without work go"
    assert figures["decoded_on"] == ["decode"]
    assert figures["models_on"] == ["gpu"]
    assert passes(figures)
    assert "machines labelled role=gpu" in result["err"], "the driver has read what its cluster can have"
    assert job["videos"] == 3 * COPIES
    assert job["failed_videos"] == job["failed_answers"] == 0
