"""Whose seconds an estimate goes by: an earlier run's, measured ones, or rough ones."""

import pytest
import torch

from jobs import estimate_bill
from jobs.calibrate import Calibration
from jobs.estimate_bill import Sampled, unused_rates
from pipeline.config import PoolConfig
from pipeline.cost import STAGES
from pipeline.rates import TOKEN

ANSWERED = {"answer_s": 2.0, "answer_cpu_s": 6.0, "num_answers": 1, "prefill_tokens": 100}
NOTHING = Sampled({}, [], [], 0, 0)  # pyright: ignore[reportArgumentType]


def earlier(**gpu_s):
    return {"stages": {name: {"gpu_s": gpu_s.get(name, 0.0)} for name in STAGES}}


@pytest.mark.parametrize(
    ("device", "wanted", "bill", "expected"),
    [
        ("auto", True, earlier(score=9.0), True),
        ("auto", True, earlier(answer=9.0), torch.cuda.is_available()),
        ("auto", True, None, torch.cuda.is_available()),
        ("auto", False, earlier(score=9.0), False),
        ("cpu", True, earlier(score=9.0), False),
        ("cuda", True, None, True),
    ],
)
def test_an_earlier_run_tells_where_a_pool_will_sit(device, wanted, bill, expected):
    assert estimate_bill._on_gpu(PoolConfig(device=device), bill, "score", wanted=wanted) == expected


@pytest.mark.parametrize(("device", "num_warnings"), [("auto", 1), ("cpu", 0), ("cuda", 0)])
def test_a_model_priced_on_cpus_for_want_of_a_gpu_here_is_told(device, num_warnings, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    estimate_bill._on_gpu(PoolConfig(device=device), None, "answer", wanted=True)
    told = [record.message for record in caplog.records if "--answer.pool.device cuda" in record.message]
    assert len(told) == num_warnings


@pytest.mark.parametrize("unit", ["answer", TOKEN])
@pytest.mark.parametrize("measured_on", ["cpu", "cuda"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_an_answer_is_measured_only_on_the_device_that_it_will_run_on(unit, measured_on, on_gpu):
    found = Calibration([ANSWERED], answered_by_model=True, answered_on=measured_on)
    rate = estimate_bill._measured("answer", unit, NOTHING, found, on_gpu=on_gpu)
    if (measured_on == "cuda") != on_gpu:
        assert rate is None
    else:
        assert rate.per_unit.mid == pytest.approx((2.0 if on_gpu else 6.0) / (100 if unit == TOKEN else 1))


def test_rates_that_are_not_used_are_told():
    def stage(kind, source, seconds=1.0):
        return {kind: {"high": seconds}, "source": source}

    stages = {
        "probe": stage("cpu_s", "measured here"),
        "decode": stage("cpu_s", "from run r1"),
        "recall": stage("cpu_s", "default, rough", 0.0),
        "score": stage("cpu_s", "default, rough"),
        "answer": stage("gpu_s", "default, rough"),
    }
    probe, score, answer = unused_rates(stages, earlier(score=5.0))
    assert probe == "probe (too little of it was done; the estimate goes by: measured here)"
    assert score.startswith("score (it ran on GPUs; ")
    assert answer.startswith("answer (it ran on CPUs; ")
