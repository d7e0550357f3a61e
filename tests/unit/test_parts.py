"""Several parts are committed at once, each exactly once and in its own order of steps."""

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import parts
from pipeline import ledger, rows, store
from pipeline.errors import StoreError
from pipeline.ledger import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path), "run")


def stage(run: Run, name: str, num_rows: int = 1) -> rows.Row:
    staged = store.join(run.staging, f"{name}.parquet")
    store.write_table(staged, pa.table({"n": [name] * num_rows}))
    return {"part_id": name, "files": [{"table": "answers", "staged": staged}], "counters": "{}"}


def test_every_part_is_published_and_yielded_once(run: Run) -> None:
    staged = [stage(run, f"p{number}") for number in range(3 * parts.AT_ONCE)]
    names = sorted(part["part_id"] for part in parts.committed(run, staged))
    assert names == sorted(part["part_id"] for part in staged)
    assert len(ledger.part_files(run.out, "answers")) == len(staged)
    assert sorted(part["part_id"] for part in ledger.commits(run)) == names


def test_a_part_that_comes_twice_is_committed_once(run: Run) -> None:
    part = stage(run, "twice")
    found = list(parts.committed(run, [part, part, part]))
    assert [one["part_id"] for one in found] == ["twice"] * 3
    assert len(ledger.part_files(run.out, "answers")) == 1


def test_commits_run_side_by_side(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)
    commit = ledger.commit

    def waits_for_three_others(run: Run, part: rows.Row, check: Callable[[], None]) -> None:
        together.wait(timeout=60)
        commit(run, part, check)

    monkeypatch.setattr(ledger, "commit", waits_for_three_others)
    assert len(list(parts.committed(run, [stage(run, f"p{number}") for number in range(4)]))) == 4


def test_a_part_that_is_gone_stops_the_rest(run: Run) -> None:
    good, lost = stage(run, "good"), stage(run, "lost")
    store.delete(lost["files"][0]["staged"])
    with pytest.raises(StoreError, match="is gone before it was committed"):
        list(parts.committed(run, [good, lost]))
    assert [part["part_id"] for part in ledger.commits(run)] == ["good"]


def test_rows_are_counted_over_all_files(run: Run) -> None:
    uris = [stage(run, f"p{number}", number)["files"][0]["staged"] for number in range(1, 6)]
    assert parts.num_rows(uris) == 15
