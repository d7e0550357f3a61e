"""The contract of FRAME_SELECTORS: who spends a window's budget on which frames.

Shape letters: N sampled frames of one window, E embedding.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.budget import Plan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SeenFrames:
    """What is known of the sampled frames of one window once they are scored."""

    pts_s_N: npt.NDArray[np.float64]
    """[N] seconds, ascending."""
    end_s: float
    """End of the window."""
    embedding_NE: Floats
    """[N, E]: the scorer's embedding of each frame, not normalised."""
    relevance_N: Floats
    """[N] in [0, 1]: to this question, smoothed."""
    novelty_N: Floats
    """[N] in [0, 1]: luma change against the frame before; 1 for the first."""
    slow_N: npt.NDArray[np.bool_]
    """[N]: whether the picture had changed against the last frame that had; the first has (select/slow_fast.py)."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.pts_s_N)

    def only(self, kept_N: npt.NDArray[np.bool_]) -> "SeenFrames":
        """Return some of the frames, as if there were no others.

        A frame is slow then if any since the kept one before it was; novelty stays that of the whole window.
        """
        passed_N = np.cumsum(self.slow_N)[kept_N]
        return SeenFrames(
            pts_s_N=self.pts_s_N[kept_N],
            end_s=self.end_s,
            embedding_NE=self.embedding_NE[kept_N],
            relevance_N=self.relevance_N[kept_N],
            novelty_N=self.novelty_N[kept_N],
            slow_N=np.diff(passed_N, prepend=0) > 0,
        )


class SelectFn(Protocol):
    """Spend a budget of visual tokens on frames.

    The plan has one number per frame, 0 to `tokens_per_frame`, whose sum never exceeds `budget_tokens`; the same input
    gives the same plan; no frames, no tokens.

    Raises:
        AnswerError: the budget buys nothing; the message says what it would take.
    """

    def __call__(self, frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan: ...
