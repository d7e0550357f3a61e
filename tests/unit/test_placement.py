"""Stages sit where the cluster has or can have room for them; graphs that could never run are refused."""

from dataclasses import replace

import pytest

from jobs.machines import Kind, Machines
from jobs.placement import (
    DECODING_MACHINES,
    GPU_MACHINES,
    Placement,
    Seat,
    check,
    find_places,
    most_resources,
    place,
)
from pipeline.config import AnswerConfig, ClusterConfig, JobConfig, PoolConfig, ScoreConfig
from pipeline.errors import ClusterError

HEAD = Kind("head", 1, {"CPU": 0.0}, comes=False)
DECODE = Kind("decode", 8, {"CPU": 32.0}, DECODING_MACHINES)
GPU = Kind("gpu", 16, {"CPU": 8.0, "GPU": 1.0}, GPU_MACHINES)
FROM_ZERO = Machines([HEAD, DECODE, GPU], max_workers=24)


def one_machine(num_cpus, num_gpus=0.0):
    return Machines([Kind("head", 1, {"CPU": num_cpus, "GPU": num_gpus}, comes=False)])


def placement(min_size=1, num_cpus=0.4, num_gpus=0.0, labels=None):
    pool = PoolConfig(min_size=min_size, max_size=min_size)
    seat = Seat("cuda" if num_gpus else "cpu", 0.0 if num_gpus else num_cpus, num_gpus, pool, labels or {})
    return Placement(seat, seat)


def places(machines, *, wanted=True, device="auto", labels="auto", model="any", **pool):
    settings = PoolConfig(device=device, **pool)
    config = JobConfig(
        score=ScoreConfig(pool=settings), answer=AnswerConfig(model=model, pool=settings),
        cluster=ClusterConfig(placement=labels),
    )  # fmt: skip
    return find_places(config, machines, scorer_gpu=wanted, answerer_gpu=wanted)


def test_the_default_pools_fit_two_cpus():
    check(placement(), one_machine(2))


def test_actors_that_leave_no_cpu_for_decoding_are_refused():
    with pytest.raises(ClusterError, match=r"need 3.1 CPUs.*the cluster has 2"):
        check(placement(num_cpus=1.0), one_machine(2))
    with pytest.raises(ClusterError, match=r"--score\.pool\.min-size"):
        check(placement(min_size=2), one_machine(2))


def test_gpus_are_counted_like_cpus():
    check(placement(num_gpus=0.5), one_machine(2, 1))
    with pytest.raises(ClusterError, match="need 2 GPUs"):
        check(placement(num_gpus=1.0), one_machine(2, 1))


@pytest.mark.parametrize(
    ("device", "wanted", "present", "expected"),
    [
        ("auto", True, True, "cuda"),
        ("auto", True, False, "cpu"),
        ("cuda", True, False, "cuda"),
        ("cpu", True, True, "cpu"),
    ],
)
def test_where_actors_sit(device, wanted, present, expected):
    seat = places(one_machine(2, float(present)), wanted=wanted, device=device).scorer
    assert seat.device == expected
    assert (seat.num_gpus > 0) == (expected == "cuda")
    assert (seat.num_cpus > 0) == (expected == "cpu")


@pytest.mark.parametrize("present", [True, False])
def test_a_scorer_that_uses_no_gpu_scores_where_frames_are_decoded(present):
    machine = one_machine(2, float(present))
    assert places(machine, wanted=False).scorer is None
    assert list(places(machine, wanted=False).pools) == ["answer"]
    assert places(machine, wanted=False, device="cpu").scorer.device == "cpu"


def test_the_cores_that_decode_are_counted_where_they_are_known():
    assert places(one_machine(2)).cores == 2
    assert places(FROM_ZERO).cores == 8 * 32
    assert places(replace(one_machine(2), known=False)).cores is None


def test_gpus_that_are_still_to_come_are_taken():
    found = places(FROM_ZERO)
    assert found.scorer.device == found.answerer.device == "cuda"
    assert found.scorer.labels == found.answerer.labels == GPU_MACHINES
    assert found.labels == DECODING_MACHINES


def test_models_without_gpus_sit_beside_decoding():
    found = places(FROM_ZERO, wanted=False, device="cpu")
    assert found.scorer.labels == found.answerer.labels == DECODING_MACHINES


def test_nothing_is_asked_for_where_no_machine_says_what_it_is_for():
    found = places(one_machine(2, 1))
    assert found.labels == found.scorer.labels == {}


def test_labels_of_machines_without_room_are_not_asked_for():
    small = Machines([HEAD, Kind("decode", 8, {"CPU": 0.5}, DECODING_MACHINES), GPU])
    assert places(small).labels == {}


@pytest.mark.parametrize(("labels", "expected"), [("none", {}), ("labels", DECODING_MACHINES)])
def test_the_setting_goes_before_what_is_found(labels, expected):
    machines = FROM_ZERO if labels == "none" else one_machine(4)
    assert places(machines, labels=labels).labels == expected


def test_labels_that_no_machine_has_are_refused():
    machines = Machines([HEAD, Kind("decoding", 4, {"CPU": 8.0}, {"role": "decoder"}), GPU])
    with pytest.raises(ClusterError, match=r"labelled role=decode.*did you mean role=decoder"):
        check(places(machines, labels="labels"), machines)


def test_a_cluster_from_zero_is_judged_by_what_can_come():
    check(places(FROM_ZERO), FROM_ZERO)
    with pytest.raises(ClusterError, match=r"asks for 17 seats of 1 GPU.*can have 16"):
        check(places(FROM_ZERO, min_size=17, max_size=17), FROM_ZERO)
    with pytest.raises(ClusterError, match="need 32 GPUs"):
        check(places(FROM_ZERO, min_size=16, max_size=16), FROM_ZERO)


def test_an_actor_must_fit_one_machine():
    with pytest.raises(ClusterError, match=r"needs 2 GPUs on one machine, and no machine.*up to 16 x gpu"):
        check(places(FROM_ZERO, num_gpus=2.0), FROM_ZERO)
    with pytest.raises(ClusterError, match=r"needs 40 CPUs on one machine"):
        check(places(FROM_ZERO, device="cpu", num_cpus=40.0), FROM_ZERO)


def test_without_a_model_no_answering_actor_is_counted():
    pools = {"min_size": 16, "max_size": 16}
    with pytest.raises(
        ClusterError, match=r"--score\.pool\.min-size or --answer\.pool\.min-size or num-gpus"
    ):
        check(places(FROM_ZERO, **pools), FROM_ZERO)
    check(places(FROM_ZERO, model="", **pools), FROM_ZERO)
    small = one_machine(4)
    with pytest.raises(ClusterError, match=r"Lower --score\.pool\.min-size or num-cpus"):
        check(places(small, model="", device="cpu", min_size=8, max_size=8), small)
    check(places(small, model="", wanted=False, min_size=8, max_size=8), small)


@pytest.mark.parametrize(("model", "expected"), [("", ["score"]), ("any", ["score", "answer"])])
def test_the_log_tells_of_the_pools_that_are_started(monkeypatch, caplog, model, expected):
    monkeypatch.setattr("jobs.placement.survey_machines", lambda: one_machine(4))
    config = JobConfig(answer=AnswerConfig(model=model))
    with caplog.at_level("INFO", logger="jobs.placement"):
        place(config, scorer_gpu=False, answerer_gpu=False)
    assert [line.partition(":")[0] for line in caplog.messages] == expected


def test_a_seat_never_spans_two_gpus():
    two = Machines([HEAD, DECODE, Kind("gpu", 2, {"GPU": 1.0}, GPU_MACHINES)], max_workers=24)
    with pytest.raises(ClusterError, match=r"asks for 3 seats of 0.6 GPUs.*can have 2"):
        check(places(two, num_gpus=0.6, min_size=3, max_size=3), two)


def test_max_workers_of_all_types_counts():
    one, three = (Machines([HEAD, DECODE, GPU], max_workers=limit) for limit in (1, 3))
    with pytest.raises(ClusterError, match=r"need 2 machines.*max_workers of the cluster is 1"):
        check(places(one, num_gpus=0.5), one)
    with pytest.raises(ClusterError, match=r"asks for 4 seats.*can have 3"):
        check(places(three, min_size=4, max_size=4), three)


def test_decoding_needs_a_cpu_on_its_own_machines():
    small = Machines([HEAD, Kind("decode", 1, {"CPU": 1.0}, DECODING_MACHINES), GPU])
    with pytest.raises(ClusterError, match=r"1\.1 CPUs on machines labelled role=decode"):
        check(places(small, num_gpus=0.5), small)


def test_placement_does_not_change_the_fingerprint():
    from pipeline.config import fingerprint

    assert fingerprint(JobConfig()) == fingerprint(JobConfig(cluster=ClusterConfig(placement="none")))


def test_the_small_cpu_scorer_takes_no_gpu():
    from actors.models.tables import FRAME_SCORERS

    assert not FRAME_SCORERS["embedded"].describe(ScoreConfig()).uses_gpu


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        # GPU machines have CPUs that no task asks for: they take the rounding
        ([HEAD, DECODE, GPU], (256, 16)),
        # they have none: a little less than there can be
        ([HEAD, DECODE, Kind("gpu", 2, {"GPU": 1.0}, GPU_MACHINES)], (254, 2)),
        ([HEAD, Kind("any", 4, {"CPU": 8.0, "GPU": 1.0})], (30, 4)),
        # never so little that nothing runs
        ([HEAD, Kind("any", 1, {"CPU": 3.0, "GPU": 2.0})], (1.9, 2)),
    ],
)
def test_what_an_autoscaler_may_be_asked_for(kinds, expected):
    machines = Machines(kinds, max_workers=24)
    assert most_resources(places(machines), machines) == expected


def test_the_machines_of_the_pools_gpus_leave_no_room_for_others():
    # 16 of 20 machines are taken by GPUs, 4 are left to decode
    machines = Machines([HEAD, DECODE, GPU], max_workers=20)
    assert most_resources(places(machines, max_size=8), machines) == (4 * 32, 16)
    # pools of one GPU each take 2 machines, and all 8 that decode may come
    assert most_resources(places(machines), machines) == (8 * 32, 16)
    # so they may where only the scorer has a pool
    assert most_resources(places(machines, model="", max_size=8), machines) == (8 * 32, 16)
