"""The scorer of the chaos bench counts every window it looks at, and scores the same frames alike."""

import numpy as np

from jobs.chaos_scorer import COUNTING, num_counted
from pipeline.config import ScoreConfig


def test_every_look_is_counted(tmp_path):
    config = ScoreConfig(scorer="jobs.chaos_scorer:COUNTING", model=str(tmp_path))
    facts = COUNTING.describe(config)
    frames = np.full((3, facts.frame_size.height_px, facts.frame_size.width_px, 3), 51, np.uint8)
    first, second = COUNTING.make(config, "cpu"), COUNTING.make(config, "cpu")
    looks = [scorer.embed_frames(frames) for scorer in (first, second, first)]
    assert num_counted(tmp_path) == 3
    assert all((look == looks[0]).all() and look.shape == (3, 16) for look in looks)
    relevance = first.relevance(looks[0], first.embed_texts(["a dog", "a number"]))
    assert relevance.shape == (3, 2)
    assert ((relevance >= 0) & (relevance <= 1)).all()
