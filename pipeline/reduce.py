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
SLACK_S = 0.001
"""Spans this close touch: presentation times are rounded, frames lie further apart."""


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
    verdict fails with the most frequent reason; so does that of a video without windows.

    Raises:
        ValueError: the answers are of a kind that does not exist.
    """
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
    """Return the spans of several windows, best first (ties: earlier first); those that touch or overlap are one.

    So an event that runs over a window border is one span. This needs the first frame of a window to be the one
    shown at its border, as it is when `window.length_s` x `window.sample_fps` is a whole number; otherwise the
    first frame lies up to one sampling step behind the border and such an event stays two spans.
    """
    spans = [dict(span) for row in answers for span in row["spans"]]
    joined: list[Row] = []
    for span in sorted(spans, key=lambda span: (span["start_s"], span["end_s"])):
        if joined and span["start_s"] <= joined[-1]["end_s"] + SLACK_S:
            joined[-1]["end_s"] = max(joined[-1]["end_s"], span["end_s"])
            joined[-1]["score"] = max(joined[-1]["score"], span["score"])
        else:
            joined.append(span)
    return sorted(joined, key=lambda span: (-span["score"], span["start_s"]))


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
    if not failed:
        return {"error_type": "AnswerError", "error_message": "no window of this video was answered"}
    types = Counter(row["error_type"] for row in failed)
    error_type, count = min(types.items(), key=lambda item: (-item[1], item[0]))
    messages = Counter(row["error_message"] for row in failed if row["error_type"] == error_type)
    message, _ = min(messages.items(), key=lambda item: (-item[1], item[0]))
    text = f"all {len(failed)} windows failed, {count} with {error_type}: {message}"
    return {"error_type": error_type, "error_message": text}


AGGREGATORS: dict[str, ReduceFn] = {"strongest-window": strongest_window}
"""Ways to bring the answers of a video's windows together."""
