"""The job from bucket to bucket on a real S3 server: the answers of a local run, and no secret anywhere."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle

from jobs.fault_proxy import Fault, FaultProxy
from pipeline import isolation, kept, ledger, origin, rows, stages, store
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from tests import videos
from tests.integration.conftest import Finished
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import TIMING, read, written
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

QUERIES = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "bicycle", "kind": "flag", "text": "a bicycle"},
    {"query_id": "where", "kind": "choose", "text": "where is this", "choices": ["a forest", "a street"]},
]
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2")
PLACE = TIMING | {"uri", "video_id", "version", "etag", "window_id", "read_bytes", "read_requests"}
"""Columns that say where a video lies and when it was read, not what it shows."""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sessions: a short path, socket paths are limited to 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rs3-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def alone(ray_folder):
    """Run `reelsift ...` with a Ray of its own: its workers have the environment of the driver."""

    def run(*args: object, **environment: str) -> Finished:
        command = [sys.executable, "-m", "jobs", *map(str, args)]
        folders = {"RAY_TMPDIR": str(ray_folder), "TMPDIR": str(ray_folder)}
        merged = {**os.environ, **QUIET, **folders, **environment}
        merged.pop("RAY_ADDRESS", None)
        return Finished(
            subprocess.run(command, cwd=ROOT, env=merged, capture_output=True, text=True, timeout=900)
        )

    return run


def upload(folder: Path, uri: str) -> None:
    for path in sorted(folder.iterdir()):
        store.write_bytes(store.join(uri, path.name), path.read_bytes())


def test_from_bucket_to_bucket(s3: Bucket, alone, reelsift, clips, ask, tmp_path, ray_folder):
    source, questions, out = (store.join(s3.uri, name) for name in ("in", "questions/q.jsonl", "out"))
    upload(clips, source)
    store.write_bytes(questions, ask(*QUERIES).read_bytes())
    printed = [_wrong_credentials_are_refused(alone, source, questions, out)]
    printed.append(_a_missing_bucket_is_named(alone, source, questions))
    line = FaultProxy(s3.server.endpoint, only="/in/")
    printed.append(_lost_credentials_stop_the_run(alone, line, source, questions, out))
    line.always = None
    line.faults.extend([Fault("reset"), Fault("refusal"), Fault("close"), Fault("slow"), None] * 3)
    done = alone("answer", f"{source}/", questions, f"{out}/", *SETTINGS, AWS_ENDPOINT_URL=line.address)
    line.refuse()
    assert not line.faults
    assert done.code == 0, done.err
    assert done.json["failed_videos"] == 1
    again = _again_does_nothing(alone, source, questions, out)
    shown = _show_reads_it(alone, out)
    local = reelsift("answer", clips, ask(*QUERIES), tmp_path / "out", *SETTINGS)
    assert local.code == 0, local.err
    _answers_are_those_of_a_local_run(out, tmp_path / "out", source, clips)
    for command in (*printed, done, again, shown):
        _no_secret_in(s3, command.out.encode(), "stdout")
        _no_secret_in(s3, command.err.encode(), "stderr")
    _no_secret_is_written(s3, out, ray_folder)


def _wrong_credentials_are_refused(alone, source, questions, out) -> Finished:
    refused = alone("answer", source, questions, out, AWS_SECRET_ACCESS_KEY="wrong-and-private")
    assert refused.code == 3
    assert "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE) are wrong" in refused.err
    assert len(refused.err.splitlines()) == 1, refused.err
    assert "wrong-and-private" not in refused.err + refused.out
    assert "Traceback" not in refused.err
    assert not list(store.list_files(out, missing_ok=True))
    return refused


def _a_missing_bucket_is_named(alone, source, questions) -> Finished:
    for place in (("s3://not-there/in", questions, "/tmp/never"), (source, questions, "s3://not-there/out")):
        missing = alone("answer", *place)
        assert missing.code == 3
        assert "no bucket 'not-there'" in missing.err
        assert "Traceback" not in missing.err
    return missing


def _lost_credentials_stop_the_run(alone, line, source, questions, out) -> Finished:
    """The second video cannot be read any more: nothing is written about it, and it is not its own fault."""
    line.faults.append(None)
    line.always = Fault("refusal", code="ExpiredToken", status=400)
    stopped = alone("answer", f"{source}/", questions, f"{out}/", *SETTINGS, AWS_ENDPOINT_URL=line.address)
    assert stopped.code == 3, stopped.err
    assert "the credentials were refused (ExpiredToken)" in stopped.err
    assert "run the same command again to go on" in stopped.err
    assert not list(ledger.scan(out, "verdicts", ["error_type"]))
    written = list(ledger.scan(out, "videos", ["status", "error_message"]))
    assert not any("ExpiredToken" in row["error_message"] for row in written), written
    return stopped


def _again_does_nothing(alone, source, questions, out) -> Finished:
    before = written(out)
    again = alone("answer", source, questions, out, *SETTINGS)
    assert again.code == 0, again.err
    assert "nothing to do" in again.err
    assert written(out) == before
    return again


def _show_reads_it(alone, out) -> Finished:
    shown = alone("show", out, "SELECT count(*) FROM verdicts WHERE error_type = ''", "--format", "csv")
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
                s3, repr(ledger.read_slice(entry.uri, 0, store.num_rows(entry.uri))).encode(), entry.uri
            )
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("session_" in str(path) for path in logs), "Ray kept its logs elsewhere"
    for path in logs:
        _no_secret_in(s3, path.read_bytes(), path)


def test_what_is_shipped_and_kept_and_handed_to_the_decoder_holds_no_secret(s3, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(origin, "WHOLE_BYTES", 1000)
    monkeypatch.setenv("AWS_SESSION_TOKEN_FILE", s3.server.secret_key)
    video = videos.write_video(tmp_path / "a.mp4", options=videos.X264)
    store.write_bytes(store.join(s3.uri, "in/a.mp4"), video.read_bytes())
    reader = Reader(DecodeConfig(), WindowConfig(), store.join(s3.uri, "quarantine"))
    [file] = list_videos(store.join(s3.uri, "in"))
    frames, _ = reader.look(file, [1.0], FrameSize(96, 160))
    assert videos.number(frames.data_NHWC[0]) == 30
    fs, _ = store.open_fs(s3.uri)
    for shipped in (reader, fs, stages.probe, stages.sample_window, lambda: stages.probe(reader, file)):
        _no_secret_in(s3, cloudpickle.dumps(shipped), shipped)
    files = list((kept.folder() or tmp_path).iterdir())
    assert files
    for path in files:
        _no_secret_in(s3, path.read_bytes(), path)
    children = [Path(path).parent for path in _children(os.getpid())]
    assert children
    for child in children:
        for told in ("environ", "cmdline"):
            _no_secret_in(s3, (child / told).read_bytes(), child / told)
            assert s3.server.access_key.encode() not in (child / told).read_bytes()
    isolation.drop_child()


def _children(parent: int) -> list[Path]:
    """Return /proc/ID/cmdline of the decoding children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told = path.with_name("stat").read_text().rpartition(")")[2].split()
            if int(told[1]) == parent and b"pipeline.child" in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found
