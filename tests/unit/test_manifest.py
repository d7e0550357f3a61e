import csv
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.listing import list_videos, version

FORMATS = (".parquet", ".csv", ".txt")


def write(path, uris, **columns):
    """Write a manifest in the format of its suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"uri": uris, **columns}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["uri", *columns], *zip(uris, *columns.values(), strict=True)])
    else:
        path.write_text("".join(f"{uri}\n" for uri in uris))
    return path


def found(path):
    return list(list_videos(str(path)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.bin", "c d,.mp4"):
        (tmp_path / "clips" / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture(params=FORMATS)
def manifest(request, folder):
    """Return a writer of manifests in every format."""
    return lambda uris, **columns: write(folder / f"list{request.param}", uris, **columns)


class TestRead:
    def test_files_come_in_the_manifests_order_as_listing_knows_them(self, manifest, folder):
        path = manifest(["clips/b.bin", f"{folder}/clips/a.mp4", "./clips/../clips/c d,.mp4"])
        rows = found(path)
        assert [row["uri"] for row in rows] == [
            f"{folder}/clips/{name}" for name in ("b.bin", "a.mp4", "c d,.mp4")
        ]
        assert [row["size_bytes"] for row in rows] == [5, 5, 8]
        listed = {row["uri"]: row for row in list_videos(str(folder / "clips"))}
        assert rows[1] == listed[rows[1]["uri"]]

    def test_what_cannot_be_had_is_one_failed_row_each(self, manifest, folder):
        uris = [
            "clips/gone.mp4",
            "clips",
            "gs://b/x.mp4",
            "s3://b",
            "s3://b/",
            "clips/a.mp4/x",
            "x" * 300,
        ]
        os.mkfifo(folder / "pipe.mp4")
        rows = found(manifest([*uris, "pipe.mp4", "clips/a.mp4"]))
        assert [row["error_type"] for row in rows] == ["ProbeError"] * 8 + [""]
        words = [
            "no such file or folder", "a folder, expected a file", "cannot read gs://",
            "a folder, expected a file", "a folder, expected a file", "Not a directory", "File name too long",
            "a pipe, expected a file",
        ]  # fmt: skip
        for row, expected in zip(rows, words, strict=False):
            assert expected in row["error_message"]
            assert row["error_message"].startswith(row["uri"])
            assert f"({folder}/list." in row["error_message"]
            assert (row["size_bytes"], row["etag"]) == (0, "")

    def test_a_file_named_twice_is_one_row_and_said(self, manifest, folder, caplog):
        rows = found(manifest(["clips/a.mp4", "clips/b.bin", f"{folder}/clips/a.mp4", "clips//a.mp4"]))
        assert [row["uri"].rpartition("/")[2] for row in rows] == ["a.mp4", "b.bin"]
        assert "2 rows name a file that a row before them names" in caplog.text

    def test_more_rows_than_are_held_at_once_keep_their_order(self, manifest, folder):
        uris = [f"{folder}/clips/{'a.mp4' if n == 1500 else n}" for n in range(2500)]
        rows = found(manifest(uris))
        assert [row["uri"] for row in rows] == uris
        assert [n for n, row in enumerate(rows) if not row["error_type"]] == [1500]

    def test_rows_come_before_the_manifest_ends(self, manifest):
        path = manifest([f"clips/{n}.mp4" for n in range(5000)])
        rows = list_videos(str(path))
        assert next(rows)["uri"].endswith("/clips/0.mp4")
        rows.close()

    def test_an_empty_one_is_refused(self, manifest):
        with pytest.raises(ConfigError, match=r"list\.\w+: names no video"):
            found(manifest(pa.array([], pa.string())))


class TestKnown:
    """What a manifest says of size and ETag is believed until the file is read."""

    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_size_and_etag_spare_the_look_up(self, folder, suffix):
        path = write(
            folder / f"list{suffix}", ["s3://no/one.mp4", "gone.mp4"], size_bytes=[7, 8], etag=["e1", '"e2"']
        )
        rows = found(path)
        assert [(row["size_bytes"], row["etag"], row["error_type"]) for row in rows] == [
            (7, "e1", ""),
            (8, "e2", ""),
        ]
        assert rows[0]["version"] == version(7, "e1")

    @pytest.mark.parametrize(
        ("sizes", "etags"),
        [([None, 8], ["x", None]), ([float("nan"), 8.0], ["x", ""]), (["", "8"], ["x", ""])],
    )
    def test_a_row_without_one_of_them_is_looked_up(self, folder, sizes, etags):
        path = write(folder / "list.parquet", ["clips/a.mp4", "gone.mp4"], size_bytes=sizes, etag=etags)
        good, gone = found(path)
        assert (good["size_bytes"], good["error_type"]) == (5, "")
        assert "no such file" in gone["error_message"]

    def test_floats_and_numbers_for_etags_are_understood(self, folder):
        path = write(folder / "list.parquet", ["a", "b"], size_bytes=[5.0, float("nan")], etag=[17, 18])
        rows = found(path)
        assert (rows[0]["size_bytes"], rows[0]["etag"]) == (5, "17")

    @pytest.mark.parametrize("size", ["12 MB", "-1", "1.5", str(2**63)])
    def test_a_size_that_is_none_fails_alone(self, folder, size):
        path = write(folder / "list.csv", ["a.mp4", "b.mp4"], size_bytes=[size, 9], etag=["e", "e"])
        bad, good = found(path)
        assert f"size_bytes is '{size}' in line 2, expected a whole number" in bad["error_message"]
        assert good["error_type"] == ""

    def test_texts_may_be_encoded_as_a_dictionary(self, folder):
        path = folder / "list.parquet"
        pq.write_table(pa.table({"uri": pa.array(["clips/a.mp4"] * 2).dictionary_encode()}), path)
        assert [row["size_bytes"] for row in found(path)] == [5]


class TestRefused:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_without_its_column(self, folder, suffix):
        path = folder / f"list{suffix}"
        table = pa.table({"path": ["a"], "bytes": [1]})
        pq.write_table(table, path) if suffix == ".parquet" else path.write_text("path,bytes\na,1\n")
        with pytest.raises(
            ConfigError, match=rf"{path}: found the columns 'path', 'bytes', expected one called 'uri'"
        ):
            found(path)

    def test_a_column_of_another_type(self, folder):
        pq.write_table(pa.table({"uri": [1, 2]}), folder / "list.parquet")
        with pytest.raises(ConfigError, match="column uri holds int64, expected string"):
            found(folder / "list.parquet")

    @pytest.mark.parametrize("suffix", [".txt", ".csv"])
    @pytest.mark.parametrize("content", [b"uri\ncaf\xe9.mp4\n", b"\x00\x00\x00\x20ftypisom\xff\xfe" * 99])
    def test_what_is_not_utf8(self, folder, suffix, content):
        path = folder / f"clip{suffix}"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{path}: .*is not UTF-8.* rename it if it is a video"):
            found(path)

    @pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"\x00" * 99 + b"PAR1"])
    def test_what_is_not_parquet(self, folder, content):
        (folder / "list.parquet").write_bytes(content)
        with pytest.raises(ConfigError, match=r"list\.parquet: not a Parquet file"):
            found(folder / "list.parquet")

    def test_csv_that_is_none(self, folder):
        (folder / "list.csv").write_text('uri\n"a.mp4\n')
        with pytest.raises(ConfigError, match=r"list\.csv, line \d: not CSV"):
            found(folder / "list.csv")

    @pytest.mark.parametrize("name", ["gone.csv", "clips/gone.parquet"])
    def test_what_is_not_there(self, folder, name):
        with pytest.raises(ConfigError, match="there is no such file or folder"):
            found(folder / name)


class TestText:
    def test_blank_lines_comments_and_marks(self, folder):
        path = folder / "list.txt"
        path.write_bytes("\ufeffclips/a.mp4\r\n\r\n  \n# a comment\nclips/b.bin".encode())
        assert [row["uri"].rpartition("/")[2] for row in found(path)] == ["a.mp4", "b.bin"]

    def test_only_comments_is_empty(self, folder):
        (folder / "list.txt").write_text("# later\n")
        with pytest.raises(ConfigError, match="names no video"):
            found(folder / "list.txt")

    def test_cells_without_a_uri_are_rows_that_say_where(self, folder):
        (folder / "list.csv").write_text("n, uri\n1,\n2,clips/c d,.mp4\n\n3,clips/a.mp4\n")
        empty, torn, good = found(folder / "list.csv")
        assert (empty["uri"], empty["error_type"]) == (f"{folder}/list.csv#line 2", "ProbeError")
        assert "3 cells under a header of 2; quote" in torn["error_message"]
        assert torn["uri"].endswith("list.csv#line 3")
        assert good["error_type"] == ""
        write(folder / "list.parquet", pa.array([None, "clips/a.mp4"]))
        empty, good = found(folder / "list.parquet")
        assert empty["uri"].endswith("list.parquet#row 1")

    def test_names_with_glob_characters_are_literal(self, folder):
        for name in ("x*.mp4", "[x].mp4"):
            (folder / name).touch()
        rows = found(write(folder / "list.txt", ["x*.mp4", "[x].mp4"]))
        assert [row["error_type"] for row in rows] == ["", ""]

    def test_a_folder_with_the_name_of_a_manifest_is_walked(self, folder):
        (folder / "clips").rename(folder / "clips.csv")
        assert len(found(folder / "clips.csv")) == 2

    def test_a_pattern_is_no_manifest(self, folder):
        (folder / "clip.txt").touch()
        assert [row["uri"] for row in found(folder / "*.txt")] == [f"{folder}/clip.txt"]
