"""How far does it scale? Costs measured on this machine, then 1 to 1,000 machines and ten million files simulated.

Four runs of the real job come first. Two, of different length, with one decoding task and one scorer, give the costs;
two others, longer, with one and with two of both, are what the simulation must tell beforehand (scale/check.py):
measured_vs_simulated is the worse of their relative deviations. All have copies of the same clips, because what
decoding costs differs threefold between clips, and that is no question of scale.

Then whole jobs are simulated. The bottleneck is what shortens the job of the most machines most when it costs nothing.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jobs.bench_overhead import REPEATED, copied, repeated
from jobs.bench_report import list_files, write_report
from jobs.command_line import parse, require
from jobs.scale import report
from jobs.scale.check import Check, check
from jobs.scale.measure import bytes_per_s, commit_s, measure, run_job
from jobs.scale.model import Cluster, Store
from jobs.scale.whole_job import Assumed, Costs, Settings, Whole, row, run, streams
from pipeline.errors import JobError

PROG = "reelsift bench scale"
NODES = (1, 10, 100, 1000)
CLUSTER = Cluster(nodes=1, cores=32, boot_s=150.0, losses_per_h=0.05, bytes_per_s=1.5e9)
STORE = Store(requests_per_s=5500.0)
DEVIATION_BOUND = 0.15


@dataclass(frozen=True)
class Arguments:
    """Measure costs, simulate 1 to 1,000 machines."""

    media: Path
    """Folder with clips."""
    seconds: float = 40.0
    """Each clip is repeated until it lasts so long."""
    copies: int = 4
    """How often each is copied in the run that gives the costs; twice as often in those that are told."""
    window_s: float = 20.0
    """Seconds of one window in the measured runs."""
    files: int = 10_000_000
    """Files of the simulated archive."""
    s3: str = ""
    """Prefix in a bucket to measure commits in as well."""
    costs: Path | None = None
    """JSON file of costs to simulate with, instead of measuring; written by an earlier run with --keep."""
    keep: Path | None = None
    """JSON file to write the measured costs to."""
    processes: int = 1
    """Simulations at the same time."""
    report: Path | None = None
    """Markdown file to write, the plot beside it; the default is docs/benchmarks/scale.md."""


@dataclass(frozen=True)
class Case:
    """One simulated job."""

    name: str
    nodes: int
    costs: Costs
    assumed: Assumed
    settings: Settings
    cluster: Cluster
    store: Store


def main(argv: list[str]) -> int:
    """Measure, check, simulate, write the report; exit code 1 if the simulation does not tell the measured points.

    Raises:
        ConfigError: the arguments do not fit.
        JobError: a run failed.
    """
    args = parse(Arguments, argv, PROG, Arguments.__doc__)
    require("--copies", args.copies, at_least=2)
    require("--seconds", args.seconds, above=0)
    require("--window-s", args.window_s, above=0)
    require("--files", args.files, at_least=1000)
    require("--processes", args.processes, at_least=1)
    costs, checks, s3_s = read_costs(args.costs) if args.costs else measured(args)
    if args.keep:
        found = {"costs": asdict(costs), "checks": [asdict(check) for check in checks], "s3_commit_s": s3_s}
        args.keep.write_text(json.dumps(found), encoding="utf-8")
    cases = [
        *by_nodes(costs, args.files), *what_ifs(costs, args.files), *other_settings(costs, args.files)
    ]  # fmt: skip
    with get_context("spawn").Pool(args.processes) as pool:
        results = dict(zip([case.name for case in cases], pool.imap(simulate_case, cases), strict=True))
    rows = [{"case": case.name, **row(case.nodes, results[case.name])} for case in cases]
    most = results[f"{NODES[-1]} nodes"]
    gains = {case.name: most.wall_s / results[case.name].wall_s for case in what_ifs(costs, args.files)}
    bottleneck = max(gains, key=lambda name: gains[name])
    worst = max((check.deviation for check in checks), default=None)
    passed = worst is not None and worst <= DEVIATION_BOUND
    figures = {
        "efficiency_1000_nodes": round(most.efficiency, 4),
        "bottleneck": bottleneck.removeprefix("no "),
        "measured_vs_simulated": None if worst is None else round(worst, 4),
    }
    path = args.report or report.REPORT
    plot = path.with_suffix(".png")
    command = (
        f"{PROG} --media DIR{' --s3 PREFIX' if args.s3 else ''}{' --costs FILE' if args.costs else ''}"
        f" --files {args.files}"
    )
    lines = report.lines(command, costs, checks, s3_s, cases, results, figures, plot.name)
    report.draw(cases, results, plot)
    write_report("scale", lines, path)
    print(json.dumps({"bench": "scale", "pass": passed, "figures": figures, "rows": rows}))
    return 0 if passed else 1


def read_costs(path: Path) -> tuple[Costs, list[Check], float | None]:
    """Return what an earlier run kept."""
    found = json.loads(path.read_text(encoding="utf-8"))
    costs: dict[str, Any] = {**found["costs"], "spread": tuple(found["costs"]["spread"])}
    return Costs(**costs), [Check(**check) for check in found["checks"]], found["s3_commit_s"]


def measured(args: Arguments) -> tuple[Costs, list[Check], float | None]:
    """Return costs from two runs, the check on two others, and the time of a commit in the bucket.

    Raises:
        JobError: a run failed, or there is no clip.
    """
    with tempfile.TemporaryDirectory(prefix="reelsift-scale-") as name:
        folder = Path(name)
        clips = [clip for clip in list_files("--media", args.media) if clip.suffix in REPEATED]
        if not clips:
            msg = f"--media {args.media}: found no clip in {' or '.join(REPEATED)}, expected 1 or more; add some"
            raise JobError(msg)
        same = [repeated(clip, folder, args.seconds) for clip in clips]
        few, some, many = (
            copied(same, folder / f"copies{copies}", copies) for copies in (1, args.copies, 2 * args.copies)
        )
        short, long = (run_job(videos, folder, 1, args.window_s) for videos in (few, some))
        costs = measure(short, long, folder, bytes_per_s(some, long.video_s))
        told = [run_job(many, folder, workers, args.window_s) for workers in (1, 2)]
        s3_s = commit_s(f"{args.s3.rstrip('/')}/{time.time_ns()}") if args.s3 else None
    return costs, [check(short, long, one) for one in told], s3_s


def simulate_case(case: Case) -> Whole:
    """Return what comes of one simulated job."""
    started = time.monotonic()
    whole = run(case.costs, case.assumed, case.settings, case.cluster, case.store)
    print(f"{case.name}: {whole.wall_s / 3600:.1f} h ({time.monotonic() - started:.0f} s)", file=sys.stderr)
    return whole


def by_nodes(costs: Costs, files: int) -> list[Case]:
    """Return the job at the defaults on more and more machines."""
    return [
        Case(
            f"{nodes} node{'s' * (nodes > 1)}", nodes, costs, Assumed(files=files), Settings(),
            replace(CLUSTER, nodes=nodes), STORE,
        )
        for nodes in NODES
    ]  # fmt: skip


def what_ifs(costs: Costs, files: int) -> list[Case]:
    """Return the job on the most machines, each with one thing that costs nothing."""
    base = by_nodes(costs, files)[-1]
    free = base.assumed
    return [
        replace(base, name="no driver steps", costs=replace(costs, step_s=0.0)),
        replace(
            base,
            name="no listing, planning and counting",
            costs=replace(costs, list_s=0.0, plan_s=0.0, count_s=0.0),
        ),
        replace(base, name="no waiting for commits", cluster=replace(base.cluster, commits_at_once=100_000)),
        replace(base, name="no limits of the store", store=Store(), assumed=replace(free, request_s=0.0)),
        replace(base, name="no tail", costs=replace(costs, spread=(1.0,))),
        replace(
            base,
            name="no lost or booting machines",
            cluster=replace(base.cluster, losses_per_h=0.0, boot_s=0.0),
        ),
    ]


def other_settings(costs: Costs, files: int) -> list[Case]:
    """Return the job on the most machines with one setting changed."""
    base = by_nodes(costs, files)[-1]
    some = base.settings
    stream = streams(costs, base.assumed, some)[1]
    first, second = base.cluster.slots(stream)
    return [
        replace(base, name="one commit at a time", cluster=replace(base.cluster, commits_at_once=1)),
        replace(base, name="every window a block to the end", settings=replace(some, bundle=1)),
        replace(base, name="32 windows per part", settings=replace(some, windows_per_part=32)),
        replace(base, name="256 windows per task", settings=replace(some, windows_per_task=256)),
        replace(base, name="2,000,000 answers per shard", settings=replace(some, answers_per_shard=2_000_000)),
        replace(base, name="16 prefixes", store=replace(STORE, prefixes=16)),
        replace(
            base, name="half the scorers",
            cluster=replace(base.cluster, first_slots=first, second_slots=max(1, second // 2)),
        ),
        *(jobs_side_by_side(base, jobs) for jobs in (16, 64)),
    ]  # fmt: skip


def jobs_side_by_side(base: Case, jobs: int) -> Case:
    """Return one of so many jobs that share the archive, the machines and the bucket evenly; all are alike."""
    return replace(
        base,
        name=f"{jobs} jobs, each with a share of the archive",
        assumed=replace(base.assumed, files=base.assumed.files // jobs),
        cluster=replace(base.cluster, nodes=max(1, base.cluster.nodes // jobs)),
    )
