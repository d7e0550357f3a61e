"""What every entry of FRAME_SELECTORS obeys; a new entry is tested the day it is added."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import AnswerError
from pipeline.select import FRAME_SELECTORS, METHODS
from pipeline.selection import SeenFrames

pytestmark = pytest.mark.parametrize("name", sorted(FRAME_SELECTORS))
DENSE = {"clusters", "uniform"}
"""Those that show everything when the budget pays for it."""
BUDGETS = st.integers(1, 6000)
FRAME_TOKENS = st.integers(1, 300)


@st.composite
def windows(draw) -> SeenFrames:
    count = draw(st.one_of(st.integers(0, 3), st.integers(0, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    embedding = rng.standard_normal((count, draw(st.integers(1, 5))))
    if draw(st.booleans()):
        embedding = embedding.round()  # many equal frames, and zeros
    if draw(st.booleans()):
        embedding = np.cumsum(embedding, axis=0)  # a path
    slow = rng.random(count) < draw(st.floats(0, 1))
    slow[:1] = True
    pts_s = np.cumsum(rng.integers(1, 9, count)) / 4
    return SeenFrames(
        pts_s_N=pts_s,
        end_s=float(pts_s[-1]) + 1.0 if count else 1.0,
        embedding_NE=embedding.astype(np.float32),
        relevance_N=rng.random(count).round(draw(st.integers(0, 3))).astype(np.float32),
        novelty_N=rng.random(count).astype(np.float32),
        slow_N=slow,
    )


def select(name, frames, budget, per_frame):
    return FRAME_SELECTORS[name](frames, budget_tokens=budget, tokens_per_frame=per_frame)


@settings(max_examples=40)
@given(windows(), BUDGETS, FRAME_TOKENS)
def test_obeys_the_contract(name, frames, budget, per_frame):
    before = frames.embedding_NE.copy()
    try:
        plan = select(name, frames, budget, per_frame)
    except AnswerError:
        assert budget < per_frame
        assert len(frames)
        return
    assert len(plan.tokens_N) == len(frames)
    assert sum(plan.tokens_N) <= budget
    assert all(0 <= tokens <= per_frame for tokens in plan.tokens_N)
    assert all(type(tokens) is int for tokens in plan.tokens_N)
    assert any(plan.tokens_N) == bool(len(frames))
    assert plan.reason
    assert plan == select(name, frames, budget, per_frame)
    assert np.array_equal(before, frames.embedding_NE)


@pytest.mark.parametrize("per_frame", [4, 5, 64, 256])
def test_a_budget_that_buys_nothing_is_refused_with_what_it_would_take(name, per_frame):
    frames = SeenFrames(
        pts_s_N=np.arange(3.0),
        end_s=3.0,
        embedding_NE=np.eye(3, dtype=np.float32),
        relevance_N=np.ones(3, np.float32),
        novelty_N=np.ones(3, np.float32),
        slow_N=np.ones(3, bool),
    )
    refused = [budget for budget in range(per_frame + 1) if _refuses(name, frames, budget, per_frame)]
    assert refused == list(range(max(refused) + 1))
    with pytest.raises(AnswerError, match=f"(costs|costs:) {max(refused) + 1}\\b"):
        select(name, frames, max(refused), per_frame)


def _refuses(name, frames, budget, per_frame) -> bool:
    try:
        return not any(select(name, frames, budget, per_frame).tokens_N)
    except AnswerError:
        return True


@settings(max_examples=40)
@given(windows(), FRAME_TOKENS)
def test_a_budget_for_everything_shows_everything_where_that_is_claimed(name, frames, per_frame):
    plan = select(name, frames, max(1, per_frame * len(frames)), per_frame)
    if name in DENSE:
        assert plan.tokens_N == (per_frame,) * len(frames)
    if len(frames) == 1 and name != "relevance":  # which spends as the question wants it
        assert plan.tokens_N == (per_frame,)


@settings(max_examples=40)
@given(windows(), BUDGETS, st.integers(1, 10**6))
def test_only_the_distances_between_times_count(name, frames, budget, later_s):
    shifted = replace(frames, pts_s_N=frames.pts_s_N + later_s, end_s=frames.end_s + later_s)
    assert select(name, frames, budget + 20, 20) == select(name, shifted, budget + 20, 20)


@settings(max_examples=40)
@given(windows(), BUDGETS, st.randoms(use_true_random=False))
def test_relevance_counts_only_where_the_method_says_so(name, frames, budget, random):
    if not METHODS[name].query_dependent:
        other = replace(
            frames, relevance_N=np.asarray([random.random() for _ in range(len(frames))], np.float32)
        )
        assert select(name, frames, budget + 20, 20) == select(name, other, budget + 20, 20)


@settings(max_examples=40)
@given(windows().filter(len), st.integers(0, 99))
def test_an_embedding_that_is_not_finite_is_refused_by_those_that_need_it(name, frames, place):
    broken = replace(frames, embedding_NE=frames.embedding_NE.copy())
    frame = place % len(frames)
    broken.embedding_NE[frame, 0] = np.nan
    if "embeddings" in METHODS[name].needs:
        with pytest.raises(AnswerError, match=f"frame {frame} at .* not finite"):
            select(name, broken, 500, 20)
    else:
        assert select(name, broken, 500, 20) == select(name, frames, 500, 20)
