"""Some files of a table are replaced by one file with the same rows; no reader of ours takes a row twice or misses one.

    OUT/_compact/swap.json     the swap under way or, without tables, the number of the last one
                 staging/      merged files that are not in a table yet

Neither a disk nor a bucket replaces several files at once. So the swap is written down first, with the names of the
old files and of the new one (one atomic put: from here on it counts); then the new file is moved into its table and the
old ones are deleted. Cut short anywhere, it is done again to its end by the next run or compaction: every step can be
repeated.

A reader asks for the note, lists the table, and asks for the note again. If it is the same, then only that swap can
have been half done while the table was listed, and its old files are left out where its new file is there. If it is
not, the reader lists again; and if neither the new file nor all old ones are there: a listing is no picture of one
moment, files came and went while it was made. Files that a reader has listed and not read yet may be gone when it comes
to them: its read fails, it is never wrong.

Readers of other projects, which only list a table, see the rows of one swap twice for the time of one copy and one
delete. They never miss a row.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import store, store_bulk
from pipeline.errors import StoreError

FOLDER = "_compact"
TRIES = 50
"""Listings that a swap may overtake. Between two swaps a hundred megabytes are written."""


def staging(out: str) -> str:
    """Return the folder of merged files that are not in a table yet."""
    return store.join(out, FOLDER, "staging")


def staged_file(out: str, table: str, name: str) -> str:
    """Return where a merged file of a table is written."""
    return store.join(staging(out), f"{table}.{name}")


def table_files(out: str, table: str) -> list[str]:
    """Return the files of a table, sorted, so that each committed row is in one of them.

    Raises:
        StoreError: the folder cannot be listed, or changes all the time.
    """
    for _ in range(TRIES):
        before = _read(out)
        listed = store.list_files(store.join(out, table), missing_ok=True)
        files = [entry.uri for entry in listed if entry.uri.endswith(".parquet")]
        note = json.loads(before) if before else {}
        if _read(out) == before and (current := _current(store.join(out, table), files, note)) is not None:
            return current
    msg = f"{store.join(out, table)} is being compacted faster than it can be listed; try again when that is over"
    raise StoreError(msg)


def replace(
    out: str, name: str, old: Mapping[str, Sequence[str]], check: Callable[[], None] = lambda: None
) -> None:
    """Replace files of each table by its staged file of that name, which holds their rows.

    Args:
        out: output folder; no other swap is under way, and nobody else writes there.
        name: of the new file, the same in every table.
        old: names of the files that go, per table.
        check: raises when the folder is not held any more. It is asked when the swap is written down, too: a write
            may take longer than a lease lasts, and who holds the folder then does the rest.

    Raises:
        JobError: what `check` raises.
        StoreError: the folder cannot be written; then the swap does not count, or `finish` does the rest.
    """
    note = {
        "swap": _number(out) + 1,
        "name": name,
        "tables": {table: list(names) for table, names in old.items()},
    }
    check()
    store.write_bytes(_uri(out), json.dumps(note).encode())
    check()
    _apply(out, note)


def finish(out: str) -> None:
    """Do what is left of a swap that was cut short, and forget the last one; without any, nothing happens.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    found = _read(out)
    note = json.loads(found) if found else None
    if note and note["tables"]:
        _apply(out, note)
        store.write_bytes(_uri(out), json.dumps({"swap": note["swap"], "tables": {}}).encode())


def _apply(out: str, note: Mapping[str, Any]) -> None:
    for table in note["tables"]:
        store.move(staged_file(out, table, note["name"]), store.join(out, table, note["name"]))
    for table, names in note["tables"].items():
        store_bulk.delete_all([store.join(out, table, name) for name in names])
    for table in note["tables"]:
        store.settle(store.join(out, table))  # before the note that hides the old files is forgotten


def _current(folder: str, files: list[str], note: Mapping[str, Any]) -> list[str] | None:
    """Return the files of a table without those that the swap under way has replaced by one that is there.

    None = some of the old ones were missed, and the new one too.
    """
    names = note.get("tables", {}).get(folder.rpartition("/")[2], [])
    old = {store.join(folder, name) for name in names}
    if old and store.join(folder, note["name"]) in files:
        return [uri for uri in files if uri not in old]
    return files if old.issubset(files) else None


def _uri(out: str) -> str:
    return store.join(out, FOLDER, "swap.json")


def _read(out: str) -> bytes | None:
    return store.read_if_there(_uri(out))


def _number(out: str) -> int:
    found = _read(out)
    return json.loads(found)["swap"] if found else 0
