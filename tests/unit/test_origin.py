"""What is asked of a store when a container is read through an origin, and files that change while they are read."""

import os
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import kept, ranges
from pipeline.errors import DecodeError
from pipeline.listing import list_videos
from pipeline.origin import LargeObject, open_origin
from pipeline.ranges import Pinned

SIZE_BYTES = 40 * 2**20
KIB = 2**10


CONTENT = random.Random(1).randbytes(2**16) * (SIZE_BYTES // 2**16)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, int]]:
    """The byte ranges that are fetched; the object's bytes follow from their positions."""
    found: list[tuple[int, int]] = []

    def fetch(pinned: Pinned, start: int, stop: int, write: Callable[[bytes], object], error: type) -> int:
        del error
        assert 0 <= start < stop <= pinned.size_bytes
        found.append((start, stop))
        write(CONTENT[start:stop])
        return 1

    monkeypatch.setattr(ranges, "fetch", fetch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return found


def large(name: str = "v-1") -> LargeObject:
    return LargeObject(Pinned("s3://b/k", SIZE_BYTES, "e"), name, DecodeError)


def read_all(source: LargeObject, start: int, stop: int) -> None:
    """Read a span as libav does, 64 KiB at a time."""
    while start < stop:
        data = source.read(start, min(64 * KIB, stop - start))
        assert data
        assert CONTENT.startswith(data, start)
        start += len(data)


def test_bytes_are_those_of_the_object(asked: list[tuple[int, int]]) -> None:
    source = large()
    for position in (0, 1, 70_000, 5_000_000, 4_999_000, SIZE_BYTES - 7, 300_000):
        data = source.read(position, 100)
        assert data
        assert CONTENT.startswith(data, position)
    source.opened()
    assert source.read(123_456, 9) == CONTENT[123_456:123_465]
    assert source.num_requests == len(asked)
    assert source.num_bytes == sum(stop - start for start, stop in asked)


def test_nothing_lies_outside(asked: list[tuple[int, int]]) -> None:
    source = large()
    assert (
        source.read(SIZE_BYTES, 10) == source.read(-1, 10) == source.read(5, 0) == source.read(5, -3) == b""
    )
    assert not asked
    assert len(source.read(SIZE_BYTES - 3, 10)) == 3


def test_an_index_at_the_end_is_one_request(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.read(0, 64 * KIB)
    read_all(source, SIZE_BYTES - 1_100_000, SIZE_BYTES)
    source.read(48, 64 * KIB)
    assert asked == [(0, 256 * KIB), (SIZE_BYTES - 1_100_000, SIZE_BYTES)]


def test_an_index_in_front_is_two_requests(asked: list[tuple[int, int]]) -> None:
    read_all(large(), 0, 1_100_000)
    assert len(asked) == 2


@pytest.mark.parametrize("fragment_bytes", [150_000, 2_000_000])
def test_jumping_from_fragment_to_fragment_is_not_a_request_each(
    asked: list[tuple[int, int]], fragment_bytes: int
) -> None:
    source = large()
    for position in range(0, SIZE_BYTES, fragment_bytes):
        source.read(position, 64 * KIB)
    source.opened()
    assert len(asked) <= 6
    assert ((kept.folder() or Path()) / "v-1").stat().st_size < 3_000_000
    asked.clear()
    again = large()
    for position in range(0, SIZE_BYTES, fragment_bytes):
        again.read(position, 64 * KIB)
    assert not asked


def test_what_opening_read_is_kept(asked: list[tuple[int, int]]) -> None:
    first = large()
    read_all(first, 0, 600_000)
    first.opened()
    first.read(20_000_000, 100)
    asked.clear()
    second = large()
    read_all(second, 0, 600_000)
    second.opened()
    assert not asked
    third = large("v-2")
    third.read(0, 100)
    assert len(asked) == 1


def test_what_is_kept_of_opening_is_bounded_in_bytes(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is left out is still read rightly."""
    monkeypatch.setattr(kept, "MAX_FILE_BYTES", 2**20)
    first = large()
    read_all(first, 0, SIZE_BYTES)
    first.opened()
    path = (kept.folder() or Path()) / "v-1"
    assert 2**20 - 64 * KIB <= path.stat().st_size <= 2**20 + 1000
    asked.clear()
    second = large()
    read_all(second, 0, 3 * 2**20)
    second.opened()
    assert asked[0][0] == 2**20
    assert path.stat().st_size <= 2**20 + 1000


def test_opening_holds_little_more_memory_than_it_keeps(asked: list[tuple[int, int]]) -> None:
    source = large()
    read_all(source, 0, kept.MAX_FILE_BYTES)
    tracemalloc.start()
    source.opened()
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(asked) > 1
    assert most_bytes < 1.2 * kept.MAX_FILE_BYTES


@pytest.mark.parametrize("has_plan", [False, True])
def test_reading_in_circles_ends(asked: list[tuple[int, int]], has_plan: bool) -> None:
    """In requests of a few bytes, too, and a file may well be read over a few times."""
    source = large()
    source.opened()
    for _ in range(3):
        read_all(source, 0, SIZE_BYTES)
    places = [2_000_000, 12_000_000, 22_000_000]
    if has_plan:
        source.plan([(place, place + 10) for place in places])
    places *= 10_000
    with pytest.raises(DecodeError, match=r"s3://b/k: reading it goes in circles: .* leave it out"):
        [source.read(place, 10) for place in places]
    assert len(asked) < 3000


def test_an_index_at_the_end_that_is_read_after_opening_is_kept(asked: list[tuple[int, int]]) -> None:
    for number in range(2):
        source = large()
        source.read(0, 64 * KIB)
        source.opened()
        source.read(SIZE_BYTES - 10_000, 64 * KIB)
        source.read(20_000_000 + number, 100)
    assert len(asked) == 4


def test_a_run_is_one_request(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    source.plan([(20_000_000, 20_150_000)])
    read_all(source, 20_000_000, 20_150_000)
    assert asked == [(20_000_000, 20_150_000)]


def test_runs_near_each_other_are_one_request(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    runs = [(start, start + 10_000) for start in range(2_000_000, 5_000_000, 200_000)]
    source.plan([*reversed(runs), (30_000_000, 30_000_100)])
    for start, stop in runs:
        read_all(source, start, stop)
    source.read(30_000_000, 100)
    assert asked == [(2_000_000, 4_810_000), (30_000_000, 30_000_100)]


def test_a_long_run_is_read_in_large_requests(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    source.plan([(0, SIZE_BYTES)])
    read_all(source, 0, SIZE_BYTES)
    assert len(asked) == 3


def test_a_plan_is_held_to_the_object(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    source.plan([(-50, 100), (SIZE_BYTES - 10, SIZE_BYTES * 2)])
    assert len(source.read(0, 100)) == 100
    assert len(source.read(SIZE_BYTES - 10, 100)) == 10
    assert asked == [(0, 100), (SIZE_BYTES - 10, SIZE_BYTES)]


def test_without_a_plan_requests_grow_while_reading_goes_on(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    read_all(source, 1_000_000, 9_000_000)
    sizes = [stop - start for start, stop in asked]
    assert sizes == sorted(sizes)
    assert len(sizes) <= 6
    source.read(30_000_000, 100)
    assert asked[-1] == (30_000_000, 30_000_000 + 256 * KIB)


def test_searching_backwards_is_not_a_request_each(asked: list[tuple[int, int]]) -> None:
    source = large()
    source.opened()
    for position in range(20_000_000, 19_800_000, -32 * KIB):
        source.read(position, 32 * KIB)
    read_all(source, 19_800_000, 20_200_000)
    assert len(asked) <= 3


def test_a_small_object_is_one_request(asked: list[tuple[int, int]]) -> None:
    pinned = Pinned("s3://b/k", 5 * 2**20, "e")
    with open_origin(pinned, "v-1", DecodeError) as source:
        assert source.file is not None
        assert os.pread(source.file, 100, 70_000) == CONTENT[70_000:70_100]
        assert (source.num_requests, source.num_bytes) == (1, pinned.size_bytes)
        file = source.file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
    assert asked == [(0, pinned.size_bytes)]
    assert not list((kept.folder() or Path()).iterdir())


def test_a_fetch_that_goes_on_after_it_was_broken_off_writes_into_no_other_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writes: list[Callable[[bytes], object]] = []

    def fetch(
        _pinned: Pinned, _start: int, _stop: int, write: Callable[[bytes], object], _error: type
    ) -> int:
        writes.append(write)
        write(b"some")
        raise KeyboardInterrupt

    monkeypatch.setattr(ranges, "fetch", fetch)
    with pytest.raises(KeyboardInterrupt), open_origin(Pinned("s3://b/k", 1000, "e"), "n", DecodeError):
        pass
    with (tmp_path / "other").open("wb") as other:
        with pytest.raises(ValueError, match="closed file"):
            writes[0](b"late")
        assert os.fstat(other.fileno()).st_size == 0


def misread(path: Path) -> None:
    path.write_bytes(b"other  content")
    msg = "damaged"
    raise DecodeError(msg)


class TestLocalFiles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "a.mp4"
        path.write_bytes(b"listed content")
        os.utime(path, ns=(10**18, 10**18))
        return path

    @staticmethod
    def pinned(path: Path) -> Pinned:
        [file] = list_videos(str(path))
        return Pinned(file["uri"], file["size_bytes"], file["etag"])

    def test_the_file_is_handed_on(self, path: Path) -> None:
        with open_origin(self.pinned(path), "n", DecodeError) as source:
            assert source.file is not None
            assert os.pread(source.file, 6, 0) == b"listed"

    def test_gone(self, path: Path) -> None:
        pinned = self.pinned(path)
        path.unlink()
        with pytest.raises(DecodeError, match="is gone now"), open_origin(pinned, "n", DecodeError):
            pass

    def test_not_allowed(self, path: Path) -> None:
        pinned = self.pinned(path)
        path.chmod(0)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            with pytest.raises(DecodeError, match="Permission denied"), open_origin(pinned, "n", DecodeError):
                pass
        finally:
            os.seteuid(user)

    def test_a_folder_or_a_pipe_in_its_place(self, path: Path) -> None:
        pinned = self.pinned(path)
        path.unlink()
        path.mkdir()
        with (
            pytest.raises(DecodeError, match="not a file with content"),
            open_origin(pinned, "n", DecodeError),
        ):
            pass
        path.rmdir()
        os.mkfifo(path)
        with (
            pytest.raises(DecodeError, match="not a file with content"),
            open_origin(pinned, "n", DecodeError),
        ):
            pass

    def test_changed_since_it_was_listed(self, path: Path) -> None:
        pinned = self.pinned(path)
        path.write_bytes(b"other  content")
        with pytest.raises(DecodeError, match="has changed"), open_origin(pinned, "n", DecodeError):
            pass

    def test_overwritten_while_it_is_read(self, path: Path) -> None:
        with (
            pytest.raises(DecodeError, match="has changed since it was listed"),
            open_origin(self.pinned(path), "n", DecodeError),
        ):
            path.write_bytes(b"other  content")

    def test_what_goes_wrong_with_an_overwritten_file_is_that_it_changed(self, path: Path) -> None:
        with (
            pytest.raises(DecodeError, match="has changed since it was listed"),
            open_origin(self.pinned(path), "n", DecodeError),
        ):
            misread(path)

    def test_replaced_while_it_is_read_the_old_one_is_read_on(self, path: Path, tmp_path: Path) -> None:
        with open_origin(self.pinned(path), "n", DecodeError) as source:
            (tmp_path / "new").write_bytes(b"other  content")
            (tmp_path / "new").rename(path)
            assert source.file is not None
            assert os.pread(source.file, 6, 0) == b"listed"

    def test_nothing_stays_open(self, path: Path) -> None:
        pinned = self.pinned(path)
        path.write_bytes(b"other  content")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(DecodeError), open_origin(pinned, "n", DecodeError):
                pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before
