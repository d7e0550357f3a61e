"""The planner: the published accounts, the choices the paper leaves open, and its refusals."""

import numpy as np
import pytest

from pipeline.budget import Plan, plan_evidence, plan_tokens
from pipeline.errors import AnswerError

SETTINGS = {
    "route": "fragment",
    "route_confidence": 0.9,
    "tokens_per_frame": 256,
    "budget_tokens": 12288,
    "threshold": 0.5,
    "scale_global": 2,
    "scale_relevant": 1,
    "scale_background": 4,
}


def plan(relevance, **changes) -> Plan:
    return plan_tokens(np.asarray(relevance, np.float32), **{**SETTINGS, **changes})


def relevance(num_relevant: int, num_frames: int = 64) -> list[float]:
    return [0.9] * num_relevant + [0.1] * (num_frames - num_relevant)


@pytest.mark.parametrize(
    ("budget_tokens", "route", "num_relevant", "expected"),
    [
        (12288, "global", 0, {128: 64}),
        (12288, "fragment", 16, {256: 16, 64: 48}),
        (12288, "fragment", 32, {256: 32, 64: 32}),
        (12288, "fragment", 48, {256: 48}),
        (12288, "fragment", 64, {256: 48}),
        (4096, "global", 0, {128: 32}),
        (4096, "fragment", 4, {256: 4, 64: 48}),
        (4096, "fragment", 17, {256: 16}),
        (4096, "fragment", 40, {256: 16}),
    ],
)
def test_published_accounts(budget_tokens, route, num_relevant, expected):
    """64 frames of 256 tokens at scales 2, 1, 4."""
    found = plan(relevance(num_relevant), budget_tokens=budget_tokens, route=route, max_relevant_share=1.0)
    counts = {tokens: found.tokens_N.count(tokens) for tokens in set(found.tokens_N) - {0}}
    assert counts == expected
    assert found.route == route


def test_relevant_frames_get_full_tokens_and_others_the_rest():
    found = plan([0.1, 0.9, 0.1, 0.1], budget_tokens=256 + 2 * 64)
    assert found.tokens_N == (64, 256, 0, 64)


def test_background_goes_where_the_gap_is_largest():
    found = plan([0.9, *[0.1] * 8], budget_tokens=256 + 2 * 64)
    assert found.tokens_N == (256, 0, 0, 0, 64, 0, 0, 0, 64)


def test_equal_gaps_go_to_the_more_relevant_frame_then_to_the_earlier():
    assert plan([0.1, 0.9, 0.2], budget_tokens=256 + 64).tokens_N == (0, 256, 64)
    assert plan([0.1, 0.9, 0.1], budget_tokens=256 + 64).tokens_N == (64, 256, 0)


def test_only_known_frames_are_chosen_by_their_distance_in_the_window():
    """Frame 5 is relevant and not known; 3 lies farther from 0 and 7 than 2 does, though next to 7 among these."""
    known = [1, 1, 1, 1, 0, 0, 0, 1]
    found = plan([0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1], budget_tokens=256 + 2 * 64, known_N=known)
    assert np.flatnonzero(found.tokens_N).tolist() == [0, 3, 7]
    assert found.reason == "1 of 1 relevant frames at 256 tokens, 2 of 4 others at 64"


def test_without_a_choice_among_known_frames_the_whole_window_is_shown():
    known = np.arange(64) < 16
    assert plan(relevance(0), known_N=known) == plan(relevance(0))
    found = plan(relevance(20), known_N=known, budget_tokens=2048)
    assert found.reason == "relevance does not choose (16 of 16 frames): 16 of 64 frames at 128 tokens"
    assert np.flatnonzero(found.tokens_N).max() == 62


def test_relevance_at_the_threshold_counts():
    assert plan([0.5, 0.4999], budget_tokens=256).tokens_N == (256, 0)


def test_too_many_relevant_frames_are_sampled_at_equal_distances():
    found = plan(relevance(8, 16), budget_tokens=3 * 256)
    assert np.flatnonzero(found.tokens_N).tolist() == [1, 4, 6]


def test_everything_fits_and_all_relevant_is_dense():
    found = plan(relevance(64), budget_tokens=64 * 256)
    assert found == Plan(
        "fragment", (256,) * 64, "64 of 64 relevant frames at 256 tokens, 0 of 0 others at 64"
    )


@pytest.mark.parametrize(
    ("changes", "num_relevant", "reason"),
    [
        (
            {"route_confidence": 0.59},
            16,
            "fragment route not certain (0.59 < 0.6): 64 of 64 frames at 128 tokens",
        ),
        ({}, 0, "no relevant frame: 64 of 64 frames at 128 tokens"),
        ({}, 52, "relevance does not choose (52 of 64 frames): 64 of 64 frames at 128 tokens"),
    ],
)
def test_falls_back_to_global(changes, num_relevant, reason):
    assert plan(relevance(num_relevant), **changes) == Plan("global", (128,) * 64, reason)


def test_four_fifths_relevant_are_still_followed():
    assert plan(relevance(51)).route == "fragment"


def test_scales_need_not_divide_and_never_reach_zero():
    assert plan([0.9, 0.1], tokens_per_frame=9, scale_background=2, budget_tokens=99).tokens_N == (9, 4)
    assert plan([0.9, 0.1], tokens_per_frame=3, scale_background=16, budget_tokens=99).tokens_N == (3, 1)


def test_small_budget_buys_a_frame_at_a_coarser_scale():
    assert plan([0.1, 0.1, 0.1], route="global", budget_tokens=100).tokens_N == (0, 64, 0)
    assert plan([0.1, 0.9, 0.1], budget_tokens=200).tokens_N == (64, 128, 0)


def test_budget_below_every_frame_says_what_to_do():
    with pytest.raises(
        AnswerError, match=r"budget of 63 tokens .* costs 64 .*raise budget_tokens or a scale"
    ):
        plan([0.9], budget_tokens=63)


def test_window_without_frames_has_an_empty_plan():
    assert plan([]).tokens_N == ()
    assert plan([], route="global").tokens_N == ()


def test_model_without_visual_tokens_is_refused():
    with pytest.raises(ValueError, match="plan_evidence"):
        plan([0.9], tokens_per_frame=0)


def test_evidence_is_the_best_frames_in_time_order():
    assert plan_evidence([0.1, 0.7, 0.3, 0.9], [0, 10, 20, 30], 2) == (1, 3)
    assert plan_evidence([0.1, 0.7], [0, 10], 8) == (0, 1)
    assert plan_evidence([], [], 8) == ()
    assert plan_evidence([0.5], [0], 0) == ()


def test_evidence_shows_other_moments_before_neighbours():
    scores, times = [0.1, 0.8, 0.9, 0.8, 0.1, 0.5, 0.1], range(7)
    assert plan_evidence(scores, times, 2) == (2, 5)
    assert plan_evidence(scores, times, 3) == (1, 2, 5), "places left over go to the best neighbours"
    assert plan_evidence(scores, times, 2, min_gap_s=0) == (1, 2)
