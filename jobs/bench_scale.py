"""Does memory stay flat over many windows, and do more actors change an answer? Clips copied until there are enough.

Runs the main job on this machine's own Ray, once with one scoring actor and once with two. While it runs, the memory
that each process holds for itself (USS, shared pages left out) is sampled; the report gives the highest value per kind
of process in each quarter of the run. Then every table of both runs is compared, run ids and timings left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench_report import circumstances, list_files, table, write_report
from jobs.command_line import parse, require
from pipeline.errors import JobError

PROG = "reelsift bench scale"
SAMPLE_EVERY_S = 0.5
TIMINGS = ("run_id", "decode_s", "score_s", "answer_s", "probe_s")
QUERIES = ("a car", "a rabbit", "a person in a street")


@dataclass(frozen=True)
class Arguments:
    """Measure memory and repeatability over many windows."""

    media: Path
    """Folder with clips to copy."""
    copies: int = 8
    """How often each clip is copied."""
    window_s: float = 5.0
    """Seconds of one window."""
    report: Path | None = None
    """Markdown file to write; the default is named after the machine and the day, in docs/benchmarks/."""


def main(argv: list[str]) -> int:
    """Run both jobs, compare them, write the report; the last stdout line is JSON.

    Raises:
        ConfigError: the arguments do not fit.
        JobError: a job failed, or the two runs differ.
    """
    args = parse(Arguments, argv, PROG)
    require("--copies", args.copies, at_least=1)
    require("--window-s", args.window_s, above=0)
    clips = list_files("--media", args.media)
    with tempfile.TemporaryDirectory(prefix="reelsift-scale-") as folder:
        videos = Path(folder) / "videos"
        for clip in clips:
            for copy in range(args.copies):
                (videos / f"copy{copy:03d}").mkdir(parents=True, exist_ok=True)
                shutil.copy(clip, videos / f"copy{copy:03d}" / clip.name)
        runs = [run_job(videos, Path(folder) / f"out{actors}", actors, args.window_s) for actors in (1, 2)]
        digests = [digest(run["out"]) for run in runs]
    if digests[0] != digests[1]:
        msg = f"one and two scoring actors gave different rows: {digests[0]} and {digests[1]}"
        raise JobError(msg)
    _write(args, runs)
    keep = ("actors", "windows", "wall_s", "memory_mb")
    print(json.dumps({"equal": True, "runs": [{name: run[name] for name in keep} for run in runs]}))
    return 0


def run_job(videos: Path, out: Path, actors: int, window_s: float) -> dict[str, Any]:
    """Run the job in its own process and sample the memory of everything it starts.

    Raises:
        JobError: the job failed; what it said.
    """
    command = [
        sys.executable, "-m", "jobs", "answer", str(videos), str(out),
        *(word for text in QUERIES for word in ("--query", text)),
        "--window.length-s", str(window_s), "--score.pool.num-cpus", "0.2",
        "--score.pool.min-size", str(actors), "--score.pool.max-size", str(actors),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as result:
        job = subprocess.Popen(command, stdout=result, stderr=said, env=environment)
        samples = _sample(job)
        said.seek(0)
        result.seek(0)
        text = said.read()
        if job.returncode:
            msg = (
                f"the job with {actors} scoring actors ended with exit code {job.returncode}: {text[-2000:]}"
            )
            raise JobError(msg)
        stats = json.loads(result.read().strip().splitlines()[-1])
    print(text, file=sys.stderr)
    return {**stats, "actors": actors, "memory_mb": quarters(samples)}


def _sample(job: "subprocess.Popen[bytes]") -> list[tuple[float, str, float]]:
    """Return (seconds since start, kind of process, MB of its own) until the job ends."""
    import psutil

    samples: list[tuple[float, str, float]] = []
    started = time.monotonic()
    while job.poll() is None:
        try:
            family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for process in family:
            try:
                kind = "driver" if process.pid == job.pid else _kind(process.cmdline())
                samples.append((time.monotonic() - started, kind, process.memory_full_info().uss / 1e6))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        time.sleep(SAMPLE_EVERY_S)
    job.wait()
    return samples


def _kind(command: list[str]) -> str:
    """Return what a process of the job does, from its title: `ray::MapWorker(MapBatches(Scorer))` -> `Scorer`."""
    title = " ".join(command)
    for kind in ("Scorer", "AnswerActor"):
        if kind in title:
            return kind
    return "task worker" if title.startswith("ray::") else "Ray itself"


def quarters(samples: list[tuple[float, str, float]]) -> dict[str, list[int]]:
    """Return the highest MB per kind of process in each quarter of the time."""
    end_s = max((at_s for at_s, _, _ in samples), default=0.0) + 1e-9
    highest: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for at_s, kind, mb in samples:
        quarter = int(4 * at_s / end_s)
        highest[kind][quarter] = max(highest[kind][quarter], mb)
    return {kind: [round(mb) for mb in values] for kind, values in sorted(highest.items())}


def digest(out: str) -> dict[str, str]:
    """Return a checksum per table over its rows in a fixed order, run ids and timings left out."""
    import hashlib

    from pipeline import ledger, rows

    found: dict[str, str] = {}
    for name, schema in rows.TABLES.items():
        columns = [column for column in schema.names if column not in TIMINGS]
        lines = sorted(repr(row) for row in ledger.scan(out, name, columns))
        found[name] = f"{len(lines)} rows {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"
    return found


def _write(args: Arguments, runs: list[dict[str, Any]]) -> None:
    """Write the report."""
    lines = [
        "# Scale: memory and repeatability over many windows",
        "",
        *circumstances(f"{PROG} --media DIR --copies {args.copies} --window-s {args.window_s:g}"),
        "",
        f"{args.copies} copies of the clips in one folder, windows of {args.window_s:g} s at 1 frame per second,"
        f" {len(QUERIES)} questions. Highest memory of one process (USS, MB) per quarter of the run:",
        "",
    ]
    rows = [
        [f"{run['actors']}", f"{run['windows']}", f"{run['wall_s']:.0f}", kind, *map(str, values)]
        for run in runs
        for kind, values in run["memory_mb"].items()
    ]
    lines += table(["scorers", "windows", "wall s", "process", "1st", "2nd", "3rd", "4th quarter"], rows)
    lines += ["", "All rows of both runs are equal bit for bit (run ids and timings left out)."]
    is_usual = (args.copies, args.window_s) == (Arguments.copies, Arguments.window_s)
    write_report(
        "scale", lines, args.report, [] if is_usual else ["--copies or --window-s are not the usual ones"]
    )
