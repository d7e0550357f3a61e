"""The report of the scale bench: costs, the check, tables of simulated jobs, and a plot of efficiency over machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.bench_report import circumstances, table
from jobs.scale.whole_job import Assumed, Costs, Whole

REPORT = Path("docs/benchmarks/scale.md")


def lines(
    command: str,
    costs: Costs,
    checks: Sequence[Any],
    s3_commit_s: float | None,
    cases: Sequence[Any],
    results: Mapping[str, Whole],
    figures: Mapping[str, Any],
    plot: str,
) -> list[str]:
    """Return the report."""
    base = next(case for case in cases if case.nodes == 1000)
    most = results[base.name]
    return [
        "# How far it scales: measured costs, simulated machines",
        "",
        *circumstances(command),
        "",
        f"Efficiency at 1,000 machines of {base.cluster.cores} cores, settings as they come:"
        f" **{figures['efficiency_1000_nodes']:.1%}**. First bottleneck: **{figures['bottleneck']}**."
        + (
            f" The simulation is within **{figures['measured_vs_simulated']:.1%}** of the measured runs it had to tell."
            if checks
            else " The simulation was not compared with measured runs of the job."
        ),
        "",
        f"![Efficiency by number of machines]({plot})",
        "",
        "Efficiency is useful node seconds (each item's work once) of those paid for; speed-up is against one machine.",
        "",
        *_by_nodes(cases, results),
        "",
        f"Where the time of {base.name} goes, h: "
        + ", ".join(f"{name} {seconds / 3600:.2f}" for name, seconds in most.phases_s.items())
        + ".",
        "",
        "## What moves it",
        "",
        f"All with {base.nodes} machines. `no X`: X made free. Faster: time at the defaults divided by this time.",
        "",
        *_others(base.name, cases, results),
        "",
        "## Measured here",
        "",
        *table(["cost", "seconds"], [[name, f"{value:.3g}"] for name, value in _plain(costs).items()]),
        "",
        "Per file: probe_s, list_s; per second of video: decode_s, score_s, write_s; per window: ray_s, plan_s; per"
        " answer: count_s, judge_s; per Parquet file opened: open_s; per block and stage on the driver: step_s."
        + (f" A commit in a bucket of a server on this machine: {s3_commit_s:.3f} s." if s3_commit_s else ""),
        "",
        "## The check",
        "",
        "The real job over more copies than those that gave the costs. What others and other guests of the machine"
        " beneath took of its cores meanwhile is taken from the simulated machine's.",
        "",
        *table(
            [
                "tasks and scorers",
                "windows",
                "measured s",
                "simulated s",
                "deviation",
                "others' cores",
                "stolen",
            ],
            [
                [
                    str(one.workers),
                    str(one.windows),
                    f"{one.measured_s:.1f}",
                    f"{one.simulated_s:.1f}",
                    f"{one.deviation:.1%}",
                    f"{one.foreign_cores:.2f}",
                    f"{one.stolen_cores:.2f}",
                ]
                for one in checks
            ],
        ),
        "",
        "## Assumed, not measured",
        "",
        *_assumed(base, base.assumed),
    ]


def _by_nodes(cases: Sequence[Any], results: Mapping[str, Whole]) -> list[str]:
    chosen = [case for case in cases if case.name.endswith((" node", " nodes"))]
    alone = results[chosen[0].name]
    return table(
        ["machines", "hours", "speed-up", "efficiency", "lost machines", "units begun again", "SlowDown"],
        [
            [
                f"{case.nodes:,}",
                f"{found.wall_s / 3600:,.1f}",
                f"{alone.wall_s / found.wall_s:.1f}",
                f"{found.efficiency:.1%}",
                f"{sum(one.lost_nodes for one in found.outcomes.values()):,}",
                f"{sum(one.repeated for one in found.outcomes.values()):,}",
                f"{sum(one.slow_downs for one in found.outcomes.values()):,}",
            ]
            for case in chosen
            for found in [results[case.name]]
        ],
    )


def _others(base: str, cases: Sequence[Any], results: Mapping[str, Whole]) -> list[str]:
    chosen = [case for case in cases if not case.name.endswith((" node", " nodes"))]
    return table(
        ["", "hours", "efficiency", "faster"],
        [
            [
                case.name,
                f"{found.wall_s / 3600:.2f}",
                f"{found.efficiency:.1%}",
                f"{results[base].wall_s / found.wall_s:.2f}",
            ]
            for case in chosen
            for found in [results[case.name]]
        ],
    )


def _plain(costs: Costs) -> dict[str, float]:
    return {name: value for name, value in asdict(costs).items() if isinstance(value, float)}


def _assumed(base: Any, assumed: Assumed) -> list[str]:
    cluster, store = base.cluster, base.store
    return [
        f"- {assumed.files:,} files of {assumed.video_s:g} s, one window each, {assumed.questions} questions; no"
        " language model: the embedded scorer on CPUs. With a model a window is more work, the driver's share smaller.",
        f"- A machine has {cluster.cores} cores like this one's, is there {cluster.boot_s:g} s after it was asked for,"
        f" as many more at once as run ({cluster.least_launch} at least), and is lost {cluster.losses_per_h:g} times an"
        f" hour; {cluster.bytes_per_s * 8e-9:g} Gbit/s. The driver's machine is not counted.",
        f"- A bucket answers after {1000 * assumed.request_s:g} ms and takes {store.requests_per_s:,.0f} requests a"
        " second and prefix (what S3 documents for reading; 3,500 for writing); beyond a second of backlog it says"
        f" SlowDown, and who is told so waits {store.back_off_s:g} s before it queues."
        f" {assumed.probe_requests:g} requests probe a file, {assumed.window_requests:g} read a window.",
        "- The driver's time per step does not depend on how many tasks run. Ray's loop looks at all of them, so it"
        " does: at thousands of tasks this is too kind.",
    ]


def draw(cases: Sequence[Any], results: Mapping[str, Whole], path: Path) -> None:
    """Draw efficiency and speed-up over machines."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [case for case in cases if case.name.endswith((" node", " nodes"))]
    nodes = [case.nodes for case in chosen]
    alone_s = results[chosen[0].name].wall_s
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    left.semilogx(nodes, [100 * results[case.name].efficiency for case in chosen], "o-")
    left.set(xlabel="machines", ylabel="efficiency, %", ylim=(0, 100), title="useful of paid node seconds")
    right.loglog(nodes, nodes, ":", color="gray", label="ideal")
    right.loglog(
        nodes, [alone_s / results[case.name].wall_s for case in chosen], "o-", label="settings as they come"
    )
    base = next(case for case in cases if case.nodes == nodes[-1])
    for case in cases:
        if case.name.startswith("no "):
            speed = alone_s / results[case.name].wall_s
            right.plot([base.nodes], [speed], "x")
            right.annotate(case.name, (base.nodes, speed), fontsize=6, ha="right")
    right.set(xlabel="machines", ylabel="speed-up over one")
    right.legend()
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
