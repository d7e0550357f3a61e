"""Row conservation: what goes in comes out, good or failed, or the run says so. What the closing table says."""

import json
import shlex
from collections import Counter

import pytest

from jobs import show, summary
from jobs.summary import check_conservation, failed_fraction, print_end, print_nothing_to_do, print_reopened
from pipeline import reasons, rows, sink, store
from pipeline.errors import JobError
from pipeline.reopen import Reopened
from pipeline.windows import key, sorted_keys

COUNTS = {
    "found": 3, "videos": 3, "failed_videos": 1, "windows": 4, "queries": 2, "answers": 8, "failed_answers": 1,
    "verdicts": 6, "failed_verdicts": 2, "distinct_videos": 3, "distinct_answers": 8, "distinct_verdicts": 6,
}  # fmt: skip


def test_balanced_rows_pass():
    check_conservation(COUNTS)


@pytest.mark.parametrize(
    ("failed", "share"),
    [
        ({"failed_videos": 5, "failed_verdicts": 50}, 0.5),  # of 510 videos and answers, 5
        ({"failed_answers": 100, "failed_verdicts": 10}, 0.2),
        ({"failed_answers": 100, "failed_verdicts": 30}, 0.3),
        ({}, 0.0),
    ],
)
def test_the_share_that_failed_is_that_of_the_worst_table(failed, share):
    rows = {"videos": 10, "answers": 500, "verdicts": 100}
    none = {f"failed_{table}": 0 for table in rows}
    assert failed_fraction({**rows, **none, **failed}) == pytest.approx(share)


def test_nothing_failed_of_nothing():
    assert failed_fraction(Counter()) == 0.0


@pytest.mark.parametrize("table", ["videos", "answers", "verdicts"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_lost_or_doubled_row_is_an_error(table, change):
    wrong = {**COUNTS, table: COUNTS[table] + change}
    with pytest.raises(JobError, match=f"{table}: expected {COUNTS[table]}, found {wrong[table]}"):
        check_conservation(wrong)


def test_a_lost_and_a_doubled_row_do_not_cancel_out():
    with pytest.raises(JobError, match="answers: expected 8, found 8, 7 of them distinct"):
        check_conservation({**COUNTS, "distinct_answers": 7})


STATS = {
    **COUNTS, "out": "out", "wall_s": 1.0, "cut_short": 0, "tokens_dense": 0, "tokens_used": 0,
    "reasons": {"video: ProbeError: no video": 1},
}  # fmt: skip


def counted(tmp_path, *windows):
    """Return the counters that a run sums up from parts with these windows, as the driver does."""
    counters = Counter()
    for window in windows:
        table = rows.to_table([rows.fill(window, rows.ANSWERED)], rows.ANSWERED)
        part = next(rows.to_rows(sink.stage_windows(str(tmp_path), "run", "embedded", table)))
        counters.update(json.loads(part["counters"]))
    return dict(counters)


def closing_lines(capsys, **changes):
    print_end({**STATS, **changes})
    out, err = capsys.readouterr()
    assert json.loads(out)["found"] == 3
    return {line.split()[0]: line.strip() for line in err.splitlines() if line}


def test_reasons_beyond_some_count_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(reasons, "MOST", 3)
    failed = [
        {
            "video_id": str(number),
            "uri": f"{number}.mp4",
            "error_type": "E",
            "error_message": f"at {number % 7}",
        }
        for number in range(14)
    ]
    table = rows.to_table([rows.fill(row, rows.VIDEOS) for row in failed], rows.VIDEOS)
    store.write_table(store.join(str(tmp_path), "videos", "p.parquet"), table)
    found = sorted_keys([key(row["video_id"], "") for row in failed])
    counts = summary.count(str(tmp_path), [], found)
    assert counts["failed_videos"] == 14
    assert counts["reasons"] == {
        "other reasons": 8, "video: E: at 0": 2, "video: E: at 1": 2, "video: E: at 2": 2
    }  # fmt: skip


def test_a_clean_run_has_zeros_to_print(tmp_path, capsys):
    spent = counted(
        tmp_path, {"window_id": "a", "frames_planned": 5}, {"window_id": "b", "frames_planned": 2}
    )
    assert spent["frames_stale"] == spent["frames_missing"] == 0
    line = "pictures  7 times sampled, 0 got an older or doubtful picture, 0 none"
    assert closing_lines(capsys, this_run=spent)["pictures"] == line


@pytest.mark.parametrize("spent", [{}, {"probe_s": 1.0}, {"windows": 1}, {"windows": 1, "read_bytes": 5}])
def test_counters_of_a_run_that_did_little_may_be_absent(spent, capsys):
    assert ("pictures" in closing_lines(capsys, this_run=spent)) == ("windows" in spent)


def test_what_a_model_computed_is_told_and_nothing_where_none_was_asked(tmp_path, capsys):
    find = rows.fill({"kind": "find"}, rows.ANSWERS)
    assert "model" not in closing_lines(capsys, this_run=counted(tmp_path, {"answers": [find]}))
    cost = {
        "vision_frames": 1200,
        "prefills": 34,
        "prefill_tokens": 51000,
        "decode_steps": 1300,
        "decode_passes": 90,
    }
    told = rows.fill({"kind": "ask", "tokens_used": 9, **cost}, rows.ANSWERS)
    lines = closing_lines(capsys, this_run=counted(tmp_path, {"answers": [find, told]}))
    assert lines["model"] == (
        "model     1,200 frames seen by the vision tower, 34 prompts of 51,000 tokens prefilled for 1 answers,"
        " 1,300 decode steps of theirs in 90 passes"
    )
    short = rows.fill({"kind": "ask", "tokens_used": 9, **cost, "oom_halvings": 2}, rows.ANSWERS)
    lines = closing_lines(capsys, this_run=counted(tmp_path, {"answers": [short]}))
    assert lines["model"].endswith("in 90 passes; out of memory 2 times, batches halved")
    routed = rows.fill({"kind": "ask", "tokens_used": 9, **cost, "router_tokens": 7000}, rows.ANSWERS)
    lines = closing_lines(capsys, this_run=counted(tmp_path, {"answers": [routed]}))
    assert lines["model"].endswith("in 90 passes, 7,000 tokens read by the image router")


def test_windows_that_came_from_the_index_are_told(tmp_path, capsys):
    back = {"window_id": "a", "frames_uri": "frames/p.parquet"}
    told = closing_lines(capsys, this_run=counted(tmp_path, back, {"window_id": "b"}))["windows"]
    assert told.endswith(" (1 from the index, 1 decoded)")
    assert "index" not in closing_lines(capsys, this_run=counted(tmp_path, {"window_id": "b"}))["windows"]


def test_windows_that_were_never_decoded_are_told(tmp_path, capsys):
    failed = {"window_id": "a", "error_type": "DecodeError", "error_message": "x has changed"}
    lines = closing_lines(capsys, this_run=counted(tmp_path, failed))
    assert lines["pictures"].endswith("0 none; 1 of 1 windows not looked at")


def test_damaged_videos_are_not_called_cut_short(capsys):
    lines = closing_lines(capsys, this_run={}, cut_short=2)
    assert lines["videos"].endswith("(1 failed, 2 truncated or damaged, answered as far as they go)")


def test_the_command_that_shows_the_failed_rows_works(tmp_path, capsys):
    folder = str(tmp_path / "out put")
    print_nothing_to_do(folder, {**COUNTS, "failed_videos": 0, "failed_answers": 0})
    assert (
        capsys.readouterr().err
        == f"nothing to do: {folder} already answers these questions on these videos\n"
    )
    for table, uri in (("videos", "a.mp4"), ("answers", "b.mp4")):
        bad = {"uri": uri, "error_type": "DecodeError", "error_message": f"{uri}: broken"}
        good = {"uri": "good.mp4", "video_id": "good"}
        content = [rows.fill(row, rows.TABLES[table]) for row in (bad, good)]
        store.write_table(store.join(folder, table, "p.parquet"), rows.to_table(content, rows.TABLES[table]))
    print_nothing_to_do(folder, COUNTS)
    said = capsys.readouterr().err
    assert "failed rows that stand and are not tried again: 2" in said
    assert show.main(shlex.split(said.partition("reelsift show ")[2])) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["a.mp4,a.mp4: broken", "b.mp4,b.mp4: broken"]


def test_what_failed_and_what_was_found_stands_beside_every_count(capsys):
    lines = closing_lines(capsys, this_run={})
    assert lines["videos"].startswith("videos    3 of 3 found (1 failed")
    assert lines["answers"] == "answers   8 = 4 windows x 2 queries (1 failed)"
    assert lines["verdicts"].endswith("= 3 videos x 2 queries (2 failed)")


def test_a_reopening_is_told_by_reason(capsys):
    print_reopened(Reopened())
    assert capsys.readouterr().err == "no failed rows to try again\n"
    reasons = Counter({f"video: ProbeError: {number}": number for number in range(1, 8)})
    print_reopened(Reopened(28, 0, 28, reasons))
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == "tried again: 28 failed videos, 0 failed answers; 28 verdicts are judged again"
    assert second == "  7 x video: ProbeError: 7"
    assert last == "  3 for other reasons"
