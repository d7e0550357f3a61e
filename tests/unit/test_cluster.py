"""Graphs that could never run are refused before they start."""

import pytest

from jobs.cluster import Placement, Seat, _seat, check
from pipeline.config import PoolConfig
from pipeline.errors import ClusterError


def placement(min_size=1, num_cpus=0.4, num_gpus=0.0):
    pool = PoolConfig(min_size=min_size, max_size=min_size)
    seat = Seat("cuda" if num_gpus else "cpu", 0.0 if num_gpus else num_cpus, num_gpus, pool)
    return Placement(seat, seat)


def test_the_default_pools_fit_two_cpus():
    check(placement(), num_cpus=2, num_gpus=0)


def test_actors_that_leave_no_cpu_for_decoding_are_refused():
    with pytest.raises(ClusterError, match=r"need 3.2 CPUs.*the cluster has 2"):
        check(placement(num_cpus=1.0), num_cpus=2, num_gpus=0)
    with pytest.raises(ClusterError, match=r"--score\.pool\.min-size"):
        check(placement(min_size=2), num_cpus=2, num_gpus=0)


def test_gpus_are_counted_like_cpus():
    check(placement(num_gpus=0.5), num_cpus=2, num_gpus=1)
    with pytest.raises(ClusterError, match="need 2 GPUs"):
        check(placement(num_gpus=1.0), num_cpus=2, num_gpus=1)


@pytest.mark.parametrize(
    ("device", "wanted", "present", "expected"),
    [
        ("auto", True, True, "cuda"),
        ("auto", True, False, "cpu"),
        ("auto", False, True, "cpu"),
        ("cuda", True, False, "cuda"),
        ("cpu", True, True, "cpu"),
    ],
)
def test_where_actors_sit(device, wanted, present, expected):
    seat = _seat(PoolConfig(device=device), wanted=wanted, present=present)
    assert seat.device == expected
    assert (seat.num_gpus > 0) == (expected == "cuda")
    assert (seat.num_cpus > 0) == (expected == "cpu")


def test_the_small_cpu_scorer_takes_no_gpu():
    from actors.models.tables import FRAME_SCORERS
    from pipeline.config import ScoreConfig

    assert not FRAME_SCORERS["embedded"].describe(ScoreConfig()).uses_gpu
