"""Plans at equal budgets, intervals over videos, and what counts as passed; the whole is in tests/integration."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.bench_route import Arguments, command, main
from jobs.bench_route_ask import Tried, check_equal, frames_at_distances
from jobs.bench_route_figures import Found
from jobs.bench_route_plans import (
    PAPER_SCALES,
    TARGET_PCT,
    TRAINED,
    by_paper,
    by_rule,
    cap_tokens,
    uniform_frames,
    uniform_pooling,
)
from jobs.bench_route_routers import Seen, cost_of_question_s
from jobs.bench_route_statistics import Bootstrap
from jobs.recipes import find_recipe
from pipeline.config import PlanConfig, ScoreConfig
from pipeline.errors import ConfigError

FRAMES, TOKENS = 32, 16
DENSE = FRAMES * TOKENS


@pytest.mark.parametrize(
    ("budget_pct", "tokens", "scales"),
    [(100, 512, (1, 1)), (50, 256, (2, 4)), (32.1, 164, (4, 8)), (16, 81, (8, 16)), (8, 40, (16, 16))],
)
def test_the_scales_of_a_budget(budget_pct, tokens, scales):
    plan = by_rule(PlanConfig(), FRAMES, TOKENS, budget_pct).plan
    assert plan.budget_tokens == tokens
    assert (plan.scale_global, plan.scale_background, plan.scale_relevant) == (*scales, 1)


def test_the_papers_scales_are_under_the_papers_cap():
    first, second = (by_paper(PlanConfig(), 64, 256, *scales) for scales in PAPER_SCALES)
    assert first.plan.budget_tokens == second.plan.budget_tokens == 12_288
    assert (first.scales, second.scales) == (" (2,4)", " (4,8)")


@pytest.mark.parametrize("plan", [uniform_frames, uniform_pooling])
def test_plans_that_look_at_no_question_keep_the_budget_and_are_dense_where_all_fits(plan):
    for budget in range(1, DENSE + 1):
        assert sum(plan(FRAMES, TOKENS, budget).tokens_N) <= budget
    assert plan(FRAMES, TOKENS, DENSE).tokens_N == (TOKENS,) * FRAMES


def test_uniform_pooling_spends_what_is_left_on_frames_at_equal_distances():
    found = uniform_pooling(FRAMES, TOKENS, cap_tokens(DENSE, 32.1)).tokens_N
    assert sum(found) == 164
    raised = [frame for frame, size in enumerate(found) if size == 8]
    assert len(raised) == 9
    assert set(np.diff(raised)) <= {3, 4}
    assert all(size in (4, 8) for size in found)
    assert sum(uniform_pooling(FRAMES, TOKENS, 20).tokens_N) == 20, (
        "fewer frames than there are, one token each"
    )


def test_questions_about_one_video_are_one_piece_of_evidence():
    together, apart = np.repeat([0, 1] * 5, 10).astype(float), np.tile([0, 1], 50).astype(float)
    bootstrap = Bootstrap(np.repeat(np.arange(10), 10))
    assert bootstrap.ci95(apart) == 0
    assert bootstrap.ci95(together) == pytest.approx(1.96 * (0.25 / 10) ** 0.5, rel=0.1)
    assert bootstrap.interval(together - together) == (0, 0)


def test_a_bootstrap_is_that_of_the_slow_way():
    rng = np.random.default_rng(1)
    video_Q = np.sort(np.concatenate([np.arange(6), rng.integers(0, 6, 30)]))
    values_Q = rng.random(len(video_Q))
    drawn = np.random.default_rng(0).integers(0, 6, (2000, 6))
    means = [
        np.concatenate([values_Q[video_Q == video] for video in sample]).mean() for sample in drawn.tolist()
    ]
    assert Bootstrap(video_Q).interval(values_Q) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_what_an_image_router_reaches():
    seen = Seen(
        [np.array([0.9, 0.2], np.float32), np.array([0.6, 0.1], np.float32)],
        [np.array([True, False]), np.array([False, True])],
    )
    assert (seen.accuracy, seen.recall, seen.share) == (0.5, 0.5, 0.5)
    assert seen.precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_a_question_about_the_whole_video_pays_for_no_frames():
    costs = [
        {"questions": num, "frames": frames, "image_ms": 10.0 * num, "semantic_ms": 2.0 * num}
        for num in (1, 4)
        for frames in (8, 32)
    ]
    assert cost_of_question_s(costs, 1.0) == pytest.approx(0.012)
    assert cost_of_question_s(costs, 0.5) == pytest.approx(0.007)


class Asked:
    """Stands for a watched video: all that the figures want of one is how much was asked."""

    def __init__(self, num):
        self.asked = [None] * num


def tried(name, pct, right):
    setting = by_rule(PlanConfig(), FRAMES, TOKENS, pct)
    method = replace(frames_at_distances(TOKENS), name=name)
    return Tried(method, setting, right=list(right), tokens=[1] * len(right), texts=["a"] * len(right))


@pytest.mark.parametrize(
    ("routed", "pooled", "semantic", "passes"),
    [
        (0.9, 0.6, 0.96, True),
        (0.9, 0.6, 0.94, False),
        (0.9, 0.9, 0.96, False),
        (0.7, 0.6, 0.96, False),
    ],
)
def test_what_passes(routed, pooled, semantic, passes):
    rng = np.random.default_rng(0)
    found = Found([Asked(20) for _ in range(30)], TOKENS)
    shares = {("dense", 100.0): 0.9, (TRAINED, TARGET_PCT): routed, ("uniform pooling", TARGET_PCT): pooled}
    luck = rng.random(600)
    found.tried = [tried(*key, (luck < share).tolist()) for key, share in shares.items()]
    found.semantic = {TRAINED: (semantic, 600)}
    assert found.passes is passes
    found.wrong = ["dense at 100 %: something"]
    assert not found.passes


def test_an_accuracy_that_only_happens_to_be_the_dense_one_is_not_enough():
    rng = np.random.default_rng(0)
    found = Found([Asked(20) for _ in range(30)], TOKENS)
    found.semantic = {TRAINED: (0.96, 600)}
    right = rng.random(600) < 0.9
    aim = f"{TRAINED} at {TARGET_PCT:g} % not below dense"
    for routed, holds in ((right, True), (rng.permutation(right), False)):
        found.tried = [
            tried("dense", 100.0, right.tolist()),
            tried(TRAINED, TARGET_PCT, routed.tolist()),
            tried("uniform pooling", TARGET_PCT, [False] * 600),
        ]
        assert found.aims[aim] is holds


@pytest.mark.parametrize("together", [False, True])
def test_routing_pays_for_the_proposer(together):
    found = Found([Asked(20) for _ in range(2)], TOKENS)
    for watched in found.videos:
        watched.score_s = 0.4
    dense, routed = tried("dense", 100.0, [True] * 40), tried(TRAINED, TARGET_PCT, [True] * 40)
    dense.prefills_s, dense.alone_tokens, dense.prefill_tokens = [2.0, 2.0], [500, 500], 40 * 300
    routed.prefills_s, routed.prefill_tokens, routed.looked = [1.0, 1.0], 40 * 200, [True] * 40
    found.tried = [dense, routed]
    found.costs = {
        TRAINED: [{"questions": num, "frames": 32, "image_ms": 100.0, "semantic_ms": 0.0} for num in (1, 4)]
    }
    # together: 25 ms of routers and 20 ms of the proposer by 100 tokens of 4 ms
    expected = (0.025 + 0.02) / 0.4 if together else (0.1 + 0.4) / 1.0
    assert found.share_of_saved(TRAINED, together=together) == pytest.approx(expected)


def test_answers_that_differ_where_everything_fits_are_found_out():
    dense, same, other = (tried(name, 100.0, [True, False]) for name in ("dense", "same", "other"))
    other.texts = ["a", "b"]
    less = tried("less", 50.0, [False, False])
    less.over_budget = 1
    assert check_equal([dense, same]) == []
    assert check_equal([dense, same, other, less]) == [
        "less at 50 %: 1 answers above their budget",
        "other at 100 %: 1 of 2 answers are not the dense ones",
    ]


def test_the_command_repeats_the_run():
    assert command(Arguments()) == "reelsift bench route"
    args = Arguments(videos=8, budgets=(100.0, 32.1), score=replace(Arguments().score, candidates=8))
    assert command(args) == "reelsift bench route --videos 8 --budgets 100 32.1 --score.candidates 8"
    args = Arguments(model="/a/b", heads="package:toy/heads", score=ScoreConfig(smooth_s=0.0, candidates=32))
    assert command(args) == (
        "reelsift bench route --model DIR --heads package:toy/heads --score.model '' --score.proposer auto"
    )


def test_a_run_without_options_is_that_of_the_recipe():
    args, recipe = Arguments(), find_recipe("world")
    assert (args.model, args.heads, args.score) == (recipe.answer.model, recipe.plan.heads, recipe.score)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--videos", "1"], "--videos 1: expected at least 2"),
        (["--budgets", "0"], "--budgets 0: expected a finite number above 0"),
        (["--budgets", "120"], r"--budgets \(120.0,\): expected percentages up to 100"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        main(words)
