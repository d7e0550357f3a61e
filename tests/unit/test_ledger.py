"""Parts count once they are committed, whatever is killed when; other jobs' folders are refused."""

import pytest

from pipeline import ledger, rows, sink, store
from pipeline.config import JobConfig, PlanConfig, WindowConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.windows import holds, key

QUERIES = [Query("q1", "a dog", "find")]


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


MODELS = {"scorer": "embedded v1", "answerer": "@"}


def reopen(out, config=None, queries=QUERIES, models=MODELS):
    return ledger.open_run(out, config or JobConfig(), queries, models)


def start(out):
    run = reopen(out)
    ledger.start_run(run, JobConfig(), QUERIES, MODELS, {})
    return run


def part(run, *names):
    videos = [{"video_id": name, "version": "1", "uri": name, "probe_s": 0.0} for name in names]
    table = sink.stage_videos(run.staging, run.run_id, rows.to_table(videos, rows.PROBED))
    return next(rows.to_rows(table))


def ids(out):
    return sorted(row["video_id"] for row in ledger.scan(out, "videos", ["video_id"]))


def test_staged_rows_are_invisible_until_committed(out):
    run = start(out)
    staged = part(run, "a", "b")
    assert ids(out) == []
    ledger.commit(run, staged)
    assert ids(out) == ["a", "b"]
    assert holds(ledger.video_keys(out), key("a", "1"))


def test_the_same_part_committed_twice_counts_once(out):
    run = start(out)
    ledger.commit(run, part(run, "a", "b"))
    ledger.commit(run, part(run, "b", "a"))  # a task run twice stages the same part again
    assert ids(out) == ["a", "b"]


def test_a_crash_after_the_commit_record_is_rolled_forward(out, monkeypatch):
    run = start(out)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.commit(run, part(run, "a"))
    assert ids(out) == []
    reopen(out)
    assert ids(out) == ["a"]


def test_a_crash_before_the_commit_record_leaves_nothing(out):
    run = start(out)
    staged = part(run, "a")
    reopen(out)
    assert ids(out) == []
    assert not store.exists(staged["files"][0]["staged"])


def test_a_half_written_commit_record_does_not_count(out):
    run = start(out)
    staged = part(run, "a")
    store.write_bytes(store.join(run.folder, "commits", f"{staged['part_id']}.json.0123.tmp"), b'{"part')
    reopen(out)
    assert ids(out) == []


@pytest.fixture
def used(out):
    """A folder with one committed part."""
    run = start(out)
    ledger.commit(run, part(run, "a"))
    return out


def test_other_settings_are_refused_by_name(used):
    # what changes no result is no difference
    with pytest.raises(ConfigError, match=r"by run [\w-]+: window.sample_fps: 1.0 -> 2.0. Use the same"):
        reopen(used, JobConfig(window=WindowConfig(sample_fps=2), max_failed_fraction=0.5))


def test_another_model_under_the_same_name_is_refused(used):
    with pytest.raises(ConfigError, match=r"answerer: '@' -> 'llm@abc'"):
        reopen(used, models={**MODELS, "answerer": "llm@abc"})


def test_a_query_id_stands_for_one_question(used):
    with pytest.raises(ConfigError, match=r"another question called 'q1' \(text: 'a dog' -> 'a cat'\)"):
        reopen(used, queries=[Query("q1", "a cat", "find")])
    reopen(used, queries=[*QUERIES, Query("q2", "a cat", "find")])


def test_a_run_that_committed_nothing_binds_nobody(out):
    start(out)
    reopen(out, JobConfig(window=WindowConfig(sample_fps=2)), [Query("q1", "a cat", "find")])


def test_a_part_whose_files_another_run_removed_is_not_committed(out):
    first = start(out)
    staged = part(first, "a")
    reopen(out)  # takes the first run for dead and removes what it staged
    with pytest.raises(StoreError, match="does another run write to"):
        ledger.commit(first, staged)
    assert ids(out) == []
    reopen(out)  # and the folder is still usable


def test_a_recovered_run_is_not_looked_at_again(out):
    run = start(out)
    ledger.commit(run, part(run, "a"))
    reopen(out)
    for uri in ledger.part_files(out, "videos"):
        store.delete(uri)
    part(run, "a")  # a machine that nobody could reach writes it once more
    reopen(out)
    assert ids(out) == []
    assert not list(store.list_files(run.staging, missing_ok=True))


def test_of_a_dead_run_only_the_records_of_staged_parts_are_read(out, monkeypatch):
    """A run of ten million files has a hundred thousand records, and those of a few parts are half done."""
    run = start(out)
    for name in "abc":
        ledger.commit(run, part(run, name))
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.commit(run, part(run, "d"))
    part(run, "e")
    asked = []
    read = store.read_if_there
    monkeypatch.setattr(store, "read_if_there", lambda uri: asked.append(uri) or read(uri))
    reopen(out)
    assert ids(out) == ["a", "b", "c", "d"]
    assert len([uri for uri in asked if "/commits/" in uri]) == 2


@pytest.mark.parametrize(
    "end", [reopen, lambda out: ledger.close_run(ledger.Run(out, ledger.run_ids(out)[0]), {})]
)
def test_what_a_dead_run_stages_late_is_removed_and_never_published(out, end):
    """By a machine that nobody could reach for a while."""
    run = start(out)
    end(out)
    late = part(run, "a")
    assert all(store.exists(file["staged"]) for file in late["files"])
    reopen(out)
    assert not list(store.list_files(run.staging, missing_ok=True))
    assert ids(out) == []


def test_a_file_that_was_cut_off_is_not_part_of_the_list_of_work(out):
    run = start(out)
    [part] = ledger.write_parts(run.manifest("files"), [{"video_id": "a"}, {"video_id": "b"}], rows.FILE)
    store.write_bytes(store.join(run.manifest("files"), "000001.parquet.0a1b2c3d.tmp"), b"PAR1")
    assert ledger.manifest_files(run, "files") == [part.uri]


def test_opening_a_run_writes_nothing(out):
    reopen(out)
    assert not store.exists(out)


def test_lists_of_work_come_back_in_slices(out, monkeypatch):
    monkeypatch.setattr(ledger, "PART_ROWS", 10)
    run = start(out)
    content = ({"uri": f"{n:02d}.mp4"} for n in range(25))
    parts = ledger.write_parts(run.manifest("files"), content, rows.FILE)
    assert [(part.start, part.stop) for part in parts] == [(0, 10), (0, 10), (0, 5)]
    pieces = ledger.cut(parts, 4)
    assert max(piece.stop - piece.start for piece in pieces) == 4
    read = [row["uri"] for piece in pieces for row in ledger.read_slice(piece.uri, piece.start, piece.stop)]
    assert read == [f"{n:02d}.mp4" for n in range(25)]


def test_short_windows_share_a_task_until_it_is_long_enough(out):
    run = start(out)
    lengths_s = [5, 5, 5, 300, 5, 400, 5, 5, 5, 5]
    content = ({"window_id": str(n), "start_s": 10.0, "end_s": 10.0 + s} for n, s in enumerate(lengths_s))
    parts = ledger.write_parts(run.manifest("windows"), content, rows.WINDOW)
    pieces = [(piece.start, piece.stop) for piece in ledger.cut_windows(parts, 3, 300)]
    assert pieces == [(0, 3), (3, 4), (4, 5), (5, 6), (6, 9), (9, 10)]


def test_an_empty_list_of_work_writes_nothing(out):
    run = start(out)
    assert ledger.write_parts(run.manifest("files"), [], rows.FILE) == []
    assert not store.exists(run.manifest("files"))


ROUTES = {
    ("a dog", "find"): Route("fragment", 0.75, "llm: x"),
    ("why?", "ask"): Route("global", 0.6, "llm: y"),
}
OTHER = Route("global", 0.1, "llm: z")


def test_routes_are_read_as_the_oldest_run_wrote_them(out):
    assert ledger.read_routes(out, JobConfig(), MODELS) == {}
    for run_id, routes in (("1", ROUTES), ("2", {("a dog", "find"): OTHER, ("new", "ask"): OTHER})):
        run = ledger.Run(out, run_id)
        ledger.start_run(run, JobConfig(), QUERIES, MODELS, {})
        ledger.write_routes(run, routes)
    start(out)  # asked no model
    assert ledger.read_routes(out, JobConfig(), MODELS) == {**ROUTES, ("new", "ask"): OTHER}


def test_routes_of_another_model_or_other_settings_do_not_count(out):
    ledger.write_routes(start(out), ROUTES)
    assert ledger.read_routes(out, JobConfig(), {**MODELS, "router": "trained@1"}) == {}
    assert ledger.read_routes(out, JobConfig(plan=PlanConfig(router="llm")), MODELS) == {}
    assert ledger.read_routes(out, JobConfig(), MODELS) == ROUTES
