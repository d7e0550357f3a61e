"""The real stages on a few pieces of sampled videos, in this process, without Ray: what does a unit of work take here?

Nothing is kept but the figures: seconds, bytes, and the relevance of the frames, from which plans can be made. The
scorer is loaded on this machine's CPU unless it would have to be downloaded; a language model only when asked for.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.models import Device
from jobs.resolve import Resolved
from pipeline import rows, sink, stages, store
from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.guard import guard
from pipeline.isolation import Reader, cpu_s
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.select.fit import needs_pixels

logger = logging.getLogger(__name__)

MOST_CPU_S = 15.0
"""CPU seconds from which no other piece is begun; loading the scorer comes on top."""
MOST_WALL_S = 40.0
"""Wall seconds, likewise, on a machine that is busy with something else."""
MOST_PIECES = 24
PIECE_S = 30.0
"""Longest piece; a longer window is represented by its beginning."""
SURE = Route("global", 1.0, "not asked for an estimate")


@dataclass(slots=True)
class Calibration:
    """What the pieces took; one entry per piece."""

    windows: list[Row] = field(default_factory=list[Row])
    """The pieces, as rows.ANSWERED with rows.SCORED's relevance; `class` is what was sampled for."""
    scored: bool = False
    """Whether relevance is real."""
    answered_by_model: bool = False
    answered_on: Device = "cpu"
    parts: list[tuple[str, int, int, int]] = field(default_factory=list[tuple[str, int, int, int]])
    """(table, rows, bytes, bytes of one row alone) of what would be written."""
    write_cpu_s: float = 0.0

    def pairs(self, spent: str, unit: str) -> tuple[list[float], list[float]]:
        """Return two columns of the pieces, those with nothing of the unit left out."""
        found = [(float(row[spent]), float(row[unit])) for row in self.windows if row[unit]]
        return [one for one, _ in found], [other for _, other in found]


def calibrate(
    windows: Sequence[Row], config: JobConfig, queries: Sequence[Query], plan: Resolved, *, loads: bool
) -> Calibration:
    """Run pieces of windows through the stages, for some seconds, and return what they took.

    Args:
        windows: rows.WINDOW rows with a column `class`, in random order.
        config: the job's.
        queries: the job's.
        plan: the job's.
        loads: whether models may be brought from a hub, and a language model be loaded.
    """
    found = Calibration()
    reader = Reader(config.decode, config.window)
    scorer = _scorer(config, queries, plan, loads=loads)
    answerer, found.answered_on = _answerer(config, queries, plan, loads=loads)
    found.scored, found.answered_by_model = scorer is not None, bool(loads and plan.answerer_facts.name)
    ends_s, ends_cpu_s = time.monotonic() + MOST_WALL_S, cpu_s() + MOST_CPU_S
    answered: list[Any] = []
    for number, window in enumerate(windows[:MOST_PIECES]):
        if number and (time.monotonic() > ends_s or cpu_s() > ends_cpu_s):
            break
        is_cold = not found.windows  # the first pieces may have failed
        row = _seen(_cut(window), reader, scorer, config, plan, warms_up=is_cold)
        if row["error_type"]:
            continue
        row = _planned(row, reader, config, queries, plan)
        if found.answered_by_model and is_cold:
            _answered(row, answerer)  # as with the scorer, the first call does not count
        row, table = _answered(row, answerer)
        found.windows.append(row)
        answered.append(table)
    if answered:
        _weigh(found, answered, plan)
    return found


def _cut(window: Row) -> Row:
    """Return the beginning of a window, to be decoded even if its frames are indexed."""
    length_s = window["end_s"] - window["start_s"]
    piece_s = min(length_s, PIECE_S)
    return {
        **window,
        "end_s": window["start_s"] + piece_s,
        "megapixels": window["megapixels"] * piece_s / length_s,
        "frames_uri": "",
        "write_frames": True,
    }


def _scorer(config: JobConfig, queries: Sequence[Query], plan: Resolved, *, loads: bool) -> Any:
    """Return the scorer, ready on the CPU; None where it cannot be had without a download, or not at all."""
    if not (loads or _is_here(config.score.model)):
        return None
    from actors.scorer import Scorer

    try:
        return Scorer(plan.scorer.make, config.score, queries, "cpu")
    except JobError as error:
        logger.warning("the estimate goes without the scorer: %s", error)
        return None


def _is_here(model: str) -> bool:
    return not model or model.startswith("package:") or Path(model).is_dir()


def _answerer(
    config: JobConfig, queries: Sequence[Query], plan: Resolved, *, loads: bool
) -> tuple[Any, Device]:
    """Return the answering actor and its device: with its language model where that may be loaded, else relevance."""
    from actors.answerer import AnswerActor
    from actors.device import pick_device
    from actors.models import relevance

    facts, scorer = plan.answerer_facts, plan.scorer_facts.name
    if loads and facts.tokens_per_frame:
        import torch

        # as Ray tells its actors: threads that wait for each other would be counted as work
        torch.set_num_threads(max(1, int(config.answer.pool.num_cpus)))
        device = pick_device(config.answer.pool.num_gpus)
        actor = AnswerActor(
            plan.answerer.make, config, queries, facts, scorer, device, refine=plan.scorer.refine
        )
        return actor, device
    blind = replace(facts, tokens_per_frame=0, frame_size=None)
    return AnswerActor(relevance.make, config, queries, blind, scorer, "cpu"), "cpu"


def _seen(
    piece: Row, reader: Reader, scorer: Any, config: JobConfig, plan: Resolved, *, warms_up: bool
) -> Row:
    """Return a piece decoded and scored; without a scorer, its frames have no relevance."""
    size, slow = plan.scorer_facts.frame_size, needs_pixels(config.plan.selector)
    row = guard(partial(stages.sample_window, reader, size, marks_slow=slow), {**piece, **_GOOD})
    if row["error_type"]:
        return row
    row |= {"recall_s": 0.0, "recall_cpu_s": 0.0, "frames": len(row["pts_s"])}
    row["video_s"] = row["end_s"] - row["start_s"]
    if scorer is None:
        return {**row, "pixels": None}
    if warms_up:
        guard(scorer.score, row)  # the first call of a process is slower than all others, and does not count
    return {**guard(scorer.score, row), "pixels": None}


_GOOD = {"error_type": "", "error_message": ""}


def _planned(row: Row, reader: Reader, config: JobConfig, queries: Sequence[Query], plan: Resolved) -> Row:
    """Return a scored piece with its plans, and the evidence that they ask for."""
    row = {**row, "evidence_s": 0.0, "evidence_cpu_s": 0.0, "sampled_bytes": row["read_bytes"]}
    if "relevance" not in row:
        import numpy as np

        num_texts = sum(1 + len(query.choices) for query in queries)
        row["relevance"] = rows.pack(np.zeros((row["frames"], num_texts), np.float32))
        row["embedding"] = rows.pack(np.zeros((row["frames"], 512), np.float32))
        row |= {"score_s": 0.0, "score_cpu_s": 0.0}
    facts = plan.answerer_facts
    routes = plan.routes or {query.query_id: SURE for query in queries}
    row = {**row, **plan_of(row, routes, config, queries, plan)}
    if facts.frame_size is None:
        return row
    return {**row, **stages.fetch_evidence(reader, facts.frame_size, row)}


def plan_of(
    row: Row, routes: dict[str, Route], config: JobConfig, queries: Sequence[Query], plan: Resolved
) -> Row:
    """Return `plans` of a scored window, as the job would make them."""
    facts = plan.answerer_facts
    return stages.plan_window(
        routes, queries, config.plan, config.score, facts.tokens_per_frame, row, cuts_frames=facts.cuts_frames,
        confirm_find=config.answer.confirm_find, refines=plan.scorer.refine is not None,
    )  # fmt: skip


def _answered(row: Row, actor: Any) -> tuple[Row, Any]:
    """Return a piece with its answers' figures, and its rows.ANSWERED table."""
    is_blind = not actor.facts.tokens_per_frame
    plans = [{**plan, "error_message": ""} for plan in row["plans"]] if is_blind else row["plans"]
    schema = rows.PLANNED if is_blind else rows.EVIDENCE_FRAMES
    asked = {name: value for name, value in row.items() if name in schema.names and name != "error_type"}
    [found] = rows.to_rows(
        table := actor(rows.to_table([{**asked, "plans": plans, "error_type": ""}], schema))
    )
    answers = found["answers"]
    sums = {
        name: sum(answer[name] for answer in answers)
        for name in ("answer_s", "tokens_used", "prefill_tokens", "vision_frames")
    }
    planned = sum(sum(plan["tokens"]) for plan in row["plans"])
    figures = {
        "num_answers": len(answers),
        "tokens_planned": planned,
        "answer_cpu_s": found["answer_cpu_s"],
        "answers": answers,
    }
    return {**row, **sums, **figures, "evidence_pixels": None}, table


def _weigh(found: Calibration, answered: Sequence[Any], plan: Resolved) -> None:
    """Measure what would be written of the pieces, and how long writing takes."""
    with tempfile.TemporaryDirectory(prefix="reelsift-") as folder:
        started = time.process_time()
        [part] = rows.to_rows(
            sink.stage_windows(folder, "20000101T000000-000000", "scorer", pa.concat_tables(answered))
        )
        found.write_cpu_s = time.process_time() - started
        for file in part["files"]:
            table = pq.read_table(file["staged"])
            found.parts.append((file["table"], len(table), *_bytes_of(table, folder)))
        verdicts = rows.to_table(_verdicts(found.windows, plan), rows.VERDICTS)
        if len(verdicts):
            found.parts.append(("verdicts", len(verdicts), *_bytes_of(verdicts, folder)))


def _bytes_of(table: pa.Table, folder: str) -> tuple[int, int]:
    """Return the sizes of a table and of its first row alone, as files."""
    place = store.join(folder, "weighed.parquet")
    return store.write_table(place, table), store.write_table(place, table.slice(0, 1))


def _verdicts(windows: Sequence[Row], plan: Resolved) -> Iterator[Row]:
    """Yield a verdict per piece and question, as if each were a video."""
    for window in windows:
        for answer in window["answers"]:
            yield {**answer, **plan.aggregate([answer])}
