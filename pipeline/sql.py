"""SQL over the tables of an output folder, read-only.

DuckDB sees two views per table of rows.TABLES and nothing else: no other file, no write, no network beyond the
bucket the folder is in. A column that is younger than some runs is NULL in their rows. A file that changed is answered
again under another version and its old rows stay: `all_videos` holds every row, `videos` only those of the version that
the latest run probed, and so for each table.
Buckets are read through the store's own client, because DuckDB's extension for them would have to be downloaded.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import rows, store, swap
from pipeline.errors import ConfigError

BATCH_ROWS = 10_000
SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
}
CURRENT = """
CREATE VIEW {table} AS SELECT * FROM all_{table} ANTI JOIN (
    SELECT video_id, version FROM all_videos ANTI JOIN (
        SELECT video_id, arg_max(version, run_id) AS version FROM all_videos GROUP BY video_id
    ) USING (video_id, version)
) USING (video_id, version)"""
"""The rows of a table but for those of outdated versions; names of runs sort by time."""


def open_views(out: str) -> duckdb.DuckDBPyConnection:
    """Return a connection with the views of an output folder: each table's current rows, and as all_TABLE all of them.

    A table without files yet is an empty view with its columns. Files that are committed later are not seen.

    Raises:
        ConfigError: no such folder, or not one that the job wrote.
        StoreError: the bucket or folder cannot be read.
    """
    if not store.exists(out):
        msg = f"{out}: no such folder"
        raise ConfigError(msg)
    files = {table: _part_files(out, table) for table in rows.TABLES}
    if not any(files.values()) and not store.exists(store.join(out, "_run")):
        msg = f"{out} is not an output folder: it holds none of {'/, '.join(rows.TABLES)}/ and no _run/"
        raise ConfigError(msg)
    connection = duckdb.connect()
    fs, _ = store.open_fs(out)
    if "s3" in fs.protocol:
        connection.register_filesystem(fs)
    for table in rows.TABLES:
        connection.execute(f"CREATE VIEW all_{table} AS {_select_all(table, files[table])}")
    for table in rows.TABLES:
        connection.execute(CURRENT.format(table=table))
    paths = [path for table in files.values() for path in table]
    connection.execute("SET allowed_paths = ?", [[*paths, *map(_literal, paths)]])
    connection.execute("SET python_enable_replacements = false; SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def select(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], Iterator[tuple[object, ...]]]:
    """Run one reading statement; return its column names and its rows, streaming.

    Raises:
        ConfigError: the SQL is wrong, holds several statements, or does something else than read.
    """
    try:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            found = ", ".join(statement.type.name for statement in statements) or "nothing"
            msg = f"only one SELECT, WITH, DESCRIBE, SHOW or SUMMARIZE can be run here, found {found}"
            raise ConfigError(msg)
        cursor = connection.execute(statements[0])
    except duckdb.Error as error:
        raise ConfigError(str(error)) from error
    return [column[0] for column in cursor.description or ()], _fetch(cursor)


def _fetch(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[object, ...]]:
    try:
        while batch := cursor.fetchmany(BATCH_ROWS):
            yield from batch
    except duckdb.Error as error:
        raise ConfigError(str(error)) from error


def _part_files(out: str, table: str) -> list[str]:
    """Return the committed files of a table, local ones with absolute paths."""
    return [uri if "://" in uri else store.open_fs(uri)[1] for uri in swap.table_files(out, table)]


def _select_all(table: str, paths: Sequence[str]) -> str:
    """Return the query for all rows of a table: its columns of today, and behind them what older parts have besides.

    DuckDB's `union_by_name` would read every footer before every query: one per run tells what the run wrote.

    Raises:
        StoreError: a part cannot be read.
    """
    runs: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        runs["-".join(path.rpartition("/")[2].split("-")[:2])].append(path)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for parts in runs.values():
        with store.open_stream(parts[0]) as file:
            alike[tuple(pq.read_schema(file).names)] += parts
    columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in rows.TABLES[table])
    found = [f"SELECT {columns} WHERE false"]
    for parts in alike.values():
        names = ", ".join(f"""'{_literal(path).replace("'", "''")}'""" for path in parts)
        found.append(f"SELECT * FROM read_parquet([{names}])")
    return " UNION ALL BY NAME ".join(found)


def _sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of a column type (DuckDB would load pandas to take an empty Arrow table)."""
    if isinstance(kind, pa.ListType):
        return f"{_sql_type(kind.value_type)}[]"
    if isinstance(kind, pa.StructType):
        fields = ", ".join(f'"{field.name}" {_sql_type(field.type)}' for field in kind)
        return f"STRUCT({fields})"
    return SQL_TYPES[kind]


def _literal(path: str) -> str:
    """Return a path in which DuckDB takes `*`, `?` and `[` as they stand."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)
