"""When key pictures are shown, told from the index alone; where that is not sure, nothing is told."""

import io

import pytest

from pipeline import source
from pipeline.errors import DecodeError
from pipeline.media import open_video
from pipeline.mp4_keys import shown_keys
from tests import videos
from tests.probing import probe, probe_bytes

MOST = 1000


def told(data: bytes, *, seen=(), most=MOST) -> list[float]:
    """Return what the index tells, when the first key picture and `seen` others were read."""
    with open_video(io.BytesIO(data), "a", DecodeError) as video:
        return shown_keys(video, len(data), [video.start, *seen], most)


@pytest.mark.parametrize("kind", [kind for kind in videos.INTACT if kind.endswith((".mp4", ".avi"))])
def test_it_is_what_reading_every_packet_tells(intact, kind):
    data = intact(kind)[0].read_bytes()
    assert told(data) == ([] if "fragments" in kind else probe_bytes(data)["key_times_s"])


def test_key_pictures_that_do_not_fit_the_index_make_it_unsure(intact):
    data = intact("h264.mp4")[0].read_bytes()
    with open_video(io.BytesIO(data), "a", DecodeError) as video:
        second = video.start + round(1 / video.tick_s)
    assert told(data, seen=[second]) == pytest.approx([0, 1, 2, 3, 4])
    assert told(data, seen=[second + 1]) == []


def test_more_than_wanted_are_left_out(intact):
    data = intact("h264.mp4")[0].read_bytes()
    assert len(told(data, most=5)) == 5
    assert told(data, most=4) == []


@pytest.mark.parametrize("box", [b"moov", b"trak", b"stbl", b"stsz", b"ctts", b"stss"])
def test_a_table_that_lies_about_its_length_tells_nothing_wrong(intact, box):
    data = bytearray(intact("h264.mp4")[0].read_bytes())
    place = data.index(box)
    data[place - 4 : place] = (9).to_bytes(4)
    try:
        found = told(bytes(data))
    except DecodeError:
        return
    assert found in ([], pytest.approx([0, 1, 2, 3, 4]))


def test_hidden_pictures_are_no_key_pictures(ten_seconds, monkeypatch):
    data = bytearray(ten_seconds("mp4").read_bytes())
    place = data.index(b"elst") + 16
    hidden = int.from_bytes(data[place : place + 4]) + 75 * 512
    data[place : place + 4] = hidden.to_bytes(4)
    whole = probe_bytes(bytes(data))
    assert whole["key_times_s"] == pytest.approx([0.5 + k for k in range(7)])
    assert whole["duration_s"] == pytest.approx(7.5, abs=0.01)
    monkeypatch.setattr(source, "SMALL_BYTES", 0)
    found = probe_bytes(bytes(data))
    # libav has taken pictures out of the index: what is left of it cannot be trusted
    assert (found["num_packets"], found["key_times_s"]) == (0, [])
    assert found["duration_s"] == whole["duration_s"]


def test_a_cut_object_has_the_packets_that_are_left(ten_seconds, tmp_path, monkeypatch):
    path = videos.cut(ten_seconds("mp4"), tmp_path / "cut.mp4", 0.6)
    monkeypatch.setattr(source, "SMALL_BYTES", 0)
    found = probe_bytes(path.read_bytes())
    assert found["status"] == "truncated"
    assert 100 < found["num_packets"] < 200
    assert found["key_times_s"] == probe(path)["key_times_s"]
