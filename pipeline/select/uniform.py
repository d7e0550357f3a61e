"""Frames at equal distances, whatever they show: the baseline."""

import numpy as np

from pipeline.budget import Plan, evenly
from pipeline.methods import Method
from pipeline.select.spending import check_buys, nothing_to_show, plan_of
from pipeline.selection import SeenFrames

METHOD = Method(
    source="-",
    stage="select",
    what="uniform sampling: as many frames as the budget buys, at equal distances, each with all its tokens",
    differs="the baseline. Equal distances are counted in sampled frames",
)


def show_evenly(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return as many whole frames as the budget buys, at equal distances.

    This is what the literature calls uniform sampling; showing every frame at an equal share of the budget is
    uniform pooling (selector `relevance` on the global route does it at `plan.scale_global`).
    """
    if not len(frames):
        return nothing_to_show()
    check_buys(budget_tokens, tokens_per_frame, tokens_per_frame)
    shown = evenly(len(frames), budget_tokens // tokens_per_frame)
    tokens_N = np.zeros(len(frames), np.int64)
    tokens_N[shown] = tokens_per_frame
    return plan_of(
        tokens_N, f"{len(shown)} of {len(frames)} frames at {tokens_per_frame} tokens, at equal distances"
    )
