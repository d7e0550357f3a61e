"""The causal rule: chunks of a stream give what the whole gives, and what flickers is caught."""

import pytest
import torch

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.compress.stream_ttm import StreamTtm
from pipeline.config import CompressConfig
from pipeline.errors import AnswerError
from pipeline.tokens import whole_frames


def stream(frames: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Tokens of which some repeat: about half have a cosine above .9 with one of the last frames."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(1, 6, 40, generator=generator)
    noise = torch.randn(frames, 6, 40, generator=generator)
    return (scene + 0.6 * torch.rand(frames, 6, 1, generator=generator) * noise).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cuts", [[8], [1, 2, 3, 7, 11, 12], [0, 0, 15, 16], [5, 6]])
def test_chunks_give_what_the_whole_gives(cuts, dtype):
    values = stream(16, dtype)
    whole = StreamTtm().add(values)
    assert 0.2 < whole.float().mean() < 0.8
    chunks = StreamTtm()
    assert torch.equal(torch.cat([chunks.add(part) for part in values.tensor_split(cuts)]), whole)
    assert chunks.num_frames == 16


def test_a_stream_drops_what_the_compressor_drops():
    values = stream(11)
    found = TOKEN_COMPRESSORS["stream-ttm"](
        whole_frames(values, (2, 3)), [6] * 11, CompressConfig(threshold=0.9)
    )
    assert found.source_N.tolist() == StreamTtm().add(values).flatten().nonzero()[:, 0].tolist()


def test_what_flickers_between_two_looks_is_caught():
    """A-B-A-B: the frame before is another each time, one of the last three is not."""
    one, other = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    kept = StreamTtm().add(torch.stack([one, other, one, other, one, other]))
    assert kept.sum(1).tolist() == [5, 5, 1, 1, 5, 1]


def test_a_frame_is_forgotten_after_three():
    frames = torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(1))
    again = StreamTtm().add(torch.cat([frames, frames[:2]]))
    assert again.sum(1).tolist() == [5] * 6


def test_anchors_are_whole_and_others_keep_one():
    kept = StreamTtm().add(torch.ones(1, 4, 3).repeat(9, 1, 1))
    assert kept.sum(1).tolist() == [4, 1, 1, 1, 4, 1, 1, 1, 4]


def test_a_broken_frame_changes_nothing():
    stream_ttm, values = StreamTtm(), stream(8)
    broken = values[:5].clone()
    broken[2, 1, 0] = float("nan")
    before = stream_ttm.add(values[:3])
    with pytest.raises(AnswerError, match="1 of 6 visual tokens of frame 5 are not finite"):
        stream_ttm.add(broken)
    assert torch.equal(torch.cat([before, stream_ttm.add(values[3:])]), StreamTtm().add(values))
