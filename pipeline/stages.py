"""The stages between the models: functions on one row, no Ray, no weights.

Each returns the columns it adds; guard.py turns it into a stage on tables. Order as in jobs/flow.py:
probe -> (windows) -> sample -> (score) -> plan -> fetch evidence -> (answer).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from pipeline import rows
from pipeline.budget import MIN_ROUTE_CONFIDENCE, Plan, plan_evidence, plan_tokens
from pipeline.config import DecodeConfig, PlanConfig, ScoreConfig
from pipeline.errors import AnswerError, DecodeError, ProbeError
from pipeline.frames import FrameSize, Policy, Sample
from pipeline.isolation import Reader, cpu_s
from pipeline.novelty import novelty
from pipeline.plugins import find
from pipeline.queries import Query, columns
from pipeline.route import Asked, Route, RouteManyFn
from pipeline.rows import Row
from pipeline.select import FRAME_SELECTORS, METHODS
from pipeline.select.fit import RELEVANCE
from pipeline.select.slow_fast import mark_slow
from pipeline.select.window import WindowSelection
from pipeline.spans import find_spans
from pipeline.windows import key_gap_s, spans

ROUNDING = 1e-3
"""Share of a sampling period by which key pictures may come later and still count as coming as often."""
PTS_TOLERANCE_S = 0.0005
"""Two decodes of one frame may differ by rounding of its time; frames lie further apart than this."""
WHOLE_FRAMES = "; frames are shown whole: this model's tokens cannot be cut"


def probe(reader: Reader, file: Row) -> Row:
    """Probe one file (rows.FILE) and return the columns of rows.PROBED; an unusable file says why in its own row."""
    started, cpu_started = time.perf_counter(), cpu_s()
    try:
        facts, origin = reader.probe_from(file)
    except ProbeError as error:
        return {
            "status": error.status,
            "probe_s": time.perf_counter() - started,
            "probe_cpu_s": cpu_s() - cpu_started,
            "error_type": "ProbeError",
            "error_message": str(error),
        }
    windows = spans(facts["duration_s"], reader.window, facts["key_times_s"])
    return {
        **facts,
        "key_gap_s": key_gap_s(facts["key_times_s"], facts["duration_s"]),
        "window_starts_s": [start_s for start_s, _ in windows],
        "num_windows": len(windows),
        "probe_bytes": origin.num_bytes,
        "probe_requests": origin.num_requests,
        "probe_s": time.perf_counter() - started,
        "probe_cpu_s": cpu_s() - cpu_started,
    }


def sample_window(reader: Reader, size: FrameSize, window: Row, *, marks_slow: bool = False) -> Row:
    """Decode a window's sampled frames at the scorer's size; which of them are slow is found only when asked for.

    The picture shown when the window begins may have come up before; here it counts from the window's start, so
    that a picture that stands still for an hour is one frame of each window and no span leaves its window.

    Raises:
        DecodeError: not one of the frames can be decoded, or the file has changed since it was listed.
    """
    started, cpu_started = time.perf_counter(), cpu_s()
    policy = policy_for(reader.config, 1 / reader.window.sample_fps, window["key_gap_s"])
    frames, origin = reader.sample(window, size, policy)
    if not len(frames):
        why = frames.samples[0].reason if frames.samples else "no picture was sampled"
        msg = (
            f"{window['uri']}: none of {len(frames.samples)} pictures between {window['start_s']:g} and"
            f" {window['end_s']:g} s can be decoded ({why}); the file is damaged or ends earlier than it says"
        )
        raise DecodeError(msg)
    pts_s_N = np.maximum(frames.pts_s_N, window["start_s"])
    # a policy that is not exact may give two pictures from before the window; it keeps the first
    kept_N = np.diff(pts_s_N, prepend=-1.0) > 0
    data_NHWC, pts_s_N = (
        (frames.data_NHWC, pts_s_N) if kept_N.all() else (frames.data_NHWC[kept_N], pts_s_N[kept_N])
    )
    place = dict(zip(frames.pts_s_N.tolist(), (np.cumsum(kept_N) - 1).tolist(), strict=True))
    return {
        "frames_planned": len(frames.samples),
        "samples": [
            {**asdict(sample), "off_s": _off_s(sample), "frame": place.get(sample.pts_s, -1)}
            for sample in frames.samples
        ],
        "pts_s": pts_s_N.tolist(),
        "novelty": novelty(data_NHWC).tolist(),
        "slow": mark_slow(data_NHWC).tolist() if marks_slow else [True] * len(data_NHWC),
        "pixels": rows.pack(data_NHWC),
        "read_bytes": origin.num_bytes,
        "read_requests": origin.num_requests,
        "decode_s": time.perf_counter() - started,
        "decode_cpu_s": cpu_s() - cpu_started,
    }


def _off_s(sample: Sample) -> float:
    """Return how far a picture lies from the one to be shown; a stale one from its wanted time, all that is known."""
    return sample.pts_s - sample.wanted_s if sample.quality == "stale" else sample.off_s


def policy_for(config: DecodeConfig, period_s: float, key_gap_s: float) -> Policy:
    """Return which picture may stand for a sampled time of one file.

    `auto` takes key pictures where they are known to come at least as often as samples.
    """
    if config.policy != "auto":
        return Policy(config.policy, config.near_s if config.policy == "near" else 0.0)
    return Policy("keyframe" if 0 < key_gap_s <= period_s * (1 + ROUNDING) else "exact")


def plan_window(
    routes: dict[str, Route],
    queries: Sequence[Query],
    config: PlanConfig,
    score: ScoreConfig,
    tokens_per_frame: int,
    window: Row,
    *,
    cuts_frames: bool = True,
    confirm_find: bool = False,
    refines: bool = False,
) -> Row:
    """Plan the visual tokens of every open query of a window; a query that cannot be planned carries the reason.

    Args:
        routes: what the router says, per query id.
        queries: all queries of the job.
        config: selector, budget and scales.
        score: the threshold of queries that have none of their own.
        tokens_per_frame: visual tokens of one frame at full resolution; 0 = no tokens are spent.
        window: a rows.SCORED row.
        cuts_frames: whether a frame may be shown with fewer tokens; if not, every scale is 1, and what another
            selector than `relevance` would show with fewer is dropped.
        confirm_find: spend tokens for `find` too, on frames inside the spans found from relevance, on no others.
        refines: relevance only proposes: name the frames that an image router is to look at, which then plans again.
    """
    relevance_NP = rows.unpack(window["relevance"])
    column = columns(queries)
    by_id = {query.query_id: query for query in queries}
    note = "" if cuts_frames else WHOLE_FRAMES
    if not cuts_frames:
        config = replace(config, scale_global=1, scale_relevant=1, scale_background=1)
    selection = _selection(config, tokens_per_frame, window, cuts_frames)
    plans: list[Row] = []
    for query_id in window["query_ids"]:
        query, route = by_id[query_id], routes[query_id]
        plan = _unspent(query_id, route, len(relevance_NP))
        if tokens_per_frame and (query.kind != "find" or confirm_find):
            relevance_N = relevance_NP[:, column[query_id][0]]
            threshold = score.threshold if query.threshold is None else query.threshold
            inside_N = _in_spans(relevance_N, threshold, window) if query.kind == "find" else None
            try:
                if selection is None:
                    made = _spend(relevance_N, inside_N, route, query, config, threshold, tokens_per_frame)
                else:
                    made = _select(selection, relevance_N, inside_N, route, _budget_tokens(query, config))
                reason = made.reason + (note if any(made.tokens_N) else "")
                plan |= {"route": made.route, "reason": reason, "tokens": list(made.tokens_N)}
                if refines and query.kind != "find" and _looks_for_moments(route):
                    # without a gap: what is not looked at counts as background, be it next to the best frame
                    best = plan_evidence(relevance_N, window["pts_s"], score.candidates, min_gap_s=0.0)
                    shown = replace(route, route="global")
                    whole = _spend(relevance_N, None, shown, query, config, threshold, tokens_per_frame)
                    plan |= {"candidates": list(best), "fallback": np.flatnonzero(whole.tokens_N).tolist()}
            except AnswerError as error:
                plan["error_message"] = f"{error}{note}"
        plans.append(plan)
    return {"plans": plans}


def _unspent(query_id: str, route: Route, num_frames: int) -> Row:
    """Return the plan of a query that needs no visual tokens."""
    return {
        "query_id": query_id,
        "route": route.route,
        "route_confidence": route.confidence,
        "route_reason": route.reason,
        "reason": "no visual tokens needed",
        "tokens": [0] * num_frames,
        "candidates": [],
        "fallback": [],
        "error_message": "",
    }


def _looks_for_moments(route: Route) -> bool:
    """Return whether a plan follows relevance if there is any: else no frame need be looked at for it."""
    return route.route == "fragment" and route.confidence >= MIN_ROUTE_CONFIDENCE


def _in_spans(relevance_N: np.ndarray, threshold: float, window: Row) -> np.ndarray:
    """Return which sampled frames lie in a span found from relevance, [N] bool."""
    pts_s_N = np.asarray(window["pts_s"])
    inside_N = np.zeros(len(pts_s_N), dtype=bool)
    for span in find_spans(relevance_N, pts_s_N, window["end_s"], threshold):
        inside_N |= (pts_s_N >= span.start_s) & (pts_s_N < span.end_s)
    return inside_N


def _spend(
    relevance_N: np.ndarray,
    inside_N: np.ndarray | None,
    route: Route,
    query: Query,
    config: PlanConfig,
    threshold: float,
    tokens_per_frame: int,
) -> Plan:
    """Return the plan of one (window, query): the query's own budget, else the job's; only for frames inside, if given.

    Where no frame is inside there is nothing to confirm, and nothing is spent.
    """
    if inside_N is not None and not inside_N.any():
        return _nothing_inside(route, inside_N)
    made = plan_tokens(
        relevance_N if inside_N is None else relevance_N[inside_N],
        route=route.route,
        route_confidence=route.confidence,
        tokens_per_frame=tokens_per_frame,
        budget_tokens=_budget_tokens(query, config),
        threshold=threshold,
        scale_global=config.scale_global,
        scale_relevant=config.scale_relevant,
        scale_background=config.scale_background,
    )
    return made if inside_N is None else _spread(made, inside_N)


def _selection(
    config: PlanConfig, tokens_per_frame: int, window: Row, cuts_frames: bool
) -> WindowSelection | None:
    """Return what asks the job's selector for plans; none is needed for the one that heeds the route.

    A selector of outsiders is taken to heed the question.
    """
    if config.selector == RELEVANCE:
        return None
    return WindowSelection(
        find(FRAME_SELECTORS, config.selector, "FRAME_SELECTORS"),
        window,
        tokens_per_frame,
        query_dependent=config.selector not in METHODS or METHODS[config.selector].query_dependent,
        cuts_frames=cuts_frames,
    )


def _select(
    selection: WindowSelection,
    relevance_N: np.ndarray,
    inside_N: np.ndarray | None,
    route: Route,
    budget_tokens: int,
) -> Plan:
    """Return the plan of one (window, query) as `_spend` does, by a selector that does not heed the route."""
    if inside_N is not None and not inside_N.any():
        return _nothing_inside(route, inside_N)
    made = replace(selection.plan(relevance_N, inside_N, budget_tokens), route=route.route)
    return made if inside_N is None else _spread(made, inside_N)


def _budget_tokens(query: Query, config: PlanConfig) -> int:
    return config.budget_tokens if query.budget_tokens is None else query.budget_tokens


def _nothing_inside(route: Route, inside_N: np.ndarray) -> Plan:
    return Plan(route.route, (0,) * len(inside_N), "no span to confirm: no visual tokens needed")


def _spread(made: Plan, inside_N: np.ndarray) -> Plan:
    """Return the plan of the frames inside as one of all frames."""
    tokens_N = np.zeros(len(inside_N), dtype=np.int64)
    tokens_N[inside_N] = made.tokens_N
    return Plan(made.route, tuple(tokens_N.tolist()), f"inside the spans to confirm: {made.reason}")


def fetch_evidence(reader: Reader, size: FrameSize, window: Row) -> Row:
    """Decode what any plan spends tokens on, has for candidates or may fall back to, again, at the answerer's size.

    When they cannot be had, the plans that need them carry the reason; questions answered from relevance do not
    suffer from it.
    """
    started, cpu_started = time.perf_counter(), cpu_s()
    try:
        found = _evidence(reader, size, window)
    except DecodeError as error:
        plans = [
            {**plan, "error_message": plan["error_message"] or str(error)} if any(plan["tokens"]) else plan
            for plan in window["plans"]
        ]
        found = {"evidence_index": [], "plans": plans}
    return {**found, "evidence_s": time.perf_counter() - started, "evidence_cpu_s": cpu_s() - cpu_started}


def _evidence(reader: Reader, size: FrameSize, window: Row) -> Row:
    """Return `evidence_index`, `evidence_pixels`, and what has been read for the window by now.

    Raises:
        DecodeError: a frame that could be decoded before cannot be decoded now, or the file has changed.
    """
    tokens_QN = np.asarray([plan["tokens"] for plan in window["plans"]])
    wanted = {
        frame for plan in window["plans"] for use in ("candidates", "fallback") for frame in plan.get(use, ())
    }
    index = np.union1d(np.flatnonzero(tokens_QN.any(axis=0)), np.asarray(sorted(wanted), np.int64))
    if not len(index):
        return {"evidence_index": []}
    own_s = {sample["frame"]: sample["pts_s"] for sample in reversed(window["samples"])}
    pts_s_N = np.asarray([own_s[frame] for frame in index.tolist()])
    frames, origin = reader.look(window, pts_s_N.tolist(), size)
    if len(frames) != len(index) or np.abs(frames.pts_s_N - pts_s_N).max() > PTS_TOLERANCE_S:
        msg = (
            f"{window['uri']}: frames at {np.round(pts_s_N, 3).tolist()} s were sampled before, now"
            f" {np.round(frames.pts_s_N, 3).tolist()} s were delivered; it cannot be re-read exactly"
        )
        raise DecodeError(msg)
    return {
        "evidence_index": index.tolist(),
        "evidence_pixels": rows.pack(frames.data_NHWC),
        "read_bytes": window["read_bytes"] + origin.num_bytes,
        "read_requests": window["read_requests"] + origin.num_requests,
    }


def route_queries(router: RouteManyFn, queries: Sequence[Query]) -> dict[str, Route]:
    """Return the route of every query, by its id; what is asked alike is put to the router once."""
    asked: list[Asked] = list(dict.fromkeys((query.text, query.kind) for query in queries))
    found = dict(zip(asked, router(asked), strict=True))
    return {query.query_id: found[query.text, query.kind] for query in queries}
