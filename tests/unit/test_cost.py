"""The bill of a run, by hand on round prices."""

import pytest

from pipeline.cost import STAGES, Held, add_up, bill, told
from pipeline.prices import Bucket, Machine, Prices

PRICES = Prices(
    as_of="today", cpu_machine="c", gpu_machine="g",
    machines={
        "c": Machine(type="c", vcpus=4, on_demand_per_h=4.0, spot_per_h=1.0),
        "g": Machine(type="g", vcpus=8, gpus=2, on_demand_per_h=20.0, spot_per_h=10.0),
    },
    bucket=Bucket(read_per_1000=1.0, write_per_1000=10.0, storage_per_gb_month=0.02),
)  # fmt: skip
COUNTERS = {
    "videos": 3, "windows": 4, "answers": 8, "video_s": 7200.0, "decode_s": 99.0, "decode_cpu_s": 3600.0,
    "answer_s": 1800.0, "answer_cpu_s": 5.0, "probe_bytes": 1, "read_bytes": 2, "probe_requests": 100,
    "read_requests": 900, "written_files": 10, "written_bytes": 5, "tokens_used": 70,
}  # fmt: skip


def made(**changes):
    given = {"gpus": {"answer": 0.5}, "held": None, "num_queries": 2, "in_bucket": True} | changes
    return bill(COUNTERS, PRICES, **given)


def test_cpu_stages_pay_for_cpu_seconds_and_gpu_stages_for_their_share_of_a_gpu():
    stages = made()["stages"]
    assert stages.keys() == set(STAGES)
    assert stages["decode"]["dollars"] == pytest.approx({"low": 0.25, "high": 1.0})
    assert stages["answer"]["gpu_s"] == 900.0
    assert stages["answer"]["dollars"] == pytest.approx({"low": 0.25 * 5, "high": 0.25 * 10})
    assert stages["score"]["dollars"] == {"low": 0.0, "high": 0.0}


def test_the_total_is_the_sum_and_is_shared_out():
    found = made()
    requests = 1000 / 1000 * 1.0 + 30 / 1000 * 10.0
    assert found["requests"]["dollars"] == pytest.approx({"low": requests, "high": requests})
    assert found["total"] == pytest.approx({"low": 1.5 + requests, "high": 3.5 + requests})
    assert found["per_video_hour"]["high"] == pytest.approx(found["total"]["high"] / 2)
    assert found["per_query"]["low"] == pytest.approx(found["total"]["low"] / 2)
    assert (found["counts"]["read_bytes"], found["counts"]["read_requests"]) == (3, 1000)


def test_a_folder_costs_no_writes():
    assert made(in_bucket=False)["counts"]["write_requests"] == 0


def test_a_run_that_saw_no_video_has_no_price_per_hour():
    assert bill({}, PRICES, gpus={}, held=None, num_queries=1, in_bucket=False)["per_video_hour"] is None


def test_what_was_held_counts_a_gpu_machines_cpus_once():
    held = made(held=Held(3600.0, 12 * 3600.0, 2 * 3600.0))["held"]
    assert held["dollars"] == pytest.approx({"low": 1.0 + 10.0, "high": 4.0 + 20.0})
    assert (held["cpu_s"], held["gpu_s"]) == (12 * 3600, 2 * 3600)


def test_bills_add_up():
    held = Held(10.0, 40.0, 0.0)
    both = add_up([made(held=held), made(held=held), made()], 3)
    assert both["total"]["high"] == pytest.approx(3 * made()["total"]["high"])
    assert both["stages"]["decode"]["cpu_s"] == pytest.approx(3 * 3600)
    assert (both["counts"]["windows"], both["counts"]["video_h"]) == (12, 6.0)
    assert both["held"]["wall_s"] == 20.0
    assert both["per_query"]["high"] == pytest.approx(both["total"]["high"] / 3)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.00012345, 0.0003, "$0.00012-0.0003"), (1234.5, 1234.5, "$1200"), (0, 0, "$0"), (0.5, 2, "$0.5-2")],
)
def test_amounts_for_people(low, high, text):
    assert told({"low": low, "high": high}) == text
    assert told(None) == "-"
