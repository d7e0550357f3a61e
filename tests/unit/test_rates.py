"""Rates that earlier runs tell."""

import pytest

from pipeline import rates
from pipeline.cost import add_up, bill
from pipeline.prices import load_prices

COUNTERS = {"frames_scored": 1000, "score_s": 50.0, "score_cpu_s": 20.0, "windows": 10}


def of_counters(num_gpus):
    gpus = {"score": num_gpus} if num_gpus else {}
    made = bill(COUNTERS, load_prices(), gpus=gpus, held=None, num_queries=1, in_bucket=False)
    return {"run_id": "r1", **made}


def rate(made, *, on_gpu):
    return rates.of_run(made, "score", "frame", on_gpu=on_gpu)


@pytest.mark.parametrize("num_gpus", [0.25, 1.0, 4.0])
def test_on_gpus_the_rate_is_busy_seconds_whatever_share_an_actor_held(num_gpus):
    found = rate(of_counters(num_gpus), on_gpu=True)
    assert found.per_unit.mid == pytest.approx(0.05)
    assert found.source == "from run r1"


def test_on_cpus_the_rate_is_cpu_seconds():
    assert rate(of_counters(0.0), on_gpu=False).per_unit.mid == pytest.approx(0.02)


def test_another_device_tells_nothing():
    assert rate(of_counters(1.0), on_gpu=False) is None
    assert rate(of_counters(0.0), on_gpu=True) is None


def test_a_run_that_was_cut_short_does_not_make_the_rest_look_faster():
    # it has frames and busy seconds, but wrote down no GPUs
    both = add_up([of_counters(0.5), of_counters(0.0)], 1)
    assert rate(both, on_gpu=True).per_unit.mid == pytest.approx(0.05)
