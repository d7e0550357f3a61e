"""Fewer tokens per clip by throwing away what did not change since a frame shown shortly before.

Shape letters: N tokens of one frame, D hidden size, T frames, F compared frames.
"""

import math
from collections.abc import Sequence

import torch

from pipeline.compress.uniform import pool_grid
from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame, join, take

METHOD = Method(
    source="DyCoke (arXiv 2411.15024), temporal token merging",
    stage="compress",
    what="in windows of 4 frames, throws away the tokens most like the same place of a reference frame;"
    " `compress.prune_ratio` is the share thrown away",
    differs="after the paper, not its code: the last window is pruned, an odd last frame stays, tokens stay in order."
    " Anchors are pooled to their plan",
    settings=("prune_ratio",),
)

WINDOW = 4
"""Frames compared with each other."""
STEPS_BACK = (0, 1, 2, 1)
"""How far back the reference of each frame of a window lies; 0 = anchor, compared with nothing."""


def prune_similar(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the clip without the tokens that are most like the same place of a reference frame.

    DyCoke (arXiv 2411.15024, CVPR 2025), temporal token merging: in windows of 4 frames, frame 1 is compared with
    frame 0, frame 3 with frame 2 and frame 2 with frame 0, by the cosine between tokens of the same place; a
    compared frame keeps its floor((1 - K) N) least similar tokens. References are unpruned frames.
    Despite the method's name nothing is averaged in compared frames. 32 frames of 196 tokens at full plan leave
    4,856 / 3,920 / 2,960 tokens at prune ratios 0.3 / 0.5 / 0.7.

    Where we differ from the released code, which contradicts the paper: the last window is pruned like the others,
    an odd last frame is kept (a window of 1 to 3 frames uses the references it has), kept tokens stay in raster
    order. Where we add a plan: windows are counted over frames whose plan is not 0; an anchor is pooled on its
    grid to its plan (`uniform`); a compared frame keeps its plan when that is less. Query-independent given the
    plan. O(N T D) time, two float32 copies of the compared frames.

    Args:
        tokens: all tokens of T frames.
        plan_T: most tokens of each frame.
        settings: `prune_ratio` is the share of a compared frame's tokens thrown away (K).
    """
    values_TND = by_frame(tokens, len(plan_T))
    device = values_TND.device
    planned = [frame for frame, plan in enumerate(plan_T) if plan > 0]
    steps = [STEPS_BACK[place % WINDOW] for place in range(len(planned))]
    anchors = {frame for frame, step in zip(planned, steps, strict=True) if not step}
    compared = [frame for frame in planned if frame not in anchors]
    references = [planned[place - step] for place, step in enumerate(steps) if step]

    wide = torch.promote_types(values_TND.dtype, torch.float32)
    similarity_FN = torch.cosine_similarity(
        values_TND[compared].to(wide), values_TND[references].to(wide), dim=-1
    )
    # 1e-9: (1 - 0.9) x 10 is 0.9999999999999998 in floating point, and 1 in the paper
    most = math.floor((1.0 - settings.prune_ratio) * tokens.num_per_frame + 1e-9)
    limit_F = torch.tensor([min(plan_T[frame], most) for frame in compared], dtype=torch.int64, device=device)
    rank_FN = similarity_FN.argsort(dim=-1, stable=True).argsort(dim=-1)
    kept_TN = torch.zeros(values_TND.shape[:2], dtype=torch.bool, device=device)
    kept_TN[compared] = rank_FN < limit_F[:, None]
    pooled = pool_grid(tokens, [plan if frame in anchors else 0 for frame, plan in enumerate(plan_T)])
    return join([pooled, take(tokens, kept_TN.flatten().nonzero()[:, 0])])
