"""The scenes that matter for the question whole, and a trace of every other.

Shape letters: N sampled frames of one window.
"""

import numpy as np

from pipeline.budget import Plan
from pipeline.methods import Method
from pipeline.select.likeness import cut_scenes, directions
from pipeline.select.spending import (
    Part,
    check_buys,
    nothing_to_show,
    plan_of,
    quarter_of,
    spend_on_parts,
)
from pipeline.selection import SeenFrames

METHOD = Method(
    source="SALOVA (arXiv 2411.16173), FocusFast",
    stage="select",
    what="cuts the window where neighbouring embeddings are least alike, shows the 9 scenes with the highest relevance"
    " with all their tokens, and one token of every other",
    differs="relevance is the scorer's, of the best frame of a scene, not a trained router's; a trace is the middle"
    " frame in one token, not a routing token. Scenes have 8 frames on average. Without a resampler a scene's cost"
    " grows with its frames: fewer than 9 are shown where they do not fit",
    needs=("embeddings", "relevance"),
    query_dependent=True,
)

TOP_SEGMENTS = 9


def show_segments(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return the most relevant segments whole, up to 9 and as many as fit, and a token of each other.

    Of the last one that is shown there may be room for some frames only; they are at equal distances.
    """
    if not len(frames):
        return nothing_to_show()
    check_buys(budget_tokens, quarter_of(tokens_per_frame), tokens_per_frame)
    segments = cut_scenes(directions(frames))
    parts = [Part(segment, None, int(segment[len(segment) // 2])) for segment in segments]
    relevance = [-frames.relevance_N[segment].max() for segment in segments]
    rank = np.argsort(relevance, kind="stable")[:TOP_SEGMENTS]
    tokens_N, num_focused = spend_on_parts(parts, rank, budget_tokens, len(frames), tokens_per_frame)
    focused_N = np.zeros(len(frames), bool)
    focused_N[np.concatenate([segments[place] for place in rank[:num_focused].tolist()])] = True
    return plan_of(
        tokens_N,
        f"{num_focused} of {len(parts)} segments by {np.count_nonzero(tokens_N[focused_N])} frames at"
        f" {tokens_N[focused_N].max()} tokens, {np.count_nonzero(tokens_N[~focused_N])} others in a token each",
    )
