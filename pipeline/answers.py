"""Answer rows: one per (window, query), the same columns whether it went well or not."""

from collections.abc import Sequence
from typing import Protocol

from pipeline import rows
from pipeline.queries import Query
from pipeline.rows import Row


class AnswerLike(Protocol):
    """What an answerer returns; see actors/models for units and meanings."""

    @property
    def answer(self) -> str: ...
    @property
    def confidence(self) -> float: ...
    @property
    def spans(self) -> Sequence[tuple[float, float, float]]: ...
    @property
    def evidence(self) -> Sequence[tuple[float, float, int]]: ...
    @property
    def tokens_dense(self) -> int: ...
    @property
    def tokens_used(self) -> int: ...
    @property
    def cost(self) -> object: ...
    @property
    def judged(self) -> Sequence[tuple[float, float, int]]: ...
    @property
    def error(self) -> str: ...


def _head(window: Row, query: Query) -> Row:
    """Return the columns that name the window and the query."""
    keys = (
        "window_id",
        "video_id",
        "version",
        "uri",
        "start_s",
        "end_s",
        "frames_planned",
        "read_bytes",
        "read_requests",
    )
    qualities = [sample["quality"] for sample in window.get("samples", ())]
    num_queries = len(window.get("query_ids", ())) or 1
    decode_s = window.get("decode_s", 0.0) + window.get("evidence_s", 0.0)
    return {
        **{name: window[name] for name in keys if name in window},
        "decode_s": decode_s / num_queries,
        "score_s": window.get("score_s", 0.0) / num_queries,
        "frames_stale": qualities.count("stale"),
        "frames_missing": qualities.count("missing"),
        "query_id": query.query_id,
        "query": query.text,
        "kind": query.kind,
    }


def answer_row(
    window: Row, query: Query, plan: Row, *, answer: AnswerLike, answer_s: float, labels: Row
) -> Row:
    """Return a rows.ANSWERS row for one answer; a refusal becomes its error columns.

    Args:
        window: a rows.PLANNED row.
        query: the question.
        plan: its rows.PLAN struct.
        answer: what the answerer said.
        answer_s: seconds spent on this answer.
        labels: columns scorer, compressor, model, model_revision.
    """
    return {
        **_head(window, query),
        **labels,
        "answer": answer.answer,
        "confidence": answer.confidence,
        "spans": [dict(zip(("start_s", "end_s", "score"), span, strict=True)) for span in answer.spans],
        "evidence": _frames(answer.evidence),
        "route": plan["route"],
        "route_confidence": plan["route_confidence"],
        "route_reason": plan["route_reason"],
        "plan_reason": plan["reason"],
        "judged": _frames(answer.judged),
        "frames_seen": len(window["pts_s"]),
        "tokens_dense": answer.tokens_dense,
        "tokens_used": answer.tokens_used,
        **_cost(answer.cost),
        "answer_s": answer_s,
        "error_type": "AnswerError" if answer.error else "",
        "error_message": answer.error,
    }


def _frames(found: Sequence[tuple[float, float, int]]) -> list[Row]:
    return [dict(zip(("pts_s", "score", "tokens"), item, strict=True)) for item in found]


def _cost(cost: object) -> Row:
    return {name: getattr(cost, name) for name in rows.COST}


def failed_rows(window: Row, queries: Sequence[Query], labels: Row) -> list[Row]:
    """Return one failed rows.ANSWERS row per query of a window that failed before it could be answered.

    Every column is there: inside a window's list of answers Arrow would fill a missing one with null.
    """
    error = {"error_type": window["error_type"], "error_message": window["error_message"]}
    failed = ({**_head(window, query), **labels, "frames_seen": 0, **error} for query in queries)
    return [rows.fill(row, rows.ANSWERS) for row in failed]
