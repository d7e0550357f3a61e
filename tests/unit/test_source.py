"""What a probe says of whole, cut and useless files, and how little of an object it reads."""

import io
import math
import pickle
import random
import re

import av
import pytest

from pipeline import rows, source
from pipeline.errors import ProbeError
from tests import videos
from tests.probing import Bucket, probe, probe_bytes


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

    def test_container_and_codec_have_their_own_names(self, intact):
        path, _ = intact("hevc.mkv")
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
            ("mp4", r"\d+ pictures lie beyond its end, pictures end at [56]\.\d of 10\.0 s"),
            ("mkv", r"declares 10\.0 s, packets end at [56]\.\d s"),
            ("ts", r"ends inside a transport packet, pictures end at [56]\.\d s"),
        ],
    )
    def test_a_cut_file_is_truncated_and_as_long_as_what_is_left(self, ten_seconds, tmp_path, suffix, note):
        found = probe(videos.cut(ten_seconds(suffix), tmp_path / f"cut.{suffix}", 0.6))
        assert found["status"] == "truncated"
        assert 4.5 < found["duration_s"] < 7
        assert re.search(note, found["note"])

    def test_a_stream_joined_between_key_pictures_is_damaged_at_its_start(self, ten_seconds, tmp_path):
        data = ten_seconds("ts").read_bytes()
        path = tmp_path / "joined.ts"
        path.write_bytes(data[len(data) // 40 // 188 * 188 :])
        found = probe(path)
        assert found["status"] == "damaged"
        assert "no picture before 0." in found["note"]


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

    def test_an_mp4_without_its_index(self, intact):
        data = intact("h264.mp4")[0].read_bytes()
        with pytest.raises(ProbeError, match=r"without its index \(moov\)") as raised:
            probe_bytes(data[: len(data) * 6 // 10])
        assert raised.value.status == "unreadable"

    def test_an_index_that_leads_nowhere(self, intact):
        data = bytearray(intact("h264.mp4")[0].read_bytes())
        table = data.index(b"stco") + 12
        data[table : table + 60] = b"\xff" * 60
        with pytest.raises(ProbeError, match="not one picture can be decoded") as raised:
            probe_bytes(bytes(data))
        assert raised.value.status == "unreadable"

    def test_an_unknown_codec(self, intact):
        data = intact("h264.mp4")[0].read_bytes()
        with pytest.raises(ProbeError, match="no decoder for its video codec") as raised:
            probe_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
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

    def test_a_single_image(self, tmp_path):
        path = tmp_path / "a.png"
        av.VideoFrame.from_ndarray(videos.picture(1), format="rgb24").to_image().save(path)
        with pytest.raises(ProbeError, match="a single image") as raised:
            probe(path)
        assert raised.value.status == "no_video"


class TestBucket:
    """Of an object that is larger than what is read whole."""

    @pytest.fixture(autouse=True)
    def _nothing_is_small(self, monkeypatch):
        monkeypatch.setattr(source, "SMALL_BYTES", 0)

    @pytest.mark.parametrize("kind", [kind for kind in videos.INTACT if kind.endswith((".mp4", ".avi"))])
    def test_an_index_tells_what_reading_everything_would(self, intact, kind):
        path, _ = intact(kind)
        whole, found = probe(path), probe_bytes(path.read_bytes())
        if "fragments" in kind:
            assert (found.pop("num_packets"), found.pop("key_times_s")) == (0, [])
        assert found == {name: whole[name] for name in found}

    def test_little_is_read(self, tmp_path):
        coding = {
            "codec": "mjpeg",
            "pix_fmt": "yuvj420p",
            "b_frames": 0,
            "options": {"qmin": "1", "qmax": "1"},
        }
        path = videos.write_video(tmp_path / "a.mov", numbers=range(40), fps=2, size=(640, 384), **coding)
        file = Bucket(path.read_bytes())
        found = source.probe_file(file, "a.mov", len(file.data))
        assert (found["status"], found["num_packets"], len(found["key_times_s"])) == ("ok", 40, 40)
        assert file.num_read < len(file.data) * 0.4


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
    def test_numbers_of_an_index_may_be_anything(self, intact, monkeypatch, box, offset, value, small_bytes):
        data = bytearray(intact("h264.mp4")[0].read_bytes())
        place = data.index(box) + offset
        data[place : place + 4] = value.to_bytes(4)
        monkeypatch.setattr(source, "SMALL_BYTES", small_bytes)
        try:
            found = probe_bytes(bytes(data))
        except ProbeError:
            return
        assert math.isfinite(found["duration_s"])
        assert found["key_times_s"] == sorted(found["key_times_s"])
        rows.to_table([{"uri": "a", **found}], rows.VIDEOS)

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

    def test_too_many_key_times_are_left_out(self, intact, monkeypatch):
        data = intact("h264.mp4")[0].read_bytes()
        assert len(probe_bytes(data)["key_times_s"]) == 5
        monkeypatch.setattr("pipeline.survey.MAX_KEYS", 4)
        monkeypatch.setattr(source, "MAX_KEYS", 4)
        assert probe_bytes(data)["key_times_s"] == []
        monkeypatch.setattr(source, "SMALL_BYTES", 0)
        assert probe_bytes(data)["key_times_s"] == []

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi"])
    def test_random_bytes_anywhere_cost_the_file_only(self, ten_seconds, suffix):
        data = ten_seconds(suffix).read_bytes()
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
