"""Work that is cut into named parts, one Parquet file each: what is there is not done again.

A part's name stands for everything it depends on, so a run that was killed, or that has more to do than the last one,
does what is missing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.training.tables import STATES
from pipeline import rows, store
from pipeline.rows import Row

ROWS_PER_GROUP = 4
"""Rows that can be read by themselves: one with the states of many frames is large."""


def name_of(*values: Any) -> str:
    """Return 16 hex digits over values of JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def uri_of(folder: str, part: str) -> str:
    """Return the file of a part."""
    return store.join(folder, f"{part}.parquet")


def names(folder: str) -> set[str]:
    """Return the parts that are there."""
    files = store.list_files(folder, missing_ok=True)
    return {
        file.uri.rpartition("/")[2].removesuffix(".parquet")
        for file in files
        if file.uri.endswith(".parquet")
    }


def write(folder: str, table: pa.Table) -> pa.Table:
    """Write the parts that a table holds, each whole or not at all; return one row per part with its counts."""
    done: list[Row] = []
    named: list[str] = table.column("part").to_pylist()
    for part in dict.fromkeys(named):
        mine = table.filter(pa.array([name == part for name in named]))
        file = pa.BufferOutputStream()
        pq.write_table(mine, file, compression="zstd", row_group_size=ROWS_PER_GROUP)
        store.write_bytes(uri_of(folder, part), file.getvalue().to_pybytes())
        failed = sum(bool(error) for error in mine.column("error_type").to_pylist())
        done.append({"part": part, "rows": mine.num_rows, "failed": failed})
    return rows.to_table(done, DONE)


DONE = pa.schema([("part", pa.string()), ("rows", pa.int64()), ("failed", pa.int64())])


def read(folder: str, part: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a part, or some of its columns; no others are fetched."""
    if not columns:
        return pq.read_table(pa.BufferReader(store.read_bytes(uri_of(folder, part))))
    with store.open_stream(uri_of(folder, part)) as file:
        return pq.read_table(file, columns=list(columns))


def groups(folder: str, part: str) -> Iterator[pa.Table]:
    """Yield the tables of a part's row groups: one of them is in memory at once."""
    with store.open_stream(uri_of(folder, part)) as file:
        parquet = pq.ParquetFile(file)
        for number in range(parquet.num_row_groups):
            yield parquet.read_row_group(number)


def scan(folder: str, parts: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of parts, part by part."""
    for part in parts:
        yield from rows.to_rows(read(folder, part, columns))


def read_states(folder: str, head: str, split: str, table: pa.Table) -> Iterator[pa.Table]:
    """Yield the states of one head and split that some parts hold, a few rows at a time; for Ray Data's map_batches."""
    yield STATES.empty_table()  # also where there are none
    for part in table.column("part").to_pylist():
        for group in groups(folder, part):
            columns = (group.column(name).to_pylist() for name in ("head", "split", "error_type"))
            wanted = [values == (head, split, "") for values in zip(*columns, strict=True)]
            if any(wanted):
                yield group.filter(pa.array(wanted)).cast(STATES)
