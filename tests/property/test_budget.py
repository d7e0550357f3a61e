"""What every plan obeys, whatever the scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.budget import plan_evidence, plan_tokens
from pipeline.errors import AnswerError

SCORES = st.lists(st.floats(0, 1, width=32), max_size=80)
SETTINGS = st.fixed_dictionaries(
    {
        "route": st.sampled_from(["global", "fragment"]),
        "route_confidence": st.floats(0, 1),
        "tokens_per_frame": st.integers(1, 300),
        "budget_tokens": st.integers(1, 20000),
        "threshold": st.floats(0, 1),
        "scale_global": st.integers(1, 10),
        "scale_relevant": st.integers(1, 10),
        "scale_background": st.integers(1, 10),
        "max_relevant_share": st.floats(0, 1),
    }
)


def sizes(settings) -> list[int]:
    scales = (settings["scale_global"], settings["scale_relevant"], settings["scale_background"])
    return [max(1, settings["tokens_per_frame"] // scale) for scale in scales]


@given(SCORES, SETTINGS)
def test_never_over_budget_one_entry_per_frame_and_at_least_one_shown(scores, settings):
    if min(sizes(settings)) > settings["budget_tokens"]:
        try:
            plan_tokens(scores, **settings)
        except AnswerError:
            return
        raise AssertionError("a budget below every frame must be refused")
    plan = plan_tokens(scores, **settings)
    assert len(plan.tokens_N) == len(scores)
    assert sum(plan.tokens_N) <= settings["budget_tokens"]
    assert set(plan.tokens_N) <= {0, *sizes(settings)}
    assert not scores or any(plan.tokens_N)
    assert plan == plan_tokens(scores, **settings)


@given(SCORES, SETTINGS, st.randoms())
def test_counts_do_not_depend_on_the_order_of_frames(scores, settings, random):
    settings["budget_tokens"] += 300
    mixed = random.sample(scores, len(scores))
    plan, other = plan_tokens(scores, **settings), plan_tokens(mixed, **settings)
    assert sorted(plan.tokens_N) == sorted(other.tokens_N)
    assert (plan.route, plan.reason) == (other.route, other.reason)


@given(SCORES, SETTINGS)
def test_equal_scores_are_told_apart_by_place_only(scores, settings):
    """Relevant frames are equal for the planner, however relevant: only the threshold counts."""
    settings["budget_tokens"] += 300
    levelled = [1.0 if np.float64(score) >= settings["threshold"] else score for score in scores]
    assert plan_tokens(levelled, **settings) == plan_tokens(scores, **settings)


@given(SCORES.filter(len), SETTINGS)
def test_dense_when_all_are_relevant_and_all_fit(scores, settings):
    settings |= {"route": "fragment", "route_confidence": 1.0, "threshold": 0.0, "scale_relevant": 1}
    settings["budget_tokens"] = len(scores) * settings["tokens_per_frame"]
    plan = plan_tokens(scores, **settings)
    assert plan.route == "fragment"
    assert set(plan.tokens_N) == {settings["tokens_per_frame"]}


@given(SCORES, SETTINGS)
def test_no_relevant_frame_is_the_global_plan(scores, settings):
    settings |= {"budget_tokens": settings["budget_tokens"] + 300, "threshold": 1.1}
    fragment = plan_tokens(scores, **{**settings, "route": "fragment"})
    whole = plan_tokens(scores, **{**settings, "route": "global"})
    assert fragment.tokens_N == whole.tokens_N
    assert fragment.route == "global"


@given(SCORES, SETTINGS)
def test_a_background_frame_is_shown_only_when_every_relevant_one_is(scores, settings):
    settings |= {"budget_tokens": settings["budget_tokens"] + 300, "route": "fragment"}
    plan = plan_tokens(scores, **settings)
    if plan.route == "fragment":
        relevant = np.asarray(scores) >= settings["threshold"]
        shown = np.asarray(plan.tokens_N) > 0
        assert not shown[~relevant].any() or shown[relevant].all()


@given(SCORES, st.integers(0, 20), st.sampled_from([0.0, 1.0, 3.0]))
def test_evidence_is_sorted_and_the_best_frame_is_in_it(scores, max_evidence, gap):
    times = np.arange(len(scores)) * 0.7
    chosen = plan_evidence(scores, times, max_evidence, gap)
    assert len(chosen) == min(max_evidence, len(scores))
    assert list(chosen) == sorted(set(chosen))
    assert not chosen or max(scores) == max(scores[index] for index in chosen)
    if not gap and chosen:
        left = [score for index, score in enumerate(scores) if index not in chosen]
        assert not left or max(left) <= min(scores[index] for index in chosen)
