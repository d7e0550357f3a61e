"""What the parts of a job cost on this machine, measured on the real job and on the functions the driver calls.

Work of the stages is CPU time that the job itself counts. What else its processes use is told apart by two runs of
different length: what is spent on starting, and what each window adds (`Share`). The driver's time per step comes from
a flow of the same shape whose stages do nothing.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import family, ray_figures
from jobs.scale.whole_job import Costs
from pipeline import ledger, rows, store
from pipeline.ledger import Run
from pipeline.windows import key, sorted_keys

QUESTIONS = ("a car", "a rabbit", "a person in a street")
STEP_BLOCKS = (40, 240)
NUM_FILES, NUM_COPIES, NUM_PARTS = 4000, 40, 200


@dataclass(frozen=True)
class JobRun:
    """One run of the real job."""

    workers: int
    windows: int
    video_s: float
    use: family.Use
    counted: dict[str, float]
    """Counters of the run."""
    spread: tuple[float, ...]
    out: str

    @property
    def speed(self) -> float:
        """What a process of this machine got of the time in which it was let run; the rest went to other guests."""
        busy = self.use.cpu_s / self.use.wall_s + self.use.foreign_cores
        return busy / (busy + self.use.stolen_cores)

    def unstaged_s(self, kind: str) -> float:
        """Return CPU seconds of one kind of process beyond what the job counts as a stage's work."""
        counted = sum(self.counted[name] for name in COUNTED.get(kind, ()))
        return max(0.0, self.use.cpu_s_of.get(kind, 0.0) - counted)


COUNTED = {
    "decoder": ("decode_cpu_s", "probe_cpu_s"),
    "Scorer": ("score_cpu_s",),
    "task worker": ("answer_cpu_s", "write_cpu_s"),
}
"""The job's counters of what each kind of process does."""


@dataclass(frozen=True)
class Share:
    """CPU seconds of one kind of process that are no stage's work."""

    start_s: float
    """Whatever the length of the job."""
    window_s: float
    """Per window."""


def share(short: JobRun, long: JobRun, *kinds: str) -> Share:
    """Return what kinds of process spend on starting, and what a window more costs them, from two runs."""
    spent = [sum(map(run.unstaged_s, kinds)) for run in (short, long)]
    window_s = max(0.0, (spent[1] - spent[0]) / (long.windows - short.windows))
    return Share(max(0.0, spent[0] - window_s * short.windows), window_s)


def run_job(videos: Path, folder: Path, workers: int, window_s: float) -> JobRun:
    """Run the real job on a Ray of its own with so many tasks that decode and so many scorers.

    Raises:
        JobError: it failed.
    """
    out, figures = folder / f"out-{videos.name}-{workers}", folder / "figures.jsonl"
    # a CPU per decoding task, and what the actors and the light tasks reserve
    command = [
        sys.executable, "-m", "jobs.scale.on_cpus", str(workers + 1), "answer", str(videos), str(out),
        *(word for text in QUESTIONS for word in ("--query", text)), "--window.length-s", str(window_s),
        "--score.pool.device", "cpu", "--score.pool.num-cpus", "0.2", "--answer.pool.num-cpus", "0.2",
        "--score.pool.min-size", str(workers), "--score.pool.max-size", str(workers),
    ]  # fmt: skip
    environment = {**ray_figures.environment(figures), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    said, use = family.run(command, environment)
    stats = json.loads(said.strip().splitlines()[-1])
    # one question's row per window stands for the window
    found = ledger.scan(str(out), "answers", ["window_id", "decode_s", "score_s", "start_s", "end_s"])
    ratios = {
        row["window_id"]: (row["decode_s"] + row["score_s"]) / max(0.5, row["end_s"] - row["start_s"])
        for row in found
    }
    mean = sum(ratios.values()) / len(ratios)
    return JobRun(
        workers=workers,
        windows=stats["windows"],
        video_s=stats["this_run"]["video_s"],
        use=use,
        counted=stats["this_run"],
        spread=tuple(round(ratio / mean, 3) for ratio in ratios.values()),
        out=str(out),
    )


def measure(short: JobRun, run: JobRun, folder: Path, bytes_per_s: float) -> Costs:
    """Return what the parts of the job cost, from a run of a few windows and one of many."""
    counted, video_s = run.counted, run.video_s
    return Costs(
        probe_s=counted["probe_cpu_s"] / counted["videos"],
        decode_s=counted["decode_cpu_s"] / video_s,
        score_s=counted["score_cpu_s"] / video_s,
        write_s=(counted["answer_cpu_s"] + counted["write_cpu_s"]) / video_s,
        ray_s=share(short, run, "task worker", "Scorer", "Ray itself").window_s,
        spread=run.spread,
        step_s=_step_s(folder),
        **_driver(run, folder),
        video_bytes_per_s=bytes_per_s,
    )


def _driver(run: JobRun, folder: Path) -> dict[str, float]:
    """Return what the driver's own work costs, per file, window, answer, part."""
    from jobs.archive import Archive
    from jobs.summary import count
    from pipeline.answered import open_windows
    from pipeline.queries import one_query
    from pipeline.reduce import AGGREGATORS
    from pipeline.verdicts import judge, shards

    videos, many, asked = folder / "many", Run(str(folder / "many-out"), "run"), [*map(one_query, QUESTIONS)]
    videos.mkdir()
    for number in range(NUM_FILES):
        (videos / f"{number:06d}.mp4").touch()
    archives: list[Archive] = []

    def list_all() -> None:
        archives.append(Archive(str(videos), many.out))
        archives[0].write_down(many)

    list_s, _ = _timed(list_all)
    good = [row for row in ledger.scan(run.out, "videos", rows.VIDEOS.names) if not row["error_type"]]
    keys = ("video_id", "version", "uri", "size_bytes", "etag")
    listed = [
        row
        for uri in store.list_files(many.manifest("files"))
        for row in ledger.read_slice(uri.uri, 0, NUM_FILES)
    ]
    probed = ({**good[0], **{name: row[name] for name in keys}} for row in listed)
    store.write_table(store.join(many.out, "videos", "all.parquet"), rows.to_table(probed, rows.VIDEOS))
    queries = [one_query(f"{number}") for number in range(10)]
    plan_s, windows = _timed(
        lambda: ledger.write_parts(
            many.manifest("windows"), open_windows(many, queries, archives[0].found), rows.WINDOW
        )
    )
    parts = [pq.read_table(uri) for uri in ledger.part_files(run.out, "answers")]
    answers = pa.concat_tables(parts * NUM_COPIES)
    store.write_table(store.join(many.out, "answers", "all.parquet"), answers)
    store.write_table(store.join(many.out, "videos", "own.parquet"), rows.to_table(good, rows.VIDEOS))
    own = sorted_keys(key(row["video_id"], row["version"]) for row in good)
    count_s, _ = _timed(lambda: count(many.out, asked, own))
    reduce = AGGREGATORS["strongest-window"]
    judge_s, _ = _timed(
        lambda: list(judge(many.out, shards(1)[0], asked, reduce, found=own, judged=sorted_keys([])))
    )
    scattered = str(folder / "scattered")
    for number in range(NUM_PARTS):
        store.write_table(store.join(scattered, "answers", f"{number}.parquet"), parts[0])
    nothing = pc.field("video_id") > "zzz"
    open_s, _ = _timed(lambda: list(ledger.scan(scattered, "answers", ["video_id"], nothing)))
    return {
        "list_s": list_s / NUM_FILES,
        "plan_s": plan_s / sum(part.stop - part.start for part in windows),
        "count_s": count_s / len(answers),
        "judge_s": judge_s / len(answers),
        "open_s": open_s / NUM_PARTS,
        "commit_s": commit_s(str(folder / "commits")),
    }


def commit_s(out: str, count: int = 40) -> float:
    """Return the time of one commit of a part of two files, on a disk or in a bucket."""
    run = Run(out, "run")
    parts: list[rows.Row] = []
    for number in range(count):
        files = [
            {"table": table, "staged": store.join(run.staging, f"{number}.{table}.parquet")}
            for table in ("answers", "frames")
        ]
        for file in files:
            store.write_bytes(file["staged"], b"x" * 1000)
        parts.append({"part_id": f"answers-frames-{number}", "files": files, "counters": "{}"})
    started = time.perf_counter()
    for part in parts:
        ledger.commit(run, part)
    return (time.perf_counter() - started) / count


def _step_s(folder: Path) -> float:
    """Return the driver's CPU time per block and stage, in a process of its own."""
    spent: list[float] = []
    for blocks in STEP_BLOCKS:
        said, _ = family.run(
            [sys.executable, "-m", "jobs.scale.steps", str(blocks)],
            ray_figures.environment(folder / "steps.jsonl"),
        )
        spent.append(json.loads(said.strip().splitlines()[-1])["driver_cpu_s"])
    fewest, most = STEP_BLOCKS
    return (spent[1] - spent[0]) / ((most - fewest) * 4)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds of this process, and what came of it."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def bytes_per_s(videos: Path, video_s: float) -> float:
    """Return the size of an archive per second of video."""
    return sum(path.stat().st_size for path in videos.rglob("*") if path.is_file()) / video_s
