"""From relevance per frame to spans of time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError

HYSTERESIS = 0.1
"""How far relevance may dip below the threshold before an open span closes."""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open stretch of time and how strongly it speaks for the query."""

    start_s: float
    end_s: float
    score: float
    """Highest relevance inside, in [0, 1]."""


def find_spans(
    relevance_N: npt.ArrayLike,
    pts_s_N: npt.ArrayLike,
    end_s: float,
    threshold: float,
    hysteresis: float = HYSTERESIS,
) -> list[Span]:
    """Return the spans where relevance is high, best first (ties: earlier first), never overlapping.

    A span opens at the first frame with relevance >= `threshold` and closes at the first one below
    `threshold - hysteresis`, so that one weak frame does not cut an event in two. A frame stands for the time
    until the next one, the last frame for the time until `end_s`. Frames 0 s, 1 s, 3 s with relevance .2, .8, .6,
    end 4 s and threshold 0.5 give one span [1, 4) with score .8.

    Args:
        relevance_N: [N] relevance in [0, 1].
        pts_s_N: [N] times, strictly increasing; distances need not be equal.
        end_s: end of the window the frames were sampled from.
        threshold: relevance that opens a span.
        hysteresis: 0 = a span closes as soon as relevance is below `threshold`.

    Raises:
        DecodeError: times and relevance differ in number, or times do not increase towards `end_s`.
    """
    scores_N = np.asarray(relevance_N, dtype=np.float64)
    edges_s = np.append(np.asarray(pts_s_N, dtype=np.float64), end_s)
    if len(edges_s) != len(scores_N) + 1:
        msg = f"{len(scores_N)} frames have relevance but {len(edges_s) - 1} have a time; this window cannot be placed"
        raise DecodeError(msg)
    if not np.all(np.diff(edges_s) > 0):
        at = int(np.argmin(np.diff(edges_s) > 0))
        msg = (
            f"frame times must increase and end before {end_s} s, found {edges_s[at]} s followed by"
            f" {edges_s[at + 1]} s; probe the file again, its length may have changed"
        )
        raise DecodeError(msg)

    spans: list[Span] = []
    opened: int | None = None
    for frame, score in enumerate([*scores_N.tolist(), -np.inf]):
        if opened is None and score >= threshold:
            opened = frame
        elif opened is not None and score < threshold - hysteresis:
            best = float(scores_N[opened:frame].max())
            spans.append(Span(float(edges_s[opened]), float(edges_s[frame]), best))
            opened = None
    return sorted(spans, key=lambda span: (-span.score, span.start_s))
