"""The main job without Ray: the same functions called one after the other, in a loop, in a few processes.

What `reelsift bench overhead` compares Ray with. `python -m jobs.plain_loop PROCESSES VIDEOS [QUERIES] OUT ...` takes
the options of `reelsift answer`, writes the same tables through the same ledger, and ends with the same JSON line. Each
process holds models of its own, on a CPU; a question's route must not need a model.
"""

import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa

from actors.answerer import AnswerActor
from actors.scorer import Scorer
from jobs import summary
from jobs.answer import read_arguments, read_paths, versions
from jobs.archive import Archive
from jobs.places import absolute, absolute_models
from jobs.resolve import Resolved, resolve
from pipeline import ledger, recall, rows, sink, stages, verdicts
from pipeline.answered import open_windows
from pipeline.config import JobConfig
from pipeline.guard import run_rows
from pipeline.isolation import Reader
from pipeline.ledger import Run, Slice
from pipeline.queries import Query, load_queries, one_query
from pipeline.select.fit import needs_pixels

FILES_PER_CALL, VIDEOS_PER_PART = 16, 256
"""As in jobs/flow.py, which imports Ray."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every process is told once."""

    config: JobConfig
    queries: Sequence[Query]
    run: Run


class Steps:
    """The stages of one process; models are made when the first window comes."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.plan: Resolved = resolve(task.config, list(task.queries))
        self.reader = Reader(task.config.decode, task.config.window, task.run.quarantine)
        self.models: tuple[Scorer, AnswerActor] | None = None

    def probe(self, piece: Slice) -> pa.Table:
        """Return rows.PROBED for a slice of rows.FILE."""
        found = ledger.read_slices(rows.FILE, pa.Table.from_pylist([asdict(piece)]))
        return run_rows(partial(stages.probe, self.reader), rows.PROBED, found)

    def answer(self, piece: Slice) -> pa.Table:
        """Return rows.ANSWERED for a slice of rows.WINDOW."""
        config, plan = self.task.config, self.plan
        scorer, answerer = self.models = self.models or self._models()
        windows = ledger.read_slices(rows.WINDOW, pa.Table.from_pylist([asdict(piece)]))
        marks_slow = needs_pixels(config.plan.selector)
        decode = partial(
            stages.sample_window, self.reader, plan.scorer_facts.frame_size, marks_slow=marks_slow
        )
        sample = partial(recall.sample_window, decode, needs_slow=marks_slow)
        scored = scorer(run_rows(sample, rows.DECODED, windows))
        spend = partial(
            stages.plan_window, plan.routes, self.task.queries, config.plan, config.score,
            plan.answerer_facts.tokens_per_frame, cuts_frames=plan.answerer_facts.cuts_frames,
            confirm_find=config.answer.confirm_find, refines=plan.scorer.refine is not None,
        )  # fmt: skip
        ready = run_rows(spend, rows.PLANNED, scored)
        if plan.answerer_facts.frame_size is not None:
            fetch = partial(stages.fetch_evidence, self.reader, plan.answerer_facts.frame_size)
            ready = run_rows(fetch, rows.EVIDENCE_FRAMES, ready)
        return answerer(ready)

    def _models(self) -> tuple[Scorer, AnswerActor]:
        config, queries, plan = self.task.config, self.task.queries, self.plan
        return (
            Scorer(plan.scorer.make, config.score, queries, "cpu"),
            AnswerActor(
                plan.answerer.make,
                config,
                queries,
                plan.answerer_facts,
                plan.scorer_facts.name,
                "cpu",
                refine=plan.scorer.refine,
            ),
        )


_steps: Steps | None = None


def _begin(task: Task) -> None:
    """Start a process of the loop."""
    global _steps  # noqa: PLW0603
    _steps = Steps(task)


def _probe(piece: Slice) -> pa.Table:
    assert _steps is not None
    return _steps.probe(piece)


def _answer(piece: Slice) -> pa.Table:
    assert _steps is not None
    return _steps.answer(piece)


def main(argv: list[str]) -> int:
    """Run the job; the last stdout line is its JSON.

    Raises:
        ConfigError: wrong usage.
    """
    started = time.monotonic()
    args = read_arguments(argv[1:])
    videos, file, out = read_paths(args)
    queries = load_queries(file) if file else [one_query(text) for text in dict.fromkeys(args.query)]
    config = absolute_models(args.job)
    plan = resolve(config, queries)
    run = ledger.open_run(absolute(out), config, queries, plan.models)
    archive = Archive(videos, run.out)
    files, found = archive.write_down(run), archive.found
    ledger.start_run(run, config, queries, plan.models, versions())
    counters: Counter[str] = Counter()
    processes = int(argv[0])
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _begin, (Task(config, queries, run),)) as pool:
        probed = pool.imap_unordered(_probe, ledger.cut(files, FILES_PER_CALL))
        stage = partial(sink.stage_videos, run.staging, run.run_id)
        _commit(run, map(stage, gathered(probed, VIDEOS_PER_PART)), counters)
        still_open = open_windows(run, queries, found)
        windows = ledger.write_parts(run.manifest("windows"), still_open, rows.WINDOW)
        answered = pool.imap_unordered(_answer, ledger.cut(windows, 1))
        stage = partial(sink.stage_windows, run.staging, run.run_id, plan.scorer_facts.name)
        _commit(run, map(stage, gathered(answered, config.sink.windows_per_part)), counters)
        pool.close()
        pool.join()
    judged = ledger.verdict_keys(run.out)
    shard = pa.Table.from_pylist(verdicts.shards(1))
    _commit(run, [verdicts.judge_shards(run, queries, plan.aggregate, found, judged, shard)], counters)
    counts = summary.count(run.out, queries, found)
    stats = {"run_id": run.run_id, "out": run.out, **counts, "this_run": dict(counters)}
    ledger.close_run(run, stats)
    summary.check_conservation(counts)
    print(json.dumps({**stats, "wall_s": time.monotonic() - started}))
    return 0


def gathered(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `num_rows` rows; the last has what is left. Tables have at most so many."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= num_rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, num_rows)
            held = [whole.slice(num_rows)] if len(whole) > num_rows else []
    if held:
        yield pa.concat_tables(held)


def _commit(run: Run, parts: Iterable[pa.Table], counters: "Counter[str]") -> None:
    """Commit staged parts as they come."""
    for table in parts:
        for part in table.to_pylist():
            ledger.commit(run, part)
            counters.update(json.loads(part["counters"]))


if __name__ == "__main__":
    from jobs.__main__ import run_command

    sys.exit(run_command(main, sys.argv[1:]))
