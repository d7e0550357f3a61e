"""How many visual tokens each frame of a window gets: integers, pure, never over budget.

The paper gives the two policies and their token accounts, not the code; the planner below reproduces the accounts
(64 frames of 256 tokens: 8,192 on the global route, 7,168 on the fragment route with 16 relevant frames).

Shape letters: N sampled frames of one window.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import AnswerError

RouteName = Literal["global", "fragment"]
Indices = npt.NDArray[np.int64]

MIN_ROUTE_CONFIDENCE = 0.6
"""A route less certain than this is not followed: the window is shown as a whole."""
MIN_GAP_S = 3.0
"""Seconds between evidence frames: wider than the default smoothing, so that each shows another moment."""
MAX_RELEVANT_SHARE = 0.8
"""When more frames than this are relevant, and they do not all fit, relevance cannot choose between them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Visual tokens per sampled frame for one (window, query)."""

    route: RouteName
    tokens_N: tuple[int, ...]
    """Tokens of each sampled frame; 0 = not shown to the model."""
    reason: str
    """Why this plan and not another; goes to the row."""


def plan_tokens(
    relevance_N: npt.ArrayLike,
    *,
    route: RouteName,
    route_confidence: float,
    tokens_per_frame: int,
    budget_tokens: int,
    threshold: float,
    scale_global: int,
    scale_relevant: int,
    scale_background: int,
    max_relevant_share: float = MAX_RELEVANT_SHARE,
    known_N: npt.ArrayLike | None = None,
) -> Plan:
    """Return the tokens of each frame; their sum never exceeds `budget_tokens`.

    VideoRouter (arXiv 2605.05848, budget-constrained allocation). A scale divides the number of tokens of a frame,
    not the side of its grid (its account of uniform pooling, 64 x 128 = 8,192 at scale 2, fixes this), rounded
    down, at least 1.

    - global: every frame at `scale_global`; when that is too much, frames at equal distances that fit.
    - fragment: frames at or above `threshold` at `scale_relevant`, then as many others as the rest of the budget
      holds at `scale_background`; when the relevant frames alone are too much, some of them at equal distances.

    Where the paper is silent: background frames are taken where the gap to the frames already shown is largest
    (ties: more relevant, then earlier), so that the model also sees what surrounds the answer. The fragment route
    falls back to global when the router is not certain, when no frame is relevant, and when more than
    `max_relevant_share` of them are and do not all fit (pass 1.0 for the paper's own account, which samples them).
    A budget below one frame at the scale the route asks for buys a frame at a coarser one of the three scales.

    Args:
        relevance_N: [N] relevance in [0, 1].
        route: what the router says.
        route_confidence: how sure it is, in [0, 1].
        tokens_per_frame: tokens of one frame at full resolution, 1 or more.
        budget_tokens: most tokens that may be spent.
        threshold: relevance from which a frame is relevant (the paper has "above", spans have "from").
        scale_global: divisor of every frame on the global route (s_g).
        scale_relevant: divisor of relevant frames (s_1).
        scale_background: divisor of the others (s_0).
        max_relevant_share: share of relevant frames above which relevance is taken for uninformative.
        known_N: [N] which frames the fragment route may choose from, as if there were no others; distances stay those
            of the whole window, and the global route shows it as a whole. None = all.

    Raises:
        AnswerError: the budget does not buy one frame even at the coarsest scale.
    """
    if tokens_per_frame < 1:
        msg = (
            f"a plan needs a model with visual tokens, found {tokens_per_frame} per frame; use plan_evidence"
        )
        raise ValueError(msg)
    scores_N = np.asarray(relevance_N, dtype=np.float64)
    known = np.arange(len(scores_N)) if known_N is None else np.flatnonzero(known_N)
    relevant = known[scores_N[known] >= threshold]
    sizes = [max(1, tokens_per_frame // scale) for scale in (scale_global, scale_relevant, scale_background)]
    if min(sizes) > budget_tokens:
        msg = (
            f"a budget of {budget_tokens} tokens does not buy one frame: the smallest costs {min(sizes)}"
            f" ({tokens_per_frame} per frame at scales {scale_global}, {scale_relevant}, {scale_background});"
            " raise budget_tokens or a scale"
        )
        raise AnswerError(msg)
    size_global, size_relevant, size_background = (
        max(size for size in sizes if size <= min(wanted, budget_tokens)) for wanted in sizes
    )
    if route == "fragment":
        room = budget_tokens // size_relevant
        fallback = _distrust(route_confidence, len(relevant), len(known), room, max_relevant_share)
        if not fallback:
            return _plan_fragment(scores_N, known, relevant, budget_tokens, size_relevant, size_background)
    else:
        fallback = ""
    shown = evenly(len(scores_N), budget_tokens // size_global)
    tokens_N = np.zeros(len(scores_N), dtype=np.int64)
    tokens_N[shown] = size_global
    reason = f"{fallback}{len(shown)} of {len(scores_N)} frames at {size_global} tokens"
    return Plan("global", tuple(tokens_N.tolist()), reason)


def plan_evidence(
    relevance_N: npt.ArrayLike, pts_s_N: npt.ArrayLike, max_evidence: int, min_gap_s: float = MIN_GAP_S
) -> tuple[int, ...]:
    """Return the indices of the frames to show as evidence, in time order.

    The most relevant frame comes first, then always the most relevant one that lies at least `min_gap_s` from
    those chosen: neighbours show the same moment twice. Places left over go to the best of the rest. The earlier
    of two equal frames wins.
    """
    scores_N = np.asarray(relevance_N, dtype=np.float64)
    times_s_N = np.asarray(pts_s_N, dtype=np.float64)
    order = np.argsort(-scores_N, kind="stable")
    chosen: list[int] = []
    rest: list[int] = []
    for index in order.tolist():
        if len(chosen) == max_evidence:
            break
        near = any(abs(times_s_N[index] - times_s_N[other]) < min_gap_s for other in chosen)
        (rest if near else chosen).append(index)
    return tuple(sorted(chosen + rest[: max_evidence - len(chosen)]))


def _plan_fragment(
    scores_N: npt.NDArray[np.float64],
    known: Indices,
    relevant: Indices,
    budget_tokens: int,
    size_relevant: int,
    size_background: int,
) -> Plan:
    """Return the plan of the fragment route: relevant frames first, the rest of the budget for the others."""
    shown = relevant[evenly(len(relevant), budget_tokens // size_relevant)]
    others = np.zeros(0, dtype=np.int64)
    if len(shown) == len(relevant):
        left_tokens = budget_tokens - len(shown) * size_relevant
        others = _fill_gaps(shown, np.setdiff1d(known, shown), scores_N, left_tokens // size_background)
    tokens_N = np.zeros(len(scores_N), dtype=np.int64)
    tokens_N[shown] = size_relevant
    tokens_N[others] = size_background
    reason = (
        f"{len(shown)} of {len(relevant)} relevant frames at {size_relevant} tokens,"
        f" {len(others)} of {len(known) - len(relevant)} others at {size_background}"
    )
    return Plan("fragment", tuple(tokens_N.tolist()), reason)


def _distrust(
    confidence: float, num_relevant: int, num_frames: int, room: int, max_relevant_share: float
) -> str:
    """Return why the fragment route is not followed, or nothing."""
    if confidence < MIN_ROUTE_CONFIDENCE:
        return f"fragment route not certain ({confidence:.2f} < {MIN_ROUTE_CONFIDENCE}): "
    if num_relevant == 0:
        return "no relevant frame: "
    if num_relevant > max(room, max_relevant_share * num_frames):
        return f"relevance does not choose ({num_relevant} of {num_frames} frames): "
    return ""


def evenly(num_items: int, num_wanted: int) -> Indices:
    """Return up to `num_wanted` of 0 .. num_items - 1 at equal distances: the middles of equal stretches.

    For 8 items and 3 wanted the stretches are [0, 2.67), [2.67, 5.33), [5.33, 8) and the middles 1, 4, 6.
    """
    if num_wanted >= num_items:
        return np.arange(num_items)
    return (2 * np.arange(num_wanted) + 1) * num_items // (2 * num_wanted) if num_wanted else np.arange(0)


def _fill_gaps(shown: Indices, others: Indices, scores_N: npt.NDArray[np.float64], room: int) -> Indices:
    """Return up to `room` of the others, each one the farthest in the window from all chosen before it."""
    if room >= len(others):
        return others
    gap = np.abs(others[:, None] - shown).min(axis=1)
    chosen: list[int] = []
    for _ in range(room):
        farthest = others[gap == gap.max()]
        frame = int(farthest[np.argmax(scores_N[farthest])])
        chosen.append(frame)
        gap = np.minimum(gap, np.abs(others - frame))
    return np.asarray(chosen, dtype=np.int64)
