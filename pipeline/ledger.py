"""What an output folder already holds, and how more is added exactly once.

    OUT/_run/lease/                                          who writes here (lease.py)
    OUT/_run/<run_id>/config.json queries.json versions.json   written when a run opens
                      routes.json                              what a model said of the questions, if one was asked
                      manifest/{files,windows}/*.parquet       what this run has to probe and to answer
                      staging/*.parquet                        written by workers, invisible to readers
                      commits/<part_id>.json                   the commit: from here on the part counts (records.py)
                      stats.json                               written last: the run is closed
                      recovered.json                           in its place, by the run after a crash

Committing a part is two steps by the driver: write the commit record (one atomic put), then move the staged
files into the tables. A crash between them is rolled forward by the next run; a crash before them leaves only
staged files, which the next run removes. So the tables hold each key once, whatever is killed when. Small files of
closed runs are merged later (compact.py, swap.py).
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline import config as settings
from pipeline import lease, records, rows, store, store_bulk, swap
from pipeline.config import JobConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.queries import Query
from pipeline.route import Asked, Route
from pipeline.rows import Row
from pipeline.windows import Keys, holds, key, sorted_keys

logger = logging.getLogger(__name__)

Models = dict[str, str]
"""What scores and answers, with its revision: two models under one name must not share an output folder."""
PART_ROWS = 4096
"""Rows per file of a manifest."""
FILE_NAME = "__filename"
"""What pyarrow calls the column that says which file a row comes from."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows [start, stop) of a Parquet file."""

    uri: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation of the job on one output folder."""

    out: str
    run_id: str

    @property
    def folder(self) -> str:
        """Folder of this run's own records."""
        return store.join(self.out, "_run", self.run_id)

    @property
    def staging(self) -> str:
        """Folder of files that are written and not committed."""
        return store.join(self.folder, "staging")

    @property
    def quarantine(self) -> str:
        """Where videos are written down that broke their decoder."""
        return store.join(self.folder, "quarantine")

    def manifest(self, of: str) -> str:
        """Folder of the list of what this run has to do: `files` to probe, `windows` to answer."""
        return store.join(self.folder, "manifest", of)


def check_folder(out: str, config: JobConfig, queries: Sequence[Query], models: Models) -> None:
    """Check an output folder against this job, reading only.

    Raises:
        ConfigError: the folder was written with other settings or models, or a query id was used for another
            question.
        StoreError: the folder cannot be read.
    """
    for run_id in run_ids(out):
        _check_same_job(out, run_id, config, queries, models)


def new_run_id() -> str:
    """Return a name that no other run has; names sort by time."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def open_run(out: str, config: JobConfig, queries: Sequence[Query], models: Models, run_id: str = "") -> Run:
    """Check the folder, which this process holds, against this job; mend what a crash left; return a new run.

    Raises:
        ConfigError, StoreError: see `check_folder`; or the folder cannot be written.
    """
    check_folder(out, config, queries, models)
    recover(out)
    return Run(out, run_id or new_run_id())


def start_run(
    run: Run, config: JobConfig, queries: Sequence[Query], models: Models, versions: dict[str, str]
) -> None:
    """Write down what a run is about to do: settings, models, questions, versions."""
    _write_json(store.join(run.folder, "queries.json"), [asdict(query) for query in queries])
    _write_json(store.join(run.folder, "versions.json"), versions)
    _write_json(store.join(run.folder, "config.json"), _describe_job(config, models))


def _describe_job(config: JobConfig, models: Models) -> dict[str, Any]:
    """Return what decides the results besides the questions."""
    return {
        "fingerprint": settings.fingerprint(config),
        "settings": settings.dump(config),
        "models": models,
    }


def write_routes(run: Run, routes: Mapping[Asked, Route]) -> None:
    """Write down what a model said of the questions of a run, so that no later run need ask it again."""
    found = [{"text": text, "kind": kind, **asdict(route)} for (text, kind), route in routes.items()]
    _write_json(store.join(run.folder, "routes.json"), found)


def read_routes(out: str, config: JobConfig, models: Models) -> dict[Asked, Route]:
    """Return what models said in runs with the same settings and models; the oldest word counts."""
    found: dict[Asked, Route] = {}
    job = _describe_job(config, models)
    for run_id in run_ids(out):
        folder = store.join(out, "_run", run_id)
        said = _read_json(store.join(folder, "routes.json"))
        old = _read_json(store.join(folder, "config.json")) if said else None
        if not old or (old["fingerprint"], old["models"]) != (job["fingerprint"], job["models"]):
            continue
        for row in said:
            route = Route(row["route"], row["confidence"], row["reason"])
            found.setdefault((row["text"], row["kind"]), route)
    return found


def run_ids(out: str) -> list[str]:
    """Return the runs recorded in an output folder, oldest first."""
    return [name for name in store.names_below(store.join(out, "_run")) if name != lease.FOLDER]


def _check_same_job(
    out: str, run_id: str, config: JobConfig, queries: Sequence[Query], models: Models
) -> None:
    """Raise ConfigError when an earlier run's settings or questions do not fit this job's."""
    folder = store.join(out, "_run", run_id)
    if next(store.list_files(store.join(folder, "commits"), missing_ok=True), None) is None:
        return  # it left nothing that this job could contradict
    old = _read_json(store.join(folder, "config.json"))
    new_job = _describe_job(config, models)
    if old["fingerprint"] != new_job["fingerprint"] or old["models"] != new_job["models"]:
        changed = [
            *settings.differences(settings.deciding(old["settings"]), settings.deciding(new_job["settings"])),
            *settings.differences(old["models"], new_job["models"]),
        ]
        msg = (
            f"{out} was written with other settings or models by run {run_id}: {'; '.join(changed)}."
            " Use the same settings, or another output folder"
        )
        raise ConfigError(msg)
    before = {query["query_id"]: query for query in _read_json(store.join(folder, "queries.json")) or []}
    for query in queries:
        new = json.loads(json.dumps(asdict(query)))
        if before.get(query.query_id, new) != new:
            lines = "; ".join(settings.differences(before[query.query_id], new))
            msg = (
                f"{out} already holds answers to another question called {query.query_id!r} ({lines})."
                " Give the new question a new query_id, or use another output folder"
            )
            raise ConfigError(msg)


def recover(out: str) -> None:
    """Mend what a crash left in a folder that this process holds: every run there is closed afterwards.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    swap.finish(out)
    for run_id in run_ids(out):
        _recover(Run(out, run_id))


def _recover(run: Run) -> None:
    """Roll committed parts forward and remove staged files that were never committed.

    What is staged no more was published: only records of parts that have a staged file are looked at.

    A machine that nobody could reach may go on for a driver that is dead and stage a file when all is recovered: such
    files are removed by whatever run opens the folder next.
    """
    is_open = not is_closed(run)
    orphans = {entry.uri for entry in store.list_files(run.staging, missing_ok=True)}
    for part_id in sorted({uri.rpartition("/")[2].partition(".")[0] for uri in orphans}) if is_open else ():
        if record := store.read_if_there(_record(run, part_id)):
            part: Row = json.loads(record)
            _publish(run, part)
            orphans -= {file["staged"] for file in part["files"]}
    store_bulk.delete_all(sorted(orphans))
    if orphans:
        logger.info("run %s was cut short: removed %d files it had not committed", run.run_id, len(orphans))
    if is_open:
        _write_json(store.join(run.folder, "recovered.json"), {"removed": len(orphans)})


def is_closed(run: Run) -> bool:
    """Return whether a run is over and what it left is in order: it commits nothing more."""
    return any(store.exists(store.join(run.folder, name)) for name in ("stats.json", "recovered.json"))


def commit(run: Run, part: Row, check: Callable[[], None] = lambda: None) -> None:
    """Make one staged part (rows.PART) visible, exactly once.

    Raises:
        JobError: what `check` raises when the folder is not this run's any more (lease.Lease.check); the part then does
            not count, or the run that took over publishes it.
        StoreError: the record or a file cannot be written; the part then does not count, or counts and is
            published by the next run.
    """
    check()
    record = _record(run, part["part_id"])
    if store.exists(record):
        return  # Ray ran the task again after its part was committed
    for file in part["files"]:
        if not store.exists(file["staged"]):
            msg = (
                f"{file['staged']} is gone before it was committed: does another run write to {run.out}?"
                " Let one run finish, then start the other; nothing is lost, the work is done again"
            )
            raise StoreError(msg)
    _write_json(record, {**part, "committed_s": time.time()})
    check()
    _publish(run, part)


def _record(run: Run, part_id: str) -> str:
    """Return where a commit is recorded."""
    return store.join(run.folder, "commits", f"{part_id}.json")


def commits(run: Run, known: Container[str] = ()) -> Iterator[Row]:
    """Yield what a run has committed: rows.PART, and when in `committed_s` (seconds since 1970).

    Parts whose `part_id` is among the known ones are left out.
    """
    return records.read(store.join(run.folder, "commits"), known)


def manifest_files(run: Run, of: str) -> list[str]:
    """Return where it is written down which `files` or `windows` a run has to do, as far as it is by now."""
    listed = store.list_files(run.manifest(of), missing_ok=True)
    return [entry.uri for entry in listed if entry.uri.endswith(".parquet")]  # not one that is being written


def _publish(run: Run, part: Row) -> None:
    """Move a committed part's files into the tables; doing it again changes nothing."""
    for file in part["files"]:
        final = store.join(run.out, file["table"], f"{run.run_id}-{part['part_id']}.parquet")
        store.move(file["staged"], final)


def close_run(run: Run, stats: dict[str, Any]) -> None:
    """Record a run as complete."""
    for entry in list(store.list_files(run.staging, missing_ok=True)):
        store.delete(entry.uri)  # of tasks that Ray ran twice
    _write_json(store.join(run.folder, "stats.json"), stats)


def part_files(out: str, table: str) -> list[str]:
    """Return the committed files of a table, sorted; each row is in one of them, also while small files are merged."""
    return swap.table_files(out, table)


def write_parts(folder: str, content: Iterable[Row], schema: pa.Schema) -> list[Slice]:
    """Write rows as Parquet files of PART_ROWS rows, holding one file's rows at a time; return what was written."""
    written: list[Slice] = []
    rows_left = iter(content)
    while part := list(islice(rows_left, PART_ROWS)):
        uri = store.join(folder, f"{len(written):06d}.parquet")
        store.write_table(uri, rows.to_table(part, schema))
        written.append(Slice(uri, 0, len(part)))
    return written


def cut(parts: Sequence[Slice], rows_per_slice: int) -> list[Slice]:
    """Return the same rows in slices of at most `rows_per_slice` rows."""
    return [
        Slice(part.uri, start, min(start + rows_per_slice, part.stop))
        for part in parts
        for start in range(part.start, part.stop, rows_per_slice)
    ]


def cut_windows(parts: Sequence[Slice], most_windows: int, most_s: float) -> list[Slice]:
    """Return slices of rows.WINDOW rows that together last at most `most_s`, or one window that lasts longer."""
    pieces: list[Slice] = []
    for part in parts:
        fs, path = store.open_fs(part.uri)
        with fs.open(path, "rb") as file:
            table = pq.read_table(file, columns=["start_s", "end_s"])
        lengths_s = (table["end_s"].to_numpy() - table["start_s"].to_numpy())[part.start : part.stop]
        start, total_s = part.start, 0.0
        for row, length_s in enumerate(lengths_s, part.start):
            if row > start and (total_s + length_s > most_s or row - start == most_windows):
                pieces.append(Slice(part.uri, start, row))
                start, total_s = row, 0.0
            total_s += length_s
        pieces.append(Slice(part.uri, start, part.stop))
    return pieces


def read_slice(uri: str, start: int, stop: int) -> list[Row]:
    """Return rows [start, stop) of a Parquet file."""
    fs, path = store.open_fs(uri)
    with fs.open(path, "rb") as file:
        return pq.read_table(file).slice(start, stop - start).to_pylist()


def read_slices(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Return the rows that a table of slices points to."""
    found = [row for item in table.to_pylist() for row in read_slice(**item)]
    return rows.to_table(found, schema)


def scan(out: str, table: str, columns: Sequence[str], where: pads.Expression | None = None) -> Iterator[Row]:
    """Yield chosen columns of a committed table, streaming."""
    for _, batch in scan_files(out, table, columns, where):
        yield from batch.to_pylist()


def scan_files(
    out: str, table: str, columns: Sequence[str], where: pads.Expression | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield chosen columns of a committed table, streaming, each batch with the name of the file it comes from."""
    files = part_files(out, table)
    if not files:
        return
    fs, _ = store.open_fs(out)
    paths = [store.open_fs(uri)[1] for uri in files]
    dataset = pads.dataset(paths, schema=rows.TABLES[table], format="parquet", filesystem=fs)
    for batch in dataset.to_batches(columns=[*columns, FILE_NAME], filter=where):
        if batch.num_rows:
            path = str(batch[FILE_NAME][0].as_py())
            yield path.rpartition("/")[2], batch.select(list(columns))


def video_keys(out: str) -> Keys:
    """Return the keys (video_id, version) of probed files."""
    return sorted_keys(key(r["video_id"], r["version"]) for r in scan(out, "videos", ["video_id", "version"]))


def has_open_verdicts(run: Run, queries: Sequence[Query], found: Keys) -> bool:
    """Return whether any found video lacks a verdict; verdicts come last, so none missing means nothing missing."""
    judged = verdict_keys(run.out)
    for video in scan(run.out, "videos", ["video_id", "version"]):
        name = (video["video_id"], video["version"])
        if holds(found, key(*name)) and not all(holds(judged, key(*name, q.query_id)) for q in queries):
            return True
    return False


def verdict_keys(out: str) -> Keys:
    """Return the keys (video_id, version, query_id) of committed verdicts."""
    columns = ["video_id", "version", "query_id"]
    return sorted_keys(key(*(row[name] for name in columns)) for row in scan(out, "verdicts", columns))


def _write_json(uri: str, value: Any) -> None:
    store.write_bytes(uri, json.dumps(value, indent=1).encode())


def _read_json(uri: str) -> Any:
    return json.loads(store.read_bytes(uri)) if store.exists(uri) else None
