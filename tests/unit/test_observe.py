"""What is known of a stream, put together from committed counters and a look at Ray's stages."""

import threading

import pytest

from jobs import observe, ray_stages
from jobs.observe import Observer
from jobs.progress import Cluster
from jobs.ray_stages import Seen

CLUSTER = Cluster({"": 1}, 4.0, 1.0)


class Kept:
    """Keeps what it is given, as a display and as metrics."""

    def __init__(self):
        self.ended, self.shown, self.counted, self.looked = [], [], [], []

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
    monkeypatch.setattr(observe, "look_at_cluster", lambda: CLUSTER)
    yield Observer(kept, kept, kept.looked.append)
    ray_stages.forget()


def seen(*stages):
    ray_stages._Notes.latest = stages


def test_a_stream_is_what_its_stages_do_and_what_is_committed(observer, kept):
    with observer.stream_of("answer", 10, 20):
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
    assert (answers.done, answers.failed, answers.total) == (12, 2, 20)
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


def fails_until(observer, num_calls):
    """Return a drawing that fails, and stops the observer at its last call."""
    calls = iter(range(num_calls - 1, -1, -1))

    def show(*_):
        if not next(calls):
            observer.stopped.set()
        return 1 / 0

    return show


def test_what_cannot_be_shown_is_tried_again_and_does_not_end_the_run(observer, kept, monkeypatch, caplog):
    monkeypatch.setattr(observe, "EVERY_S", 0.0)
    for name in ("end", "count"):
        monkeypatch.setattr(kept, name, lambda *_: 1 / 0)
    monkeypatch.setattr(kept, "show", fails_until(observer, 3))
    with observer.stream_of("probe", 3):
        observer.committed({"videos": 1})
        observer.keep_showing()
    assert caplog.text.count("the run goes on") == 1


def test_each_look_at_the_cluster_is_told(observer, kept, monkeypatch):
    monkeypatch.setattr(observe, "EVERY_S", 0.0)
    monkeypatch.setattr(kept, "show", fails_until(observer, 1))
    with observer.stream_of("probe", 3):
        observer.keep_showing()
    assert kept.looked == [CLUSTER]


def test_a_commit_does_not_wait_for_a_drawing(observer, kept, monkeypatch):
    monkeypatch.setattr(observe, "EVERY_S", 0.0)
    draws, may_go_on = threading.Event(), threading.Event()

    def slow(*_):
        draws.set()
        assert may_go_on.wait(60)

    monkeypatch.setattr(kept, "show", slow)
    thread = threading.Thread(target=observer.keep_showing, daemon=True)
    with observer.stream_of("probe", 3):
        thread.start()
        assert draws.wait(60)
        commit = threading.Thread(target=observer.committed, args=({"videos": 3},), daemon=True)
        commit.start()
        commit.join(60)
        assert not commit.is_alive()
        monkeypatch.setattr(kept, "show", lambda *_: None)
        may_go_on.set()
    observer.stopped.set()
    thread.join(60)
    assert kept.ended[0].stages[-1].done == 3
