"""Merging within segments: what comes together, how many stay of each frame, and whom they stand for."""

import numpy as np
import pytest
import torch

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import CompressConfig
from pipeline.tokens import whole_frames
from tests.compress_references import REFERENCES, clip

ALL = CompressConfig(prune_ratio=0.0)


@pytest.mark.parametrize("plan", [[6] * 23, [1] * 23, [12, 1, 0, 5] * 6, [3] * 10 + [12] * 3 + [0] * 4])
def test_frames_keep_exactly_their_plan_where_plans_bind(plan):
    found = TOKEN_COMPRESSORS["tome"](clip(len(plan), (3, 4)), plan, ALL)
    assert torch.bincount(found.frame_N, minlength=len(plan)).tolist() == plan
    assert found.weight_N.sum() == 12 * sum(limit > 0 for limit in plan)


def test_several_segments_equal_the_reference():
    plan = [5, 12, 1, 0, 7, 3] * 4
    for ratio in (0.0, 0.6, 0.95):
        tokens, settings = clip(24, (3, 4), seed=3), CompressConfig(prune_ratio=ratio)
        found = TOKEN_COMPRESSORS["tome"](tokens, plan, settings)
        values, sources, weights = REFERENCES["tome"](tokens, plan, settings)
        assert found.source_N.tolist() == sources
        assert found.weight_N.tolist() == weights
        np.testing.assert_allclose(found.values_ND.numpy(), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("frames", "prune_ratio", "expected"), [(10, 0.5, 20), (10, 1.0, 1), (25, 0.9, 4 + 4 + 2), (1, 0.25, 3)]
)
def test_a_segment_keeps_its_share(frames, prune_ratio, expected):
    settings = CompressConfig(prune_ratio=prune_ratio)
    found = TOKEN_COMPRESSORS["tome"](clip(frames, (2, 2)), [4] * frames, settings)
    assert len(found.source_N) == expected
    assert found.weight_N.sum() == 4 * frames


def test_still_places_meet_themselves_over_time():
    """Of two equal frames each token is merged into its own place of the other frame, and keeps its value."""
    values = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = TOKEN_COMPRESSORS["tome"](
        whole_frames(values.repeat(2, 1, 1), (2, 3)), [6, 6], CompressConfig(prune_ratio=0.5)
    )
    assert found.weight_N.tolist() == [2.0] * 6
    torch.testing.assert_close(found.values_ND, values[0, found.source_N % 6])
    assert sorted((found.source_N % 6).tolist()) == list(range(6))


def test_what_is_merged_is_averaged_by_what_it_stands_for():
    """Three equal tokens and a fourth: when all come together, it counts a fourth."""
    values = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    found = TOKEN_COMPRESSORS["tome"](whole_frames(values, (2, 2)), [1], ALL)
    assert found.values_ND.tolist() == [[0.75, 0.25]]
    assert found.weight_N.tolist() == [4.0]


def test_sums_are_wider_than_the_tokens():
    """In bfloat16, 256 and 1 make 256; what stands for 300 tokens of 1 has to be 1."""
    found = TOKEN_COMPRESSORS["tome"](
        whole_frames(torch.ones(10, 30, 4, dtype=torch.bfloat16), (5, 6)),
        [30] * 10,
        CompressConfig(prune_ratio=1.0),
    )
    assert found.values_ND.tolist() == [[1.0] * 4]
    assert found.weight_N.tolist() == [300.0]
