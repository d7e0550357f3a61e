"""How fast a cluster comes from zero machines and goes back: the real job on Ray's real autoscaler.

The machines are processes of this one (jobs/fake_cluster.py), of two node types labelled as in `cluster.yaml`, at
most two of each. GPUs are numbers: a scoring actor reserves one, and its model computes on the CPU; the scorer waits a
moment for each frame, as if a large model looked at it (jobs/paced_scorer.py), so that there is a backlog. What the
figures show is the decisions, when a machine is asked for and when it is let go; a cloud adds the time that a real
machine takes to boot.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.bench_report import circumstances, table, write_report
from jobs.command_line import parse, require
from jobs.demo import collect_clips
from jobs.fake_cluster import fake_cluster
from jobs.paced_scorer import PER_FRAME_S
from pipeline.errors import JobError

PROG = "reelsift bench autoscale"
NODE_TYPES: dict[str, dict[str, Any]] = {
    "decode": {"resources": {"CPU": 2}, "labels": {"role": "decode"}, "max_workers": 2},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "labels": {"role": "gpu"}, "max_workers": 2},
}
MAX_WORKERS = 4
QUERIES = ("a car", "a rabbit", "a person in a street")
SETTINGS = (
    "--window.length-s", "2", "--window.sample-fps", "2", "--sink.windows-per-part", "4",
    "--score.pool.max-size", "2",
)  # fmt: skip
LOOK_EVERY_S = 0.25
JOB_S, IDLE_S = 2700.0, 6.0
GONE_S = 600.0
"""Seconds, beyond the idle time, after which a machine that has not gone counts as staying."""


@dataclass(frozen=True)
class Arguments:
    """Measure how machines come for a job, and go after it."""

    copies: int = 3
    """How often each of the three clips is copied."""
    idle_s: float = IDLE_S
    """Seconds without work after which a machine goes."""
    report: Path | None = None
    """Markdown file to write; the default is named after the machine and the day, in docs/benchmarks/."""


@dataclass
class Seen:
    """What was there and who ran where, looked at a few times a second."""

    changes: list[tuple[float, dict[str, int]]] = field(default_factory=list[tuple[float, dict[str, int]]])
    """Seconds since the job began, and the machines of each type from then on."""
    stages: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Per node type, how often each stage was seen at work."""

    def first_s(self, name: str, count: int = 1) -> float | None:
        """Return when a type first had so many machines."""
        return next((at_s for at_s, nodes in self.changes if nodes.get(name, 0) >= count), None)

    def peak(self, name: str) -> int:
        """Return the most machines of a type."""
        return max((nodes.get(name, 0) for _, nodes in self.changes), default=0)


def main(argv: list[str]) -> int:
    """Run the job on a cluster from zero, watch it, write the report; the last stdout line is JSON.

    Raises:
        ConfigError: the arguments do not fit.
        JobError: the job failed, or machines stay.
    """
    args = parse(Arguments, argv, PROG)
    require("--copies", args.copies, at_least=1)
    require("--idle-s", args.idle_s, above=0)
    with tempfile.TemporaryDirectory(prefix="reelsift-autoscale-") as folder:
        videos = copy_clips(Path(folder), args.copies)
        result = measure(videos, Path(folder) / "out", args.idle_s)
    _write(args, result)
    figures = result["figures"]
    print(json.dumps({"bench": "autoscale", "pass": passes(figures), "figures": figures}))
    return 0 if passes(figures) else 1


def copy_clips(folder: Path, copies: int) -> Path:
    """Return a folder with copies of the demo's good clips."""
    collect_clips(folder / "clips")
    (folder / "clips" / "broken.mp4").unlink()
    for copy in range(copies):
        shutil.copytree(folder / "clips", folder / "videos" / f"copy{copy:02d}")
    return folder / "videos"


def measure(
    videos: Path, out: Path, idle_s: float, scorer: str = "jobs.paced_scorer:PACED"
) -> dict[str, Any]:
    """Run the job on a cluster that has no machine; return figures, what was seen, and the job's last line.

    Raises:
        JobError: the job failed; what it said.
    """
    command = [sys.executable, "-m", "jobs", "answer", str(videos), str(out), *SETTINGS]
    command += ["--score.scorer", scorer]
    command += [word for text in QUERIES for word in ("--query", text)]
    with fake_cluster(NODE_TYPES, MAX_WORKERS, idle_s) as joining:
        started, seen, stop = time.monotonic(), Seen(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(seen, joining["RAY_ADDRESS"], started, stop))
        watcher.start()
        try:
            job = subprocess.run(
                command,
                env={**os.environ, **joining},
                capture_output=True,
                text=True,
                timeout=JOB_S,
                check=False,
            )
            ended_s = time.monotonic() - started
            while (
                seen.changes
                and seen.changes[-1][1]
                and time.monotonic() - started < ended_s + idle_s + GONE_S
            ):
                time.sleep(LOOK_EVERY_S)
        finally:
            stop.set()
            watcher.join()
    if job.returncode != 0:
        msg = f"the job on the fake cluster ended with {job.returncode}: {job.stderr[-2000:]}"
        raise JobError(msg)
    gone = not seen.changes[-1][1]
    figures = {
        "first_gpu_s": seen.first_s("gpu"),
        "second_gpu_s": seen.first_s("gpu", 2),
        "first_decode_s": seen.first_s("decode"),
        "peak_gpu_nodes": seen.peak("gpu"),
        "job_s": round(ended_s, 1),
        "zero_after_s": round(seen.changes[-1][0] - ended_s, 1) if gone else None,
        "decoded_on": sorted(name for name, stages in seen.stages.items() if stages["sample_window"]),
        "models_on": sorted(name for name, stages in seen.stages.items() if stages["Scorer"]),
    }
    return {
        "figures": figures,
        "seen": seen,
        "job": json.loads(job.stdout.strip().splitlines()[-1]),
        "err": job.stderr,
    }


def passes(figures: Mapping[str, Any]) -> bool:
    """Return whether machines came when needed, work went where it belongs, and all machines went."""
    return (
        figures["first_gpu_s"] is not None
        and figures["peak_gpu_nodes"] == NODE_TYPES["gpu"]["max_workers"]
        and figures["zero_after_s"] is not None
        and figures["decoded_on"] == ["decode"]
        and figures["models_on"] == ["gpu"]
    )


def _watch(seen: Seen, address: str, started: float, stop: threading.Event) -> None:
    """Note machines as they come and go, and what runs on which."""
    while not stop.is_set():
        nodes, stages = look(address)
        if not seen.changes or seen.changes[-1][1] != nodes:
            seen.changes.append((round(time.monotonic() - started, 1), nodes))
        for name, counts in stages.items():
            seen.stages[name].update(counts)
        stop.wait(LOOK_EVERY_S)


def look(address: str) -> tuple[dict[str, int], dict[str, Counter[str]]]:
    """Return the machines of each type that run on this one, and the stages at work on them.

    A machine is a raylet, its type among its labels; what it runs are its children, and they say so in their titles.
    """
    import psutil

    nodes: Counter[str] = Counter()
    stages: dict[str, Counter[str]] = defaultdict(Counter)
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if not words or Path(words[0]).name != "raylet" or f"--gcs-address={address}" not in words:
            continue
        name = next(
            (name for name in NODE_TYPES if any(f'"role":"{name}"' in _dense(word) for word in words)), ""
        )
        if not name:
            continue  # the head
        nodes[name] += 1
        try:
            titles = [child.cmdline()[:1] for child in process.children()]
        except psutil.NoSuchProcess:
            continue
        stages[name].update(_stage(title[0]) for title in titles if title and title[0].startswith("ray::"))
    return dict(nodes), stages


def _dense(word: str) -> str:
    return word.replace(" ", "").replace("\\", "")


def _stage(title: str) -> str:
    known = (
        "sample_window",
        "Scorer",
        "probe",
        "plan_window",
        "stage_windows",
        "judge_shards",
    )
    return next((name for name in known if name in title), title)


def _write(args: Arguments, result: Mapping[str, Any]) -> None:
    """Write the report."""
    figures, seen, job = result["figures"], result["seen"], result["job"]
    lines = [
        "# Autoscaling: machines from zero, and back to zero",
        "",
        *circumstances(f"{PROG} --copies {args.copies} --idle-s {args.idle_s:g}"),
        "",
        f"One job of {job['videos']} videos, {job['windows']} windows and {len(QUERIES)} questions, on Ray's autoscaler"
        f" (v2) over machines that are processes of this one: types {_types()}, at most {MAX_WORKERS} together, idle"
        f" time {args.idle_s:g} s. Up to two scoring actors and one answering actor reserve half a GPU each: the GPUs"
        f" are numbers, the models compute on the CPU, and the scorer waits {PER_FRAME_S:g} s for each frame. A machine"
        " boots in the time that a few processes take to start. The decisions are the real ones.",
        "",
        *table(["figure", ""], [[name, str(value)] for name, value in figures.items()]),
        "",
        "Seconds are counted from the start of the command `reelsift answer`, `zero_after_s` from its end. Load"
        f" average of this machine over the last minute of the run: {os.getloadavg()[0]:.0f}.",
        "",
        *table(["second", "machines from then on"], _steps(seen.changes)),
        "",
        "How often a stage was seen at work on a machine of each type (looked at four times a second):",
        "",
        *table(["type", "stages"], [[name, _counts(counts)] for name, counts in sorted(seen.stages.items())]),
    ]  # fmt: skip
    unusual = (args.copies, args.idle_s) != (Arguments.copies, Arguments.idle_s)
    write_report(
        "autoscale", lines, args.report, ["--copies or --idle-s are not the usual ones"] if unusual else []
    )


def _types() -> str:
    return " and ".join(f"{name} ({node['resources']})" for name, node in NODE_TYPES.items())


def _steps(changes: Sequence[tuple[float, Mapping[str, int]]]) -> list[list[str]]:
    return [
        [f"{at_s:.1f}", ", ".join(f"{count} {name}" for name, count in sorted(nodes.items())) or "none"]
        for at_s, nodes in changes
    ]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
