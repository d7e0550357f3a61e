"""No compression: a frame is shown whole or not at all."""

from collections.abc import Sequence

import torch

from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame, take

METHOD = Method(
    source="-",
    stage="compress",
    what="a frame whose plan holds all its tokens is kept, any other is dropped",
    differs="the baseline; give it plans of whole frames (`plan.scale_global` 1), or nothing is left",
)


def keep_whole(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the frames whose plan holds all their tokens; the others are dropped, never cut.

    The baseline every method is compared with. It needs a plan of whole frames (`scale_global` = 1): at scale 2 no
    frame's plan holds a whole frame, and nothing is left. No setting is used.
    """
    del settings
    num_frames = len(by_frame(tokens, len(plan_T)))
    kept_T = torch.tensor([plan >= tokens.num_per_frame for plan in plan_T], dtype=torch.bool)
    if len(kept_T) == num_frames and bool(kept_T.all()):
        return tokens
    return take(tokens, kept_T.repeat_interleave(tokens.num_per_frame).nonzero()[:, 0])
