"""What two runs say of a third, on runs made up from known costs."""

import psutil
import pytest

from jobs.family import Use
from jobs.scale.check import check
from jobs.scale.measure import JobRun, Share, share

DECODE_S, SCORE_S, WRITE_S, AROUND_S, LOAD_S = 2.0, 0.5, 0.25, 20.0, 6.0
"""Per window; of every run; of every scorer."""
TASKS_START_S, TASKS_S, RAY_S, SCORER_S = 9.0, 0.25, 0.125, 0.5
"""Of no stage: task workers' start, theirs per window, Ray's per window, the scorer's per window."""


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 16)


def made_up(windows: int, wall_s: float, *, workers: int = 1, stolen: float = 0.0) -> JobRun:
    cpu_s_of = {
        "decoder": windows * DECODE_S,
        "Scorer": workers * LOAD_S + windows * (SCORE_S + SCORER_S),
        "task worker": TASKS_START_S + windows * (TASKS_S + WRITE_S),
        "Ray itself": 7.0 + windows * RAY_S,
    }
    cpu_s = sum(cpu_s_of.values())
    counted = {
        "decode_cpu_s": windows * DECODE_S, "score_cpu_s": windows * SCORE_S, "probe_cpu_s": 0.0,
        "answer_cpu_s": windows * WRITE_S / 2, "write_cpu_s": windows * WRITE_S / 2,
    }  # fmt: skip
    use = Use(wall_s, cpu_s, cpu_s_of, stolen_cores=stolen * cpu_s / wall_s)
    return JobRun(workers, windows, windows * 20.0, use, counted, (1.0,), "out")


def alone_s(windows: int, workers: int = 1) -> float:
    """Return the wall time of a job that decoding bounds, on more cores than it can use."""
    last_s = SCORE_S + WRITE_S + SCORER_S
    return AROUND_S + windows / workers * (DECODE_S + TASKS_S) + last_s


def test_starting_and_a_window_are_told_apart() -> None:
    short, long = made_up(10, 60), made_up(40, 150)
    assert share(short, long, "task worker") == Share(TASKS_START_S, TASKS_S)
    assert share(short, long, "Scorer") == Share(LOAD_S, SCORER_S)
    assert share(short, long, "decoder") == Share(0.0, 0.0)
    assert share(short, long, "task worker", "Ray itself") == Share(16.0, TASKS_S + RAY_S)


def test_less_that_is_spent_on_more_windows_is_no_gain_per_window() -> None:
    short, long = made_up(10, 60), made_up(40, 150)
    long.use.cpu_s_of["Ray itself"] = 1.0
    assert share(short, long, "Ray itself").window_s == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_longer_run_and_one_of_two_workers_are_told(workers: int) -> None:
    short, long = made_up(10, alone_s(10)), made_up(40, alone_s(40))
    found = check(short, long, made_up(80, alone_s(80, workers), workers=workers))
    assert (found.workers, found.windows) == (workers, 80)
    assert found.deviation < 0.02


def test_a_machine_that_is_let_run_half_of_the_time_takes_twice_as_long() -> None:
    short, long = made_up(10, alone_s(10)), made_up(40, alone_s(40))
    slow = check(short, long, made_up(80, 2 * alone_s(80), stolen=1.0))
    assert slow.deviation < 0.02


def test_cores_that_others_use_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    short, long = made_up(10, alone_s(10)), made_up(40, alone_s(40))
    told = made_up(80, alone_s(80))
    free = check(short, long, told)
    told.use.foreign_cores = 1.0
    assert check(short, long, told).simulated_s > 1.5 * free.simulated_s


def test_what_follows_scoring_takes_its_time_where_scoring_is_the_limit() -> None:
    short, long, told = made_up(10, 60), made_up(40, 150), made_up(80, 270)
    for run in (short, long, told):
        run.counted["write_cpu_s"] += 5.0 * run.windows
        run.use.cpu_s_of["task worker"] += 5.0 * run.windows
    last_s = SCORE_S + WRITE_S + 5.0 + SCORER_S
    first = (
        check(short, long, made_up(80, 270)).simulated_s - check(short, long, made_up(40, 150)).simulated_s
    )
    assert first == pytest.approx(40 * last_s, rel=0.02)
