"""Looking at pictures reads the bytes that were announced, no others, and few."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.byte_runs import byte_runs
from pipeline.decode import open_pyav
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize, Policy
from pipeline.media import open_video
from tests import videos

INDEXED = [
    "h264.mp4", "long groups.mp4", "no B pictures.mp4", "open groups.mp4",
    "variable rate.mp4", "sound is longer.mp4", "hevc open groups.mp4", "mpeg4.avi",
]  # fmt: skip
SIZE = FrameSize(48, 80)
Intact = Callable[[str], tuple[Path, list[int]]]


class Watched(io.BytesIO):
    """A file that says which reads after opening were not announced; no read goes past the end of a run."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.runs: list[tuple[int, int]] = []
        self.strays: list[int] = []
        self.is_open = False

    def opened(self) -> None:
        self.is_open = True

    def plan(self, runs: list[tuple[int, int]]) -> None:
        self.runs = runs

    def read(self, size: int = -1, /) -> bytes:
        position = self.tell()
        if self.is_open and size:
            stop = max((stop for start, stop in self.runs if start <= position < stop), default=0)
            if stop:
                size = min(size, stop - position)
            elif self.runs:
                self.strays.append(position)
        return super().read(size)


def watch(data: bytes, times_s: list[float], policy: Policy) -> Watched:
    file = Watched(data)
    with open_pyav(file, "a video") as look:
        shots = list(look(times_s, SIZE, policy))
    assert [sample.quality for sample, _ in shots] == ["ok"] * len(times_s)
    return file


@pytest.fixture(scope="module", params=INDEXED)
def data(request: pytest.FixtureRequest, intact: Intact) -> bytes:
    return intact(request.param)[0].read_bytes()


@pytest.mark.parametrize(
    "policy", [Policy(), Policy("near", 0.1), Policy("keyframe")], ids=lambda it: it.kind
)
def test_nothing_else_is_read(data: bytes, policy: Policy) -> None:
    chance = random.Random(7)
    for num_times in (1, 1, 1, 2, 4):
        times_s = sorted(round(chance.uniform(0, 4.6), 3) for _ in range(num_times))
        assert watch(data, times_s, policy).strays == [], times_s


def test_one_picture_takes_no_more_than_its_group(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "a.mp4", numbers=range(300), gop=50, options=videos.X264)
    with path.open("rb") as file, open_video(file, "a", DecodeError) as video:
        entries = video.stream.index_entries
        sizes = [sum(entry.size for entry in list(entries)[at : at + 50]) for at in range(0, 300, 50)]
        for number in range(5, 300, 10):
            wanted = video.start + round(number / 30 / video.tick_s)
            [(start, stop)] = byte_runs(video, [wanted], keys_only=False)
            assert stop - start < 1.2 * sizes[number // 50]
        [(start, stop)] = byte_runs(video, [video.start + round(2.5 / video.tick_s)], keys_only=True)
        assert stop - start == entries[50].size


def test_a_group_is_not_announced_twice(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "a.mp4", gop=50, options=videos.X264)
    with path.open("rb") as file, open_video(file, "a", DecodeError) as video:
        wanted = [video.start + round(k / 10 / video.tick_s) for k in range(50)]
        runs = list(byte_runs(video, wanted, keys_only=False))
        assert sum(stop - start for start, stop in runs) < 1.5 * path.stat().st_size


def test_without_an_index_nothing_is_announced(intact: Intact) -> None:
    data = intact("h264.ts")[0].read_bytes()
    assert watch(data, [1.0, 3.0], Policy()).runs == []
