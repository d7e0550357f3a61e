"""Pieces of real windows through the real stages; what comes first in a process is not measured."""

import pytest

from jobs import calibrate, estimate
from jobs.resolve import resolve
from pipeline.config import JobConfig, WindowConfig
from pipeline.isolation import drop_child
from pipeline.queries import Query
from tests import videos

CONFIG = JobConfig(window=WindowConfig(length_s=4.0, sample_fps=2.0))
QUERIES = [Query("dog", "a dog", "find")]


@pytest.fixture
def windows(tmp_path):
    videos.write_video(tmp_path / "a.mp4", numbers=range(8 * 30), gop=1000)
    listing = estimate.list_new(str(tmp_path), str(tmp_path / "out"))
    yield [window for one in estimate.probe(listing.sample, QUERIES, CONFIG) for window in one.windows]
    drop_child()


class Counting:
    """The real scorer, and how often it was called."""

    def __init__(self, scorer):
        self.scorer, self.num_calls = scorer, 0

    def score(self, row):
        self.num_calls += 1
        return self.scorer.score(row)


def test_a_first_piece_that_fails_warms_nothing_up(windows, tmp_path, monkeypatch):
    plan = resolve(CONFIG, QUERIES)
    scorer = Counting(calibrate._scorer(CONFIG, QUERIES, plan, loads=False))
    monkeypatch.setattr(calibrate, "_scorer", lambda *_, **__: scorer)
    broken = {**windows[0], "uri": str(tmp_path / "gone.mp4")}
    found = calibrate.calibrate([broken, *windows], CONFIG, QUERIES, plan, loads=False)
    assert len(found.windows) == len(windows) == 2
    assert scorer.num_calls == len(windows) + 1
    assert found.answered_on == "cpu"
