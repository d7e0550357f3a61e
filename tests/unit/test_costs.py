"""Bills of runs: written down, read again, added up over the runs of a folder."""

import json

import pytest

from jobs import costs
from jobs.costs import Meter
from jobs.progress import Cluster
from pipeline import ledger, rows, sink, store
from pipeline.cost import Held
from pipeline.ledger import Run
from pipeline.prices import load_prices

COUNTERS = {"decode_cpu_s": 36.0, "video_s": 3600.0, "windows": 12, "answers": 24, "written_files": 2}


def run_of(out, number, query_ids):
    run = Run(str(out), f"2026010{number}T000000-aaaaaa")
    asked = [{"query_id": name} for name in query_ids]
    store.write_bytes(store.join(run.folder, "queries.json"), json.dumps(asked).encode())
    return run


def test_a_bill_is_written_and_read(tmp_path):
    run = run_of(tmp_path, 1, ["a"])
    made = costs.write(run, COUNTERS, load_prices(), Meter(), 1)
    assert costs.read(store.join(run.folder, "cost.json")) == made
    assert made["run_id"] == run.run_id
    assert "per video hour" in costs.line(made)
    assert "without the last" not in costs.line(made)


def test_the_runs_of_a_folder_add_up_those_cut_short_too(tmp_path):
    whole = costs.write(run_of(tmp_path, 1, ["a", "b"]), COUNTERS, load_prices(), Meter(), 2)
    cut = run_of(tmp_path, 2, ["b", "c"])
    table = rows.to_table([{"window_id": "w"}], rows.ANSWERS)
    ledger.commit(cut, sink.stage_part(cut.staging, {"answers": table}, ["w"], COUNTERS))
    run_of(tmp_path, 3, ["d"])  # nothing committed: nothing spent
    both = costs.of_runs(str(tmp_path))
    assert both is not None
    assert (both["runs"], both["queries"], both["counts"]["windows"]) == (2, 3, 24)
    assert both["stages"]["decode"]["cpu_s"] == pytest.approx(72.0)
    assert both["total"]["high"] == pytest.approx(
        2 * whole["total"]["high"] + both["stages"]["write"]["dollars"]["high"]
    )


def test_machines_are_held_for_as_long_as_they_are_there(monkeypatch):
    clock = iter([0.0, 10.0, 70.0, 80.0])
    monkeypatch.setattr(costs.time, "monotonic", lambda: next(clock))
    meter = Meter()
    meter.look(Cluster(num_cpus=4.0))  # it is there from the start
    meter.look(Cluster(num_cpus=36.0, num_gpus=8.0))
    meter.look(Cluster(num_cpus=4.0))  # the others have gone
    assert meter.held == Held(80.0, 10 * 4 + 60 * 36 + 10 * 4, 60 * 8)


def test_a_run_is_not_lost_with_its_last_look_at_the_machines(tmp_path, monkeypatch, caplog):
    clock = iter([0.0, 10.0, 17.0])
    monkeypatch.setattr(costs.time, "monotonic", lambda: next(clock))

    def hiccup():
        raise ConnectionError("GCS is away")

    meter = Meter()
    meter.look(Cluster(num_cpus=4.0))
    meter.look_last(hiccup)
    monkeypatch.undo()
    assert meter.held == Held(10.0, 40.0, 0.0, unseen_s=7.0)
    assert "up to 7 s before the end" in caplog.text
    made = costs.write(run_of(tmp_path, 1, ["a"]), COUNTERS, load_prices(), meter, 1)
    assert made["held"]["unseen_s"] == 7.0
    assert costs.line(made).endswith("without the last 7 s, in which they could not be looked at")


def test_a_folder_without_runs_has_no_bill(tmp_path):
    assert costs.of_runs(str(tmp_path)) is None
    assert costs.read(str(tmp_path / "cost.json")) is None
