"""Chains of units are told from overwritten bytes as a decoder does it."""

import av
import pytest

from pipeline.nals import is_chain, length_bytes

AVCC = bytes([1, 0x64, 0, 0x1F, 0xFF, 0xE1, 0])
HVCC = bytes([1]) + bytes(20) + bytes([0xFF, 0])


@pytest.mark.parametrize(
    ("codec", "extradata", "expected"),
    [
        ("h264", AVCC, 4),
        ("h264", AVCC[:4] + b"\xfd" + AVCC[5:], 2),
        ("hevc", HVCC, 4),
        ("hevc", HVCC[:21] + b"\x00" + HVCC[22:], 1),
        ("h264", AVCC[:-1], 0),
        ("hevc", HVCC[:-1], 0),
        ("h264", b"\0\0\0\1" + bytes(20), 0),  # start codes: a transport stream
        ("vp9", AVCC, 0),
        ("h264", b"", 0),
        ("h264", None, 0),
    ],
)
def test_bytes_of_a_length(codec, extradata, expected):
    assert length_bytes(codec, extradata) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", True),
        (b"\0\0\0\2ab", True),
        (b"\0\0\0\2ab\0\0\0\1c", True),
        (b"\0\0\0\2ab\0\0\0", True),  # less than a length may follow
        (b"\0\0\0\3ab", False),
        (b"\0\0\0\2ab\0\0\0\2c", False),
        (b"\0\0\0\2ab\0\0\0\0\0", False),
        (b"\xff\xff\xff\xffab", False),
        (b"\0\0\0\1abcdefgh\0\0\1", True),  # start codes instead of lengths
        (b"\0\0\1abcdefgh", True),
    ],
)
def test_is_chain(packet, expected):
    assert is_chain(memoryview(packet), 4) is expected


def test_lengths_of_two_bytes():
    assert is_chain(memoryview(b"\0\2ab\0\1c"), 2)
    assert not is_chain(memoryview(b"\0\2ab\0\2c"), 2)


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "hevc.mkv"])
def test_packets_of_real_files_are_chains_and_torn_ones_are_none(intact, kind):
    with av.open(str(intact(kind)[0])) as container:
        [stream] = container.streams.video
        num_length = length_bytes(stream.codec_context.name, stream.codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    assert num_length == 4
    assert all(is_chain(memoryview(packet), num_length) for packet in packets)
    # a first length of 256 to 511 bytes is taken for a start code
    torn = [packet[:-1] for packet in packets if packet[:3] != b"\0\0\1"]
    assert len(torn) > 50
    assert not any(is_chain(memoryview(packet), num_length) for packet in torn)
    assert not any(is_chain(memoryview(b"\xab" * len(packet)), num_length) for packet in packets)
