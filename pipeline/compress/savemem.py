"""Fewer tokens per clip by a threshold that each frame finds for itself, sparing what questions may be about.

Shape letters: N tokens of one frame, D hidden size, T frames, P planned frames, F = P - 1 compared ones, B bins.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch

from pipeline.compress.dtd import cut_behind_first
from pipeline.compress.redundancy import chunks, cosines, keep_share, pick, planned_frames, squares, widen
from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame

METHOD = Method(
    source="SAVEMem (arXiv 2605.07897), middle tier",
    stage="compress",
    what="throws away tokens like one of 3 x 3 places of the frame before: by Otsu's threshold over each frame's"
    " cosine distances, smoothed, and from a cosine of .8 on; spares frames at cuts and what is like made-up questions."
    " At most the `compress.prune_ratio` share goes; `compress.threshold` takes the place of both thresholds, and of"
    " the share",
    differs="causal: the frame before, not both beside. A frame at a cut is kept whole, likeness to questions is taken"
    " off for either threshold, and a cut must be one in absolute terms too",
    needs=("probes",),
    settings=("prune_ratio", "threshold", "scope"),
)

NUM_BINS = 128
"""Of the histogram of cosine distances, 0 to 2."""
SMOOTHING = 0.2
"""Weight of the newest frame in running averages."""
DIRECT_DROP_SIM = 0.8
"""Cosine above which a token goes whatever the frame's threshold."""
PROTECT_WEIGHT = 0.15
"""How much likeness to a made-up question takes off from likeness to the frame before."""
SCENE_CHANGE = 1.5
"""How many times the running average a frame's mean distance is at a cut."""


def drop_by_frame(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the clip without what one of 3 x 3 places of the planned frame before showed.

    SAVEMem (arXiv 2605.07897), the middle of its three tiers. Likeness is the largest cosine over the neighbourhood,
    less .15 times the largest cosine to a probe, where there are probes. A token goes when its distance (1 - likeness)
    is below the frame's threshold, or its likeness above .8, or, with `settings.threshold`, above that; not in frames
    whose mean distance is 1.5 times the running average. Without a threshold no more goes than the share
    `settings.prune_ratio` (`settings.scope`), the most alike first. The first planned frame is whole, pooled to its
    plan. Query-independent. O(N T (9 + probes) D) time.

    Raises:
        AnswerError: tokens are not finite.
    """
    values_TND = by_frame(tokens, len(plan_T))
    frames = planned_frames(plan_T)
    values_PND = pick(values_TND, frames)
    squares_PN = squares(values_PND, frames)
    cosine_FN = nearby(values_PND, squares_PN, tokens.grid)
    likeness_FN = cosine_FN
    if tokens.probes_PD is not None:
        meaning_PN = likeness_to(values_PND, squares_PN, tokens.probes_PD)
        likeness_FN = cosine_FN - PROTECT_WEIGHT * meaning_PN[len(frames) - len(cosine_FN) :].clamp(min=0.0)
    distance_FN = 1.0 - cosine_FN
    if settings.threshold is not None:
        kept_FN = likeness_FN <= settings.threshold
    else:
        threshold_F = torch.tensor(_running(otsu_thresholds(distance_FN)), device=values_TND.device)
        is_like_FN = (1.0 - likeness_FN < threshold_F[:, None]) | (likeness_FN > DIRECT_DROP_SIM)
        kept_FN = ~is_like_FN | keep_share(likeness_FN, settings.prune_ratio, settings.scope)
    kept_FN = kept_FN | cuts(distance_FN.mean(1))[:, None]
    return cut_behind_first(tokens, plan_T, kept_FN, likeness_FN)


def nearby(values_PND: torch.Tensor, squares_PN: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return each token's largest cosine over 3 x 3 places of the frame before, [P - 1, N]."""
    rows, columns = grid
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    shifts = [down * columns + right for down, right in steps]
    cosine_SFN = cosines(values_PND, squares_PN, shifts=shifts)
    right_S1 = torch.tensor([right for _, right in steps], device=values_PND.device)[:, None]
    column_SN = torch.arange(columns, device=values_PND.device).repeat(rows) + right_S1
    outside_SN = (column_SN < 0) | (column_SN >= columns)
    return cosine_SFN.masked_fill(outside_SN[:, None], -math.inf).amax(0)


def likeness_to(values_PND: torch.Tensor, squares_PN: torch.Tensor, probes_MD: torch.Tensor) -> torch.Tensor:
    """Return each token's largest cosine to one of M probes, at least one, [P, N]; 0 for tokens of zeros."""
    probes_MD = torch.nn.functional.normalize(probes_MD.to(values_PND.device).double(), dim=-1)
    found_PN = torch.empty_like(squares_PN)
    for part in chunks(values_PND):
        wide = widen(values_PND[part])
        found_PN[part] = (wide @ probes_MD.to(wide.dtype).T).amax(-1).double()
    return torch.where(squares_PN > 0, found_PN / squares_PN.sqrt(), 0.0).clamp(-1.0, 1.0)


def otsu_thresholds(distance_FN: torch.Tensor) -> list[float]:
    """Return of each frame the distance that parts its tokens best into two classes: Otsu, variance between them.

    The middle of the last bin of the lower class; the (lower) median, where all tokens are in one bin.
    """
    bin_FN = (distance_FN * (NUM_BINS / 2)).long().clamp(0, NUM_BINS - 1)
    ones = torch.ones_like(distance_FN)
    count_FB = distance_FN.new_zeros(len(distance_FN), NUM_BINS).scatter_add_(1, bin_FN, ones)
    middle_B = (torch.arange(NUM_BINS, device=distance_FN.device).double() + 0.5) * (2.0 / NUM_BINS)
    below_FB, sum_FB = count_FB.cumsum(1), (count_FB * middle_B).cumsum(1)
    above_FB = below_FB[:, -1:] - below_FB
    apart_FB = (sum_FB[:, -1:] * below_FB / below_FB[:, -1:] - sum_FB) ** 2 / (below_FB * above_FB)
    apart_FB = torch.where((below_FB > 0) & (above_FB > 0), apart_FB, -1.0)
    best_F, index_F = apart_FB.max(1)
    return torch.where(best_F > 0, middle_B[index_F], distance_FN.median(1).values).tolist()


def cuts(mean_distance_F: torch.Tensor) -> torch.Tensor:
    """Return which frames begin a new scene, bool [F]: far from the frame before, by their history and at all."""
    before_F = mean_distance_F.new_tensor(_running(mean_distance_F.tolist())).roll(1)
    is_cut_F = (mean_distance_F > SCENE_CHANGE * before_F) & (mean_distance_F > 1.0 - DIRECT_DROP_SIM)
    is_cut_F[:1] = False
    return is_cut_F


def _running(values: Sequence[float]) -> list[float]:
    """Return the running average behind each value."""
    return list(accumulate(values, lambda held, new: held + SMOOTHING * (new - held)))
