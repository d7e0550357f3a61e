"""Fewer tokens per clip by throwing away what is the same as in the frame before; and what that tells of scenes.

Shape letters: N tokens of one frame, D hidden size, T frames, P planned frames, F = P - 1 compared ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.compress.redundancy import cosines, cut_to_plan, keep_share, pick, planned_frames, squares
from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame

METHOD = Method(
    source="TimeChat-Online (arXiv 2504.17343), Differential Token Drop at feature level",
    stage="compress",
    what="throws away the tokens most like the same place of the frame before, whose own losses do not count;"
    " `compress.threshold` (cosine) or `compress.prune_ratio` (share, `compress.scope`) says how many",
    differs="the first frame is pooled to its plan; of what is left of another frame the least alike stay within its"
    " plan. Thresholds are of one model's tokens: its .25 and .5 drop about 85 % and 45 % there",
    settings=("prune_ratio", "threshold", "scope"),
)
EVS = Method(
    source="EVS, Efficient Video Sampling (arXiv 2510.14624)",
    stage="compress",
    what="throws away the `compress.prune_ratio` share of all tokens, most like the same place of the frame before"
    " first; the first frame is whole and counts as kept",
    differs="a special case of `dtd`. The first frame is pooled to its plan, others are cut to theirs",
    settings=("prune_ratio",),
)

SCENE_DROP_RATIO = 0.6
"""Share of a frame's tokens below which so few are like before that the scene has changed."""
LOWEST_SHARE = 0.1
"""Of the ratios of a clip, those this low mark a change of scene too."""


def drop_like_before(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the clip without what is like the same place of the planned frame before.

    TimeChat-Online (arXiv 2504.17343), Differential Token Drop. With `settings.threshold` a token goes whose cosine
    is above it; without, `settings.prune_ratio` of all comparable tokens (`settings.scope` video: still stretches
    lose more) or of each frame's own (frame) go, the largest cosines first. The reference is the whole planned frame
    before, also where its own token was dropped. The first planned frame is whole, pooled to its plan. A frame may
    lose all its tokens. O(N T D) time.

    Raises:
        AnswerError: tokens are not finite.
    """
    values_TND = by_frame(tokens, len(plan_T))
    frames = planned_frames(plan_T)
    likeness_FN = _likeness(pick(values_TND, frames), frames)
    return cut_behind_first(tokens, plan_T, _kept(likeness_FN, settings), likeness_FN)


def sample_video(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return what `dtd` leaves when `settings.prune_ratio` is of all tokens and over the whole clip.

    Efficient Video Sampling (arXiv 2510.14624): of P frames of N tokens max(N, floor((1 - ratio) P N)) stay, the
    first frame whole. No threshold is used.
    """
    count = len(planned_frames(plan_T))
    share = min(1.0, settings.prune_ratio * count / max(1, count - 1))
    return drop_like_before(
        tokens, plan_T, replace(settings, prune_ratio=share, threshold=None, scope="video")
    )


def drop_ratios(values_TND: torch.Tensor, settings: CompressConfig) -> torch.Tensor:
    """Return the share of each frame's tokens that `dtd` drops before any plan, [T] float32; 0 for the first.

    Raises:
        AnswerError: tokens are not finite.
    """
    likeness_FN = _likeness(values_TND, range(len(values_TND)))
    dropped_F = (~_kept(likeness_FN, settings)).float().mean(1)
    return torch.cat([dropped_F.new_zeros(min(1, len(values_TND))), dropped_F])


def scene_changes(drop_ratio_T: torch.Tensor) -> torch.Tensor:
    """Return at which frames a new scene begins, bool [T]; never at the first.

    TimeChat-Online's trigger: a valley of the drop ratio (see `drop_ratios`, with a threshold or over the video)
    that is below 0.6, or in the lowest tenth of the clip's ratios. Of equal ratios in a row the first is the valley.
    """
    ratio_F = drop_ratio_T[1:].double()
    if not len(ratio_F):
        return torch.zeros_like(drop_ratio_T, dtype=torch.bool)
    beside = ratio_F.new_ones(1)
    falls_F = ratio_F < torch.cat([beside, ratio_F[:-1]])
    rises_F = ratio_F <= torch.cat([ratio_F[1:], beside])
    low_F = (ratio_F < SCENE_DROP_RATIO) | (ratio_F < torch.quantile(ratio_F, LOWEST_SHARE))
    return torch.cat([torch.zeros_like(low_F[:1]), falls_F & rises_F & low_F])


def _likeness(values_PND: torch.Tensor, frames: Sequence[int]) -> torch.Tensor:
    """Return the cosine of each token with the same place of the frame before, [F, N]."""
    return cosines(values_PND, squares(values_PND, frames))[0]


def _kept(likeness_FN: torch.Tensor, settings: CompressConfig) -> torch.Tensor:
    if settings.threshold is not None:
        return likeness_FN <= settings.threshold
    return keep_share(likeness_FN, settings.prune_ratio, settings.scope)


def cut_behind_first(
    tokens: VisualTokens, plan_T: Sequence[int], kept_FN: torch.Tensor, likeness_FN: torch.Tensor
) -> VisualTokens:
    """Return what stays within the plan, the first planned frame pooled to its own."""
    count = len(planned_frames(plan_T))
    first = (min(1, count), tokens.num_per_frame)
    return cut_to_plan(
        tokens,
        plan_T,
        torch.cat([kept_FN.new_ones(first), kept_FN]),
        torch.cat([likeness_FN.new_zeros(first), likeness_FN]),
        [place == 0 for place in range(count)],
    )
