"""Fewer tokens per clip by merging the most alike ones of a few frames, wherever they are.

Shape letters: N tokens of one frame, D hidden size, T frames, M tokens of a segment, A of them that may be merged into
one of the B others, F frames of a segment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag, normalize

from pipeline.compress.redundancy import pick, planned_frames, squares, widen
from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame, join, take

METHOD = Method(
    source="LongVLM (arXiv 2404.03384), with ToMe's bipartite soft matching",
    stage="compress",
    what="in segments of 10 frames, merges tokens into the one most like them, of any frame, until each frame keeps its"
    " plan and the segment all but the `compress.prune_ratio` share; averages by what tokens stand for",
    differs="training-free; likeness is of the tokens themselves, there are no attention keys behind the projector; the"
    " two sides alternate from frame to frame too, so that a place can meet itself. No global tokens",
    settings=("prune_ratio",),
    positions="destination",
)

SEGMENT_FRAMES = 10


@dataclass(frozen=True, slots=True)
class Merged:
    """What is left of a segment, in time and raster order."""

    sum_MD: torch.Tensor
    """Of the tokens each one stands for, float32 or wider."""
    weight_M: torch.Tensor
    """How many these are."""
    source_M: torch.Tensor
    frame_M: torch.Tensor
    """0 to F - 1."""


def merge_segments(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the clip with the tokens of every 10 planned frames merged until plans are kept to.

    LongVLM's (arXiv 2404.03384) segments and ToMe's (arXiv 2210.09461) matching. Every other token of a segment finds
    the one most like it on the other side; the most alike pairs are merged, the first into the second, in rounds. No
    token is thrown away: what is left stands for all tokens of planned frames, at the place it was merged into.

    A frame comes down to its plan because as many of its own tokens as are too many are merged first, the most alike of
    them; what the share leaves to be merged beyond is free to be of any frame. Where the plans are what binds, each
    frame so keeps exactly its plan. No threshold is used. O(T N^2 D) time, in a loop over segments.

    Raises:
        AnswerError: tokens are not finite.
    """
    values_TND = by_frame(tokens, len(plan_T))
    frames, count = planned_frames(plan_T), tokens.num_per_frame
    squares(pick(values_TND, frames), frames)
    caps = {frame: min(plan_T[frame], count) for frame in frames}
    segments = [frames[start : start + SEGMENT_FRAMES] for start in range(0, len(frames), SEGMENT_FRAMES)]
    targets = [_target([caps[frame] for frame in segment], count, settings) for segment in segments]
    if sum(targets) == len(tokens.source_N):
        return tokens
    source_TN = tokens.source_N.view(len(plan_T), count)
    parts = [take(tokens, tokens.source_N[:0])]
    for segment, target in zip(segments, targets, strict=True):
        whole = _open(values_TND[segment], source_TN[segment])
        cap_F = torch.tensor([caps[frame] for frame in segment], device=values_TND.device)
        merged = _merge(whole, cap_F, target)
        parts.append(
            VisualTokens(
                values_ND=(merged.sum_MD / merged.weight_M[:, None]).to(values_TND.dtype),
                source_N=merged.source_M,
                weight_N=merged.weight_M.to(tokens.weight_N.dtype),
                num_per_frame=count,
                grid=tokens.grid,
                pixels_THWC=tokens.pixels_THWC,
                probes_PD=tokens.probes_PD,
            )
        )
    return join(parts)


def _target(caps: Sequence[int], count: int, settings: CompressConfig) -> int:
    """Return how many tokens of a segment are to be left."""
    most = math.floor((1.0 - settings.prune_ratio) * len(caps) * count + 1e-9)
    return min(sum(caps), max(1, most))


def _open(values_FND: torch.Tensor, source_FN: torch.Tensor) -> Merged:
    wide_MD = widen(values_FND).flatten(0, 1)
    frame_FN = torch.arange(len(values_FND), device=wide_MD.device)[:, None].expand_as(source_FN)
    return Merged(wide_MD, wide_MD.new_ones(len(wide_MD)), source_FN.flatten(), frame_FN.flatten())


def _merge(tokens: Merged, cap_F: torch.Tensor, target: int) -> Merged:
    """Merge in rounds until `target` tokens are left, at most `cap_F` of each frame."""
    while (over := len(tokens.source_M) - target) > 0:
        is_source_M = _sources(tokens.frame_M, len(cap_F))
        at_A, at_B = is_source_M.nonzero()[:, 0], (~is_source_M).nonzero()[:, 0]
        likeness_AB = normalize(tokens.sum_MD[at_A], dim=-1) @ normalize(tokens.sum_MD[at_B], dim=-1).T
        best_A, into_A = likeness_AB.max(1)
        need_F = (torch.bincount(tokens.frame_M, minlength=len(cap_F)) - cap_F).clamp(min=0)
        must_A = _rank_in_frame(best_A, tokens.frame_M[at_A], len(cap_F)) < need_F[tokens.frame_M[at_A]]
        free = over - int(need_F.sum())
        most = int(must_A.sum()) + free
        order_A = (best_A + 10.0 * must_A).argsort(descending=True, stable=True)[:most]
        tokens = _put_into(tokens, at_A[order_A], at_B[into_A[order_A]])
    return tokens


def _sources(frame_M: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return which tokens look for one to be merged into: every other one, and the others in the next frame.

    A frame of two tokens or more has some on either side, so that it can always come down to its plan.
    """
    number_M = torch.arange(len(frame_M), device=frame_M.device)
    is_source_M = (number_M - _starts(frame_M, num_frames)[frame_M] + frame_M) % 2 == 1
    one_sided = bool(is_source_M.all()) or not bool(is_source_M.any())
    return number_M % 2 == 1 if one_sided else is_source_M


def _rank_in_frame(score_A: torch.Tensor, frame_A: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return each token's rank among those of its frame, 0 for the highest score."""
    order_A = score_A.argsort(descending=True, stable=True)
    order_A = order_A[frame_A[order_A].argsort(stable=True)]
    number_A = torch.arange(len(frame_A), device=frame_A.device)
    return torch.empty_like(number_A).scatter_(0, order_A, number_A) - _starts(frame_A, num_frames)[frame_A]


def _starts(frame_A: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return the place of each frame's first token, where tokens are sorted by frame."""
    count_F = torch.bincount(frame_A, minlength=num_frames)
    return count_F.cumsum(0) - count_F


def _put_into(tokens: Merged, at_R: torch.Tensor, into_R: torch.Tensor) -> Merged:
    """Return the tokens with R of them added to others.

    Sums by bag, because adding at an index has no fixed order on a GPU.
    """
    count = len(tokens.source_M)
    order_R = into_R.argsort(stable=True)
    into_M = torch.bincount(into_R, minlength=count)
    sum_MD = tokens.sum_MD + embedding_bag(
        at_R[order_R], tokens.sum_MD, into_M.cumsum(0) - into_M, mode="sum"
    )
    # whole numbers: their order does not matter
    weight_M = tokens.weight_M.index_add(0, into_R, tokens.weight_M[at_R])
    stays_M = torch.ones(count, dtype=torch.bool, device=at_R.device).index_fill_(0, at_R, value=False)
    return Merged(sum_MD[stays_M], weight_M[stays_M], tokens.source_M[stays_M], tokens.frame_M[stays_M])
