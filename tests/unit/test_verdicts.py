"""One verdict per (video, query): shards tile the ids, failed videos are judged as failed."""

import pytest

from pipeline import ledger, rows, sink, verdicts
from pipeline.config import JobConfig
from pipeline.queries import Query
from pipeline.reduce import AGGREGATORS
from pipeline.windows import key, sorted_keys, window_id

QUERIES = [Query("q1", "a dog", "find"), Query("q2", "a cat", "flag")]
VIDEOS = ["00" * 8, "7f" * 8, "ff" * 8]
BROKEN = "80" * 8


def answer(video, query, start_s, confidence):
    return {
        "window_id": window_id(video, "1", start_s, start_s + 10), "video_id": video, "version": "1", "uri": video,
        "start_s": start_s, "end_s": start_s + 10, "query_id": query.query_id, "query": query.text,
        "kind": query.kind, "answer": "found" if query.kind == "find" else "yes", "confidence": confidence,
        "spans": [{"start_s": start_s + 1, "end_s": start_s + 2, "score": confidence}], "frames_seen": 3,
    }  # fmt: skip


@pytest.fixture
def out(tmp_path):
    """Three good videos of two windows each, one broken one, all answered."""
    folder = str(tmp_path)
    run = ledger.open_run(folder, JobConfig(), QUERIES, {})
    videos = [{"video_id": name, "version": "1", "uri": name, "num_windows": 2} for name in VIDEOS]
    videos.append(
        {"video_id": BROKEN, "version": "1", "uri": "b", "error_type": "ProbeError", "error_message": "empty"}
    )
    answers = [
        answer(v, q, start, 0.9 - start / 100) for v in VIDEOS for q in QUERIES for start in (0.0, 10.0)
    ]
    ledger.commit(
        run, sink.stage_part(run.staging, {"videos": rows.to_table(videos, rows.VIDEOS)}, ["v"], {})
    )
    ledger.commit(
        run, sink.stage_part(run.staging, {"answers": rows.to_table(answers, rows.ANSWERS)}, ["a"], {})
    )
    return folder


def judge(out, shards, judged=()):
    found = sorted_keys(key(v, "1") for v in [*VIDEOS, BROKEN])
    aggregate = AGGREGATORS["strongest-window"]
    return [
        verdict
        for shard in shards
        for verdict in verdicts.judge(out, shard, QUERIES, aggregate, found=found, judged=sorted_keys(judged))
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_shards_gives_the_same_verdicts(out, count):
    def name(verdict):
        return verdict["video_id"], verdict["query_id"]

    one = sorted(judge(out, verdicts.shards(1)), key=name)
    assert len(one) == 4 * len(QUERIES)
    assert sorted(judge(out, verdicts.shards(count)), key=name) == one


def test_shards_tile_the_ids():
    shards = verdicts.shards(5)
    assert shards[0]["low"] == "0" * 16
    assert shards[-1]["high"] > "f" * 16
    assert [a["high"] for a in shards[:-1]] == [b["low"] for b in shards[1:]]


def test_a_video_that_cannot_be_opened_is_judged_as_failed_not_as_no(out):
    broken = [v for v in judge(out, verdicts.shards(1)) if v["video_id"] == BROKEN]
    assert [(v["query_id"], v["error_type"], v["error_message"]) for v in broken] == [
        ("q1", "ProbeError", "empty"),
        ("q2", "ProbeError", "empty"),
    ]
    table = rows.to_table(broken, rows.VERDICTS)
    assert table["answer"].to_pylist() == ["", ""]


def test_verdicts_that_exist_are_not_made_again(out):
    judged = [key(v, "1", q.query_id) for v in [*VIDEOS, BROKEN] for q in QUERIES][:-1]
    left = judge(out, verdicts.shards(1), judged)
    assert [(v["video_id"], v["query_id"]) for v in left] == [(BROKEN, "q2")]
