"""What every entry of TOKEN_COMPRESSORS obeys; a new entry is tested the day it is added."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import CompressConfig
from pipeline.tokens import VisualTokens, by_frame, whole_frames

pytestmark = pytest.mark.parametrize("name", sorted(TOKEN_COMPRESSORS))
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
PRUNE_RATIOS = st.floats(0, 1)


@st.composite
def clips(draw) -> VisualTokens:
    frames, rows, columns = draw(st.integers(0, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(frames, rows * columns, draw(st.integers(1, 4)), generator=generator)
    if draw(st.booleans()):
        values = values.round()  # many equal tokens, and zeros
    return whole_frames(values.to(draw(DTYPES)), (rows, columns))


@st.composite
def clips_and_plans(draw) -> tuple[VisualTokens, list[int]]:
    tokens = draw(clips())
    frames = len(tokens.values_ND) // tokens.num_per_frame
    limits = st.one_of(st.just(0), st.just(tokens.num_per_frame), st.integers(0, tokens.num_per_frame + 3))
    return tokens, draw(st.lists(limits, min_size=frames, max_size=frames))


@given(clips_and_plans(), PRUNE_RATIOS)
def test_obeys_the_contract(name, case, prune_ratio):
    tokens, plan = case
    found = TOKEN_COMPRESSORS[name](tokens, plan, CompressConfig(prune_ratio=prune_ratio))
    counts = torch.bincount(found.frame_N, minlength=len(plan)).tolist()
    assert len(counts) == len(plan)
    assert all(count <= limit for count, limit in zip(counts, plan, strict=True))
    assert bool((found.source_N.diff() > 0).all())
    assert found.source_N.dtype == torch.int64
    assert found.values_ND.dtype == tokens.values_ND.dtype
    assert bool(found.values_ND.isfinite().all())
    assert found.values_ND.shape[1] == tokens.values_ND.shape[1]
    assert (found.num_per_frame, found.grid) == (tokens.num_per_frame, tokens.grid)


@given(clips_and_plans(), PRUNE_RATIOS)
def test_a_frame_never_stands_for_more_tokens_than_it_had(name, case, prune_ratio):
    tokens, plan = case
    found = TOKEN_COMPRESSORS[name](tokens, plan, CompressConfig(prune_ratio=prune_ratio))
    assert bool((found.weight_N >= 1).all())
    weights = torch.zeros(len(plan)).index_add(0, found.frame_N, found.weight_N)
    assert bool((weights <= tokens.num_per_frame).all())


@given(clips())
def test_a_full_plan_returns_the_input_bit_for_bit(name, tokens):
    frames = len(tokens.values_ND) // tokens.num_per_frame
    found = TOKEN_COMPRESSORS[name](tokens, [tokens.num_per_frame] * frames, CompressConfig(prune_ratio=0.0))
    assert torch.equal(found.values_ND, tokens.values_ND)
    assert torch.equal(found.source_N, tokens.source_N)
    assert torch.equal(found.weight_N, tokens.weight_N)


@given(clips_and_plans(), PRUNE_RATIOS)
def test_same_input_gives_same_output_and_is_left_alone(name, case, prune_ratio):
    tokens, plan = case
    before = tokens.values_ND.clone()
    first = TOKEN_COMPRESSORS[name](tokens, plan, CompressConfig(prune_ratio=prune_ratio))
    second = TOKEN_COMPRESSORS[name](tokens, plan, CompressConfig(prune_ratio=prune_ratio))
    assert torch.equal(first.values_ND, second.values_ND)
    assert torch.equal(first.source_N, second.source_N)
    assert torch.equal(tokens.values_ND, before)


@given(clips_and_plans(), PRUNE_RATIOS)
def test_dropped_frames_do_not_matter(name, case, prune_ratio):
    tokens, plan = case
    values = by_frame(tokens, len(plan)).clone()
    values[[limit == 0 for limit in plan]] = 7.0
    other = TOKEN_COMPRESSORS[name](
        whole_frames(values, tokens.grid), plan, CompressConfig(prune_ratio=prune_ratio)
    )
    found = TOKEN_COMPRESSORS[name](tokens, plan, CompressConfig(prune_ratio=prune_ratio))
    assert torch.equal(other.values_ND, found.values_ND)
    assert torch.equal(other.source_N, found.source_N)
