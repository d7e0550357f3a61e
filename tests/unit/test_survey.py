"""What reading every packet of a file tells: damage and holes where they are, and nothing else taken for them."""

import re

import av.logging
import pytest

from pipeline.errors import ProbeError
from pipeline.media import open_video
from tests import videos
from tests.probing import probe, probe_bytes

CLUSTER = b"\x1f\x43\xb6\x75"
"""Begins a group of packets in Matroska (RFC 9559, 5.1.3)."""


def key_times_s(path):
    """Return when key pictures are shown, by reading every packet."""
    with path.open("rb") as file, open_video(file, str(path), ProbeError) as video:
        packets = [p for p in video.container.demux(video.stream) if p.size and p.is_keyframe]
        return sorted((packet.pts - video.start) * video.tick_s for packet in packets)


@pytest.mark.parametrize("kind", videos.INTACT)
def test_packets_and_key_times_are_those_of_the_file(intact, kind):
    path, numbers = intact(kind)
    found = probe(path)
    assert found["num_packets"] == len(numbers)
    assert found["key_times_s"] == key_times_s(path) != []


class TestDamage:
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi"])
    @pytest.mark.parametrize("at", [0.3, 0.6])
    def test_overwritten_bytes(self, ten_seconds, tmp_path, suffix, at):
        found = probe(videos.damage(ten_seconds(suffix), tmp_path / f"damaged.{suffix}", at, 0.1))
        assert found["status"] == "damaged", found["note"]
        # AVI counts its pictures: what is lost is not shown as a gap
        assert (8 if suffix == "avi" else 9) < found["duration_s"] < 11

    @pytest.mark.parametrize("suffix", ["mkv", "ts", "flv"])
    def test_bytes_that_were_taken_out(self, ten_seconds, suffix):
        data = ten_seconds(suffix).read_bytes()
        assert probe_bytes(data[: len(data) // 2] + data[len(data) * 2 // 3 :])["status"] == "damaged"

    def test_a_group_that_was_taken_out_of_mkv_although_nothing_is_torn(self, ten_seconds):
        clusters = ten_seconds("mkv").read_bytes().split(CLUSTER)
        assert len(clusters) > 4
        del clusters[2]
        found = probe_bytes(CLUSTER.join(clusters))
        assert found["status"] == "damaged"
        assert "bytes are missing in between" in found["note"]

    def test_damage_and_a_cut_are_both_told(self, ten_seconds, tmp_path):
        damaged = videos.damage(ten_seconds("mkv"), tmp_path / "damaged.mkv", 0.3, 0.05)
        found = probe(videos.cut(damaged, tmp_path / "cut.mkv", 0.7))
        assert found["status"] == "damaged"
        assert re.search(r"; declares 10\.0 s, packets end at [67]\.\d s", found["note"])

    def test_sound_that_misses_with_the_pictures_shows_that_both_are_lost(self, tmp_path):
        whole = videos.write_video(
            tmp_path / "a.ts", numbers=range(150), audio_s=5.0, codec="libx265", options=videos.X265
        )
        packets = [whole.read_bytes()[at : at + 188] for at in range(0, whole.stat().st_size, 188)]
        whole.write_bytes(b"".join(packets[: len(packets) // 3] + packets[len(packets) * 2 // 3 :]))
        assert "pictures and sound are missing between" in probe(whole)["note"]

    def test_a_clock_that_starts_again_is_damage_and_time_goes_on(self, ten_seconds):
        data = ten_seconds("ts").read_bytes()
        found = probe_bytes(data + data)
        assert found["status"] == "damaged"
        assert re.search(r"the clock goes back from 1\d\.\d to \d\.\d s", found["note"])
        assert found["duration_s"] == pytest.approx(20, abs=0.2)
        assert found["key_times_s"] == pytest.approx([float(k) for k in range(20)], abs=0.1)


class TestNoDamage:
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
    def test_a_picture_that_stands_still(self, tmp_path, suffix):
        numbers = [*range(30), *range(570, 600)]
        found = probe(videos.write_video(tmp_path / f"a.{suffix}", numbers=numbers, options=videos.X264))
        assert found["status"] == "ok"
        assert found["note"] in ("", "no picture comes up between 1.0 and 19.0 s")
        with_sound = videos.write_video(
            tmp_path / f"b.{suffix}", numbers=numbers, audio_s=20.0, options=videos.X264
        )
        found = probe(with_sound)
        assert (found["status"], found["note"]) == ("ok", "")

    def test_one_picture_a_second(self, tmp_path):
        found = probe(videos.write_video(tmp_path / "a.mkv", numbers=range(40), fps=1, options=videos.X264))
        assert (found["status"], found["note"]) == ("ok", "")

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
    def test_zeros_after_the_end(self, ten_seconds, suffix):
        assert probe_bytes(ten_seconds(suffix).read_bytes() + bytes(70_000))["status"] == "ok"


def test_libav_is_listened_to_only_while_packets_are_read(intact):
    probe(intact("h264.mp4")[0])
    assert av.logging.get_level() is None
