"""The stages between the models: functions on one row, no Ray, no weights.

Each returns the columns it adds; guard.py turns it into a stage on tables. Order as in jobs/flow.py:
probe -> (windows) -> sample -> (score) -> plan -> fetch evidence -> (answer).
"""

import time
from collections.abc import Sequence

import numpy as np

from pipeline import rows, store
from pipeline.budget import Plan, plan_tokens
from pipeline.config import PlanConfig, ScoreConfig, WindowConfig
from pipeline.decode import DecodeFn, novelty
from pipeline.errors import AnswerError, DecodeError, ProbeError
from pipeline.frames import FrameSize
from pipeline.listing import version
from pipeline.queries import Query, columns
from pipeline.route import Route, RouteFn
from pipeline.rows import Row
from pipeline.source import probe_video
from pipeline.times import sample_times
from pipeline.windows import spans

PTS_TOLERANCE_S = 0.0005
"""Two decodes of one frame may differ by rounding of its time; frames lie further apart than this."""


def probe(config: WindowConfig, file: Row) -> Row:
    """Probe one file (rows.FILE) and return the columns of rows.VIDEOS; an unusable file says why in its own row."""
    started = time.perf_counter()
    try:
        facts = probe_video(file)
    except ProbeError as error:
        return {
            "status": error.status,
            "probe_s": time.perf_counter() - started,
            "error_type": "ProbeError",
            "error_message": str(error),
        }
    return {**facts, "num_windows": len(spans(facts["duration_s"], config))}


def check_version(window: Row) -> None:
    """Refuse a file that is no longer the one that was listed: its answers would stand under the old version.

    Raises:
        DecodeError: the file is gone, or its size or ETag (or mtime) has changed.
    """
    entry = store.find(window["uri"])
    if entry is None:
        msg = f"{window['uri']} was there when it was listed and is gone now; run again to leave it out"
        raise DecodeError(msg)
    if version(entry.size_bytes, entry.etag) != window["version"]:
        msg = f"{window['uri']} has changed since it was listed; run again to answer on the new version"
        raise DecodeError(msg)


def sample_window(decode: DecodeFn, size: FrameSize, config: WindowConfig, window: Row) -> Row:
    """Decode a window's sampled frames at the scorer's size.

    The picture shown when the window begins may have come up before; here it counts from the window's start, so
    that a picture that stands still for an hour is one frame of each window and no span leaves its window.

    Raises:
        DecodeError: not one of the frames can be decoded, or the file has changed since it was listed.
    """
    started = time.perf_counter()
    check_version(window)
    times_s = sample_times(window["start_s"], window["end_s"], config.sample_fps)
    frames = decode(window["uri"], times_s, size)
    return {
        "frames_planned": len(times_s),
        "pts_s": np.maximum(frames.pts_s_N, window["start_s"]).tolist(),
        "novelty": novelty(frames.data_NHWC).tolist(),
        "pixels": rows.pack(frames.data_NHWC),
        "decode_s": time.perf_counter() - started,
    }


def plan_window(
    routes: dict[str, Route],
    queries: Sequence[Query],
    config: PlanConfig,
    score: ScoreConfig,
    tokens_per_frame: int,
    window: Row,
) -> Row:
    """Plan the visual tokens of every open query of a window; a query that cannot be planned carries the reason."""
    relevance_NP = rows.unpack(window["relevance"])
    column = columns(queries)
    by_id = {query.query_id: query for query in queries}
    plans: list[Row] = []
    for query_id in window["query_ids"]:
        query, route = by_id[query_id], routes[query_id]
        plan: Row = {
            "query_id": query_id,
            "route": route.route,
            "route_confidence": route.confidence,
            "reason": "no visual tokens needed",
            "tokens": [0] * len(relevance_NP),
            "error_message": "",
        }
        if tokens_per_frame and query.kind != "find":
            relevance_N = relevance_NP[:, column[query_id][0]]
            try:
                made = _spend(relevance_N, route, query, config, score, tokens_per_frame)
                plan |= {"route": made.route, "reason": made.reason, "tokens": list(made.tokens_N)}
            except AnswerError as error:
                plan["error_message"] = str(error)
        plans.append(plan)
    return {"plans": plans}


def _spend(
    relevance_N: np.ndarray,
    route: Route,
    query: Query,
    config: PlanConfig,
    score: ScoreConfig,
    tokens_per_frame: int,
) -> Plan:
    """Return the plan of one (window, query): the query's own budget and threshold, else the job's."""
    return plan_tokens(
        relevance_N,
        route=route.route,
        route_confidence=route.confidence,
        tokens_per_frame=tokens_per_frame,
        budget_tokens=config.budget_tokens if query.budget_tokens is None else query.budget_tokens,
        threshold=score.threshold if query.threshold is None else query.threshold,
        scale_global=config.scale_global,
        scale_relevant=config.scale_relevant,
        scale_background=config.scale_background,
    )


def fetch_evidence(decode: DecodeFn, size: FrameSize, window: Row) -> Row:
    """Decode the frames that any plan spends tokens on, again, at the answerer's size.

    When they cannot be had, the plans that need them carry the reason; questions answered from relevance do not
    suffer from it.
    """
    started = time.perf_counter()
    try:
        found = _evidence(decode, size, window)
    except DecodeError as error:
        plans = [
            {**plan, "error_message": plan["error_message"] or str(error)} if any(plan["tokens"]) else plan
            for plan in window["plans"]
        ]
        found = {"evidence_index": [], "plans": plans}
    return {**found, "evidence_s": time.perf_counter() - started}


def _evidence(decode: DecodeFn, size: FrameSize, window: Row) -> Row:
    """Return `evidence_index` and `evidence_pixels`.

    Raises:
        DecodeError: a frame that could be decoded before cannot be decoded now, or the file has changed.
    """
    pts_s_N = np.asarray(window["pts_s"])
    tokens_QN = np.asarray([plan["tokens"] for plan in window["plans"]])
    index = np.flatnonzero(tokens_QN.any(axis=0))
    if not len(index):
        return {"evidence_index": []}
    check_version(window)
    frames = decode(window["uri"], pts_s_N[index].tolist(), size)
    found_s_N = np.maximum(frames.pts_s_N, window["start_s"])
    if len(frames) != len(index) or np.abs(found_s_N - pts_s_N[index]).max() > PTS_TOLERANCE_S:
        msg = (
            f"{window['uri']}: frames at {np.round(pts_s_N[index], 3).tolist()} s were sampled before, now"
            f" {np.round(found_s_N, 3).tolist()} s were delivered; the file changed or cannot be re-read exactly"
        )
        raise DecodeError(msg)
    return {
        "evidence_index": index.tolist(),
        "evidence_pixels": rows.pack(frames.data_NHWC),
    }


def route_queries(router: RouteFn, queries: Sequence[Query]) -> dict[str, Route]:
    """Return the route of every query: it depends on the text alone, so it is found once per run."""
    return {query.query_id: router(query.text, query.kind) for query in queries}
