"""One bad row never costs another: how a function on a row becomes a stage on a table.

The three ways to fail (errors.py): RowError fills the row's error columns and the job goes on; JobError and
FatalWorkerError pass through; anything unexpected is a bug and stops the run with the row's name in the
message, because an unknown bug must not become data.
"""

from collections.abc import Callable

import pyarrow as pa

from pipeline import rows
from pipeline.errors import FatalWorkerError, JobError, RowError
from pipeline.rows import Row


def run_rows(function: Callable[[Row], Row], schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Return one row of `schema` per row of `table`: the old columns, plus what `function` returns.

    A row that already failed is carried along untouched, so that no stage sees a half-filled row.

    Raises:
        JobError: `function` raised something that is not a RowError.
    """
    return rows.to_table((guard(function, row) for row in rows.to_rows(table)), schema)


def guard(function: Callable[[Row], Row], row: Row) -> Row:
    """Return the row with the new columns, or with its error columns filled."""
    if row["error_type"]:
        return row
    try:
        return {**row, **function(row)}
    except RowError as error:
        return {**row, "error_type": type(error).__name__, "error_message": str(error)}
    except (JobError, FatalWorkerError):
        raise
    except Exception as error:
        raise bug(error, row.get("window_id") or row.get("uri") or "?") from error


def bug(error: Exception, name: str) -> JobError:
    """Return what ends a run after an error that nobody expected, and where it happened."""
    msg = f"unexpected {type(error).__name__} on {name}: {error}; this is a bug, nothing of this row was written"
    return JobError(msg)
