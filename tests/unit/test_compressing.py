"""What compressors are given beside tokens, and whose frame it is that they cannot use."""

import dataclasses

import numpy as np
import pytest
import torch

from actors.models import video_llm
from actors.models.compressing import PROBES, clip_of, compress_clip
from pipeline.compress import METHODS, TOKEN_COMPRESSORS, needs_of
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError
from tests.plugins_sample import first_tokens
from tests.tiny_models import build

FRAME_PX = 84
PIXELS = np.random.default_rng(0).integers(0, 255, (4, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
CHOSEN = [3, 0, 1]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = build("qwen2_5_vl", tmp_path_factory.mktemp("models"))
    config = AnswerConfig(model=str(folder), frame_px=FRAME_PX, dtype="float32")
    return video_llm.make(config, CompressConfig(), "cpu")


@pytest.fixture
def use(llm, monkeypatch):
    def put(compressor):
        monkeypatch.setattr(llm, "compress", compressor)
        return llm

    return put


@pytest.mark.parametrize("name", sorted(TOKEN_COMPRESSORS))
def test_a_compressor_is_given_what_it_declares_and_nothing_else(use, name):
    llm = use(TOKEN_COMPRESSORS[name])
    clip = clip_of(llm, llm.encode(PIXELS), CHOSEN)
    assert needs_of(llm.compress) == METHODS[name].needs
    assert (clip.pixels_THWC is not None) == ("pixels" in METHODS[name].needs)
    assert (clip.probes_PD is not None) == ("probes" in METHODS[name].needs)
    if clip.pixels_THWC is not None:
        np.testing.assert_array_equal(clip.pixels_THWC.numpy(), PIXELS[CHOSEN])
    if clip.probes_PD is not None:
        assert clip.probes_PD.shape[1] == clip.values_ND.shape[1]
        word = llm.parts.tokenizer(PROBES[0], add_special_tokens=False)["input_ids"][0]
        assert torch.equal(clip.probes_PD[0], llm.model.get_input_embeddings().weight[word])
    assert sum(llm.reduce(llm.encode(PIXELS), CHOSEN, [(3, 9), (0, 9), (1, 9)]).tokens_T) > 0


def test_a_plug_in_by_path_needs_nothing(use):
    llm = use(first_tokens)
    features = llm.encode(PIXELS)
    assert features.pixels_NHWC is None
    assert needs_of(first_tokens) == ()
    assert clip_of(llm, features, CHOSEN).probes_PD is None


def test_a_broken_frame_is_named_by_its_time(use):
    llm = use(TOKEN_COMPRESSORS["dtd"])
    features = llm.encode(PIXELS)
    values_NKD = features.values_NKD.clone()
    values_NKD[0, 2, 1] = float("nan")
    broken = dataclasses.replace(features, values_NKD=values_NKD)
    plan = [(3, 9), (0, 9), (1, 9)]
    with pytest.raises(
        AnswerError, match=r"frame shown at 2\.5 s cannot be used: 1 of 9 .* frame 1 are not finite"
    ):
        llm.reduce(broken, CHOSEN, plan, [9.0, 2.5, 4.0])
    with pytest.raises(AnswerError, match=r"^1 of 9 visual tokens of frame 1 are not finite"):
        llm.reduce(broken, CHOSEN, plan)


def test_what_has_no_frame_to_name_is_passed_on(use):
    llm = use(TOKEN_COMPRESSORS["dtd-pixels"])
    features = dataclasses.replace(llm.encode(PIXELS), pixels_NHWC=None)
    with pytest.raises(AnswerError, match=r"^compressor dtd-pixels needs the frames as pictures"):
        compress_clip(llm, clip_of(llm, features, CHOSEN), [9, 9, 9], [1.0, 2.0, 3.0])
