"""How selectors turn what they make of a window into tokens that the budget holds.

Shape letters: N sampled frames of one window, P parts of it.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.budget import Indices, Plan, evenly
from pipeline.errors import AnswerError

Mask = npt.NDArray[np.bool_]

HALF_SIDE = 4
"""A frame at half its resolution on either side has a quarter of its tokens."""


def quarter_of(tokens_per_frame: int) -> int:
    """Return the tokens of a frame at half its resolution."""
    return max(1, tokens_per_frame // HALF_SIDE)


def check_buys(budget_tokens: int, smallest_tokens: int, tokens_per_frame: int) -> None:
    """Refuse a budget that does not buy one frame, as small as a selector shows any.

    Raises:
        AnswerError: it does not.
    """
    if budget_tokens < smallest_tokens:
        msg = (
            f"a budget of {budget_tokens} tokens buys nothing: the smallest frame that this selector shows costs"
            f" {smallest_tokens} ({tokens_per_frame} per frame at full resolution); raise budget_tokens to"
            f" {smallest_tokens} or more, or lower --answer.frame-px"
        )
        raise AnswerError(msg)


def plan_of(tokens_N: npt.NDArray[np.int64], reason: str) -> Plan:
    """Return tokens as a plan; the route is the router's to say, and set by who asked for the plan."""
    return Plan("global", tuple(tokens_N.tolist()), reason)


def nothing_to_show() -> Plan:
    """Return the plan of a window without frames."""
    return Plan("global", (), "no frame to show")


def spend_on_two_sizes(
    first_N: Mask, budget_tokens: int, *, largest: int, smallest: int, rest_of: Callable[[int], int]
) -> npt.NDArray[np.int64]:
    """Return the tokens of frames that come in two sizes, both as large as the budget holds.

    The size x of the first ones is the largest from `smallest` to `largest` at which all frames fit, the others
    having `rest_of(x)`, which does not fall as x grows. Where not even the smallest sizes fit, as many of the first
    ones as fit are shown at equal distances, and, if they are all shown, others likewise.
    """
    num_first = int(first_N.sum())
    num_rest = len(first_N) - num_first

    def cost(size: int) -> int:
        return size * num_first + rest_of(size) * num_rest

    sizes = range(smallest, largest + 1)
    size = sizes[max(0, bisect_right(sizes, budget_tokens, key=cost) - 1)]
    tokens_N = np.zeros(len(first_N), np.int64)
    left = budget_tokens
    for members, tokens in ((np.flatnonzero(first_N), size), (np.flatnonzero(~first_N), rest_of(size))):
        shown = members[evenly(len(members), left // tokens)]
        tokens_N[shown] = tokens
        left = left - tokens * len(shown) if len(shown) == len(members) else 0
    return tokens_N


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a window, and what shows it."""

    focus: Indices
    """Frames shown with all tokens when the part is focused on; at least one."""
    trace: int | None
    """Frame whose one token stands for the rest of the part then; None = nothing is left to stand for."""
    middle: int
    """Frame whose one token stands for the whole part when it is not focused on."""


def spend_on_parts(
    parts: Sequence[Part], rank_P: Indices, budget_tokens: int, num_frames: int, tokens_per_frame: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return tokens of frames, and how many parts are focused on: first come, first served, in the order of a ranking.

    Every part leaves at least its trace: as many are focused on as fit beside the traces of all others, and of the
    next one as many frames, at equal distances, as the rest buys. The first part shows a frame in any case, at half
    resolution when the budget is below a whole one; then there may be fewer tokens than traces, and parts at equal
    distances get them.

    Args:
        parts: all parts of the window, in time order; at least one.
        rank_P: those that may be focused on, the most wanted first; at least one.
        budget_tokens: most tokens that may be spent; at least a quarter of a frame's.
        num_frames: N.
        tokens_per_frame: tokens of one frame at full resolution.
    """
    ranked = [parts[place] for place in rank_P.tolist()]
    more = [tokens_per_frame * len(part.focus) + (part.trace is not None) - 1 for part in ranked]
    num_whole = int(np.searchsorted(len(parts) + np.cumsum(more), budget_tokens, side="right"))
    tokens_N = np.zeros(num_frames, np.int64)
    for part in ranked[:num_whole]:
        tokens_N[part.focus] = tokens_per_frame
        if part.trace is not None:
            tokens_N[part.trace] = 1
    num_focused = num_whole
    if num_whole < len(ranked):
        size = tokens_per_frame if budget_tokens >= tokens_per_frame else quarter_of(tokens_per_frame)
        num_others = len(parts) - num_whole - 1
        room = max((budget_tokens - int(tokens_N.sum()) - num_others) // size, int(not num_whole))
        focus = ranked[num_whole].focus
        tokens_N[focus[evenly(len(focus), room)]] = size
        num_focused += room > 0
    traced = np.setdiff1d(np.arange(len(parts)), rank_P[:num_focused])
    left = budget_tokens - int(tokens_N.sum())
    for place in traced[evenly(len(traced), left)].tolist():
        tokens_N[parts[place].middle] = 1
    return tokens_N, num_focused
