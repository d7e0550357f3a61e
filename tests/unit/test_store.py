"""The store on a local disk; buckets are tested against a real server in tests/integration/test_s3_store.py."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import folders, store
from pipeline.errors import ConfigError, StoreError


def test_join_keeps_what_the_user_wrote() -> None:
    assert store.join("s3://b/", "/x/", "y") == "s3://b/x/y"
    assert store.join("./out", "videos") == "./out/videos"
    assert store.join("/", "x") == "/x"


def test_bytes_come_back_and_no_temporary_file_stays(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "folder" / "file.bin")
    store.write_bytes(uri, b"first")
    store.write_bytes(uri, b"second")
    assert store.read_bytes(uri) == b"second"
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file")
    store.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*file: No space left on device"):
        store.write_bytes(uri, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert store.read_bytes(uri) == b"old"


@pytest.mark.parametrize("when", ["its parent is made", "it is found to be there", "it is made"])
def test_a_folder_that_another_command_tidies_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """As it is when one driver gives an empty output folder back while the next one takes it."""
    folder, make, open_file, num_tidied = tmp_path / "out" / "lease", os.mkdir, Path.open, 0
    if when == "it is found to be there":
        folder.mkdir(parents=True)

    def tidy() -> None:
        nonlocal num_tidied
        if num_tidied < 3:
            num_tidied += 1
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            folder.parent.rmdir()

    def meets_at_making(path: Path, mode: int = 0o777) -> None:
        if Path(path) == folder and folder.parent.exists() and when == "its parent is made":
            tidy()
        try:
            make(path, mode)
        except FileExistsError:
            tidy()
            raise

    def meets_at_opening(path: Path, *arguments: Any) -> Any:
        if path.parent == folder and when == "it is made":
            tidy()
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "mkdir", meets_at_making)
    monkeypatch.setattr(Path, "open", meets_at_opening)
    store.write_bytes(str(folder / "f"), b"x")
    assert store.read_bytes(str(folder / "f")) == b"x"
    assert num_tidied == (1 if when == "it is found to be there" else 3)


def test_a_table_comes_back_compressed(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3]})
    store.write_table(str(tmp_path / "t" / "p.parquet"), table)
    file = pq.ParquetFile(tmp_path / "t" / "p.parquet")
    assert file.read().equals(table)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_of_wide_rows_are_small_and_pages_are_checked(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).random((2000, 1000), np.float32)
    store.write_table(str(tmp_path / "wide"), pa.table({"n": range(2000), "e": list(embeddings)}))
    about = pq.ParquetFile(tmp_path / "wide").metadata
    sizes = [about.row_group(number).num_rows * 4008 for number in range(about.num_row_groups)]
    assert max(sizes) <= store.GROUP_BYTES
    assert (tmp_path / "wide").stat().st_size < 1.05 * sum(sizes)
    assert len(sizes) == 4
    store.write_table(str(tmp_path / "narrow"), pa.table({"n": range(2000)}))
    assert pq.ParquetFile(tmp_path / "narrow").metadata.num_row_groups == 1
    data = bytearray((tmp_path / "wide").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "wide").write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(tmp_path / "wide", page_checksum_verification=True).read()


def test_a_move_and_a_delete_can_be_repeated(tmp_path: Path) -> None:
    source, target = str(tmp_path / "staging" / "p"), str(tmp_path / "answers" / "p")
    store.write_bytes(source, b"rows")
    store.move(source, target)
    store.move(source, target)
    assert store.read_bytes(target) == b"rows"
    assert not store.exists(source)
    store.delete(target)
    store.delete(target)
    assert not store.exists(target)
    with pytest.raises(StoreError, match=r"cannot move .*staging/p: no such file or folder"):
        store.move(source, target)


def test_listing_is_recursive_and_in_the_order_of_a_bucket(tmp_path: Path) -> None:
    names = ["a-b.mp4", "a/b.mp4", "a/é.mp4", "a.mp4", "a0.mp4", "z/y/x.mp4"]
    for name in names:
        store.write_bytes(str(tmp_path / name), name.encode())
    (tmp_path / "empty").mkdir()
    entries = list(store.list_files(str(tmp_path)))
    assert [entry.uri for entry in entries] == [
        f"{tmp_path}/{name}" for name in sorted(names, key=str.encode)
    ]
    assert [entry.size_bytes for entry in entries] == [
        len(name.encode()) for name in sorted(names, key=str.encode)
    ]
    assert [entry.uri for entry in store.list_files(str(tmp_path / "a.mp4"))] == [str(tmp_path / "a.mp4")]
    assert list(store.list_files(str(tmp_path / "empty"))) == []


def test_an_etag_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    before = next(store.list_files(str(tmp_path))).etag
    path.write_bytes(b"two")
    assert next(store.list_files(str(tmp_path))).etag != before == "1"


def test_relative_folders_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store.write_bytes("out/x", b"")
    assert [entry.uri for entry in store.list_files("out/")] == ["out/x"]


def test_links_are_followed_once_and_odd_files_are_left_out(tmp_path: Path) -> None:
    store.write_bytes(str(tmp_path / "real" / "v.mp4"), b"")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    found = {entry.uri.removeprefix(f"{tmp_path}/") for entry in store.list_files(str(tmp_path))}
    assert found == {"link/v.mp4", "real/v.mp4"}


def test_a_name_that_is_not_utf8_is_listed_as_text_that_can_be_written(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "wb"):  # noqa: PTH123 - pathlib has no bytes
        pass
    (entry,) = store.list_files(str(tmp_path), strict=False)
    assert entry.uri == f"{tmp_path}/caf\\xe9.mp4"
    assert entry.uri.encode()
    assert "not UTF-8" in entry.trouble


def test_what_is_missing_or_in_the_way_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "no")
    with pytest.raises(StoreError, match=r"cannot list .*/no: no such file or folder"):
        list(store.list_files(missing))
    assert list(store.list_files(missing, missing_ok=True)) == []
    with pytest.raises(StoreError, match=r"cannot read .*/no: no such file or folder"):
        store.read_bytes(missing)
    store.write_bytes(missing, b"")
    assert not store.exists(missing + "/below")
    for below in ("/below", "/far/below"):
        with pytest.raises(
            StoreError, match=rf"cannot write .*/no{below}: /.*/no is a file, expected a folder; give"
        ):
            store.write_bytes(missing + below, b"")


def test_a_folder_that_goes_while_it_is_listed_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = folders._scan

    def late(folder: str, *args: Any) -> Any:
        Path(folder).rmdir()
        return scan(folder, *args)

    monkeypatch.setattr(folders, "_scan", late)
    going = tmp_path / "going"
    going.mkdir()
    assert list(store.list_files(str(going), missing_ok=True)) == []
    going.mkdir()
    with pytest.raises(StoreError, match=r"cannot list .*/going: no such file or folder"):
        list(store.list_files(str(going)))


def test_names_below_are_those_of_files_and_folders_there(tmp_path: Path) -> None:
    for name in ("b/c/d.txt", "b/e.txt", "a.txt"):
        store.write_bytes(str(tmp_path / name), b"x")
    assert store.names_below(str(tmp_path)) == ["a.txt", "b"]
    assert store.names_below(str(tmp_path / "nothing")) == []


def test_only_disks_and_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"gs://b/x: cannot read gs://"):
        store.open_fs("gs://b/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-private")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fs, path = store.open_fs("s3://b/x y")
    assert path == "b/x y"
    assert b"very-private" not in pickle.dumps(fs)
