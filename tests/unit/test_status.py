"""How far a run is, from what it has committed."""

import json
import socket
import threading

import pytest

from jobs import status
from pipeline import lease, ledger, rows, sink, store
from pipeline.config import JobConfig
from pipeline.errors import ConfigError
from pipeline.queries import Query

MODELS = {"scorer": "embedded v1", "answerer": "@"}


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def begun(out, num_files):
    queries = [Query("q", "a dog", "find")]
    run = ledger.open_run(out, JobConfig(), queries, MODELS)
    ledger.start_run(run, JobConfig(), queries, MODELS, {})
    files = [{"uri": f"{number}.mp4", "video_id": str(number)} for number in range(num_files)]
    ledger.write_parts(run.manifest("files"), files, rows.FILE)
    return run


def commit(run, *names, error=""):
    videos = [
        {"video_id": one, "version": "1", "uri": one, "probe_s": 0.0, "error_type": error} for one in names
    ]
    table = sink.stage_videos(run.staging, run.run_id, rows.to_table(videos, rows.PROBED))
    ledger.commit(run, next(rows.to_rows(table)))


def test_a_run_on_its_way(out, monkeypatch, capsys):
    clock = iter([100.0, 110.0, 130.0])
    run = begun(out, 12)
    monkeypatch.setattr(ledger.time, "time", lambda: next(clock))
    commit(run, "0", "1")
    commit(run, "2", "3", error="ProbeError")
    commit(run, "4", "5")
    monkeypatch.undo()
    with lease.held(out, run.run_id):
        found = status.read(out)
    host = socket.gethostname()
    videos, windows, _, verdicts = found["stages"]
    # two of three commits' files came between the first and the last, 30 s apart
    assert videos == {
        "name": "videos",
        "done": 6,
        "failed": 2,
        "total": 12,
        "per_s": pytest.approx(4 / 30, abs=1e-6),
    }
    assert (windows["done"], windows["total"], windows["per_s"]) == (0, None, None)
    assert verdicts["total"] is None
    assert (found["state"], found["last_commit_s"]) == (f"running on {host}", 130.0)
    assert status.lines(found, 175.0)[:2] == [
        f"run {run.run_id}: running on {host}, last commit 45 s ago, about 45 s left",
        "  videos    50 %  6/12  8.0/min  45 s left  2 failed",
    ]
    assert status.main([out]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {**found, "state": "cut short"}


def test_answers_are_counted_by_the_queries_that_are_open_in_each_window(out):
    run = begun(out, 1)
    windows = [{"window_id": name, "query_ids": asked} for name, asked in (("w", ["p", "q"]), ("x", ["q"]))]
    ledger.write_parts(run.manifest("windows"), windows, rows.WINDOW)
    assert [stage["total"] for stage in status.read(out)["stages"]] == [1, 2, 3, None]


def test_a_run_that_has_just_begun_and_one_that_is_done(out):
    run = begun(out, 1)
    assert status.lines(status.read(out), 0.0)[0] == f"run {run.run_id}: cut short, nothing committed yet"
    commit(run, "0")
    ledger.close_run(run, {})
    found = status.read(out, run.run_id)
    assert found["state"] == "done"
    assert status.lines(found, found["last_commit_s"] + 3700)[:2] == [
        f"run {run.run_id}: done, last commit 1 h 1 min ago", "  videos    100 %  1/1"
    ]  # fmt: skip


def test_commits_of_an_older_version_have_no_time(out):
    run = begun(out, 2)
    commit(run, "0")
    [entry] = store.list_files(store.join(run.folder, "commits"))
    old = json.loads(store.read_bytes(entry.uri))
    store.write_bytes(entry.uri, json.dumps({k: v for k, v in old.items() if k != "committed_s"}).encode())
    found = status.read(out)
    assert (found["stages"][0]["done"], found["last_commit_s"]) == (1, None)


def test_a_run_that_was_cut_short(out):
    run = begun(out, 2)
    commit(run, "0")
    begun(out, 1)
    assert status.read(out, run.run_id)["state"] == "cut short"


def test_only_the_latest_commits_say_how_fast_it_is(out, monkeypatch):
    times_s = [0.0, 100.0, *(10_000.0 + 10 * number for number in range(8)), 10_075.0]
    clock = iter(times_s)
    run = begun(out, 20)
    monkeypatch.setattr(ledger.time, "time", lambda: next(clock))
    for number in range(len(times_s)):
        commit(run, str(number))
    assert status.read(out)["stages"][0]["per_s"] == pytest.approx(7 / 65, abs=1e-6)


def test_watching_reads_each_commit_once_and_ends_with_the_run(out, monkeypatch, capsys):
    run = begun(out, 2)
    commit(run, "0")
    reads = []
    read = store.read_if_there
    monkeypatch.setattr(store, "read_if_there", lambda uri: reads.append(uri) or read(uri))
    naps = iter([lambda: commit(run, "1"), lambda: ledger.close_run(run, {})])
    monkeypatch.setattr(status.time, "sleep", lambda _seconds: next(naps)())
    with lease.held(out, run.run_id):
        assert status.main([out, "--watch", "5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in said if line.startswith("  videos")] == ["1/2", "2/2", "2/2"]
    assert json.loads(said[-1])["state"] == "done"
    assert len([uri for uri in reads if "/commits/" in uri]) == 2


def test_a_manifest_may_grow_until_something_is_committed(out):
    run = begun(out, 2)
    tally = status.Tally(run)

    def total():
        return tally.look()["stages"][0]["total"]

    assert total() == 2
    ledger.write_parts(run.manifest("files"), [{"uri": str(number)} for number in range(5)], rows.FILE)
    assert total() == 5
    commit(run, "0")
    assert total() == 5
    store.delete(store.join(run.manifest("files"), "000000.parquet"))
    assert total() == 5, "its footers are read no more"


def test_footers_of_a_manifest_are_read_at_the_same_time(out, monkeypatch):
    monkeypatch.setattr(ledger, "PART_ROWS", 1)
    begun(out, 4)
    together, num_rows = threading.Barrier(4, timeout=60), store.num_rows
    monkeypatch.setattr(store, "num_rows", lambda uri, lists: together.wait() >= 0 and num_rows(uri, lists))
    assert status.read(out)["stages"][0]["total"] == 4


def test_watching_ends_with_ctrl_c(out, monkeypatch, capsys):
    run = begun(out, 2)

    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupted)
    with lease.held(out, run.run_id):
        assert status.main([out, "--watch"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"].startswith("running on")
    with pytest.raises(ConfigError, match="more than 0"):
        status.main([out, "--watch", "0"])


@pytest.mark.parametrize(("run_id", "says"), [("", "found no run"), ("other", "found no run 'other'")])
def test_no_such_run(out, run_id, says):
    if run_id:
        begun(out, 1)
    with pytest.raises(ConfigError, match=says):
        status.read(out, run_id)
