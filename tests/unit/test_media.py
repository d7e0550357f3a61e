"""Opening a file: which stream is the video, what is told when there is none, and how large pictures become."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import DecodeError, ProbeError
from pipeline.frames import FrameSize
from pipeline.media import fitted_size, open_video
from tests import videos

Intact = Callable[[str], tuple[Path, list[int]]]


@pytest.fixture(scope="module")
def mp4(intact: Intact) -> bytes:
    return intact("h264.mp4")[0].read_bytes()


def opening(data: bytes, error: type = ProbeError) -> str:
    """Return what is said about bytes that are no video."""
    with pytest.raises(error) as found, open_video(io.BytesIO(data), "s3://b/a.mp4", error):
        pass
    return str(found.value)


@pytest.mark.parametrize("error", [ProbeError, DecodeError])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"<html>not found</html>" * 20, "the file is text, not a video"),
        (bytes(range(256)) * 20, "no known video format, the file begins with"),
    ],
    ids=["empty", "text", "noise"],
)
def test_what_is_no_video_is_named(data: bytes, says: str, error: type) -> None:
    assert opening(data, error).startswith(f"s3://b/a.mp4: {says}")


def test_an_mp4_file_without_its_index_is_named(mp4: bytes) -> None:
    assert "an mp4 file without its index (moov)" in opening(mp4[: len(mp4) // 2])


@pytest.mark.parametrize("with_cover", [False, True])
def test_a_file_without_moving_pictures_says_what_it_holds(tmp_path: Path, with_cover: bool) -> None:
    path = videos.write_audio(tmp_path / "a.m4a", with_cover=with_cover)
    said = opening(path.read_bytes())
    assert "no video stream, the file holds only" in said
    assert ("a cover picture" in said) == with_cover
    with pytest.raises(ProbeError) as found, open_video(io.BytesIO(path.read_bytes()), "a", ProbeError):
        pass
    assert found.value.status == "no_video"


@pytest.mark.parametrize(
    ("kind", "has_index"), [("h264.mp4", True), ("mpeg4.avi", True), ("h264.mkv", False), ("h264.ts", False)]
)
def test_which_containers_have_an_index(intact: Intact, kind: str, has_index: bool) -> None:
    path, _ = intact(kind)
    with path.open("rb") as file, open_video(file, "a", DecodeError) as video:
        assert video.has_index is has_index


def test_the_file_is_told_when_its_container_is_open(mp4: bytes) -> None:
    class Told(io.BytesIO):
        times = 0

        def opened(self) -> None:
            self.times += 1

    file = Told(mp4)
    with open_video(file, "a", DecodeError) as video:
        assert file.times == 1
        video.reopen()
        assert file.times == 2


def test_an_error_of_the_file_object_comes_through(mp4: bytes) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 1000:
                msg = "the line is dead"
                raise ConnectionResetError(msg)
            return super().read(min(size or 0, 1000))

    with (
        pytest.raises(ConnectionResetError, match="the line is dead"),
        open_video(Broken(mp4), "a", DecodeError),
    ):
        pass


@pytest.mark.parametrize(
    ("size", "shown", "fitted"),
    [
        (FrameSize(448, 448), (1080, 1920), (448, 448)),
        (FrameSize(448, 448, "inside"), (1080, 1920), (252, 448)),
        (FrameSize(448, 448, "inside"), (1920, 1080), (448, 252)),
        (FrameSize(448, 448, "inside"), (100, 90), (100, 90)),
        (FrameSize(448, 448, "inside"), (2, 4000), (1, 448)),
    ],
)
def test_the_size_of_pictures(size: FrameSize, shown: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitted_size(size, shown) == fitted
