"""What is said of a run on its way: words and columns for what is known, on any width."""

import re
from dataclasses import replace

import pytest

from jobs.progress import Cluster, Pace, Pool, Stage, View, left_s, lines, rate, span, stage_lines, waits

SAMPLE = Stage("sample", 300, 600, per_s=3.25, num_tasks=4)
SCORE = Stage("score", 120, 600, per_s=2.0, num_tasks=2, pool=Pool(2, 1))
WINDOWS = Stage("windows", 96, 600, failed=2, is_committed=True)
CLUSTER = Cluster({"head": 1, "decode": 2, "": 1}, num_cpus=64)
VIEW = View("answer", 95.0, (SAMPLE, SCORE, WINDOWS), CLUSTER)


def test_a_run_on_its_way():
    assert lines(VIEW) == [
        "answer: 1 min 35 s, about 4 min 0 s left, 4 nodes (1 other, 2 decode, 1 head)",
        "  sample   50 %  300/600  3.2/s  1 min 32 s left            4 running",
        "  score    20 %  120/600  2.0/s   4 min 0 s left            2 running, 2 actors, 1 starting",
        "  windows  16 %   96/600                          2 failed",
    ]


def test_the_slowest_stage_decides_how_long_it_takes():
    assert left_s((SAMPLE, SCORE, WINDOWS)) == 240.0
    not_begun = replace(SCORE, done=0, per_s=None)
    assert left_s((SAMPLE, not_begun, WINDOWS)) is None, "it may be the slowest"
    assert left_s((SAMPLE, replace(SCORE, per_s=0.0))) == pytest.approx(300 / 3.25), (
        "a rate of nought says nothing"
    )
    assert left_s(()) is None


def test_nothing_is_left_of_a_finished_stream_whatever_has_no_total():
    stages = [
        Stage("windows", 9, 9, per_s=1.0, is_committed=True),
        Stage("answers", 18, per_s=2.0, is_committed=True),
    ]
    assert lines(View("answer", 9.0, stages))[0] == "answer: 9 s"


def test_what_is_not_known_is_not_said():
    [line] = stage_lines([Stage("verdicts", 1234, is_committed=True)])
    assert line == "  verdicts  1,234"
    assert stage_lines([Stage("probe", 0, 0)]) == ["  probe  100 %  0/0"]
    assert lines(View("probe", 0.0, ())) == ["probe: 0 s"]
    assert Stage("probe", 5, None, per_s=1.0).left_s is None
    assert Stage("probe", 5, 10, per_s=0.0).left_s is None


def test_a_finished_stage_has_neither_time_left_nor_workers():
    [line] = stage_lines([Stage("score", 600, 600, per_s=2.0, num_tasks=1, pool=Pool(2, 0))])
    assert line == "  score  100 %  600/600  2.0/s"


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    waiting = replace(VIEW, stages=(replace(SCORE, pool=Pool(0, 1, num_gpus=1.0)), WINDOWS), idle_s=90.0)
    for view in (VIEW, waiting):
        plain = lines(view, width, bar=True)
        assert all(len(line) <= width for line in plain)
        assert [
            re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in lines(view, width, bar=True, colour=True)
        ] == plain


def test_a_narrow_terminal_keeps_names_counts_and_failures():
    wide, narrow = stage_lines(VIEW.stages, 120, bar=True)[2], stage_lines(VIEW.stages, 30, bar=True)[2]
    assert "#........." in wide
    assert narrow == "  windows   96/600  2 failed"


def test_colour_marks_failures_and_only_when_it_is_wanted():
    assert "\x1b[31m  2 failed\x1b[0m" in lines(VIEW, colour=True)[-1]
    assert "\x1b" not in "".join(lines(VIEW, 80, bar=True))


@pytest.mark.parametrize(
    ("pool", "cluster", "says"),
    [
        (
            Pool(0, 1, num_gpus=1.0),
            CLUSTER,
            "answer is waiting for a GPU machine: an actor needs 1 GPUs, 0 are there",
        ),
        (
            Pool(0, 1, num_cpus=1.0),
            Cluster({"head": 1}),
            "is waiting for a machine: an actor needs 1 CPUs, 0 are",
        ),
        (
            Pool(0, 1, num_gpus=1.0),
            Cluster({"gpu": 1}, 8, 1),
            "answer is waiting for its first actor to start",
        ),
        (Pool(0, 1, num_gpus=1.0), None, "answer is waiting for its first actor to start"),
        (Pool(0, 0), CLUSTER, "answer has no actor yet"),
    ],
)
def test_what_a_pool_without_an_actor_waits_for(pool, cluster, says):
    [said] = waits(View("answer", 5.0, [Stage("answer", 0, 9, pool=pool)], cluster))
    assert says in said
    assert waits(View("answer", 5.0, [Stage("answer", 9, 9, pool=pool)], cluster)) == [], "it is done"


def test_a_stalled_run_says_what_is_at_work():
    assert waits(replace(VIEW, idle_s=59.0)) == []
    assert waits(replace(VIEW, idle_s=75.0)) == [
        "no row finished for 1 min 15 s: sample has 4 tasks running; score has 2 tasks running"
    ]
    idle = [replace(stage, num_tasks=0) for stage in VIEW.stages]
    assert "no task is running" in waits(replace(VIEW, stages=idle, idle_s=75.0))[0]


def test_pace_is_that_of_late_and_falls_while_nothing_comes():
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(10.0, 5)
    assert pace.per_s(20.0) is None, "when the work on the first ones began is not known"
    pace.add(20.0, 25)
    assert pace.per_s(20.0) == 2.0
    assert pace.per_s(50.0) == 0.5
    assert pace.per_s() == 2.0, "until the last step"
    for step in range(200):
        pace.add(100.0 + step, 1000 + 10 * step)
    assert pace.per_s(299.0) == pytest.approx(10.0), "what was long ago does not count"
    assert len(pace.steps) < 70, "nothing grows with the run"


@pytest.mark.parametrize(
    ("per_s", "says"),
    [(0.0, "0.0/h"), (0.01, "36.0/h"), (0.5, "30.0/min"), (3.25, "3.2/s"), (123456.0, "123,456/s")],
)
def test_a_rate_has_digits(per_s, says):
    assert rate(per_s) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_a_span_has_two_units(seconds, says):
    assert span(seconds) == says
