"""Training of the world's models, a few steps on a few clips: what is written can be loaded by its folder."""

import json

import numpy as np
import pytest

from actors.models import dual_encoder
from actors.models.prompting import read_parts
from actors.models.tables import find_answerer
from jobs.world import train_model, train_pair
from jobs.world.model import TOKENS
from pipeline.config import AnswerConfig, ScoreConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


def test_a_model_is_trained_and_read(cache, tmp_path, monkeypatch):
    from jobs.world import early, eye

    monkeypatch.setattr(eye, "FRAMES_PER_STEP", 8)
    monkeypatch.setattr(early, "PAIRS_PER_STEP", 8)
    monkeypatch.setattr(train_model, "CLIPS_PER_STEP", 2)
    train_model.main(
        [str(tmp_path), "--clips", "4", "--dev-clips", "1", "--steps", "2", "--cache", str(cache)]
    )
    history = json.loads((tmp_path / "training.json").read_text())
    assert history[-1]["final"]
    config = AnswerConfig(model=str(tmp_path), frame_px=64)
    parts = read_parts(config, weights=False)
    assert (parts.tokens_per_frame, parts.grid) == (TOKENS, (4, 4))
    facts = find_answerer(config).describe(config)
    assert facts.cuts_frames


def test_a_pair_is_trained_and_scores_frames(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(train_pair, "CLIPS_PER_STEP", 2)
    options = ["--clips", "4", "--teach", "4", "--dev-clips", "1", "--steps", "2", "--cache", str(cache)]
    train_pair.main([str(tmp_path), *options])
    config = ScoreConfig(model=str(tmp_path))
    size = dual_encoder.describe(config).frame_size
    assert (size.height_px, size.width_px) == (64, 64)
    scorer = dual_encoder.make(config, "cpu")
    frames = scorer.embed_frames(np.zeros((2, 64, 64, 3), np.uint8))
    relevance = scorer.relevance(frames, scorer.embed_texts(["when is the moon seen ?", "the star"]))
    assert relevance.shape == (2, 2)
    assert ((relevance >= 0) & (relevance <= 1)).all()


def test_what_a_text_names():
    def names(text):
        return {
            thing for thing, there in zip(train_pair.THINGS, train_pair.named(text), strict=True) if there
        }

    assert names("does the star leave a bag ?") == {"star", "bag"}
    assert names("a heart") == {"heart"}
    assert names("do any things ever collide ?") == {"burst"}
