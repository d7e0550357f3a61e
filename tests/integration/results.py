"""Reading results the way other tools do: pyarrow, no Ray."""

from pathlib import Path

import pyarrow.parquet as pq

from pipeline import store
from pipeline.folders import FileEntry

TIMING = {"run_id", "indexed", "decode_s", "score_s", "answer_s", "probe_s"}
"""Columns that say when, and by which run, a row and its window's frames came about."""


def read(out: Path, table: str) -> list[dict]:
    files = sorted((out / table).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def comparable(out: Path, table: str) -> list[str]:
    """Every row without run ids and timings, in a fixed order, as text: equal lists are equal bit for bit."""
    return sorted(repr({k: v for k, v in row.items() if k not in TIMING}) for row in read(out, table))


def written(out: Path | str) -> list[FileEntry]:
    """Return all that is in an output folder, but for who holds it: each command says that under a new number."""
    return [entry for entry in store.list_files(str(out)) if "/_run/lease/" not in entry.uri]
