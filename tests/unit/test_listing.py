import contextlib
import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest

from pipeline import listing, rows
from pipeline.errors import ConfigError, StoreError
from pipeline.listing import list_videos, version, video_id
from pipeline.store import FileEntry

NOBODY = 65534


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


@contextlib.contextmanager
def as_an_ordinary_user():
    """No folder is closed to root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.fixture
def open_place():
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def failed(uri) -> dict[str, str]:
    return {Path(row["uri"]).name: row["error_message"] for row in list_videos(str(uri)) if row["error_type"]}


class TestTrouble:
    """One bad entry never ends a listing."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "good.mp4").write_bytes(b"x")
        return tmp_path

    def test_what_stands_where_a_video_should_be_is_a_failed_row(self, folder):
        (folder / "link.mp4").symlink_to(folder / "nothing")
        (folder / "circle.mkv").symlink_to(folder / "circle.mkv")
        os.mkfifo(folder / "pipe.mp4")
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
            server.bind("socket.ts")
        assert len(names(folder)) == 5
        found = failed(folder)
        assert found.keys() == {"link.mp4", "circle.mkv", "pipe.mp4", "socket.ts"}
        assert f"{folder}/link.mp4: a link that leads nowhere" in found["link.mp4"]
        assert "symbolic links" in found["circle.mkv"]
        assert "a pipe, expected a file" in found["pipe.mp4"]
        assert "a socket, expected a file" in found["socket.ts"]
        for row in list_videos(str(folder)):
            assert rows.fill(row, rows.FILE) == row
            assert len(row["version"]) == 12
            assert row["error_type"] in ("", "ProbeError")

    def test_what_is_not_named_like_a_video_is_passed_over_with_a_warning(self, folder, caplog):
        (folder / "season 2").symlink_to(folder / "unmounted")
        assert names(folder) == ["good.mp4"]
        assert f"passed over {folder}/season 2: a link that leads nowhere" in caplog.text

    def test_a_folder_named_like_a_video_is_walked(self, folder):
        (folder / "clip.mp4").mkdir()
        (folder / "clip.mp4" / "in.mp4").touch()
        assert names(folder) == ["in.mp4", "good.mp4"]

    def test_a_closed_folder_below_is_passed_over_with_a_warning(self, open_place, caplog):
        for name in ("a.mp4", "closed/b.mp4", "z.mp4"):
            path = open_place / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        (open_place / "closed").chmod(0)
        with as_an_ordinary_user():
            assert names(open_place) == ["a.mp4", "z.mp4"]
        assert f"passed over {open_place}/closed/: permission denied for this user" in caplog.text

    def test_nothing_but_closed_folders_is_an_error_of_the_store(self, open_place):
        (open_place / "closed").mkdir(mode=0)
        with as_an_ordinary_user():
            with pytest.raises(
                StoreError, match=r"1 folders in it cannot be entered, .*closed/; let this user"
            ):
                names(open_place)
            with pytest.raises(StoreError, match=r"cannot list .*closed: permission denied"):
                names(open_place / "closed")

    def test_a_file_that_vanishes_while_it_is_listed(self, folder):
        (folder / "last.mp4").touch()
        found = list_videos(str(folder))
        assert next(found)["uri"].endswith("good.mp4")
        (folder / "last.mp4").unlink()
        [row] = found
        assert "gone since its folder was read; run again" in row["error_message"]

    def test_a_name_that_is_not_utf8(self, folder):
        with open(os.fsencode(folder) + b"/caf\xe9.mp4", "wb"):  # noqa: PTH123 - pathlib has no bytes
            pass
        assert "not UTF-8" in failed(folder)["caf\\xe9.mp4"]
        with pytest.raises(ConfigError, match=r"caf\\xe9\.mp4: the path is not UTF-8"):
            names(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4"))

    def test_what_is_named_and_is_no_file_is_refused(self, folder):
        os.mkfifo(folder / "pipe.mp4")
        with pytest.raises(ConfigError, match=r"no videos at .*pipe\.mp4: a pipe, expected a file"):
            names(folder / "pipe.mp4")

    def test_folders_deeper_than_python_calls_go(self, open_place):
        deep = open_place
        for _ in range(1200):
            deep = deep / "d"
            deep.mkdir()
        (deep / "a.mp4").touch()
        try:
            assert names(open_place) == ["a.mp4"]
        finally:
            (deep / "a.mp4").unlink()
            while deep != open_place:
                deep.rmdir()
                deep = deep.parent


class TestNames:
    NAMES = ["a b.mp4", "ünï 日本.mp4", "line\nbreak.mp4", "x..y.mp4", "%2F.mp4", "#1.mp4", "who?.mp4", "*.mp4",
             "[1].mp4", "\\.mp4", "~.mp4", " .mp4", "ä" * 125 + ".mp4"]  # fmt: skip

    @pytest.fixture
    def folder(self, tmp_path):
        for name in self.NAMES:
            (tmp_path / name).touch()
        return tmp_path

    def test_any_name_is_listed_as_it_is(self, folder):
        assert sorted(names(folder)) == sorted(self.NAMES)
        assert not failed(folder)

    @pytest.mark.parametrize("name", NAMES)
    def test_an_existing_name_is_literal(self, folder, name):
        assert names(folder / name) == [name]

    def test_an_existing_folder_is_literal_in_front_of_a_pattern(self, tmp_path):
        for name in ("show [2019]/a.mp4", "show 2/b.mp4", "show [2019]/c.mkv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert names(tmp_path / "show [2019]/*.mp4") == ["a.mp4"]
        assert names(tmp_path / "show [2019]") == ["a.mp4", "c.mkv"]
        assert names(tmp_path / "show [0-9]/*") == ["b.mp4"]

    def test_a_pattern_looks_nowhere_else(self, tmp_path, caplog):
        (tmp_path / "2026-01").mkdir()
        (tmp_path / "2026-01" / "a.mp4").touch()
        (tmp_path / "2025").symlink_to(tmp_path / "unmounted")
        assert names(tmp_path / "2026-0*" / "*.mp4") == ["a.mp4"]
        assert not caplog.records

    def test_a_pattern_that_is_none(self, tmp_path):
        with pytest.raises(ConfigError, match=r"not a pattern .*`\*\*` stands for any folders"):
            names(tmp_path / "a**b")


def test_nothing_found_names_what_lies_there_instead(tmp_path):
    with pytest.raises(ConfigError, match=rf"no videos at {tmp_path}: it holds no file, expected .*\.mp4"):
        names(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(
        ConfigError, match=r"looked at 2 other files for .*, the first was .*a\.jpg; check the path"
    ):
        names(tmp_path)
    with pytest.raises(ConfigError, match=r"looked at 2 other files for a match"):
        names(tmp_path / "*.mp4")


def test_nothing_is_said_about_a_good_folder(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="pipeline")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == ["a.mp4"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("videos", "out"),
    [
        ("in", "in"),
        ("in", "in/out"),
        ("in/", "in/deep/../out/"),
        ("link", "in/out"),
        ("in", "link/out"),
        ("s3://b/in", "s3://b/in/"),
        ("s3://b", "s3://b/out"),
        ("s3://b/in/", "s3://b/in/out"),
    ],
)
def test_results_inside_the_videos_are_refused(tmp_path, monkeypatch, videos, out):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("link").symlink_to("in")
    with pytest.raises(ConfigError, match=r"give OUT a place of its own"):
        listing.check_apart(videos, out)


@pytest.mark.parametrize(
    ("videos", "out"),
    [
        ("in", "in2"),
        ("in/videos", "in"),
        ("in/*.mp4", "in/out"),
        ("in.csv", "in.csv.d"),
        ("s3://b/in", "s3://b/in2"),
    ],
)
def test_results_beside_the_videos_are_not(tmp_path, monkeypatch, videos, out):
    monkeypatch.chdir(tmp_path)
    listing.check_apart(videos, out)
