"""The data flow, top to bottom: three streams, each ending in staged parts that the driver commits.

    files   -> probe -------------------------------------------------------------------> videos/
    windows -> sample -> score -> plan -> fetch evidence -> answer -----------------------> answers/ frames/
    answers -> verdicts of one video -----------------------------------------------------> verdicts/

Files and windows come as slices of lists that the driver wrote down (ledger.py). Rows carry no pixels until `sample`,
and none behind it where frames/ knows the window already; pixels end in `score` (and, for the few evidence frames, in
`answer`). One row in, one row out, from `sample` to `answer`. Every stage takes and returns Arrow tables of the schemas
in pipeline/rows.py. Nothing here shuffles. Neighbours that reserve the same and hold no actor run as one task of Ray.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from actors.answerer import AnswerActor
from actors.models import AnswererEntry, AnswererFacts, ScorerEntry, ScorerFacts
from actors.scorer import Scorer, scorer_of_process
from jobs.placement import DECODE_CPUS, LIGHT_CPUS, Placement, Seat
from pipeline import ledger, recall, rows, sink, stages, verdicts
from pipeline.config import JobConfig
from pipeline.guard import run_rows
from pipeline.isolation import Reader
from pipeline.ledger import Run, Slice
from pipeline.queries import Query
from pipeline.reduce import ReduceFn
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.select.fit import needs_pixels
from pipeline.windows import Keys

MIN_FILES_PER_TASK, MAX_FILES_PER_TASK = 16, 256
"""Beyond 160,000 files tasks get longer instead of more: the driver spends some 10 ms on each step of a task."""
MIN_TASKS, MAX_TASKS = 256, 10_000
"""Windows get a task each up to the first, so that many machines have work; from there on short ones share a task,
beyond the second long ones too. Beyond 640,000 windows tasks are full, and their number, with it the driver's work,
grows by one with every 64 windows."""
MAX_WINDOWS_PER_TASK = 64
TASK_S = 300.0
"""Seconds of video from which a task is not made longer."""
VIDEOS_PER_PART = 256
"""Few, because each may have 100,000 key times."""
ANSWERS_PER_SHARD = 200_000
SCORED_BYTES = 1 << 20
"""Of scored windows that a task hands on at once: a long one as soon as it is scored, though its pixels end there."""
CORES_PER_WRITER = 4
"""A core decodes for seconds what is planned and written in hundredths; fetching evidence decodes, too, on any core."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a run has decided before Ray starts; plain values and functions, shipped to the stages."""

    config: JobConfig
    queries: Sequence[Query]
    run: Run
    reader: Reader
    scorer: ScorerEntry
    scorer_facts: ScorerFacts
    answerer: AnswererEntry
    answerer_facts: AnswererFacts
    aggregate: ReduceFn


def probe_archive(job: Job, place: Placement, files: Sequence[Slice]) -> Dataset:
    """Files found -> probed files, staged as parts of videos/."""
    num_files = sum(part.stop - part.start for part in files)
    found = _slices(ledger.cut(files, files_per_task(num_files))).map_batches(
        partial(ledger.read_slices, rows.FILE), **DECODING, **on(place.labels)
    )
    videos = found.map_batches(
        on_rows(partial(stages.probe, job.reader), rows.PROBED), **DECODING, **on(place.labels)
    )
    write = partial(sink.stage_videos, job.run.staging, job.run.run_id)
    return videos.map_batches(write, batch_size=VIDEOS_PER_PART, **light(place))


def answer_archive(
    job: Job, place: Placement, routes: Mapping[str, Route], windows: Sequence[Slice]
) -> Dataset:
    """Open windows -> answered windows, staged as parts of answers/ and frames/."""
    config, facts = job.config, job.answerer_facts
    decoding = DECODING | on(place.labels)
    planning = light(place, 1 if facts.frame_size else CORES_PER_WRITER)
    if not place.scorer:
        DataContext.get_current().target_max_block_size = SCORED_BYTES
    num_windows = sum(part.stop - part.start for part in windows)
    per_task = windows_per_task(num_windows)
    if num_windows <= MAX_TASKS * MAX_WINDOWS_PER_TASK:
        pieces = ledger.cut_windows(windows, per_task, max(TASK_S, num_windows // MAX_TASKS * TASK_S))
    else:
        pieces = ledger.cut(windows, per_task)
    todo = _slices(pieces).map_batches(partial(ledger.read_slices, rows.WINDOW), **decoding)

    marks_slow = needs_pixels(config.plan.selector)
    decode = partial(stages.sample_window, job.reader, job.scorer_facts.frame_size, marks_slow=marks_slow)
    sample = partial(recall.sample_window, decode, needs_slow=marks_slow)
    # one window at a time, also where a task has many: a batch is in memory at once
    sampled = todo.map_batches(on_rows(sample, rows.DECODED), batch_size=1, **decoding)

    scoring = (job.scorer.make, config.score, job.queries)
    if place.scorer:
        made_of = (*scoring, place.scorer.device, place.scorer.num_gpus)
        scored = sampled.map_batches(Scorer, fn_constructor_args=made_of, **actors(place.scorer))
    else:  # in the task that decoded: no frame leaves its process
        scored = sampled.map_batches(score_in_task(job.run.run_id, *scoring), batch_size=1, **decoding)

    plan = partial(
        stages.plan_window, dict(routes), job.queries, config.plan, config.score, facts.tokens_per_frame,
        cuts_frames=facts.cuts_frames, confirm_find=config.answer.confirm_find,
        refines=job.scorer.refine is not None,
    )  # fmt: skip
    # without pixels windows are small: many go through the driver as one where there are many
    bundle = min(per_task, config.sink.windows_per_part)
    ready = scored.map_batches(on_rows(plan, rows.PLANNED), batch_size=bundle, **planning)
    if facts.frame_size is not None:
        fetch = partial(stages.fetch_evidence, job.reader, facts.frame_size)
        ready = ready.map_batches(on_rows(fetch, rows.EVIDENCE_FRAMES), batch_size=1, **planning)

    seat = place.answerer
    answering = (
        job.answerer.make, config, job.queries, facts, job.scorer_facts.name, seat.device if seat else "cpu",
        seat.num_gpus if seat else 0.0, job.scorer.refine,
    )  # fmt: skip
    if seat:
        seats = actors(seat, windows_per_call=config.answer.windows_per_call)
        answered_windows = ready.map_batches(AnswerActor, fn_constructor_args=answering, **seats)
    else:  # nothing to load: Ray makes one task of planning, answering and writing
        answered_windows = ready.map_batches(answer_in_task(*answering), **planning)

    write = partial(
        sink.stage_windows, job.run.staging, job.run.run_id, job.scorer_facts.name,
        most_bytes=config.sink.part_mb << 20,
    )  # fmt: skip
    per_part = sink.windows_per_part(config.sink, windows, config.window.sample_fps, len(job.queries))
    return answered_windows.map_batches(write, batch_size=per_part, **light(place))


def reduce_archive(job: Job, place: Placement, num_answers: int, found: Keys, judged: Keys) -> Dataset:
    """Answers of one video -> one verdict per query, staged as parts of verdicts/; shards are ranges of video_id."""
    shards = verdicts.shards(num_answers // ANSWERS_PER_SHARD + 1)
    judge = partial(verdicts.judge_shards, job.run, job.queries, job.aggregate, found, judged)
    items = ray.data.from_items(shards, override_num_blocks=len(shards))
    return items.map_batches(judge, **LIGHT, **on(place.labels))


def files_per_task(num_files: int) -> int:
    """Return how many files one task probes."""
    return min(max(MIN_FILES_PER_TASK, num_files // MAX_TASKS), MAX_FILES_PER_TASK)


def windows_per_task(num_windows: int) -> int:
    """Return how many windows one task decodes at most."""
    return min(num_windows // MIN_TASKS + 1, MAX_WINDOWS_PER_TASK)


# --- how stages sit on Ray -----------------------------------------------------------------------------

DECODING: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": DECODE_CPUS}
"""A stage that decodes whole windows or files: a core each, whole blocks in and out."""
LIGHT: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": LIGHT_CPUS}
"""A stage that computes little. It reserves little, or decoding would keep it waiting until every window is decoded,
and nothing would be committed before the end."""


def light(place: Placement, cores_per_task: int = CORES_PER_WRITER) -> dict[str, Any]:
    """Return the options of a light stage behind another, bounded where the cores are known.

    Ray Data keeps an equal share of all CPUs free for each stage of tasks without a bound: of two CPUs one did not
    decode, of eight three (docs/log.md).
    """
    options = LIGHT | on(place.labels)
    if place.cores:
        options["compute"] = TaskPoolStrategy(max(1, place.cores // cores_per_task))
    return options


def on(labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the option that keeps a stage on machines with some labels; none where there are no labels."""
    return {"label_selector": dict(labels)} if labels else {}


def actors(seat: Seat, windows_per_call: int = 1) -> dict[str, Any]:
    """Return the options of a stage that holds a model: a pool that grows with its backlog."""
    return {
        "batch_format": "pyarrow",
        "batch_size": windows_per_call,
        "num_cpus": seat.num_cpus,
        "num_gpus": seat.num_gpus or None,
        "compute": ActorPoolStrategy(min_size=seat.pool.min_size, max_size=seat.pool.max_size),
        **on(seat.labels),
    }


def score_in_task(run_id: str, *scoring: Any) -> Callable[[pa.Table], pa.Table]:
    """Return what a Scorer of these arguments does as a stage of tasks, under the same name."""

    def stage(table: pa.Table) -> pa.Table:
        return scorer_of_process(run_id, *scoring)(table)

    stage.__name__ = Scorer.__name__
    return stage


def answer_in_task(*answering: Any) -> Callable[[pa.Table], pa.Table]:
    """Return what an AnswerActor of these arguments does as a stage of tasks, under the same name."""

    def stage(table: pa.Table) -> pa.Table:
        return AnswerActor(*answering)(table)

    stage.__name__ = AnswerActor.__name__
    return stage


def on_rows(function: Callable[[Row], Row], schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """Return a row function as a guarded stage on tables, under its own name in Ray's statistics."""

    def stage(table: pa.Table) -> pa.Table:
        return run_rows(function, schema, table)

    stage.__name__ = function.func.__name__ if isinstance(function, partial) else function.__name__
    return stage


def _slices(pieces: Sequence[Slice]) -> Dataset:
    """Return one row, in a block of its own, per slice that one task works on."""
    items = [asdict(piece) for piece in pieces]
    return ray.data.from_items(items, override_num_blocks=len(items))
