"""CLIP- and SigLIP-like scorers, checked against transformers' own logits on the same random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from actors.models import dual_encoder
from actors.models.dual_encoder import NEUTRAL_TEXTS
from pipeline.config import ScoreConfig
from pipeline.errors import ModelError
from pipeline.frames import FrameSize
from tests.tiny_models import build

KINDS = ("clip", "siglip")
TEXTS = ["a red car", "a dog", "fire"]
FRAMES = np.random.default_rng(1).integers(0, 255, (21, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: build(kind, root / kind) for kind in (*KINDS, "internvl")}


@pytest.fixture(scope="module")
def scorers(folders):
    return {kind: dual_encoder.make(ScoreConfig(model=str(folders[kind])), "cpu") for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_describe_names_the_model_and_its_frame_size(folders, kind):
    facts = dual_encoder.describe(ScoreConfig(model=str(folders[kind])))
    assert facts.frame_size == FrameSize(32, 32, "stretch")
    name, revision = facts.name.split("@")
    assert name == str(folders[kind])
    assert len(revision) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_unit_vectors_that_give_the_library_logits(folders, scorers, kind):
    scorer = scorers[kind]
    frames_NE, texts_PE = scorer.embed_frames(FRAMES), scorer.embed_texts(TEXTS)
    for vectors in (frames_NE, texts_PE):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folders[kind], backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    ids = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
    inputs = {
        name: ids[name] for name in tokenizer.model_input_names if name in ids and name != "token_type_ids"
    }
    with torch.inference_mode():
        pixels = images(list(FRAMES), return_tensors="pt")
        logits = model(**pixels, **inputs).logits_per_image.numpy()
    np.testing.assert_allclose(
        scorer.scale * frames_NE @ texts_PE.T + (scorer.bias or 0), logits, atol=2e-3, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(scorers, kind):
    scorer = scorers[kind]
    whole_NE = scorer.embed_frames(FRAMES)
    order = np.random.default_rng(2).permutation(len(FRAMES))
    assert np.array_equal(scorer.embed_frames(FRAMES[order]), whole_NE[order])
    for index in (0, 7, 20):
        assert np.array_equal(scorer.embed_frames(FRAMES[index : index + 1])[0], whole_NE[index])
    assert len(np.unique(whole_NE, axis=0)) == len(FRAMES)
    assert len(scorer.embed_frames(FRAMES[:0])) == 0
    texts_PE = scorer.embed_texts(TEXTS)
    assert np.array_equal(scorer.embed_texts(TEXTS[1:2])[0], texts_PE[1])


def test_siglip_relevance_is_its_own_probability(scorers):
    scorer = scorers["siglip"]
    frames_NE, texts_PE = scorer.embed_frames(FRAMES), scorer.embed_texts(TEXTS)
    cosine_NP = torch.from_numpy(frames_NE.astype(np.float64) @ texts_PE.T.astype(np.float64))
    expected_NP = torch.sigmoid(cosine_NP * np.exp(4.7) - 16.0).numpy()
    np.testing.assert_allclose(scorer.relevance(frames_NE, texts_PE), expected_NP, atol=1e-4)


def test_clip_relevance_is_the_smallest_pairwise_softmax_against_neutral_texts(scorers):
    scorer = scorers["clip"]
    frames_NE, texts_PE = scorer.embed_frames(FRAMES), scorer.embed_texts(TEXTS)
    neutral_BE = scorer.embed_texts(NEUTRAL_TEXTS)
    own_NP1 = torch.from_numpy(scorer.scale * frames_NE @ texts_PE.T)[..., None]
    neutral_N1B = torch.from_numpy(scorer.scale * frames_NE @ neutral_BE.T)[:, None]
    pairs = torch.stack(torch.broadcast_tensors(own_NP1, neutral_N1B), -1)
    expected_NP = torch.softmax(pairs, -1)[..., 0].amin(-1).numpy()
    relevance_NP = scorer.relevance(frames_NE, texts_PE)
    np.testing.assert_allclose(relevance_NP, expected_NP, atol=1e-4)
    assert relevance_NP.dtype == np.float32
    # a neutral text is as close as the closest neutral text only where it is that one: the border, never above
    assert scorer.relevance(frames_NE, neutral_BE).max() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_cut_with_a_warning(scorers, kind, caplog):
    long = " ".join(["fire"] * 40)
    vectors_PE = scorers[kind].embed_texts([long, long + " and a dog"])
    assert "reads only the first 16 tokens" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(vectors_PE, axis=1), 1, atol=1e-5)


def test_models_that_are_no_dual_encoder_or_broken_are_refused(folders, tmp_path):
    with pytest.raises(ModelError, match="is a 'internvl', which does not embed pictures and texts"):
        dual_encoder.describe(ScoreConfig(model=str(folders["internvl"])))
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    weights = transformers.AutoModel.from_pretrained(folder)
    weights.visual_projection.weight.data.fill_(np.nan)
    weights.save_pretrained(folder)
    scorer = dual_encoder.make(ScoreConfig(model=str(folder)), "cpu")
    with pytest.raises(ModelError, match="not finite numbers; its weights are damaged"):
        scorer.embed_frames(FRAMES[:2])
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="is a 'bert'"):
        dual_encoder.describe(ScoreConfig(model=str(folder)))
