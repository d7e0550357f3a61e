"""Frames where the path of the embedding bends.

Shape letters: N sampled frames of one window, E embedding.
"""

import math

import numpy as np
import numpy.typing as npt

from pipeline.budget import Plan
from pipeline.methods import Method
from pipeline.select.likeness import STILL, Wide, change, directions, unit
from pipeline.select.spending import check_buys, nothing_to_show, plan_of, quarter_of
from pipeline.selection import SeenFrames

METHOD = Method(
    source="CurveStream (arXiv 2603.19571)",
    stage="select",
    what="scores a frame by how far its embedding has moved and how sharply its path bends, against a running mean:"
    " clear frames get all their tokens, blurred ones a quarter, the rest none",
    differs="no code is public and the paper does not state gamma, k1, k2: ours are .9, -.25, .5. Not a queue of the"
    " latest 20 frames but the best scores of the window within the budget. A frame that has not moved is never shown"
    " for its score. Embeddings are the scorer's, not DINOv2's",
    needs=("embeddings",),
)

BEND_WEIGHT = 0.2
DECAY = 0.9
BLURRED_DEVIATIONS = -0.25
CLEAR_DEVIATIONS = 0.5
MIN_STEP = 1e-6
"""Step of the unit embedding below which it has no direction."""
DROPPED, BLURRED, CLEAR = 0, 1, 2

States = npt.NDArray[np.int64]


def show_bends(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int, num_parts: int = 1) -> Plan:
    """Return the window's frames of highest curvature: clear ones whole, blurred ones at half resolution.

    The last frame is the first to be shown, as in the paper; then clear frames in the order of their scores, as many
    as fit whole; what they leave goes to those that did not fit and then to blurred ones, at a quarter.

    Args:
        frames: of them, embeddings are read.
        budget_tokens: most tokens that may be spent.
        tokens_per_frame: tokens of one frame at full resolution.
        num_parts: equal stretches of the window that take turns in being served, so that a busy one does not get
            all; 1 = the best scores of the window as a whole.
    """
    if not len(frames):
        return nothing_to_show()
    quarter = quarter_of(tokens_per_frame)
    check_buys(budget_tokens, quarter, tokens_per_frame)
    score_N = curvature(directions(frames))
    state_N = states(score_N)
    order = _by_turns(score_N, state_N, num_parts)
    clear = order[state_N[order] == CLEAR]
    num_clear = min(len(clear), budget_tokens // tokens_per_frame)
    others = np.concatenate((clear[num_clear:], order[state_N[order] == BLURRED]))
    num_others = min(len(others), (budget_tokens - num_clear * tokens_per_frame) // quarter)
    tokens_N = np.zeros(len(frames), np.int64)
    tokens_N[clear[:num_clear]] = tokens_per_frame
    tokens_N[others[:num_others]] = quarter
    return plan_of(
        tokens_N,
        f"{num_clear} of {len(clear)} clear frames at {tokens_per_frame} tokens,"
        f" {num_others} others at {quarter}, of {len(frames)}",
    )


def curvature(direction_NE: Wide) -> Wide:
    """Return M + 0.2 C of each frame, float64 [N]: 1 - cosine to the frame before, and 1 - cosine between the steps.

    M of the first frame, C of the first two and C where a step is shorter than MIN_STEP are 0.
    """
    step_NE = np.diff(direction_NE, axis=0)
    length_N = np.linalg.norm(step_NE, axis=1)
    score_N = np.zeros(len(direction_NE))
    score_N[1:] = change(direction_NE[:-1], direction_NE[1:])
    bends_N = np.minimum(length_N[:-1], length_N[1:]) >= MIN_STEP
    way_NE = unit(step_NE)
    score_N[2:] += BEND_WEIGHT * np.where(bends_N, change(way_NE[:-1], way_NE[1:]), 0.0)
    return score_N


def states(score_N: Wide) -> States:
    """Return which frames are clear, blurred or dropped, [N].

    A score is compared with the running mean and deviation that it is already part of, both of decay .9 and begun
    with the second frame's. The first two frames and the last are clear. A loop over N numbers: each mean needs the
    one before.
    """
    state_N = np.full(len(score_N), CLEAR, np.int64)
    mean = float(score_N[1]) if len(score_N) > 1 else 0.0
    variance = 0.0
    for index, score in enumerate(score_N[2:-1].tolist(), start=2):
        mean = DECAY * mean + (1 - DECAY) * score
        variance = DECAY * variance + (1 - DECAY) * (score - mean) ** 2
        deviation = math.sqrt(variance)
        if score <= STILL or score < mean + BLURRED_DEVIATIONS * deviation:
            state_N[index] = DROPPED
        elif score < mean + CLEAR_DEVIATIONS * deviation:
            state_N[index] = BLURRED
    return state_N


def _by_turns(score_N: Wide, state_N: States, num_parts: int) -> npt.NDArray[np.int64]:
    """Return all frames in the order in which they are served: the last one, then the best of each part in turn."""
    part_N = np.arange(len(score_N)) * num_parts // len(score_N)
    best_first = np.lexsort((-score_N, -state_N, part_N))
    sorted_part_N = part_N[best_first]
    turn_N = np.empty(len(score_N), np.int64)
    turn_N[best_first] = np.arange(len(score_N)) - np.searchsorted(sorted_part_N, sorted_part_N)
    turn_N[-1] = -1
    return np.lexsort((-score_N, turn_N))
