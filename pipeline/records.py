"""Commit records of a run: one small file per part while it runs, one file for all of them when it is over.

    commits/<part_id>.json     one commit, written by the driver (ledger.py)
    commits/all.jsonl          those of a closed run that was compacted, one line each (compact.py)

Folding writes the one file whole, then deletes the many; whoever reads in between finds a record twice and takes it
once.
"""

import json
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from pipeline import store, store_bulk

Record = dict[str, Any]
FOLDED = "all.jsonl"
AT_ONCE, BATCH = 16, 256
"""Records that are read at the same time, and between two looks at what was asked for: a run of a million windows has
ten thousand and more, and a bucket takes some 30 ms for each."""


def read(folder: str, known: Container[str] = ()) -> Iterator[Record]:
    """Yield each record of a folder once; parts whose id is among the known ones are left out, single ones unread.

    Raises:
        StoreError: the folder cannot be read.
    """
    seen: set[str] = set()
    yield from (record for record in _folded(folder, seen) if record["part_id"] not in known)
    if seen:
        return  # single ones beside it are in it
    wanted = (uri for uri in _single(folder) if uri.rpartition("/")[2].removesuffix(".json") not in known)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="records") as pool:
        while some := list(islice(wanted, BATCH)):
            for content in filter(None, pool.map(store.read_if_there, some)):
                record: Record = json.loads(content)
                seen.add(record["part_id"])
                yield record
    # what was folded meanwhile
    yield from (record for record in _folded(folder, seen) if record["part_id"] not in known)


def fold(folder: str) -> int:
    """Bring the records of a closed run into one file; return how many files are gone.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    single = list(_single(folder))
    if len(single) < 2:
        return 0
    with store_bulk.write_stream(store.join(folder, FOLDED)) as file:
        for record in read(folder):
            file.write(json.dumps(record).encode() + b"\n")
    store_bulk.delete_all(single)
    return len(single)


def _single(folder: str) -> Iterator[str]:
    for entry in store.list_files(folder, missing_ok=True):
        if entry.uri.endswith(".json"):
            yield entry.uri


def _folded(folder: str, seen: set[str]) -> Iterator[Record]:
    uri = store.join(folder, FOLDED)
    if not store.exists(uri):
        return
    with store.open_stream(uri) as file:
        for line in file:
            record: Record = json.loads(line)
            if record["part_id"] not in seen:
                seen.add(record["part_id"])
                yield record
