"""Windows are planned only where an answer is missing, and their frames are found in the file that holds them."""

import random

import pytest

from pipeline import ledger, rows, sink, store
from pipeline.answered import open_windows, plan_windows, read_answered
from pipeline.queries import Query
from pipeline.windows import key, sorted_keys, window_id

VIDEO = {"video_id": "v", "version": "1", "uri": "a.mp4", "duration_s": 650.0, "error_type": ""}
VIDEO |= {
    "size_bytes": 9,
    "etag": "e",
    "window_starts_s": [0.0, 300.0, 600.0],
    "key_gap_s": 8.0,
    "clock_restarts": True,
}
QUERIES = [Query("q1", "a dog", "find"), Query("q2", "a cat", "find")]
FOUND = sorted_keys([key("v", "1")])
FIRST = window_id("v", "1", 0, 300)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def write(out, name, answers, *, frames=True):
    """Write a part: answers as (window, query, whether it is indexed here), and a file of frames or none."""
    columns = ("window_id", "query_id", "indexed")
    answered = [rows.fill(dict(zip(columns, answer, strict=True)), rows.ANSWERS) for answer in answers]
    store.write_table(store.join(out, "answers", f"{name}.parquet"), rows.to_table(answered, rows.ANSWERS))
    if frames:
        store.write_table(store.join(out, "frames", f"{name}.parquet"), rows.to_table([], rows.FRAMES))


def place(out, window):
    """Return the name of the file of frames that a window is said to be in."""
    return read_answered(out).frames_uri(window).rpartition("/")[2].removesuffix(".parquet")


def plan(out, videos=(VIDEO,)):
    return list(plan_windows(videos, QUERIES, found=FOUND, answered=read_answered(out)))


def test_every_window_is_planned_once(out):
    windows = plan(out)
    assert [(w["start_s"], w["end_s"]) for w in windows] == [(0, 300), (300, 600), (600, 650)]
    assert all(w["query_ids"] == ["q1", "q2"] and w["write_frames"] for w in windows)
    assert all(w["key_gap_s"] == 8.0 and w["clock_restarts"] and w["frames_uri"] == "" for w in windows)


def test_answered_queries_are_not_asked_again_and_indexed_frames_not_written_again(out):
    write(out, "r1-a", [(FIRST, "q1", True)])
    first, *others = plan(out)
    assert first["query_ids"] == ["q2"]
    assert not first["write_frames"]
    assert first["frames_uri"] == store.join(out, "frames", "r1-a.parquet")
    assert len(others) == 2
    assert all(w["write_frames"] for w in others)
    write(out, "r2-a", [(FIRST, "q2", False)], frames=False)
    assert len(plan(out)) == 2


def test_unusable_videos_and_videos_of_other_listings_have_no_windows(out):
    assert plan(out, [{**VIDEO, "error_type": "ProbeError"}]) == []
    assert plan(out, [{**VIDEO, "version": "2"}]) == []


def test_a_window_that_failed_was_never_indexed(out):
    write(out, "r1-a", [(FIRST, "q1", False), ("other", "q1", True)])
    assert place(out, FIRST) == ""
    assert place(out, "other") == "r1-a"
    assert plan(out)[0]["write_frames"]


def test_a_window_whose_file_of_frames_is_gone_is_written_down_again(out):
    write(out, "r1-a", [(FIRST, "q1", True)], frames=False)
    first = plan(out)[0]
    assert (first["frames_uri"], first["write_frames"], first["query_ids"]) == ("", True, ["q2"])


def test_later_answers_beside_frames_of_other_windows_do_not_lead_there(out):
    """Whatever files are called: once parts are merged, their names do not tell which is older."""
    write(out, "z", [(FIRST, "q1", True)])
    write(out, "a", [(FIRST, "q2", False), ("new", "q1", True)])
    write(out, "b", [(FIRST, "q3", False)], frames=False)
    assert place(out, FIRST) == "z"
    assert place(out, "new") == "a"


def test_places_are_those_of_a_slow_look_at_all_parts(out):
    """Parts of several runs, merged in random groups: each window is found where its frames were written."""
    dice = random.Random(5)
    windows = [f"w{number}" for number in range(40)]
    seen: set[str] = set()
    parts = []
    for run in range(4):
        todo = dice.sample(windows, 25)
        for start in range(0, len(todo), 6):
            mine = todo[start : start + 6]
            parts.append((f"run{run}", mine, [name for name in mine if name not in seen]))
            seen.update(mine)
    dice.shuffle(parts)
    expected = {}
    while parts:
        group = [parts.pop() for _ in range(min(len(parts), dice.randint(1, 4)))]
        answers = [(name, run, name in new) for run, mine, new in group for name in mine]
        fresh = [name for _, _, new in group for name in new]
        file = f"{dice.random():.6f}"
        write(out, file, answers, frames=bool(fresh))
        expected |= dict.fromkeys(fresh, file)
    assert {name: place(out, name) for name in windows} == {name: expected.get(name, "") for name in windows}
    assert len(set(expected.values())) > 3


def test_what_is_remembered_is_small(out):
    answers = [(f"w{number}", query, True) for number in range(500) for query in ("q1", "q2")]
    write(out, "part", answers)
    found = read_answered(out)
    assert found.answers.nbytes == 8 * 1000
    assert found.windows.nbytes + found.file_of.nbytes == 12 * 500


def test_windows_are_those_that_the_probe_wrote_down_whatever_the_key_times(out):
    run = ledger.Run(out, "r1")
    video = {"video_id": "a", "version": "1", "uri": "a", "duration_s": 700.0, "key_times_s": None}
    video |= {"key_gap_s": 8.0, "window_starts_s": [0.0, 296.0, 592.0], "clock_restarts": False}
    table = rows.to_table([video], rows.PROBED)
    ledger.commit(run, next(rows.to_rows(sink.stage_videos(run.staging, run.run_id, table))))
    windows = list(open_windows(run, QUERIES, sorted_keys([key("a", "1")])))
    assert [(w["start_s"], w["end_s"], w["key_gap_s"]) for w in windows] == [
        (0, 296, 8), (296, 592, 8), (592, 700, 8)
    ]  # fmt: skip
