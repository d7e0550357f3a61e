"""The main job: questions over videos, Parquet out. `reelsift answer VIDEOS QUERIES OUT`.

What is decided before Ray starts: settings, queries, plug-ins, models, and whether there is anything left to do, which
takes no more of the listing than the first new file. Whether the job can run is known before more is listed or anything
written. Running the same command again does only what is missing.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jobs.command_line import parse_with_recipe
from jobs.failures import unwrapped
from jobs.places import absolute, absolute_models
from jobs.resolve import Resolved, resolve
from pipeline import config as settings
from pipeline.config import JobConfig
from pipeline.errors import ConfigError, JobError

if TYPE_CHECKING:
    from jobs.archive import Archive

PROG = "reelsift answer"
VERSIONED = ("reelsift", "ray", "torch", "transformers", "pyarrow", "av", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Arguments:
    """Answer every question on every video.

    VIDEOS is a folder, a glob, one file, s3://bucket/prefix, or a manifest: a .parquet, .csv or .txt file of URIs.
    QUERIES is a .jsonl, .csv, .yaml or .parquet file; leave it out when --query is given. OUT is a folder or
    s3://bucket/prefix. Credentials and endpoint of S3 come from the environment (AWS_*) or the machine's role.
    """

    paths: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="VIDEOS [QUERIES] OUT")]]
    """Where the videos lie, the file of questions, where the results go."""
    query: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="TEXT")] = ()
    """A question to find the moments of, instead of a file; may be given several times."""
    dry_run: bool = False
    """Print what would be done and what it would cost, start nothing."""
    retry_failed: bool = False
    """Do failed videos and answers again, and the verdicts on them; without it they stand."""
    calibrate: bool = False
    """With --dry-run: load the models and answer a few windows here, so that nothing is guessed."""
    rates_from: str = ""
    """With --dry-run: an output folder or cost.json whose seconds per frame and token to go by."""
    prices: str = ""
    """YAML file with the prices of machines and requests; empty = the package's own (docs/cost.md)."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """A whole configuration by its name (`world`, `l4`); options given beside it go before it."""
    job: Annotated[JobConfig, tyro.conf.arg(name="")] = field(default_factory=JobConfig)


def main(argv: list[str]) -> int:
    """Run the job and return its exit code: 0 done, 1 done with more failures than allowed.

    The code says how the answers on these videos stand, not what this run added: the same command again, with
    nothing left to do, ends with the same code.

    Raises:
        ConfigError: wrong usage; exit code 2.
        JobError: the run broke, or not one of the videos can be read; exit code 3.
    """
    args = read_arguments(argv)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for ours in ("pipeline", "actors", "jobs"):
        logging.getLogger(ours).setLevel(logging.INFO)
    videos, out, queries = _inputs(args)
    from jobs.costs import CostOptions
    from pipeline.prices import load_prices

    costing = CostOptions(load_prices(args.prices), args.rates_from, args.calibrate)
    job = absolute_models(args.job)
    again = args.retry_failed
    return _run(videos, absolute(out), queries, job, costing, dry_run=args.dry_run, retry_failed=again)


def read_arguments(argv: list[str]) -> Arguments:
    """Return the arguments; a recipe stands behind every option that is not given.

    Raises:
        ConfigError: a setting is out of its range, or there is no such recipe.
    """
    return parse_with_recipe(Arguments, argv, PROG, Arguments.__doc__)


def _inputs(args: Arguments) -> tuple[str, str, list[Any]]:
    """Return videos, output folder and queries.

    Raises:
        ConfigError: the number of paths does not fit, or the query file has mistakes.
    """
    from pipeline.queries import load_queries, one_query

    videos, file, out = read_paths(args)
    if not file:
        return videos, out, [one_query(text) for text in dict.fromkeys(args.query)]
    return videos, out, load_queries(file)


def read_paths(args: Arguments) -> tuple[str, str, str]:
    """Return where the videos lie, the file of questions ("" where they are given as text), and the output folder.

    Raises:
        ConfigError: the number of paths does not fit.
    """
    if args.query and len(args.paths) == 2:
        return args.paths[0], "", args.paths[1]
    if not args.query and len(args.paths) == 3:
        return args.paths[0], args.paths[1], args.paths[2]
    expected = "VIDEOS OUT beside --query" if args.query else "VIDEOS QUERIES OUT"
    msg = f"expected {expected}, found {len(args.paths)} paths: {' '.join(args.paths) or '(none)'}; see {PROG} --help"
    raise ConfigError(msg)


def _run(
    videos: str,
    out: str,
    queries: list[Any],
    config: JobConfig,
    costing: Any,
    *,
    dry_run: bool,
    retry_failed: bool = False,
) -> int:
    from jobs import estimate
    from pipeline import lease, ledger
    from pipeline.listing import check_apart

    check_apart(videos, out)
    plan = resolve(config, queries)
    if dry_run:
        return estimate.dry_run(videos, out, queries, config, plan, costing)
    run_id = ledger.new_run_id()
    with lease.held(out, run_id) as held:
        run = ledger.open_run(out, config, queries, plan.models, run_id)
        return _answer(videos, run, queries, config, plan, held, costing.prices, retry_failed=retry_failed)


def _answer(
    videos: str,
    run: Any,
    queries: list[Any],
    config: JobConfig,
    plan: Resolved,
    held: Any,
    prices: Any,
    *,
    retry_failed: bool,
) -> int:
    """Do what is missing in an output folder that this process holds; print what it holds then."""
    from jobs import costs, summary
    from jobs.archive import Archive
    from pipeline import compact, ledger
    from pipeline.reopen import Reopened, has_failed

    started = time.monotonic()
    out = run.out
    archive = Archive(videos, out, retry_failed=retry_failed)
    counters: Counter[str] | None = None
    meter = costs.Meter()
    if (
        archive.has_unknown
        or ledger.has_open_verdicts(run, queries, archive.found)
        or (retry_failed and has_failed(out, queries, archive.found))
    ):
        counters = _execute(archive, run, queries, config, plan, held, meter, retry_failed=retry_failed)
    elif retry_failed:
        summary.print_reopened(Reopened())
    counts = summary.count(out, queries, archive.found)
    stats = {
        "run_id": run.run_id, "out": out, "fingerprint": settings.fingerprint(config),
        "wall_s": round(time.monotonic() - started, 2), **counts, "this_run": dict(counters or {}),
    }  # fmt: skip
    if counters is None:
        summary.print_nothing_to_do(out, counts)
    else:
        stats["cost"] = costs.write(run, counters, prices, meter, len(queries))
        ledger.close_run(run, stats)
    summary.print_end(stats)
    summary.check_conservation(counts)
    _check_any_was_read(videos, out, counts)
    if counters is not None:
        compact.compact_after_run(out, config.sink, held.check)
    return 1 if summary.failed_fraction(counts) > config.max_failed_fraction else 0


def _check_any_was_read(videos: str, out: str, counts: dict[str, Any]) -> None:
    """Refuse to call a run done that could not read a single video.

    Raises:
        JobError: every video failed; their rows stay.
    """
    if counts["failed_videos"] < counts["videos"] or not counts["videos"]:
        return
    reason, count = next(iter(counts["reasons"].items()))
    msg = (
        f"not one of the {counts['videos']} videos at {videos} can be read, most often ({count}) because of:"
        f" {reason}. Their rows stay in {out}; mend the files or the access to them and run again"
        " with --retry-failed"
    )
    raise JobError(msg)


def _execute(
    archive: "Archive",
    run: Any,
    queries: list[Any],
    config: JobConfig,
    plan: Resolved,
    held: Any,
    meter: Any,
    *,
    retry_failed: bool,
) -> "Counter[str]":
    """Join the cluster; once the job fits there, write down what there is to do, and do it; return summed counters.

    Raises:
        ClusterError: there is no cluster, or the job can never run on it; nothing was written then.
    """
    from jobs import cluster, fallback, observe, placement, summary
    from pipeline import ledger
    from pipeline.reopen import reopen

    with cluster.connected():
        place = placement.place(
            config,
            scorer_gpu=plan.scorer_facts.uses_gpu,
            answerer_gpu=plan.answerer_facts.frame_size is not None,
        )
        meter.note(place)
        with (
            fallback.on_demand_after(config.cluster.on_demand_after_s),
            observe.observed(run.run_id, meter.look) as watch,
        ):
            files = archive.write_down(run)
            if retry_failed:
                summary.print_reopened(reopen(run.out, queries, archive.found, held.check))
            ledger.start_run(run, config, queries, plan.models, versions())
            commit = partial(_commit_all, run, held, watch)
            counters = _stream(plan, run, config, queries, place, files, archive.found, commit)
            meter.look_last(observe.look_at_cluster)
    return counters


def _stream(
    plan: Resolved,
    run: Any,
    config: JobConfig,
    queries: list[Any],
    place: Any,
    files: list[Any],
    found: Any,
    commit: Callable[..., "Counter[str]"],
) -> "Counter[str]":
    """Run the three streams on Ray, committing each part as it arrives; return summed counters."""
    from jobs import flow, routing
    from jobs.parts import num_rows
    from pipeline import answered, ledger, rows
    from pipeline.isolation import Reader

    counters: Counter[str] = Counter()
    reader = Reader(config.decode, config.window, run.quarantine)
    job = flow.Job(
        config, queries, run, reader, plan.scorer, plan.scorer_facts,
        plan.answerer, plan.answerer_facts, plan.aggregate,
    )  # fmt: skip
    if files:
        probed = flow.probe_archive(job, place, files)
        counters.update(commit("probe", probed, _num_rows(files)))
    open_windows = answered.open_windows(run, queries, found)
    windows = ledger.write_parts(run.manifest("windows"), open_windows, rows.WINDOW)
    if windows:
        routes = plan.routes
        if place.answerer and not routes:
            routes = routing.decide(plan.router, plan.router_facts, job, plan.models, place.answerer)
        answers = flow.answer_archive(job, place, routes, windows)
        num_asked = num_rows((piece.uri for piece in windows), "query_ids")
        counters.update(commit("answer", answers, _num_rows(windows), num_asked))
    num_answers = num_rows(ledger.part_files(run.out, "answers"))
    judged = ledger.verdict_keys(run.out)
    num_verdicts = None if len(judged) else len(found) * len(queries)
    shards = flow.reduce_archive(job, place, num_answers, found, judged)
    counters.update(commit("judge", shards, num_verdicts))
    return counters


def _num_rows(slices: list[Any]) -> int:
    return sum(piece.stop - piece.start for piece in slices)


def _commit_all(
    run: Any, held: Any, watch: Any, name: str, parts: Any, *totals: int | None
) -> "Counter[str]":
    """Commit parts as the stream delivers them, for so many rows in all; return the sum of their counters.

    Raises:
        JobError: what a stage raised, without Ray's wrapping.
    """
    import json

    from jobs.parts import as_staged, committed

    counters: Counter[str] = Counter()
    started = time.monotonic()
    try:
        with watch.stream_of(name, *totals):
            for part in committed(run, as_staged(parts), held.check):
                counted = json.loads(part["counters"])
                counters.update(counted)
                watch.committed(counted)
    except JobError:
        raise
    except Exception as error:
        raise unwrapped(error) from error
    counters[f"{name}_wall_s"] = round(time.monotonic() - started, 2)  # pyright: ignore[reportArgumentType]
    return counters


def versions() -> dict[str, str]:
    """Return the versions of what results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


if __name__ == "__main__":
    from jobs.__main__ import run_command

    sys.exit(run_command(main, sys.argv[1:]))
