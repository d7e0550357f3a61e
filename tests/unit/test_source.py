import io
import math
import pickle
import random
import re
import tempfile
from functools import cache
from pathlib import Path

import av
import av.logging
import pytest

from pipeline import rows, source
from pipeline.errors import ProbeError
from pipeline.media import open_video
from pipeline.source import probe_file
from tests import videos


class Bucket(io.RawIOBase):
    """A file of which every read may be a request: it has no descriptor."""

    def __init__(self, path):
        super().__init__()
        self.data, self.position, self.num_read = path.read_bytes(), 0, 0

    def read(self, size=-1):
        stop = len(self.data) if size < 0 else self.position + size
        found = self.data[self.position : stop]
        self.position += len(found)
        self.num_read += len(found)
        return found

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + {0: 0, 1: self.position, 2: len(self.data)}[whence]
        return self.position

    def tell(self):
        return self.position

    def readable(self):
        return True

    def seekable(self):
        return True


def probe(path):
    with path.open("rb") as file:
        return probe_file(file, str(path), path.stat().st_size)


class TestUsable:
    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_an_intact_file_is_ok_and_as_long_as_its_pictures(self, intact, kind):
        path, numbers = intact(kind)
        found = probe(path)
        assert (found["status"], found["note"]) == ("ok", "")
        assert found["duration_s"] == pytest.approx((numbers[-1] - numbers[0] + 1) / 30, abs=0.04)
        if "variable" not in kind:
            assert found["fps"] == pytest.approx(30, abs=0.1)
        assert (found["width_px"], found["height_px"]) == ((641, 361) if "odd" in kind else (160, 96))
        table = rows.to_table([{"uri": str(path), **found}], rows.VIDEOS)
        assert table.num_rows == 1

    def test_container_and_codec_have_their_own_names(self, tmp_path):
        path, _ = videos.write_intact(tmp_path, "hevc.mkv")
        found = probe(path)
        assert (found["container"], found["codec"]) == ("matroska", "hevc")

    def test_a_turned_video_has_its_size_as_displayed(self, tmp_path):
        path = videos.write_video(tmp_path / "a.mp4", numbers=range(9), rotation_deg=90, options=videos.X264)
        found = probe(path)
        assert (found["width_px"], found["height_px"], found["rotation_deg"]) == (96, 160, 270)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
    def test_one_picture_lasts_one_frame(self, tmp_path, suffix):
        codec = "mpeg4" if suffix == "avi" else "libx264"
        path = videos.write_video(tmp_path / f"a.{suffix}", numbers=[0], b_frames=0, ticks=1, codec=codec)
        assert probe(path)["duration_s"] == pytest.approx(1 / 30, abs=0.01)

    def test_one_picture_that_does_not_start_at_zero(self, tmp_path):
        path = videos.write_video(tmp_path / "a.mkv", numbers=[3], start_s=2.0, b_frames=0)
        assert probe(path)["duration_s"] == pytest.approx(1 / 30, abs=0.01)

    @pytest.mark.parametrize(
        ("suffix", "note"),
        [
            ("mp4", r"\d+ pictures lie beyond its end, pictures end at 1\d\.\d of 20\.0 s"),
            ("mkv", r"declares 20\.0 s, packets end at 1\d\.\d s"),
            ("ts", r"ends inside a transport packet, pictures end at 1\d\.\d s"),
        ],
    )
    def test_a_cut_file_is_truncated_and_as_long_as_what_is_left(self, tmp_path, suffix, note):
        options = {"movflags": "faststart"} if suffix == "mp4" else None
        whole = videos.write_video(
            tmp_path / f"whole.{suffix}", numbers=range(600), options=videos.X264, container_options=options
        )
        found = probe(videos.cut(whole, tmp_path / f"cut.{suffix}", 0.6))
        assert found["status"] == "truncated"
        assert 9 < found["duration_s"] < 14
        assert re.search(note, found["note"])

    def test_a_stream_joined_between_key_pictures_is_damaged_at_its_start(self, tmp_path):
        whole = videos.write_video(tmp_path / "whole.ts", numbers=range(300), gop=60, options=videos.X264)
        data = whole.read_bytes()
        path = tmp_path / "joined.ts"
        path.write_bytes(data[len(data) // 40 // 188 * 188 :])
        found = probe(path)
        assert found["status"] == "damaged"
        assert "no picture before 1." in found["note"]


class TestUseless:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.mp4", b"", r"the file is empty \(0 bytes\)"),
            ("text.mp4", b"not a video\n" * 99, "the file is text, not a video: b'not a video"),
            ("noise.avi", bytes(range(256)) * 9, "no known video format"),
        ],
    )
    def test_a_file_that_is_no_video(self, tmp_path, name, content, message):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ProbeError, match=message) as raised:
            probe(path)
        assert raised.value.status == "unreadable"
        assert str(raised.value).startswith(str(path))

    def test_an_mp4_without_its_index(self, tmp_path):
        whole = videos.write_video(tmp_path / "whole.mp4", options=videos.X264)
        with pytest.raises(ProbeError, match=r"without its index \(moov\)") as raised:
            probe(videos.cut(whole, tmp_path / "cut.mp4", 0.6))
        assert raised.value.status == "unreadable"

    def test_an_index_that_leads_nowhere(self, tmp_path):
        path = videos.write_video(tmp_path / "a.mp4", options=videos.X264)
        data = bytearray(path.read_bytes())
        table = data.index(b"stco") + 12
        data[table : table + 60] = b"\xff" * 60
        path.write_bytes(data)
        with pytest.raises(ProbeError, match="not one picture can be decoded") as raised:
            probe(path)
        assert raised.value.status == "unreadable"

    def test_an_unknown_codec(self, tmp_path):
        path = videos.write_video(tmp_path / "a.mp4", options=videos.X264)
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
        with pytest.raises(ProbeError, match="no decoder for its video codec") as raised:
            probe(path)
        assert raised.value.status == "unreadable"

    @pytest.mark.parametrize(
        ("with_cover", "message"), [(False, "only audio;"), (True, "only audio and a cover picture")]
    )
    def test_sound_with_or_without_a_cover(self, tmp_path, with_cover, message):
        path = videos.write_audio(tmp_path / "song.m4a", with_cover=with_cover)
        with pytest.raises(ProbeError, match=message) as raised:
            probe(path)
        assert raised.value.status == "no_video"
        assert pickle.loads(pickle.dumps(raised.value)).status == "no_video"


class TestEveryPacket:
    """Of a file whose bytes are at hand."""

    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_packets_and_key_times_are_those_of_the_file(self, intact, kind):
        path, numbers = intact(kind)
        found = probe(path)
        assert found["num_packets"] == len(numbers)
        assert found["key_times_s"] == key_times_s(path) != []

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi"])
    @pytest.mark.parametrize("at", [0.3, 0.6])
    def test_overwritten_bytes_are_damage(self, tmp_path, suffix, at):
        whole = long_video(tmp_path, suffix)
        found = probe(videos.damage(whole, tmp_path / f"damaged.{suffix}", at, 0.1))
        assert found["status"] == "damaged", found["note"]
        # AVI counts its pictures: what is lost is not shown as a gap
        assert (8 if suffix == "avi" else 9) < found["duration_s"] < 11

    @pytest.mark.parametrize("suffix", ["mkv", "ts", "flv"])
    def test_bytes_that_were_taken_out_are_damage(self, tmp_path, suffix):
        whole = long_video(tmp_path, suffix)
        data = whole.read_bytes()
        whole.write_bytes(data[: len(data) // 2] + data[len(data) * 2 // 3 :])
        assert probe(whole)["status"] == "damaged"

    def test_a_group_that_was_taken_out_of_mkv_is_damage_although_nothing_is_torn(self, tmp_path):
        whole = long_video(tmp_path, "mkv")
        clusters = whole.read_bytes().split(b"\x1f\x43\xb6\x75")
        assert len(clusters) > 4
        del clusters[2]
        whole.write_bytes(b"\x1f\x43\xb6\x75".join(clusters))
        found = probe(whole)
        assert found["status"] == "damaged"
        assert "bytes are missing in between" in found["note"]

    def test_damage_and_a_cut_are_both_told(self, tmp_path):
        whole = long_video(tmp_path, "mkv")
        damaged = videos.damage(whole, tmp_path / "damaged.mkv", 0.3, 0.05)
        found = probe(videos.cut(damaged, tmp_path / "cut.mkv", 0.7))
        assert found["status"] == "damaged"
        assert re.search(r"; declares 10\.0 s, packets end at [67]\.\d s", found["note"])

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
    def test_a_picture_that_stands_still_is_no_damage(self, tmp_path, suffix):
        numbers = [*range(60), *range(600, 660)]
        found = probe(videos.write_video(tmp_path / f"a.{suffix}", numbers=numbers, options=videos.X264))
        assert found["status"] == "ok"
        assert found["note"] in ("", "no picture comes up between 2.0 and 20.0 s")
        with_sound = videos.write_video(
            tmp_path / f"b.{suffix}", numbers=numbers, audio_s=22.0, options=videos.X264
        )
        assert (probe(with_sound)["status"], probe(with_sound)["note"]) == ("ok", "")

    def test_sound_that_misses_with_the_pictures_shows_that_both_are_lost(self, tmp_path):
        whole = videos.write_video(
            tmp_path / "a.ts", numbers=range(300), audio_s=10.0, codec="libx265", options=videos.X265
        )
        packets = [whole.read_bytes()[at : at + 188] for at in range(0, whole.stat().st_size, 188)]
        whole.write_bytes(b"".join(packets[: len(packets) // 3] + packets[len(packets) * 2 // 3 :]))
        assert "pictures and sound are missing between" in probe(whole)["note"]

    def test_one_picture_a_second_is_no_damage(self, tmp_path):
        found = probe(videos.write_video(tmp_path / "a.mkv", numbers=range(40), fps=1, options=videos.X264))
        assert (found["status"], found["note"]) == ("ok", "")

    def test_a_clock_that_starts_again_is_damage_and_time_goes_on(self, tmp_path):
        data = long_video(tmp_path, "ts").read_bytes()
        path = tmp_path / "joined.ts"
        path.write_bytes(data + data)
        found = probe(path)
        assert found["status"] == "damaged"
        assert re.search(r"the clock goes back from 1\d\.\d to \d\.\d s", found["note"])
        assert found["duration_s"] == pytest.approx(20, abs=0.2)
        assert found["key_times_s"] == pytest.approx([float(k) for k in range(20)], abs=0.1)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
    def test_zeros_after_the_end_are_no_damage(self, tmp_path, suffix):
        whole = long_video(tmp_path, suffix)
        whole.write_bytes(whole.read_bytes() + bytes(70_000))
        assert probe(whole)["status"] == "ok"

    def test_only_a_whole_file_has_pictures_in_it(self, tmp_path):
        path = tmp_path / "a.png"
        av.VideoFrame.from_ndarray(videos.picture(1), format="rgb24").to_image().save(path)
        with pytest.raises(ProbeError, match="a single image") as raised:
            probe(path)
        assert raised.value.status == "no_video"

    def test_libav_is_listened_to_only_while_packets_are_read(self, tmp_path):
        probe(long_video(tmp_path, "mp4"))
        assert av.logging.get_level() is None


class TestBucket:
    """Of an object that is larger than what is read whole."""

    @pytest.mark.parametrize("kind", [kind for kind in videos.INTACT if kind.endswith((".mp4", ".avi"))])
    def test_an_index_tells_what_reading_everything_would(self, intact, monkeypatch, kind):
        path, _ = intact(kind)
        whole = probe(path)
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        found = source.probe_file(Bucket(path), str(path), path.stat().st_size)
        if "fragments" in kind:
            assert (found.pop("num_packets"), found.pop("key_times_s")) == (0, [])
        assert found == {name: whole[name] for name in found}

    def test_hidden_pictures_are_no_key_pictures(self, tmp_path, monkeypatch):
        path = long_video(tmp_path, "mp4")
        data = bytearray(path.read_bytes())
        place = data.index(b"elst") + 16
        hidden = int.from_bytes(data[place : place + 4]) + 75 * 512
        data[place : place + 4] = hidden.to_bytes(4)
        path.write_bytes(data)
        whole = probe(path)
        assert whole["key_times_s"] == pytest.approx([0.5 + k for k in range(7)])
        assert whole["duration_s"] == pytest.approx(7.5, abs=0.01)
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        found = source.probe_file(Bucket(path), str(path), path.stat().st_size)
        # libav has taken pictures out of the index: what is left of it cannot be trusted
        assert (found["num_packets"], found["key_times_s"]) == (0, [])
        assert found["duration_s"] == whole["duration_s"]

    def test_a_cut_object_has_the_packets_that_are_left(self, tmp_path, monkeypatch):
        whole = videos.write_video(
            tmp_path / "a.mp4", numbers=range(300), options=videos.X264, container_options={"movflags": "faststart"}
        )  # fmt: skip
        path = videos.cut(whole, tmp_path / "cut.mp4", 0.6)
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        found = source.probe_file(Bucket(path), str(path), path.stat().st_size)
        assert found["status"] == "truncated"
        assert 100 < found["num_packets"] < 200
        assert found["key_times_s"] == probe(path)["key_times_s"]

    def test_little_is_read(self, tmp_path, monkeypatch):
        coding = {
            "codec": "mjpeg",
            "pix_fmt": "yuvj420p",
            "b_frames": 0,
            "options": {"qmin": "1", "qmax": "1"},
        }
        path = videos.write_video(tmp_path / "a.mov", numbers=range(60), fps=3, size=(640, 384), **coding)
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        file = Bucket(path)
        found = source.probe_file(file, str(path), path.stat().st_size)
        assert (found["status"], found["num_packets"], len(found["key_times_s"])) == ("ok", 60, 60)
        assert file.num_read < path.stat().st_size * 0.4


class TestHostile:
    @pytest.mark.parametrize(
        ("box", "offset", "value"),
        [
            (b"mdhd", 16, 0),
            (b"mvhd", 16, 0),
            (b"mvhd", 20, 2**32 - 1),
            (b"mdhd", 20, 2**32 - 1),
            (b"stts", 12, 2**31 - 1),
            (b"stts", 12, 2**32 - 1),
            (b"stts", 12, 0),
            (b"stts", 8, 2**32 - 1),
            (b"ctts", 12, 2**31),
            (b"ctts", 8, 2**32 - 1),
            (b"stsz", 12, 2**32 - 1),
            (b"stss", 12, 0),
            (b"elst", 16, 2**31 - 1),
        ],
    )
    @pytest.mark.parametrize("small_bytes", [2**24, 0])
    def test_numbers_of_an_index_may_be_anything(
        self, tmp_path, monkeypatch, box, offset, value, small_bytes
    ):
        path = videos.write_video(tmp_path / "a.mp4", options=videos.X264)
        data = bytearray(path.read_bytes())
        place = data.index(box) + offset
        data[place : place + 4] = value.to_bytes(4)
        path.write_bytes(data)
        monkeypatch.setattr(source, "SMALL_BYTES", small_bytes)
        try:
            found = source.probe_file(Bucket(path), str(path), path.stat().st_size)
        except ProbeError:
            return
        assert math.isfinite(found["duration_s"])
        assert found["key_times_s"] == sorted(found["key_times_s"])
        rows.to_table([{"uri": str(path), **found}], rows.VIDEOS)

    def test_a_picture_of_65535_by_65535_pixels(self, tmp_path):
        path = videos.write_video(
            tmp_path / "a.avi", numbers=range(5), codec="mjpeg", pix_fmt="yuvj420p", b_frames=0, ticks=1
        )
        size = (96).to_bytes(2) + (160).to_bytes(2)
        data = path.read_bytes()
        assert size in data
        path.write_bytes(data.replace(size, b"\xff" * 4))
        with pytest.raises(ProbeError, match="not one picture can be decoded"):
            probe(path)

    def test_too_many_key_times_are_left_out(self, tmp_path, monkeypatch):
        path = long_video(tmp_path, "mp4")
        monkeypatch.setattr("pipeline.survey.MAX_KEYS", 9)
        monkeypatch.setattr("pipeline.source.MAX_KEYS", 9)
        assert probe(path)["key_times_s"] == []
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        assert source.probe_file(Bucket(path), str(path), path.stat().st_size)["key_times_s"] == []

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi"])
    def test_random_bytes_anywhere_cost_the_file_only(self, tmp_path, suffix):
        data = long_video(tmp_path, suffix).read_bytes()
        chance = random.Random(7)
        for _ in range(12):
            broken = bytearray(data)
            for _ in range(3):
                place = chance.choice([chance.randrange(2000), chance.randrange(len(data))])
                broken[place : place + 4] = chance.randbytes(4)
            try:
                source.probe_file(io.BytesIO(broken), "a", len(broken))
            except ProbeError:
                continue


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Write each kind of intact file once."""
    return cache(lambda kind: videos.write_intact(tmp_path_factory.mktemp("intact"), kind))


@cache
def _long_video(suffix):
    with tempfile.TemporaryDirectory() as folder:
        return _write_long(Path(folder) / f"long.{suffix}", suffix).read_bytes()


def long_video(folder, suffix):
    """Return ten seconds with a key picture every second."""
    path = folder / f"long.{suffix}"
    path.write_bytes(_long_video(suffix))
    return path


def _write_long(path, suffix):
    usual = {"options": videos.X264, "gop": 30}
    coding = {"codec": "mpeg4", "b_frames": 0, "ticks": 1, "gop": 30} if suffix == "avi" else usual
    return videos.write_video(path, numbers=range(300), **coding)


def key_times_s(path):
    """Return when key pictures are shown, by reading every packet."""
    with path.open("rb") as file, open_video(file, str(path), ProbeError) as video:
        packets = [p for p in video.container.demux(video.stream) if p.size and p.is_keyframe]
        return sorted((packet.pts - video.start) * video.tick_s for packet in packets)
