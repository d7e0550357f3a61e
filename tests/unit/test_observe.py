"""What is known of a stream, put together from committed counters and a look at Ray's stages."""

import pytest

from jobs import observe, ray_stages
from jobs.observe import Observer
from jobs.ray_stages import Seen


class Kept:
    """Keeps what it is given, as a display and as metrics."""

    def __init__(self):
        self.ended, self.shown, self.counted = [], [], []

    def show(self, view, *_):
        self.shown.append(view)

    def end(self, view):
        self.ended.append(view)

    def count(self, counters):
        self.counted.append(counters)


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def observer(kept, monkeypatch):
    monkeypatch.setattr(observe, "look_at_cluster", lambda: None)
    yield Observer(kept, kept)
    ray_stages.forget()


def seen(*stages):
    ray_stages._Notes.latest = stages


def test_a_stream_is_what_its_stages_do_and_what_is_committed(observer, kept):
    with observer.stream_of("answer", 10):
        seen(
            Seen(("sample",), 12, 1, None, 1.0, 0.0),
            Seen(("score",), 6, 2, (1, 1), 0.0, 0.5),
            Seen(("",), 2, 1, None, 0.2, 0.0),
        )
        observer.committed({"windows": 4, "failed_windows": 1, "answers": 8, "failed_answers": 2})
        observer.committed({"windows": 2, "answers": 4})
    [view] = kept.ended
    sample, score, windows, answers = view.stages
    assert (sample.done, sample.total) == (10, 10), "rows that came twice are not more than there are"
    assert (score.done, score.pool.num_running, score.pool.num_pending, score.pool.num_gpus) == (6, 1, 1, 0.5)
    assert (windows.name, windows.done, windows.failed, windows.total, windows.num_tasks) == (
        "windows",
        6,
        1,
        10,
        1,
    )
    assert (answers.done, answers.failed, answers.total) == (12, 2, None)
    assert len(kept.counted) == 2


def test_one_stream_does_not_count_for_the_next(observer, kept):
    with observer.stream_of("probe", 3):
        observer.committed({"videos": 3})
    with observer.stream_of("judge", None):
        pass
    assert [(view.name, view.stages[-1].done) for view in kept.ended] == [("probe", 3), ("judge", 0)]


def test_a_stream_that_breaks_is_shown_as_far_as_it_came(observer, kept):
    def broken():
        with observer.stream_of("probe", 3):
            observer.committed({"videos": 1})
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        broken()
    assert kept.ended[0].stages[-1].done == 1


def test_what_cannot_be_shown_does_not_end_the_run(observer, kept, monkeypatch, caplog):
    monkeypatch.setattr(observe, "EVERY_S", 0.0)
    for name in ("show", "end", "count"):
        monkeypatch.setattr(kept, name, lambda *_: 1 / 0)
    with observer.stream_of("probe", 3):
        observer.committed({"videos": 1})
        observer.keep_showing()
    assert caplog.text.count("the run goes on") == 3
