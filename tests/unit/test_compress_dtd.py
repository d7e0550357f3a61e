"""Differential Token Drop and Efficient Video Sampling: what their papers say, and scenes found on the way."""

from dataclasses import replace

import pytest
import torch

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.compress.dtd import drop_ratios, scene_changes
from pipeline.compress.dtd_pixels import patch_changes
from pipeline.config import CompressConfig
from pipeline.errors import AnswerError
from pipeline.tokens import whole_frames
from tests.compress_references import clip


def turning(cosines: list[float]) -> torch.Tensor:
    """One token a frame, with the given cosines between each frame and the one before."""
    angle = torch.tensor([0.0, *cosines], dtype=torch.float64)
    angle[1:] = angle[1:].acos().cumsum(0)
    return torch.stack([angle.cos(), angle.sin()], -1)[:, None]


def test_a_token_above_the_threshold_goes_and_one_at_it_stays():
    tokens = whole_frames(
        torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[0.6, 0.8]]], dtype=torch.float64), (1, 1)
    )
    found = TOKEN_COMPRESSORS["dtd"](tokens, [1, 1, 1], CompressConfig(threshold=0.6))
    assert found.source_N.tolist() == [0, 1]


def test_the_reference_is_the_frame_before_also_where_its_token_was_dropped():
    """A slow drift, each step below the threshold, is never caught."""
    found = TOKEN_COMPRESSORS["dtd"](
        whole_frames(turning([0.95] * 9), (1, 1)), [1] * 10, CompressConfig(threshold=0.9)
    )
    assert found.source_N.tolist() == [0]


def test_still_stretches_lose_more_over_the_video_and_as_much_as_others_by_frame():
    values = torch.randn(9, 16, 32, generator=torch.Generator().manual_seed(0))
    values[1:5] = values[0]
    tokens, plan = whole_frames(values, (4, 4)), [16] * 9
    video, frame = (
        TOKEN_COMPRESSORS["dtd"](tokens, plan, CompressConfig(prune_ratio=0.5, scope=scope))
        for scope in ("video", "frame")
    )
    assert torch.bincount(video.frame_N).tolist() == [16, 0, 0, 0, 0, 16, 16, 16, 16]
    assert torch.bincount(frame.frame_N).tolist() == [16] + [8] * 8


@pytest.mark.parametrize(
    ("frames", "per_frame", "prune_ratio", "expected"),
    [
        (2, 4, 0.0, 8),
        (2, 4, 0.9, 4),
        (2, 5, 0.25, 7),
        (1, 16, 0.99, 16),
        (4, 100, 0.75, 100),
        (10, 10, 0.7, 30),
    ],
)
def test_evs_counts_the_first_frame_as_kept(frames, per_frame, prune_ratio, expected):
    found = TOKEN_COMPRESSORS["evs"](
        clip(frames, (1, per_frame)), [per_frame] * frames, CompressConfig(prune_ratio=prune_ratio)
    )
    assert len(found.source_N) == expected
    assert found.source_N[:per_frame].tolist() == list(range(per_frame))


def test_a_cut_is_where_little_is_dropped():
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(3, 1, 16, 32, generator=generator).repeat_interleave(7, 0)
    values = scenes.flatten(0, 1) + 0.05 * torch.randn(21, 16, 32, generator=generator)
    ratio_T = drop_ratios(values, CompressConfig(threshold=0.5))
    assert ratio_T.tolist() == [0.0, *[1.0] * 6, 0.0, *[1.0] * 6, 0.0, *[1.0] * 6]
    assert scene_changes(ratio_T).nonzero()[:, 0].tolist() == [7, 14]
    over_video = drop_ratios(values, CompressConfig(prune_ratio=0.8))
    assert scene_changes(over_video).nonzero()[:, 0].tolist()[:2] == [7, 14]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], []),
        ([0.0], []),
        ([0.0, 0.1], [1]),
        ([0.0, 0.9, 0.9, 0.9], []),
        ([0.0, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [4]),
        ([0.0, 0.9, 0.59, 0.9, 0.61, 0.9, 0.4, 0.9, 0.9, 0.9], [2, 6]),
        ([0.0, 0.9, 0.5, 0.4, 0.3, 0.3, 0.6, 0.9, 0.9, 0.9], [4]),
    ],
)
def test_scenes_change_in_valleys(ratios, expected):
    assert scene_changes(torch.tensor(ratios)).nonzero()[:, 0].tolist() == expected


def test_ratios_of_a_clip_of_no_frames():
    assert drop_ratios(torch.zeros(0, 4, 3), CompressConfig()).tolist() == []
    assert drop_ratios(torch.ones(1, 4, 3), CompressConfig()).tolist() == [0.0]


def test_pixels_that_changed_by_the_threshold_stay():
    """Patches of 2 x 2; one pixel of one channel by 51, a twelfth of .2 on average; and one patch by .2."""
    pixels = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    pixels[1, 0, 3, 1] -= 51
    pixels[2] = pixels[1]
    pixels[2, 2:, 2:] += 51
    tokens = replace(clip(3, (2, 2)), pixels_THWC=pixels)
    assert patch_changes(pixels, (2, 2)).tolist() == [[0, 0.2 / 12, 0, 0], [0, 0, 0, 0.2]]
    for threshold, expected in ((0.2, [11]), (0.01, [5, 11]), (0.0, [4, 5, 6, 7, 8, 9, 10, 11]), (0.3, [])):
        found = TOKEN_COMPRESSORS["dtd-pixels"](tokens, [4, 4, 4], CompressConfig(threshold=threshold))
        assert found.source_N.tolist() == [0, 1, 2, 3, *expected]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (None, r"dtd-pixels needs the frames as pictures .* found none"),
        (torch.zeros(2, 9, 9, 3, dtype=torch.uint8), r"needs 3 pictures .* found \(2, 9, 9, 3\)"),
        (torch.zeros(3, 9, 1, 3, dtype=torch.uint8), "of at least 2x2 px"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pixels, message):
    tokens = replace(clip(3, (2, 2)), pixels_THWC=pixels)
    with pytest.raises(AnswerError, match=message):
        TOKEN_COMPRESSORS["dtd-pixels"](tokens, [4, 4, 4], CompressConfig())
