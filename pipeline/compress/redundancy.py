"""What the methods share that throw away what was shown before: how alike tokens are, and which of them go.

Likeness is float64, one number per token, higher for what a frame shown before has too. Sums over a token's values
are taken in float32 or wider and do not depend on the frames beside it: chunks of a stream give what the whole gives.

Shape letters: N tokens of one frame, D hidden size, T frames, P planned frames (their plan is not 0), F compared ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from pipeline.compress.uniform import pool_grid
from pipeline.errors import AnswerError
from pipeline.tokens import VisualTokens, join, take

CHUNK_BYTES = {"cpu": 1 << 20}
"""What is worked on at a time, by device: a processor's cache is to hold it."""
OTHER_CHUNK_BYTES = 64 << 20


def planned_frames(plan_T: Sequence[int]) -> list[int]:
    """Return which frames a plan shows at all."""
    return [frame for frame, plan in enumerate(plan_T) if plan > 0]


def pick(values_TND: torch.Tensor, frames: Sequence[int]) -> torch.Tensor:
    """Return some frames [P, N, D], without a copy where these are all."""
    return values_TND if len(frames) == len(values_TND) else values_TND[list(frames)]


def squares(values_PND: torch.Tensor, frames: Sequence[int]) -> torch.Tensor:
    """Return the squared length of each token [P, N].

    Args:
        values_PND: tokens of P frames.
        frames: their numbers, for the message.

    Raises:
        AnswerError: a frame's tokens are not finite, or so large that their square is not.
    """
    found_PN = torch.empty(values_PND.shape[:2], dtype=torch.float64, device=values_PND.device)
    for part in chunks(values_PND):
        wide = widen(values_PND[part])
        found_PN[part] = (wide * wide).sum(-1)
    broken_P = ~found_PN.isfinite().all(1)
    if bool(broken_P.any()):
        place = int(broken_P.nonzero()[0, 0])
        count = int((~found_PN[place].isfinite()).sum())
        msg = (
            f"{count} of {found_PN.shape[1]} visual tokens of frame {frames[place]} are not finite numbers, and cannot"
            " be compared; look at the frame, or set --answer.dtype float32 if the model overflows in its format"
        )
        raise AnswerError(msg)
    return found_PN


def cosines(
    values_PND: torch.Tensor, squares_PN: torch.Tensor, lag: int = 1, shifts: Sequence[int] = (0,)
) -> torch.Tensor:
    """Return the cosines of each token with some of an earlier frame, [S, P - lag, N] float64 for S shifts.

    Equal tokens have exactly 1; a token of zeros has 0 with every other.

    Args:
        values_PND: tokens of P frames.
        squares_PN: see `squares`.
        lag: how many frames earlier, at least 1.
        shifts: how many places further in raster order; where that is outside of the frame the result is -inf.
    """
    num_frames, count = max(0, len(values_PND) - lag), values_PND.shape[1]
    spans = [(max(0, -shift), count - max(0, shift), shift) for shift in shifts if abs(shift) < count]
    found_SFN = squares_PN.new_full((len(shifts), num_frames, count), -math.inf)
    rows = [found_SFN[place] for place, shift in enumerate(shifts) if abs(shift) < count]
    for part in chunks(values_PND[lag:]):
        now_FND, before_FND = widen(values_PND[lag:][part]), widen(values_PND[:num_frames][part])
        for found_FN, (start, stop, shift) in zip(rows, spans, strict=True):
            product_FND = now_FND[:, start:stop] * before_FND[:, start + shift : stop + shift]
            found_FN[part, start:stop] = product_FND.sum(-1).double()
    for found_FN, (start, stop, shift) in zip(rows, spans, strict=True):
        before_FN = squares_PN[:num_frames, start + shift : stop + shift]
        length_FN = (squares_PN[lag:, start:stop] * before_FN).sqrt()
        cosine_FN = (found_FN[:, start:stop] / length_FN).clamp(-1.0, 1.0)
        found_FN[:, start:stop] = torch.where(length_FN > 0, cosine_FN, 0.0)
    return found_SFN


def lagged_cosines(
    values_FND: torch.Tensor, squares_FN: torch.Tensor, most_back: int, known: int = 0
) -> torch.Tensor:
    """Return the cosines of each token with its place 1, 2 ... frames before, [L, F - known, N] float64.

    Where there is no such frame it is -inf.

    Args:
        values_FND: tokens of F frames.
        squares_FN: see `squares`.
        most_back: L, how many frames to look back, at least 1.
        known: frames at the beginning that others are compared with, and that are not asked about themselves.
    """
    shape = (most_back, len(values_FND) - known, squares_FN.shape[1])
    found_LTN = squares_FN.new_full(shape, -math.inf)
    for back in range(1, 1 + min(most_back, len(values_FND) - 1)):
        first = max(0, known - back)
        cosine_KN = cosines(values_FND[first:], squares_FN[first:], back)[0]
        found_LTN[back - 1, first + back - known :] = cosine_KN
    return found_LTN


def keep_share(
    likeness_FN: torch.Tensor, prune_ratio: float, scope: Literal["video", "frame"]
) -> torch.Tensor:
    """Return which tokens stay, bool [F, N], when a share is to go, the most alike first; of equal ones the later.

    Args:
        likeness_FN: of comparable tokens.
        prune_ratio: share that goes.
        scope: share of all of them, or of each frame's own.
    """
    rows = likeness_FN if scope == "frame" else likeness_FN.flatten()[None]
    # 1e-9: (1 - 0.9) x 10 is 0.9999999999999998 in floating point, and 1 on paper
    most = math.floor((1.0 - prune_ratio) * rows.shape[1] + 1e-9)
    order = rows.argsort(dim=1, stable=True)[:, :most]
    kept = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, value=True)
    return kept.view_as(likeness_FN)


def keep_one(kept_FN: torch.Tensor, likeness_FN: torch.Tensor) -> torch.Tensor:
    """Return which tokens stay when no frame may go as a whole: its least alike stays in any case."""
    least_FN = torch.arange(kept_FN.shape[1], device=kept_FN.device) == likeness_FN.argmin(1, keepdim=True)
    return kept_FN | (least_FN & ~kept_FN.any(1, keepdim=True))


def cut_to_plan(
    tokens: VisualTokens,
    plan_T: Sequence[int],
    kept_PN: torch.Tensor,
    likeness_PN: torch.Tensor,
    anchors: Sequence[bool],
) -> VisualTokens:
    """Return the tokens that stay, at most its plan of each frame.

    Args:
        tokens: all tokens of T frames.
        plan_T: most tokens of each frame.
        kept_PN: which tokens of planned frames may stay.
        likeness_PN: where more may stay than planned, the least alike do; of equal ones the earlier.
        anchors: P times, whether the frame is whole whatever `kept_PN` says: pooled to its plan (`uniform`).
    """
    count, device = tokens.num_per_frame, tokens.source_N.device
    frames = planned_frames(plan_T)
    limit_P = torch.tensor([plan_T[frame] for frame in frames], dtype=torch.int64, device=device)
    anchor_P = torch.tensor(list(anchors), dtype=torch.bool, device=device)
    order_PN = likeness_PN.masked_fill(~kept_PN, math.inf).argsort(dim=1, stable=True)
    within_PN = torch.arange(count, device=device) < limit_P[:, None]
    cut_PN = torch.zeros_like(kept_PN).scatter_(1, order_PN, within_PN.expand_as(kept_PN)) & kept_PN
    cut_PN = torch.where(anchor_P[:, None], (limit_P >= count)[:, None], cut_PN)
    if len(frames) == len(plan_T) and bool(cut_PN.all()):
        return tokens
    kept_TN = torch.zeros(len(plan_T), count, dtype=torch.bool, device=device)
    kept_TN[frames] = cut_PN
    taken = take(tokens, kept_TN.flatten().nonzero()[:, 0])
    small = {frame for frame, anchor in zip(frames, anchors, strict=True) if anchor and plan_T[frame] < count}
    if not small:
        return taken
    return join([pool_grid(tokens, [plan if t in small else 0 for t, plan in enumerate(plan_T)]), taken])


def chunks(values: torch.Tensor) -> Iterator[slice]:
    """Yield slices of some frames each: over large arrays a loop is faster than one pass through memory."""
    if not len(values):
        return
    chunk_bytes = CHUNK_BYTES.get(values.device.type, OTHER_CHUNK_BYTES)
    frames = max(1, chunk_bytes * len(values) // max(1, 4 * values.numel()))
    for start in range(0, len(values), frames):
        yield slice(start, start + frames)


def widen(values: torch.Tensor) -> torch.Tensor:
    """Return values in float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
