"""One whole frame in eight, and a little of those between.

Shape letters: N sampled frames of one window.
"""

import numpy as np

from pipeline.budget import Plan
from pipeline.methods import Method
from pipeline.select.likeness import cut_scenes, directions
from pipeline.select.spending import (
    check_buys,
    nothing_to_show,
    plan_of,
    quarter_of,
    spend_on_two_sizes,
)
from pipeline.selection import SeenFrames

METHOD = Method(
    source="TDC (arXiv 2504.10443), without its trained compressor",
    stage="select",
    what="cuts the window into at most 24 scenes where neighbouring embeddings are least alike; of each 8 frames of a"
    " scene the first gets all its tokens, the others 16/144 of them",
    differs="tokens of the frames between are the compressor's, not those of a trained query transformer. Scenes have 8"
    " frames or more on average and are not cut between equal frames. Both sizes shrink alike, down to half"
    " resolution, until the budget holds them; what does not fit then is thinned",
    needs=("embeddings",),
)

MAX_SCENES = 24
WINDOW_FRAMES = 8
STATIC_TOKENS, DYNAMIC_TOKENS = 144, 16


def show_scenes(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return the first of every 8 frames of a scene as large as the budget allows, the others at a ninth of it."""
    if not len(frames):
        return nothing_to_show()
    quarter = quarter_of(tokens_per_frame)
    check_buys(budget_tokens, quarter, tokens_per_frame)
    scenes = cut_scenes(directions(frames), MAX_SCENES)
    static_N = np.zeros(len(frames), bool)
    static_N[np.concatenate([scene[::WINDOW_FRAMES] for scene in scenes])] = True
    tokens_N = spend_on_two_sizes(
        static_N, budget_tokens, largest=tokens_per_frame, smallest=quarter, rest_of=_dynamic_of
    )
    static, dynamic = tokens_N[static_N], tokens_N[~static_N]
    return plan_of(
        tokens_N,
        f"{len(scenes)} scenes: {np.count_nonzero(static)} of {len(static)} static frames at {static.max()} tokens,"
        f" {np.count_nonzero(dynamic)} of {len(dynamic)} dynamic ones at {dynamic.max(initial=0)}",
    )


def _dynamic_of(static: int) -> int:
    return max(1, static * DYNAMIC_TOKENS // STATIC_TOKENS)
