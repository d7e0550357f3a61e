"""Figures of a cluster that grows and shrinks, from what was seen of it."""

from collections import Counter

import pytest

from jobs.bench_autoscale import Seen, passes
from jobs.fake_cluster import configuration

SEEN = Seen(
    [(0.0, {}), (5.0, {"decode": 1}), (9.0, {"decode": 1, "gpu": 1}), (20.0, {"decode": 2, "gpu": 2}),
     (60.0, {"decode": 2}), (61.0, {})],
    {"decode": Counter(sample_window=9), "gpu": Counter(Scorer=20)},
)  # fmt: skip
GOOD = {
    "first_gpu_s": 9.0,
    "peak_gpu_nodes": 2,
    "zero_after_s": 6.0,
    "decoded_on": ["decode"],
    "models_on": ["gpu"],
}


def test_when_machines_came_and_went():
    assert (SEEN.first_s("gpu"), SEEN.first_s("gpu", 2), SEEN.first_s("gpu", 3)) == (9.0, 20.0, None)
    assert (SEEN.peak("gpu"), SEEN.peak("other")) == (2, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"first_gpu_s": None}, {"peak_gpu_nodes": 1}, {"zero_after_s": None}, {"decoded_on": ["decode", "gpu"]},
     {"models_on": ["decode"]}],
)  # fmt: skip
def test_what_does_not_pass(wrong):
    assert passes(GOOD)
    assert not passes(GOOD | wrong)


def test_the_autoscaler_is_told_what_a_cluster_file_says():
    types = {"gpu": {"resources": {"CPU": 1, "GPU": 1}, "labels": {"role": "gpu"}, "max_workers": 2}}
    told = configuration(types, 4, 30.0, "10.0.0.1:6379")
    assert told["idle_timeout_minutes"] == 0.5
    assert told["max_workers"] == 4
    node = told["available_node_types"]["gpu"]
    assert (node["max_workers"], node["min_workers"], node["labels"]) == (2, 0, {"role": "gpu"})
    assert node["resources"]["GPU"] == 1
    assert node["resources"]["memory"] > 2**30, "a task asks for some, and is for no type that has none"
    assert told["available_node_types"][told["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
