"""Failed rows are taken out so that they are missing; whatever is cut short when, no key stands twice."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline import ledger, reasons, reopen, rows, store
from pipeline.answered import read_answered
from pipeline.errors import JobError
from pipeline.queries import Query
from pipeline.windows import key, sorted_keys, window_id

QUERIES = [Query("q1", "a dog", "find"), Query("q2", "a cat", "find")]
FOUND = sorted_keys(key(name, "1") for name in ("good", "half", "bad"))


@pytest.fixture
def out(tmp_path):
    """good: all well; half: its second window failed for q2; bad: not a video; elsewhere: bad, not asked for."""
    out = str(tmp_path / "out")
    bad = {"error_type": "ProbeError", "error_message": "no.mp4: not a video", "uri": "no.mp4"}
    timeout = {"error_type": "DecodeError", "error_message": "half.mp4: timed out", "uri": "half.mp4"}
    write(out, "videos", "r1-v", {"video_id": "good"}, {"video_id": "bad", **bad}, {"video_id": "half"})
    write(out, "videos", "r1-w", {"video_id": "elsewhere", **bad})
    write(out, "answers", "r1-a", *(answer("good", 0, q, True) for q in ("q1", "q2")))
    write(out, "answers", "r1-b", answer("half", 0, "q1", True), answer("half", 1, "q1", True))
    write(out, "answers", "r2-c", answer("half", 0, "q2", False), answer("half", 1, "q2", False, **timeout))
    for name, video in (("r1-a", "good"), ("r1-b", "half")):
        write(out, "frames", name, *({"video_id": video, "wanted_s": at} for at in (0.0, 1.0, 10.0)))
    verdicts = [
        {"video_id": video, "query_id": query, **(bad if "bad" in video else {})}
        for video in ("good", "half", "bad")
        for query in ("q1", "q2", "old")
    ]
    write(out, "verdicts", "r1-x", *verdicts, {"video_id": "elsewhere", "query_id": "q1", **bad})
    return out


def write(out, table, name, *content):
    schema = rows.TABLES[table]
    filled = [rows.fill({"version": "1", **row}, schema) for row in content]
    store.write_table(store.join(out, table, f"{name}.parquet"), rows.to_table(filled, schema))


def answer(video, number, query, indexed, **more):
    start_s = number * 10.0
    found = {"video_id": video, "window_id": window_id(video, "1", start_s, start_s + 10), "query_id": query}
    return {**found, "start_s": start_s, "end_s": start_s + 10, "indexed": indexed, **more}


def keys(out, table, *columns):
    names = [tuple(row[name] for name in columns) for row in ledger.scan(out, table, columns)]
    assert len(set(names)) == len(names)
    return set(names)


def state(out):
    return (
        keys(out, "videos", "video_id"),
        keys(out, "answers", "window_id", "query_id"),
        keys(out, "verdicts", "video_id", "query_id"),
        keys(out, "frames", "video_id", "wanted_s"),
    )


def go(out, check=lambda: None, queries=QUERIES):
    return reopen.reopen(out, queries, FOUND, check)


def test_what_failed_is_missing_afterwards_and_nothing_else(out):
    videos, answers, verdicts, frames = state(out)
    done = go(out)
    assert (done.videos, done.answers, done.verdicts) == (1, 1, 4)
    assert done.reasons == Counter(
        {"video: ProbeError: <file>: not a video": 1, "answer: DecodeError: <file>: timed out": 1}
    )
    # a video that may be good now is judged anew on every question, also those that nobody asks today
    gone = {("bad", "q1"), ("bad", "q2"), ("bad", "old"), ("half", "q2")}
    failed = (window_id("half", "1", 10, 20), "q2")
    assert state(out) == (videos - {("bad",)}, answers - {failed}, verdicts - gone, frames)


def test_reasons_beyond_some_count_as_one(out, monkeypatch):
    monkeypatch.setattr(reasons, "MOST", 1)
    assert go(out).reasons == Counter({"video: ProbeError: <file>: not a video": 1, "other reasons": 1})


def test_a_second_time_there_is_nothing_to_do(out):
    go(out)
    files = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.parquet")}
    done = go(out)
    assert (done.videos, done.answers, done.verdicts, done.reasons) == (0, 0, 0, Counter())
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.parquet")} == files


def test_questions_that_are_not_asked_stay_as_they_are(out):
    before = state(out)
    done = go(out, queries=QUERIES[:1])
    assert (done.videos, done.answers) == (1, 0)
    assert state(out)[1] == before[1]
    assert ("half", "q2") in state(out)[2]


def test_a_part_without_rows_is_gone(out):
    bad = {"error_type": "AnswerError", "error_message": "no model", "uri": "good.mp4"}
    write(out, "answers", "r3-d", answer("good", 1, "q1", False, **bad))
    go(out)
    assert not store.exists(store.join(out, "answers", "r3-d.parquet"))


def test_frames_of_a_window_without_any_answer_left_go_with_it(out):
    """They would be written a second time: nothing says any more that they are there."""
    bad = {"error_type": "AnswerError", "error_message": "no model", "uri": "good.mp4"}
    write(out, "answers", "r3-d", answer("good", 2, "q1", True, **bad), answer("good", 3, "q1", True))
    write(out, "frames", "r3-d", *({"video_id": "good", "wanted_s": at} for at in (20.0, 29.5, 30.0)))
    before = state(out)[3]
    go(out)
    assert state(out)[3] == before - {("good", 20.0), ("good", 29.5)}
    answered = read_answered(out)
    assert answered.frames_uri(window_id("good", "1", 20, 30)) == ""
    assert answered.frames_uri(window_id("good", "1", 30, 40)).endswith("r3-d.parquet")


def test_a_good_answer_from_elsewhere_does_not_lead_to_frames_that_went(out):
    """The second question was answered from the first one's frames, in a part with frames of another window."""
    bad = {"error_type": "AnswerError", "error_message": "no model", "uri": "good.mp4"}
    write(out, "answers", "r3-d", answer("good", 2, "q1", True, **bad))
    write(out, "frames", "r3-d", {"video_id": "good", "wanted_s": 20.0})
    write(out, "answers", "r4-e", answer("good", 2, "q2", False), answer("good", 3, "q2", True))
    write(out, "frames", "r4-e", {"video_id": "good", "wanted_s": 30.0})
    go(out)
    assert ("good", 20.0) not in state(out)[3]
    answered = read_answered(out)
    assert answered.frames_uri(window_id("good", "1", 20, 30)) == "", "it is decoded and written down again"
    assert answered.frames_uri(window_id("good", "1", 30, 40)).endswith("r4-e.parquet")


def test_frames_that_another_answer_speaks_for_stay(out):
    bad = {"error_type": "AnswerError", "error_message": "no model", "uri": "good.mp4"}
    write(out, "answers", "r3-d", answer("good", 2, "q1", True, **bad), answer("good", 2, "q2", True))
    write(out, "frames", "r3-d", {"video_id": "good", "wanted_s": 20.0})
    go(out)
    assert ("good", 20.0) in state(out)[3]
    assert read_answered(out).frames_uri(window_id("good", "1", 20, 30)).endswith("r3-d.parquet")


def test_cut_short_between_any_two_files_it_goes_on_to_the_same_end(out, tmp_path):
    bad = {"error_type": "AnswerError", "error_message": "no model", "uri": "good.mp4"}
    write(out, "answers", "r3-d", answer("good", 2, "q1", True, **bad))
    write(out, "frames", "r3-d", {"video_id": "good", "wanted_s": 20.0})
    for number in range(100):
        copy = tmp_path / f"copy{number}"
        for path in Path(out).rglob("*.parquet"):
            store.write_bytes(str(copy / path.relative_to(out)), path.read_bytes())
        left = iter(range(number))

        def cut(left=left):
            if next(left, None) is None:
                raise JobError("lost")

        try:
            done = go(str(copy), cut)
        except JobError:
            videos, answers, verdicts, _ = state(str(copy))
            for video, query in verdicts:  # no verdict outlives what it rests on
                assert video not in FAILED_VIDEOS or (video,) in videos
                assert (video, query) not in RESTS_ON or RESTS_ON[video, query] in answers
            go(str(copy))
            continue
        assert done.answers == 2
        assert number == 5, "verdicts, frames, two files of answers, videos"
        break
    whole = state(str(copy))
    for number in range(5):
        assert state(str(tmp_path / f"copy{number}")) == whole


FAILED_VIDEOS = {"bad"}
RESTS_ON = {
    ("half", "q2"): (window_id("half", "1", 10, 20), "q2"),
    ("good", "q1"): (window_id("good", "1", 20, 30), "q1"),
}


def test_a_failed_video_is_known_by_its_key(out):
    assert reopen.failed_videos(out).tolist() == sorted([key("bad", "1"), key("elsewhere", "1")])
