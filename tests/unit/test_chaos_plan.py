"""A plan is its seed's, every kind of kill has its turn, and the last attempt is a quiet one."""

import random
from collections import Counter

from jobs.chaos_plan import ALL, ATTEMPTS, BUSY, KILLS, STEPS, draw, draw_fault

COUNTED = Counter({ALL: 100, BUSY: 60, "record": 5, "close": 1})


def plans(seed, number=24):
    return [draw(seed, run, COUNTED) for run in range(number)]


def test_a_seed_is_a_plan():
    assert plans(1) == plans(1)
    assert plans(1) != plans(2)


def test_every_kind_has_its_turn_and_the_last_attempt_none():
    for number, plan in enumerate(plans(3)):
        assert len(plan) == ATTEMPTS
        assert plan[0].strikes[0].kind == KILLS[number % len(KILLS)]
        assert plan[-1].strikes == ()
    assert {
        kind for plan in plans(3) for attempt in plan for kind in (s.kind for s in attempt.strikes)
    } == set(KILLS)


def test_a_step_is_one_that_an_undisturbed_run_takes():
    steps = [s for plan in plans(4, 100) for attempt in plan for s in attempt.strikes if s.step]
    assert {(strike.step, strike.nth) for strike in steps} == {("record", n) for n in range(1, 6)} | {
        ("close", 1)
    }
    assert {strike.reaches for strike in steps} == {True, False}
    assert COUNTED.keys() <= {ALL, BUSY, *STEPS}


def test_workers_are_killed_while_there_are_any():
    strikes = [s for plan in plans(5, 200) for attempt in plan for s in attempt.strikes if not s.step]
    latest = {kind: max(s.after for s in strikes if s.kind == kind) for kind in KILLS if kind != "step"}
    assert latest.pop("loading") == 0
    assert min(latest.pop("driver"), latest.pop("node")) > COUNTED[BUSY]
    assert max(latest.values()) < COUNTED[BUSY]


def test_faults_come_as_often_as_asked():
    rng = random.Random(0)
    assert not any(draw_fault(rng, 0.0) for _ in range(100))
    found = [fault for _ in range(2000) if (fault := draw_fault(rng, 0.05))]
    assert 50 < len(found) < 150
    assert {fault.kind for fault in found} == {"lost", "reset", "close", "slow", "refusal"}
