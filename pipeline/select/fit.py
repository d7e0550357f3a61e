"""Whether a selector fits a job, asked before it starts."""

from bisect import bisect_left

import numpy as np

from pipeline.config import JobConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.plugins import find
from pipeline.select import FRAME_SELECTORS, METHODS
from pipeline.selection import SeenFrames, SelectFn

RELEVANCE = "relevance"
"""The entry that heeds the route of a question; plans of all others are the same on either route."""
WHOLE = ("relevance", "uniform")
"""Entries that can be told to show frames whole, or always do."""


def find_selector(config: JobConfig, *, refines: bool) -> SelectFn:
    """Return the selector a job names.

    Args:
        config: the job's settings.
        refines: whether the job's scorer looks at frames inside the language model, which then plans by relevance.

    Raises:
        ConfigError: no such entry, or it fits neither the scorer nor the compressor.
    """
    name = config.plan.selector
    found = find(FRAME_SELECTORS, name, "FRAME_SELECTORS")
    if refines and name != RELEVANCE:
        msg = (
            f"score.scorer {config.score.scorer!r} plans anew once it has looked at the frames, by relevance, and"
            f" plan.selector {name!r} would not be heeded; set --plan.selector {RELEVANCE}, or another --score.scorer"
        )
        raise ConfigError(msg)
    if config.compress.compressor == "none" and name in METHODS and name not in WHOLE:
        msg = (
            f"compress.compressor 'none' shows frames whole or not at all, but plan.selector {name!r} shows some with"
            " fewer tokens; set --plan.selector uniform, or another --compress.compressor"
        )
        raise ConfigError(msg)
    return found


def needs_pixels(name: str) -> bool:
    """Return whether a selector asks which pictures are slow; one of outsiders may."""
    return name not in METHODS or "pixels" in METHODS[name].needs


def smallest_budget(select: SelectFn, tokens_per_frame: int) -> int:
    """Return the smallest budget that buys a frame, as the selector itself says when asked for a window of one.

    Args:
        select: an entry of FRAME_SELECTORS.
        tokens_per_frame: tokens of one frame at full resolution.
    """
    one_N, one_NE = np.ones(1, np.float32), np.ones((1, 1), np.float32)
    frames = SeenFrames(one_N.astype(np.float64), 2.0, one_NE, one_N, one_N, one_N.astype(bool))

    def buys(budget_tokens: int) -> bool:
        try:
            plan = select(frames, budget_tokens=budget_tokens, tokens_per_frame=tokens_per_frame)
        except AnswerError:
            return False
        return any(plan.tokens_N)

    return 1 + bisect_left(range(1, tokens_per_frame), True, key=buys)
