"""New questions over an archive that was seen before: only evidence is decoded, and the answers are those of one run.

The archive may even be unreadable by then, as long as no question needs a frame shown.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline import ledger, rows, store
from tests.integration.results import TIMING, comparable
from tests.integration.s3_server import Bucket
from tests.integration.test_s3_job import upload

OLD = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "car", "kind": "flag", "text": "a car or truck on the road"},
]
NEW = [
    {"query_id": "bike", "kind": "find", "text": "a bicycle"},
    {"query_id": "belt", "kind": "flag", "text": "inside of a car, seat belt"},
    {"query_id": "where", "kind": "choose", "text": "where is this", "choices": ["a street", "a meadow"]},
]
LAST = [{"query_id": "taxi", "kind": "find", "text": "a taxi in the street"}]
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2", "--sink.windows-per-part", "2")
SHARED = {*rows.COST, "read_bytes", "read_requests"}
"""Columns that tell what a run did anew."""


def write(path: Path, queries: list[dict]) -> Path:
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))
    return path


def blank(folder: Path) -> None:
    """Overwrite videos with zeros, of the same size and time: a listing takes them for the same."""
    for path in folder.iterdir():
        about = path.stat()
        path.write_bytes(bytes(about.st_size))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def bring_back(folder: Path, kept: Path) -> None:
    for path in kept.iterdir():
        shutil.copy2(path, folder)


def test_frames_are_not_decoded_twice(reelsift, clips, tmp_path):
    kept, out, whole = (tmp_path / name for name in ("kept", "out", "whole"))
    shutil.copytree(clips, kept)
    at_once = reelsift("answer", clips, write(tmp_path / "q.jsonl", OLD + NEW + LAST), whole, *SETTINGS)
    assert at_once.code == 0, at_once.err
    first = reelsift("answer", clips, write(tmp_path / "q.jsonl", OLD), out, *SETTINGS)
    assert first.json["this_run"]["windows_from_index"] == 0
    assert first.json["this_run"]["decode_s"] > 0
    blank(clips)
    second = reelsift("answer", clips, write(tmp_path / "q.jsonl", NEW), out, *SETTINGS)
    assert second.code == 0, second.err
    did = second.json["this_run"]
    assert did["windows_from_index"] == did["windows"] == first.json["windows"] > 4
    assert did["decode_s"] == did["failed_windows"] == 0
    assert f"({did['windows']} from the index, 0 decoded)" in second.err
    bring_back(clips, kept)
    _damage_the_index(out)
    third = reelsift("answer", clips, write(tmp_path / "q.jsonl", LAST), out, *SETTINGS)
    assert third.code == 0, third.err
    did = third.json["this_run"]
    assert 0 < did["windows_from_index"] < did["windows"]
    assert did["decode_s"] > 0
    for table in ("answers", "verdicts"):
        assert comparable(out, table) == comparable(whole, table)


def _damage_the_index(out: Path) -> None:
    """Cut one file off and remove another; some must be left."""
    cut, gone, *others = sorted((out / "frames").iterdir())
    cut.write_bytes(cut.read_bytes()[:1000])
    gone.unlink()
    assert others


@pytest.mark.needs_ceph
def test_of_a_bucket_only_evidence_is_read(s3: Bucket, reelsift_on_s3, tmp_path):
    """With a scorer inside the language model, which looks at frames that the index proposes."""
    world = tmp_path / "world"
    assert reelsift_on_s3("world", world, "--split", "test", "--videos", "2").code == 0
    source = store.join(s3.uri, "in")
    upload(world / "videos", source)
    asked = [json.loads(line) for line in (world / "queries.jsonl").read_text().splitlines()][:6]
    finds = [{"query_id": "find", "kind": "find", "text": "the bag"}]
    done = {}
    for name, out, queries in (
        ("whole", "whole", finds + asked),
        ("find", "out", finds),
        ("ask", "out", asked),
    ):
        run = reelsift_on_s3("answer", source, write(tmp_path / "q.jsonl", queries), store.join(s3.uri, out),
                             "--recipe", "world", "--plan.router", "rules")  # fmt: skip
        assert run.code == 0, run.err
        done[name] = run.json["this_run"]
    assert done["ask"]["windows_from_index"] == done["ask"]["windows"] > 0
    assert done["ask"]["decode_s"] == 0
    assert 0 < done["ask"]["read_bytes"] == done["whole"]["read_bytes"] - done["find"]["read_bytes"]
    whole, parts = (_answers(store.join(s3.uri, out)) for out in ("whole", "out"))
    assert parts == whole
    assert any("'tokens_used': 0" not in row for row in parts)


def _answers(out: str) -> list[str]:
    """Return all answers without what a run did anew."""
    names = [name for name in rows.ANSWERS.names if name not in TIMING | SHARED]
    return sorted(repr(row) for row in ledger.scan(out, "answers", names))
