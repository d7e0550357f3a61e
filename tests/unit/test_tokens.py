"""The contract type of visual tokens, and what can be done with it."""

import pytest
import torch

from pipeline.tokens import VisualTokens, by_frame, join, take, whole_frames


def clip(frames: int = 3, rows: int = 2, columns: int = 3) -> VisualTokens:
    values = torch.arange(frames * rows * columns * 4, dtype=torch.float32)
    return whole_frames(values.reshape(frames, rows * columns, 4), (rows, columns))


def test_whole_frames_count_tokens_in_time_and_raster_order():
    tokens = clip()
    assert tokens.source_N.tolist() == list(range(18))
    assert tokens.frame_N.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert tokens.weight_N.tolist() == [1.0] * 18
    assert repr(tokens) == "VisualTokens(values=(18, 4), per_frame=6, grid=(2, 3))"


def test_by_frame_is_the_inverse_of_whole_frames():
    tokens = clip()
    values_TND = by_frame(tokens, 3)
    assert values_TND.shape == (3, 6, 4)
    assert values_TND.data_ptr() == tokens.values_ND.data_ptr()
    assert by_frame(clip(frames=0), 0).shape == (0, 6, 4)


def test_by_frame_refuses_a_clip_that_is_not_whole():
    with pytest.raises(ValueError, match="plan for 2 frames of 6 tokens needs all 12 of them, found 18"):
        by_frame(clip(), 2)


def test_join_brings_parts_back_into_order():
    tokens = clip()
    odd, even = torch.arange(1, 18, 2), torch.arange(0, 18, 2)
    joined = join([take(tokens, odd), take(tokens, even)])
    assert torch.equal(joined.values_ND, tokens.values_ND)
    assert torch.equal(joined.source_N, tokens.source_N)
    assert torch.equal(joined.weight_N, tokens.weight_N)
    assert joined.grid == tokens.grid


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"one length, found \(2, 3, 2\)"):
        VisualTokens(torch.zeros(2, 4), torch.arange(3), torch.ones(2), 2, (1, 2))


def test_a_grid_that_does_not_hold_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"grid \(2, 2\) does not hold 6 tokens"):
        whole_frames(torch.zeros(1, 6, 4), (2, 2))
