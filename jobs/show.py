"""`reelsift show`: what an output folder holds, in one page of text or by SQL. Needs no Ray and no model."""

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import duckdb

from jobs.model_work import model_work
from jobs.printable import printable
from pipeline import cost, sql, store
from pipeline.errors import ConfigError
from pipeline.rows import COST

EPILOG = """\
Views: videos (one row per file), frames (one per sampled frame), answers (one per window and query),
verdicts (one per video and query). `reelsift show OUT "DESCRIBE answers"` lists the columns.
Of a file that changed between runs they hold the version that the latest run probed; all_videos, all_frames,
all_answers and all_verdicts hold the older ones too.
"""
TABLE_ROWS = 50
CELL_CHARACTERS = 60

VIDEOS = "SELECT status, count(*), coalesce(sum(duration_s), 0) FROM videos GROUP BY ALL ORDER BY ALL"
TOTALS = """
    SELECT count(DISTINCT window_id), count(*) FILTER (error_type = ''), count(*) FILTER (error_type <> ''),
        coalesce(sum(tokens_dense), 0)::BIGINT, coalesce(sum(tokens_used), 0)::BIGINT FROM answers"""
WORK = f"""
    SELECT count(*) FILTER (tokens_used > 0) AS model_answers,
        {", ".join(f"coalesce(sum({name}), 0)::BIGINT AS {name}" for name in COST)}
    FROM answers"""
FAILURES = """
    SELECT error_type, count(*), min(error_message)
    FROM (SELECT error_type, error_message FROM videos UNION ALL SELECT error_type, error_message FROM answers)
    WHERE error_type <> '' GROUP BY ALL ORDER BY 2 DESC, 1"""
HITS = """
    WITH good AS (SELECT * FROM answers WHERE error_type = ''), hits AS (
        SELECT query_id, query, kind, uri, answer, span.start_s, span.end_s, span.score
        FROM good, unnest(spans) AS found(span) WHERE kind = 'find' OR (kind = 'flag' AND answer = 'yes')
        UNION ALL
        SELECT query_id, query, kind, uri, answer, start_s, end_s, confidence
        FROM good WHERE kind IN ('ask', 'choose')
    )
    SELECT * FROM hits
    QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY score DESC, uri, start_s) <= ?
    ORDER BY query_id, score DESC, uri, start_s"""


def main(argv: list[str]) -> int:
    """Print a summary of OUT, or the result of a query.

    Raises:
        ConfigError: OUT is not an output folder, or the SQL is wrong or does not just read.
        StoreError: the bucket or folder cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="reelsift show",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="output folder of a job, local or s3://")
    parser.add_argument("sql", metavar="SQL", nargs="?", help="one SELECT, WITH, DESCRIBE, SHOW or SUMMARIZE")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
    parser.add_argument(
        "--limit", type=_count, help=f"rows, or hits per query (default: {TABLE_ROWS} rows of a table)"
    )
    arguments = parser.parse_args(argv)
    with sql.open_views(arguments.out) as connection:
        if arguments.sql is not None:
            names, found = sql.select(connection, arguments.sql)
            WRITERS[arguments.format](names, found, arguments.limit)
        elif arguments.format == "csv":
            msg = "--format csv needs a query; the summary is a table or json"
            raise ConfigError(msg)
        else:
            summary = summarize(connection, arguments.limit or 3) | {"cost": _cost(arguments.out)}
            print(
                json.dumps(_plain(summary)) if arguments.format == "json" else _page(arguments.out, summary)
            )
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"must be a whole number of at least 1, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


# --- summary -----------------------------------------------------------------------------------------


def summarize(connection: duckdb.DuckDBPyConnection, hits_per_query: int) -> dict[str, Any]:
    """Return counts, failures by reason, tokens spent and the best hits of every query, as plain values."""
    videos = connection.execute(VIDEOS).fetchall()
    windows, good, failed, dense, used = connection.execute(TOTALS).fetchall()[0]
    work = connection.execute(WORK)
    sums = dict(zip([column[0] for column in work.description or ()], work.fetchall()[0], strict=True))
    failures = connection.execute(FAILURES).fetchall()
    cursor = connection.execute(HITS, [hits_per_query])
    names = [column[0] for column in cursor.description or ()]
    return {
        "videos": {status: count for status, count, _ in videos},
        "duration_s": sum(duration_s for _, _, duration_s in videos),
        "windows": windows,
        "answers": {"good": good, "failed": failed},
        "failures": [{"error_type": a, "count": b, "example": c} for a, b, c in failures],
        "tokens_dense": dense,
        "tokens_used": used,
        "saved_percent": round(100 * (1 - used / dense), 1) if dense else 0.0,
        "model_work": sums,
        "hits": [dict(zip(names, row, strict=True)) for row in cursor.fetchall()],
    }


def _cost(out: str) -> dict[str, Any] | None:
    """Return what the runs that wrote a bill cost together, in dollars; None where none did."""
    runs = store.join(out, "_run")
    found = (store.read_if_there(store.join(runs, name, cost.NAME)) for name in store.names_below(runs))
    bills = [json.loads(bill) for bill in found if bill]
    if not bills:
        return None
    spent = cost.add_up(bills, 0)
    return {"runs": len(bills), "total": spent["total"], "per_video_hour": spent["per_video_hour"]}


def _page(out: str, summary: dict[str, Any]) -> str:
    statuses = ", ".join(f"{status} {count:,}" for status, count in summary["videos"].items())
    answers = summary["answers"]
    lines = [
        out,
        f"  videos   {sum(summary['videos'].values()):,} ({statuses or 'none'}), {summary['duration_s'] / 3600:,.2f} h",
        f"  windows  {summary['windows']:,}",
        f"  answers  {answers['good']:,} good, {answers['failed']:,} failed",
        *(
            f"  failed   {failure['count']:,} x {failure['error_type']}, for example: {printable(failure['example'])}"
            for failure in summary["failures"]
        ),
    ]
    if summary["tokens_dense"]:
        lines.append(
            f"  tokens   {summary['tokens_dense']:,} dense -> {summary['tokens_used']:,} used"
            f" ({summary['saved_percent']} % saved)"
        )
    if work := model_work(summary["model_work"]):
        lines.append(f"  model    {work}")
    if spent := summary["cost"]:
        lines.append(
            f"  cost     {cost.told(spent['total'])} of work, {cost.told(spent['per_video_hour'])} per video hour"
            f" (spot to on demand; runs that ended: {spent['runs']})"
        )
    for _, group in itertools.groupby(summary["hits"], key=lambda hit: hit["query_id"]):
        hits = list(group)
        lines += ["", f"{printable(hits[0]['query_id'])} ({hits[0]['kind']}): {printable(hits[0]['query'])}"]
        lines += [_hit_line(hit) for hit in hits]
    return "\n".join(lines)


def _hit_line(hit: dict[str, Any]) -> str:
    span = f"{hit['start_s']:.1f}-{hit['end_s']:.1f} s"
    said = "" if hit["kind"] == "find" else f"  {hit['answer']}"
    return f"  {hit['score']:.3f}  {span:>18}  {printable(hit['uri'] + said)}"


# --- rows --------------------------------------------------------------------------------------------

Rows = Iterator[tuple[object, ...]]


def _print_table(names: Sequence[str], rows: Rows, limit: int | None) -> None:
    """Print aligned columns; what does not fit a cell is cut, and cut rows are announced on stderr."""
    limit = limit or TABLE_ROWS
    names = [printable(name) for name in names]
    cells = [[_cell(value) for value in row] for row in itertools.islice(rows, limit)]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, ["-" * width for width in widths], *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if next(rows, None) is not None:
        print(
            f"only the first {limit} rows are shown; give --limit, or --format csv for all", file=sys.stderr
        )


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 3]}..."


def _print_csv(names: Sequence[str], rows: Rows, limit: int | None) -> None:
    """Print CSV; lists and structs are JSON inside their cell, NULL is an empty cell."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in itertools.islice(rows, limit):
        plain = [_plain(value) for value in row]
        writer.writerow([json.dumps(value) if isinstance(value, list | dict) else value for value in plain])


def _print_json(names: Sequence[str], rows: Rows, limit: int | None) -> None:
    """Print one line: a list of objects."""
    found = [dict(zip(names, _plain(row), strict=True)) for row in itertools.islice(rows, limit)]
    print(json.dumps(found))


WRITERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _plain(value: Any) -> Any:
    """Return a value of DuckDB as JSON knows it; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | None) else str(value)
