"""Is anything lost, doubled or changed, whatever is killed? The job on a cluster of its own, from bucket to bucket.

Each run strikes the real job by a seeded plan (chaos_plan.py): drivers, actors, tasks, decoding processes and machines
are killed, and the store's answers broken. The same command is run again at most twice; then its tables are compared
with those of an undisturbed run, row by row. One more part kills the driver when half of the windows are committed,
and counts how many windows are looked at twice.
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench_report import circumstances, table, write_report
from jobs.chaos_cluster import Cluster, cluster
from jobs.chaos_decoder import POISON
from jobs.chaos_plan import ATTEMPTS, Attempt, Strike, draw
from jobs.chaos_run import Result, run
from jobs.chaos_scorer import num_counted
from jobs.command_line import parse, require
from jobs.fault_proxy import FaultProxy
from pipeline import ledger, rows, store
from pipeline.config import SinkConfig
from pipeline.errors import ConfigError, JobError
from pipeline.store import ENDPOINT

PROG = "reelsift bench chaos"
NUM_VIDEOS, VIDEO_S, POISON_S = 4, 16, 2
WINDOW_S, WINDOWS_PER_PART = 2, 4
HALF_WINDOW_S, HALF_PER_PART, HALF_SCORER = 0.5, SinkConfig().windows_per_part, "SLOW"
"""Of the run that is killed when half is done. Parts are as large as usual: larger than what is on its way between the
scorer and the record, the windows of a few seconds."""
MEASURED = {"run_id", "decode_s", "score_s", "answer_s", "probe_s", "read_bytes", "read_requests"}
"""Columns that say when and at what cost a row came about."""
KEYS = {
    "videos": ("video_id", "version"),
    "frames": ("video_id", "version", "wanted_s", "quality"),
    "answers": ("window_id", "query_id"),
    "verdicts": ("video_id", "version", "query_id"),
}
Tables = dict[str, dict[tuple[Any, ...], list[str]]]
"""Per table and key, the rows as text."""


@dataclass(frozen=True)
class Arguments:
    """Kill the job in every way, and count what is lost.

    Needs an S3 server of one's own, over plain HTTP, in AWS_ENDPOINT_URL: its answers are broken on the way. `make
    chaos` starts one.
    """

    s3: str = ""
    """Where to work: s3://bucket/prefix. What lies there is not touched, what is written there stays."""
    runs: int = 30
    minutes: float = 120.0
    """After as long no further run begins."""
    seed: int = 0
    """Of all that goes wrong."""
    resume: bool = True
    """Also kill the driver when half is done, and count what is done twice."""
    report: Path | None = None
    """Markdown file to write; the default is named after the machine and the day, in docs/benchmarks/."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where all runs take place."""

    prefix: str
    folder: Path
    cluster: Cluster
    proxy: FaultProxy

    def run(
        self,
        name: str,
        plan: Sequence[Attempt],
        window_s: float = WINDOW_S,
        per_part: int = WINDOWS_PER_PART,
        scorer: str = "COUNTING",
    ) -> Result:
        """Run the command into a folder of its own by a plan."""
        counts = self.counts(name)
        counts.mkdir()
        environment = {**self.cluster.environment, "RAY_ADDRESS": self.cluster.address}
        return run(
            self._command(name, window_s, per_part, scorer), environment, self.cluster, self.proxy, plan
        )

    def out(self, name: str) -> str:
        """Return where a run's tables are."""
        return store.join(self.prefix, "out", name)

    def counts(self, name: str) -> Path:
        """Return where a run's scorers count their windows."""
        return self.folder / name

    def _command(self, name: str, window_s: float, per_part: int, scorer: str) -> list[str]:
        options = {
            "--query": ("a red star", "a number"),
            "--window.length-s": (window_s,),
            "--window.sample-fps": (2,),
            "--sink.windows-per-part": (per_part,),
            "--sink.compact-files": (2,),
            "--decode.decoder": ("jobs.chaos_decoder:open_or_starve",),
            "--decode.memory-mb": (300,),
            "--score.scorer": (f"jobs.chaos_scorer:{scorer}",),
            "--score.model": (self.counts(name),),
            # as a model on a GPU sits: in actors, which can be killed
            "--score.pool.device": ("cpu",),
        }
        words = [
            word for option, values in options.items() for value in values for word in (option, str(value))
        ]
        return [sys.executable, "-m", "jobs", "answer", store.join(self.prefix, "in"), self.out(name), *words]


def main(argv: list[str]) -> int:
    """Run everything, write the report; the last stdout line is JSON. Returns 1 when anything was lost.

    Raises:
        ConfigError: the arguments do not fit, or there is no S3 server.
        JobError: the undisturbed run fails, or a run hangs.
    """
    args = parse(Arguments, argv, PROG)
    require("--runs", args.runs, at_least=0)
    require("--minutes", args.minutes, above=0)
    endpoint = next((os.environ[name] for name in ENDPOINT if os.environ.get(name)), "")
    if not args.s3.startswith("s3://") or not endpoint.startswith("http://"):
        msg = (
            f"--s3 {args.s3!r} with AWS_ENDPOINT_URL={endpoint!r}: expected s3://bucket/prefix and http://HOST:PORT,"
            " an S3 server whose answers may be broken on the way; `make chaos` starts one"
        )
        raise ConfigError(msg)
    proxy = FaultProxy(endpoint)
    environment: dict[str, str] = dict.fromkeys(ENDPOINT, proxy.address)
    with tempfile.TemporaryDirectory(prefix="reelsift-chaos-") as folder, cluster(environment) as nodes:
        bench = Bench(args.s3, Path(folder), nodes, proxy)
        write_videos(bench)
        figures, lines = _measure(bench, args)
    passed = not any(figures[name] for name in ("lost", "duplicated", "different", "leftovers", "unfinished"))
    passed = passed and figures.get("twice", 0) <= figures.get("twice_at_most", 0)
    _write(args, figures, lines)
    print(json.dumps({"bench": "chaos", "pass": passed, "figures": figures, "rows": lines}))
    return 0 if passed else 1


def write_videos(bench: Bench) -> None:
    """Put the archive into the bucket: good videos, and one whose decoder always runs out of memory."""
    from jobs.world.videos import write_video

    lengths_s = {f"good{number}.mp4": VIDEO_S for number in range(NUM_VIDEOS)} | {POISON: POISON_S}
    for seed, (name, length_s) in enumerate(lengths_s.items()):
        path = bench.folder / "video.mp4"
        write_video(path, seed, length_s)
        store.write_bytes(store.join(bench.prefix, "in", name), path.read_bytes())
        path.unlink()


def _measure(bench: Bench, args: Arguments) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    whole = bench.run("whole", [Attempt()])
    if not whole.finished:
        msg = f"the undisturbed run failed: {'; '.join(whole.stops)}"
        raise JobError(msg)
    expected = read(bench.out("whole"))
    print(f"undisturbed: {whole.seconds:.1f} s, {dict(whole.steps)}", file=sys.stderr)
    figures: Counter[str] = Counter(
        dict.fromkeys(("lost", "duplicated", "different", "leftovers", "unfinished"), 0)
    )
    lines: list[dict[str, Any]] = []
    told = _resume(bench, whole) if args.resume else {}
    print(told, file=sys.stderr, flush=True)
    started = time.monotonic()
    for number in range(args.runs):
        if time.monotonic() - started > 60 * args.minutes:
            break
        plan = draw(args.seed, number, whole.steps)
        result = bench.run(f"run{number}", plan)
        found = compare(expected, read(bench.out(f"run{number}")))
        found["leftovers"] = len(leftovers(bench.out(f"run{number}")))
        found["unfinished"] = int(not result.finished)
        lines.append(_line(args.seed, number, plan, result, found))
        print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        figures.update(found)
        figures.update(s3_faults=result.faults, reruns=result.attempts - 1)
    late = sum(len(leftovers(bench.out(f"run{number}"))) for number in range(len(lines)))
    kills = sum((Counter(line["kills"]) for line in lines), Counter[str]())
    figures["leftovers"] = max(late, figures["leftovers"])
    return {
        "runs": len(lines),
        "kills": kills.total(),
        **figures,
        "kills_by_kind": dict(kills),
        **told,
    }, lines


def _line(
    seed: int, number: int, plan: Sequence[Attempt], result: Result, found: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "seed": f"{seed}-{number}",
        "kinds": [attempt.kinds for attempt in plan[: result.attempts]],
        "kills": dict(result.kills),
        "s3_faults": result.faults,
        "reruns": result.attempts - 1,
        "seconds": round(result.seconds, 1),
        "stops": result.stops,
        **found,
    }


def read(out: str) -> Tables:
    """Return every committed row, without what differs from run to run, as text by table and key."""
    found: Tables = {}
    for name, schema in rows.TABLES.items():
        by_key = found.setdefault(name, {})
        for row in ledger.scan(out, name, [column for column in schema.names if column not in MEASURED]):
            by_key.setdefault(tuple(row[column] for column in KEYS[name]), []).append(repr(row))
    return found


def compare(expected: Tables, found: Tables) -> Counter[str]:
    """Count the rows that are lost, duplicated (or nobody asked for), and different."""
    wrong: Counter[str] = Counter(lost=0, duplicated=0, different=0)
    for name, keys in expected.items():
        for key, whole in keys.items():
            there = found[name].get(key, [])
            wrong["lost"] += max(0, len(whole) - len(there))
            wrong["duplicated"] += max(0, len(there) - len(whole))
            wrong["different"] += len(set(there) - set(whole))
        wrong["duplicated"] += sum(len(there) for key, there in found[name].items() if key not in keys)
    return wrong


def leftovers(out: str) -> list[str]:
    """Return staged files that nobody will publish."""
    files = store.list_files(store.join(out, "_run"), missing_ok=True)
    return [entry.uri for entry in files if "/staging/" in entry.uri]


def _resume(bench: Bench, whole: Result) -> dict[str, int]:
    """Kill the driver when half of the windows are recorded; return what that cost."""
    windows = int(NUM_VIDEOS * VIDEO_S / HALF_WINDOW_S)
    # the first record is that of the videos
    half = Strike("step", step="record", nth=1 + windows // HALF_PER_PART // 2)
    plan = [Attempt((half,)), *[Attempt()] * (ATTEMPTS - 1)]
    result = bench.run("half", plan, HALF_WINDOW_S, HALF_PER_PART, HALF_SCORER)
    reads = whole.steps["read"] + windows - num_counted(bench.counts("whole"))
    return {
        "windows": windows,
        "windows_looked_at": num_counted(bench.counts("half")),
        "decoded_twice": result.steps["read"] - reads,
        "twice": num_counted(bench.counts("half")) - windows,
        "twice_at_most": HALF_PER_PART,
        "resume_kills": result.kills.total(),
        "resume_reruns": result.attempts - 1,
    }


def _write(args: Arguments, figures: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the report."""
    command = f"{PROG} --s3 s3://BUCKET/PREFIX --runs {args.runs} --seed {args.seed}"
    text = [
        "# Chaos: is anything lost, doubled or changed, whatever is killed?",
        "",
        *circumstances(command),
        "",
        str(__doc__).partition("\n")[2].strip(),
        "",
        *table(["figure", "value"], [[name, str(value)] for name, value in figures.items()]),
        "",
        *table(
            ["seed", "what went wrong, per run of the command", "kills", "S3 faults", "re-runs", "s"],
            [
                [
                    line["seed"], "; then ".join(", ".join(kinds) or "nothing" for kinds in line["kinds"]),
                    str(sum(line["kills"].values())), str(line["s3_faults"]), str(line["reruns"]),
                    f"{line['seconds']:.0f}",
                ]
                for line in lines
            ],
        ),
    ]  # fmt: skip
    lacking = [] if len(lines) >= Arguments.runs and args.resume else ["fewer runs than usual"]
    write_report("chaos", text, args.report, lacking)
