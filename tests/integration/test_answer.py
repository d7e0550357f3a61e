"""The main job end to end: real clips, the embedded models, real Ray; results read with pyarrow and DuckDB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import rows
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import comparable, read, written

QUERIES = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "bicycle", "kind": "find", "text": "a bicycle"},
    {"query_id": "animal", "kind": "flag", "text": "an animal"},
    {
        "query_id": "where",
        "kind": "choose",
        "text": "where is this",
        "choices": ["a forest", "a city street"],
    },
    {"query_id": "free", "kind": "ask", "text": "What happens?"},
]
GOOD = 3
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2")


@pytest.fixture
def job(reelsift, clips, ask, tmp_path):
    """A finished job: four files, one of them broken, five questions."""
    out = tmp_path / "out"
    done = reelsift("answer", clips, ask(*QUERIES), out, *SETTINGS)
    assert done.code == 0, done.err
    return out, done


def test_the_whole_job(job, reelsift, clips, ask):
    out, done = job
    _every_row_is_there(out, done)
    _the_broken_file_is_one_failed_row(out)
    _free_text_without_a_model_says_what_to_set(out)
    _hits_are_where_they_are(out)
    _duckdb_reads_it(out)
    _the_run_is_on_record(out, done)
    _again_does_nothing(out, reelsift, clips, ask)
    _other_settings_are_refused(out, reelsift, clips, ask)
    _a_new_question_is_answered_alone(out, reelsift, clips, ask)


def _every_row_is_there(out, done):
    videos, answers, verdicts = (read(out, name) for name in ("videos", "answers", "verdicts"))
    assert len(videos) == GOOD + 1
    windows = sum(video["num_windows"] for video in videos)
    assert windows > GOOD, "at least one clip must span several windows"
    keys = {(a["window_id"], a["query_id"]) for a in answers}
    assert len(answers) == len(keys) == windows * len(QUERIES)
    assert len(verdicts) == (GOOD + 1) * len(QUERIES)
    assert done.json["answers"] == len(answers)
    frames = read(out, "frames")
    assert len({(f["video_id"], f["pts_s"]) for f in frames}) == len(frames)
    assert sum(a["frames_seen"] for a in answers) == len(frames) * len(QUERIES)
    for answer in answers:
        assert 0 <= answer["confidence"] <= 1
        assert all(answer["start_s"] <= s["start_s"] < s["end_s"] <= answer["end_s"] for s in answer["spans"])


def _the_broken_file_is_one_failed_row(out):
    failed = [video for video in read(out, "videos") if video["error_type"]]
    assert [Path(video["uri"]).name for video in failed] == ["broken.mp4"]
    assert failed[0]["error_type"] == "ProbeError"
    assert failed[0]["num_windows"] == 0


def _free_text_without_a_model_says_what_to_set(out):
    free = [answer for answer in read(out, "answers") if answer["query_id"] == "free"]
    assert free
    assert all(answer["error_type"] == "AnswerError" for answer in free)
    assert all("--answer.model" in answer["error_message"] for answer in free)


def _hits_are_where_they_are(out):
    verdicts = read(out, "verdicts")
    rabbits = [v for v in verdicts if v["query_id"] == "rabbit" and v["answer"] == "found"]
    assert _names(rabbits) == ["bigbuckbunny.mp4"]
    [bikes] = [v for v in verdicts if v["query_id"] == "bicycle" and v["uri"].endswith("bikes.mp4")]
    assert bikes["answer"] == "found"
    # a bicycle leans on the railing from 5.5 s; a window of 4 s knows nothing of its neighbours
    assert any(span["start_s"] <= 6.0 < span["end_s"] for span in bikes["spans"])
    assert not any(span["start_s"] < 3.5 for span in bikes["spans"]), "there is only a taxi"


def _names(verdicts):
    return sorted(Path(verdict["uri"]).name for verdict in verdicts)


def _duckdb_reads_it(out):
    import duckdb

    for table, schema in rows.TABLES.items():
        found = duckdb.sql(f"SELECT * FROM read_parquet('{out}/{table}/*.parquet')")
        assert found.columns == schema.names
    query = f"SELECT count(*) FROM read_parquet('{out}/answers/*.parquet') WHERE error_type = ''"
    [(good,)] = duckdb.sql(query).fetchall()
    assert good == sum(1 for a in read(out, "answers") if not a["error_type"])


def _the_run_is_on_record(out, done):
    folder = out / "_run" / done.json["run_id"]
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["this_run"]["windows"] == stats["windows"]
    assert stats["this_run"]["decode_s"] > 0
    assert {"ray", "torch", "pyarrow"} <= json.loads((folder / "versions.json").read_text()).keys()
    assert not list((folder / "staging").glob("*"))


def _again_does_nothing(out, reelsift, clips, ask):
    before = {table: comparable(out, table) for table in rows.TABLES}
    files = written(out)
    again = reelsift("answer", clips, ask(*QUERIES), out, *SETTINGS)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert written(out) == files
    assert before == {table: comparable(out, table) for table in rows.TABLES}


def _other_settings_are_refused(out, reelsift, clips, ask):
    refused = reelsift(
        "answer", clips, ask(*QUERIES), out, "--window.length-s", "5", "--window.sample-fps", "2"
    )
    assert refused.code == 2
    assert "window.length_s: 4.0 -> 5.0" in refused.err


def _a_new_question_is_answered_alone(out, reelsift, clips, ask):
    before = {table: comparable(out, table) for table in rows.TABLES}
    more = {"query_id": "car", "kind": "find", "text": "a car"}
    done = reelsift("answer", clips, ask(*QUERIES, more), out, *SETTINGS)
    assert done.code == 0, done.err
    windows = sum(video["num_windows"] for video in read(out, "videos"))
    assert done.json["this_run"]["answers"] == windows
    assert comparable(out, "frames") == before["frames"], "frames are indexed once"
    assert set(before["answers"]) < set(comparable(out, "answers"))
    assert len(read(out, "answers")) == windows * (len(QUERIES) + 1)


def test_two_scoring_actors_give_the_bits_of_the_tasks_that_decode(reelsift, clips, ask, tmp_path):
    queries, pool = ask(*QUERIES[:4]), ("--score.pool.min-size", 2, "--score.pool.max-size", 2)
    for name, more in (("tasks", ()), ("actors", ("--score.pool.device", "cpu", *pool))):
        done = reelsift("answer", clips, queries, tmp_path / name, *SETTINGS, *more)
        assert done.code == 0, done.err
        assert ("  sample+score  100 %" in done.err) == (name == "tasks")  # one task of Ray: no frame travels
        assert ("score: 2 to 2 actors" in done.err) == (name == "actors")
    for table in rows.TABLES:
        assert comparable(tmp_path / "tasks", table) == comparable(tmp_path / "actors", table)


def test_the_demo_finds_what_is_there(ray_address, tmp_path):
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.demo", folder],
        cwd=ROOT,
        env={**os.environ, **QUIET, "RAY_ADDRESS": ray_address},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "What was found where" in done.stderr
    out = folder / "out"
    _the_broken_file_is_one_failed_row(out)
    found = {}
    for verdict in read(out, "verdicts"):
        if not verdict["error_type"] and verdict["answer"] == "found":
            found.setdefault(verdict["query_id"], {})[Path(verdict["uri"]).name] = verdict["spans"]
    # bikes.mp4: a taxi 1.2-3.0 s, a cyclist from 4.4 s, a bicycle on a railing 5.5-7.5 s, an old one 7.5-9.7 s
    bicycle, taxi, railing = (found[name]["bikes.mp4"] for name in ("bicycle", "taxi", "railing"))
    _lie_within(bicycle, 4.0, 10.0)
    _lie_within(taxi[:1], 1.0, 4.0)
    _lie_within(railing, 5.0, 8.2)
    for spans, moment_s in ((bicycle, 6.0), (taxi[:1], 2.5), (railing, 6.5)):
        assert any(span["start_s"] <= moment_s < span["end_s"] for span in spans), (spans, moment_s)
    assert list(found["rabbit"]) == ["bigbuckbunny.mp4"]
    assert "whale" not in found


def _lie_within(spans, start_s, end_s):
    assert spans
    assert all(start_s <= span["start_s"] < span["end_s"] <= end_s for span in spans), spans
