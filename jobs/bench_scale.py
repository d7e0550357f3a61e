"""How far does it scale? Costs measured on this machine, then 1 to 1,000 machines and ten million files simulated.

Three runs of the real job come first. The first, on one set of videos with one decoding task and one scorer, gives the
costs; the other two, on other videos with one and with two of both, are what the simulation must tell beforehand:
measured_vs_simulated is the worse of their relative deviations. What others keep busy on the machine meanwhile is
measured and taken from the simulated machine's cores.

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

from jobs.bench_overhead import copied, repeated
from jobs.bench_report import list_files, write_report
from jobs.command_line import parse, require
from jobs.scale import report
from jobs.scale.measure import JobRun, bytes_per_s, commit_s, measure, run_job
from jobs.scale.model import Cluster, Store, Stream
from jobs.scale.simulation import simulate
from jobs.scale.whole_job import Assumed, Costs, Settings, Whole, row, run, streams
from pipeline.errors import JobError

PROG = "reelsift bench scale"
NODES = (1, 10, 100, 1000)
CLUSTER = Cluster(nodes=1, cores=32, boot_s=150.0, losses_per_h=0.05, bytes_per_s=1.5e9)
STORE = Store(requests_per_s=5500.0)
DEVIATION_BOUND = 0.15
STEPS = 2
"""Stages of the answer stream that a window goes through as a block, where no language model answers."""


@dataclass(frozen=True)
class Arguments:
    """Measure costs, simulate 1 to 1,000 machines."""

    media: Path
    """Folder with clips; half of them give the costs, the others the check."""
    seconds: float = 40.0
    """Each clip is repeated until it lasts so long."""
    copies: int = 12
    """How often each is copied."""
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
class Check:
    """One measured point beside what was simulated for it."""

    workers: int
    windows: int
    measured_s: float
    simulated_s: float
    foreign_cores: float

    @property
    def deviation(self) -> float:
        """Relative to what was measured."""
        return abs(self.simulated_s - self.measured_s) / self.measured_s


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
    require("--copies", args.copies, at_least=1)
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
    command = f"{PROG} --media DIR{' --s3 PREFIX' if args.s3 else ''} --files {args.files}"
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
    """Return costs from one half of the clips, the check on the other half, and the time of a commit in the bucket.

    Raises:
        JobError: a run failed, or there are fewer than two clips.
    """
    with tempfile.TemporaryDirectory(prefix="reelsift-scale-") as name:
        folder = Path(name)
        clips = [clip for clip in list_files("--media", args.media) if clip.suffix in (".mp4", ".avi")]
        if len(clips) < 2:
            msg = f"--media {args.media}: found {len(clips)} clips in .mp4 or .avi, expected 2 or more; add some"
            raise JobError(msg)
        long = [repeated(clip, folder, args.seconds) for clip in clips]
        first = copied(long[::2], folder / "first", args.copies)
        other = copied(long[1::2], folder / "other", args.copies + 1)
        calibration = run_job(first, folder, 1, args.window_s)
        costs = measure(calibration, folder, bytes_per_s(first, calibration.video_s))
        told = [run_job(other, folder, workers, args.window_s) for workers in (1, 2)]
        s3_s = commit_s(f"{args.s3.rstrip('/')}/{time.time_ns()}") if args.s3 else None
    return costs, [check(calibration, one, costs.step_s) for one in told], s3_s


def check(calibration: JobRun, told: JobRun, step_s: float) -> Check:
    """Return a measured point beside what the costs of another run say of it.

    What the simulated stream leaves of the other run's time is the start of Ray and of its processes.
    """
    start_core_s = (calibration.wall_s - stream_s(calibration, calibration, step_s)) * room(calibration)
    simulated_s = start_core_s / room(told) + stream_s(calibration, told, step_s)
    return Check(told.workers, told.windows, told.wall_s, simulated_s, told.foreign_cores)


def room(run: JobRun) -> float:
    """Return the cores of this machine that others left."""
    import psutil

    return max(0.1, (psutil.cpu_count() or 1) - run.foreign_cores)


def stream_s(calibration: JobRun, told: JobRun, step_s: float) -> float:
    """Return the simulated time of the answer stream of a run, with the costs per window of another."""
    import psutil

    counted, cores = calibration.counted, psutil.cpu_count() or 1
    work_s = counted["decode_cpu_s"] + counted["score_cpu_s"]
    # the driver computes on the same cores: it keeps them from the windows
    more = 1 + STEPS * step_s * calibration.windows / work_s
    per_s = more / calibration.video_s
    stream = Stream(
        "answer",
        items=told.windows,
        items_per_unit=1,
        first_s=per_s * counted["decode_cpu_s"] * told.video_s / told.windows,
        second_s=per_s * counted["score_cpu_s"] * told.video_s / told.windows,
        spread=calibration.spread,
    )
    machine = Cluster(
        1, cores, first_slots=told.workers, second_slots=told.workers, core_speed=room(told) / cores
    )
    return simulate(stream, machine, Store()).wall_s


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
