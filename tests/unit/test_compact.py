"""Small files become few, with the same rows, whatever is killed when; readers see each row once at every moment."""

import itertools
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import compact as command
from jobs import status
from pipeline import compact, lease, ledger, records, rows, sink, sql, store, store_bulk, swap
from pipeline.config import JobConfig, SinkConfig
from pipeline.errors import ConfigError, JobError, StoreError
from pipeline.queries import Query

QUERIES = [Query("q1", "a dog", "find")]
MODELS = {"scorer": "embedded v1", "answerer": "@"}
PART_BYTES = 100_000
"""So that a few parts of the test's size fill a file."""


def run_of(out: str, numbers: range, *, close: bool = True) -> ledger.Run:
    """Write a run of one video and one window per part, with the real sink and ledger."""
    run = ledger.open_run(out, JobConfig(), QUERIES, MODELS)
    ledger.start_run(run, JobConfig(), QUERIES, MODELS, {})
    for number in numbers:
        video = {"video_id": f"{number:016x}", "version": "1", "uri": f"{number}.mp4"}
        table = rows.to_table([rows.fill(video, rows.PROBED)], rows.PROBED)
        for part in rows.to_rows(sink.stage_videos(run.staging, run.run_id, table)):
            ledger.commit(run, part)
        table = rows.to_table([rows.fill(window_of(video, number), rows.ANSWERED)], rows.ANSWERED)
        for part in rows.to_rows(sink.stage_windows(run.staging, run.run_id, "embedded", table)):
            ledger.commit(run, part)
    if close:
        ledger.close_run(run, {})
    return run


def window_of(video: rows.Row, number: int) -> rows.Row:
    sample = {
        "wanted_s": 0.0,
        "pts_s": 0.0,
        "off_s": 0.0,
        "is_key": True,
        "quality": "ok",
        "reason": "",
        "frame": 0,
    }
    window = {**video, "window_id": f"w{number}", "query_ids": ["q1"], "write_frames": number % 5 != 4}
    answer = {**window, "query_id": "q1", "kind": "find", "frames_seen": 1, "confidence": number / 1000}
    return {
        **window,
        "frames_planned": 1,
        "samples": [sample],
        "pts_s": [0.0],
        "novelty": [1.0],
        "slow": [True],
        "embedding": rows.pack(np.random.default_rng(number).random((1, 320), np.float32)),
        "answers": [rows.fill(answer, rows.ANSWERS)],
    }


def everything(out: str) -> dict[str, list[str]]:
    """Return every committed row of every table as text, as our readers see them."""
    return {
        table: sorted(map(repr, ledger.scan(out, table, rows.TABLES[table].names))) for table in rows.TABLES
    }


def names(out: str, table: str) -> list[str]:
    return [uri.rpartition("/")[2] for uri in ledger.part_files(out, table)]


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """Processes die here, machines do not."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def out(tmp_path) -> str:
    folder = str(tmp_path / "out")
    run_of(folder, range(12))
    run_of(folder, range(12, 15))
    return folder


def test_rows_stay_and_files_go(out):
    before = everything(out)
    done = compact.compact(out, PART_BYTES)
    assert everything(out) == before
    assert (done.files_before, done.is_complete) == (15 + 15 + 12, True)
    assert done.files_after == sum(len(names(out, table)) for table in rows.TABLES) < 12
    assert max(store.find(uri).size_bytes for uri in ledger.part_files(out, "frames")) < 2 * PART_BYTES
    assert not list(store.list_files(swap.staging(out)))
    compact.compact(out, PART_BYTES)  # files of this size shrink a lot when their footers become one
    assert compact.compact(out, PART_BYTES).merged_bytes == 0, "there is nothing left to do"


def test_answers_and_frames_of_a_window_stay_in_files_of_one_name(out):
    compact.compact(out, PART_BYTES)
    assert set(names(out, "frames")) <= set(names(out, "answers"))
    for uri in ledger.part_files(out, "frames"):
        answers = pq.read_table(uri.replace("/frames/", "/answers/"))["video_id"].to_pylist()
        assert set(pq.read_table(uri)["video_id"].to_pylist()) == {
            video for video in answers if int(video, 16) % 5 != 4
        }


def test_views_count_the_same(out):
    def count() -> list[tuple[object, ...]]:
        with sql.open_views(out) as connection:
            query = "SELECT count(*), count(DISTINCT run_id), sum(confidence) FROM answers JOIN frames USING (video_id)"
            return list(sql.select(connection, query.replace("run_id", "answers.run_id"))[1])

    before = count()
    compact.compact(out, PART_BYTES)
    assert count() == before
    assert before[0][:2] == (12, 2)


def test_records_of_a_run_are_one_file_and_say_the_same(out):
    # ids of one second are in no order
    runs = [ledger.Run(out, run_id) for run_id in ledger.run_ids(out)]
    run_id = max(runs, key=lambda run: len(list(ledger.commits(run)))).run_id
    before = status.read(out, run_id)
    assert compact.compact(out, PART_BYTES).records_folded == 24 + 6
    assert status.read(out, run_id) == before
    folder = store.join(ledger.Run(out, run_id).folder, "commits")
    assert [entry.uri for entry in store.list_files(folder)] == [store.join(folder, "all.jsonl")]
    reopened = ledger.open_run(out, JobConfig(), QUERIES, MODELS)
    assert len(list(ledger.commits(ledger.Run(out, run_id)))) == 24
    with pytest.raises(ConfigError, match="another question called 'q1'"):
        ledger.open_run(out, JobConfig(), [Query("q1", "a cat", "find")], MODELS)
    assert not list(ledger.commits(reopened))


def test_records_folded_half_count_once(tmp_path):
    folder = str(tmp_path)
    for number in range(4):
        store.write_bytes(
            store.join(folder, f"p{number}.json"), json.dumps({"part_id": f"p{number}"}).encode()
        )
    held = records.read(folder)
    first = next(held)
    records.fold(folder)  # while somebody reads
    assert [row["part_id"] for row in [first, *held]] == ["p0", "p1", "p2", "p3"]
    store.write_bytes(store.join(folder, "p2.json"), b'{"part_id": "p2"}')  # as if its delete was not made
    assert [row["part_id"] for row in records.read(folder)] == ["p0", "p1", "p2", "p3"]
    assert records.fold(folder) == 0


def test_only_closed_runs_are_touched(out):
    before = set(names(out, "answers"))
    run_of(out, range(15, 18), close=False)
    own = set(names(out, "answers")) - before
    compact.compact(out, PART_BYTES)
    assert own <= set(names(out, "answers"))
    assert command.main([out]) == 0, "nobody holds the folder: the run is dead and is closed"
    assert not own & set(names(out, "answers"))


def test_a_folder_that_a_run_holds_is_refused(out):
    before = names(out, "answers")
    with lease.held(out, "run"), pytest.raises(JobError, match="run run"):
        command.main([out])
    assert names(out, "answers") == before


def test_a_folder_that_is_taken_over_is_let_alone(out):
    before = everything(out)

    def lost():
        msg = "taken over"
        raise JobError(msg)

    with pytest.raises(JobError, match="taken over"):
        compact.compact(out, PART_BYTES, lost)
    assert len(names(out, "videos")) == 15
    assert everything(out) == before


def test_a_note_that_took_too_long_to_write_is_for_the_next_to_act_on(out):
    """Meanwhile another driver may have taken over: nothing is moved or deleted beside it."""
    before, asked = everything(out), []

    def lost_meanwhile():
        asked.append(None)
        if len(asked) == 2:
            msg = "taken over"
            raise JobError(msg)

    with pytest.raises(JobError, match="taken over"):
        compact.compact(out, PART_BYTES, lost_meanwhile)
    assert len(list(store.list_files(store.join(out, "videos")))) == 15
    assert everything(out) == before
    swap.finish(out)
    assert len(names(out, "videos")) < 15
    assert everything(out) == before


def test_later_runs_are_brought_together_with_earlier_ones(out):
    compact.compact(out, PART_BYTES)
    for number in range(20, 24):
        run_of(out, range(number, number + 1))
    before = everything(out)
    compact.compact(out, PART_BYTES)
    assert everything(out) == before
    assert len(names(out, "videos")) < 4
    assert {name.split("-")[0] for name in names(out, "answers")} <= {
        run_id.split("-")[0] for run_id in ledger.run_ids(out)
    }


def test_runs_with_other_columns_are_kept_apart(out, monkeypatch):
    with monkeypatch.context() as patch:
        older = rows.VIDEOS.remove(rows.VIDEOS.get_field_index("note"))
        patch.setattr(rows, "VIDEOS", older)
        patch.setitem(rows.TABLES, "videos", older)
        run_of(out, range(30, 33))
    before = everything(out)
    compact.compact(out, 1 << 20)
    assert everything(out) == before
    for uri in ledger.part_files(out, "videos"):
        is_older = {int(name, 16) >= 30 for name in pq.read_table(uri)["video_id"].to_pylist()}
        assert is_older == {"note" not in pq.read_schema(uri).names}


class Killed(BaseException):
    pass


STEPS = ((store, "write_bytes"), (store, "move"), (store, "delete"), (store_bulk, "delete_all"))


def kill_at(patch, step: int) -> None:
    """Let the process die after its n-th change of the folder."""
    count = itertools.count()

    def dying(function):
        def change(*args):
            function(*args)
            if next(count) == step:
                raise Killed

        return change

    for module, name in STEPS:
        patch.setattr(module, name, dying(getattr(module, name)))


def test_cut_short_at_every_step_nothing_is_lost_or_double(tmp_path, monkeypatch):
    seed = str(tmp_path / "seed")
    run_of(seed, range(3))
    run_of(seed, range(3, 5))
    before = everything(seed)
    for step in range(1000):
        out = str(tmp_path / f"out{step}")
        fs, _ = store.open_fs(out)
        fs.copy(seed, out, recursive=True)
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                compact.compact(out, PART_BYTES)
                break
            except Killed:
                pass
        assert everything(out) == before, f"readers right after the kill at step {step}"
        if step % 2:
            ledger.open_run(out, JobConfig(), QUERIES, MODELS)
            listed = list(store.list_files(store.join(out, "answers")))
            assert len(listed) == len(names(out, "answers")), "a run finishes the swap"
        compact.compact(out, PART_BYTES)
        assert everything(out) == before, f"after the next compaction, kill at step {step}"
        assert not list(store.list_files(swap.staging(out)))
    assert step > 12, "the folder was changed in many steps"


def test_a_reader_in_the_middle_of_a_swap_sees_each_row_once(tmp_path, monkeypatch):
    """At every step of the compaction another reader lists and reads."""
    out = str(tmp_path / "out")
    run_of(out, range(3))
    before, seen = everything(out), 0

    def watched(function):
        def change(*args):
            nonlocal seen
            function(*args)
            assert everything(out) == before
            seen += 1

        return change

    for module, name in STEPS:
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    compact.compact(out, PART_BYTES)
    assert seen > 12


def test_a_swap_between_the_two_looks_at_the_note_is_noticed(out, monkeypatch):
    listing = store.list_files
    lists = 0

    def late(uri, **options):
        nonlocal lists
        found = list(listing(uri, **options))
        if uri.endswith("/videos") and not lists:
            lists += 1
            with monkeypatch.context() as patch:
                patch.setattr(store, "list_files", listing)
                compact.compact(out, PART_BYTES)
        return iter(found)

    before = everything(out)
    monkeypatch.setattr(store, "list_files", late)
    assert everything(out) == before
    assert lists == 1


def test_a_listing_that_missed_what_was_exchanged_meanwhile_is_made_again(out, monkeypatch):
    """A folder is read first, and its files are looked at afterwards, when the old ones are gone."""
    before, listing, move, lists = everything(out), store.list_files, store.move, 0

    def overtaken(source, target):
        """Let a reader take the names now, and look at them when the files have been exchanged."""
        old = {entry.uri for entry in listing(store.join(out, "videos"))}
        move(source, target)
        if "/videos/" not in target:
            return

        def late(uri, **options):
            nonlocal lists
            lists += 1
            there = listing(uri, **options)
            return (entry for entry in there if entry.uri in old) if lists == 1 else there

        with monkeypatch.context() as patch:
            patch.setattr(store_bulk, "delete_all", lambda uris: list(map(store.delete, uris)))
            note = json.loads(store.read_bytes(swap._uri(out)))
            store_bulk.delete_all([store.join(out, "videos", name) for name in note["tables"]["videos"]])
            patch.setattr(store, "list_files", late)
            assert {row["video_id"] for row in ledger.scan(out, "videos", ["video_id"])} == {
                f"{number:016x}" for number in range(15)
            }

    monkeypatch.setattr(store, "move", overtaken)
    compact.compact(out, PART_BYTES)
    assert lists > 1
    monkeypatch.undo()
    assert everything(out) == before


def test_a_folder_that_changes_all_the_time_is_not_listed_for_ever(out, monkeypatch):
    numbers = itertools.count()
    monkeypatch.setattr(swap, "_read", lambda _: str(next(numbers)).encode())
    with pytest.raises(StoreError, match="being compacted faster"):
        ledger.part_files(out, "videos")


def test_a_damaged_file_is_named_and_nothing_changes(out):
    bad = ledger.part_files(out, "videos")[1]
    store.write_bytes(bad, b"no parquet at all")
    listed = [entry.uri for entry in store.list_files(store.join(out, "videos"))]
    with pytest.raises(StoreError, match=rf"{bad} cannot be read as Parquet"):
        compact.compact(out, PART_BYTES)
    assert [entry.uri for entry in store.list_files(store.join(out, "videos"))] == listed


def test_a_run_that_ends_merges_many_files_and_leaves_few(out):
    before = everything(out)
    num_files = sum(len(names(out, table)) for table in rows.TABLES)
    compact.compact_after_run(out, SinkConfig(compact_files=num_files + 1))
    compact.compact_after_run(out, SinkConfig(compact_files=0))
    assert sum(len(names(out, table)) for table in rows.TABLES) == num_files
    compact.compact_after_run(out, SinkConfig(compact_files=num_files))
    assert sum(len(names(out, table)) for table in rows.TABLES) == 3
    assert everything(out) == before


def test_a_failure_after_the_run_is_a_warning(out, caplog):
    store.write_bytes(ledger.part_files(out, "videos")[0], b"no parquet at all")
    compact.compact_after_run(out, SinkConfig(compact_files=1))
    assert "small files were not merged" in caplog.text


def test_the_command_says_what_it_did(out, capsys):
    assert command.main([out]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["files_before"], told["files_after"], told["records_folded"]) == (42, 3, 30)
    with pytest.raises(ConfigError, match="found no run"):
        command.main([out + "/nothing"])
    with pytest.raises(ConfigError, match="at least 1"):
        command.main([out, "--part-mb", "0"])
