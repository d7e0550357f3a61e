"""Figures of the overhead bench from made-up turns."""

from dataclasses import asdict

import pytest

from jobs.bench_overhead import Turn, compare
from jobs.family import Use


def turn(
    way: str, archive: str, wall_s: float, cpu_s: float, worker_mb: float, store_mb: float = 0.0
) -> Turn:
    streams = [{"store_mb": store_mb, "spilled_mb": 0.0}] if way == "ray" else []
    return Turn(
        wall_s=wall_s, cpu_s=cpu_s, foreign_cores=0.5, memory_mb={"task worker": [worker_mb, 1.0]},
        way=way, archive=archive, windows=9, work_s=cpu_s - {"ray": 10, "loop": 5}[way], streams=streams,
    )  # fmt: skip


def test_a_turn_holds_all_that_is_known_of_a_command() -> None:
    use = asdict(Use(3.0, 4.0, {"driver": 4.0}, 0.1, 0.2, {"driver": [1.0]}))
    assert (
        use.items()
        <= asdict(Turn(way="ray", archive="few", windows=1, work_s=1.0, streams=[], **use)).items()
    )


def test_share_is_of_the_medians_over_the_long_videos() -> None:
    turns = [
        turn("ray", "few", 1, 1, 100, 40),
        turn("ray", "many", 900, 900, 110, 45),
        *[turn("loop", "long", wall_s, 90, 0) for wall_s in (80, 81, 500)],
        *[turn("ray", "long", wall_s, 100, 900, 450) for wall_s in (99, 100, 900)],
    ]
    found = compare(turns)
    assert found["ray_share"] == pytest.approx(0.1)
    # the work took 85 s in the loop and 90 s through Ray; 5 s are what it took beside it
    assert found["ray_share_beside_work"] == pytest.approx(5 / 95, abs=1e-4)
    assert found["ray_share_wall"] == pytest.approx(0.19)
    assert (found["memory_growth_mb"], found["memory_growth_of"]) == (10, "task worker")
    assert found["spilled_mb"] == 0


def test_the_object_store_counts_as_memory() -> None:
    turns = [
        turn("ray", "few", 1, 1, 100, 40),
        turn("ray", "many", 1, 1, 90, 240),
        turn("loop", "long", 1, 1, 0),
        turn("ray", "long", 1, 1, 90, 40),
    ]
    assert compare(turns)["memory_growth_of"] == "object store"
    assert compare(turns)["memory_growth_mb"] == 200
