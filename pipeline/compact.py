"""Small files of closed runs become files of 64 to 256 MiB, with the same rows.

What a run commits together is as large as its windows are; a run with little to do, or one of short videos, leaves
small files, and every reader pays for each. Here the files of a table are taken in the order of their names, large ones
left out, and brought together up to a target size. Files of answers/ and frames/ go together: what was committed in one
part lies in files of one name, before and after. A merged file is called after the newest run in it, and all in it were
written with the same columns.

Rows of a merged file are sorted by video, so that a reader of one video's rows reads few row groups, although parts
were written as windows came in. Memory holds a small share of the rows: they are cut into ranges of ids in a temporary
folder first.

Only closed runs are touched, so no part that recovery may still publish is ever in a merged file. swap.py says how
files are exchanged.
"""

import contextlib
import hashlib
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import ledger, records, rows, store, store_bulk, swap
from pipeline.config import SinkConfig
from pipeline.errors import JobError, StoreError
from pipeline.ledger import Run

logger = logging.getLogger(__name__)

TOGETHER = (("videos",), ("answers", "frames"), ("verdicts",))
"""Tables whose files of one name hold one part."""
MAX_FILES = 4096
"""In one merged file: their names are in one note."""
RANGE_BYTES, MAX_RANGES = 1 << 22, 32
"""Of old files, for one range of ids: the rows of one are sorted in memory."""
HELD_BYTES = 1 << 24
"""Of rows that are cut into ranges at a time, before compression."""
ORDER = ("video_id", "version", "start_s", "wanted_s", "query_id")
"""Columns that rows are sorted by, as far as a table has them."""
AHEAD, AHEAD_BYTES = 8, 1 << 26
"""Files, and bytes of files, that are fetched while others are written; a bucket answers after some 30 ms each."""
AFTER_RUN_S = 600.0
"""Seconds after which a run that has ended begins no further merge."""


@dataclass(frozen=True, slots=True)
class Group:
    """Small files that become one, of one name, in each table."""

    name: str
    old: Mapping[str, Mapping[str, int]]
    """Names and sizes in bytes of the files that go, per table."""
    schemas: Mapping[str, pa.Schema]


@dataclass(frozen=True, slots=True)
class Done:
    """What a compaction did."""

    files_before: int
    files_after: int
    """Of all tables."""
    merged_bytes: int
    """Of the files that were brought together."""
    records_folded: int
    is_complete: bool
    """Whether it was over before its time was."""


def compact(
    out: str, part_bytes: int, check: Callable[[], None] = lambda: None, *, until: float = float("inf")
) -> Done:
    """Merge the small files of all closed runs, and fold their commit records.

    Args:
        out: output folder that this process holds (lease.py).
        part_bytes: size that files are to have; smaller than half of it is small.
        check: raises when the folder is not held any more; called before files are exchanged.
        until: time of `time.monotonic()` from which nothing further is begun.

    Raises:
        JobError: what `check` raises.
        StoreError: the folder cannot be read or written. What was merged so far stays, the rest is as it was.
    """
    swap.finish(out)
    store_bulk.delete_all([entry.uri for entry in store.list_files(swap.staging(out), missing_ok=True)])
    files_before = sum(len(_sizes(out, table)) for table in rows.TABLES)
    merged_bytes, num_gone, is_complete = 0, 0, True
    for group in groups(out, part_bytes):
        if time.monotonic() > until:
            is_complete = False
            break
        for table in group.old:
            _merge(out, table, group)
        swap.replace(out, group.name, {table: list(sizes) for table, sizes in group.old.items()}, check)
        merged_bytes += sum(sum(sizes.values()) for sizes in group.old.values())
        num_gone += sum(len(sizes) - 1 for sizes in group.old.values())
    swap.finish(out)
    closed = [run for run_id in ledger.run_ids(out) if ledger.is_closed(run := Run(out, run_id))]
    folded = 0
    for run in closed:
        if is_complete := is_complete and time.monotonic() <= until:
            folded += records.fold(store.join(run.folder, "commits"))
    return Done(files_before, files_before - num_gone, merged_bytes, folded, is_complete)


def compact_after_run(out: str, settings: SinkConfig, check: Callable[[], None] = lambda: None) -> None:
    """Compact what finished runs left, if that is many small files; a failure is a warning: the run has ended well."""
    if not settings.compact_files:
        return
    part_bytes = settings.part_mb << 20
    try:
        sizes = [size for table in rows.TABLES for size in _sizes(out, table).values()]
        if sum(size < part_bytes // 2 for size in sizes) < settings.compact_files:
            return
        done = compact(out, part_bytes, check, until=time.monotonic() + AFTER_RUN_S)
    except JobError as error:
        logger.warning("small files were not merged: %s; `reelsift compact %s` tries it again", error, out)
        return
    rest = "" if done.is_complete else "; `reelsift compact` does the rest"
    logger.info("merged small files: %d became %d%s", done.files_before, done.files_after, rest)


def groups(out: str, part_bytes: int) -> Iterator[Group]:
    """Yield what is to be merged, in the order of names; holds the names and sizes of one table's files."""
    closed: dict[str, bool] = {}
    for tables in TOGETHER:
        sizes = {table: _sizes(out, table) for table in tables}
        schemas: dict[tuple[str, str], pa.Schema] = {}
        group = _Growing(tables)
        for name in sorted(set[str]().union(*sizes.values())):
            run_id = _run_id(name)
            if run_id not in closed:
                closed[run_id] = ledger.is_closed(Run(out, run_id))
            found = {table: of[name] for table, of in sizes.items() if name in of}
            if not closed[run_id] or max(found.values()) >= part_bytes // 2:
                continue
            for table in found:
                if (run_id, table) not in schemas:  # all files of a run were written with the same columns
                    schemas[run_id, table] = _schema(store.join(out, table, name))
            written = {table: schemas[run_id, table] for table in found}
            if not group.takes(written, part_bytes):
                yield from group.ready()
                group = _Growing(tables)
            group.add(name, found, written)
        yield from group.ready()


class _Growing:
    """A group that takes files until it is large."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.names: list[str] = []
        self.old: dict[str, dict[str, int]] = {table: {} for table in tables}
        self.schemas: dict[str, pa.Schema] = {}

    def takes(self, written: Mapping[str, pa.Schema], part_bytes: int) -> bool:
        """Return whether more of these columns belongs here."""
        largest = max(sum(sizes.values()) for sizes in self.old.values())
        alike = all(schema.equals(self.schemas.get(table, schema)) for table, schema in written.items())
        return alike and largest < part_bytes and len(self.names) < MAX_FILES

    def add(self, name: str, sizes: Mapping[str, int], written: Mapping[str, pa.Schema]) -> None:
        """Take the files of a name, with their sizes in bytes per table."""
        self.names.append(name)
        self.schemas.update(written)
        for table, num_bytes in sizes.items():
            self.old[table][name] = num_bytes

    def ready(self) -> Iterator[Group]:
        """Yield the group, if there is anything to bring together."""
        if len(self.names) > 1:
            digest = hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]
            name = f"{_run_id(self.names[-1])}-{'-'.join(self.old)}-merged-{digest}.parquet"
            yield Group(name, {table: sizes for table, sizes in self.old.items() if sizes}, self.schemas)


def _merge(out: str, table: str, group: Group) -> None:
    """Write the merged file of a table, staged.

    Raises:
        StoreError: a file cannot be read, is no Parquet, or the merged file cannot be written.
    """
    files = {store.join(out, table, name): num_bytes for name, num_bytes in group.old[table].items()}
    target = swap.staged_file(out, table, group.name)
    schema = group.schemas[table]
    with (
        store_bulk.write_stream(target) as file,
        pq.ParquetWriter(file, schema, **store.parquet_options(schema)) as writer,
    ):
        num_rows: list[int] = []
        for part in _sorted_ranges(files, schema, num_rows):
            writer.write_table(part, max(1, len(part) * store.GROUP_BYTES // max(1, part.nbytes)))
    found, expected = store.num_rows(target), sum(num_rows)
    if found != expected:
        msg = f"{target}: expected {expected} rows, found {found}; nothing was replaced, run it again"
        raise StoreError(msg)


def _sorted_ranges(files: Mapping[str, int], schema: pa.Schema, num_rows: list[int]) -> Iterator[pa.Table]:
    """Yield the rows of files by ranges of video ids, each sorted; one range is in memory at a time.

    `num_rows` gets the number of rows of each file.
    """
    count = min(MAX_RANGES, sum(files.values()) // RANGE_BYTES + 1)
    edges = ["", *(f"{256 * number // count:02x}" for number in range(1, count)), "~"]  # ids are hex digits
    by = [(name, "ascending") for name in ORDER if name in schema.names]
    with tempfile.TemporaryDirectory(prefix="reelsift-") as folder:
        paths = [Path(folder) / str(number) for number in range(count)]
        with contextlib.ExitStack() as opened:
            ranges = [opened.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths]
            for part in _row_groups(files, num_rows):
                for (low, high), kept in zip(pairwise(edges), ranges, strict=True):
                    kept.write_table(
                        part.filter((pc.field("video_id") >= low) & (pc.field("video_id") < high))
                    )
        for path in paths:
            with pa.ipc.open_stream(str(path)) as kept:
                yield kept.read_all().sort_by(by)


def _row_groups(files: Mapping[str, int], num_rows: list[int]) -> Iterator[pa.Table]:
    """Yield the rows of files in turn, many small row groups at a time."""
    held: list[pa.Table] = []
    held_bytes = 0
    for uri, content in _contents(files):
        with _readable(uri):
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            num_rows.append(file.metadata.num_rows)
            for number in range(file.num_row_groups):
                held.append(file.read_row_group(number))
                held_bytes += held[-1].nbytes
                if held_bytes >= HELD_BYTES:
                    yield pa.concat_tables(held)
                    held, held_bytes = [], 0
    if held:
        yield pa.concat_tables(held)


@contextlib.contextmanager
def _readable(uri: str) -> Generator[None]:
    try:
        yield
    except pa.ArrowException as error:
        msg = f"{uri} cannot be read as Parquet ({error}); it was not touched, nor what belongs to it. Move it away"
        raise StoreError(msg) from error


def _contents(files: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield each file with its bytes; some of the next are fetched meanwhile."""
    waiting: deque[tuple[str, int, Future[bytes]]] = deque()
    held_bytes = 0
    with ThreadPoolExecutor(AHEAD) as pool:
        for uri, num_bytes in files.items():
            while waiting and (held_bytes + num_bytes > AHEAD_BYTES or len(waiting) == 2 * AHEAD):
                first, size, content = waiting.popleft()
                yield first, content.result()
                held_bytes -= size
            waiting.append((uri, num_bytes, pool.submit(store.read_bytes, uri)))
            held_bytes += num_bytes
        while waiting:
            first, _, content = waiting.popleft()
            yield first, content.result()


def _sizes(out: str, table: str) -> dict[str, int]:
    """Return the size of each file of a table."""
    folder = store.join(out, table)
    listed = store.list_files(folder, missing_ok=True)
    return {
        entry.uri.removeprefix(f"{folder}/"): entry.size_bytes
        for entry in listed
        if entry.uri.endswith(".parquet")
    }


def _schema(uri: str) -> pa.Schema:
    with store.open_stream(uri) as file, _readable(uri):
        return pq.read_schema(file)


def _run_id(name: str) -> str:
    """Return the run that a file is called after."""
    return "-".join(name.split("-")[:2])
