"""Compaction behind real jobs, killed by SIGKILL, and in a real bucket: the rows stay, each once."""

import os
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import pytest

from pipeline import compact, ledger, rows, store, swap
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import comparable
from tests.integration.s3_server import Bucket
from tests.unit.test_compact import Killed, everything, kill_at, run_of

TRIES = int(os.environ.get("REELSIFT_KILL_TRIES", "2")) * 2
SETTINGS = ("--window.length-s", "2", "--sink.windows-per-part", "1")


def test_a_compacted_folder_answers_as_before(reelsift, clips, ask, tmp_path):
    out = tmp_path / "out"
    queries = ask({"query_id": "rabbit", "kind": "find", "text": "a rabbit"})
    first = reelsift("answer", clips, queries, out, *SETTINGS)
    assert first.code == 0, first.err
    before = {table: comparable(out, table) for table in rows.TABLES}
    shown, state = reelsift("show", out, "--format", "json").out, reelsift("status", out).json
    done = reelsift("compact", out)
    assert done.code == 0, done.err
    assert done.json["files_after"] == len(rows.TABLES) < done.json["files_before"]
    assert {table: comparable(out, table) for table in rows.TABLES} == before
    assert reelsift("show", out, "--format", "json").out == shown
    assert reelsift("status", out).json == state
    again = reelsift("answer", clips, queries, out, *SETTINGS)
    assert again.code == 0
    assert "nothing to do" in again.err
    more = ask(
        {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
        {"query_id": "car", "kind": "flag", "text": "a car"},
    )
    added = reelsift("answer", clips, more, out, *SETTINGS, "--sink.compact-files", "2")
    assert added.code == 0, added.err
    assert "merged small files" in added.err
    assert len(list(out.glob("*/*.parquet"))) == len(rows.TABLES)
    old = [row for row in comparable(out, "answers") if "'query_id': 'rabbit'" in row]
    assert old == before["answers"]
    assert comparable(out, "frames") == before["frames"]


def test_killed_at_any_time_and_called_again(tmp_path):
    seed = str(tmp_path / "seed")
    for number in range(3):
        run_of(seed, range(10 * number, 10 * number + 10))
    before = everything(seed)
    whole, num_changes = _compact(_copy(seed, tmp_path / "whole"))
    assert whole.wait() == 0
    assert everything(str(tmp_path / "whole")) == before
    killed = 0
    for number in range(TRIES):
        out = _copy(seed, tmp_path / f"out{number}")
        process, _ = _compact(out, 1 + num_changes * number // TRIES)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert everything(str(out)) == before, f"readers right after the kill, try {number}"
        assert _compact(out)[0].wait() == 0
        assert everything(str(out)) == before, f"after the next compaction, try {number}"
        assert len(list((tmp_path / f"out{number}").glob("*/*.parquet"))) == 3
    assert killed, "no try was killed before it had finished"


def _copy(seed: str, out: Path) -> Path:
    fs, _ = store.open_fs(seed)
    fs.copy(seed, str(out), recursive=True)
    return out


def _compact(out: Path, most: float = inf) -> "tuple[subprocess.Popen[bytes], int]":
    """Return a compaction once files have come or gone so often in its folder, or when it has ended; and how often."""
    command = [sys.executable, "-m", "jobs", "compact", str(out)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **QUIET}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    files, num_changes = _files(out), 0
    while process.poll() is None and num_changes < most:
        time.sleep(0.001)
        now = _files(out)
        num_changes += now != files
        files = now
    return process, num_changes


def _files(out: Path) -> set[str]:
    return {f"{folder}/{name}" for folder, _, names in os.walk(out) for name in names}


@pytest.mark.needs_ceph
def test_in_a_bucket(s3: Bucket, monkeypatch) -> None:
    out = store.join(s3.uri, "out")
    run_of(out, range(3))
    before = everything(out)
    for step in range(0, 1000, 5):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                compact.compact(out, 1 << 20)
                break
            except Killed:
                pass
        assert everything(out) == before, f"readers right after the kill at step {step}"
        ledger.recover(out)
        listed = [entry.uri for entry in store.list_files(store.join(out, "answers"))]
        assert listed == ledger.part_files(out, "answers"), "nothing is half done"
        run_of(out, range(10 + step, 12 + step))
        before = everything(out)
    assert everything(out) == before
    assert len(ledger.part_files(out, "answers")) == 1
    assert not list(store.list_files(swap.staging(out), missing_ok=True))
