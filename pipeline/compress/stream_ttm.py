"""Fewer tokens of an endless stream: a place goes when any of the last frames showed the same there.

Shape letters: N tokens of one frame, D hidden size, T frames, P planned frames.
"""

import math
from collections.abc import Sequence

import torch

from pipeline.compress.redundancy import (
    cut_to_plan,
    keep_one,
    keep_share,
    lagged_cosines,
    pick,
    planned_frames,
    squares,
)
from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame

METHOD = Method(
    source="StreamDyCoke, causal temporal token merging",
    stage="compress",
    what="throws away the tokens that the same place of one of the last 3 frames was like, but for every 4th frame;"
    " `compress.threshold` (cosine, .9 there) or `compress.prune_ratio` (share) says how many",
    differs="a share where no threshold is given; anchors are pooled to their plan, of other frames the least alike"
    " stay within theirs. With scope video the share is of the whole clip, and not causal",
    settings=("prune_ratio", "threshold", "scope"),
)

REMEMBERED_FRAMES = 3
"""Whole frames that a frame is compared with; catches what flickers between two looks."""
ANCHOR_EVERY = 4
THRESHOLD = 0.9
"""Of the source, for tokens of its own making."""


class StreamTtm:
    """Tells of the frames of a stream, chunk by chunk, which tokens are new; holds the last 3 frames.

    A stream gives the same, bit for bit, however it is cut into chunks. O(N T D) time.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        """Take the cosine from which a token goes."""
        self.threshold = threshold
        self.num_frames = 0
        """Frames seen so far."""
        self._last_LND: torch.Tensor | None = None

    def add(self, values_TND: torch.Tensor) -> torch.Tensor:
        """Return which tokens of the next frames stay, bool [T, N]: anchors whole, of others at least one.

        Raises:
            AnswerError: tokens are not finite; the message counts frames from the beginning of the stream. The
                state stays as it was.
        """
        last_LND = values_TND[:0] if self._last_LND is None else self._last_LND
        known = len(last_LND)
        seen_PND = torch.cat([last_LND, values_TND]) if known else values_TND
        first = self.num_frames - known
        likeness_TN = nearest(seen_PND, range(first, first + len(seen_PND)), known)
        anchor_T = is_anchor(range(self.num_frames, self.num_frames + len(values_TND)), values_TND.device)
        self.num_frames += len(values_TND)
        # a copy: a view would keep the chunk alive
        self._last_LND = seen_PND[max(0, len(seen_PND) - REMEMBERED_FRAMES) :].clone()
        return anchor_T[:, None] | keep_one(likeness_TN < self.threshold, likeness_TN)


def prune_stream(
    tokens: VisualTokens,
    plan_T: Sequence[int],
    settings: CompressConfig,
    spare_below: float = -math.inf,
) -> VisualTokens:
    """Return the clip without what one of the last 3 planned frames showed at the same place.

    StreamDyCoke's causal form of DyCoke's merging. A token's likeness is its largest cosine over the same place of
    the 3 whole planned frames before; with `settings.threshold` it goes from there on, without, the
    `settings.prune_ratio` share of comparable tokens goes, the most alike first, but for those less alike than
    `spare_below`. Every 4th planned frame is an anchor, whole but for its plan; of every other planned frame at least
    one token stays. O(N T D) time.

    Raises:
        AnswerError: tokens are not finite.
    """
    values_TND = by_frame(tokens, len(plan_T))
    frames = planned_frames(plan_T)
    likeness_PN = nearest(pick(values_TND, frames), frames)
    anchor_P = is_anchor(range(len(frames)), values_TND.device)
    compared_FN = likeness_PN[~anchor_P]
    if settings.threshold is not None:
        kept_FN = compared_FN < settings.threshold
    else:
        kept_FN = keep_share(compared_FN, settings.prune_ratio, settings.scope) | (compared_FN < spare_below)
    kept_PN = torch.ones_like(likeness_PN, dtype=torch.bool)
    kept_PN[~anchor_P] = keep_one(kept_FN, compared_FN)
    return cut_to_plan(tokens, plan_T, kept_PN, likeness_PN, anchor_P.tolist())


def nearest(values_PND: torch.Tensor, frames: Sequence[int], known: int = 0) -> torch.Tensor:
    """Return each token's largest cosine over its place in the 3 frames before, [P - known, N]; -inf if there is none.

    The first `known` frames are there to be compared with.

    Raises:
        AnswerError: tokens are not finite; the message takes the frame's number from `frames`.
    """
    squares_PN = squares(values_PND, frames)
    return lagged_cosines(values_PND, squares_PN, REMEMBERED_FRAMES, known).amax(0)


def is_anchor(numbers: range, device: torch.device) -> torch.Tensor:
    """Return which frames of a stream, by number, are kept whole: every 4th, bool."""
    return torch.arange(numbers.start, numbers.stop, device=device) % ANCHOR_EVERY == 0
