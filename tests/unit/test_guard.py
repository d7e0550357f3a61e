"""A bad row carries its reason, a bug stops the run, nothing is lost."""

import pytest

from pipeline import rows
from pipeline.errors import ConfigError, DecodeError, JobError
from pipeline.guard import run_rows

TABLE = rows.to_table(
    [
        {"window_id": "good", "start_s": 1.0},
        {"window_id": "bad", "start_s": 2.0},
        {"window_id": "failed before", "error_type": "DecodeError", "error_message": "cut short"},
    ],
    rows.WINDOW,
)


def decode(row):
    if row["window_id"] == "bad":
        raise DecodeError("no frame near 2.0 s")
    assert row["window_id"] == "good", "a failed row must not be worked on"
    return {"frames_planned": 7}


def test_one_row_out_per_row_in_with_the_same_columns():
    done = run_rows(decode, rows.DECODED, TABLE)
    assert done.schema == rows.DECODED
    good, bad, before = rows.to_rows(done)
    assert (good["window_id"], good["frames_planned"], good["error_type"]) == ("good", 7, "")
    assert (bad["error_type"], bad["error_message"]) == ("DecodeError", "no frame near 2.0 s")
    assert (before["error_type"], before["error_message"]) == ("DecodeError", "cut short")
    assert bad["pts_s"] == []
    assert bad["start_s"] == 2.0


def test_a_bug_stops_the_run_and_names_the_row():
    def broken(row):
        return {"frames_planned": row["no_such_column"]}

    with pytest.raises(JobError, match="unexpected KeyError on good"):
        run_rows(broken, rows.DECODED, TABLE)


def test_a_job_error_passes_unchanged():
    def misconfigured(row):
        raise ConfigError(f"no decoder for {row['window_id']}")

    with pytest.raises(ConfigError, match="no decoder for good"):
        run_rows(misconfigured, rows.DECODED, TABLE)
