import pickle
import re

import pytest

from pipeline import rows
from pipeline.errors import ProbeError
from pipeline.source import probe_file
from tests import videos


def probe(path):
    with path.open("rb") as file:
        return probe_file(file, str(path), path.stat().st_size)


class TestUsable:
    @pytest.mark.parametrize("kind", videos.INTACT)
    def test_an_intact_file_is_ok_and_as_long_as_its_pictures(self, tmp_path, kind):
        path, numbers = videos.write_intact(tmp_path, kind)
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
