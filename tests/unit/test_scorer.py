"""Relevance is the same whether frames were just decoded or come back, and whatever else is asked."""

import numpy as np
import pytest

from actors.models import embedded
from actors.models.embedded_image import SIDE_PX
from actors.scorer import Scorer, scorer_of_process
from pipeline import rows
from pipeline.config import ScoreConfig
from pipeline.queries import Query

TEXTS = ("a dog", "a street", "a rabbit in the grass", "a taxi", "a bicycle", "snow", "a boat")
PTS_S = [0.0, 1.0, 2.5, 3.0, 4.0]


def score(window: dict, *asked: str) -> dict:
    queries = [Query(text, text, "find") for text in asked]
    return Scorer(embedded.make, ScoreConfig(), queries, "cpu").score({"pts_s": PTS_S, **window})


@pytest.fixture(scope="module")
def decoded() -> dict:
    noise = np.random.default_rng(3).integers(0, 256, (5, 4, 4, 3), np.uint8)
    return {"pixels": rows.pack(noise.repeat(SIDE_PX // 4, axis=1).repeat(SIDE_PX // 4, axis=2))}


@pytest.fixture(scope="module")
def all_at_once(decoded) -> dict:
    return score(decoded, *TEXTS)


def test_frames_that_come_back_are_scored_without_pixels(all_at_once):
    blank = rows.default(rows.ARRAY)
    again = score({"pixels": blank, "embedding": all_at_once["embedding"]}, *TEXTS)
    for name in ("embedding", "relevance"):
        assert np.array_equal(rows.unpack(again[name]), rows.unpack(all_at_once[name]))


@pytest.mark.parametrize("asked", [TEXTS[:1], TEXTS[3:4], TEXTS[2:5], TEXTS[::-1]])
def test_no_text_s_relevance_depends_on_the_others_to_the_last_bit(decoded, all_at_once, asked):
    whole_NP = rows.unpack(all_at_once["relevance"])
    alone_NP = rows.unpack(score({**decoded, "embedding": rows.default(rows.ARRAY)}, *asked)["relevance"])
    assert np.array_equal(alone_NP, whole_NP[:, [TEXTS.index(text) for text in asked]])


def test_a_process_keeps_the_scorer_of_its_run():
    made = []

    def make(config, device):
        made.append(device)
        return embedded.make(config, device)

    def held(run_id):
        return scorer_of_process(run_id, make, ScoreConfig(), [Query("a dog", "a dog", "find")])

    first = held("one")
    assert held("one") is first
    assert held("two") is not first
    assert made == ["cpu", "cpu"]
