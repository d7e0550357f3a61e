"""The listing against the output folder: how far it goes, and what is written down."""

import pytest

from jobs.archive import Archive
from pipeline import ledger, rows, store
from pipeline.errors import JobError
from pipeline.ledger import Run


@pytest.fixture
def run(tmp_path):
    """Three files, the first of which failed and the second of which is good."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    run = Run(str(tmp_path / "out"), "r")
    [whole] = Archive(str(tmp_path), run.out).write_down(run)
    known = ledger.read_slice(whole.uri, 0, 2)
    known[0] |= {"error_type": "ProbeError", "error_message": "no"}
    found = [rows.fill(row, rows.VIDEOS) for row in known]
    store.write_table(store.join(run.out, "videos", "a.parquet"), rows.to_table(found, rows.VIDEOS))
    return run


def names(pieces):
    return [
        row["uri"][-5:] for piece in pieces for row in ledger.read_slice(piece.uri, piece.start, piece.stop)
    ]


@pytest.mark.parametrize(("retry_failed", "expected"), [(False, ["c.mp4"]), (True, ["a.mp4", "c.mp4"])])
def test_what_is_to_be_probed_is_written_down(tmp_path, run, retry_failed, expected):
    archive = Archive(str(tmp_path), run.out, retry_failed=retry_failed)
    assert archive.has_unknown
    assert names(archive.write_down(Run(run.out, "s"))) == expected
    assert len(archive.found) == 3


def test_without_a_new_file_all_are_listed_and_none_written_down(tmp_path, run):
    (tmp_path / "c.mp4").unlink()
    archive = Archive(str(tmp_path), run.out)
    assert (archive.has_unknown, len(archive.found)) == (False, 2)
    assert archive.write_down(Run(run.out, "s")) == []
    assert ledger.run_ids(run.out) == ["r"]


def test_videos_that_share_a_key_end_a_run_before_any_is_read(tmp_path, run, monkeypatch):
    monkeypatch.setattr("jobs.archive.key", lambda *_: 1)
    with pytest.raises(JobError, match=r"2 of the 3 videos at .* have the key of another one"):
        Archive(str(tmp_path), run.out).write_down(run)
