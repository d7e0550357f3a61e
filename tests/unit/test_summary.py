"""Row conservation: what goes in comes out, good or failed, or the run says so."""

import pytest

from jobs.summary import check_conservation, failed_fraction
from pipeline.errors import JobError

COUNTS = {
    "found": 3, "videos": 3, "failed_videos": 1, "windows": 4, "queries": 2, "answers": 8, "failed_answers": 1,
    "verdicts": 6, "distinct_videos": 3, "distinct_answers": 8, "distinct_verdicts": 6,
}  # fmt: skip


def test_balanced_rows_pass():
    check_conservation(COUNTS)
    assert failed_fraction(COUNTS) == pytest.approx(2 / 11)


@pytest.mark.parametrize("table", ["videos", "answers", "verdicts"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_lost_or_doubled_row_is_an_error(table, change):
    wrong = {**COUNTS, table: COUNTS[table] + change}
    with pytest.raises(JobError, match=f"{table}: expected {COUNTS[table]}, found {wrong[table]}"):
        check_conservation(wrong)


def test_a_lost_and_a_doubled_row_do_not_cancel_out():
    with pytest.raises(JobError, match="answers: expected 8, found 8, 7 of them distinct"):
        check_conservation({**COUNTS, "distinct_answers": 7})
