"""Whatever a file is called: it is listed once, and a manifest that can hold its name gives it back."""

import csv
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.listing import list_videos

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\x00")
NAMES = st.text(CHARACTERS, min_size=1, max_size=60)
KEYS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=200),
                min_size=1, max_size=20, unique=True)  # fmt: skip


@given(st.lists(NAMES.filter(lambda name: not name.startswith(".")), min_size=1, max_size=8, unique=True))
def test_every_name_is_listed_once_with_a_version(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, f"{name}.mp4").touch()
        rows = list(list_videos(folder))
        assert sorted(row["uri"] for row in rows) == sorted(f"{folder}/{name}.mp4" for name in names)
        assert all(len(row["version"]) == 12 and not row["error_type"] for row in rows)
        for row in rows:
            assert list(list_videos(row["uri"])) == [row], "named alone, a pattern's characters are literal"


@given(st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & set(b"/\x00")))
def test_any_bytes_for_a_name_are_one_row(name):
    with tempfile.TemporaryDirectory() as folder:
        os.close(os.open(os.fsencode(folder) + b"/n" + name + b".mp4", os.O_CREAT))
        [row] = list_videos(folder)
        assert row["uri"].encode()
        assert len(row["version"]) == 12


@given(KEYS, st.sampled_from([".csv", ".parquet"]))
def test_a_table_of_uris_comes_back(keys, suffix):
    uris = [f"s3://bucket/{key}" for key in keys]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"list{suffix}")
        if suffix == ".parquet":
            pq.write_table(
                pa.table({"uri": uris, "size_bytes": [1] * len(uris), "etag": ["e"] * len(uris)}), path
            )
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["uri", "size_bytes", "etag"], *([uri, 1, "e"] for uri in uris)])
        assert [row["uri"] for row in list_videos(str(path))] == uris


@given(st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_a_list_of_names_comes_back(names):
    held = [f"n{name}" for name in names if "\n" not in name and not name.endswith("\r")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.txt")
        path.write_text("".join(f"{name}\n" for name in ["#", *held, "end"]), encoding="utf-8", newline="")
        assert [row["uri"] for row in list_videos(str(path))] == [
            f"{folder}/{name}" for name in [*held, "end"]
        ]
