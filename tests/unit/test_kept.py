"""What is kept on the disk comes back whole or not at all."""

import os
import tempfile
import threading
from pathlib import Path

import pytest

from pipeline import kept

BLOCKS = [(0, b"head" * 10), (5000, b"\n\x00tail")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"reelsift-kept-{os.getuid()}"


def test_blocks_come_back() -> None:
    assert kept.load("v-1") == []
    kept.save("v-1", BLOCKS)
    assert kept.load("v-1") == BLOCKS
    assert kept.load("v-2") == []


def test_the_folder_is_this_users_alone(here: Path) -> None:
    kept.save("v-1", BLOCKS)
    assert here.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in here.iterdir()] == ["v-1"]


@pytest.mark.parametrize("length", [0, 10, 31, 32, 40, -1])
def test_a_torn_file_is_not_used(here: Path, length: int) -> None:
    kept.save("v-1", BLOCKS)
    data = (here / "v-1").read_bytes()
    (here / "v-1").write_bytes(data[:length])
    assert kept.load("v-1") == []


@pytest.mark.parametrize("at", [0, 33, 50, -1])
def test_a_changed_file_is_not_used(here: Path, at: int) -> None:
    kept.save("v-1", BLOCKS)
    data = bytearray((here / "v-1").read_bytes())
    data[at] ^= 1
    (here / "v-1").write_bytes(data)
    assert kept.load("v-1") == []


def test_the_file_of_another_video_is_not_used(here: Path) -> None:
    kept.save("v-1", BLOCKS)
    (here / "v-1").rename(here / "v-2")
    assert kept.load("v-2") == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_not_used(here: Path, mode: int) -> None:
    kept.save("v-1", BLOCKS)
    here.chmod(mode)
    assert kept.folder() is None
    assert kept.load("v-1") == []
    kept.save("v-2", BLOCKS)
    assert not (here / "v-2").exists()


def test_a_folder_that_is_a_link_or_a_file_is_not_used(here: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    here.symlink_to(tmp_path / "elsewhere")
    assert kept.folder() is None
    here.unlink()
    here.write_bytes(b"")
    here.chmod(0o600)
    assert kept.folder() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(here: Path) -> None:
    kept.save("v-1", BLOCKS)
    os.chown(here, 12345, 12345)
    assert kept.load("v-1") == []


def test_no_folder_for_temporary_files_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    kept.save("v-1", BLOCKS)
    assert kept.load("v-1") == []


def test_a_large_header_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_FILE_BYTES", 40)
    kept.save("v-1", BLOCKS)
    assert kept.load("v-1") == []


def test_no_folder_to_be_had_at_all_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    kept.save("v-1", BLOCKS)
    assert kept.load("v-1") == []


def test_the_folder_is_looked_through_now_and_then_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or scan(path))
    monkeypatch.setattr(kept, "_left_bytes", 0)
    for number in range(300):
        kept.save(f"v-{number}", BLOCKS)
    assert looks == [here] * 3


def test_the_longest_unused_make_room(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        kept.save(f"v-{number}", [(0, bytes(1000))])
        os.utime(here / f"v-{number}", (number, number))
    assert kept.load("v-0")
    monkeypatch.setattr(kept, "MAX_FOLDER_BYTES", 2500)
    monkeypatch.setattr(kept, "_left_bytes", 0)
    kept.save("v-9", [(0, bytes(1000))])
    assert sorted(path.name for path in here.iterdir()) == ["v-0", "v-9"]


def test_many_write_the_same_and_none_reads_half() -> None:
    contents = [[(0, bytes([number]) * 200_000)] for number in range(4)]
    threads = [
        threading.Thread(target=lambda blocks=blocks: [kept.save("v-1", blocks) for _ in range(10)])
        for blocks in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert kept.load("v-1") in [[], *contents]
    assert kept.load("v-1") in contents


def test_reads_are_merged() -> None:
    assert kept.merged([(5, b"fgh"), (0, b"abc"), (3, b"de"), (20, b"x"), (4, b"ef")]) == [
        (0, b"abcdefgh"),
        (20, b"x"),
    ]
    assert kept.merged([(0, b"abcdef"), (2, b"c")]) == [(0, b"abcdef")]
