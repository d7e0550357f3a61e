"""What every entry of TOKEN_COMPRESSORS obeys; a new entry is tested the day it is added."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress import METHODS, TOKEN_COMPRESSORS
from pipeline.config import CompressConfig
from pipeline.tokens import VisualTokens, by_frame, whole_frames

pytestmark = pytest.mark.parametrize("name", sorted(TOKEN_COMPRESSORS))
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
SETTINGS = st.builds(
    CompressConfig,
    prune_ratio=st.floats(0, 1),
    threshold=st.one_of(st.none(), st.floats(-1, 1)),
    scope=st.sampled_from(["video", "frame"]),
)
ALWAYS_KEPT = {"dtd": (6, 0), "dtd-pixels": (6, 0), "savemem": (6, 0), "stream-ttm": (6, 1), "policy": (6, 1)}
"""What those keep of a still clip of 6 tokens a frame that throw away what passes a threshold: of its first frame, and
of the others but for anchors, every fourth."""


@st.composite
def clips(draw) -> VisualTokens:
    frames, rows, columns = draw(st.integers(0, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(frames, rows * columns, draw(st.integers(1, 4)), generator=generator)
    if draw(st.booleans()):
        values = values.round()  # many equal tokens, and zeros
    return dressed(values.to(draw(DTYPES)), (rows, columns))


def dressed(values_TND: torch.Tensor, grid: tuple[int, int]) -> VisualTokens:
    """Tokens with what any entry needs beside them."""
    generator = torch.Generator().manual_seed(len(values_TND))
    size = (len(values_TND), grid[0] + 3, 2 * grid[1], 3)
    return replace(
        whole_frames(values_TND, grid),
        pixels_THWC=torch.randint(0, 256, size, generator=generator, dtype=torch.uint8),
        probes_PD=torch.randn(3, values_TND.shape[2], generator=generator).to(values_TND.dtype),
    )


@st.composite
def clips_and_plans(draw) -> tuple[VisualTokens, list[int]]:
    tokens = draw(clips())
    frames = len(tokens.values_ND) // tokens.num_per_frame
    limits = st.one_of(st.just(0), st.just(tokens.num_per_frame), st.integers(0, tokens.num_per_frame + 3))
    return tokens, draw(st.lists(limits, min_size=frames, max_size=frames))


@given(clips_and_plans(), SETTINGS)
def test_obeys_the_contract(name, case, settings):
    tokens, plan = case
    found = TOKEN_COMPRESSORS[name](tokens, plan, settings)
    counts = torch.bincount(found.frame_N, minlength=len(plan)).tolist()
    assert len(counts) == len(plan)
    assert all(count <= limit for count, limit in zip(counts, plan, strict=True))
    assert bool((found.source_N.diff() > 0).all())
    assert found.source_N.dtype == torch.int64
    assert found.values_ND.dtype == tokens.values_ND.dtype
    assert bool(found.values_ND.isfinite().all())
    assert found.values_ND.shape[1] == tokens.values_ND.shape[1]
    assert (found.num_per_frame, found.grid) == (tokens.num_per_frame, tokens.grid)


@given(clips_and_plans(), SETTINGS)
def test_a_frame_never_stands_for_more_tokens_than_it_had(name, case, settings):
    tokens, plan = case
    found = TOKEN_COMPRESSORS[name](tokens, plan, settings)
    assert bool((found.weight_N >= 1).all())
    if METHODS[name].positions == "destination":
        planned = sum(limit > 0 for limit in plan)
        assert float(found.weight_N.sum()) <= planned * tokens.num_per_frame
        return
    weights = torch.zeros(len(plan)).index_add(0, found.frame_N, found.weight_N)
    assert bool((weights <= tokens.num_per_frame).all())


@given(clips(), st.sampled_from(["video", "frame"]))
def test_a_full_plan_returns_the_input_bit_for_bit(name, tokens, scope):
    frames = len(tokens.values_ND) // tokens.num_per_frame
    settings = CompressConfig(prune_ratio=0.0, scope=scope)
    found = TOKEN_COMPRESSORS[name](tokens, [tokens.num_per_frame] * frames, settings)
    assert torch.equal(found.values_ND, tokens.values_ND)
    assert torch.equal(found.source_N, tokens.source_N)
    assert torch.equal(found.weight_N, tokens.weight_N)


@given(clips_and_plans(), SETTINGS)
def test_same_input_gives_same_output_and_is_left_alone(name, case, settings):
    tokens, plan = case
    before = tokens.values_ND.clone()
    first = TOKEN_COMPRESSORS[name](tokens, plan, settings)
    second = TOKEN_COMPRESSORS[name](tokens, plan, settings)
    assert torch.equal(first.values_ND, second.values_ND)
    assert torch.equal(first.source_N, second.source_N)
    assert torch.equal(tokens.values_ND, before)


@given(clips_and_plans(), SETTINGS)
def test_dropped_frames_do_not_matter(name, case, settings):
    tokens, plan = case
    values, pixels = by_frame(tokens, len(plan)).clone(), tokens.pixels_THWC.clone()
    hidden = [limit == 0 for limit in plan]
    values[hidden], pixels[hidden] = 7.0, 7
    other = replace(tokens, values_ND=values.flatten(0, 1), pixels_THWC=pixels)
    other = TOKEN_COMPRESSORS[name](other, plan, settings)
    found = TOKEN_COMPRESSORS[name](tokens, plan, settings)
    assert torch.equal(other.values_ND, found.values_ND)
    assert torch.equal(other.source_N, found.source_N)


@given(st.integers(2, 13), st.integers(0, 99), st.one_of(st.none(), st.just(0.9)))
def test_a_still_clip_is_cut_most_and_noise_least(name, frames, seed, threshold):
    """With a threshold, to what the method keeps in any case, and not at all."""
    generator = torch.Generator().manual_seed(seed)
    noise = dressed(torch.randn(frames, 6, 64, generator=generator), (2, 3))
    still = by_frame(noise, frames)[:1].repeat(frames, 1, 1)
    still = replace(dressed(still, (2, 3)), pixels_THWC=noise.pixels_THWC[:1].repeat(frames, 1, 1, 1))
    # of each frame's own share: over the video, a frame's last token that must stay comes on top
    settings = CompressConfig(prune_ratio=0.5, threshold=threshold, scope="frame")
    if name == "dtd-pixels" and threshold:
        settings = replace(settings, threshold=0.1)  # of luma, and the less the more alike
    least = TOKEN_COMPRESSORS[name](still, [6] * frames, settings).source_N.tolist()
    most = TOKEN_COMPRESSORS[name](noise, [6] * frames, settings).source_N.tolist()
    assert len(least) <= len(most)
    if threshold and name in ALWAYS_KEPT:
        anchor, other = ALWAYS_KEPT[name]
        anchors = range(0, frames, 4 if other else frames)
        assert len(least) == len(anchors) * anchor + (frames - len(anchors)) * other
        assert len(most) == 6 * frames
