"""What the outermost structure of a file tells of its bytes, without a demuxer."""

import io

import pytest

from pipeline.extent import Extent, extent
from tests import videos


def told(data: bytes, max_pieces: int = 1000) -> Extent:
    return extent(io.BytesIO(data), len(data), max_pieces)


@pytest.mark.parametrize("kind", videos.INTACT)
def test_of_an_intact_file_nothing_is_missing(intact, kind):
    found = told(intact(kind)[0].read_bytes())
    assert (found.missing_bytes, found.broken_at, found.is_in_step) == (0, 0, True)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_what_a_cut_file_misses_is_known_to_the_byte(ten_seconds, suffix):
    data = ten_seconds(suffix).read_bytes()
    found = told(data[:-1000])
    assert found.missing_bytes == found.declared_bytes - len(data) + 1000
    assert 990 <= found.missing_bytes <= 1001  # what stands after the last piece is no part of it


def test_a_transport_stream_misses_the_rest_of_its_last_packet(ten_seconds):
    data = ten_seconds("ts").read_bytes()
    assert told(data) == Extent(len(data))
    assert told(data[:-60]) == Extent(len(data), 60)
    assert told(data[: -188 * 7]).missing_bytes == 0, "a cut between packets does not show here"


@pytest.mark.parametrize("num_bytes", [1, 100, 187])
def test_a_transport_stream_that_lost_bytes_is_out_of_step(ten_seconds, num_bytes):
    data = ten_seconds("ts").read_bytes()
    half = len(data) // 2
    assert not told(data[:half] + data[half + num_bytes :]).is_in_step
    assert told(data[:half] + data[half + 188 :]).is_in_step


def test_packets_with_a_time_code_keep_step_too(ten_seconds):
    data = ten_seconds("ts").read_bytes()
    stamped = b"".join(b"\0\0\0\0" + data[at : at + 188] for at in range(0, len(data), 188))
    assert told(stamped) == Extent(len(stamped))
    assert told(stamped[:-60]) == Extent(len(stamped), 60)


def test_a_chain_of_boxes_breaks_where_a_length_is_wrong(ten_seconds):
    data = bytearray(ten_seconds("mp4").read_bytes())
    place = data.index(b"moov") - 4
    data[place : place + 4] = (7).to_bytes(4)
    assert told(bytes(data)).broken_at == place
    data[place : place + 4] = (2**31).to_bytes(4)
    assert told(bytes(data)) == Extent(place + 2**31, place + 2**31 - len(data)), "the index may be cut off"
    data[place + 4 : place + 8] = b"none"
    assert told(bytes(data)).broken_at == place


def test_no_more_pieces_are_looked_at_than_allowed():
    boxes = (16).to_bytes(4) + b"free" + bytes(8)
    data = boxes * 10 + b"\0\0\0\3" + b"none" + bytes(8)
    assert told(data).broken_at == 160
    assert told(data, max_pieces=10) == Extent()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x47", b"RIFF", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x00", b"\0\0\0\1mdat", b"\0\0\0\0mdat", bytes(99)],
)  # fmt: skip
def test_a_beginning_alone_tells_nothing_and_is_survived(data):
    assert told(data).missing_bytes == 0
