"""The data flow, top to bottom: three streams, each ending in staged parts that the driver commits.

    manifest -> probe ------------------------------------------------------------------> videos/
    videos/  -> windows -> sample -> score -> plan -> fetch evidence -> answer ----------> answers/ frames/
    answers/ -> verdicts of one video --------------------------------------------------> verdicts/

Rows are windows without pixels until `sample`; pixels end in `score` (and, for the few evidence frames, in
`answer`). One row in, one row out, from `sample` to `answer`. Every stage takes and returns Arrow tables of the
schemas in pipeline/rows.py. Nothing here shuffles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from actors.answerer import AnswerActor
from actors.models import AnswererEntry, AnswererFacts, ScorerEntry, ScorerFacts
from actors.scorer import Scorer
from jobs.cluster import TASK_CPUS, Placement, Seat
from pipeline import ledger, rows, sink, stages, verdicts, windows
from pipeline.config import JobConfig
from pipeline.decode import DecodeFn
from pipeline.guard import run_rows
from pipeline.ledger import Run
from pipeline.queries import Query
from pipeline.reduce import ReduceFn
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.windows import Keys

FILES_PER_TASK = 16
VIDEOS_PER_PART = 1024
ANSWERS_PER_SHARD = 200_000


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a run has decided before Ray starts; plain values and functions, shipped to the stages."""

    config: JobConfig
    queries: Sequence[Query]
    run: Run
    decode: DecodeFn
    routes: dict[str, Route]
    scorer: ScorerEntry
    scorer_facts: ScorerFacts
    answerer: AnswererEntry
    answerer_facts: AnswererFacts
    aggregate: ReduceFn


def probe_archive(job: Job, manifest: Sequence[str]) -> Dataset:
    """Manifest parts -> probed files, staged as parts of videos/."""
    files = _slices(manifest).map_batches(_read_files, **TASK)
    videos = files.map_batches(on_rows(partial(stages.probe, job.config.window), rows.VIDEOS), **TASK)
    write = partial(sink.stage_videos, job.run.staging, job.run.run_id)
    return videos.map_batches(write, batch_size=VIDEOS_PER_PART, **TASK)


def answer_archive(job: Job, place: Placement, found: Keys, answered: Keys) -> Dataset:
    """Usable videos -> answered windows, staged as parts of answers/ and frames/."""
    config, facts = job.config, job.answerer_facts
    open_windows = partial(_plan_windows, job, found, answered)
    planned = _slices(ledger.part_files(job.run.out, "videos")).map_batches(open_windows, **TASK)
    spread = planned.repartition(target_num_rows_per_block=1)

    sample = partial(stages.sample_window, job.decode, job.scorer_facts.frame_size, config.window)
    sampled = spread.map_batches(on_rows(sample, rows.DECODED), **TASK)

    scored = sampled.map_batches(
        Scorer,
        fn_constructor_args=(job.scorer.make, config.score, job.queries, place.scorer.device),
        **actors(place.scorer),
    )

    plan = partial(
        stages.plan_window, job.routes, job.queries, config.plan, config.score, facts.tokens_per_frame
    )
    ready = scored.map_batches(on_rows(plan, rows.PLANNED), **TASK)
    if facts.frame_size is not None:
        fetch = partial(stages.fetch_evidence, job.decode, facts.frame_size)
        ready = ready.map_batches(on_rows(fetch, rows.EVIDENCE_FRAMES), **TASK)

    answered_windows = ready.map_batches(
        AnswerActor,
        fn_constructor_args=(
            job.answerer.make, config, job.queries, facts, job.scorer_facts.name, place.answerer.device,
        ),
        **actors(place.answerer),
    )  # fmt: skip

    write = partial(sink.stage_windows, job.run.staging, job.run.run_id, job.scorer_facts.name)
    return answered_windows.map_batches(write, batch_size=config.sink.windows_per_part, **TASK)


def reduce_archive(job: Job, num_answers: int, found: Keys, judged: Keys) -> Dataset:
    """Answers of one video -> one verdict per query, staged as parts of verdicts/; shards are ranges of video_id."""
    shards = verdicts.shards(num_answers // ANSWERS_PER_SHARD + 1)
    judge = partial(_judge_shard, job, found, judged)
    return ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(judge, **TASK)


# --- how stages sit on Ray -----------------------------------------------------------------------------

TASK: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": TASK_CPUS}
"""A stage that holds nothing: tasks on CPUs, whole blocks in and out."""


def actors(seat: Seat) -> dict[str, Any]:
    """Return the options of a stage that holds a model: a pool that grows with its backlog, one window a call."""
    return {
        "batch_format": "pyarrow",
        "batch_size": 1,
        "num_cpus": seat.num_cpus,
        "num_gpus": seat.num_gpus or None,
        "compute": ActorPoolStrategy(min_size=seat.pool.min_size, max_size=seat.pool.max_size),
    }


def on_rows(function: Callable[[Row], Row], schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """Return a row function as a guarded stage on tables, under its own name in Ray's statistics."""

    def stage(table: pa.Table) -> pa.Table:
        return run_rows(function, schema, table)

    stage.__name__ = function.func.__name__ if isinstance(function, partial) else function.__name__
    return stage


def _slices(files: Sequence[str]) -> Dataset:
    """Return one row per run of FILES_PER_TASK rows of the given Parquet files; reads footers only."""
    items = [
        {"uri": uri, "start": start, "stop": start + FILES_PER_TASK}
        for uri in files
        for start in range(0, ledger.num_rows(uri), FILES_PER_TASK)
    ]
    return ray.data.from_items(items, override_num_blocks=len(items))


def _read_slices(table: pa.Table) -> list[Row]:
    """Return the rows that a table of slices points to."""
    return [
        row
        for item in table.to_pylist()
        for row in list(ledger.read_part(item["uri"]))[item["start"] : item["stop"]]
    ]


def _read_files(table: pa.Table) -> pa.Table:
    """Manifest slices -> rows.FILE."""
    return rows.to_table(_read_slices(table), rows.FILE)


def _plan_windows(job: Job, found: Keys, answered: Keys, table: pa.Table) -> pa.Table:
    """Slices of videos/ -> rows.WINDOW."""
    planned = windows.plan_windows(
        _read_slices(table), job.config.window, job.queries, found=found, answered=answered
    )
    return rows.to_table(planned, rows.WINDOW)


def _judge_shard(job: Job, found: Keys, judged: Keys, table: pa.Table) -> pa.Table:
    """Shards -> rows.PART of staged verdicts."""
    parts: list[Row] = []
    for shard in table.to_pylist():
        judgements = list(
            verdicts.judge(job.run.out, shard, job.queries, job.aggregate, found=found, judged=judged)
        )
        if judgements:
            parts.append(sink.stage_verdicts(job.run.staging, job.run.run_id, judgements))
    return rows.to_table(parts, rows.PART)
