import pytest

from pipeline import listing, rows
from pipeline.errors import ConfigError
from pipeline.listing import list_videos, version, video_id
from pipeline.store import FileEntry


def names(uri) -> list[str]:
    return [row["uri"].rpartition("/")[2] for row in list_videos(str(uri))]


class TestList:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in (
            "b.mp4",
            "a.MKV",
            "notes.txt",
            "sound.m4a",
            "odd",
            ".hidden.mp4",
            "deep/er/c.webm",
            "deep/x [1].ts",
        ):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path

    def test_a_folder_gives_its_videos_and_those_below(self, folder):
        assert sorted(names(folder)) == ["a.MKV", "b.mp4", "c.webm", "x [1].ts"]

    def test_rows_are_those_of_the_schema(self, folder):
        [row] = list_videos(str(folder / "b.mp4"))
        assert rows.fill(row, rows.FILE) == row
        assert row["uri"] == str(folder / "b.mp4")
        assert row["size_bytes"] == 5
        assert row["video_id"] == video_id(row["uri"])
        assert row["version"] == version(5, row["etag"])

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.mp4", [".hidden.mp4", "b.mp4"]),
            ("*.m4a", ["sound.m4a"]),
            ("*", ["a.MKV", "b.mp4"]),
            ("deep/**/*.webm", ["c.webm"]),
            ("**", ["a.MKV", "b.mp4", "c.webm", "x [1].ts"]),
            ("[ab].*", ["a.MKV", "b.mp4"]),
        ],
    )
    def test_a_pattern_gives_its_matches(self, folder, pattern, expected):
        assert sorted(names(folder / pattern)) == expected

    @pytest.mark.parametrize("name", ["notes.txt", "sound.m4a", "odd", ".hidden.mp4", "deep/x [1].ts"])
    def test_a_file_named_is_always_taken(self, folder, name):
        assert names(folder / name) == [name.rpartition("/")[2]]

    def test_ids_do_not_depend_on_how_the_path_is_written(self, folder, monkeypatch):
        monkeypatch.chdir(folder / "deep")
        [row] = list_videos("../deep/../b.mp4")
        assert row["uri"] == str(folder / "b.mp4")

    def test_rows_come_before_the_listing_ends(self, monkeypatch):
        def endless(_uri, **_):
            while True:
                yield FileEntry("s3://bucket/a.mp4", 1, "e")

        monkeypatch.setattr(listing, "list_files", endless)
        found = list_videos("s3://bucket")
        assert [next(found)["uri"] for _ in range(3)] == ["s3://bucket/a.mp4"] * 3

    def test_no_videos_says_where_it_looked_and_for_what(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(ConfigError, match=rf"no videos at {tmp_path}: .*1 other.*\.mp4"):
            list(list_videos(str(tmp_path)))

    def test_a_missing_folder_says_so(self, tmp_path):
        with pytest.raises(ConfigError, match="gone: there is no such file or folder"):
            list(list_videos(str(tmp_path / "gone")))


def test_a_new_size_or_etag_is_a_new_version():
    assert len({version(1, "a"), version(2, "a"), version(1, "b")}) == 3
    assert len(version(1, "a")) == 12
    assert len(video_id("/a.mp4")) == 16
