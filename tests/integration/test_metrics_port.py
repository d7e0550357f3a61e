"""What Prometheus finds on Ray's metrics port is what the run itself says of what it did."""

import time
import urllib.request
from contextlib import contextmanager, suppress
from http.client import HTTPException
from threading import Event, Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs import metrics
from jobs.ray_start import free_ports
from tests.integration.ray_head import ray_head
from tests.unit.test_metrics import OF_RAY

NEVER_HERE = (
    *(f"reelsift_tokens_{kind}" for kind in ("dense", "used", "prefilled", "generated")), "reelsift_read_bytes",
)  # fmt: skip
"""Nought without a language model and a bucket: a counter that never grew is not exported."""

ON_THE_WAY = {
    ("ray_reelsift_nodes", None), ("ray_reelsift_stage_actors", "score"),
    *(("ray_reelsift_stage_rows", stage) for stage in ("sample", "score", "windows")),
    *(("ray_reelsift_stage_rows_expected", stage) for stage in ("sample", "score", "windows")),
    *(("ray_reelsift_stage_tasks", stage) for stage in ("sample", "score", "windows")),
}  # fmt: skip
"""Gauges, and their stages, that a run serves while its scorers are at work."""


@pytest.fixture
def head():
    """A Ray head with a metrics port that is known: its address, and where to scrape."""
    port, metrics_port = free_ports(2)
    options = (f"--metrics-export-port={metrics_port}", "--labels=role=decode")
    with ray_head(*options, port=port, RAY_metrics_report_interval_ms="5000") as head:
        yield head.address, f"http://127.0.0.1:{metrics_port}/metrics"


def scrape(url):
    """Return every sample: name, labels, value."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [
            (sample.name, sample.labels, sample.value) for family in families for sample in family.samples
        ]


@contextmanager
def scraped(url, shown):
    """Scrape twice a second and yield all samples that were served; make the file `shown` once ON_THE_WAY is.

    Ray serves a gauge once after each report, so only a run that goes on until they were seen is sure to show them.
    """
    seen, stopped = [], Event()

    def go_on():
        while not stopped.wait(0.5):
            with suppress(OSError, HTTPException):  # Ray opens the port some seconds after it has started
                seen.extend(scrape(url))
            if {(name, labels.get("stage")) for name, labels, _ in seen} >= ON_THE_WAY:
                shown.touch()

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield seen
    finally:
        stopped.set()
        thread.join()


def counted(samples, run):
    """Return the value of each counter of a run, by its name and its own tags."""
    return {
        (name, *(labels[tag] for tag in ("stage", "table", "reason") if tag in labels)): value
        for name, labels, value in samples
        if name.endswith("_total") and labels.get("run_id") == run["run_id"]
    }


def test_the_numbers_are_those_of_the_run(reelsift, head, clips, tmp_path):
    address, url = head
    shown = tmp_path / "shown"
    with scraped(url, shown) as seen:
        done = reelsift(
            "answer", clips, tmp_path / "out", "--query", "a car", "--query", "a rabbit",
            "--window.length-s", "2", "--sink.windows-per-part", "2", "--score.pool.device", "cpu",
            "--score.scorer", "tests.plugins_sample:HELD", "--score.model", shown, RAY_ADDRESS=address,
        )  # fmt: skip
    assert done.code == 0, done.err
    run = done.json
    _check_lines(done.err, run)
    commits = list((tmp_path / "out" / "_run" / run["run_id"] / "commits").iterdir())
    assert len(commits) > 3
    assert run["failed_videos"] == 1
    spent = run["this_run"]
    expected = {
        (f"ray_{name}_total", *([tag] if tag else [])): spent[counter]
        for name, spec in metrics.COUNTERS.items()
        for counter, tag in spec.counters.items()
        if spent.get(counter)
    }
    expected |= {
        ("ray_reelsift_commits_total",): len(commits),
        ("ray_reelsift_failures_total", "videos", "ProbeError"): 1,
        ("ray_reelsift_failures_total", "verdicts", "ProbeError"): 2,
    }
    deadline = time.monotonic() + 300
    while (found := counted(scrape(url), run)) != pytest.approx(expected) and time.monotonic() < deadline:
        time.sleep(0.5)  # what the driver counted last is on its way for a moment
    assert found == pytest.approx(expected)
    served = {name: labels for name, labels, _ in [*seen, *scrape(url)]}
    _check_gauges([sample for sample in seen if sample[1].get("run_id") == run["run_id"]], run)
    # what a dashboard may ask for is really there
    assert metrics.exported().keys() - served.keys() <= {f"ray_{name}_total" for name in NEVER_HERE}
    for name, labels in (metrics.exported() | OF_RAY).items():
        assert {*labels} <= served.get(name, dict.fromkeys(labels)).keys()


def _check_gauges(seen, run):
    """Gauges are served while they are set: how far the stages were on the way."""
    expected = {
        labels["stage"]: value for name, labels, value in seen if name == "ray_reelsift_stage_rows_expected"
    }
    assert expected["sample"] == expected["windows"] == run["this_run"]["windows"]
    rows = [(labels["stage"], value) for name, labels, value in seen if name == "ray_reelsift_stage_rows"]
    assert all(value <= expected.get(stage, value) for stage, value in rows)
    assert {labels["role"] for name, labels, _ in seen if name == "ray_reelsift_nodes"} == {"decode"}


def _check_lines(err, run):
    """What people read in the same run's log."""
    assert "\x1b" not in err
    assert "\r" not in err
    said = err.splitlines()
    # the last block of a stream: a slow machine is told of more often
    videos = [line for line in said if line.startswith("  videos ") and "%" in line][-1]
    assert videos.split()[:4] == ["videos", "100", "%", "4/4"]
    assert videos.endswith("1 failed")
    last = max(number for number, line in enumerate(said) if line.startswith("answer: "))
    block = said[last : last + 5]
    names = [line.split()[0] for line in block[1:4]]
    assert names == ["sample", "score", "windows"]
    assert all(f"{run['windows']}/{run['windows']}" in line for line in block[1:4])
    assert "1 node (1 decode)" in block[0]
