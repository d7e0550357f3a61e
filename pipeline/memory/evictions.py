"""Who leaves a full memory: a table of ranks.

A rank is given as a token comes and does not change with time; the lowest leaves first. A claim that fades as
a exp(-lambda dt) is one too: which of two is larger does not depend on when one looks, so log a + lambda t ranks them.

Shape letters: M tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.memory.slots import Rows


@dataclass(frozen=True, slots=True)
class Eviction:
    """One rule."""

    rank: Callable[[Rows, torch.Tensor, float], torch.Tensor]
    """From tokens, how new each was as it came, in [0, 1], and lambda per second: the rank, float64 [M]."""
    is_renewed: bool = False
    """Whether a token that is retrieved counts as one that came just now."""


def arrival(rows: Rows, novelty_M: torch.Tensor, decay_per_s: float) -> torch.Tensor:
    """Rank by when a token came."""
    del novelty_M, decay_per_s
    return rows.order_M.to(torch.float64)


def fading(rows: Rows, novelty_M: torch.Tensor, decay_per_s: float) -> torch.Tensor:
    """Rank by how new a token was as it came, halved every log 2 / lambda seconds since."""
    return novelty_M.to(torch.float64).log() + decay_per_s * rows.pts_s_M


EVICTIONS: dict[str, Eviction] = {
    "fifo": Eviction(arrival),
    "lrr": Eviction(arrival, is_renewed=True),
    "decay": Eviction(fading),
}
"""First in first out; least recently retrieved; novelty that decays."""
