"""The job from bucket to bucket on a real S3 server: the answers of a local run, and no secret anywhere."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import ledger, rows, store
from tests.integration.conftest import QUIET, ROOT, Finished
from tests.integration.results import TIMING, read
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

QUERIES = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "bicycle", "kind": "flag", "text": "a bicycle"},
    {"query_id": "where", "kind": "choose", "text": "where is this", "choices": ["a forest", "a street"]},
]
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2")
PLACE = TIMING | {"uri", "video_id", "version", "window_id"}
"""Columns that say where a video lies and when it was read, not what it shows."""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sessions: a short path, socket paths are limited to 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rs3-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def reelsift(ray_folder):
    """Run `reelsift ...` with a Ray of its own: its workers have the environment of the driver."""

    def run(*args: object, **environment: str) -> Finished:
        command = [sys.executable, "-m", "jobs", *map(str, args)]
        merged = {**os.environ, **QUIET, "RAY_TMPDIR": str(ray_folder), **environment}
        merged.pop("RAY_ADDRESS", None)
        return Finished(
            subprocess.run(command, cwd=ROOT, env=merged, capture_output=True, text=True, timeout=200)
        )

    return run


def upload(folder: Path, uri: str) -> None:
    for path in sorted(folder.iterdir()):
        store.write_bytes(store.join(uri, path.name), path.read_bytes())


def test_from_bucket_to_bucket(s3: Bucket, reelsift, clips, ask, tmp_path, ray_folder):
    source, questions, out = (store.join(s3.uri, name) for name in ("in", "questions/q.jsonl", "out"))
    upload(clips, source)
    store.write_bytes(questions, ask(*QUERIES).read_bytes())
    printed = [_wrong_credentials_are_refused(reelsift, source, questions, out)]
    printed.append(_a_missing_bucket_is_named(reelsift, source, questions))
    done = reelsift("answer", f"{source}/", questions, f"{out}/", *SETTINGS)
    assert done.code == 0, done.err
    assert done.json["failed_videos"] == 1
    again = _again_does_nothing(reelsift, source, questions, out)
    shown = _show_reads_it(reelsift, out)
    local = reelsift("answer", clips, ask(*QUERIES), tmp_path / "out", *SETTINGS)
    assert local.code == 0, local.err
    _answers_are_those_of_a_local_run(out, tmp_path / "out", source, clips)
    for command in (*printed, done, again, shown):
        _no_secret_in(s3, command.out.encode(), "stdout")
        _no_secret_in(s3, command.err.encode(), "stderr")
    _no_secret_is_written(s3, out, ray_folder)


def _wrong_credentials_are_refused(reelsift, source, questions, out) -> Finished:
    refused = reelsift("answer", source, questions, out, AWS_SECRET_ACCESS_KEY="wrong-and-private")
    assert refused.code == 3
    assert "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE) are wrong" in refused.err
    assert len(refused.err.splitlines()) == 1, refused.err
    assert "wrong-and-private" not in refused.err + refused.out
    assert "Traceback" not in refused.err
    assert not list(store.list_files(out, missing_ok=True))
    return refused


def _a_missing_bucket_is_named(reelsift, source, questions) -> Finished:
    for place in (("s3://not-there/in", questions, "/tmp/never"), (source, questions, "s3://not-there/out")):
        missing = reelsift("answer", *place)
        assert missing.code == 3
        assert "no bucket 'not-there'" in missing.err
        assert "Traceback" not in missing.err
    return missing


def _again_does_nothing(reelsift, source, questions, out) -> Finished:
    before = list(store.list_files(out))
    again = reelsift("answer", source, questions, out, *SETTINGS)
    assert again.code == 0, again.err
    assert "nothing to do" in again.err
    assert list(store.list_files(out)) == before
    return again


def _show_reads_it(reelsift, out) -> Finished:
    shown = reelsift("show", out, "SELECT count(*) FROM verdicts WHERE error_type = ''", "--format", "csv")
    assert shown.code == 0, shown.err
    assert shown.out.split() == ["count_star()", str(3 * len(QUERIES))]
    return shown


def _answers_are_those_of_a_local_run(out, local, source, clips):
    for table, schema in rows.TABLES.items():
        columns = [name for name in schema.names if name not in PLACE]
        there = [{name: row[name] for name in columns} for row in ledger.scan(out, table, schema.names)]
        here = [{name: row[name] for name in columns} for row in read(local, table)]
        assert there, table
        there, here = (sorted(repr(row) for row in found) for found in (there, here))
        assert there == [row.replace(str(clips), source) for row in here], table


def _no_secret_in(s3, data: bytes, where: object):
    assert s3.server.secret_key.encode() not in data, f"the secret stands in {where}"


def _no_secret_is_written(s3, out, ray_folder):
    for entry in store.list_files(out):
        _no_secret_in(s3, store.read_bytes(entry.uri), entry.uri)
        if entry.uri.endswith(".parquet"):
            _no_secret_in(
                s3, repr(ledger.read_slice(entry.uri, 0, ledger.num_rows(entry.uri))).encode(), entry.uri
            )
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("session_" in str(path) for path in logs), "Ray kept its logs elsewhere"
    for path in logs:
        _no_secret_in(s3, path.read_bytes(), path)
