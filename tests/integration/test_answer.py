"""The main job end to end: real clips, the embedded models, real Ray; results read with pyarrow and DuckDB."""

import json
from pathlib import Path

import pytest

from pipeline import rows
from tests.integration.results import comparable, read

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
    best = max(
        (v for v in read(out, "verdicts") if v["query_id"] == "rabbit" and not v["error_type"]),
        key=lambda verdict: verdict["confidence"],
    )
    assert Path(best["uri"]).name == "bigbuckbunny.mp4"
    bikes = [v for v in read(out, "verdicts") if v["query_id"] == "bicycle" and "bikes" in v["uri"]]
    assert any(3.0 <= item["pts_s"] <= 9.7 for item in bikes[0]["evidence"])


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
    files = sorted(out.rglob("*"))
    again = reelsift("answer", clips, ask(*QUERIES), out, *SETTINGS)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert sorted(out.rglob("*")) == files
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


def test_pools_of_one_and_two_scorers_give_the_same_bits(reelsift, clips, ask, tmp_path):
    queries = ask(*QUERIES[:4])
    for size in ("1", "2"):
        pool = ("--score.pool.min-size", size, "--score.pool.max-size", size)
        done = reelsift("answer", clips, queries, tmp_path / size, *SETTINGS, *pool)
        assert done.code == 0, done.err
    for table in rows.TABLES:
        assert comparable(tmp_path / "1", table) == comparable(tmp_path / "2", table)


def test_a_question_on_the_command_line(reelsift, clips, tmp_path):
    done = reelsift(
        "answer", clips / "bikes.mp4", tmp_path / "out", "--query", "a bicycle", "--query", "a dog"
    )
    assert done.code == 0, done.err
    assert [(v["query"], v["kind"]) for v in read(tmp_path / "out", "verdicts")] == [
        ("a bicycle", "find"),
        ("a dog", "find"),
    ]
