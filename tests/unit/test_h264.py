"""A hole in an H.264 stream is found in its packets' headers, and nothing else is taken for one."""

import av
import pytest

from pipeline.h264 import Bits, ReferenceCounter
from tests import videos


def packets(path) -> tuple[bytes, list[bytes]]:
    with av.open(str(path)) as container:
        [stream] = container.streams.video
        return stream.codec_context.extradata, [bytes(p) for p in container.demux(stream) if p.size]


def missed(extradata: bytes, data: list[bytes]) -> list[int]:
    """Return the packets before which references are missing."""
    counter = ReferenceCounter(extradata)
    return [index for index, packet in enumerate(data) if counter.misses(memoryview(packet))]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_whole_streams_miss_nothing(tmp_path, suffix, b_frames):
    path = videos.write_video(
        tmp_path / f"a.{suffix}", numbers=range(90), b_frames=b_frames, gop=60, options=videos.X264
    )
    assert missed(*packets(path)) == []


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_a_hole_inside_a_group_is_found_where_it_is(tmp_path, suffix):
    path = videos.write_video(
        tmp_path / f"a.{suffix}", numbers=range(70), b_frames=0, gop=60, options=videos.X264
    )
    extradata, data = packets(path)
    for num_lost in (2, 5, 11):
        assert missed(extradata, data[:20] + data[20 + num_lost :]) == [20], num_lost


def test_a_hole_that_ends_at_a_key_picture_costs_no_reference(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", numbers=range(45), b_frames=0, gop=30, options=videos.X264)
    extradata, data = packets(path)
    assert missed(extradata, data[:20] + data[30:]) == []


def test_pictures_that_nobody_refers_to_may_be_left_out(tmp_path):
    path = videos.write_video(
        tmp_path / "a.ts", numbers=range(70), b_frames=2, gop=60, options=videos.X264 | {"b-pyramid": "none"}
    )
    _, data = packets(path)
    counted = [packet for packet in data if _slice_header(packet) & 0x60]
    assert 0 < len(counted) < len(data)
    assert missed(b"", counted) == []


def _slice_header(packet: bytes) -> int:
    """Return the header of the first slice of an Annex B packet."""
    heads = [packet[i + 3] for i in range(len(packet) - 4) if packet[i : i + 3] == b"\x00\x00\x01"]
    return next(head for head in heads if head & 31 in (1, 5))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01" * 7, bytes(40), b"\x01\x64\x00\x1f\xff\xe1\xff\xff", bytes(range(256))]
)
def test_nonsense_is_survived(data):
    counter = ReferenceCounter(data)
    assert not counter.misses(memoryview(data))


def test_numbers_of_variable_length():
    bits = Bits(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [bits.exp_golomb() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert bits.take(40) == 0
