"""From the answers of one video's windows to its verdict.

A verdict must not depend on the order in which windows finish: every function sorts first.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from pipeline.queries import KINDS
from pipeline.rows import Row

MAX_EVIDENCE = 8
"""Evidence frames of a verdict."""


class ReduceFn(Protocol):
    """Turn the rows of rows.ANSWERS of one (video, version, query), in any order, into the verdict's own columns.

    Returns answer, confidence, spans, evidence, num_windows, num_failed_windows, tokens_dense, tokens_used,
    error_type and error_message; the caller adds the columns that say whose verdict it is.
    """

    def __call__(self, answers: Sequence[Row]) -> Row: ...


def strongest_window(answers: Sequence[Row]) -> Row:
    """Return the verdict of the window that is surest, with the spans and evidence of all windows that agree.

    - find: found if any window found something; confidence = highest relevance of any window.
    - flag: yes if any window says yes, confidence of the surest yes; else no, with the confidence of the least
      sure no (one doubtful window makes the whole video doubtful).
    - choose, ask: the answer of the surest window (ties: the earlier one). Nothing is summed over windows: an
      event seen in one window of fifty must not be outvoted by forty-nine that could not see it.

    Spans of agreeing windows that meet at a window border are joined. A video with failed windows has a good
    verdict over the others; `num_failed_windows` says on how many it does not rest. When every window failed the
    verdict fails with the most frequent reason.

    Raises:
        ValueError: no answers, or answers of a kind that does not exist.
    """
    if not answers:
        msg = "a verdict needs the answers of at least one window, found none"
        raise ValueError(msg)
    ordered = sorted(answers, key=lambda row: (row["start_s"], row["window_id"]))
    good = [row for row in ordered if not row["error_type"]]
    verdict: Row = {
        "answer": "",
        "confidence": 0.0,
        "spans": [],
        "evidence": [],
        "num_windows": len(ordered),
        "num_failed_windows": len(ordered) - len(good),
        "tokens_dense": sum(row["tokens_dense"] for row in ordered),
        "tokens_used": sum(row["tokens_used"] for row in ordered),
        "error_type": "",
        "error_message": "",
    }
    if not good:
        return {**verdict, **_common_error(ordered)}
    decisive = _decisive(good)
    agreeing = [row for row in good if row["answer"] == decisive["answer"]]
    return {
        **verdict,
        "answer": decisive["answer"],
        "confidence": decisive["confidence"],
        "spans": join_spans(agreeing),
        "evidence": best_evidence(agreeing),
    }


def join_spans(answers: Sequence[Row]) -> list[Row]:
    """Return the spans of several windows, best first, joined where an event runs over a window border.

    The first frame of a window lies up to one sampling step behind the border, so a span that reaches the end of
    its window and one that starts within a step of it are the same event. Spans that overlap or touch are joined
    too; a joined span has the higher score.
    """
    reaches: list[tuple[Row, float]] = []
    for row in answers:
        planned = row["frames_planned"]
        step_s = (row["end_s"] - row["start_s"]) / planned if planned else 0.0
        for span in row["spans"]:
            at_border = span["end_s"] >= row["end_s"] - 1e-6
            reaches.append((dict(span), span["end_s"] + (step_s if at_border else 0.0)))
    joined: list[tuple[Row, float]] = []
    for span, reach_s in sorted(reaches, key=lambda pair: (pair[0]["start_s"], pair[0]["end_s"])):
        if joined and span["start_s"] <= joined[-1][1]:
            last, last_reach_s = joined[-1]
            last["end_s"] = max(last["end_s"], span["end_s"])
            last["score"] = max(last["score"], span["score"])
            joined[-1] = (last, max(last_reach_s, reach_s))
        else:
            joined.append((span, reach_s))
    return sorted((span for span, _ in joined), key=lambda span: (-span["score"], span["start_s"]))


def best_evidence(answers: Sequence[Row]) -> list[Row]:
    """Return up to MAX_EVIDENCE frames with the highest score (ties: earlier first), in time order."""
    frames = [dict(frame) for row in answers for frame in row["evidence"]]
    best = sorted(frames, key=lambda frame: (-frame["score"], frame["pts_s"]))[:MAX_EVIDENCE]
    return sorted(best, key=lambda frame: frame["pts_s"])


def _decisive(good: Sequence[Row]) -> Row:
    """Return the window whose answer and confidence the video takes over; rows come in time order."""
    kind = good[0]["kind"]
    if kind not in KINDS:
        msg = f"answers of query {good[0]['query_id']!r} are of kind {kind!r}, expected one of {', '.join(KINDS)}"
        raise ValueError(msg)
    positive = {"find": "found", "flag": "yes"}.get(kind)
    candidates = [row for row in good if row["answer"] == positive] or good
    if kind == "flag" and candidates[0]["answer"] != "yes":
        return min(candidates, key=lambda row: row["confidence"])
    return max(candidates, key=lambda row: row["confidence"])


def _common_error(failed: Sequence[Row]) -> Row:
    """Return the most frequent error type, its most frequent message, and how often it struck."""
    types = Counter(row["error_type"] for row in failed)
    error_type, count = min(types.items(), key=lambda item: (-item[1], item[0]))
    messages = Counter(row["error_message"] for row in failed if row["error_type"] == error_type)
    message, _ = min(messages.items(), key=lambda item: (-item[1], item[0]))
    text = f"all {len(failed)} windows failed, {count} with {error_type}: {message}"
    return {"error_type": error_type, "error_message": text}


AGGREGATORS: dict[str, ReduceFn] = {"strongest-window": strongest_window}
"""Ways to bring the answers of a video's windows together."""
