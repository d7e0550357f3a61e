"""Frames that were looked at are not looked at again, and nothing else changes."""

import numpy as np
import pytest
import torch

from actors.models import video_llm
from jobs.training.seen import SeenFrames
from pipeline.config import AnswerConfig, CompressConfig
from tests.tiny_models import VIDEO_LLMS, build

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 56, 56, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_each_frame_goes_through_the_vision_tower_once(kind, tmp_path):
    config = AnswerConfig(model=str(build(kind, tmp_path)), frame_px=56, dtype="float32")
    llm = video_llm.make(config, CompressConfig(), "cpu")
    expected = llm.encode(PIXELS)
    looked_at = []
    look = llm._encode
    llm._encode = lambda frames: looked_at.append(len(frames)) or look(frames)
    seen = SeenFrames(llm)

    for rows in ([1, 3], [3], [0, 1, 2, 3, 4, 1]):
        found = llm.encode(PIXELS[rows])
        assert torch.allclose(found.values_NKD, expected.values_NKD[rows], atol=1e-5)
        assert torch.equal(found.separators_NKD, expected.separators_NKD[rows])
        assert len(found.layers_NKD) == len(expected.layers_NKD)
        for one, other in zip(found.layers_NKD, expected.layers_NKD, strict=True):
            assert torch.allclose(one, other[rows], atol=1e-5)
    assert sum(looked_at) == len(PIXELS)

    seen.forget()
    llm.encode(PIXELS[:2])
    assert sum(looked_at) == len(PIXELS) + 2


def test_a_compressor_that_compares_pictures_is_given_those_of_frames_seen_before(tmp_path):
    folder = build("qwen2_5_vl", tmp_path)
    config = AnswerConfig(model=str(folder), frame_px=56, dtype="float32")
    settings = CompressConfig(compressor="dtd-pixels", prune_ratio=0.5, scope="frame")
    llm = video_llm.make(config, settings, "cpu")
    rows, plan = [1, 0, 4], [(frame, llm.parts.tokens_per_frame) for frame in range(3)]
    expected = llm.reduce(llm.encode(PIXELS[rows]), [0, 1, 2], plan)

    SeenFrames(llm)
    llm.encode(PIXELS)
    found = llm.reduce(llm.encode(PIXELS[rows]), [0, 1, 2], plan)
    assert found.tokens_T == expected.tokens_T
    assert torch.equal(found.place_C, expected.place_C)
    assert len(found.place_C) < 3 * llm.parts.tokens_per_frame
