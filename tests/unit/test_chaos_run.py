"""The watch in the proxy: it counts steps, and at the right one the driver dies before the store answers."""

from collections import Counter

import pytest

from jobs.chaos_plan import ALL, BUSY, Attempt, Strike
from jobs.chaos_run import Watch, is_victim


class Kills(list):
    def driver(self, kind):
        self.append(kind)


@pytest.mark.parametrize("reaches", [True, False])
def test_a_step_is_struck_at_its_turn(reaches):
    kills = Kills()
    watch = Watch(Attempt((Strike("step", step="record", nth=2, reaches=reaches),)), kills)
    asked = [("PUT", "/b/out/_run/r/commits/a.json"), ("GET", "/b/out/_run/r/commits/a.json")]
    assert [watch.on_request(*request) for request in asked] == [None, None]
    assert not kills
    fault = watch.on_request("PUT", "/b/out/_run/r/commits/b.json")
    assert kills == ([] if reaches else ["step"]), "the store does first what it is asked"
    assert fault.kind == ("unheard" if reaches else "lost")
    fault.then()
    assert kills == ["step"]
    assert watch.steps == Counter({"record": 2, ALL: 3})


def test_it_is_known_until_when_parts_were_staged():
    watch = Watch(Attempt(), Kills())
    for path in (
        "/b/out/_run/r/staging/a.parquet",
        "/b/in/good0.mp4",
        "/b/out/_run/r/staging/b.parquet",
        "/b/x",
    ):
        watch.on_request("PUT", path)
    assert (watch.steps[BUSY], watch.steps[ALL]) == (3, 4)


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("ray::MapWorker(MapBatches(Scorer)).submit", {"scorer"}),
        ("ray::MapWorker(MapBatches(Scorer)).__init__", {"scorer", "loading"}),
        ("ray::MapBatches(read_slices)->MapBatches(probe)", {"task"}),
        ("python -m pipeline.child {}", {"child"}),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=y", {"node"}),
        ("ray::IDLE", set()),
        ("ray::_StatsActor", set()),
    ],
)
def test_victims_are_told_by_their_command_line(title, kinds):
    every = ("scorer", "loading", "task", "child", "node")
    assert {kind for kind in every if is_victim(kind, title)} == kinds
